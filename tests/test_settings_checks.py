"""Checks of settings dataclasses."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from samus_edge.settings_checks import BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, find_problems


@dataclass(frozen=True)
class Settings:
    """One field of each kind."""

    count: int = 1
    rate: float = 0.5
    name: str = "a"
    on: bool = False
    others: list[int] = field(default_factory=list)


def test_good_settings_have_no_problems() -> None:
    assert find_problems(Settings(rate=1), {"count": POSITIVE, "rate": FRACTION}) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": 1.0}, "count must be an integer, got 1.0"),
        ({"count": True}, "count must be an integer, got True"),
        ({"rate": False}, "rate must be a finite number, got False"),
        ({"rate": math.nan}, "rate must be a finite number, got nan"),
        ({"rate": math.inf}, "rate must be a finite number, got inf"),
        ({"rate": None}, "rate must be a finite number, got None"),
        ({"name": 3}, "name must be text, got 3"),
        ({"on": 1}, "on must be true or false, got 1"),
    ],
)
def test_a_value_of_another_kind_is_named(changes: dict[str, Any], problem: str) -> None:
    assert find_problems(Settings(**changes), {}) == [problem]


@pytest.mark.parametrize(
    ("bound", "inside", "outside", "text"),
    [
        (POSITIVE, (0.1, 7), (0, -1), "positive"),
        (NOT_NEGATIVE, (0, 7), (-0.1,), "at least 0"),
        (FRACTION, (0, 0.5, 1), (-0.1, 1.1), r"in [0, 1]"),
        (BELOW_ONE, (0, 0.99), (-0.1, 1), r"in [0, 1)"),
    ],
)
def test_bounds(bound: Any, inside: Any, outside: Any, text: str) -> None:
    assert all(find_problems(Settings(rate=value), {"rate": bound}) == [] for value in inside)
    for value in outside:
        problems = find_problems(Settings(rate=value), {"rate": bound}, prefix="x.")
        assert problems == [f"x.rate must be {text}, got {value}"]


def test_all_problems_are_found_at_once() -> None:
    settings = Settings(count=0, rate="3e-4", name=None)  # type: ignore[arg-type]  # on purpose
    problems = find_problems(settings, {"count": POSITIVE})
    assert [problem.split()[0] for problem in problems] == ["count", "rate", "name"]
