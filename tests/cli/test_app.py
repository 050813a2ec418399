"""The command as a whole: exit codes, one-line errors, and a quick --help."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from samus_edge import __version__
from samus_edge.cli.app import app
from samus_edge.errors import BadArgumentError, BundleError

COMMANDS = (
    *("infer", "track", "info", "data", "train", "convert", "eval", "ablate", "export"),
    *("calibrate", "verify", "sign", "build", "serve", "bench", "doctor"),
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
    """A command that ends in an error."""

    def command() -> None:
        raise error

    return command


def test_help_lists_every_command_and_each_has_its_own(run: Run) -> None:
    outcome = run("--help")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in outcome.stdout
        own = run(name, "--help")
        assert own.exit_code == 0
        assert own.stdout.startswith(f"Usage: samus-edge {name} ")


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
        (("segment",), "No such command 'segment'"),
        (("infer", "--immage", "x.png"), "--immage"),
        (("infer",), "Missing option"),
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
        (BadArgumentError("a value"), 2, "a value"),
        (OSError(13, "Permission denied", "x.png"), 1, "[Errno 13] Permission denied: 'x.png'"),
        (MemoryError(), 1, "not enough memory. Use a smaller image or fewer prompts."),
        (BadArgumentError("two\n   lines\tand a tab"), 2, "two lines and a tab"),
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


@pytest.mark.parametrize("error", [ValueError("not ours"), TypeError("x"), ZeroDivisionError("x")])
def test_any_other_error_is_said_to_be_a_bug_and_logged(
    run: Run,
    add_command: Callable[[Callable[[], None]], None],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    add_command(raising(error))
    outcome = run("broken")
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith("error: this is a bug in samus-edge")
    assert type(error).__name__ in outcome.stderr
    (record,) = caplog.records
    assert record.exc_info is not None and record.exc_info[1] is error


def test_an_option_that_takes_one_value_is_not_given_twice(run: Run) -> None:
    outcome = run(
        "infer", "--image", "a.png", "--out", "b.png", "--out", "c.png", "--box", "1,2,3,4"
    )
    assert outcome.exit_code == 2
    assert "--out is given 2 times" in outcome.stderr
    assert run("infer", "--box", "1,2,3,4", "--box", "5,6,7,8").stderr.count("times") == 0


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    bare = run()
    assert (bare.exit_code, bare.stderr) == (0, "")
    assert bare.stdout == run("--help").stdout == run("-h").stdout
    assert run("data") == run("data", "--help")


BARE = """
import importlib.abc, sys
GONE = {"torch", "onnx", "onnxscript", "matplotlib", "pywt", "yaml", "safetensors", "pydicom",
        "highdicom", "fastapi", "uvicorn", "starlette", "websockets", "prometheus_client",
        "tensorboardX"}
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from samus_edge.cli.app import main
sys.exit(main(sys.argv[1:]))
"""
DATA = ("--data", "{data}")
EXTRAS = {
    ("data", "check", *DATA): None,
    ("data", "split", *DATA, "--out", "s.json", "--fractions", "0.7,0,0.3"): None,
    ("data", "augmentations", *DATA, "--out", "s.png"): None,
    ("train", "--config", "tiny_busi", *DATA, "--split", "{split}", "--out", "o"): "train",
    ("convert", "--checkpoint", "{split}", "--arch", "tiny", "--out", "w.safetensors"): "train",
    ("eval", *DATA, "--split", "{split}", "--weights", "{split}"): "train",
    ("ablate", "--config", "tiny_ablation", *DATA, "--split", "{split}", "--out", "o"): "train",
    ("export", "--out", "o", "--weights", "{split}"): "export",
    ("export", "--out", "o", "--profile", "sam"): "export",
    ("export", "--triton", "o"): "export",
    ("calibrate", "--precision", "fp16", "--out", "o", "--frames", "{data}/images"): "export",
    ("info", "--arch", "tiny"): "train",
    ("info", "--weights", "{split}"): "train",
    ("serve",): "server",
    ("infer", "--image", "{data}/images/one.png", "--box", "80,80,170,170"): None,
    ("verify", "--frames", "{data}/images", "--limit", "1"): None,
    ("info",): None,
    ("doctor",): None,
}


@pytest.mark.parametrize("arguments", EXTRAS, ids=" ".join)
def test_without_an_extra_each_command_works_or_names_it(
    arguments: tuple[str, ...], disc_lesions: Path, tmp_path: Path
) -> None:
    places = {"data": disc_lesions, "split": disc_lesions.parent / "split.json"}
    words = [word.format(**places) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-I", "-c", BARE, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    extra = EXTRAS[arguments]
    if extra is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1, done.stderr
        assert f"[{extra}]'" in done.stderr
        assert "which is not installed" in done.stderr


LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    "arguments", [("doctor",), ("infer", "--image", "x.png", "--box", "1,2,3,4")], ids=" ".join
)
@pytest.mark.parametrize(
    ("content", "reason"), [(f"raise ImportError({LIBGL!r})", LIBGL), ("", "does not load")]
)
def test_an_opencv_that_does_not_load_or_is_half_removed_is_a_sentence(
    arguments: tuple[str, ...], content: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "samus_edge", *arguments],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = done.stdout + done.stderr
    assert reason in said and "opencv-python-headless" in said


def test_the_module_runs_as_the_command_does() -> None:
    command = [sys.executable, "-I", "-m", "samus_edge", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"samus-edge {__version__}\n"
