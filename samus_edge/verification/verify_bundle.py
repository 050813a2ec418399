"""Proof of a bundle before it ships: every precision beside the reference on real frames.

Nothing here needs torch. The reference graphs were compared with PyTorch when they were exported;
that record is held against its limits again, and everything else is compared with the reference
graphs.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.prompt_protocol import Prompt
from samus_edge.errors import BackendError, BadArgumentError, ExportMismatchError
from samus_edge.evaluation.metrics import Mask
from samus_edge.runtime.agreement import largest_difference
from samus_edge.runtime.backends.backend import Backend, FloatTensor
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.bundle.bundle import (
    Bundle,
    available_precisions,
    precision_name,
    reference_precision,
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
from samus_edge.verification.comparison import (
    DecodedPrompts,
    FrameComparison,
    PrecisionGraphs,
    PromptComparison,
    compare_frame,
    compare_prompts,
)
from samus_edge.verification.frames import FrameSource, PromptedFrame
from samus_edge.verification.gates import (
    GATES,
    GateOutcome,
    PrecisionFigures,
    PrecisionTimes,
    VerificationGates,
    judge,
    latency_figures,
    summarise_precision,
)

__all__ = [
    "Disagreement",
    "PrecisionVerification",
    "VerificationResult",
    "prove",
    "record_verification",
    "verify_bundle",
]

REPEATED_FRAMES: Final = 2
"""Frames that are run again in other sessions: what is not deterministic differs at once."""

SETTLE_S: Final = 0.002
"""Pause before what is timed: threads of the session that ran before spin a little, waiting for
more work, and would take a core from the next one."""

TENSORRT_RECIPE: Final = "int8"
NOT_JUDGED: Final = "made for TensorRT; its speed on a CPU says nothing"


@dataclass(frozen=True, eq=False)
class Disagreement:
    """One prompt with both masks.

    Attributes:
        precision: whose mask it is.
        comparison: its figures.
        image: (H, W), uint8, grey.
        prompt: the prompt, in pixels of the image.
        mask: (H, W), bool, the precision's.
        reference_mask: (H, W), bool.
        target: (H, W), bool, the true mask; None where it is not known.
    """

    precision: str
    comparison: PromptComparison
    image: npt.NDArray[np.uint8]
    prompt: Prompt
    mask: Mask
    reference_mask: Mask
    target: Mask | None

    @property
    def caption(self) -> str:
        """What it is of, in a line."""
        of = self.comparison
        lesion = "" if self.target is None else f", lesion {of.instance}"
        text = f"{of.case}{lesion}, {of.prompt}: mask IoU {of.mask_iou:.4f}"
        if of.dice is not None and of.dice_reference is not None:
            text += f", Dice {of.dice:.4f}, of the reference {of.dice_reference:.4f}"
        return text if of.is_finite else f"{text}; NaN or infinite logits"


@dataclass(eq=False)
class _Run:
    """One precision at work, with what was measured of it so far.

    Attributes:
        name: name of the precision.
        graphs: None where they do not run.
        error: why they do not.
        frames: comparisons of embeddings with the reference's.
        prompts: comparisons of answers with the reference's.
        times: times of the same frames.
        worst: the prompts whose masks agree least, lowest IoU first.
    """

    name: str
    graphs: PrecisionGraphs | None = None
    error: str = ""
    frames: list[FrameComparison] = field(default_factory=list)
    prompts: list[PromptComparison] = field(default_factory=list)
    times: PrecisionTimes = field(default_factory=PrecisionTimes)
    worst: list[Disagreement] = field(default_factory=list)


class _Session:
    """The precisions of one verification; arguments as `verify_bundle`."""

    def __init__(
        self,
        bundle: Bundle,
        names: Sequence[str],
        backend: Backend | None,
        threads: int | None,
        pictures: int,
    ) -> None:
        self._bundle = bundle
        self._pictures = pictures
        self._engine = OnnxRuntimeBackend(threads)
        self._backend: Backend = self._engine if backend is None else backend
        self._has_targets = False
        name = reference_precision(bundle)
        self._reference = _Run(name, PrecisionGraphs(bundle, name, self._engine))
        self.runs = {name: _Run(name) for name in names}
        if backend is None and name in self.runs:
            self.runs[name] = self._reference
        for run in self.runs.values():
            if run is not self._reference:
                with self._failing(run):
                    run.graphs = PrecisionGraphs(bundle, run.name, self._backend)
        self._all = list(dict.fromkeys([self._reference, *self.runs.values()]))

    def run_frame(self, frame: PromptedFrame) -> None:
        """Run a frame through every precision, in turns, and compare.

        Raises:
            BackendError: if the reference does not run.
        """
        self._has_targets |= frame.targets is not None
        turn = len(self._reference.frames)
        if turn == 0:
            # The first run of a session allocates, which is not to be timed.
            for run, graphs in self._in_turns(0):
                with self._failing(run):
                    embeddings = graphs.encode(frame.image)
                    graphs.decode(embeddings, frame.hw, next(iter(frame.prompts.values())))
        # Another one goes first each time: that may be slower.
        encoded: dict[_Run, FloatTensor] = {}
        for run, graphs in self._in_turns(turn):
            with self._failing(run):
                start = _start()
                encoded[run] = graphs.encode(frame.image)
                run.times.encoder.append(_ms_since(start))
                run.times.decoder.append([])
        for run, _ in self._in_turns(turn):
            with self._failing(run):
                run.frames.append(compare_frame(encoded[run], encoded[self._reference]))
        for kind, prompts in frame.prompts.items():
            decoded: dict[_Run, DecodedPrompts] = {}
            for run, graphs in self._in_turns(turn):
                with self._failing(run):
                    start = _start()
                    decoded[run] = graphs.decode(encoded[run], frame.hw, prompts)
                    run.times.decoder[-1].append(_ms_since(start))
            self._compare(frame, kind, decoded)

    def figures(self, name: str, source: FrameSource) -> PrecisionFigures:
        """What was measured of a precision; runs the first frames again, in another session."""
        run = self.runs[name]
        is_reference = run is self._reference
        determinism: tuple[float | None, float | None] = (None, None)
        with self._failing(run):
            determinism = self._determinism(run, source)
        if run.graphs is None:
            return PrecisionFigures(name, error=run.error)
        on_cpu = self._backend.name == self._engine.name
        return summarise_precision(
            name,
            run.frames,
            run.prompts,
            is_reference=is_reference,
            seed=source.seed,
            determinism=determinism,
            latency=latency_figures(
                run.times,
                None if is_reference else self._reference.times,
                not_judged=NOT_JUDGED if name == TENSORRT_RECIPE and on_cpu else "",
            ),
        )

    def about(self) -> dict[str, JsonValue]:
        """How much was measured, and with what."""
        prompts = self._reference.prompts
        counted: dict[str, JsonValue] = {"images": len(self._reference.frames)}
        if self._has_targets:
            counted["lesions"] = len({(each.case, each.instance) for each in prompts})
        return {
            **counted,
            "prompts": len(prompts),
            "backend": f"{self._backend.name} {self._backend.version}",
            "threads": self._backend.threads,
        }

    @contextmanager
    def _failing(self, run: _Run) -> Iterator[None]:
        """A precision that does not run is not asked again; the reference has to run."""
        try:
            yield
        except BackendError as err:
            if run is self._reference:
                raise
            run.graphs, run.error = None, str(err)

    def _in_turns(self, turn: int) -> Iterator[tuple[_Run, PrecisionGraphs]]:
        """Those that run, beginning with another one each time."""
        first = turn % len(self._all)
        for run in self._all[first:] + self._all[:first]:
            if run.graphs is not None:
                yield run, run.graphs

    def _compare(
        self, frame: PromptedFrame, kind: str, decoded: Mapping[_Run, DecodedPrompts]
    ) -> None:
        """Compare all answers to one kind of prompt, and keep the worst."""
        assert self._reference.graphs is not None  # it has just run
        reference = decoded[self._reference]
        reference_masks = self._reference.graphs.masks(reference, frame.hw)  # (N, H, W)
        for run, graphs in self._in_turns(0):
            own, masks = decoded[run], reference_masks
            if run is not self._reference:
                masks = graphs.masks(own, frame.hw)
            with self._failing(run):
                compared = compare_prompts(frame, kind, (own, reference), (masks, reference_masks))
                run.prompts += compared
                if run is not self._reference and self._pictures:
                    self._keep_worst(run, frame, compared, masks, reference_masks)

    def _keep_worst(
        self,
        run: _Run,
        frame: PromptedFrame,
        compared: Sequence[PromptComparison],
        masks: npt.NDArray[np.bool_],
        reference_masks: npt.NDArray[np.bool_],
    ) -> None:
        """Keep the few prompts whose masks agree least; equal masks are never kept."""
        for instance, comparison in enumerate(compared):
            is_full = len(run.worst) == self._pictures
            limit = run.worst[-1].comparison.mask_iou if is_full else 1.0
            if comparison.mask_iou >= limit:
                continue
            kept = Disagreement(
                run.name,
                comparison,
                frame.image,
                frame.prompts[comparison.prompt][instance],
                masks[instance].copy(),  # not all N
                reference_masks[instance].copy(),
                None if frame.targets is None else frame.targets[instance],
            )
            run.worst = sorted([*run.worst, kept], key=lambda each: each.comparison.mask_iou)
            del run.worst[self._pictures :]

    def _determinism(self, run: _Run, source: FrameSource) -> tuple[float | None, float | None]:
        """Largest logit difference to another session; and, of the reference, to another number of
        threads. None where logits are not finite, or it was not measured."""
        if run.graphs is None:
            return None, None
        frames = list(islice(source.frames(), REPEATED_FRAMES))
        is_reference = run is self._reference
        backend = self._engine if is_reference else self._backend
        again = PrecisionGraphs(self._bundle, run.name, backend)
        repeat = _logit_difference(run.graphs, again, frames)
        del again
        if not is_reference:
            return repeat, None
        other = OnnxRuntimeBackend(2 if self._engine.threads == 1 else 1)
        again = PrecisionGraphs(self._bundle, run.name, other)
        return repeat, _logit_difference(run.graphs, again, frames)


def _start() -> float:
    time.sleep(SETTLE_S)
    return time.perf_counter()


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def _logit_difference(
    first: PrecisionGraphs, second: PrecisionGraphs, frames: Sequence[PromptedFrame]
) -> float | None:
    """Largest absolute difference of the low-resolution logits; None if one is not finite."""
    largest = 0.0
    for frame in frames:
        embeddings = first.encode(frame.image), second.encode(frame.image)
        for prompts in frame.prompts.values():
            a, b = (
                graphs.decode(each, frame.hw, prompts).low_res_masks
                for graphs, each in zip((first, second), embeddings, strict=True)
            )
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                return None
            largest = max(largest, largest_difference(a, b))
    return largest


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
    session = _Session(opened, names, backend, threads, pictures)
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
    folder = bundle.folder
    verification = dict(bundle.manifest.verification)
    for verified in result.precisions:
        _check_graphs(bundle, verified)
        verification[verified.precision] = _entry(result, verified, allow_failing, command)
    manifest = replace(
        bundle.manifest,
        verification=verification,
        format_version=_at_least(bundle.manifest.format_version, FORMAT_VERSION),
    )
    manifest.write(folder / MANIFEST_FILE)
    return manifest


def _hashes(bundle: Bundle, precision: str) -> dict[str, str]:
    """SHA-256 of the graphs of a precision, by "image_encoder" and "mask_decoder"."""
    selected = select_graphs(bundle, precision)
    return {
        IMAGE_ENCODER: bundle.graph_record(selected.image_encoder).sha256,
        MASK_DECODER: bundle.graph_record(selected.mask_decoder).sha256,
    }


def _check_graphs(bundle: Bundle, verified: PrecisionVerification) -> None:
    for kind, expected in _hashes(bundle, verified.precision).items():
        found = verified.graphs[kind]
        if found != expected:
            raise BadArgumentError(
                f"the verification is of the {verified.precision} {kind} {found}, and "
                f"{bundle.path} has {expected}. Verify this bundle."
            )


def _entry(
    result: VerificationResult,
    verified: PrecisionVerification,
    allow_failing: bool,
    command: str | None,
) -> dict[str, JsonValue]:
    allowed = allow_failing and not verified.passed
    document = {**verified.to_json(), **result.about}
    return {
        "passed": verified.passed,
        **({"allowed_failing": True} if allowed else {}),
        **{name: _recorded(value) for name, value in document.items() if name != "passed"},
        **({"command": _printable(command)} if command else {}),
    }


def _recorded(value: JsonValue) -> JsonValue:
    """As a manifest may hold it: rounded, printable, without the names of frames."""
    if isinstance(value, Mapping):
        return {key: _recorded(item) for key, item in value.items() if key not in _FILE_NAMES}
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, (list, tuple)):
        return [_recorded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _printable(text: str) -> str:
    """Names of folders may hold what a manifest may not: control characters, lone surrogates."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _at_least(version: str, lowest: str) -> str:
    """The newer one of two "major.minor"."""
    return max(version, lowest, key=lambda each: tuple(map(int, each.split("."))))


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
