"""The precisions of a bundle at work on the same frames, in turns, each beside the reference."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.prompt_protocol import Prompt
from samus_edge.errors import BackendError
from samus_edge.evaluation.metrics import Mask
from samus_edge.runtime.agreement import largest_difference
from samus_edge.runtime.backends.backend import Backend, FloatTensor
from samus_edge.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.bundle.bundle import (
    Bundle,
    reference_precision,
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
    PrecisionFigures,
    PrecisionTimes,
    latency_figures,
    summarise_precision,
)

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


class VerificationSession:
    """The precisions of one verification, with what was measured of them so far.

    Args:
        bundle: an opened bundle.
        names: precisions to verify, each of which the bundle has.
        backend: the engine that runs them; None for ONNX Runtime.
        threads: CPU threads that compute one graph on ONNX Runtime; None for all cores.
        pictures: how many of the worst disagreements of each precision to keep.

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
