"""The text of options becomes numbers or one clear message."""

import re
from collections.abc import Callable
from functools import partial

import pytest

from samus_edge.cli.options import (
    parse_box,
    parse_fractions,
    parse_frame_range,
    parse_frame_size,
    parse_point,
    parse_seeds,
    parse_sizes,
    parse_spacing,
)
from samus_edge.errors import BadArgumentError
from samus_edge.runtime import PixelSpacing

parse_batch = partial(parse_sizes, "--batch")


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_box, "10,20,200,220", (10, 20, 200, 220)),
        (parse_box, " 10, 20.5 ,200,2.2e2 ", (10, 20.5, 200, 220)),
        (parse_box, "-5,-5,10,10", (-5, -5, 10, 10)),
        (parse_box, "200,220,10,20", (200, 220, 10, 20)),  # inverted: refused with the image
        (parse_point, "10,20", (10, 20, 1)),
        (parse_point, "10.5, 20, 0", (10.5, 20, 0)),
        (parse_fractions, "0.7,0.1,0.2", (0.7, 0.1, 0.2)),
        (parse_spacing, "0.1", PixelSpacing(0.1, 0.1)),
        (parse_spacing, "0.2,0.1", PixelSpacing(row_mm=0.2, column_mm=0.1)),
        (parse_spacing, None, None),
        (parse_seeds, "3, 1,20", (3, 1, 20)),
        (parse_batch, "4,1,2", (1, 2, 4)),
        (parse_frame_size, "480x640", (480, 640)),
        (parse_frame_range, "1x2,3x4,5x6", ((1, 2), (3, 4), (5, 6))),
    ],
)
def test_text_becomes_numbers(parse: Callable[[object], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_box, "10,20,200", "--box '10,20,200' has 3 numbers, expected 4"),
        (parse_box, "10,20,200,220,5", "--box '10,20,200,220,5' has 5 numbers, expected 4"),
        (parse_box, "", "--box '' is not numbers"),
        (parse_box, "10 20 200 220", "--box '10 20 200 220' is not numbers"),
        (parse_box, "10,20,,220", "--box '10,20,,220' is not numbers"),
        (parse_point, "10", "--point '10' has 1 numbers, expected x,y or x,y,label"),
        (parse_point, "1,2,3,4", "--point '1,2,3,4' has 4 numbers"),
        (parse_point, "10,20,2", "--point '10,20,2' has the label 2, expected 1 (foreground) or 0"),
        (parse_point, "10,20,-1", "--point '10,20,-1' has the label -1"),
        (parse_point, "10,20,nan", "--point '10,20,nan' has the label nan"),
        (parse_fractions, "0.7,0.3", "--fractions '0.7,0.3' has 2 numbers, expected 3"),
        (parse_spacing, "0", "--spacing '0' is not mm or row,column"),
        (parse_spacing, "nan", "--spacing 'nan' is not mm or row,column"),
        (parse_spacing, "0.1,0.1,5", "--spacing '0.1,0.1,5' has 3 numbers"),
        *((parse_seeds, text, f"--seeds {text!r} is not integers") for text in ("", "1,", "-1")),
        *((parse_seeds, text, f"--seeds {text!r} is not integers") for text in ("1.5", "²", "1 2")),
        (parse_batch, "1,1", "--batch '1,1' is not different integers"),
        (parse_batch, "0", "--batch '0' is not different integers of at least 1"),
        (parse_frame_size, "0x640", "--frame-size '0x640' is not HxW"),
        (parse_frame_size, "480", "--frame-size '480' is not HxW"),
        (parse_frame_range, "1x2,3x4", "--frame-range '1x2,3x4' has 2 sizes, expected 3"),
        (parse_frame_range, "1x2,3x4,5", "--frame-range '5' is not HxW"),
    ],
)
def test_anything_else_is_named(parse: Callable[[object], object], text: str, message: str) -> None:
    with pytest.raises(BadArgumentError, match=re.escape(message)):
        parse(text)
