"""One entry for every kind of checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from samus_edge.errors import WeightsError
from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.weights.checkpoint_file import CheckpointFile, read_checkpoint
from samus_edge.weights.checkpoint_loading import load_start_weights, model_from_checkpoint
from samus_edge.weights.model_file import save_model

Build = Callable[..., SamusHF]


def saved(state: object, tmp_path: Path) -> Path:
    """A PyTorch checkpoint."""
    path = tmp_path / "checkpoint.pth"
    torch.save(state, path)
    return path


def test_kinds_are_told_apart(
    small_vit: Build, sam_state: dict[str, Tensor], samus_state: dict[str, Tensor], tmp_path: Path
) -> None:
    parallel = {f"module.{name}": tensor for name, tensor in samus_state.items()}
    for state, kind in (
        (sam_state, "SAM's ViT-B checkpoint"),
        (samus_state, "a SAMUS checkpoint"),
        ({"state_dict": parallel, "epoch": 1}, "a SAMUS checkpoint"),
    ):
        account = load_start_weights(small_vit(), read_checkpoint(saved(state, tmp_path)))
        assert account.source == f"{kind} (checkpoint.pth)"
        assert account.left_over == ()


def test_another_architectures_checkpoint_is_refused(
    small_vit: Build, sam_state: dict[str, Tensor], random_model: SamusHF, tmp_path: Path
) -> None:
    sam, own = saved(sam_state, tmp_path), tmp_path / "own.safetensors"
    save_model(random_model, own, {"arch": "tiny", "hf": True, "gate": True})
    with pytest.raises(WeightsError, match=r"SAM's weights, which start .* 'vit_b', not 'tiny'"):
        model_from_checkpoint(sam, "tiny")
    with pytest.raises(WeightsError, match=r"weights of samus-edge, .* 'tiny', not 'vit_b'"):
        model_from_checkpoint(own, "vit_b")
    lite_medsam = CheckpointFile(
        Path("lite_medsam.pth"), {"image_encoder.layers.0.x": torch.zeros(1)}, {}
    )
    with pytest.raises(WeightsError, match=r"LiteMedSAM's weights, .* 'tiny', not 'vit_b'"):
        load_start_weights(small_vit(), lite_medsam)


def test_what_is_no_known_checkpoint_is_refused(small_vit: Build) -> None:
    other = CheckpointFile(Path("resnet.pth"), {"conv1.weight": torch.zeros(1)}, {})
    for model in (small_vit(), samus_hf_tiny()):
        with pytest.raises(WeightsError, match=r"resnet\.pth holds no .* 1 tensors, conv1\.weight"):
            load_start_weights(model, other)


def test_fresh_parts_depend_on_the_seed_alone_and_own_weights_come_back(
    tmp_path: Path, lite_medsam_checkpoint: Path
) -> None:
    path = lite_medsam_checkpoint
    first, account = model_from_checkpoint(path, "tiny", gate=False)
    again, _ = model_from_checkpoint(path, "tiny", gate=False)
    states = [model.state_dict() for model in (first, again)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert account.source == "LiteMedSAM's checkpoint (lite_medsam.pth)"
    assert first.training and all(p.requires_grad for p in first.parameters())

    own = tmp_path / "own.safetensors"
    save_model(first, own, {"arch": "tiny", "hf": True, "gate": False})
    started, account = model_from_checkpoint(own, "tiny", gate=True, seed=5)
    assert account.source == "a samus-edge weights file (own.safetensors)"
    assert account.new and all(".gate." in name for name in account.new)
    state = started.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in states[0].items())
