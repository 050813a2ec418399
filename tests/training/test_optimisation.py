"""Groups of parameters, optimisers and schedules."""

import math
from collections.abc import Callable

import pytest
import torch

from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.training.config import TrainConfig
from samus_edge.training.optimisation import make_optimizer, schedule_factor, set_rates


def test_vectors_and_tables_are_not_decayed_and_the_decoder_learns_slower() -> None:
    model = samus_hf_tiny()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, TrainConfig())
    found: dict[str, tuple[float, float]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["peak_lr"], group["weight_decay"])
    assert found.keys() == set(names.values())
    for name, (rate, decay) in found.items():
        assert rate == (3e-4 if name.startswith("image_encoder.") else 1e-4)
        is_vector = model.get_parameter(name).ndim == 1 or "bias_table" in name
        assert decay == (0.0 if is_vector or name.endswith("gate.scale") else 0.05)


def test_frozen_parameters_are_left_out(make_small_model: Callable[[], SamusHF]) -> None:
    model = make_small_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"no trainable parameter\. Name parts"):
        make_optimizer(model, TrainConfig())
    kept = model.get_parameter("image_encoder.conv.weight").requires_grad_(True)
    groups = make_optimizer(model, TrainConfig()).param_groups
    assert [parameter is kept for group in groups for parameter in group["params"]] == [True]


@pytest.mark.parametrize(
    ("name", "kind", "betas"),
    [("adam", torch.optim.Adam, (0.9, 0.999)), ("adamw", torch.optim.AdamW, (0.9, 0.99))],
)
def test_the_optimizer_is_the_one_asked_for(
    make_small_model: Callable[[], SamusHF],
    name: str,
    kind: type[torch.optim.Optimizer],
    betas: tuple[float, float],
) -> None:
    optimizer = make_optimizer(make_small_model(), TrainConfig(optimizer=name))
    assert type(optimizer) is kind
    assert all(group["betas"] == betas for group in optimizer.param_groups)


def test_rates_warm_up_and_fall_along_a_cosine_or_stay() -> None:
    factors = [schedule_factor("cosine", step, 2, 6) for step in range(6)]
    cosine = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    assert factors == pytest.approx([0.5, 1.0, *cosine])
    assert [schedule_factor("constant", step, 2, 6) for step in range(6)] == [0.5, 1, 1, 1, 1, 1]
    assert schedule_factor("cosine", 0, 0, 1) == 1.0


def test_rates_are_a_factor_of_each_peak(make_small_model: Callable[[], SamusHF]) -> None:
    optimizer = make_optimizer(make_small_model(), TrainConfig())
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.25)  # of the peak, not of the rate before
    rates = {group["peak_lr"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {3e-4: 0.75e-4, 1e-4: 0.25e-4}
