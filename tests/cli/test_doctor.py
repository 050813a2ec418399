"""`samus-edge doctor`."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from samus_edge.jobs import doctor as diagnosis
from samus_edge.jobs.doctor import Diagnosis

Run = Callable[..., Any]


def test_this_machine(run: Run) -> None:
    outcome = run("doctor")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("ok    system")
    assert any("segments on" in line for line in lines)
    assert "FAIL" not in outcome.stdout


def test_json_is_one_document(run: Run) -> None:
    outcome = run("doctor", "--json")
    assert outcome.exit_code == 0
    document = json.loads(outcome.stdout)
    assert document["auto"] in document["backends"]
    assert document["packages"]["numpy"]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_problem_is_exit_code_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    found = Diagnosis()
    found.add("problem", "bundle", "it was\nchanged", "install it again")
    monkeypatch.setattr(diagnosis, "diagnose", lambda: found)
    outcome = run("doctor", *form)
    assert outcome.exit_code == 1
    if not form:
        assert outcome.stdout == "FAIL  bundle  it was changed\n              -> install it again\n"
