"""What the scripts in `benchmarks/` share: options, lesions, steps, tables and result files."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from samus_edge.benchmarking.bench_run import describe_hardware
from samus_edge.data.case import UltrasoundCase, select_lesions
from samus_edge.data.dataset import load_subsets

_MAX_CELL_VALUES = 4

COMMAND = (sys.executable, "-m", "samus_edge")
"""The command `samus-edge` of this environment, for processes of their own."""

BUSI_OPTION = typer.Option(
    "--data", metavar="DIR", envvar="SAMUS_EDGE_BUSI", help="BUSI.", exists=True
)
SPLIT_OPTION = typer.Option(
    "--split", metavar="FILE", help="JSON file with its subsets.", exists=True
)
BusiFolder = Annotated[Path, BUSI_OPTION]
BusiSplit = Annotated[Path, SPLIT_OPTION]
Subset = Annotated[str, typer.Option("--subset", metavar="NAME", help="One of its subsets.")]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", min=1, help="Lesion images, evenly from the list. [default: all]"
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", metavar="N", min=1, help="CPU threads that compute one graph.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        *("--output", "--out"),
        metavar="FILE",
        help="Result file, JSON. [default: results/, named as the script]",
    ),
]


DatasetsFolder = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Folder of all datasets.", exists=True)
]
Splits = Annotated[
    Path | None, typer.Option("--splits", metavar="DIR", help="Folder of their split files.")
]
Further = Annotated[
    list[Path] | None,
    typer.Option(
        "--further", metavar="DIR", help="A dataset that is in no configuration; repeatable."
    ),
]


def evenly(cases: Sequence[UltrasoundCase], limit: int | None) -> list[UltrasoundCase]:
    """So many of the cases, evenly from the list; all without a limit."""
    return list(cases if limit is None else cases[:: max(1, len(cases) // limit)][:limit])


def lesion_cases(
    data: Path, split: Path, subset: str = "test", limit: int | None = None
) -> list[UltrasoundCase]:
    """The lesion images of a subset, or so many of them, evenly from the list.

    Raises:
        DataError: if the subset is not defined, or files are missing.
    """
    return evenly(select_lesions(load_subsets(data, split, names=(subset,)).get(subset)), limit)


def write_results(script: str, document: Mapping[str, Any], output: Path | None = None) -> None:
    """Write what a script measured, with the hardware and the versions.

    Args:
        script: the script's `__file__`.
        document: what goes into the file.
        output: the file; None for the script's own in `results/`.
    """
    name = Path(script).stem
    path = output or Path(script).parent / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"benchmark": name, **document, "hardware": describe_hardware()}
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")


def print_rows(title: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Print a table with a column for each key of the first row; what is long is left out."""
    rows = list(rows)
    names = [
        name
        for name, value in rows[0].items()
        if not isinstance(value, (list, dict)) or len(value) <= _MAX_CELL_VALUES
    ]
    table = Table(title=title, title_justify="left")
    for name in names:
        is_text = isinstance(rows[0][name], str)
        table.add_column(name.replace("_", " "), justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass
class Steps:
    """Steps of a long run: each has its result or its failure, and the next one runs anyway.

    Attributes:
        results: by step: what it gave or the message of its failure, and its seconds.
    """

    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, name: str, work: Callable[[], object]) -> bool:
        """Run a step; says whether it succeeded."""
        print(f"{name} ...", flush=True)
        begun = time.perf_counter()
        try:
            outcome: dict[str, Any] = {"result": work()}
        # A broken driver or library may raise anything; the other steps are still wanted.
        except Exception as err:  # noqa: BLE001
            outcome = {"failed": f"{type(err).__name__}: {err}"}
            print(f"  failed: {outcome['failed']}", flush=True)
        outcome["seconds"] = round(time.perf_counter() - begun, 1)
        self.results[name] = outcome
        return "failed" not in outcome
