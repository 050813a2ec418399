"""How far the build of an engine is, and stopping it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["BuildProgress", "make_progress_monitor"]


@dataclass(frozen=True)
class BuildProgress:
    """How far a build is.

    Attributes:
        phase: in TensorRT's words, for example "Optimizing graph".
        within: the phase that this one is a part of; None for the whole build.
        done: steps of the phase that are done; all of them when the phase ends, even if it ends
            early because the build fails.
        steps: how many it has.
    """

    phase: str
    within: str | None
    done: int
    steps: int


def make_progress_monitor(trt: Any, on_progress: Callable[[BuildProgress], None]) -> Any:
    """TensorRT's progress monitor that calls `on_progress`, and keeps in `failure` what it raises.

    An exception must not leave a function that C++ calls.

    Args:
        trt: the module of TensorRT.
        on_progress: called after each step and at the end of each phase, from TensorRT's thread.
    """
    base: Any = trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]  # its class is known only when the module is imported
        def __init__(self) -> None:
            base.__init__(self)  # as pybind11 needs it
            self.failure: BaseException | None = None
            self._phases: dict[str, tuple[str | None, int]] = {}

        def phase_start(self, phase: str, within: str | None, steps: int) -> None:
            self._phases[phase] = (within, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            return self._report(phase, step + 1)

        def phase_finish(self, phase: str) -> None:
            if phase in self._phases:
                self._report(phase, self._phases[phase][1])  # not every step is told
                del self._phases[phase]

        def _report(self, phase: str, done: int) -> bool:
            """Whether the build is to go on."""
            within, steps = self._phases.get(phase, (None, done))
            if self.failure is None:
                try:
                    on_progress(BuildProgress(phase, within, done, steps))
                except BaseException as err:  # noqa: BLE001  # raised again by build_engine
                    self.failure = err
            return self.failure is None

    return Monitor()
