"""The model of a bundle in torch, as it is or compiled: what one would use without an exporter."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from samus_edge.benchmarking.subject import (
    END_TO_END,
    WARM_UP_RUNS,
    MemoryMeter,
    Stage,
    Subject,
    Workload,
)
from samus_edge.errors import BackendError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MASK_DECODER
from samus_edge.runtime.prediction import masks_from_logits
from samus_edge.weights.bundle_file import load_bundle_model

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Encoder(nn.Module):
    """Raw frames to embeddings; the image encoder alone computes in the lower precision."""

    def __init__(self, model: SamusHF, dtype: torch.dtype) -> None:
        super().__init__()
        self.input_scaling, self.high_frequency = model.input_scaling, model.high_frequency
        self.image_encoder = model.image_encoder.to(dtype)
        self.dtype = dtype

    def forward(self, frames: Tensor) -> Tensor:
        """(B, H, W) uint8 to (B, C, 32, 32)."""
        image = self.input_scaling(frames).to(self.dtype)
        high_frequency = (self.high_frequency(frames) / 255.0).to(self.dtype)
        out: Tensor = self.image_encoder(image, high_frequency)
        return out


class _Decoder(nn.Module):
    """Embeddings and prompts to logits; prompts are embedded in float32."""

    def __init__(self, model: SamusHF, dtype: torch.dtype) -> None:
        super().__init__()
        self.prompt_encoder = model.prompt_encoder
        self.mask_decoder = model.mask_decoder.to(dtype)
        self.dtype = dtype

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As `SamusHF.decode`."""
        sparse, dense = self.prompt_encoder(point_coords, point_labels, mask_input, has_mask_input)
        positions = self.prompt_encoder.dense_pe().to(self.dtype)
        masks, ious = self.mask_decoder(
            image_embeddings, positions, sparse.to(self.dtype), dense.to(self.dtype)
        )
        return masks.float(), ious.float()


class TorchSubject(Subject):
    """A bundle's model in torch, on a GPU if torch has one."""

    def __init__(
        self,
        bundle: Bundle,
        workload: Workload,
        *,
        precision: str = "fp32",
        compiled: bool = False,
        threads: int | None = None,
    ) -> None:
        """Build it and run it.

        Args:
            bundle: opened.
            workload: the work that is timed.
            precision: a key of `TORCH_DTYPES`.
            compiled: whether by `torch.compile`, with CUDA graphs on a GPU.
            threads: CPU threads; None for torch's own choice.

        Raises:
            BackendError: if the model cannot be compiled or run.
            WeightsError: if the graphs do not give their weights back.
        """
        is_on_gpu = torch.cuda.is_available()
        super().__init__(
            f"{'torch-compile' if compiled else 'torch'} {precision}",
            device=torch.cuda.get_device_name() if is_on_gpu else "cpu",
            version=str(torch.__version__),
            precision=precision,
            is_on_gpu=is_on_gpu,
        )
        self._device = torch.device("cuda" if is_on_gpu else "cpu")
        if threads is not None:
            torch.set_num_threads(threads)
        self._threshold = bundle.manifest.mask_threshold
        self._bundle, self._workload, self._compiled = bundle, workload, compiled
        meter = MemoryMeter()
        if self.is_on_gpu:
            torch.cuda.reset_peak_memory_stats()
        model = load_bundle_model(bundle).to(self._device)
        dtype = TORCH_DTYPES[precision]
        self._encoder: Callable[..., Any] = _Encoder(model, dtype).eval()
        self._decoder: Callable[..., Any] = _Decoder(model, dtype).eval()
        try:
            if compiled:
                mode = "reduce-overhead" if self.is_on_gpu else "default"
                logging.getLogger("torch._inductor").setLevel(logging.ERROR)
                self._encoder = torch.compile(self._encoder, mode=mode, dynamic=False)
                self._decoder = torch.compile(self._decoder, mode=mode, dynamic=False)
            for _ in range(WARM_UP_RUNS):
                self._segment()
            self.memory_bytes, _ = meter.growth()
            if self.is_on_gpu:
                self.gpu_memory_bytes = int(torch.cuda.max_memory_reserved())
            self.stages = self._make_stages()
        except Exception as err:  # of the compiler, of its C++ compiler, of CUDA: no common base
            reason = str(err).strip().splitlines()
            raise BackendError(
                f"{self.name} does not run: {type(err).__name__}: {reason[0] if reason else ''}"
            ) from err

    def close(self) -> None:
        """Let the model go."""
        self.stages = ()
        self._encoder = self._decoder = nn.Identity()
        if self.is_on_gpu:
            torch.cuda.empty_cache()

    def _make_stages(self) -> list[Stage]:
        workload = self._workload
        stages: list[Stage] = []
        for count in workload.batches:
            frames = torch.from_numpy(workload.frames(count))
            stages.append(self._stage(IMAGE_ENCODER, count, self._encode, (frames,)))
        embedding = self._run(self._encode, torch.from_numpy(workload.frames(1))).clone()
        for count in workload.prompts:
            feeds = workload.decoder_feeds(self._bundle, embedding, count)
            tensors = [torch.as_tensor(value) for value in feeds.values()]
            stages.append(self._stage(MASK_DECODER, count, self._decode, tensors))
        stages.append(Stage(END_TO_END, 1, self._segment))
        return stages

    def _stage(
        self, name: str, items: int, work: Callable[..., Any], feeds: Sequence[Tensor]
    ) -> Stage:
        def host_to_host() -> object:
            if name == MASK_DECODER:
                return [value.cpu() for value in self._queue(work, *feeds)]
            return self._run(work, *feeds)

        for _ in range(WARM_UP_RUNS):  # compiled for the shape
            host_to_host()
        if not self.is_on_gpu:
            return Stage(name, items, host_to_host)
        on_device = [value.to(self._device) for value in feeds]

        def device_milliseconds(runs: int) -> list[float]:
            make = partial(torch.cuda.Event, enable_timing=True)
            events = [(make(), make()) for _ in range(runs)]
            with torch.inference_mode():
                for _ in range(WARM_UP_RUNS):
                    work(*on_device)
                for begin, end in events:
                    begin.record()
                    work(*on_device)
                    end.record()
            torch.cuda.synchronize()
            return [begin.elapsed_time(end) for begin, end in events]

        return Stage(name, items, host_to_host, device_milliseconds)

    def _encode(self, frames: Tensor) -> Any:
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._encoder(frames)

    def _decode(self, *feeds: Tensor) -> Any:
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._decoder(*feeds)

    def _queue(self, work: Callable[..., Any], *feeds: Tensor) -> Any:
        """What will be there; a copy to the host waits for it, once, as the runtime does."""
        with torch.inference_mode():
            return work(*(value.to(self._device) for value in feeds))

    def _run(self, work: Callable[..., Any], *feeds: Tensor) -> Any:
        result = self._queue(work, *feeds)
        if self.is_on_gpu:
            torch.cuda.synchronize()
        return result

    def _segment(self) -> object:
        workload = self._workload
        embedding = self._run(self._encode, torch.from_numpy(workload.frames(1)))
        # A CUDA graph's output is overwritten by the next one.
        kept = embedding.clone() if self._compiled else embedding
        feeds = workload.decoder_feeds(self._bundle, kept, 1)
        masks, _ = self._queue(self._decode, *(torch.as_tensor(value) for value in feeds.values()))
        return masks_from_logits(masks[:, :1].cpu().numpy(), workload.original_hw, self._threshold)
