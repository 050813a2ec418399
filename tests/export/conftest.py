"""Bundles written of graphs at hand, and sessions on the exported bundle."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch

from samus_edge.export.bundle_writer import BundleText, shipped_model, write_bundle
from samus_edge.export.triton_repository import TritonRepository, write_triton_repository
from samus_edge.modeling import SamusHF
from samus_edge.modeling.model_parts import samus_hf_vit
from samus_edge.runtime.bundle.bundle import Bundle
from tests.conftest import AssetFrame, made_once

Array = npt.NDArray[Any]
RunGraph = Callable[[dict[str, Array]], dict[str, Array]]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> TritonRepository:
    """The default bundle as a Triton model repository; do not change it."""
    folder: Path = tmp_path_factory.mktemp("triton") / "models"
    return write_triton_repository(Bundle.open(), folder)


def run_graph(content: bytes) -> RunGraph:
    """A function that runs a graph on ONNX Runtime's CPU, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(None, feeds), strict=True))

    return run


def small_vit(*, hf: bool, gate: bool) -> SamusHF:
    """A small `vit_b` with a block of each kind, from seed 0; a full one is slow to export."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return samus_hf_vit(
            embed_dim=32, depth=2, num_heads=2, global_blocks=(1,), hf=hf, gate=gate
        ).eval()


@pytest.fixture(scope="session")
def vit_model() -> SamusHF:
    """`small_vit` with HF and gate; no tensor is left constant, as in `random_model`."""
    model = small_vit(hf=True, gate=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                tensor += 0.02 * torch.randn_like(tensor)
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def shipped_vit_model(vit_model: SamusHF) -> SamusHF:
    """What `vit_bundle` computes."""
    return shipped_model(vit_model)


@pytest.fixture(scope="session")
def vit_bundle(
    vit_model: SamusHF, tmp_path_factory: pytest.TempPathFactory, asset_frames: list[AssetFrame]
) -> Path:
    """A bundle that the exporter wrote from `vit_model`; do not change it."""

    def write(folder: Path) -> None:
        write_bundle(
            vit_model,
            folder,
            text=BundleText.of(vit_model),
            weights_sha256="0" * 64,
            frames=[asset_frames[-1].image],
        )

    return made_once(tmp_path_factory, "vit_bundle", write)


@pytest.fixture
def write_again(
    spared_export: None, random_model: SamusHF, asset_frames: list[AssetFrame]
) -> Callable[..., None]:
    """Writes a bundle of `exported_graphs` to a folder."""

    def write(folder: Path, *, model: SamusHF = random_model, overwrite: bool = False) -> None:
        write_bundle(
            model,
            folder,
            text=BundleText("random-weights"),
            weights_sha256="0" * 64,
            frames=[asset_frames[-1].image],
            overwrite=overwrite,
        )

    return write


@pytest.fixture(scope="session")
def run_image_encoder(random_bundle: Path) -> RunGraph:
    """Runs the shipped image encoder: uint8 frames (B, H, W)."""
    return run_graph((random_bundle / "image_encoder.onnx").read_bytes())


@pytest.fixture(scope="session")
def run_mask_decoder(random_bundle: Path) -> RunGraph:
    """Runs the shipped mask decoder."""
    return run_graph((random_bundle / "mask_decoder.onnx").read_bytes())


@pytest.fixture(scope="session")
def embeddings(run_image_encoder: RunGraph, asset_frames: list[AssetFrame]) -> Array:
    """(1, 256, 32, 32), float32: a real frame's image embeddings."""
    return np.asarray(
        run_image_encoder({"image": asset_frames[-1].image[None]})["image_embeddings"]
    )


# `kill_each_step` writes again and again, each time in a child that is killed (SIGKILL) at its next
# change of the file system under the target's parent, and prints each step.
_KILLING = """
import os, signal, sys
from pathlib import Path

def kill_at(last, root):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        path = arguments[0] if arguments else None
        if event == "open":
            flags = arguments[2]
            is_change = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            is_change = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "ctypes.dlopen")
            path = str(root) if event == "ctypes.dlopen" else path  # about to exchange two folders
        if is_change and isinstance(path, (str, os.PathLike)) and str(path).startswith(str(root)):
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def kill_each_step(work, write, prepare=lambda root: None):
    for step in range(1, 100):
        root = Path(work) / f"{step:02}"
        root.mkdir(parents=True)
        prepare(root)
        child = os.fork()
        if child == 0:
            kill_at(step, root)
            try:
                write(root)
            except BaseException as err:
                print(repr(err), file=sys.stderr, flush=True)
                os._exit(3)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(step, flush=True)
        if status != -signal.SIGKILL:
            sys.exit(status)
"""


def killed_steps(script: str, work: Path, *arguments: str | Path) -> list[Path]:
    """Run a script that calls `kill_each_step`; what each child left, the last one not killed.

    Args:
        script: sees ``work`` and the arguments in ``sys.argv``.
        work: an empty folder, with a folder for each child afterwards.
        arguments: further arguments.
    """
    command = [sys.executable, "-I", "-c", _KILLING + script, str(work), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [work / f"{int(step):02}" for step in done.stdout.split()]
