"""A Triton Inference Server model repository from a bundle."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import ModelProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from samus_edge import __version__
from samus_edge.errors import BadArgumentError, BundleError, SamusEdgeError
from samus_edge.export.graph_cleanup import graph_file, rendered, tensor_specs
from samus_edge.runtime.bundle.bundle import Bundle, check_precision, precision_name, select_graphs
from samus_edge.runtime.bundle.manifest import (
    IMAGE_ENCODER,
    MASK_DECODER,
    TensorSpec,
    check_graph,
)
from samus_edge.runtime.bundle.records import to_json
from samus_edge.runtime.images.output_files import draft_folder, write_files_atomically
from samus_edge.verification.comparison import check_served_graph

VARIANTS = ("onnx", "tensorrt")
"""`onnx` runs on the CPU or CUDA, wherever the server is; `tensorrt` needs an NVIDIA GPU."""

_PREFIX = re.compile(r"[A-Za-z0-9_-]*")
_MIN_POINTS = 2  # what the exported mask decoder takes: a box, or one point and its padding


@dataclass(frozen=True)
class TritonSettings:
    """How Triton Inference Server is to serve a bundle.

    Frame sizes and the number of points bind the TensorRT variant alone: an engine is built for a
    range of shapes, and is fastest at the typical one.

    Raises:
        BadArgumentError: naming every setting that is wrong.
    """

    variants: tuple[str, ...] = VARIANTS
    """Which of `VARIANTS` to write."""
    version: int = 1
    """Number of the version folders; 1 or more. The only one that the server then serves."""
    prefix: str = ""
    """Prefix of every model's name, for several bundles on one server; ASCII letters, digits, "_"
    and "-"."""
    instances: int = 1
    """Copies of each model on each GPU, or on the CPU; 1 or more."""
    max_frames: int = 8
    """Frames in one run of the image encoder; 1 or more."""
    max_prompts: int = 32
    """Prompts in one run of the mask decoder; 1 or more."""
    max_points: int = 16
    """Points of a prompt, box corners and padding included; 2 or more."""
    min_frame_hw: tuple[int, int] = (32, 32)
    """Smallest frame, (H, W), pixels."""
    typical_frame_hw: tuple[int, int] = (480, 640)
    """The frame to tune and warm up for, (H, W), pixels."""
    max_frame_hw: tuple[int, int] = (1200, 1920)
    """Largest frame, (H, W), pixels; each side at least that of the smallest."""
    queue_delay_us: int = 1000
    """How long a request may wait for others to join its batch, microseconds; 0 or more."""
    max_queue_size: int = 64
    """Requests that may wait for a model, which bounds memory; 1 or more."""
    queue_timeout_ms: int = 1000
    """A request that has waited longer is refused, milliseconds; 1 or more."""

    def __post_init__(self) -> None:
        """Check every setting."""
        problems = [
            f"{name} must be {least} or more, got {getattr(self, name)}"
            for name, least in (
                ("version", 1),
                ("instances", 1),
                ("max_frames", 1),
                ("max_prompts", 1),
                ("max_points", _MIN_POINTS),
                ("queue_delay_us", 0),
                ("max_queue_size", 1),
                ("queue_timeout_ms", 1),
            )
            if getattr(self, name) < least
        ]
        is_known = set(self.variants) <= set(VARIANTS)
        if not self.variants or not is_known or len(set(self.variants)) < len(self.variants):
            problems.append(f"variants must be one or both of {VARIANTS}, got {self.variants}")
        if not _PREFIX.fullmatch(self.prefix):
            problems.append(
                f"prefix may have ASCII letters, digits, '_' and '-', got {self.prefix!r}"
            )
        sizes = (self.min_frame_hw, self.typical_frame_hw, self.max_frame_hw)
        for small, middle, large in zip(*sizes, strict=True):
            if not 1 <= small <= middle <= large:
                problems.append(
                    "min_frame_hw, typical_frame_hw and max_frame_hw must be 1 or more and not "
                    f"decrease on either side, got {', '.join(map(str, sizes))}"
                )
                break
        if problems:
            raise BadArgumentError("; ".join(problems) + ".")


MODEL_FILE = "model.onnx"
MANIFEST_COPY = "bundle_manifest.json"
CONFIG_FILE = "config.pbtxt"
Shape = tuple[int, ...]

_DATA_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_TYPICAL_ROWS = 4
_BOX_POINTS = 2
_ENGINE_CACHE = "/engines"
# Engines are large in the encoder's first layers, which see whole batches of raw frames.
_WORKSPACE_BYTES = 2 << 30


@dataclass(frozen=True)
class ServedModel:
    """One model of a repository.

    Attributes:
        name: name of the model and of its folder.
        part: "image_encoder" or "mask_decoder".
        variant: "onnx" or "tensorrt".
        graph: the bundle's graph that it was made from.
        sha256: SHA-256 of its ONNX file.
        inputs: inputs of the ONNX file, batch axis included.
        outputs: outputs of the ONNX file, batch axis included.
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
        model: the model.
        settings: how it is served.
        parameters: origin of the model, for readers of the configuration.
        bundle: the bundle's name, a label of every metric of the model.

    Source: `model_config.proto` and docs/user_guide/model_configuration.md of Triton 2.72.
    """
    largest = model.max_batch_size(settings)
    rows = {"min": 1, "opt": min(_TYPICAL_ROWS, largest), "max": largest}
    shapes = {
        extreme: {spec.name: _shape(spec, count, settings, extreme) for spec in model.inputs}
        for extreme, count in rows.items()
    }
    return rendered(
        "config.pbtxt.jinja",
        quoted=_quoted,
        model=model,
        settings=settings,
        model_file=MODEL_FILE,
        data_types=_DATA_TYPES,
        rows=rows,
        shapes=shapes,
        accelerator=_accelerator(model, shapes),
        parameters=parameters,
        bundle=bundle,
    )


def _quoted(text: str) -> str:
    """A string of the protocol buffers text format; what is not plain ASCII as octal bytes."""
    characters = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(characters)}"'


def _accelerator(model: ServedModel, shapes: Mapping[str, Mapping[str, Shape]]) -> dict[str, str]:
    """Parameters of ONNX Runtime's TensorRT execution provider."""
    profile = {
        f"trt_profile_{extreme}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, shape))}" for name, shape in inputs.items()
        )
        for extreme, inputs in shapes.items()
    }
    return {
        "precision_mode": "FP32",
        "max_workspace_size_bytes": str(_WORKSPACE_BYTES),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": _ENGINE_CACHE,
        # ONNX Runtime's own key has the graph's structure and not its weights: without this a new
        # training of the same architecture would be served by the engine of the old one.
        "trt_engine_cache_prefix": f"{model.name}_{model.sha256[:16]}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": _ENGINE_CACHE,
        **profile,
    }


def _shape(spec: TensorSpec, rows: int, settings: TritonSettings, extreme: str) -> Shape:
    """The smallest ("min"), typical ("opt") or largest ("max") shape of an input."""
    points = settings.max_points if extreme == "max" else _BOX_POINTS
    frames = {
        "min": settings.min_frame_hw,
        "opt": settings.typical_frame_hw,
        "max": settings.max_frame_hw,
    }
    sizes = iter(frames[extreme] if spec.name == "image" else (points,))
    return (rows, *(size if isinstance(size, int) else next(sizes) for size in spec.shape[1:]))


_IMAGE_EMBEDDINGS = "image_embeddings"
_POINT_COORDS = "point_coords"


def batch_mask_decoder(model: ModelProto) -> None:
    """Let the image embeddings have one row per prompt, in place: (1, C, h, w) to (N, C, h, w).

    The decoder's first use of the embeddings is a sum with the N dense prompt embeddings, which
    broadcasts one image over all prompts; with N images the same sum takes row i with row i, and
    from there on everything has N rows. So only the declared size of the input changes. That is a
    property of SAM's decoder as exported here and not of every decoder:
    :func:`samus_edge.verification.comparison.check_served_graph` measures it.

    Args:
        model: the graph `mask_decoder` of a bundle, weights included.

    Raises:
        BadArgumentError: if it lacks one of the inputs that are to have the same first axis.
    """
    inputs = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    missing = sorted({_IMAGE_EMBEDDINGS, _POINT_COORDS} - inputs.keys())
    if missing:
        raise BadArgumentError(
            f"the graph has no input {' and no input '.join(missing)}, only {', '.join(inputs)}. "
            "Give the mask decoder of a bundle."
        )
    rows = inputs[_IMAGE_EMBEDDINGS][0]
    rows.ClearField("dim_value")
    rows.dim_param = inputs[_POINT_COORDS][0].dim_param


@dataclass(frozen=True)
class TritonRepository:
    """A written model repository.

    Attributes:
        folder: the folder for Triton's `--model-repository`.
        models: its models.
        configs: path of each model's `config.pbtxt`, by the model's name.
        graphs: path of each model's ONNX file, by the model's name.
    """

    folder: Path
    models: tuple[ServedModel, ...]
    configs: dict[str, Path]
    graphs: dict[str, Path]


def write_triton_repository(
    bundle: Bundle,
    folder: Path,
    *,
    overwrite: bool = False,
    settings: TritonSettings | None = None,
    precision: str = "auto",
) -> TritonRepository:
    """Write a bundle as a model repository, check it, and only then put the folder in place.

    The image encoder is the bundle's file, byte for byte. The mask decoder is changed
    (`batch_mask_decoder`) and run on ONNX Runtime against the bundle's. Needs onnx, not torch.

    Args:
        bundle: an opened bundle.
        folder: the repository's new folder.
        overwrite: whether a repository at ``folder`` that this function wrote is replaced.
        settings: variants, batching and sizes; None for the defaults.
        precision: which of the bundle's graphs, as for `Segmenter.load`; the others are left out.

    Returns:
        The written repository.

    Raises:
        BadArgumentError: if there is no such precision.
        BackendError: if the bundle does not have it.
        SamusEdgeError: if ``folder`` exists and is not to be overwritten, or is no such repository;
            or if the image encoder takes frames of one size alone.
        BundleError: if the bundle lacks a graph, a graph does not follow the contract of bundles,
            or a file has changed since the bundle was opened.
        ExportMismatchError: if a changed graph computes something else; nothing is left.
        OutputFileError: if a file cannot be written; nothing is left.
    """
    settings = TritonSettings() if settings is None else settings
    check_precision(precision)
    precision = precision_name(bundle, precision)
    selection = select_graphs(bundle, precision)
    graphs = {IMAGE_ENCODER: selection.image_encoder, MASK_DECODER: selection.mask_decoder}
    _check_frame_size(bundle, selection.image_encoder)
    kind = "a model repository of samus-edge"
    with draft_folder(folder, kind=kind, marker=MANIFEST_COPY, overwrite=overwrite) as draft:
        models: list[ServedModel] = []
        for part, graph in graphs.items():
            for model, content in _served_models(bundle, part, graph, settings):
                _write_model(draft, model, content, bundle, settings, precision)
                models.append(model)
        manifest = bundle.manifest
        document = json.dumps(to_json(manifest), indent=2, ensure_ascii=False)
        readme = rendered(
            "triton_readme.md.jinja", manifest=manifest, models=models, settings=settings
        )
        # The manifest last: a folder without it is no repository that was finished.
        write_files_atomically({draft / "README.md": readme.encode()})
        write_files_atomically({draft / MANIFEST_COPY: f"{document}\n".encode()})
    names = [model.name for model in models]
    return TritonRepository(
        folder=folder,
        models=tuple(models),
        configs={name: folder / name / CONFIG_FILE for name in names},
        graphs={name: folder / name / str(settings.version) / MODEL_FILE for name in names},
    )


def _check_frame_size(bundle: Bundle, graph: str) -> None:
    """Refuse an image encoder that cannot take batches."""
    for spec in bundle.graph_record(graph).inputs:
        if all(isinstance(size, int) for size in spec.shape):
            raise SamusEdgeError(
                f"bundle {bundle.path} is frozen to one frame, {spec}, and Triton joins frames of "
                "any size into batches. Export the bundle without --frame-size."
            )


def _served_models(
    bundle: Bundle, part: str, graph: str, settings: TritonSettings
) -> Iterator[tuple[ServedModel, bytes]]:
    """Every variant of one part, with its ONNX file."""
    record = bundle.graph_record(graph)
    check_graph(part, record)
    model = _load(bundle, graph)
    specs = tensor_specs(model.graph.input), tensor_specs(model.graph.output)
    check_graph(part, replace(record, inputs=specs[0], outputs=specs[1]))
    content = bundle.read_graph(graph)
    if record.external_data:
        content = model.SerializeToString(deterministic=True)
    if part == MASK_DECODER:
        batch_mask_decoder(model)
        original, content = content, graph_file(model)
        check_served_graph(content, original, record)
    for variant in sorted(settings.variants):
        served = ServedModel(
            name=f"{settings.prefix}{part}_{variant}",
            part=part,
            variant=variant,
            graph=graph,
            sha256=hashlib.sha256(content).hexdigest(),
            inputs=tensor_specs(model.graph.input),
            outputs=tensor_specs(model.graph.output),
        )
        yield served, content


def _load(bundle: Bundle, graph: str) -> ModelProto:
    """A graph of the bundle with all its tensors inside.

    Raises:
        BundleError: if a tensor that is kept in another file is not whole.
    """
    model = onnx.load_model_from_string(bundle.read_graph(graph))
    files = bundle.read_external_data(graph)
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        where = ExternalDataInfo(tensor)
        start = where.offset or 0
        content = files[where.location]
        end = len(content) if where.length is None else start + where.length
        if end > len(content):
            raise BundleError(
                f"tensor {tensor.name!r} of {bundle.graph_record(graph).file} ends at byte {end} "
                f"of {where.location}, which has {len(content)}. Export the bundle again."
            )
        tensor.raw_data = content[start:end]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return model


def _write_model(
    draft: Path,
    model: ServedModel,
    content: bytes,
    bundle: Bundle,
    settings: TritonSettings,
    precision: str,
) -> None:
    manifest = bundle.manifest
    parameters = {
        "samus_edge.bundle": manifest.name,
        "samus_edge.arch": manifest.arch,
        "samus_edge.weights_sha256": manifest.weights_sha256,
        "samus_edge.precision": precision,
        "samus_edge.graph": model.graph,
        "samus_edge.graph_sha256": manifest.graphs[model.graph].sha256,
        "samus_edge.file_sha256": model.sha256,
        "samus_edge.written_by": f"samus-edge {__version__}",
        "samus_edge.image_size": str(manifest.prompts.size),
        "samus_edge.mask_threshold": repr(manifest.mask_threshold),
        "samus_edge.licence": manifest.licence,
        "samus_edge.limits": " ".join(manifest.limits),
    }
    version = draft / model.name / str(settings.version)
    version.mkdir(parents=True, mode=0o755)
    config = model_config(model, settings, parameters, manifest.name)
    write_files_atomically({version / MODEL_FILE: content})
    write_files_atomically({draft / model.name / CONFIG_FILE: config.encode()})
