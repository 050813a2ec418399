"""Proof of a bundle before it ships: every precision beside the reference on real frames.

Nothing here needs torch. The reference graphs were compared with PyTorch when they were exported; that
record is held against its limits again, and everything else is compared with the reference graphs.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from samus_edge.evaluation.verification_figures import PrecisionFigures
from samus_edge.evaluation.verification_gates import (
    GATES,
    GateOutcome,
    VerificationGates,
    judge,
)
from samus_edge.evaluation.verification_session import VerificationSession
from samus_edge.evaluation.verification_source import VerificationSource
from samus_edge.evaluation.worst_disagreements import Disagreement, WorstDisagreements
from samus_edge.runtime.backend import Backend
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.json_fields import JsonValue
from samus_edge.runtime.precision import available_precisions, precision_name

__all__ = ["PrecisionVerification", "VerificationResult", "verify_bundle"]


@dataclass(frozen=True)
class PrecisionVerification:
    """The verdict on one precision.

    Attributes:
        figures: what was measured.
        outcomes: each limit that applies, held against a figure.
        graphs: SHA-256 of the graphs that ran, by "image_encoder" and "mask_decoder".
    """

    figures: PrecisionFigures
    outcomes: tuple[GateOutcome, ...]
    graphs: Mapping[str, str]

    @property
    def precision(self) -> str:
        """Its name."""
        return self.figures.precision

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return all(outcome.passed for outcome in self.outcomes)

    def failures(self) -> list[str]:
        """One line for each limit that does not hold."""
        return [f"{self.precision}: {each.text}" for each in self.outcomes if not each.passed]

    def to_json(self) -> dict[str, JsonValue]:
        """As plain values."""
        return {
            "passed": self.passed,
            "failed": [each.text for each in self.outcomes if not each.passed],
            "gates": [each.to_json() for each in self.outcomes],
            "figures": self.figures.to_json(),
            "graphs": dict(self.graphs),
        }


@dataclass(frozen=True, eq=False)
class VerificationResult:
    """What a verification found.

    Attributes:
        bundle: the bundle's name.
        precisions: those that were asked for, the reference first where it is among them.
        about: what they were measured on and with: data, seed, images, lesions or prompts, backend,
            threads.
        disagreements: the prompts whose masks agree least with the reference's, precision by
            precision, lowest first; empty where no pictures were asked for.
    """

    bundle: str
    precisions: tuple[PrecisionVerification, ...]
    about: Mapping[str, JsonValue]
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every limit of every precision holds."""
        return all(each.passed for each in self.precisions)

    def failures(self) -> list[str]:
        """One line for each limit that does not hold."""
        return [line for each in self.precisions for line in each.failures()]

    def to_json(self) -> dict[str, JsonValue]:
        """As plain values."""
        return {
            "format": "samus-edge-verification",
            "format_version": "1.0",
            "bundle": self.bundle,
            "passed": self.passed,
            **self.about,
            "precisions": {each.precision: each.to_json() for each in self.precisions},
        }


def verify_bundle(
    bundle: Bundle | str | os.PathLike[str] | None,
    source: VerificationSource,
    precisions: Sequence[str] | None = None,
    *,
    gates: VerificationGates = GATES,
    backend: Backend | None = None,
    threads: int | None = None,
    pictures: int = 0,
    on_frame: Callable[[str], None] | None = None,
) -> VerificationResult:
    """Hold every precision of a bundle against its limits.

    Each frame is encoded once by each precision, in turns, so that the times compare; only the frame
    at hand and a few masks for pictures are kept.

    Args:
        bundle: an opened bundle, its folder or zip file, or None for the default one.
        source: real frames with prompts.
        precisions: those to verify; None for all. The reference always runs, to compare with.
        gates: the limits.
        backend: what runs the precisions; None for ONNX Runtime. The reference that they are compared
            with always runs on ONNX Runtime.
        threads: CPU threads that compute one graph on ONNX Runtime; None for all cores, at most 8.
        pictures: how many of the worst disagreements of each precision to keep, to be drawn.
        on_frame: called with the name of each frame that is done, for progress.

    Returns:
        The verdicts. A precision that does not run has failed; it is no error.

    Raises:
        ValueError: if there are no frames, no precisions, or ``pictures`` is negative.
        BundleError: if the bundle is missing or damaged.
        BackendError: if the bundle has not a precision, or its reference does not run.
        DataError, ImageFileError: if a frame is missing or broken.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    names = _asked_for(opened, precisions)
    if len(source) == 0:
        raise ValueError("source must hold at least one frame, got none.")
    worst = WorstDisagreements(pictures)
    session = VerificationSession(opened, names, backend, threads, worst)
    for frame in source.frames():
        session.run_frame(frame)
        if on_frame is not None:
            on_frame(frame.name)
    verdicts = []
    for name in names:
        figures = session.figures(name, source)
        outcomes = judge(figures, gates, opened.manifest.parity)
        verdicts.append(PrecisionVerification(figures, outcomes, session.hashes(name)))
    return VerificationResult(
        bundle=opened.manifest.name,
        precisions=tuple(verdicts),
        about={**source.about, "seed": source.seed, **session.about()},
        disagreements=tuple(each for name in names for each in worst.of(name)),
    )


def _asked_for(bundle: Bundle, precisions: Sequence[str] | None) -> list[str]:
    """The precisions to verify, in the bundle's order."""
    available = list(available_precisions(bundle))
    if precisions is None:
        return available
    wanted = {precision_name(bundle, precision) for precision in precisions}
    if not wanted:
        raise ValueError("precisions must name at least one, or be None for all; got none.")
    return [name for name in available if name in wanted]
