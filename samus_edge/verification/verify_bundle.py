"""Proof of a bundle before it ships: every precision beside the reference on real frames.

Nothing here needs torch. The reference graphs were compared with PyTorch when they were exported;
that record is held against its limits again, and everything else is compared with the reference
graphs.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from samus_edge.errors import BadArgumentError, ExportMismatchError
from samus_edge.runtime.backends.backend import Backend
from samus_edge.runtime.bundle.bundle import (
    Bundle,
    available_precisions,
    precision_name,
    select_graphs,
)
from samus_edge.runtime.bundle.manifest import (
    FORMAT_VERSION,
    IMAGE_ENCODER,
    MANIFEST_FILE,
    MASK_DECODER,
    Manifest,
)
from samus_edge.runtime.bundle.records import JsonValue
from samus_edge.verification.frames import FrameSource
from samus_edge.verification.gates import (
    GATES,
    GateOutcome,
    PrecisionFigures,
    VerificationGates,
    judge,
)
from samus_edge.verification.session import Disagreement, VerificationSession


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

    @property
    def speed(self) -> str:
        """Whether it is faster than the reference: "yes", "no", "not judged", or ""."""
        latency = self.figures.latency
        if latency is None or latency.ratio is None:
            return ""
        if latency.is_faster is None:
            return "not judged"
        return "yes" if latency.is_faster else "no"

    def failures(self) -> list[str]:
        """One line for each limit that does not hold."""
        return [f"{self.precision}: {each.text}" for each in self.outcomes if not each.passed]

    def to_json(self) -> dict[str, JsonValue]:
        """The same as plain values."""
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
        """The same as plain values."""
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
    source: FrameSource,
    precisions: Sequence[str] | None = None,
    *,
    gates: VerificationGates = GATES,
    backend: Backend | None = None,
    threads: int | None = None,
    pictures: int = 0,
    on_frame: Callable[[str], None] | None = None,
) -> VerificationResult:
    """Hold every precision of a bundle against its limits.

    Each frame is encoded once by each precision, in turns, so that the times compare; only the
    frame at hand and a few masks for pictures are kept.

    Args:
        bundle: an opened bundle, its folder or zip file, or None for the default one.
        source: real frames with prompts.
        precisions: those to verify; None for all. The reference always runs, to compare with.
        gates: the limits.
        backend: the engine that runs the precisions; None for ONNX Runtime. The reference that they
            are compared with always runs on ONNX Runtime.
        threads: CPU threads that compute one graph on ONNX Runtime; None for all cores, at most 8.
        pictures: how many of the worst disagreements of each precision to keep, to be drawn.
        on_frame: called with the name of each frame that is done, for progress.

    Returns:
        The verdicts. A precision that does not run has failed; it is no error.

    Raises:
        BadArgumentError: if there are no frames, no precisions, or ``pictures`` is negative.
        BundleError: if the bundle is missing or damaged.
        BackendError: if the bundle lacks a precision, or its reference does not run.
        DataError, ImageFileError: if a frame is missing or broken.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    names = _asked_for(opened, precisions)
    if len(source) == 0:
        raise BadArgumentError("source must hold at least one frame, got none.")
    if pictures < 0:
        raise BadArgumentError(f"pictures must be at least 0, got {pictures}.")
    session = VerificationSession(opened, names, backend, threads, pictures)
    for frame in source.frames():
        session.run_frame(frame)
        if on_frame is not None:
            on_frame(frame.name)
    verdicts = []
    for name in names:
        figures = session.figures(name, source)
        outcomes = judge(figures, gates, opened.manifest.parity)
        verdicts.append(PrecisionVerification(figures, outcomes, _hashes(opened, name)))
    return VerificationResult(
        bundle=opened.manifest.name,
        precisions=tuple(verdicts),
        about={**source.about, "seed": source.seed, **session.about()},
        disagreements=tuple(each for run in session.runs.values() for each in run.worst),
    )


def _asked_for(bundle: Bundle, precisions: Sequence[str] | None) -> list[str]:
    """The precisions to verify, in the bundle's order."""
    available = list(available_precisions(bundle))
    if precisions is None:
        return available
    wanted = {precision_name(bundle, precision) for precision in precisions}
    if not wanted:
        raise BadArgumentError("precisions must name at least one, or be None for all; got none.")
    return [name for name in available if name in wanted]


DIGITS = 6
"""Significant digits of recorded figures."""

_FILE_NAMES = ("mask_iou_worst_case",)
"""Figures that name a frame: a bundle travels further than the data it was verified on."""


def record_verification(
    bundle: Bundle,
    result: VerificationResult,
    *,
    allow_failing: bool = False,
    command: str | None = None,
) -> Manifest:
    """Put the verdicts into a bundle's manifest, those of other precisions stay.

    A precision that failed is recorded as such; one that its user ships nevertheless has
    ``allowed_failing`` as well. Names of frames and times of day are not recorded.

    Args:
        bundle: the bundle, as it was opened for the verification.
        result: its verification.
        allow_failing: whether its user ships what failed.
        command: the command line that repeats it.

    Returns:
        The manifest as it was written; an older format version is raised to ours.

    Raises:
        BundleError: if the bundle is a zip file, which is only read.
        BackendError: if the bundle lacks one of the precisions.
        BadArgumentError: if the result is of other graphs than the bundle's.
        OutputFileError: if the manifest cannot be written.
    """
    folder = bundle.unsigned_folder
    verification = dict(bundle.manifest.verification)
    for verified in result.precisions:
        for kind, expected in _hashes(bundle, verified.precision).items():
            if verified.graphs[kind] != expected:
                measured = f"{verified.precision} {kind} {verified.graphs[kind]}"
                raise BadArgumentError(
                    f"the verification is of the {measured}, and {bundle.path} has {expected}. "
                    "Verify this bundle."
                )
        allowed = allow_failing and not verified.passed
        document = {**verified.to_json(), **result.about}
        verification[verified.precision] = {
            "passed": document.pop("passed"),
            **({"allowed_failing": True} if allowed else {}),
            **{name: _recorded(value) for name, value in document.items()},
            **({"command": _recorded(command)} if command else {}),
        }
    newer = max(
        (bundle.manifest.format_version, FORMAT_VERSION),
        key=lambda version: tuple(map(int, version.split("."))),
    )
    manifest = replace(bundle.manifest, verification=verification, format_version=newer)
    manifest.write(folder / MANIFEST_FILE)
    return manifest


def _hashes(bundle: Bundle, precision: str) -> dict[str, str]:
    """SHA-256 of the graphs of a precision, by "image_encoder" and "mask_decoder"."""
    selected = select_graphs(bundle, precision)
    return {
        IMAGE_ENCODER: bundle.graph_record(selected.image_encoder).sha256,
        MASK_DECODER: bundle.graph_record(selected.mask_decoder).sha256,
    }


def _recorded(value: JsonValue) -> JsonValue:
    """The form for a manifest: rounded, printable, without the names of frames.

    Names of folders may hold what a manifest may not: control characters, lone surrogates.
    """
    if isinstance(value, Mapping):
        return {key: _recorded(item) for key, item in value.items() if key not in _FILE_NAMES}
    if isinstance(value, str):
        return "".join(each if each.isprintable() else "?" for each in value)
    if isinstance(value, (list, tuple)):
        return [_recorded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def prove(
    draft: Path,
    source: FrameSource,
    precisions: Sequence[str] | None = None,
    *,
    allow_failing: bool = False,
    command: str | None = None,
    on_frame: Callable[[str], None] | None = None,
) -> VerificationResult:
    """Verify a bundle, write the verdicts into its manifest, and refuse it if it fails.

    Args:
        draft: the bundle's folder, not yet in its place.
        source: real frames with prompts.
        precisions: which to verify; None for all.
        allow_failing: whether a precision that fails is let through, which the manifest then says.
        command: the command line that made the bundle, for the record.
        on_frame: called with the name of each frame that was done.

    Raises:
        ExportMismatchError: naming every limit that does not hold.
    """
    result = verify_bundle(draft, source, precisions, on_frame=on_frame)
    if not result.passed and not allow_failing:
        raise ExportMismatchError(
            f"The bundle fails its verification: {'; '.join(result.failures())}. Nothing was "
            "written. --allow-failing ships it nevertheless, and says so in its manifest."
        )
    record_verification(
        Bundle.open(draft),
        result,
        allow_failing=allow_failing and not result.passed,
        command=command,
    )
    return result
