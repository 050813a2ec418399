"""The configuration of one model in a Triton model repository."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samus_edge.export.protobuf_text import Enum, Message, protobuf_text
from samus_edge.export.triton_settings import TritonSettings
from samus_edge.runtime.graph_contract import IMAGE_ENCODER
from samus_edge.runtime.graph_record import TensorSpec

__all__ = ["MODEL_FILE", "ServedModel", "model_config"]

MODEL_FILE = "model.onnx"

_DATA_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_US_PER_MS = 1000
_BOX_POINTS = 2
_ENGINE_CACHE = "/engines"
# Engines are large in the encoder's first layers, which see whole batches of raw frames.
_WORKSPACE_BYTES = 2 << 30

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ServedModel:
    """One model of a repository.

    Attributes:
        name: of the model and of its folder.
        part: "image_encoder" or "mask_decoder".
        variant: "onnx" or "tensorrt".
        graph: the bundle's graph that it was made from.
        sha256: of its ONNX file.
        inputs: of the ONNX file, batch axis included.
        outputs: of the ONNX file, batch axis included.
    """

    name: str
    part: str
    variant: str
    graph: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def max_batch_size(self, settings: TritonSettings) -> int:
        """Frames or prompts in one run."""
        return settings.max_frames if self.part == IMAGE_ENCODER else settings.max_prompts


def model_config(
    model: ServedModel, settings: TritonSettings, parameters: Mapping[str, str], bundle: str
) -> str:
    """The text of a `config.pbtxt`.

    Every axis but the first is in `dims`: with a maximum batch size above 0 Triton adds the first
    one, along which its dynamic batcher joins requests whose other axes are equal.

    Args:
        model: what is served.
        settings: how.
        parameters: what traces need; for readers of the configuration, ONNX Runtime uses none of it.
        bundle: the bundle's name, a label of every metric of the model.

    Source: `model_config.proto` and docs/user_guide/model_configuration.md of Triton 2.72.
    """
    kind = "KIND_GPU" if model.variant == "tensorrt" else "KIND_AUTO"
    config: list[tuple[str, str | int | bool | Enum | Message]] = [
        ("name", model.name),
        ("backend", "onnxruntime"),
        ("default_model_filename", MODEL_FILE),
        ("max_batch_size", model.max_batch_size(settings)),
    ]
    config += [("input", _tensor(spec)) for spec in model.inputs]
    config += [("output", _tensor(spec)) for spec in model.outputs]
    config += [
        ("version_policy", [("specific", [("versions", settings.version)])]),
        ("instance_group", [("count", settings.instances), ("kind", Enum(kind))]),
        ("dynamic_batching", _dynamic_batching(model, settings)),
    ]
    if model.variant == "tensorrt":
        config.append(("optimization", _tensorrt(model, settings)))
    config += [("model_warmup", _warmup(model, settings, rows)) for rows in _warm(model, settings)]
    config += [
        ("parameters", [("key", key), ("value", [("string_value", value)])])
        for key, value in parameters.items()
    ]
    config.append(("metric_tags", [("key", "bundle"), ("value", bundle)]))
    return protobuf_text(config)


def _tensor(spec: TensorSpec) -> Message:
    """An input or output without its first axis; -1 for what varies."""
    dims = [("dims", size if isinstance(size, int) else -1) for size in spec.shape[1:]]
    return [("name", spec.name), ("data_type", Enum(_DATA_TYPES[spec.dtype])), *dims]


def _dynamic_batching(model: ServedModel, settings: TritonSettings) -> Message:
    # Only an engine is much faster at some sizes than at others; without preferred sizes Triton
    # prefers the largest.
    preferred: Sequence[int] = ()
    if model.variant == "tensorrt":
        preferred = sorted({_typical_rows(model, settings), model.max_batch_size(settings)})
    return [
        *(("preferred_batch_size", size) for size in preferred),
        ("max_queue_delay_microseconds", settings.queue_delay_us),
        (
            "default_queue_policy",
            [
                # A mask of a frame that has long gone from the screen helps nobody.
                ("timeout_action", Enum("REJECT")),
                ("default_timeout_microseconds", settings.queue_timeout_ms * _US_PER_MS),
                ("allow_timeout_override", True),
                ("max_queue_size", settings.max_queue_size),
            ],
        ),
    ]


def _typical_rows(model: ServedModel, settings: TritonSettings) -> int:
    return min(4, model.max_batch_size(settings))


def _warm(model: ServedModel, settings: TritonSettings) -> list[int]:
    """Batch sizes to run before the model is called ready."""
    sizes = {1}
    if model.variant == "tensorrt":
        sizes |= {_typical_rows(model, settings), model.max_batch_size(settings)}
    return sorted(sizes)


def _warmup(model: ServedModel, settings: TritonSettings, rows: int) -> Message:
    inputs: Message = [
        ("inputs", [("key", spec.name), ("value", _warmup_tensor(spec, settings))])
        for spec in model.inputs
    ]
    return [("name", f"{rows} of typical size"), ("batch_size", rows), *inputs]


def _warmup_tensor(spec: TensorSpec, settings: TritonSettings) -> Message:
    """One row of an input."""
    return [
        ("data_type", Enum(_DATA_TYPES[spec.dtype])),
        *(("dims", size) for size in _shape(spec, 1, settings)[1:]),
        # Random bytes are a frame; random float32 bits would hold NaN.
        ("random_data" if spec.dtype == "uint8" else "zero_data", True),
    ]


def _tensorrt(model: ServedModel, settings: TritonSettings) -> Message:
    """ONNX Runtime's TensorRT execution provider, with one profile for the whole range of shapes."""
    largest = model.max_batch_size(settings)
    rows = {"min": 1, "opt": _typical_rows(model, settings), "max": largest}
    parameters = {
        "precision_mode": "FP32",
        "max_workspace_size_bytes": str(_WORKSPACE_BYTES),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": _ENGINE_CACHE,
        # ONNX Runtime's own key has the graph's structure and not its weights: without this a new
        # training of the same architecture would be served by the engine of the old one.
        "trt_engine_cache_prefix": f"{model.name}_{model.sha256[:16]}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": _ENGINE_CACHE,
    }
    for extreme, count in rows.items():
        shapes = {spec.name: _shape(spec, count, settings, extreme) for spec in model.inputs}
        parameters[f"trt_profile_{extreme}_shapes"] = ",".join(
            f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items()
        )
    accelerator: Message = [
        ("name", "tensorrt"),
        *(("parameters", [("key", key), ("value", value)]) for key, value in parameters.items()),
    ]
    return [("execution_accelerators", [("gpu_execution_accelerator", accelerator)])]


def _shape(spec: TensorSpec, rows: int, settings: TritonSettings, extreme: str = "opt") -> Shape:
    """The smallest ("min"), typical ("opt") or largest ("max") shape of an input."""
    frame_hw = {
        "min": settings.min_frame_hw,
        "opt": settings.typical_frame_hw,
        "max": settings.max_frame_hw,
    }[extreme]
    free = {
        "image": frame_hw,
        "point_coords": (settings.max_points if extreme == "max" else _BOX_POINTS,),
        "point_labels": (settings.max_points if extreme == "max" else _BOX_POINTS,),
    }.get(spec.name, ())
    sizes = iter(free)
    return (rows, *(size if isinstance(size, int) else next(sizes) for size in spec.shape[1:]))
