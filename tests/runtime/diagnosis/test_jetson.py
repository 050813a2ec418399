"""Recognising a Jetson from its own files."""

from pathlib import Path

import pytest

from samus_edge.runtime.diagnosis.install_commands import install_command
from samus_edge.runtime.diagnosis.jetson import Jetson, find_jetson

_RELEASE = "# R{major} (release), REVISION: {minor}, GCID: 38968081, BOARD: generic, EABI: aarch64"


def _write(root: Path, release: str | None, model: str | None) -> None:
    if release is not None:
        (root / "etc").mkdir()
        (root / "etc" / "nv_tegra_release").write_text(release)
    if model is not None:
        (root / "proc" / "device-tree").mkdir(parents=True)
        (root / "proc" / "device-tree" / "model").write_bytes(model.encode() + b"\0")


@pytest.mark.parametrize(
    ("major", "minor", "jetpack"),
    [(35, "4.1", 5), (36, "4.3", 6), (38, "2.0", 7), (39, "0.0", 7), (32, "7.1", None)],
)
def test_the_release_says_which_jetpack(
    tmp_path: Path, major: int, minor: str, jetpack: int | None
) -> None:
    model = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    _write(tmp_path, _RELEASE.format(major=major, minor=minor), model)
    assert find_jetson(tmp_path) == Jetson(model, f"{major}.{minor}", jetpack, "")


def test_a_container_without_the_release_file_is_known_by_its_device_tree(tmp_path: Path) -> None:
    _write(tmp_path, None, "NVIDIA Jetson AGX Thor Developer Kit")
    assert find_jetson(tmp_path) == Jetson("NVIDIA Jetson AGX Thor Developer Kit", "", None, "")


@pytest.mark.parametrize("model", [None, "Raspberry Pi 5 Model B Rev 1.0"])
def test_other_machines_are_none(tmp_path: Path, model: str | None) -> None:
    _write(tmp_path, None, model)
    assert find_jetson(tmp_path) is None


def test_commands_differ_by_platform() -> None:
    orin = {jetpack: Jetson("NVIDIA Jetson Orin", "", jetpack, "") for jetpack in (5, 6, 7, None)}
    assert install_command("cuda", None) == "pip install 'samus-edge[cuda]'"
    assert "'cuda-python>=12.6,<13'" in install_command("cuda", orin[6])
    assert "update to JetPack 6" in install_command("tensorrt", orin[5])
    assert install_command("tensorrt", orin[None]) == install_command("tensorrt", orin[7])
    assert "--runtime nvidia" in install_command("driver", orin[7])
