"""The text of options becomes numbers or one clear message."""

import re

import pytest

from samus_edge.cli.options import parse_box, parse_point, parse_seeds, parse_threads


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("10,20,200,220", (10, 20, 200, 220)),
        (" 10, 20.5 ,200,2.2e2 ", (10, 20.5, 200, 220)),
        ("-5,-5,10,10", (-5, -5, 10, 10)),
        ("200,220,10,20", (200, 220, 10, 20)),  # inverted: refused later, with the image
    ],
)
def test_a_box_is_four_numbers(text: str, box: tuple[float, ...]) -> None:
    assert parse_box(text) == box


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10,20,200", "--box '10,20,200' has 3 numbers, expected 4"),
        ("10,20,200,220,5", "--box '10,20,200,220,5' has 5 numbers, expected 4"),
        ("", "--box '' has 0 numbers, expected 4"),
        ("10 20 200 220", "--box '10 20 200 220' is not numbers"),
        ("10,20,,220", "--box '10,20,,220' is not numbers"),
        ("a,b,c,d", "--box 'a,b,c,d' is not numbers"),
    ],
)
def test_anything_else_is_no_box(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_box(text)
    assert "--box 10,20,200,220" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "point"),
    [("10,20", (10, 20, 1)), ("10,20,1", (10, 20, 1)), ("10.5, 20, 0", (10.5, 20, 0))],
)
def test_a_point_is_on_the_object_unless_it_says_otherwise(
    text: str, point: tuple[float, float, int]
) -> None:
    parsed = parse_point(text)
    assert parsed == point
    assert isinstance(parsed[2], int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "--point '10' has 1 numbers, expected x,y or x,y,label"),
        ("1,2,3,4", "--point '1,2,3,4' has 4 numbers, expected x,y or x,y,label"),
        ("10,20,2", "--point '10,20,2' has the label 2, expected 1 (foreground) or 0"),
        ("10,20,-1", "--point '10,20,-1' has the label -1"),
        ("10,20,nan", "--point '10,20,nan' has the label nan"),
        ("x,y", "--point 'x,y' is not numbers"),
    ],
)
def test_anything_else_is_no_point(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_point(text)


def test_threads_are_an_integer() -> None:
    assert parse_threads("2") == 2
    for text in ("two", "2.0", ""):
        with pytest.raises(ValueError, match=f"--threads '{text}' is not an integer"):
            parse_threads(text)


def test_seeds_are_integers_in_the_order_given() -> None:
    assert parse_seeds("0") == (0,)
    assert parse_seeds("3, 1,20") == (3, 1, 20)


@pytest.mark.parametrize("text", ["", "1,", "-1", "1.5", "a", "²", "1 2"])
def test_seeds_that_are_no_integers_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--seeds {text!r} is not integers")):
        parse_seeds(text)
