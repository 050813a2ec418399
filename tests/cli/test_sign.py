"""`samus-edge sign`, and `--require-signature` of every command that takes a bundle."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from samus_edge.cli.app import app
from tests.conftest import FRAMES_DIR

Run = Callable[..., Any]
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "infer": ("--image", "missing.png", "--box", "1,1,9,9"),
    "track": ("--video", "missing.mp4", "--box", "1,1,9,9"),
    "info": (),
    "eval": ("--data", FRAMES_DIR, "--split", FRAMES_DIR / "frames.json"),
    "export": ("--out", "out"),
    "calibrate": ("--frames", FRAMES_DIR, "--precision", "fp16", "--out", "out"),
    "verify": ("--frames", FRAMES_DIR),
    "build": (),
    "serve": ("--port", "0"),
    "bench": (),
}
"""What each command needs besides, to come to its bundle."""


STARTS = ("train", "finetune", "ablate", "convert")
"""Commands that take weights from a bundle."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key and its public one, by OpenSSL's command."""
    folder = tmp_path_factory.mktemp("keys")
    for command in (
        "openssl ecparam -name secp384r1 -genkey -noout -out key.pem",
        "openssl ec -in key.pem -pubout -out key.pub",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


def test_a_bundle_is_signed_and_then_taken(
    run: Run, keys: Path, disc_bundle_copy: Path, image: Path, box: str
) -> None:
    pytest.importorskip("model_signing")
    signed = run("sign", "--bundle", disc_bundle_copy, "--key", keys / "key.pem")
    assert (signed.exit_code, signed.stderr) == (0, "")
    assert signed.stdout == f"signed: {disc_bundle_copy / 'model.sig'}\n"
    trusted = ("--bundle", disc_bundle_copy, "--require-signature", keys / "key.pub")
    assert run("infer", "--image", image, "--box", box, *trusted).exit_code == 0
    recorded = run("verify", "--frames", FRAMES_DIR, "--record", *trusted)
    assert recorded.exit_code == 2
    assert "Record first, then sign" in recorded.stderr


@pytest.mark.parametrize("command", STARTS)
def test_a_start_has_to_be_signed(
    run: Run, keys: Path, disc_bundle: Path, command: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
    out = tmp_path / "out.safetensors"
    place = {
        "convert": ("--arch", "tiny", "--checkpoint"),
        "ablate": ("--data", FRAMES_DIR, "--split", FRAMES_DIR / "frames.json", "--start"),
    }.get(command, ("--data", FRAMES_DIR, "--start"))
    trusted = ("--out", out, "--require-signature", keys / "key.pub")
    unsigned = run(command, *place, disc_bundle, *trusted)
    assert (unsigned.exit_code, unsigned.stdout) == (1, "")
    assert f"bundle {disc_bundle} is not signed" in unsigned.stderr
    weights = run(command, *place, keys / "key.pem", *trusted)
    assert weights.exit_code == 2
    assert "key.pem. Take a signed bundle" in weights.stderr
    assert not any(tmp_path.iterdir())


def test_every_command_that_takes_a_bundle_is_known_here() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    options = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in commands.items()
    }
    opens = {"--bundle", "--start", "--checkpoint"}
    takes = {name for name, own in options.items() if own & opens} - {"sign"}
    assert takes == {name for name, own in options.items() if "--require-signature" in own}
    assert takes == {*ARGUMENTS, *STARTS}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_an_unsigned_bundle_is_refused(
    run: Run,
    keys: Path,
    disc_bundle: Path,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    trusted = ("--bundle", disc_bundle, "--require-signature", keys / "key.pub")
    outcome = run(command, *ARGUMENTS[command], *trusted)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert f"bundle {disc_bundle} is not signed" in outcome.stderr
    assert not any(tmp_path.iterdir())
