"""The model that a training starts from."""

from pathlib import Path

import pytest
import torch

from samus_edge.errors import MissingExtraError, WeightsError
from samus_edge.training.config import TrainConfig
from samus_edge.training.start import started_model
from samus_edge.weights.lite_medsam import default_checkpoint


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


def test_a_wrong_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        started_model(TrainConfig(), tmp_path / "nowhere.pth")
