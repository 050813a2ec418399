"""The options by which `train` and `eval` find their data."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["DataFolder", "SplitFile"]

DataFolder = Annotated[
    Path,
    typer.Option(
        help="Dataset folder: BUSI's layout (benign/, malignant/, normal/), US30K's (MainPatient/, "
        "DATASET/img, DATASET/label), or images/ with masks/.",
        exists=True,
        file_okay=False,
    ),
]
SplitFile = Annotated[
    Path | None,
    typer.Option(
        help="JSON file with the subsets, as `samus-edge data split` writes it. US30K has its own: "
        "leave it out, or pass MainPatient/train-TASK.txt for those of a task.",
        exists=True,
        dir_okay=False,
    ),
]
