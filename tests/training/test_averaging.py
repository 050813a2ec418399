"""The moving average of weights."""

import torch
from torch import nn

from samus_edge.training.averaging import averaged_copy


class Counter(nn.Module):
    """A number that is trained, one that is not, and an integer."""

    number: torch.Tensor
    integer: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.register_buffer("number", torch.tensor([10.0]))
        self.register_buffer("integer", torch.tensor([7]))


def test_numbers_are_averaged_and_integers_copied() -> None:
    """At a decay of 0.9 an averaged and truncated integer would stay below."""
    model = Counter()
    averaged = averaged_copy(model, 0.9)
    averaged.update_parameters(model)  # the first time copies
    for value in (2.0, 4.0):
        with torch.no_grad():
            model.weight.fill_(value)
            model.number.fill_(10 * value)
            model.integer.fill_(int(value) + 100)
        averaged.update_parameters(model)
    expected = 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4
    found = averaged.module
    assert isinstance(found, Counter)
    torch.testing.assert_close(found.weight.detach(), torch.tensor([expected]))
    torch.testing.assert_close(found.number, torch.tensor([10 * expected]))
    assert found.integer.tolist() == [104]


def test_a_decay_of_0_keeps_the_weights_themselves() -> None:
    model = Counter()
    averaged = averaged_copy(model, 0.0)
    for value in (0.1, 0.7, 0.3):
        with torch.no_grad():
            model.weight.fill_(value)
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.get_parameter("weight"), model.weight)
