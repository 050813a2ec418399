"""The two-layer perceptron against Segment Anything's."""

import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.mlp_block import MLPBlock


@pytest.mark.parametrize(("act", "theirs"), [(F.relu, nn.ReLU), (nn.GELU(), nn.GELU)])
def test_computes_segment_anythings(
    segment_anything_modeling: types.ModuleType,
    act: Callable[[Tensor], Tensor],
    theirs: type[nn.Module],
) -> None:
    reference = segment_anything_modeling.common.MLPBlock(6, 10, theirs)
    ours = MLPBlock(6, 10, act)
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(3, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x))
