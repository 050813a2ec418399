"""Switch a cart to a new bundle, only if it is whole and right on this machine; and back again.

    python update_bundle.py --store /var/lib/cart/bundles --install model-2.zip --frames checks/
    python update_bundle.py --store /var/lib/cart/bundles --roll-back

The application opens `STORE/current`, a link that is switched in one step: it is the old bundle or
the new one, never a part of it. What ran before is `STORE/previous`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from samus_edge.runtime import Bundle, SamusEdgeError


def link(store: Path, name: str, target: str) -> None:
    """Let a name stand for a bundle, in one step."""
    temporary = store / f".{name}.new"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, store / name)


def current(store: Path, name: str = "current") -> str | None:
    """What a name stands for."""
    path = store / name
    return str(path.readlink()) if path.is_symlink() else None


def install(store: Path, package: Path, frames: Path) -> None:
    """Unpack, open (which checks every hash), verify on real frames, and only then switch."""
    target = store / package.stem
    if target.exists():
        raise SystemExit(f"{target} is there already. Give the package another name.")
    unpacked = store / f".{package.stem}.unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with zipfile.ZipFile(package) as archive:
            archive.extractall(unpacked)
        roots = [path.parent for path in unpacked.rglob("manifest.json")]
        if len(roots) != 1:
            raise SystemExit(f"{package} is no bundle: it has {len(roots)} manifests, expected 1.")
        Bundle.open(roots[0])
        command = [sys.executable, "-I", "-m", "samus_edge", "verify"]
        done = subprocess.run([*command, "--bundle", roots[0], "--frames", frames], check=False)
        if done.returncode != 0:
            raise SystemExit(
                f"{package} fails on this machine; {current(store) or 'nothing'} stays."
            )
        roots[0].rename(target)
    except (SamusEdgeError, zipfile.BadZipFile, OSError) as err:
        raise SystemExit(f"{package} is not installed: {err}") from err
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    before = current(store)
    if before is not None:
        link(store, "previous", before)
    link(store, "current", target.name)
    print(f"current is {target.name}; before it was {before or 'nothing'}")


def roll_back(store: Path) -> None:
    """Back to what ran before."""
    before, now = current(store, "previous"), current(store)
    if before is None or now is None or not (store / before).is_dir():
        raise SystemExit(f"{store} has no previous bundle.")
    link(store, "current", before)
    link(store, "previous", now)
    print(f"current is {before}; before it was {now}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--install", type=Path, metavar="ZIP")
    parser.add_argument("--frames", type=Path, help="folder of real frames to verify on")
    parser.add_argument("--roll-back", action="store_true")
    arguments = parser.parse_args()
    arguments.store.mkdir(parents=True, exist_ok=True)
    if arguments.roll_back:
        roll_back(arguments.store)
    elif arguments.install is not None and arguments.frames is not None:
        install(arguments.store, arguments.install, arguments.frames)
    else:
        parser.error("give --install and --frames, or --roll-back")
