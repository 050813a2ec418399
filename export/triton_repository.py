"""A Triton Inference Server model repository from a bundle."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import ModelProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from samus_edge import __version__
from samus_edge.errors import BundleError, SamusEdgeError
from samus_edge.export.batched_mask_decoder import batch_mask_decoder
from samus_edge.export.folder_replacement import put_in_place
from samus_edge.export.served_graph_check import check_served_graph
from samus_edge.export.tensorrt_graph import prepare_for_tensorrt
from samus_edge.export.triton_config import MODEL_FILE, ServedModel, model_config
from samus_edge.export.triton_readme import repository_readme
from samus_edge.export.triton_settings import TritonSettings
from samus_edge.runtime.atomic_write import write_files_atomically
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_contract import (
    IMAGE_ENCODER,
    MASK_DECODER,
    check_image_encoder,
    check_mask_decoder,
)
from samus_edge.runtime.graph_record import TensorSpec
from samus_edge.runtime.precision import check_precision, precision_name, select_graphs

__all__ = ["MANIFEST_COPY", "TritonRepository", "write_triton_repository"]

MANIFEST_COPY = "bundle_manifest.json"
CONFIG_FILE = "config.pbtxt"


@dataclass(frozen=True)
class TritonRepository:
    """A written model repository.

    Attributes:
        folder: what Triton is given as `--model-repository`.
        models: the models in it.
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

    The image encoder of the variant "onnx" is the bundle's file, byte for byte. Every other graph is
    changed (`batch_mask_decoder`, `prepare_for_tensorrt`) and run on ONNX Runtime against the
    bundle's. Needs onnx, not torch.

    Args:
        bundle: an opened bundle.
        folder: where the repository goes.
        overwrite: whether a repository at ``folder`` that this function wrote is replaced.
        settings: variants, batching and sizes; None for the defaults.
        precision: which of the bundle's graphs, as for `Segmenter.load`; the others are left out.

    Returns:
        What was written.

    Raises:
        ValueError: if there is no such precision.
        BackendError: if the bundle has it not.
        SamusEdgeError: if ``folder`` exists and is not to be overwritten, or is no such repository; or
            if the image encoder takes frames of one size alone.
        BundleError: if the bundle lacks a graph, a graph does not follow the contract of bundles, or
            a file has changed since the bundle was opened.
        ExportMismatchError: if a changed graph computes something else; nothing is left.
        OutputFileError: if a file cannot be written; nothing is left.
    """
    settings = TritonSettings() if settings is None else settings
    check_precision(precision)
    precision = precision_name(bundle, precision)
    selection = select_graphs(bundle, precision)
    graphs = {IMAGE_ENCODER: selection.image_encoder, MASK_DECODER: selection.mask_decoder}
    _check_frame_size(bundle, selection.image_encoder)
    if folder.exists():
        _check_replaceable(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        draft = Path(temporary) / "repository"
        draft.mkdir(mode=0o755)
        models: list[ServedModel] = []
        for part, graph in graphs.items():
            for model, content in _served_models(bundle, part, graph, settings):
                _write_model(draft, model, content, bundle, settings, precision)
                models.append(model)
        manifest = json.dumps(bundle.manifest.to_json(), indent=2, ensure_ascii=False)
        readme = repository_readme(bundle.manifest, models, settings)
        # Last: a folder without it is no repository that was finished.
        _write(draft / "README.md", readme.encode())
        _write(draft / MANIFEST_COPY, f"{manifest}\n".encode())
        put_in_place(draft, folder)
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
                f"bundle {bundle.path} is frozen to one frame, {spec}, and Triton joins frames of any "
                "size into batches. Export the bundle without --frame-size."
            )


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not overwrite:
        raise SamusEdgeError(f"{folder} exists. Give another folder, or --overwrite to replace it.")
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST_COPY).is_file()):
        raise SamusEdgeError(
            f"{folder} is not a model repository of samus-edge and is not replaced: it has no "
            f"{MANIFEST_COPY}. Give another folder."
        )


def _served_models(
    bundle: Bundle, part: str, graph: str, settings: TritonSettings
) -> Iterator[tuple[ServedModel, bytes]]:
    """Every variant of one part, with its ONNX file."""
    record = bundle.graph_record(graph)
    check = check_image_encoder if part == IMAGE_ENCODER else check_mask_decoder
    check(record)
    model = _load(bundle, graph)
    check(replace(record, inputs=_specs(model, "input"), outputs=_specs(model, "output")))
    original = _in_one_file(bundle, graph, model)
    if part == MASK_DECODER:
        batch_mask_decoder(model)
    for variant in sorted(settings.variants):  # "onnx" first: the next one changes the graph more
        content = original
        if part == MASK_DECODER or variant == "tensorrt":
            if variant == "tensorrt":
                prepare_for_tensorrt(model)
            onnx.checker.check_model(model, full_check=True)
            content = model.SerializeToString(deterministic=True)
            check_served_graph(content, original, record)
        served = ServedModel(
            name=f"{settings.prefix}{part}_{variant}",
            part=part,
            variant=variant,
            graph=graph,
            sha256=hashlib.sha256(content).hexdigest(),
            inputs=_specs(model, "input"),
            outputs=_specs(model, "output"),
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
                f"tensor {tensor.name!r} of {bundle.graph_record(graph).file} ends at byte {end} of "
                f"{where.location}, which has {len(content)}. Export the bundle again."
            )
        tensor.raw_data = content[start:end]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return model


def _in_one_file(bundle: Bundle, graph: str, model: ModelProto) -> bytes:
    """The bundle's own bytes where it keeps a graph in one file."""
    if bundle.graph_record(graph).external_data:
        content: bytes = model.SerializeToString(deterministic=True)
        return content
    return bundle.read_graph(graph)


def _specs(model: ModelProto, kind: str) -> tuple[TensorSpec, ...]:
    """A graph's inputs ("input") or outputs ("output"), as the file has them."""
    values = model.graph.input if kind == "input" else model.graph.output
    specs: list[TensorSpec] = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(size.dim_param or size.dim_value for size in tensor.shape.dim)
        specs.append(TensorSpec(value.name, dtype, shape))
    return tuple(specs)


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
    _write(version / MODEL_FILE, content)
    config = model_config(model, settings, parameters, manifest.name)
    _write(draft / model.name / CONFIG_FILE, config.encode())


def _write(path: Path, content: bytes) -> None:
    write_files_atomically({path: content})
