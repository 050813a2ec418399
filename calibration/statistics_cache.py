"""Activation statistics on disk, so that calibrating again does not run the frames again."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from samus_edge.calibration.activation_statistics import TensorStatistics
from samus_edge.errors import DataError
from samus_edge.runtime.atomic_write import write_files_atomically

FORMAT = "samus-edge-activation-statistics 1"

# What numpy and zipfile raise for files that are cut off, changed or something else altogether
_BROKEN = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)


def write_statistics(path: Path, key: str, statistics: Mapping[str, TensorStatistics]) -> None:
    """Write statistics to a file (.npz); a reader never sees half of it.

    Args:
        path: the file.
        key: of the graph and frames that they were measured on; reading asks for the same.
        statistics: by tensor.

    Raises:
        OutputFileError: if it cannot be written.
    """
    about = {"format": FORMAT, "key": key, "tensors": list(statistics)}
    content = BytesIO()
    np.savez_compressed(
        content,
        about=np.array(json.dumps(about)),
        ranges=np.array([(each.minimum, each.maximum) for each in statistics.values()]),
        counts=np.array([each.counts for each in statistics.values()]),
    )
    write_files_atomically({path: content.getvalue()})


def read_statistics(
    path: Path, key: str, tensors: Sequence[str]
) -> dict[str, TensorStatistics] | None:
    """Read statistics that `write_statistics` wrote.

    Args:
        path: the file.
        key: of the graph and frames at hand.
        tensors: which are needed.

    Returns:
        None if there is no file, it is of another graph or of other frames, or lacks a tensor.

    Raises:
        DataError: if the file is no such file.
    """
    if not path.exists():
        return None
    try:
        # from memory, since numpy leaves a broken file open
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r}")
            if about["key"] != key or not set(tensors) <= set(about["tensors"]):
                return None
            found = {
                name: TensorStatistics(float(low), float(high), counts)
                for name, (low, high), counts in zip(
                    about["tensors"], arrays["ranges"], arrays["counts"], strict=True
                )
            }
    except _BROKEN as err:
        raise DataError(
            f"{path} is no calibration cache ({err}). Delete it, or name another file."
        ) from err
    return {name: found[name] for name in tensors}
