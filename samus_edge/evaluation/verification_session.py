"""All precisions of a bundle at work on the same frames, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final

import numpy as np

from samus_edge.errors import BackendError
from samus_edge.evaluation.precision_comparison import (
    FrameComparison,
    PromptComparison,
    absolute_difference,
    compare_frame,
    compare_prompt,
)
from samus_edge.evaluation.precision_graphs import DecodedPrompts, PrecisionGraphs
from samus_edge.evaluation.precision_latency import PrecisionTimes, latency_figures, timed_ms
from samus_edge.evaluation.prompt import Prompt
from samus_edge.evaluation.verification_figures import (
    PrecisionFigures,
    failed_figures,
    summarise_precision,
)
from samus_edge.evaluation.verification_source import VerificationFrame, VerificationSource
from samus_edge.evaluation.worst_disagreements import Disagreement, WorstDisagreements
from samus_edge.runtime.backend import Backend, FloatTensor
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_contract import IMAGE_ENCODER, MASK_DECODER
from samus_edge.runtime.json_fields import JsonValue
from samus_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.precision import reference_precision, select_graphs

__all__ = ["VerificationSession"]

REPEATED_FRAMES: Final = 2
"""Frames that are run again in other sessions: what is not deterministic differs at once."""

TENSORRT_RECIPE: Final = "int8"
NOT_JUDGED: Final = "made for TensorRT; its speed on a CPU says nothing"


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
        self._reference = _Run(reference, graphs.hashes, True, graphs)
        self._runs = [self._reference]
        self._verified: dict[str, _Run] = {}
        for name in names:
            if name == reference and backend is None:
                self._verified[name] = self._reference
            else:
                self._verified[name] = self._open(name)
                self._runs.append(self._verified[name])

    def run_frame(self, frame: VerificationFrame) -> None:
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

    def figures(self, name: str, source: VerificationSource) -> PrecisionFigures:
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
        selected = select_graphs(self._bundle, name)
        hashes = {
            IMAGE_ENCODER: self._bundle.graph_record(selected.image_encoder).sha256,
            MASK_DECODER: self._bundle.graph_record(selected.mask_decoder).sha256,
        }
        run = _Run(name, hashes, False, None)
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

    def _warm_up(self, frame: VerificationFrame) -> None:
        """The first run of a session allocates, which is not to be timed."""
        (prompts, *_) = frame.prompts.values()
        for run, graphs in self._in_turns(0):
            try:
                graphs.decode(graphs.encode(frame.image), _hw(frame), prompts)
            except BackendError as err:
                run.fail(err)

    def _encode(self, frame: VerificationFrame, turn: int) -> dict[int, FloatTensor]:
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
        frame: VerificationFrame,
        kind: str,
        prompts: Sequence[Prompt],
        embeddings: Mapping[int, FloatTensor],
        turn: int,
    ) -> None:
        """Answer all prompts of one kind, and compare the answers."""
        decoded: dict[int, DecodedPrompts] = {}
        for run, graphs in self._in_turns(turn):
            try:
                found, ms = timed_ms(
                    partial(graphs.decode, embeddings[id(run)], _hw(frame), prompts)
                )
            except BackendError as err:
                run.fail(err)
                continue
            run.times.decoder[-1].append(ms)
            decoded[id(run)] = found
        reference = decoded[id(self._reference)]
        assert self._reference.graphs is not None  # it has just run
        reference_masks = self._reference.graphs.masks(reference, _hw(frame))  # (N, H, W)
        for run, graphs in self._in_turns(0):
            own = decoded[id(run)]
            masks = reference_masks if run.is_reference else graphs.masks(own, _hw(frame))
            for instance, prompt in enumerate(prompts):
                target = None if frame.targets is None else frame.targets[instance]
                pair = masks[instance], reference_masks[instance]
                try:
                    comparison = compare_prompt(
                        prompt=kind,
                        case=frame.name,
                        instance=instance,
                        group=frame.group,
                        decoded=(own, reference),
                        masks=pair,
                        target=target,
                    )
                except BackendError as err:
                    run.fail(err)
                    break
                run.prompts.append(comparison)
                if not run.is_reference and self._worst.wants(run.name, comparison.mask_iou):
                    own_mask, reference_mask = (mask.copy() for mask in pair)  # not all N
                    kept = Disagreement(
                        run.name, comparison, frame.image, prompt, own_mask, reference_mask, target
                    )
                    self._worst.add(kept)

    def _determinism(
        self, run: _Run, graphs: PrecisionGraphs, source: VerificationSource
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
    first: PrecisionGraphs, second: PrecisionGraphs, frames: Sequence[VerificationFrame]
) -> float | None:
    """Largest absolute difference of the low-resolution logits; None if one is not finite."""
    largest = 0.0
    for frame in frames:
        embeddings = first.encode(frame.image), second.encode(frame.image)
        for prompts in frame.prompts.values():
            a, b = (
                graphs.decode(each, _hw(frame), prompts).low_res_masks
                for graphs, each in zip((first, second), embeddings, strict=True)
            )
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                return None
            largest = max(largest, float(absolute_difference(a, b).max()))
    return largest


def _hw(frame: VerificationFrame) -> tuple[int, int]:
    height, width = frame.image.shape
    return height, width
