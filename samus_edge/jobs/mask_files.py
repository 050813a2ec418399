"""The masks of several frames in files: a folder of PNG files, or one NPZ file."""

import io
import json
import os
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, OutputFileError
from samus_edge.runtime.images.output_files import (
    check_output,
    draft_folder,
    write_files_atomically,
)
from samus_edge.runtime.images.overlay import encode_image, mask_image
from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing

__all__ = ["MaskFiles", "check_masks"]

_NPZ = ".npz"
_LIST = "frames.json"


def check_masks(path: Path, source: Path, *others: Path | None) -> None:
    """Refuse a place for masks that could not be written.

    Args:
        path: A folder, or a file ending in .npz.
        source: The input.
        others: Where other results go; a folder of masks is replaced as a whole.

    Raises:
        BadArgumentError, OutputFileError: as `check_output`, and for a file of another kind.
    """
    if path.suffix.lower() == _NPZ:
        check_output(path, "masks", (_NPZ,), source)
        return
    if path.suffix or (path.exists() and not path.is_dir()):
        raise BadArgumentError(
            f"masks go into a folder, or into a file ending in {_NPZ}, got {path}."
        )
    folder = path.resolve()
    for file in (source, *others):
        if file is not None and folder in (file.resolve(), *file.resolve().parents):
            raise BadArgumentError(
                f"the folder of masks {path} is replaced as a whole, and {file} is in it. Give "
                "another folder."
            )
    if not os.access(folder.parent, os.W_OK | os.X_OK):
        raise OutputFileError(
            f"the folder of masks {path} is in a folder that does not exist, or that you may not "
            "write to. Create it."
        )


class MaskFiles:
    """Masks that are collected frame by frame, and take their place when the block ends well.

    A folder gets `frame_000012.png` for frame 12, with the values of `mask_image`, as it comes, and
    `frames.json`, which lists all frames; one without a mask has no PNG file. An existing folder is
    replaced if it is empty or has been written so.

    An NPZ file has these arrays, T frames long:

    | array | shape, type | what |
    | --- | --- | --- |
    | `masks` | (T, H, W), uint8 | number of the mask, from 1, the later one in an overlap; or 0 |
    | `frames` | (T,), int64 | index in the source, from 0 |
    | `times_ms` | (T,), float64 | since the source's first frame; NaN where it does not say |
    | `states` | (T,), str | of the tracker; "prompted" for a frame with prompts of its own |
    | `spacing_mm` | (T, 2), float64 | from row to row, from column to column; NaN if not known |

    While they are collected, the masks for it are kept deflated.

    Args:
        path: A folder, or a file ending in .npz.
        drafts: Of the NPZ file; see `write_files_atomically`.

    Raises:
        SamusEdgeError: if the folder exists and is something else.
    """

    def __init__(self, path: Path, drafts: Path | None = None) -> None:
        self._path, self._drafts = path, drafts
        self._frames: list[dict[str, Any]] = []
        self._spacings: list[tuple[float, float]] = []
        self._deflated: list[bytes] = []
        self._hw = (0, 0)
        self._closing = ExitStack()
        self._folder: Path | None = None
        if path.suffix.lower() != _NPZ:
            draft = draft_folder(path, kind="a folder of masks", marker=_LIST, overwrite=True)
            self._folder = self._closing.enter_context(draft)

    def add(
        self,
        frame: int,
        seconds: float | None,
        state: str,
        masks: npt.NDArray[np.bool_],
        spacing: PixelSpacing | None,
    ) -> None:
        """Add a frame.

        Args:
            frame: Index in the source.
            seconds: Time since the source's first frame.
            state: Of the tracker, or "prompted".
            masks: (N, H, W), bool; N is 0 where there is no mask.
            spacing: Size of its pixels.

        Raises:
            OutputFileError: if it cannot be written.
        """
        height, width = self._hw = (masks.shape[1], masks.shape[2])
        name = f"frame_{frame:06d}.png" if len(masks) else None
        self._frames.append({"frame": frame, "seconds": seconds, "state": state, "file": name})
        if self._folder is not None:
            if name is not None:
                file = self._folder / name
                write_files_atomically({file: encode_image(file, mask_image(masks))})
            return
        labels = np.zeros((height, width), np.uint8)
        for number, mask in enumerate(masks, 1):
            labels[mask] = number
        self._deflated.append(zlib.compress(labels.tobytes(), 1))
        is_known = spacing is not None and spacing.unit == "mm"
        size = (spacing.row_mm, spacing.column_mm) if spacing and is_known else (np.nan, np.nan)
        self._spacings.append(size)

    def __enter__(self) -> "MaskFiles":  # noqa: PYI034  # Self is of Python 3.11
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the files in their place; after an error there are none.

        Raises:
            OutputFileError: if that fails.
        """
        if exc is None and self._folder is not None:
            document = json.dumps({"frames": self._frames}, indent=1)
            write_files_atomically({self._folder / _LIST: document.encode()})
        elif exc is None:
            write_files_atomically({self._path: self._npz()}, self._drafts)
        self._closing.__exit__(exc_type, exc, traceback)

    def _npz(self) -> bytes:
        content = io.BytesIO()
        times = [frame["seconds"] for frame in self._frames]
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, values in (
                ("frames", np.array([frame["frame"] for frame in self._frames], np.int64)),
                ("times_ms", np.array([np.nan if at is None else 1000 * at for at in times])),
                ("states", np.array([frame["state"] for frame in self._frames], np.str_)),
                ("spacing_mm", np.array(self._spacings, np.float64).reshape(-1, 2)),
            ):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)
            # Frame by frame: all masks of a long cine would take much memory.
            header = {
                "shape": (len(self._deflated), *self._hw),
                "fortran_order": False,
                "descr": "|u1",
            }
            with archive.open("masks.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for deflated in self._deflated:
                    member.write(zlib.decompress(deflated))
        return content.getvalue()
