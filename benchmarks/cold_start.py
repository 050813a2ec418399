"""Wall time and peak memory of `samus-edge infer` from a cold start, and the install size.

`python benchmarks/cold_start.py`, in any environment that has samus-edge

Each run is a fresh process that starts Python, opens the default bundle, segments one image and
writes mask and overlay. The size is that of a new folder into which `pip install` put the base
install with everything that it needs: no torch.
"""

import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.options import BackendName

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = Path(sysconfig.get_path("scripts")) / "samus-edge"
PROMPTED = ("--image", str(REPOSITORY / "examples" / "benign_80.png"), "--box", "135,88,446,368")
# `pip install` needs none of it, and would build in what it finds. A copy keeps the checkout clean.
LEFT_BEHIND = shutil.ignore_patterns(".*", "tests", "docs", "benchmarks", "build", "__pycache__")
# ru_maxrss counts kibibytes on Linux and bytes on macOS.
MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def run_once(folder: Path, backend: str) -> tuple[float, float, float]:
    """Seconds, seconds of all cores together, and peak memory, MB, of one fresh process."""
    outputs = ("--out", str(folder / "mask.png"), "--overlay", str(folder / "overlay.png"))
    command = [str(COMMAND), "infer", *PROMPTED, "--backend", backend, *outputs]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"samus-edge infer exited with {process.returncode}")
    computed = usage.ru_utime + usage.ru_stime
    return seconds, computed, usage.ru_maxrss * MAXRSS_UNIT_BYTES / 1e6


def install_sizes(folder: Path) -> dict[str, int]:
    """Bytes per package of a new install, compiled bytecode included, the largest first."""
    source, target = folder / "source", folder / "site-packages"
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=LEFT_BEHIND)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target))
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"pip install failed: {done.stderr.strip()}")
    sizes = {
        distribution.metadata["Name"]: sum(
            path.stat().st_size
            for file in distribution.files or ()
            if (path := Path(str(distribution.locate_file(file)))).is_file()
        )
        for distribution in metadata.distributions(path=[str(target)])
    }
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def command(
    runs: Annotated[int, typer.Option(min=1, help="Fresh processes to measure.")] = 11,
    backend: BackendName = "auto",
    size: Annotated[bool, typer.Option(help="Measure the install size (runs pip).")] = True,
    output: recipe.Output = None,
) -> None:
    """Measure cold start, peak memory and install size of the runtime."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run_once(folder, backend)  # fills the caches, as on any machine in use
        measured_runs = [run_once(folder, backend) for _ in range(runs)]
        seconds, computed, peaks = zip(*measured_runs, strict=True)
        sizes = install_sizes(folder) if size else {}
    measured = {
        "wall_s_median": statistics.median(seconds),
        "cpu_s_median": statistics.median(computed),
        "peak_memory_mb_max": max(peaks),
    }
    recipe.print_rows(f"samus-edge infer, cold, backend {backend}, {runs} runs", [measured])
    total = sum(sizes.values())
    if sizes:
        rows = {**sizes, "total": total}.items()
        recipe.print_rows(
            "install size", ({"package": name, "MB": each / 1e6} for name, each in rows)
        )
    document = {
        "backend": backend,
        **measured,
        "wall_s": seconds,
        "peak_memory_mb": peaks,
        "install_size_bytes": sizes or None,
        "install_size_bytes_total": total or None,
    }
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
