"""The options by which `train` and `eval` find their data."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["DataFolder", "SplitFile"]

DataFolder = Annotated[
    Path,
    typer.Option(
        help="Dataset folder in BUSI's layout: benign/, malignant/, normal/.",
        exists=True,
        file_okay=False,
    ),
]
SplitFile = Annotated[
    Path, typer.Option(help="JSON file with the subsets.", exists=True, dir_okay=False)
]
