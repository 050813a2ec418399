"""Rounding of weights: how far values move, and that storage recognises the result."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from samus_edge.calibration.weight_rounding import round_to_int8_grid, round_weights

HALF_SUBNORMAL = 2.0**-25
"""Half of the distance between the smallest half-precision numbers."""


class Layers(nn.Module):
    """Matrices, a kernel and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Linear(32, 16)
        self.other = nn.Linear(32, 16)
        self.small = nn.Linear(5, 4)
        self.conv = nn.Conv2d(4, 8, 3)
        self.register_buffer("table", torch.randn(64, 64))


@pytest.fixture
def layers() -> Layers:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Layers()


def test_matrices_go_to_half_precision_or_to_the_grid_and_the_rest_stays(layers: Layers) -> None:
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    round_weights(layers, int8=["other.weight"])
    after = layers.state_dict()
    for name in ("large.weight", "conv.weight"):
        halves = before[name].numpy().astype(np.float16)
        np.testing.assert_array_equal(after[name].numpy(), halves.astype(np.float32))
        assert not torch.equal(after[name], before[name])
    steps = after["other.weight"] / after["other.weight"].abs().amax(dim=1, keepdim=True) * 127
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    kept = set(before) - {"large.weight", "conv.weight", "other.weight"}
    assert all(torch.equal(after[name], before[name]) for name in kept)


def test_rounding_again_changes_nothing(layers: Layers) -> None:
    round_weights(layers, int8=["other.weight"])
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    round_weights(layers, int8=["other.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())


def test_names_that_are_no_matrices_are_all_named_before_anything_changes(layers: Layers) -> None:
    before = layers.large.weight.clone()
    with pytest.raises(ValueError, match=r"got conv\.weight, large\.bias, nowhere\.weight\."):
        round_weights(layers, int8=["nowhere.weight", "large.bias", "large.weight", "conv.weight"])
    assert torch.equal(layers.large.weight, before)


@given(
    rows=st.lists(
        st.lists(st.floats(-1.0, 1.0, width=32), min_size=1, max_size=6), min_size=1, max_size=4
    ).filter(lambda rows: len({len(row) for row in rows}) == 1),
    exponent=st.integers(-30, 10),
)
@example(rows=[[0.0, 0.0]], exponent=0)
@example(rows=[[1.0, 0.503]], exponent=-11)  # a scale of few bits, whose largest step is not 127
@example(rows=[[1.0, -1.0]], exponent=-18)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_values_move_by_half_a_step_and_the_grid_can_be_read_back(
    rows: list[list[float]], exponent: int
) -> None:
    matrix = np.array(rows, np.float32) * np.float32(2.0**exponent)
    rounded = round_to_int8_grid(torch.from_numpy(matrix)).numpy()
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    step = (largest / np.float32(127)).astype(np.float16).astype(np.float32)
    # half a step, and what rounding the step to half precision moves the largest of 127 steps by
    bound = 0.5 * step + np.maximum(step * 2.0**-11, HALF_SUBNORMAL) * 128
    assert (np.abs(rounded - matrix) <= bound).all()
    # the scale that a reader finds is the one that was used
    found = np.abs(rounded).max(axis=1, keepdims=True) / np.float32(127)
    scale = found.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(scale, step)
    steps = np.rint(rounded / np.where(scale > 0, scale, 1))
    assert np.abs(steps).max() <= 127
    np.testing.assert_array_equal(steps * scale, rounded)


def test_rounding_is_symmetric() -> None:
    matrix = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_to_int8_grid(-matrix), -round_to_int8_grid(matrix))
