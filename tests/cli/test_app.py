"""The command as a whole: exit codes, one-line errors, and a quick --help."""

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from samus_edge import __version__
from samus_edge.cli import app as app_module
from samus_edge.cli.app import app, main
from samus_edge.errors import BundleError

COMMANDS = (
    *("infer", "info", "data", "train", "convert", "eval", "ablate"),
    *("export", "calibrate", "verify"),
)
Run = Callable[..., Any]


@pytest.fixture
def add_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Adds a command named "broken", for one test."""

    def add(function: Callable[[], None]) -> None:
        monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
        app.command("broken")(function)

    return add


def raising(error: BaseException) -> Callable[[], None]:
    """A command that ends in an error, as if a module of this package had raised it."""

    def command() -> None:
        raise error

    module = {"__name__": "samus_edge.something"}
    return types.FunctionType(command.__code__, module, closure=command.__closure__)


def test_help_lists_every_command(run: Run) -> None:
    outcome = run("--help")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in outcome.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run: Run, name: str) -> None:
    outcome = run(name, "--help")
    assert outcome.exit_code == 0
    assert outcome.stdout.startswith(f"Usage: samus-edge {name} ")


def test_help_loads_nothing_heavy() -> None:
    """Half a second is the limit; numpy, OpenCV or an engine alone would take most of it."""
    code = (
        "import sys\n"
        "from samus_edge.cli.app import main\n"
        f"for name in {COMMANDS}: assert main([name, '--help']) == 0\n"
        "heavy = {'numpy', 'cv2', 'onnxruntime', 'torch', 'onnx', 'pywt'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_version_is_printed(run: Run) -> None:
    outcome = run("--version")
    assert (outcome.exit_code, outcome.stdout) == (0, f"samus-edge {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing command"),
        (("segment",), "No such command 'segment'"),
        (("infer", "--immage", "x.png"), "No such option: --immage"),
        (("infer",), "Missing option '--image'"),
        (("infer", "--image"), "requires an argument"),
        (("info", "extra"), "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    outcome = run(*arguments)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("error: ")
    assert message in outcome.stderr
    assert "--help" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (BundleError("a bundle"), 1, "a bundle"),
        (ValueError("a value"), 2, "a value"),
        (TypeError("a type"), 2, "a type"),
        (OSError(13, "Permission denied", "x.png"), 1, "[Errno 13] Permission denied: 'x.png'"),
        (MemoryError(), 1, "not enough memory. Use a smaller image or fewer prompts."),
        (ValueError("two\n   lines\tand a tab"), 2, "two lines and a tab"),
        (typer.Abort(), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line_and_their_exit_code(
    run: Run,
    add_command: Callable[[Callable[[], None]], None],
    error: BaseException,
    exit_code: int,
    message: str,
) -> None:
    add_command(raising(error))
    outcome = run("broken")
    assert (outcome.exit_code, outcome.stdout) == (exit_code, "")
    assert outcome.stderr == f"error: {message}\n"


def test_a_library_s_value_error_is_a_bug_and_a_traceback(
    add_command: Callable[[Callable[[], None]], None],
) -> None:
    def command() -> None:
        # Raised by the standard library, not by a check of ours.
        Path("x").relative_to("y")

    add_command(command)
    with pytest.raises(ValueError, match="is not in the subpath"):
        main(["broken"])


def test_any_other_error_is_a_bug_and_a_traceback(
    add_command: Callable[[Callable[[], None]], None],
) -> None:
    add_command(raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main(["broken"])


def test_the_module_runs_as_the_command_does() -> None:
    command = [sys.executable, "-I", "-m", "samus_edge.cli.app", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"samus-edge {__version__}\n"
    assert app_module.__all__ == ["app", "main"]
