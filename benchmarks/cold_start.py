"""Wall time and peak memory of `samus-edge infer` from a cold start, and the runtime's install
size.

Run it in any environment that has samus-edge: `python benchmarks/cold_start.py`. Writes
`benchmarks/results/cold_start.json`.

Each run is a fresh process that starts Python, opens the default bundle, segments one image and
writes mask and overlay. The size is that of a new folder into which `pip install` put the base
install with everything that it needs: no torch.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from samus_edge.benchmarking.bench_run import write_results

BENCHMARKS_DIR = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS_DIR.parent
EXAMPLES_DIR = REPOSITORY / "examples"
# What `pip install .` reads; copied, so that no build folder is left in the checkout.
INSTALL_SOURCES = (
    *("samus_edge", "export", "runtime", "calibration"),
    *("pyproject.toml", "README.md", "LICENSE", "NOTICE"),
)
BYTES_PER_MB = 1e6
# ru_maxrss counts kibibytes on Linux and bytes on macOS.
MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class ColdRun:
    """One fresh process."""

    wall_s: float
    """From starting the process to its end, seconds."""
    peak_memory_mb: float
    """Largest resident set, in units of 10^6 bytes."""


def run_once(arguments: list[str]) -> ColdRun:
    """Run a command in a fresh process and measure it.

    The kernel's peak for a child begins with what this process held when it started the child, so
    this script imports nothing large.

    Raises:
        RuntimeError: if the command fails; the message has its standard error.
    """
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            raise RuntimeError(
                f"{' '.join(arguments)} exited with {process.returncode}: {errors.read().strip()}"
            )
    return ColdRun(wall_s, usage.ru_maxrss * MAXRSS_UNIT_BYTES / BYTES_PER_MB)


def infer_arguments(output_dir: Path) -> list[str]:
    """The command that is measured, from this environment.

    Raises:
        RuntimeError: if samus-edge is not installed in this environment.
    """
    command = Path(sysconfig.get_path("scripts")) / "samus-edge"
    if not command.exists():
        raise RuntimeError(f"{command} does not exist. Install samus-edge here: pip install .")
    name, box = next(iter(json.loads((EXAMPLES_DIR / "prompts.json").read_text()).items()))
    arguments = [str(command), "infer", "--image", str(EXAMPLES_DIR / name)]
    arguments += ["--box", ",".join(str(value) for value in box)]
    arguments += ["--out", str(output_dir / "mask.png")]
    arguments += ["--overlay", str(output_dir / "overlay.png")]
    return arguments


def install_sizes(scratch_dir: Path) -> dict[str, int]:
    """Install the runtime into a new folder and measure it.

    Args:
        scratch_dir: an empty folder.

    Returns:
        Bytes per package, largest first, compiled bytecode included.

    Raises:
        RuntimeError: if the installation fails; the message has pip's standard error.
    """
    source, target = scratch_dir / "source", scratch_dir / "site-packages"
    source.mkdir()
    for name in INSTALL_SOURCES:
        if (REPOSITORY / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
        else:
            shutil.copy(REPOSITORY / name, source / name)
    arguments = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
    installed = subprocess.run(
        [*arguments, str(source)], capture_output=True, text=True, check=False
    )
    if installed.returncode != 0:
        raise RuntimeError(f"pip install failed: {installed.stderr.strip()}")
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
    size: Annotated[bool, typer.Option(help="Measure the install size (runs pip).")] = True,
    output: Annotated[Path, typer.Option(help="The result file.")] = (
        BENCHMARKS_DIR / "results" / "cold_start.json"
    ),
) -> None:
    """Measure cold start, peak memory and install size of the runtime."""
    console = Console()
    with tempfile.TemporaryDirectory() as scratch, Progress(console=console) as progress:
        task = progress.add_task("samus-edge infer", total=runs + 1)
        try:
            arguments = infer_arguments(Path(scratch))
            run_once(arguments)  # fills the disk cache, as on any machine in use
            progress.advance(task)
            cold_runs = []
            for _ in range(runs):
                cold_runs.append(run_once(arguments))
                progress.advance(task)
            sizes: dict[str, int] = {}
            if size:
                task = progress.add_task("pip install", total=None)
                sizes = install_sizes(Path(scratch))
        except RuntimeError as err:
            sys.exit(str(err))

    wall_s = statistics.median(run.wall_s for run in cold_runs)
    peak_mb = max(run.peak_memory_mb for run in cold_runs)
    console.print(f"samus-edge infer, cold: {wall_s:.2f} s wall (median of {runs} runs)")
    console.print(f"peak memory: {peak_mb:.0f} MB (largest of {runs} runs)")
    if sizes:
        table = Table(title="Install size of the runtime, MB")
        table.add_column("package")
        table.add_column("MB", justify="right")
        for package, size_bytes in sizes.items():
            table.add_row(package, f"{size_bytes / BYTES_PER_MB:.1f}")
        table.add_row("total", f"{sum(sizes.values()) / BYTES_PER_MB:.1f}")
        console.print(table)

    document = {
        "benchmark": "cold_start",
        "wall_s_median": wall_s,
        "peak_memory_mb_max": peak_mb,
        "wall_s": [run.wall_s for run in cold_runs],
        "peak_memory_mb": [run.peak_memory_mb for run in cold_runs],
        "install_size_bytes": sizes or None,
        "install_size_bytes_total": sum(sizes.values()) or None,
    }
    write_results(output, document)


if __name__ == "__main__":
    typer.run(command)
