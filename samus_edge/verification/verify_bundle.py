"""Proof of a bundle before it ships: every precision beside the reference on real frames.

Nothing here needs torch. The reference graphs were compared with PyTorch when they were exported; that
record is held against its limits again, and everything else is compared with the reference graphs.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
    failed_figures,
    judge,
    latency_figures,
    summarise_precision,
    timed_ms,
)

__all__ = [
    "PrecisionVerification",
    "VerificationResult",
    "VerificationSession",
    "prove",
    "record_verification",
    "verify_bundle",
]


REPEATED_FRAMES: Final = 2
"""Frames that are run again in other sessions: what is not deterministic differs at once."""

TENSORRT_RECIPE: Final = "int8"
NOT_JUDGED: Final = "made for TensorRT; its speed on a CPU says nothing"


@dataclass(frozen=True, eq=False)
class Disagreement:
    """One prompt with both masks.

    Attributes:
        precision: whose mask it is.
        comparison: its figures.
        image: (H, W), uint8, grey.
        prompt: in pixels of the image.
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


class WorstDisagreements:
    """Keeps the few prompts of each precision whose masks agree least; equal masks are never kept.

    Args:
        count: how many of each precision; at least 0.
    """

    def __init__(self, count: int) -> None:
        if count < 0:
            raise BadArgumentError(f"count must be at least 0, got {count}.")
        self._count = count
        self._kept: dict[str, list[Disagreement]] = {}

    def wants(self, precision: str, mask_iou: float) -> bool:
        """Whether one with this mask IoU would be kept."""
        kept = self._kept.get(precision, [])
        if self._count == 0 or mask_iou >= 1.0:
            return False
        return len(kept) < self._count or mask_iou < kept[-1].comparison.mask_iou

    def add(self, disagreement: Disagreement) -> None:
        """Keep it where it is among the worst so far."""
        if not self.wants(disagreement.precision, disagreement.comparison.mask_iou):
            return
        kept = self._kept.setdefault(disagreement.precision, [])
        kept.append(disagreement)
        kept.sort(key=lambda each: each.comparison.mask_iou)
        del kept[self._count :]

    def of(self, precision: str) -> tuple[Disagreement, ...]:
        """Those of a precision, lowest mask IoU first."""
        return tuple(self._kept.get(precision, ()))


@dataclass
class _Run:
    """One precision at work.

    Attributes:
        name: of the precision.
        hashes: SHA-256 of its graphs.
        is_reference: whether the others are compared with this run.
        graphs: None where they do not run.
        error: why they do not.
        frames: what was compared.
        prompts: what was compared.
        times: of the same frames.
    """

    name: str
    hashes: dict[str, str]
    is_reference: bool
    graphs: PrecisionGraphs | None
    error: str = ""
    frames: list[FrameComparison] = field(default_factory=list)
    prompts: list[PromptComparison] = field(default_factory=list)
    times: PrecisionTimes = field(default_factory=PrecisionTimes)

    def fail(self, err: BackendError) -> None:
        """It does not run and is not asked again; the reference has to run.

        Raises:
            BackendError: if this is the reference.
        """
        if self.is_reference:
            raise err
        self.graphs, self.error = None, str(err)


class VerificationSession:
    """The precisions of one verification, with what was measured of them so far.

    Args:
        bundle: an opened bundle.
        names: precisions to verify, each of which the bundle has.
        backend: what runs them; None for ONNX Runtime.
        threads: CPU threads that compute one graph on ONNX Runtime; None for all cores.
        worst: keeps the masks that agree least.

    Raises:
        BundleError: if a graph is damaged.
        BackendError: if the reference does not run on ONNX Runtime.
    """

    def __init__(
        self,
        bundle: Bundle,
        names: Sequence[str],
        backend: Backend | None,
        threads: int | None,
        worst: WorstDisagreements,
    ) -> None:
        self._bundle = bundle
        self._worst = worst
        self._engine = OnnxRuntimeBackend(threads)
        self._backend: Backend = self._engine if backend is None else backend
        self._has_targets = False
        reference = reference_precision(bundle)
        graphs = PrecisionGraphs(bundle, reference, self._engine)
        self._reference = _Run(reference, _hashes(bundle, reference), True, graphs)
        self._runs = [self._reference]
        self._verified: dict[str, _Run] = {}
        for name in names:
            if name == reference and backend is None:
                self._verified[name] = self._reference
            else:
                self._verified[name] = self._open(name)
                self._runs.append(self._verified[name])

    def run_frame(self, frame: PromptedFrame) -> None:
        """Run a frame through every precision, in turns, and compare.

        Raises:
            BackendError: if the reference does not run.
        """
        if not self._reference.frames:
            self._warm_up(frame)
        self._has_targets |= frame.targets is not None
        # Another one goes first each time: that may be slower.
        turn = len(self._reference.frames)
        embeddings = self._encode(frame, turn)
        for kind, prompts in frame.prompts.items():
            self._decode(frame, kind, prompts, embeddings, turn)

    def figures(self, name: str, source: FrameSource) -> PrecisionFigures:
        """What was measured of a precision; runs the first frames again, in another session.

        Args:
            name: one of the precisions to verify.
            source: whose frames were run, at least one.
        """
        run = self._verified[name]
        determinism: tuple[float | None, float | None] = (None, None)
        if run.graphs is not None:
            try:
                determinism = self._determinism(run, run.graphs, source)
            except BackendError as err:
                run.fail(err)
        if run.graphs is None:
            return failed_figures(name, run.error)
        on_cpu = self._backend.name == self._engine.name
        return summarise_precision(
            name,
            run.frames,
            run.prompts,
            is_reference=run.is_reference,
            seed=source.seed,
            determinism=determinism,
            latency=latency_figures(
                run.times,
                None if run.is_reference else self._reference.times,
                not_judged=NOT_JUDGED if name == TENSORRT_RECIPE and on_cpu else "",
            ),
        )

    def hashes(self, name: str) -> dict[str, str]:
        """SHA-256 of the graphs of a precision, by "image_encoder" and "mask_decoder"."""
        return self._verified[name].hashes

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

    def _open(self, name: str) -> _Run:
        run = _Run(name, _hashes(self._bundle, name), False, None)
        try:
            run.graphs = PrecisionGraphs(self._bundle, name, self._backend)
        except BackendError as err:
            run.fail(err)
        return run

    def _in_turns(self, turn: int) -> Iterator[tuple[_Run, PrecisionGraphs]]:
        """Those that run, beginning with another one each time."""
        first = turn % len(self._runs)
        for run in self._runs[first:] + self._runs[:first]:
            if run.graphs is not None:
                yield run, run.graphs

    def _warm_up(self, frame: PromptedFrame) -> None:
        """The first run of a session allocates, which is not to be timed."""
        (prompts, *_) = frame.prompts.values()
        for run, graphs in self._in_turns(0):
            try:
                graphs.decode(graphs.encode(frame.image), frame.hw, prompts)
            except BackendError as err:
                run.fail(err)

    def _encode(self, frame: PromptedFrame, turn: int) -> dict[int, FloatTensor]:
        """(1, C, h, w) embeddings of each run, by its identity."""
        embeddings: dict[int, FloatTensor] = {}
        for run, graphs in self._in_turns(turn):
            try:
                found, ms = timed_ms(partial(graphs.encode, frame.image))
            except BackendError as err:
                run.fail(err)
                continue
            run.times.encoder.append(ms)
            run.times.decoder.append([])
            embeddings[id(run)] = found
        reference = embeddings[id(self._reference)]
        for run, _ in self._in_turns(turn):
            try:
                run.frames.append(compare_frame(embeddings[id(run)], reference))
            except BackendError as err:
                run.fail(err)
        return embeddings

    def _decode(
        self,
        frame: PromptedFrame,
        kind: str,
        prompts: Sequence[Prompt],
        embeddings: Mapping[int, FloatTensor],
        turn: int,
    ) -> None:
        """Answer all prompts of one kind, and compare the answers."""
        decoded: dict[int, DecodedPrompts] = {}
        for run, graphs in self._in_turns(turn):
            try:
                found, ms = timed_ms(partial(graphs.decode, embeddings[id(run)], frame.hw, prompts))
            except BackendError as err:
                run.fail(err)
                continue
            run.times.decoder[-1].append(ms)
            decoded[id(run)] = found
        reference = decoded[id(self._reference)]
        assert self._reference.graphs is not None  # it has just run
        reference_masks = self._reference.graphs.masks(reference, frame.hw)  # (N, H, W)
        for run, graphs in self._in_turns(0):
            own = decoded[id(run)]
            masks = reference_masks if run.is_reference else graphs.masks(own, frame.hw)
            try:
                compared = compare_prompts(frame, kind, (own, reference), (masks, reference_masks))
            except BackendError as err:
                run.fail(err)
                continue
            run.prompts += compared
            for instance, comparison in enumerate(compared):
                if not run.is_reference and self._worst.wants(run.name, comparison.mask_iou):
                    kept = Disagreement(
                        run.name,
                        comparison,
                        frame.image,
                        prompts[instance],
                        masks[instance].copy(),  # not all N
                        reference_masks[instance].copy(),
                        None if frame.targets is None else frame.targets[instance],
                    )
                    self._worst.add(kept)

    def _determinism(
        self, run: _Run, graphs: PrecisionGraphs, source: FrameSource
    ) -> tuple[float | None, float | None]:
        """Largest logit difference to another session; and, of the reference, to another number of
        threads. None where logits are not finite, or it was not measured."""
        frames = list(islice(source.frames(), REPEATED_FRAMES))
        backend = self._engine if run.is_reference else self._backend
        again = PrecisionGraphs(self._bundle, run.name, backend)
        repeat = _logit_difference(graphs, again, frames)
        del again
        if not run.is_reference:
            return repeat, None
        other = OnnxRuntimeBackend(2 if self._engine.threads == 1 else 1)
        again = PrecisionGraphs(self._bundle, run.name, other)
        return repeat, _logit_difference(graphs, again, frames)


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
        raise BadArgumentError("source must hold at least one frame, got none.")
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
        command: by which it can be repeated.

    Returns:
        The manifest as it was written; an older format version is raised to ours.

    Raises:
        BundleError: if the bundle is a zip file, which is only read.
        BackendError: if the bundle has not one of the precisions.
        ValueError: if the result is of other graphs than the bundle's.
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
        command: by which the bundle was made, for the record.
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
