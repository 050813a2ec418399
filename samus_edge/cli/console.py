"""What the commands print on: one console for results, one progress bar for long work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PIPE_WIDTH = 140
"""Columns of printed tables where there is no terminal whose width could be asked."""
LINE_SECONDS = 10.0
"""Without a terminal, progress is a line this often, at most."""


def output_console(width: int = PIPE_WIDTH) -> "Console":
    """The console of results, stdout: as wide as the terminal, or as ``width`` where there is
    none."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


class ProgressBar:
    """How far a job is: a bar on a terminal's stderr, a line now and then elsewhere.

    Args:
        bar: draws on the terminal; None where there is none.
        title: what is being done.
        total: steps in all; None while it is not known.
        clock: seconds that only grow.
        line_seconds: without a terminal, the least time from one line to the next.
    """

    def __init__(
        self,
        bar: "Progress | None",
        title: str,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
        line_seconds: float = LINE_SECONDS,
    ) -> None:
        self._line_seconds = line_seconds
        self._bar, self._title, self._total, self._clock = bar, title, total, clock
        self._task = None if bar is None else bar.add_task(title, total=total)
        self._done = 0
        self._said = clock()

    def update(
        self, title: str | None = None, *, total: int | None = None, advance: int = 0
    ) -> None:
        """Change what is being done, how much there is of it, and how much is done."""
        self._title = title or self._title
        self._total = self._total if total is None else total
        self._done += advance
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, description=self._title, total=self._total, advance=advance
            )
        elif self._clock() - self._said >= self._line_seconds:
            self._said = self._clock()
            of = "" if self._total is None else f" of {self._total}"
            print(f"{self._title}: {self._done}{of}", file=sys.stderr, flush=True)


@contextmanager
def progress_bar(
    title: str, total: int | None = None, line_seconds: float = LINE_SECONDS
) -> Iterator[ProgressBar]:
    """Show how far a job is, and leave nothing of it on the terminal.

    Args:
        title: what is being done.
        total: steps in all; None while it is not known.
        line_seconds: see `ProgressBar`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressBar(None, title, total, line_seconds=line_seconds)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        yield ProgressBar(bar, title, total)
