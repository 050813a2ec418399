"""Everything worth knowing about one device, in one file to send back: doctor, engines, their
check, speed.

`make jetson-check` runs it in an environment of its own; it works on any machine. A step that fails
is in the report with its message, and the next one begins.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from samus_edge.benchmarking import recipe
from samus_edge.cli.options import BundlePath


def steps_for(bundle: Path | None, precisions: Sequence[str], hw: str) -> dict[str, list[str]]:
    """The arguments of `samus-edge` for each step."""
    from_bundle = [] if bundle is None else ["--bundle", str(bundle)]
    chosen = [argument for name in precisions for argument in ("--precision", name)]
    build = ["build", *from_bundle, *chosen, "--json"]
    bench = ["bench", *from_bundle, "--compare", "none", "--frame-size", hw, "--json"]
    return {
        "doctor": ["doctor", "--json"],
        "build and check": build,
        "build for one frame size": [*build, "--frame-size", hw],
        "bench CPU": [*bench, "--backend", "onnxruntime"],
        "bench TensorRT": [*bench, "--backend", "tensorrt", *chosen],
        "engines": ["build", "--list", "--json"],
    }


def run_step(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command in a process of its own: what it printed, and how it ended."""
    begun = time.perf_counter()
    done = subprocess.run(
        [*recipe.COMMAND, *arguments], capture_output=True, text=True, check=False
    )
    try:
        result = json.loads(done.stdout)
    except ValueError:
        result = done.stdout.strip() or None
    return {
        "command": " ".join(["samus-edge", *arguments]),
        "exit_code": done.returncode,
        "seconds": round(time.perf_counter() - begun, 1),
        "messages": done.stderr.strip(),
        "result": result,
    }


def command(
    output: Annotated[Path, typer.Option(help="The report.")] = Path("jetson_report.json"),
    bundle: BundlePath = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Repeat for more. [default: the bundle's reference]")
    ] = None,
    frame_size: Annotated[str, typer.Option(help="Size of the timed frames.")] = "512x640",
) -> None:
    """Run doctor, build, device check and bench, and write one report."""
    steps: dict[str, dict[str, Any]] = {}
    for name, arguments in steps_for(bundle, precision or [], frame_size).items():
        print(f"{name}: samus-edge {' '.join(arguments)}", flush=True)
        steps[name] = run_step(arguments)
        if steps[name]["exit_code"] != 0:
            print(f"  failed: {(steps[name]['messages'].splitlines() or ['no message'])[-1]}")
    recipe.write_results(__file__, {"report": "samus-edge device check", "steps": steps}, output)
    print("This file is what to send back.")
    failed = [name for name, each in steps.items() if each["exit_code"] != 0]
    if failed:
        print(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(command)
