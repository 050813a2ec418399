"""Saying in the log which backend "auto" has taken, and why none before it."""

import logging
from collections.abc import Sequence

from samus_edge.runtime.backend import Backend

__all__ = ["say_choice"]

_logger = logging.getLogger(__name__)
_said: set[str] = set()


def say_choice(chosen: Backend, passed_over: Sequence[str]) -> None:
    """Say it at the level INFO, the same thing once in a process.

    Args:
        chosen: the backend that computes.
        passed_over: what was tried before, each with its reason.
    """
    message = f"backend auto: {chosen.name} on {chosen.device}"
    if passed_over:
        message += f"; not {'; not '.join(passed_over)}"
    if message not in _said:
        _said.add(message)
        _logger.info("%s", message)
