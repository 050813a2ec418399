"""Weights files: what is saved comes back, and what is not ours is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samus_edge.errors import OutputFileError, WeightsError
from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.weights.checkpoint_file import read_checkpoint
from samus_edge.weights.model_file import load_model, load_own, save_model, settings_of

SETTINGS = {"arch": "tiny", "hf": True, "gate": True}


@pytest.fixture
def weights(random_model: SamusHF, tmp_path: Path) -> Path:
    """A weights file of `random_model`."""
    path = tmp_path / "model.safetensors"
    save_model(random_model, path, SETTINGS)
    return path


def resave(path: Path, changes: dict[str, torch.Tensor | None], metadata: dict[str, str]) -> None:
    """Write the file again with other tensors or metadata; None removes a tensor."""
    tensors: dict[str, Any] = {**load_file(path), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, path, metadata=metadata)


def test_a_model_comes_back_as_it_was(random_model: SamusHF, weights: Path) -> None:
    loaded = load_model(weights)
    expected = random_model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(("hf", "gate"), [(True, False), (False, True)])
def test_the_switches_come_back(hf: bool, gate: bool, tmp_path: Path) -> None:
    model = samus_hf_tiny(hf=hf, gate=gate)
    path = tmp_path / "model.safetensors"
    save_model(model, path, {**SETTINGS, "hf": hf, "gate": gate, "seed": 3})
    assert load_model(path).state_dict().keys() == model.state_dict().keys()


def test_a_model_in_the_layout_of_training_is_saved_as_well(
    random_model: SamusHF, tmp_path: Path
) -> None:
    model = samus_hf_tiny(proposer=True)
    model.load_state_dict(random_model.state_dict())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch omits it
    path = tmp_path / "channels_last.safetensors"
    save_model(model, path, SETTINGS)
    expected = random_model.state_dict()
    loaded = load_model(path).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


def test_an_unwritable_place_is_named(random_model: SamusHF, tmp_path: Path) -> None:
    with pytest.raises(OutputFileError, match=r"nowhere/model\.safetensors"):
        save_model(random_model, tmp_path / "nowhere" / "model.safetensors", SETTINGS)


@pytest.mark.parametrize("content", [None, b"", b"text", b"\xff" * 64], ids=str)
def test_a_file_that_is_no_safetensors_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read as safetensors"):
        load_model(path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"foreign.* is 'pt', expected 'samus-edge-weights'"):
        load_model(path)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("", "Expecting value"),
        ("[1]", "must be a mapping"),
        ('{"arch": "tiny"}', "hf is missing; gate is missing"),
        (json.dumps({**SETTINGS, "arch": "huge"}), "arch must be one of tiny, vit_b, got 'huge'"),
    ],
)
def test_a_file_that_does_not_say_what_it_holds_is_refused(
    settings: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"format": "samus-edge-weights", "settings": settings}
    save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(WeightsError, match=rf"does not say what model it holds .*{problem}"):
        load_model(path)


def test_all_tensors_that_do_not_fit_are_named_in_one_error(weights: Path) -> None:
    resave(
        weights,
        {
            "mask_decoder.iou_token.weight": None,
            "image_encoder.skip0.bias": None,
            "head.weight": torch.zeros(3),
            "image_encoder.neck_in.0.weight": torch.zeros(1, 2, 3, 4),
        },
        {
            "format": "samus-edge-weights",
            "settings": json.dumps({**SETTINGS, "proposer": True}),
        },
    )
    with pytest.raises(WeightsError) as caught:
        load_model(weights)
    message = str(caught.value)
    assert str(weights) in message
    for name in ("mask_decoder.iou_token.weight", "image_encoder.skip0.bias"):
        assert name in message[message.index("missing: 2 (") : message.index("unknown")]
    assert "unknown: 1 (head.weight)" in message
    assert "image_encoder.neck_in.0.weight (1, 2, 3, 4), expected (256, 320, 1, 1)" in message


@pytest.fixture
def plain_weights(tmp_path: Path) -> Path:
    """Weights of a tiny model with both switches off."""
    path = tmp_path / "plain.safetensors"
    save_model(
        samus_hf_tiny(hf=False, gate=False), path, {"arch": "tiny", "hf": False, "gate": False}
    )
    return path


def test_a_model_with_more_switches_on_starts_as_what_it_is_started_from(
    plain_weights: Path,
) -> None:
    model = samus_hf_tiny()
    account = load_own(model, read_checkpoint(plain_weights))
    kernel = "image_encoder.cnn_branch.steps.0.conv.weight"
    assert list(account.adapted) == [kernel] and account.left_over == ()
    assert account.new and all(".gate." in name for name in account.new)
    plain = load_model(plain_weights)
    generator = torch.Generator().manual_seed(0)
    image, high_frequency = torch.rand(2, 1, 1, 256, 256, generator=generator)
    with torch.no_grad():
        found = model.eval().image_encoder(image, high_frequency)
        expected = plain.image_encoder(image, high_frequency)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # float32, values around 1


def test_a_vit_with_more_switches_on_takes_everything(
    small_vit: Callable[..., SamusHF], tmp_path: Path
) -> None:
    path = tmp_path / "plain.safetensors"
    plain = small_vit(hf=False, gate=False)
    save_model(plain, path, {"arch": "vit_b", "hf": False, "gate": False})
    model = small_vit()
    account = load_own(model, read_checkpoint(path))
    assert sorted(account.taken) == sorted(plain.state_dict()) and not account.adapted
    assert {name.split(".")[2] for name in account.new} == {"hf_conv", "gate"}


@pytest.mark.parametrize(
    ("hf", "gate", "lost"),
    [(False, True, "hf"), (True, False, "gate"), (False, False, "hf and gate")],
)
def test_a_trained_switch_is_not_dropped_in_silence(
    hf: bool, gate: bool, lost: str, weights: Path, small_vit: Callable[..., SamusHF]
) -> None:
    with pytest.raises(WeightsError, match=f"was trained with {lost}, which"):
        load_own(samus_hf_tiny(hf=hf, gate=gate), read_checkpoint(weights))
    path = weights.with_name("vit.safetensors")
    save_model(small_vit(), path, {"arch": "vit_b", "hf": True, "gate": True})
    with pytest.raises(WeightsError, match=f"was trained with {lost}, which"):
        load_own(small_vit(hf=hf, gate=gate), read_checkpoint(path))


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("hf", [True, False])
def test_a_models_settings_are_read_off_it(
    hf: bool, gate: bool, small_vit: Callable[..., SamusHF]
) -> None:
    for model, arch in (
        (samus_hf_tiny(hf=hf, gate=gate), "tiny"),
        (small_vit(hf=hf, gate=gate), "vit_b"),
    ):
        settings = settings_of(model)
        assert (settings.arch, settings.hf, settings.gate) == (arch, hf, gate)
