"""Results of many images in the formats of other tools.

| format | at the path | what it does not hold |
| --- | --- | --- |
| `coco` | one JSON file: run lengths | |
| `coco-polygons` | one JSON file: polygons, but run lengths for a mask with a hole | |
| `csv` | one table, a row for each mask | the masks |
| `yolo` | `labels/NAME.txt` and `data.yaml`: a polygon for each mask | |
| `labelme` | `NAME.json`: polygons, and a mask with a hole as a mask | sizes |
| `nifti` | `NAME.nii.gz`: labels; `NAME_1.nii.gz` ... where masks overlap | |
| `npz` | `NAME.npz`: masks (N, H, W), bool, and their boxes | |
| `png` | `NAME.png`, `NAME_1.png` ...: a mask each, as `samus-edge train` takes them | sizes |

Empty masks are left out of `coco`, `yolo` and `labelme`, which know none. Coordinates are larger by
half a pixel than ours in these three: they have (0, 0) at a corner of the upper left pixel.
"""

import base64
import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.errors import BadArgumentError, OutputFileError, missing_extra
from samus_edge.runtime.images.mask_shapes import (
    CORNER,
    coco_shape,
    has_hole,
    joined,
    mask_from_rle,
    outlines,
)
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.runtime.images.overlay import encode_image, mask_image
from samus_edge.runtime.measurement.lesion_measurements import box_around

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ImageResult:
    """The masks of one frame of one image.

    Attributes:
        name: What its files are called, a path without an ending, with / between folders.
        image: The image file.
        masks: (N, H, W), bool.
        records: What `MaskRecord.to_json` says of each.
        labels: The class of each.
        frame: Index of the frame, of an image with several.
    """

    name: str
    image: Path
    masks: Mask
    records: Sequence[Mapping[str, Any]]
    labels: Sequence[str]
    frame: int | None = None

    @staticmethod
    def of_document(name: str, document: Mapping[str, Any]) -> "Iterator[ImageResult]":
        """Each frame of what `samus-edge infer --json` prints, if its masks have an `rle`.

        Args:
            name: As above; the index is added where there are several frames.
            document: With `image` and `masks`; a mask may have a `label`.
        """
        image = document["image"]
        hw = image["height"], image["width"]
        by_frame: dict[int | None, list[Mapping[str, Any]]] = {}
        for mask in document["masks"]:
            by_frame.setdefault(mask.get("frame"), []).append(mask)
        for frame, records in by_frame.items():
            yield ImageResult(
                name=name if len(by_frame) == 1 else f"{name}_frame_{frame:06d}",
                image=Path(image["path"]),
                masks=np.stack([mask_from_rle(each["rle"]["counts"], hw) for each in records]),
                records=records,
                labels=[each.get("label") or "lesion" for each in records],
                frame=frame,
            )


class ResultWriter:
    """Writes results in a format. Made by `open_results`.

    Files of an image appear when it is added, each whole; the one file of `coco`, `coco-polygons`
    and `csv`, and YOLO's `data.yaml`, at the end, and not after an error.
    """

    def __init__(self, kind: str, path: Path, overwrite: bool) -> None:
        self._kind, self._path, self._overwrite = kind, path, overwrite
        self._document = _DOCUMENTS[kind]() if kind in _DOCUMENTS else None
        self._written: set[Path] = set()
        self._classes: list[str] = []

    def add(self, result: ImageResult) -> None:
        """Add the masks of an image.

        Raises:
            BadArgumentError: if an image of this name was added before.
            OutputFileError: if a file cannot be written, or exists and is not to be replaced.
            MissingExtraError: for NIfTI without nibabel.
        """
        if self._document is not None:
            self._document.add(result)
            return
        if self._kind == "yolo":
            self._classes = list(dict.fromkeys([*self._classes, *result.labels]))
            files = _yolo(result, self._classes)
        else:
            files = _FILES[self._kind](result, self._path)
        contents = {self._path / name: content for name, content in files.items()}
        if known := self._written & contents.keys():
            raise BadArgumentError(
                f"two images would both be written to {min(known)}. Give images of different names."
            )
        for path in contents:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_free(path, self._overwrite)
        write_files_atomically(contents)
        self._written |= contents.keys()

    def close(self) -> None:
        """Write what is written at the end.

        Raises:
            OutputFileError: if it cannot be written.
        """
        if self._document is not None:
            write_files_atomically({self._path: self._document.content()})
        elif self._kind == "yolo":
            # JSON is YAML, too.
            about = {"path": ".", "train": "images", "val": "images", "names": self._classes}
            text = json.dumps(about, indent=1) + "\n"
            self._path.mkdir(parents=True, exist_ok=True)
            write_files_atomically({self._path / "data.yaml": text.encode()})


@contextmanager
def open_results(kind: str, path: Path, *, overwrite: bool = False) -> Iterator[ResultWriter]:
    """A writer of results, which ends with the block; see `ResultWriter`.

    Args:
        kind: One of `DOCUMENT_FORMATS` or `FILE_FORMATS`.
        path: A file for the former, a folder for the latter, which is made if it is missing.
        overwrite: Whether files that exist are replaced.

    Raises:
        BadArgumentError: if there is no such format.
        OutputFileError: if the file exists, or its folder does not.
        MissingExtraError: for NIfTI without nibabel.
    """
    if kind not in (*DOCUMENT_FORMATS, *FILE_FORMATS):
        known = ", ".join((*DOCUMENT_FORMATS, *FILE_FORMATS))
        raise BadArgumentError(f"the format of results must be one of {known}, got {kind!r}.")
    if kind == "nifti":
        _nibabel()
    if kind in DOCUMENT_FORMATS or kind == "yolo":
        file = path if kind in DOCUMENT_FORMATS else path / "data.yaml"
        _check_free(file, overwrite)
    if kind in DOCUMENT_FORMATS and not path.absolute().parent.is_dir():
        raise OutputFileError(f"{path} is in a folder that does not exist. Create it.")
    writer = ResultWriter(kind, path, overwrite)
    yield writer
    writer.close()


def result_bytes(kind: str, result: ImageResult) -> bytes:
    """The one file of an image in a format that has one: those of documents, and `npz`.

    Raises:
        BadArgumentError: for another format.
    """
    if kind == "npz":
        (content,) = _npz(result, Path()).values()
        return content
    if kind not in _DOCUMENTS:
        raise BadArgumentError(
            f"one file is written as {', '.join((*_DOCUMENTS, 'npz'))}, not as {kind!r}."
        )
    document = _DOCUMENTS[kind]()
    document.add(result)
    return document.content()


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not (overwrite and path.is_file()):
        raise OutputFileError(f"{path} exists and is not replaced. Give another place.")


class _Coco:
    """Source: https://cocodataset.org/#format-data; a `score` as in results."""

    def __init__(self, as_polygons: bool = False) -> None:
        self._as_polygons = as_polygons
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._classes: list[str] = []

    def add(self, result: ImageResult) -> None:
        self._classes = list(dict.fromkeys([*self._classes, *result.labels]))
        height, width = result.masks.shape[1:]
        image = {"id": len(self._images) + 1, "file_name": result.image.as_posix()}
        frame = {} if result.frame is None else {"frame": result.frame}
        self._images.append({**image, "width": width, "height": height, **frame})
        for mask, record, label in zip(result.masks, result.records, result.labels, strict=True):
            shape = coco_shape(mask, self._as_polygons)
            if shape is not None:
                self._annotations.append(
                    {
                        "id": len(self._annotations) + 1,
                        "image_id": len(self._images),
                        "category_id": self._classes.index(label) + 1,
                        **shape,
                        "score": record["predicted_iou"],
                        "measurements": record["measurements"],
                    }
                )

    def content(self) -> bytes:
        document = {
            "info": {"description": f"samus-edge {__version__}. Not a medical device."},
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate(self._classes, 1)],
        }
        return json.dumps(document).encode()


_SIZES: Final = (
    *("unit", "area", "hole_area", "perimeter", "longest_diameter", "perpendicular_diameter"),
    *("angle_deg", "orientation", "width", "height", "height_to_width", "equivalent_diameter"),
    *("components", "other_area"),
)
_COLUMNS: Final = (
    *("image", "frame", "mask", "label", "area_px", "x1", "y1", "x2", "y2", "predicted_iou"),
    *("row_spacing", "column_spacing", "spacing_unit", *_SIZES),
    *("centroid_x", "centroid_y", "cut_by"),
)


class _Table:
    """Boxes are pixel centres with both ends inside, sizes in `unit`, as in `--json`."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._rows = csv.DictWriter(self._text, _COLUMNS)
        self._rows.writeheader()

    def add(self, result: ImageResult) -> None:
        for number, (record, label) in enumerate(
            zip(result.records, result.labels, strict=True), 1
        ):
            spacing, found = record["spacing"] or {}, record["measurements"] or {}
            sizes = {name: found.get(name) for name in _SIZES}
            for name in ("longest_diameter", "perpendicular_diameter"):
                sizes[name] = found.get(name, {}).get("length")
            row = {
                "image": result.image,
                "frame": result.frame,
                "mask": number,
                "label": label,
                "area_px": record["area_px"],
                **dict(zip(("x1", "y1", "x2", "y2"), record["box"] or (), strict=False)),
                "predicted_iou": record["predicted_iou"],
                "row_spacing": spacing.get("row"),
                "column_spacing": spacing.get("column"),
                "spacing_unit": spacing.get("unit"),
                **sizes,
                **dict(
                    zip(("centroid_x", "centroid_y"), found.get("centroid_px", ()), strict=False)
                ),
                "cut_by": " ".join(found.get("cut_by", ())),
            }
            self._rows.writerow({key: _cell(value) for key, value in row.items()})

    def content(self) -> bytes:
        return self._text.getvalue().encode()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula, as text."""
    if isinstance(value, (str, Path)) and str(value).startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


_DOCUMENTS: Final[Mapping[str, Callable[[], _Coco | _Table]]] = {
    "coco": _Coco,
    "coco-polygons": lambda: _Coco(as_polygons=True),
    "csv": _Table,
}
DOCUMENT_FORMATS: Final = tuple(_DOCUMENTS)


def _yolo(result: ImageResult, classes: Sequence[str]) -> dict[str, bytes]:
    """Parts and holes are joined to one polygon, as Ultralytics' converter joins parts."""
    lines = []
    size = np.array(result.masks.shape[:0:-1])  # W, H
    for mask, label in zip(result.masks, result.labels, strict=True):
        if found := outlines(mask):
            corners = (joined(found) + CORNER) / size
            numbers = " ".join(f"{value:.7g}" for value in corners.ravel())
            lines.append(f"{classes.index(label)} {numbers}\n")
    return {f"labels/{result.name}.txt": "".join(lines).encode()}


def _labelme(result: ImageResult, folder: Path) -> dict[str, bytes]:
    """Source: labelme/_label_file.py of labelme 6.3."""
    shapes: list[dict[str, Any]] = []
    for number, (mask, label) in enumerate(zip(result.masks, result.labels, strict=True), 1):
        shape: dict[str, Any] = {
            "label": label,
            "description": "",
            "flags": {},
            "group_id": None,
            "mask": None,
        }
        box, found = box_around(mask), outlines(mask)
        if box is not None and has_hole(found):
            x1, y1, x2, y2 = box
            part = mask_image(mask[None, y1 : y2 + 1, x1 : x2 + 1])
            content = base64.b64encode(encode_image(Path("mask.png"), part)).decode("ascii")
            corners = [[x1, y1], [x2, y2]]
            shapes.append({**shape, "shape_type": "mask", "points": corners, "mask": content})
            continue
        for outline in found:
            points = (outline + CORNER).tolist()
            group = number if len(found) > 1 else None
            shapes.append({**shape, "shape_type": "polygon", "points": points, "group_id": group})
    height, width = result.masks.shape[1:]
    file = folder / f"{result.name}.json"
    document = {
        "version": "5.0.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(os.path.relpath(result.image, file.parent)).as_posix(),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    return {f"{result.name}.json": json.dumps(document, indent=1).encode()}


def _nifti(result: ImageResult, folder: Path) -> dict[str, bytes]:
    if not len(result.masks) or result.masks.sum(axis=0).max() <= 1:
        labels = np.zeros(result.masks.shape[1:], np.uint8)
        for number, mask in enumerate(result.masks, 1):
            labels[mask] = number
        return {f"{result.name}.nii.gz": _nifti_bytes(labels, result)}
    return {
        f"{result.name}_{number}.nii.gz": _nifti_bytes(mask.astype(np.uint8), result)
        for number, mask in enumerate(result.masks, 1)
    }


def _nifti_bytes(labels: npt.NDArray[np.uint8], result: ImageResult) -> bytes:
    """Axes as ITK has them: the first to the right, the second down, where that is left and
    posterior."""
    spacings = [each["spacing"] for each in result.records]
    known = next((each for each in spacings if each and each["unit"] == "mm"), None)
    column, row = (known["column"], known["row"]) if known else (1.0, 1.0)
    image = _nibabel().Nifti1Image(labels.T[..., None], np.diag([-column, -row, 1.0, 1.0]))
    image.header.set_xyzt_units("mm" if known else "unknown")
    return gzip.compress(image.to_bytes(), mtime=0)


def _nibabel() -> Any:
    try:
        import nibabel
    except ModuleNotFoundError as err:
        raise missing_extra("a NIfTI file", "nibabel") from err
    return nibabel


def _npz(result: ImageResult, folder: Path) -> dict[str, bytes]:
    content = io.BytesIO()
    boxes = [each["box"] or [np.nan] * 4 for each in result.records]
    np.savez_compressed(
        content,
        masks=result.masks,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        predicted_iou=np.array([each["predicted_iou"] for each in result.records], np.float32),
        labels=np.array(result.labels, np.str_),
    )
    return {f"{result.name}.npz": content.getvalue()}


def _png(result: ImageResult, folder: Path) -> dict[str, bytes]:
    """An image without a mask has an empty one."""
    files = {}
    for number, mask in enumerate(result.masks):
        file = f"{result.name}_{number}.png" if number else f"{result.name}.png"
        files[file] = encode_image(Path(file), mask_image(mask[None]))
    return files


_FILES: Final[Mapping[str, Callable[[ImageResult, Path], dict[str, bytes]]]] = {
    "labelme": _labelme,
    "nifti": _nifti,
    "npz": _npz,
    "png": _png,
}
FILE_FORMATS: Final = ("yolo", *_FILES)
