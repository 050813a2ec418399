"""Which tensors fit a recorded one."""

import pytest

from samus_edge.runtime.graph_record import TensorSpec


@pytest.mark.parametrize(
    ("dtype", "shape", "fits"),
    [
        ("float32", (3, 7, 2), True),
        ("float32", ("n", None, 2), True),  # sizes not known yet
        ("float32", (3, 7, 3), False),  # a fixed size differs
        ("float32", (7, 2), False),  # rank
        ("float64", (3, 7, 2), False),  # dtype
    ],
)
def test_only_sizes_known_on_both_sides_must_agree(
    dtype: str, shape: tuple[int | str | None, ...], fits: bool
) -> None:
    spec = TensorSpec("point_coords", "float32", ("N", "P", 2))
    assert spec.accepts(dtype, shape) is fits


def test_a_spec_reads_like_its_documentation() -> None:
    assert str(TensorSpec("image", "uint8", ("B", 480, "W"))) == "image uint8 (B, 480, W)"
