"""Everything worth knowing of one device, in one file to send back: doctor, engines, their check,
speed.

`make jetson-check` runs it in an environment of its own; it works on any machine. A step that fails
is in the report with its message, and the next one begins.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from samus_edge.benchmarking.bench_run import write_results


@dataclass(frozen=True)
class Step:
    """A command of samus-edge.

    Attributes:
        name: in the report.
        arguments: after `samus-edge`.
    """

    name: str
    arguments: Sequence[str]


def steps_for(bundle: Path | None, precisions: Sequence[str], frame_size: str) -> list[Step]:
    """What is run."""
    from_bundle = [] if bundle is None else ["--bundle", str(bundle)]
    chosen = [argument for name in precisions for argument in ("--precision", name)]
    compared = ["--compare", "none", "--frame-size", frame_size]
    build = ["build", *from_bundle, *chosen, "--json"]
    bench = ["bench", *from_bundle, *compared]
    return [
        Step("doctor", ["doctor", "--json"]),
        Step("build and check", build),
        Step("build for one frame size", [*build, "--frame-size", frame_size]),
        Step("bench CPU", [*bench, "--backend", "onnxruntime", "--json"]),
        Step("bench TensorRT", [*bench, "--backend", "tensorrt", *chosen, "--json"]),
        Step("engines", ["build", "--list", "--json"]),
    ]


def run_step(step: Step) -> dict[str, Any]:
    """Run a command in a process of its own; what it printed, and how it ended."""
    begun = time.perf_counter()
    command = [sys.executable, "-I", "-m", "samus_edge.cli.app", *step.arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    outcome: dict[str, Any] = {
        "command": " ".join(["samus-edge", *step.arguments]),
        "exit_code": done.returncode,
        "seconds": round(time.perf_counter() - begun, 1),
        "messages": done.stderr.strip(),
    }
    try:
        outcome["result"] = json.loads(done.stdout)
    except ValueError:
        outcome["result"] = done.stdout.strip() or None
    return outcome


def command(
    output: Annotated[Path, typer.Option(help="The report.")] = Path("jetson_report.json"),
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to check; the default one without it.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Repeat for more. [default: the bundle's reference]")
    ] = None,
    frame_size: Annotated[str, typer.Option(help="Of the frames that are timed.")] = "512x640",
) -> None:
    """Run doctor, build, device check and bench, and write one report."""
    report: dict[str, Any] = {"report": "samus-edge device check", "steps": {}}
    for step in steps_for(bundle, precision or [], frame_size):
        typer.echo(f"{step.name}: samus-edge {' '.join(step.arguments)}")
        outcome = run_step(step)
        report["steps"][step.name] = outcome
        if outcome["exit_code"] != 0:
            typer.echo(f"  failed: {(outcome['messages'].splitlines() or ['no message'])[-1]}")
    write_results(output, report)
    failed = [name for name, each in report["steps"].items() if each["exit_code"] != 0]
    typer.echo("This file is what to send back.")
    if failed:
        typer.echo(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(command)
