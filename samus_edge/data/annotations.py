"""Annotations of images in the formats of other tools: their boxes, outlines, points and masks.

| format | what is read |
| --- | --- |
| `coco` | a JSON file of images and annotations: run lengths, polygons, boxes |
| `yolo` | a folder of text files, one for each image: boxes, or polygons; names from data.yaml |
| `labelme` | JSON files, one for each image: polygon, rectangle, circle, point, mask |
| `masks` | images `NAME.png` or `NAME_mask.png`: a label map, or lesions with `_1`, `_2` ... |
| `nifti` | `NAME.nii`, `NAME.nii.gz` likewise, 2D or a stack of frames |
| `npz` | `NAME.npz` with masks (N, H, W), or labels (H, W) or (T, H, W) |

Coordinates become ours: (0, 0) is the centre of the upper left pixel, where COCO, YOLO and LabelMe
have (0.5, 0.5). A box includes the whole of its outermost pixels: a mask of columns 3 to 5 has a
box from 2.5 to 5.5.
"""

import base64
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from tokenize import TokenError  # of NumPy's headers
from typing import Annotated, Final, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import label_values, mask_of_file, natural_order
from samus_edge.data.dataset import IMAGE_SUFFIXES
from samus_edge.errors import BadArgumentError, DataError, SamusEdgeError, missing_extra
from samus_edge.runtime.bundle.records import Bound, JsonValue, Size, from_json, parse_json
from samus_edge.runtime.cine.cine_source import open_frames
from samus_edge.runtime.images.image_io import decode_image, read_image
from samus_edge.runtime.images.mask_shapes import CORNER, fill_polygons, mask_from_rle
from samus_edge.runtime.measurement.lesion_measurements import box_around

FORMATS: Final = ("coco", "yolo", "labelme", "masks", "nifti", "npz")

Box: TypeAlias = tuple[float, float, float, float]
Hw: TypeAlias = tuple[int, int]
Mask: TypeAlias = npt.NDArray[np.bool_]
Polygon: TypeAlias = npt.NDArray[np.float64]

_CIRCLE_CORNERS = 256  # a radius of 1000 pixels is 0.08 too short between them


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object of an image, with what its format says of it.

    Attributes:
        label: Name of its class; "" if the format has none.
        original_hw: (H, W) of the image, pixels.
        box: XYXY around it, pixels of the image; None for points alone.
        polygons: (P, 2) each; together they are the object, and inside one is what is inside an odd
            number of times.
        points: (x, y) of clicks on it.
    """

    label: str
    original_hw: Hw
    box: Box | None
    polygons: tuple[Polygon, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    stored_mask: Mask | None = field(default=None, repr=False)

    @cached_property
    def mask(self) -> Mask | None:
        """(H, W), bool; None for a box or points alone.

        Raises:
            DataError: if a polygon has too few corners.
            MissingExtraError: for polygons without pycocotools.
        """
        if self.stored_mask is not None or not self.polygons:
            return self.stored_mask
        try:
            return fill_polygons(self.polygons, self.original_hw)
        except BadArgumentError as err:
            raise DataError(f"An annotation of '{self.label}' is no outline: {err}") from err


_Read: TypeAlias = Callable[[Path, int, Hw | None], list[Annotation]]
"""From an image, the index of a frame and (H, W), where it is known, to its annotations."""


class Annotations:
    """The annotations of many images, which are read image by image.

    Attributes:
        format: One of `FORMATS`.
        names: What the format calls its images, in order.
    """

    def __init__(self, kind: str, source: Path, images: Iterable[tuple[str, _Read]]) -> None:
        self.format = kind
        self._source = source
        self._entries: dict[str, list[_Read]] = {}
        for name, read in images:
            self._entries.setdefault(name, []).append(read)
        self.names = tuple(self._entries)
        self._by_stem: dict[str, list[str]] = {}
        for name in self.names:
            self._by_stem.setdefault(stem_of(PurePosixPath(name).name), []).append(name)

    def name_of(self, image: Path) -> str | None:
        """Which of the names means an image file: the one with its stem, and of several the one
        that has most of its folders; None if it is not annotated.

        Raises:
            DataError: if several mean it equally.
        """
        folders = image.absolute().parts[-2::-1]
        common = {
            name: _common(folders, PurePosixPath(name).parts[-2::-1])
            for name in self._by_stem.get(stem_of(image.name), ())
        }
        best = [name for name in common if common[name] == max(common.values())]
        if len(best) > 1:
            raise DataError(
                f"{self._source} has {', '.join(best)}, any of which could be {image}. Put the "
                "images into folders as there."
            )
        return best[0] if best else None

    def of(self, image: Path, frame: int = 0, original_hw: Hw | None = None) -> list[Annotation]:
        """The annotations of an image; none if it has none, or is not annotated.

        Args:
            image: The image file.
            frame: Its index in a stack.
            original_hw: (H, W) of the image, pixels, if the caller knows; else the file is asked
                where the format does not say.

        Raises:
            DataError: if they are malformed or for an image of another size.
            ImageFileError: if the image is asked and cannot be read.
            MissingExtraError: if a package is needed that is not installed.
        """
        name = self.name_of(image)
        found: list[Annotation] = []
        for read in () if name is None else self._entries[name]:
            with _reading(f"{name} in {self._source}"):
                found += read(image, frame, original_hw)
        for annotation in found:
            if original_hw not in (None, annotation.original_hw):
                raise DataError(
                    f"{self._source} has {name} with {_size(annotation.original_hw)} pixels, and "
                    f"{image} is {_size(original_hw or (0, 0))}."
                )
        return found


def read_annotations(path: Path, kind: str | None = None) -> Annotations:
    """Open the annotations of a file or folder.

    Args:
        path: As the format has it; see the table above.
        kind: One of `FORMATS`; None finds out.

    Raises:
        BadArgumentError: if there is no such format.
        DataError: if the file or folder is missing, in none of the formats, or damaged.
        MissingExtraError: if a package is needed that is not installed.
    """
    if not path.exists():
        raise DataError(f"The annotations {path} do not exist. Give an existing file or folder.")
    if kind is None:
        kind = _kind_of(path)
    if kind not in FORMATS:
        raise BadArgumentError(f"the format must be one of {', '.join(FORMATS)}, got {kind!r}.")
    listing: Mapping[str, Callable[[Path], Iterator[tuple[str, _Read]]]] = {
        "coco": _coco,
        "yolo": _yolo,
        "labelme": _labelme,
    }
    with _reading(str(path)):
        images = listing[kind](path) if kind in listing else _lesion_files(path, SUFFIXES[kind])
        found = Annotations(kind, path, images)
    if not found.names:
        raise DataError(f"{path} has no annotations in the format {kind}.")
    return found


SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {  # of formats that are masks alone
    "masks": IMAGE_SUFFIXES,
    "nifti": (".nii", ".nii.gz"),
    "npz": (".npz",),
}


# What a file has by which a format is known, where its name says too little.
_MARKS: Final = {
    "labelme": (rb'"shapes"', (".json",)),
    "yolo": (rb'\A\s*\d+(\s+[-+.\de]+){4}|^\s*"?names"?\s*:', (".txt", ".yaml", ".yml")),
    **{kind: (b"", SUFFIXES[kind]) for kind in ("nifti", "npz", "masks")},
}


def _kind_of(path: Path) -> str:
    files = files_below(path)
    for kind, (mark, suffixes) in _MARKS.items():
        for file in files:
            if file.name.lower().endswith(suffixes) and (
                not mark or re.search(mark, file.read_bytes(), re.MULTILINE)
            ):
                return kind
    if path.suffix.lower() == ".json":
        return "coco"
    raise DataError(f"{path} is in none of the formats {', '.join(FORMATS)}. Say which it is.")


def files_below(path: Path, suffixes: tuple[str, ...] = ("",)) -> list[Path]:
    """A file itself, or the files of a folder and its subfolders, without hidden ones, in order."""
    if path.is_file():
        return [path]
    found = [
        file
        for file in path.rglob("*")
        if file.name.lower().endswith(suffixes)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    return sorted(found, key=lambda file: natural_order(file.as_posix()))


def _name(file: Path, root: Path) -> str:
    return (file.relative_to(root) if root.is_dir() else Path(file.name)).as_posix()


def stem_of(name: str) -> str:
    """A file's name without its ending, which may be two."""
    return PurePosixPath(name.removesuffix(".gz")).stem


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _size(hw: Hw) -> str:
    return f"{hw[1]} x {hw[0]}"


_DAMAGED = (OSError, ValueError, EOFError, BadZipFile, TokenError, zlib.error)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What a document of another tool lacks, as an error that names it."""
    try:
        yield
    except SamusEdgeError:
        raise
    except _DAMAGED as err:
        raise DataError(f"{name} cannot be read: {err}") from err


# COCO


@dataclass(frozen=True)
class _CocoImage:
    id: int | str
    file_name: str
    height: Size
    width: Size
    extra: Mapping[str, JsonValue]


@dataclass(frozen=True)
class _CocoAnnotation:
    image_id: int | str
    extra: Mapping[str, JsonValue]
    category_id: int | None = None
    bbox: tuple[float, ...] = ()
    segmentation: JsonValue = None


@dataclass(frozen=True)
class _RunLengths:
    size: tuple[Size, Size]
    counts: str | tuple[int, ...]
    extra: Mapping[str, JsonValue]


@dataclass(frozen=True)
class _Segmentation:
    """Checked when its image is read: it is most of a document."""

    segmentation: _RunLengths | tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class _CocoCategory:
    id: int
    name: str
    extra: Mapping[str, JsonValue]


@dataclass(frozen=True)
class _Coco:
    """Source: https://cocodataset.org/#format-data."""

    images: tuple[_CocoImage, ...]
    annotations: tuple[_CocoAnnotation, ...]
    extra: Mapping[str, JsonValue]
    categories: tuple[_CocoCategory, ...] = ()


def _coco(path: Path) -> Iterator[tuple[str, _Read]]:
    if path.is_dir():
        raise DataError(f"{path} is a folder. COCO's annotations are one JSON file; give that.")
    document = from_json(_Coco, parse_json(path.read_bytes()))
    labels = {category.id: category.name for category in document.categories}
    by_image: dict[int | str, list[_CocoAnnotation]] = {}
    for each in document.annotations:
        by_image.setdefault(each.image_id, []).append(each)
    unknown = by_image.keys() - {image.id for image in document.images}
    if unknown:
        raise DataError(f"{path} has annotations of images that it does not have: {unknown}.")
    for image in document.images:
        name = image.file_name.replace("\\", "/")
        yield name, partial(_read_coco, image, by_image.get(image.id, []), labels)


def _read_coco(
    image: _CocoImage,
    found: Sequence[_CocoAnnotation],
    labels: Mapping[int, str],
    image_file: Path,
    frame: int,
    original_hw: Hw | None,
) -> list[Annotation]:
    hw = image.height, image.width
    annotations = []
    for each in found:
        label = labels.get(each.category_id or 0, "")
        stored: Mask | None = None
        polygons: tuple[Polygon, ...] = ()
        shape = from_json(_Segmentation, {"segmentation": each.segmentation}).segmentation
        if isinstance(shape, _RunLengths):
            if shape.size != hw:
                raise DataError(f"run lengths are of {_size(shape.size)} pixels, not {_size(hw)}.")
            stored = mask_from_rle(shape.counts, hw)
        elif shape:
            polygons = tuple(_ours(polygon) for polygon in shape)
        box: Box | None = None
        if len(each.bbox) == 4 and min(each.bbox[2:]) > 0:
            x, y, width, height = each.bbox
            box = (x - CORNER, y - CORNER, x + width - CORNER, y + height - CORNER)
        annotations.append(_annotation(label, hw, box, polygons, stored))
    return annotations


def _ours(coordinates: npt.ArrayLike) -> Polygon:
    """(P, 2) in our frame, from x, y, x, y ... where pixels have their corners at integers."""
    return np.asarray(coordinates, np.float64).reshape(-1, 2) - CORNER


def _annotation(
    label: str,
    hw: Hw,
    box: Box | None,
    polygons: tuple[Polygon, ...] = (),
    stored: Mask | None = None,
) -> Annotation:
    """With the box of its outline or of its mask, if it has no other."""
    if box is None:
        corners = list(polygons)
        if stored is not None and (around := box_around(stored)) is not None:
            corners.append(np.reshape(around, (2, 2)) + np.array([[-CORNER], [CORNER]]))
        box = _extent(corners)
    return Annotation(label, hw, box, polygons, stored_mask=stored)


def _extent(polygons: Sequence[Polygon]) -> Box | None:
    if not polygons:
        return None
    corners = np.concatenate(polygons)
    (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return x1, y1, x2, y2


# YOLO

_NAMES_FILE, _YAML = "classes.txt", (".yaml", ".yml")


def _yolo(path: Path) -> Iterator[tuple[str, _Read]]:
    """Source: https://docs.ultralytics.com/datasets/segment and /detect."""
    root = path.parent if path.suffix.lower() in _YAML else path
    names = _yolo_names(path)
    files = [file for file in files_below(root, (".txt",)) if file.name != _NAMES_FILE]
    in_labels = [file for file in files if "labels" in file.parts]
    for file in in_labels or files:  # beside labels/ there are lists of images
        yield _name(file, root), partial(_read_yolo, file, names)


def _yolo_names(path: Path) -> Mapping[int, str]:
    """Names of the classes, from the file that was given, or one in its folder or those above."""
    folders = [*([path] if path.is_dir() else []), *path.parents][:3]
    files = [each / name for each in folders for name in ("data.yaml", _NAMES_FILE)]
    for file in [path, *files]:
        if not file.is_file() or not (file.suffix.lower() in _YAML or file.name == _NAMES_FILE):
            continue
        text = file.read_text(encoding="utf-8")
        if file.name == _NAMES_FILE:
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
        try:
            from yaml import YAMLError, safe_load
        except ModuleNotFoundError as err:
            raise missing_extra("YOLO's data.yaml", "yaml", extra="formats") from err
        try:
            names = safe_load(text)["names"]
        except (YAMLError, KeyError, TypeError) as err:
            raise DataError(f"{file} has no list of 'names', the classes of YOLO.") from err
        return dict(names) if isinstance(names, dict) else dict(enumerate(names))
    return {}


def _read_yolo(
    file: Path, names: Mapping[int, str], image: Path, frame: int, original_hw: Hw | None
) -> list[Annotation]:
    height, width = hw = original_hw or open_frames(image).original_hw
    annotations = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        values = line.split()
        if not values:
            continue
        try:
            class_id, numbers = int(values[0]), [float(value) for value in values[1:]]
        except ValueError:
            numbers = []
        if len(numbers) < 4 or not all(map(math.isfinite, numbers)):
            raise DataError(
                f"{file}, line {number}: {line[:60]!r} must be a class and the numbers of a box "
                "(x y width height), or of three or more corners."
            )
        label = names.get(class_id, str(class_id))
        box: Box | None = None
        polygons: tuple[Polygon, ...] = ()
        if len(numbers) < 6:  # the fifth is a confidence
            x, y, box_width, box_height = (
                value * side for value, side in zip(numbers, (width, height) * 2, strict=False)
            )
            left, top = x - box_width / 2 - CORNER, y - box_height / 2 - CORNER
            box = (left, top, left + box_width, top + box_height)
        else:
            corners = np.reshape(numbers[: len(numbers) // 2 * 2], (-1, 2))
            polygons = (_ours(corners * (width, height)),)
        annotations.append(_annotation(label, hw, box, polygons))
    return annotations


# LabelMe


_Pair: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class _Shape:
    label: str
    points: Annotated[tuple[_Pair, ...], Bound("at least one point", bool)]
    extra: Mapping[str, JsonValue]
    shape_type: str | None = None
    group_id: int | str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class _LabelMe:
    """Source: labelme/_label_file.py and labelme/utils/shape.py of labelme 6.3. We differ: its
    drawing takes coordinates for pixel centres, while its window shows pixel corners."""

    shapes: tuple[_Shape, ...]
    imageHeight: Size
    imageWidth: Size
    extra: Mapping[str, JsonValue]


def _labelme(path: Path) -> Iterator[tuple[str, _Read]]:
    for file in files_below(path, (".json",)):
        yield _name(file, path), partial(_read_labelme, file)


def _read_labelme(file: Path, image: Path, frame: int, original_hw: Hw | None) -> list[Annotation]:
    document = from_json(_LabelMe, parse_json(file.read_bytes()))
    hw = document.imageHeight, document.imageWidth
    grouped: dict[object, list[_Shape]] = {}
    for index, shape in enumerate(document.shapes):
        key = ("shape", index) if shape.group_id is None else (shape.label, shape.group_id)
        grouped.setdefault(key, []).append(shape)
    return [_labelme_object(shapes, hw) for shapes in grouped.values()]


def _labelme_object(shapes: Sequence[_Shape], hw: Hw) -> Annotation:
    """The shapes of a group are one object."""
    polygons: list[Polygon] = []
    points: list[_Pair] = []
    extents: list[Polygon] = []
    stored: Mask | None = None
    for shape in shapes:
        corners = _ours(shape.points)  # (P, 2)
        kind = shape.shape_type or "polygon"
        if kind == "point":
            points += [(x, y) for x, y in corners.tolist()]
        elif kind == "rectangle":
            extents.append(corners)
        elif kind == "circle" and len(corners) == 2:
            angles = np.arange(_CIRCLE_CORNERS) * (2 * math.pi / _CIRCLE_CORNERS)
            circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
            polygons.append(corners[0] + math.dist(*corners.tolist()) * circle)
        elif kind == "mask" and shape.mask is not None:
            cut = decode_image(base64.b64decode(shape.mask), Path("a mask")) > 0
            x, y = (int(value) for value in shape.points[0])
            stored = np.zeros(hw, np.bool_) if stored is None else stored
            stored[y : y + cut.shape[0], x : x + cut.shape[1]] |= cut
        elif kind in ("polygon", "oriented_rectangle", "rotation"):
            polygons.append(corners)
        else:
            raise DataError(
                f"a shape is a {kind} of {len(corners)} points, expected a polygon, rectangle, "
                "circle, point or mask. Draw it as one of these."
            )
    if stored is not None and polygons:
        stored |= fill_polygons(polygons, hw)
    found = _annotation(shapes[0].label, hw, _extent(extents), tuple(polygons), stored)
    return replace(found, points=tuple(points))


# Mask files


_LESION: Final = re.compile(r"(?P<image>.+?)(?P<mark>_mask|_gt)?(?:_(?P<number>[1-9]\d*))?")


def _lesion_files(path: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, _Read]]:
    """A numbered file may be a lesion of one image or the only one of another; `_read_lesions`
    sees which."""
    files = files_below(path, suffixes)
    stems = {stem_of(file.name) for file in files}
    owners: dict[str, list[tuple[int, Path]]] = {}
    for file in files:
        stem, folder = stem_of(file.name), PurePosixPath(_name(file, path)).parent
        match = _LESION.fullmatch(stem)
        assert match is not None  # `image` takes what the others leave
        number = int(match["number"] or 0)
        if match["mark"] is None:
            owners.setdefault(str(folder / stem), []).append((0, file))
        if match["mark"] or (
            number and (match["image"] in stems or f"{match['image']}_1" in stems)
        ):
            owners.setdefault(str(folder / match["image"]), []).append((number, file))
    for name, found in owners.items():
        lesions = [file for _, file in sorted(found)]
        ending = lesions[0].name.removeprefix(stem_of(lesions[0].name))
        yield f"{name}{ending}", partial(_read_lesions, lesions)


def _read_lesions(
    files: Sequence[Path], image: Path, frame: int, original_hw: Hw | None
) -> list[Annotation]:
    masks: list[Mask] = []
    for file in files:
        # Beside the image there may be one with the number in its name, whose mask this is.
        other = image.with_stem(stem_of(file.name))
        if other == image or not other.exists() or other.samefile(file):
            masks += [] if image.exists() and file.samefile(image) else _read_masks(file, frame)
    return [_annotation("", (mask.shape[0], mask.shape[1]), None, (), mask) for mask in masks]


def _read_masks(file: Path, frame: int) -> list[Mask]:
    """The lesions of a file, (H, W) each, that are not empty."""
    if file.name.lower().endswith(SUFFIXES["nifti"]):
        frames = nifti_frames(file)
        if not 0 <= frame < len(frames):
            raise DataError(f"{file} has frames 0 to {len(frames) - 1} and no frame {frame}.")
        labels = np.rint(frames[frame])
    elif file.suffix.lower() == ".npz":
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            name = next((name for name in _NPZ_ARRAYS if name in arrays), None)
            if name is None:
                raise DataError(f"{file} has no array {' or '.join(_NPZ_ARRAYS)}.")
            labels = arrays[name]
            is_stack = labels.ndim == 3 and labels.dtype != np.bool_
            known = arrays["frames"].tolist() if "frames" in arrays else range(len(labels))
        if labels.ndim == 3 and not is_stack:
            return [mask for mask in labels if mask.any()]
        if is_stack:
            labels = labels[known.index(frame)] if frame in known else np.zeros_like(labels[0])
    else:
        values = read_image(file)
        if not label_values(values):
            mask = mask_of_file(values, file, None)
            return [mask] if mask.any() else []
        labels = values
    if labels.ndim != 2:
        raise DataError(f"{file} has an array of {labels.ndim} axes, expected (H, W) or a stack.")
    return [np.asarray(labels == value) for value in np.unique(labels) if value != 0]


_NPZ_ARRAYS: Final = ("masks", "mask", "labels", "gts")


def nifti_frames(file: Path) -> npt.NDArray[np.floating]:
    """The frames of a NIfTI file, (T, H, W): its first axis goes to the right, its second down, as
    ITK shows it.

    Raises:
        DataError: if it is no NIfTI file, or damaged.
        MissingExtraError: without nibabel.
    """
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError as NotNifti
    except ModuleNotFoundError as err:
        raise missing_extra("a NIfTI file", "nibabel") from err
    try:
        values = np.asanyarray(nibabel.load(file).dataobj)
    except (NotNifti, *_DAMAGED) as err:
        raise DataError(f"{file} is no NIfTI file that can be read: {err}") from err
    return np.asarray(values.reshape(*values.shape[:2], -1).T)  # (T, H, W)
