"""What is known of a Jetson from its own files."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Jetson", "find_jetson"]

# Jetson Linux (L4T) releases by the JetPack that brings them.
_JETPACKS = {35: 5, 36: 6, 38: 7, 39: 7}
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")


@dataclass(frozen=True)
class Jetson:
    """A Jetson module.

    Attributes:
        model: in the words of its device tree, for example "NVIDIA Jetson AGX Orin Developer Kit".
        l4t: release of Jetson Linux, for example "36.4.3"; "" if it does not say.
        jetpack: major version of JetPack; None if the release is not known.
        power_mode: in the words of nvpmodel, for example "MAXN"; "" if it does not say.
    """

    model: str
    l4t: str
    jetpack: int | None
    power_mode: str


def find_jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson that this is, or None.

    Args:
        root: of the file system.
    """
    release = _read(root / "etc" / "nv_tegra_release")
    model = _read(root / "proc" / "device-tree" / "model").rstrip("\0\n ")
    if not release and "Jetson" not in model:
        return None
    found = _RELEASE.search(release)
    l4t = f"{found[1]}.{found[2]}" if found else ""
    jetpack = _JETPACKS.get(int(found[1])) if found else None
    return Jetson(model, l4t, jetpack, _power_mode() if root == Path("/") else "")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _power_mode() -> str:
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"NV Power Mode: (\S+)", done.stdout)
    return found[1] if found else ""
