"""Progress with and without a terminal."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from samus_edge.cli.console import LINE_SECONDS, ProgressBar, output_console, progress_bar


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    bar = ProgressBar(None, "Verifying", 4, clock=lambda: now[0])
    for _ in range(4):
        now[0] += LINE_SECONDS * 0.6
        bar.update(advance=1)
    assert capsys.readouterr().err.splitlines() == ["Verifying: 2 of 4", "Verifying: 4 of 4"]


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Evaluating", 2) as bar:
        bar.update(advance=2)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar() -> None:
    screen = io.StringIO()
    with Progress(console=Console(file=screen, force_terminal=True, width=60)) as drawn:
        bar = ProgressBar(drawn, "opening", None)
        bar.update("timing", total=8, advance=2)
    assert "timing" in screen.getvalue() and "25%" in screen.getvalue()


def test_results_are_as_wide_as_asked_where_there_is_no_terminal() -> None:
    assert output_console(97).width == 97
