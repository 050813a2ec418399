"""The model that a training starts from."""

from pathlib import Path

import pytest
import torch

from samus_edge.errors import MissingExtraError, WeightsError
from samus_edge.training.config import TrainConfig
from samus_edge.training.start import started_model
from samus_edge.weights.lite_medsam import default_checkpoint
from samus_edge.weights.model_file import save_model


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    """LiteMedSAM's checkpoint; skips where its package is not installed."""
    try:
        return default_checkpoint()
    except MissingExtraError as err:
        pytest.skip(str(err))


def test_fresh_parts_depend_on_the_seed_alone(checkpoint: Path) -> None:
    torch.manual_seed(123)
    first, account = started_model(TrainConfig(seed=1), checkpoint)
    expected = torch.rand(3)
    torch.manual_seed(123)
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    again, _ = started_model(TrainConfig(seed=1), checkpoint)
    other, _ = started_model(TrainConfig(seed=2), checkpoint)
    states = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    changed = {
        name for name, tensor in states[0].items() if not torch.equal(tensor, states[2][name])
    }
    assert changed and changed <= set(account.new)


def test_the_switches_reach_the_model(checkpoint: Path) -> None:
    model, account = started_model(TrainConfig(hf=False, gate=False), checkpoint)
    assert model.state_dict()["image_encoder.cnn_branch.steps.0.conv.weight"].shape[1] == 1
    assert not any(".gate." in name for name in account.new)


def test_tiny_starts_from_lite_medsam_by_default(checkpoint: Path) -> None:
    model, account = started_model(TrainConfig(), None)
    given, _ = started_model(TrainConfig(), checkpoint)
    assert account.source == "LiteMedSAM (lite_medsam.pth)"
    state = given.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_vit_b_says_which_checkpoint_to_bring() -> None:
    with pytest.raises(ValueError, match=r"'vit_b' needs a checkpoint.*sam_vit_b_01ec64\.pth"):
        started_model(TrainConfig(arch="vit_b"))


def test_another_architectures_checkpoint_is_an_error(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"LiteMedSAM's weights, .* 'tiny', not 'vit_b'"):
        started_model(TrainConfig(arch="vit_b"), checkpoint)


def test_a_training_goes_on_from_our_own_weights(checkpoint: Path, tmp_path: Path) -> None:
    first, _ = started_model(TrainConfig(hf=False), checkpoint)
    path = tmp_path / "best.safetensors"
    save_model(first, path, {"arch": "tiny", "hf": False, "gate": True})
    model, account = started_model(TrainConfig(hf=False, seed=7), path)
    assert account.new == () and account.adapted == {}
    state = first.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_a_wrong_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        started_model(TrainConfig(), tmp_path / "nowhere.pth")
