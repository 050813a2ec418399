"""From weights to a checked bundle folder."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto

from samus_edge import __version__
from samus_edge.errors import BadArgumentError
from samus_edge.export.graph_cleanup import (
    GELU_OPSET,
    OLDEST_OPSET,
    downgrade,
    graph_file,
    tensor_specs,
)
from samus_edge.export.parity import ParityReport, measure_parity
from samus_edge.export.torch_graph import (
    DEFAULT_OPSET,
    freeze_frame_size,
    image_encoder_graph,
    lesion_proposer_graph,
    mask_decoder_graph,
)
from samus_edge.export.weight_storage import expand_weights, round_weights, store_compactly
from samus_edge.modeling.model_parts import arch_of, fold_constants
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.backends.onnxruntime_backend import ort
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import (
    IMAGE_ENCODER,
    LESION_PROPOSER,
    MANIFEST_FILE,
    MASK_DECODER,
    GraphRecord,
    Manifest,
    Preprocessing,
    PromptFrame,
)
from samus_edge.runtime.images.output_files import draft_folder, write_files_atomically
from samus_edge.weights.bundle_file import map_tensors, put_tensors
from samus_edge.weights.model_file import settings_of

NEWEST_OPSET = 23
"""What ONNX Runtime and TensorRT 10 both take."""

_CREDITS = {
    "tiny": (
        "Started from LiteMedSAM (Apache-2.0), whose training data probably included BUSI.",
        "Architecture after SAMUS (arXiv 2309.06824), TinyViT (2207.10666) and SAM (2304.02643).",
    ),
    "vit_b": (
        "Started from weights of SAM ViT-B (Apache-2.0) or SAMUS, which were brought along.",
        "Architecture after SAMUS (arXiv 2309.06824) and SAM (2304.02643).",
    ),
}


@dataclass(frozen=True)
class BundleText:
    """What a bundle says about itself in words.

    Attributes:
        name: the bundle's name.
        licence: SPDX expression.
        credits: credits for the data and weights that went into it.
        intended_use: its intended use.
        limits: its limits.
    """

    name: str
    licence: str = "Apache-2.0"
    credits: tuple[str, ...] = _CREDITS["tiny"]
    intended_use: str = "Research and engineering: prompted segmentation in B-mode ultrasound."
    limits: tuple[str, ...] = (
        "Not a medical device; not for diagnosis.",
        "How accurate it is on other data than it was measured on is unknown: measure before use.",
        "It segments what the prompt marks and does not decide whether there is a lesion.",
    )

    @classmethod
    def of(
        cls, model: SamusHF, name: str | None = None, credits: Sequence[str] = ()
    ) -> "BundleText":
        """What a bundle of this model's architecture says.

        Args:
            model: the model.
            name: the bundle's name; None for `samus-hf-` and the architecture.
            credits: whose data and weights went into it, beside those of the architecture.
        """
        arch = arch_of(model)
        name = f"samus-hf-{arch.replace('_', '-')}" if name is None else name
        return cls(name, credits=(*credits, *_CREDITS[arch]))

    @classmethod
    def of_manifest(
        cls, manifest: Manifest, name: str | None = None, credits: Sequence[str] = ()
    ) -> "BundleText":
        """What a bundle says that was made from another one.

        Args:
            manifest: that of the other one.
            name: the bundle's name; None for the same.
            credits: whose data and weights went into it, beside those of the other one.
        """
        return cls(
            name=manifest.name if name is None else name,
            licence=manifest.licence,
            credits=(*credits, *manifest.credits),
            intended_use=manifest.intended_use,
            limits=manifest.limits,
        )


def write_bundle(
    model: SamusHF,
    folder: Path,
    *,
    text: BundleText,
    weights_sha256: str,
    frames: Sequence[npt.NDArray[np.uint8]],
    opset: int = DEFAULT_OPSET,
    frame_hw: tuple[int, int] | None = None,
    template: Bundle | None = None,
    overwrite: bool = False,
    check: Callable[[Path], None] = lambda draft: None,
    report: Callable[[str], None] = lambda stage: None,
) -> tuple[Manifest, ParityReport]:
    """Export a model, check the written files against it, and only then put the folder in place.

    PyTorch's exporter takes most of a minute. The graphs of a template hold the same nodes if it is
    of the same architecture; with the model's tensors in their places they are the same files.

    Args:
        model: the model; left as it is.
        folder: the bundle's new folder.
        text: the bundle's name, licence, credits and limits.
        weights_sha256: SHA-256 of the weights file.
        frames: real grey frames (H, W), uint8, to measure parity on.
        opset: ONNX operator set, from `OLDEST_OPSET` to `NEWEST_OPSET`.
        frame_hw: the one frame size (H, W) that the image encoder takes, pixels; None for any size.
            ``frames`` have to have it.
        template: a bundle whose graphs are taken where they fit; None to make all of them anew.
        overwrite: whether an existing bundle at ``folder`` is replaced.
        check: called with the finished draft before it is put in place; may raise to refuse it, and
            may add to it.
        report: called with the name of each stage as it starts.

    Returns:
        The manifest and the measured parity.

    Raises:
        BadArgumentError: if there are no frames, one has another size than ``frame_hw``, or
            ``opset`` is out of range.
        SamusEdgeError: if ``folder`` exists and is not to be overwritten, or is no bundle.
        ExportMismatchError: if a parity gate does not hold; nothing is left at ``folder``.
    """
    if not frames:
        raise BadArgumentError(
            "frames must hold at least one real frame to measure parity on, got none."
        )
    check_opset(opset)
    if frame_hw is not None and any(frame.shape != frame_hw for frame in frames):
        raise BadArgumentError(f"frames must all be {frame_hw[0]}x{frame_hw[1]}, as frame_hw says.")
    with draft_folder(folder, kind="a bundle", marker=MANIFEST_FILE, overwrite=overwrite) as draft:
        model = shipped_model(model)
        graphs: dict[str, GraphRecord] = {}
        builders = {IMAGE_ENCODER: image_encoder_graph, MASK_DECODER: mask_decoder_graph}
        if model.lesion_proposer is not None:
            builders[LESION_PROPOSER] = lesion_proposer_graph
        for name, build in builders.items():
            report(f"exporting {name}")
            tensors = graph_tensors(model, name)
            graph = None if template is None else _refilled(template, name, model, tensors, opset)
            if graph is None:
                graph = build(model, opset=max(opset, GELU_OPSET))
                if opset < GELU_OPSET:
                    downgrade(graph, opset)
                map_tensors(graph, tensors)
            if name == IMAGE_ENCODER and frame_hw is not None:
                freeze_frame_size(graph, frame_hw)
            graphs[name] = _write_graph(graph, name, draft)
            del graph  # half a gigabyte for a large encoder, before the next one is made
        # Should this process be killed, what it leaves says what it is.
        unfinished = replace(text, name=f"unfinished export of {text.name}")
        manifest = _manifest(model, unfinished, weights_sha256, graphs)
        manifest.write(draft / MANIFEST_FILE)
        report(f"comparing with torch on {len(frames)} frames")
        parity = measure_parity(model, draft, frames)
        parity.check()
        measured: Any = parity.to_json()
        replace(manifest, name=text.name, parity=measured).write(draft / MANIFEST_FILE)
        check(draft)
    return Manifest.read(folder / MANIFEST_FILE), parity


def _refilled(
    template: Bundle,
    name: str,
    model: SamusHF,
    tensors: dict[str, npt.NDArray[np.float32]],
    opset: int,
) -> ModelProto | None:
    """A bundle's graph with the weights of a model; None where it does not fit them."""
    record = template.manifest.graphs.get(name)
    if record is None or record.opset != opset or record.external_data:
        return None
    frame_hw = record.inputs[0].shape[1:] if name == IMAGE_ENCODER else ()
    if any(isinstance(size, int) for size in frame_hw):
        return None
    graph = onnx.load_from_string(template.read_graph(name))
    expand_weights(graph)
    constants = {}
    if name == MASK_DECODER:
        constants["prompt_encoder.dense_encoding"] = model.prompt_encoder.dense_pe().numpy()
    return graph if put_tensors(graph, tensors, constants) else None


def check_opset(opset: int) -> None:
    """Refuse an operator set that graphs are not written for.

    Raises:
        BadArgumentError: unless it is from `OLDEST_OPSET` to `NEWEST_OPSET`.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise BadArgumentError(f"opset must be from {OLDEST_OPSET} to {NEWEST_OPSET}, got {opset}.")


def shipped_model(model: SamusHF) -> SamusHF:
    """A copy that computes what the bundle computes: constants folded, weights rounded."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    # torch's annotations of Module.to leave memory_format out
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    fold_constants(model)
    round_weights(model)
    return model


def graph_tensors(model: SamusHF, graph: str) -> dict[str, npt.NDArray[np.float32]]:
    """The model's tensors that a graph computes with."""
    parts = {IMAGE_ENCODER: "image_encoder.", LESION_PROPOSER: "lesion_proposer."}
    part = parts.get(graph, ("prompt_encoder.", "mask_decoder."))
    return {
        name: tensor.numpy() for name, tensor in model.state_dict().items() if name.startswith(part)
    }


def _write_graph(graph: ModelProto, name: str, folder: Path) -> GraphRecord:
    store_compactly(graph)
    content = graph_file(graph, name)
    path = folder / f"{name}.onnx"
    write_files_atomically({path: content})
    return GraphRecord(
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        precision="fp32",
        weight_storage="fp16",
        opset=graph.opset_import[0].version,
        inputs=tensor_specs(graph.graph.input),
        outputs=tensor_specs(graph.graph.output),
    )


def preprocessing_of(model: SamusHF) -> Preprocessing:
    """What the image encoder's graph does to a frame, in words."""
    size = model.prompt_encoder.image_size
    wavelet = (
        "one-level Haar details of the raw frame, HL + LH + HH, each and the sum min-max scaled, "
        "resized as the frame, in [0, 1]"
    )
    return Preprocessing(
        image_size=size,
        grey="colour to grey before the graph: 0.299 R + 0.587 G + 0.114 B, rounded to uint8",
        resize=f"bilinear to {size}x{size}, half-pixel centres, no antialiasing, aspect not kept",
        scaling="grey / 255, no mean or standard deviation",
        high_frequency=wavelet if settings_of(model).hf else "none, the model was built without it",
    )


def _manifest(
    model: SamusHF, text: BundleText, weights_sha256: str, graphs: dict[str, GraphRecord]
) -> Manifest:
    size = model.prompt_encoder.image_size
    return Manifest(
        name=text.name,
        model="samus_hf",
        arch=arch_of(model),
        weights_sha256=weights_sha256,
        created_with={
            "samus_edge": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
        },
        preprocessing=preprocessing_of(model),
        prompts=PromptFrame(
            frame="model",
            size=size,
            rule=f"xy_model = (xy + 0.5) * ({size} / (W, H)) - 0.5; pixel centres at integers",
            labels={
                "-1": "padding",
                "0": "background point",
                "1": "foreground point",
                "2": "top left corner of a box",
                "3": "bottom right corner of a box",
            },
        ),
        mask_threshold=0.0,
        graphs=graphs,
        parity={},
        accuracy={},
        licence=text.licence,
        credits=text.credits,
        intended_use=text.intended_use,
        limits=text.limits,
    )
