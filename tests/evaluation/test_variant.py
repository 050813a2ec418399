"""Variants that share images are merged."""

from samus_edge.evaluation.image_perturbation import Gain
from samus_edge.evaluation.prompt_protocol import CENTRE_POINT, JITTERED_BOX, BoxProtocol
from samus_edge.evaluation.variant import Variant, merge_variants


def test_each_image_and_each_protocol_on_it_comes_once() -> None:
    exact = BoxProtocol(0.0)
    merged = merge_variants(
        [
            Variant((JITTERED_BOX,)),
            Variant((JITTERED_BOX,), Gain(2.0)),
            Variant((exact, JITTERED_BOX)),
            Variant((CENTRE_POINT,), Gain(2.0)),
        ]
    )
    assert merged == [
        Variant((JITTERED_BOX, exact)),
        Variant((JITTERED_BOX, CENTRE_POINT), Gain(2.0)),
    ]
    assert [variant.image for variant in merged] == ["as_is", "gain_x2"]
