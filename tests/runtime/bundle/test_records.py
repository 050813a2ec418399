"""Dataclasses read from JSON, written to it and checked."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from samus_edge.runtime.bundle.records import (
    LEFT_OUT_IF_EMPTY,
    BelowOne,
    Count,
    CountOrZero,
    Fraction,
    JsonValue,
    NotNegative,
    Positive,
    RecordError,
    Text,
    check_record,
    from_json,
    one_of,
    to_json,
)


@dataclass(frozen=True)
class Part:
    """A record within one."""

    name: Text
    sizes: tuple[int | str, ...] = ()
    size_bytes: int = field(default=0, metadata={"json": "bytes"})
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """One field of each kind."""

    count: Count = 1
    rate: Fraction = 0.5
    name: str = "a"
    on: bool = False
    kind: Annotated[str, one_of(("tiny", "large"))] = "tiny"
    mode: Literal["fast", "exact"] = "fast"
    pair: tuple[int, float] = (1, 0.5)
    limit: float | None = None
    part: Part | None = None
    parts: Mapping[str, Part] = field(default_factory=dict, metadata=LEFT_OUT_IF_EMPTY)
    others: list[JsonValue] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that it is on where it has a limit."""
        if self.limit is not None and not self.on:
            raise ValueError("limit needs on")


FULL: dict[str, Any] = {
    "count": 3,
    "rate": 0.25,
    "name": "",
    "on": True,
    "kind": "large",
    "mode": "exact",
    "pair": [2, 0.25],
    "limit": 4.0,
    "part": {"name": "p", "sizes": [1, "n"], "bytes": 9, "later": {"deep": [None]}},
    "parts": {"one": {"name": "q", "sizes": [], "bytes": 0}},
    "others": [1, "two", {"three": 3}],
}


def test_a_document_comes_back_as_it_was() -> None:
    settings = from_json(Settings, FULL)
    assert settings.part == Part("p", (1, "n"), 9, {"later": {"deep": [None]}})
    assert settings.pair == (2, 0.25) and settings.limit == 4.0
    assert to_json(settings) == FULL


def test_what_is_left_out_has_its_default_and_may_stay_out() -> None:
    assert from_json(Settings, {}) == Settings()
    assert "parts" not in to_json(Settings())
    assert to_json(Settings())["others"] == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": 1.0}, "count must be an integer, got 1.0"),
        ({"count": True}, "count must be an integer, got True"),
        ({"count": 0}, "count must be positive, got 0"),
        ({"rate": False}, "rate must be a finite number, got False"),
        ({"rate": math.nan}, "rate must be a finite number, got nan"),
        ({"rate": math.inf}, "rate must be a finite number, got inf"),
        ({"rate": None}, "rate must be a finite number, got None"),
        ({"rate": "3e-4"}, "rate must be a finite number, got '3e-4' (for YAML, 3.0e-4 is"),
        ({"name": 3}, "name must be a string, got 3"),
        ({"on": 1}, "on must be true or false, got 1"),
        ({"kind": "huge"}, "kind must be one of tiny, large, got 'huge'"),
        ({"mode": "slow"}, "mode must be 'fast' or 'exact', got 'slow'"),
        ({"pair": [1]}, "pair must be a list of 2, got [1]"),
        ({"pair": [1, "x"]}, "pair[1] must be a finite number, got 'x'"),
        ({"limit": "x"}, "limit must be a finite number or null, got 'x'"),
        ({"part": 3}, "part must be a mapping or null, got 3"),
        ({"part": {"name": "p", "bytes": 1.5}}, "part.bytes must be an integer, got 1.5"),
        ({"part": {}}, "part.name is missing"),
        ({"parts": []}, "parts must be a mapping, got []"),
        ({"parts": {"one": {"name": ""}}}, "parts.one.name must be a non-empty string, got ''"),
        ({"parts": {"one": {"name": "n", "sizes": [None]}}}, "parts.one.sizes[0] must be an int"),
        ({"others": {}}, "others must be a list, got {}"),
        ({"later": 1}, "unknown key 'later'"),
        ({"limit": 1}, "limit needs on"),
    ],
)
def test_what_is_wrong_is_named_with_its_path_and_value(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RecordError) as caught:
        from_json(Settings, changes)
    (found,) = caught.value.problems
    assert found.startswith(problem)
    with pytest.raises(RecordError) as caught:
        from_json(Settings, changes, "settings")
    assert "settings" in str(caught.value)


def test_all_problems_are_found_at_once() -> None:
    with pytest.raises(RecordError) as caught:
        from_json(Settings, {"count": 0, "name": None, "later": 1, "part": {"sizes": [1.5, 2.5]}})
    words = [problem.split()[0] for problem in caught.value.problems]
    assert words == ["count", "name", "part.name", "part.sizes[0]", "part.sizes[1]", "unknown"]


@dataclass(frozen=True)
class Bounds:
    """One field of each bound."""

    count: Count = 1
    count_or_zero: CountOrZero = 0
    positive: Positive = 0.1
    not_negative: NotNegative = 0.0
    fraction: Fraction = 1.0
    below_one: BelowOne = 0.99

    def __post_init__(self) -> None:
        """Check every value."""
        check_record(self, ("all is wrong",) if self.count == 7 else ())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"count": 0}, "count must be positive, got 0"),
        ({"count_or_zero": -1}, "count_or_zero must be at least 0, got -1"),
        ({"positive": 0.0}, "positive must be positive, got 0.0"),
        ({"not_negative": -0.1}, "not_negative must be at least 0, got -0.1"),
        ({"fraction": 1.1}, "fraction must be in [0, 1], got 1.1"),
        ({"below_one": 1}, "below_one must be in [0, 1), got 1"),
        ({"count": 7, "fraction": -1}, "fraction must be in [0, 1], got -1; all is wrong"),
    ],
)
def test_a_record_checks_itself_by_its_hints(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(RecordError) as caught:
        dataclasses.replace(Bounds(fraction=0, below_one=0), **changes)
    assert str(caught.value) == text
