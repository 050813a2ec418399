"""Versions of TensorRT that are known to compute vision transformers wrongly, without an error."""

import logging
from dataclasses import dataclass

from samus_edge.errors import BackendError

__all__ = ["known_problem", "refuse_known_problem"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Problem:
    """A row of the table.

    Attributes:
        versions: as they begin, for example "10.3.".
        compute_capabilities: on which it shows; empty for all.
        precisions: of graphs in which it shows; empty for all.
        text: what goes wrong.
        remedy: what to install instead.
    """

    versions: tuple[str, ...]
    compute_capabilities: tuple[str, ...]
    precisions: tuple[str, ...]
    text: str
    remedy: str


_PROBLEMS = (
    _Problem(
        versions=("10.3.", "10.4."),
        compute_capabilities=(),
        precisions=(),
        text="gives wrong results for vision transformers, even in float32",
        remedy=(
            "Install 10.5 or newer; JetPack 6.1 and 6.2 come with 10.3: see NVIDIA's page for newer "
            "TensorRT on JetPack 6"
        ),
    ),
    _Problem(
        versions=("10.16.1.",),
        compute_capabilities=("12.0", "12.1"),
        precisions=(),
        text="computes fused attention wrongly on this GPU",
        remedy="Install another version than 10.16.1",
    ),
    _Problem(
        versions=("10.13.",),
        compute_capabilities=("10.1", "11.0"),
        precisions=("fp16",),
        text="computes float16 attention wrongly on Jetson Thor",
        remedy="Install 10.14 or newer, or use --precision fp32",
    ),
)


def known_problem(
    flavour: str, version: str, compute_capability: str | None = None, precision: str | None = None
) -> str | None:
    """What is known to be wrong with a version, or None.

    Args:
        flavour: "tensorrt" or "tensorrt_rtx"; nothing is known of the second.
        version: for example "10.3.0.30".
        compute_capability: of the GPU, for example "12.0"; None names what shows on any.
        precision: of the graph, for example "fp16"; None names what shows in any.
    """
    if flavour != "tensorrt":
        return None
    for problem in _PROBLEMS:
        if not f"{version}.".startswith(problem.versions):
            continue
        elsewhere = problem.compute_capabilities and compute_capability is not None
        if elsewhere and compute_capability not in problem.compute_capabilities:
            continue
        otherwise = problem.precisions and precision is not None
        if otherwise and precision not in problem.precisions:
            continue
        return f"TensorRT {version} {problem.text}. {problem.remedy}."
    return None


def refuse_known_problem(
    flavour: str, version: str, compute_capability: str, precision: str, *, force: bool = False
) -> None:
    """Refuse a version that is known to be wrong here.

    Args:
        flavour: as for `known_problem`, like all that follow.
        version: see `known_problem`.
        compute_capability: see `known_problem`.
        precision: see `known_problem`.
        force: warn instead. The check on the device is made all the same.

    Raises:
        BackendError: naming the version, what is wrong with it, and what to install.
    """
    problem = known_problem(flavour, version, compute_capability, precision)
    if problem is None:
        return
    if not force:
        raise BackendError(f"{problem} To use it nevertheless: TensorRTOptions(force=True)")
    _logger.warning("%s It is used because that was forced.", problem)
