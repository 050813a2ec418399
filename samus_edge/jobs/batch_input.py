"""What a batch is made of: many images, and the prompts of each."""

import csv
import glob
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.data.annotations import Annotations, read_annotations
from samus_edge.data.case import list_problems, natural_order
from samus_edge.errors import BadArgumentError, ImageFileError
from samus_edge.jobs.record import Box, Point
from samus_edge.runtime.cine.cine_source import IMAGE_SUFFIXES, head_of
from samus_edge.runtime.dicom.dicom_frames import is_dicom

__all__ = [
    "BatchItem",
    "ImagePrompts",
    "PromptFile",
    "find_images",
    "make_batch",
    "parse_shard",
    "read_prompts",
]


@dataclass(frozen=True)
class ImagePrompts:
    """The prompts of one image.

    Attributes:
        boxes: XYXY, pixels of the image.
        points: (x, y, label), pixels of the image; label 1 foreground, 0 background.
        labels: What each box shows, "" where it is not said; empty where none is.
        masks: (H, W), bool, to be refined, one for each box; or none.
    """

    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    labels: tuple[str, ...] = ()
    masks: tuple[npt.NDArray[np.bool_], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, which tells prompts apart."""
        masks = [hashlib.sha256(np.packbits(mask).tobytes()).hexdigest() for mask in self.masks]
        lists = {"boxes": list(map(list, self.boxes)), "points": list(map(list, self.points))}
        return {**lists, "labels": list(self.labels), "masks": masks}


ReadPrompts: TypeAlias = Callable[[Path], ImagePrompts]


@dataclass(frozen=True)
class BatchItem:
    """One image of a batch.

    Attributes:
        image: The file.
        name: Its path below the folder that all images have in common, without a suffix unless
            another image differs from it by that alone; no other image of the batch has it.
        read_prompts: From the file to its prompts; None if there are none.
    """

    image: Path
    name: str
    read_prompts: ReadPrompts | None


@dataclass(frozen=True)
class PromptFile:
    """The prompts of many images.

    Attributes:
        folder: Where paths begin.
        by_image: By the path of an image or the end of one; from the image to its prompts.
        annotations: Of the formats of other tools: finds the name of an image in its own way.
    """

    folder: Path
    by_image: Mapping[str, ReadPrompts]
    annotations: Annotations | None = None


def find_images(
    given: Iterable[str], list_file: Path | None = None, but: Path | None = None
) -> list[Path]:
    """The image files that are meant, each once, in a fixed order.

    Args:
        given: Files, folders (with all that is below them, except for hidden files), or patterns as
            of a shell, where `**` stands for folders within folders.
        list_file: A text file with such a path on each line.
        but: A folder whose files are left out: that of the results.

    Raises:
        ImageFileError: if a folder or a pattern has no image, or the list cannot be read.
    """
    entries = list(given)
    if list_file is not None:
        try:
            text = list_file.read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as err:
            raise ImageFileError(f"the list {list_file} cannot be read ({err.strerror}).") from err
        entries += [line for line in text.splitlines() if line.strip()]
    found: dict[str, Path] = {}
    left_out = None if but is None else Path(os.path.abspath(but))
    for entry in entries:
        paths = _images_of(entry)
        for path in paths:
            absolute = Path(os.path.abspath(path))
            if left_out is None or left_out not in absolute.parents:
                found.setdefault(str(absolute), path)
    return list(found.values())


def _images_of(entry: str) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        files = [
            file
            for file in path.rglob("*")
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
            and (file.suffix.lower() in IMAGE_SUFFIXES or is_dicom(head_of(file)))
        ]
        what = (
            f"the folder {entry} has no DICOM file and none ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    elif glob.has_magic(entry) and not path.exists():
        files = [Path(name) for name in glob.glob(entry, recursive=True) if Path(name).is_file()]
        what = f"no file fits the pattern {entry}"
    else:
        return [path]  # whether it is there is said when its turn comes
    if not files:
        raise ImageFileError(f"{what}. Give images, a folder of them or a pattern.")
    return sorted(files, key=lambda file: natural_order(file.as_posix()))


def parse_shard(text: str) -> tuple[int, int]:
    """Parse "i/n": the part i, from 1, of n."""
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise BadArgumentError(
            f"--shard {text!r} is not i/n, the part i of n from 1/n to n/n, as in --shard 2/4."
        )
    return int(part), int(count)


def read_prompts(path: Path, *, refine: bool = False) -> PromptFile:
    """The prompts of many images; docs/batch.md shows the forms.

    Args:
        path: A CSV or JSON file, or annotations as `read_annotations` takes them.
        refine: Whether masks and outlines are prompts themselves, beside the boxes around them.

    Raises:
        BadArgumentError: if it cannot be read, or is of no known form; all that is wrong is named.
        DataError: if annotations cannot be read.
    """
    kind = path.suffix.lower()
    found: dict[str, ImagePrompts] = {}
    document: object = None
    try:
        if kind == ".csv":
            found = _of_csv(path)
        elif kind == ".json":
            document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as err:
        raise BadArgumentError(f"the prompts {path} cannot be read ({err.strerror}).") from err
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as err:
        raise BadArgumentError(
            f"the prompts {path} are no {kind[1:].upper()} ({err}). docs/batch.md shows the forms."
        ) from err
    is_ours = document is not None and not (
        isinstance(document, dict) and {"annotations", "shapes"} & set(document)
    )
    if not found and not is_ours:
        annotations = read_annotations(path)
        read = partial(_of_annotations, annotations, refine)
        return PromptFile(path.parent, dict.fromkeys(annotations.names, read), annotations)
    if refine:
        raise BadArgumentError(f"--refine takes masks or outlines, and {path} has none.")
    given = found or _of_json(path, document)
    return PromptFile(path.parent, {image: _always(each) for image, each in given.items()})


def _always(prompts: ImagePrompts) -> ReadPrompts:
    return lambda image: prompts


def _of_annotations(annotations: Annotations, refine: bool, image: Path) -> ImagePrompts:
    """The boxes of an image's annotations, else its points, which are one prompt."""
    found = annotations.of(image)
    boxed = [(each.box, each) for each in found if each.box is not None]
    masks = [each.mask for _, each in boxed] if refine else []
    if refine and (not masks or any(mask is None for mask in masks)):
        raise BadArgumentError(f"--refine takes masks or outlines, and {image} has none.")
    points = [(x, y, 1) for each in found if each.box is None for x, y in each.points]
    labels = tuple(each.label for _, each in boxed)
    return ImagePrompts(
        tuple(box for box, _ in boxed),
        tuple(points) if not boxed else (),
        labels if any(labels) else (),
        tuple(mask for mask in masks if mask is not None),
    )


def _of_csv(path: Path) -> dict[str, ImagePrompts]:
    """A row for each box or point: `image`, `x1,y1,x2,y2` or `x,y[,positive]`, `label` of a box."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    problems: list[str] = []
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        if "image" not in names or not ({"x1", "y1", "x2", "y2"} <= set(names) or "x" in names):
            raise BadArgumentError(
                f"{path} has the columns {', '.join(names) or 'none'}, expected image,x1,y1,x2,y2 "
                "for boxes, or image,x,y for points, in its first line."
            )
        for row in reader:
            values = {key: (row.get(name) or "").strip() for key, name in names.items()}
            here = found[values["image"]]
            try:
                if values.get("x1"):
                    here["boxes"].append(tuple(float(values[key]) for key in _CORNERS))
                    here["labels"].append(values.get("label", ""))
                if values.get("x"):
                    positive = int(values.get("positive") or 1)
                    here["points"].append((float(values["x"]), float(values["y"]), positive))
            except (ValueError, KeyError):
                problems.append(f"line {reader.line_num}: {','.join(values.values())}")
    if problems:
        raise BadArgumentError(list_problems(f"{path} has lines without numbers", problems))
    return {image: _checked(image, path, **each) for image, each in found.items()}


_CORNERS = ("x1", "y1", "x2", "y2")


def _of_json(path: Path, document: object) -> dict[str, ImagePrompts]:
    """By image: a box, a list of boxes, or an object with `boxes`, `points` and `labels`."""
    if not isinstance(document, dict):
        raise BadArgumentError(
            f'{path} is no JSON object, expected {{"x.png": [x1, y1, x2, y2], ...}}.'
        )
    found = {}
    for image, value in document.items():
        if isinstance(value, list):
            value = {"boxes": value if value and isinstance(value[0], list) else [value]}
        if not isinstance(value, dict) or set(value) - {"boxes", "points", "labels"}:
            raise BadArgumentError(
                f"{path} has {str(value)[:60]} for {image}, expected a box [x1, y1, x2, y2], a "
                'list of boxes, or {"boxes": [...], "points": [[x, y, 1], ...], "labels": [...]}.'
            )
        found[image] = _checked(image, path, **value)
    return found


def _checked(
    image: str,
    path: Path,
    boxes: Sequence[Sequence[float]] = (),
    points: Sequence[Sequence[float]] = (),
    labels: Sequence[str] = (),
) -> ImagePrompts:
    try:
        checked_boxes = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in (map(float, b) for b in boxes))
        checked_points = tuple((float(x), float(y), int(on)) for x, y, on in points)
        if any(on not in (0, 1) for _, _, on in checked_points):
            raise ValueError
        if labels and len(labels) != len(boxes):
            raise ValueError
    except (TypeError, ValueError) as err:
        raise BadArgumentError(
            f"{path} has prompts for {image} that are none: expected boxes of 4 numbers "
            "x1,y1,x2,y2, points x,y with 1 (on the lesion) or 0, and a label for each box."
        ) from err
    return ImagePrompts(
        checked_boxes, checked_points, tuple(map(str, labels)) if any(labels) else ()
    )


def make_batch(
    images: Sequence[Path], prompts: PromptFile | None = None, for_all: ImagePrompts | None = None
) -> tuple[list[BatchItem], list[str]]:
    """Give each image its prompts.

    Args:
        images: The files.
        prompts: Each of them fits one image at most.
        for_all: What each image has that has none there.

    Returns:
        The images in their order, and the names of prompts that no image has.

    Raises:
        BadArgumentError: if prompts fit several images.
        DataError: if an image has several annotations that fit equally.
    """
    paths = [PurePosixPath(Path(os.path.abspath(image)).as_posix()) for image in images]
    by_stem: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        for name in {path.stem, path.name}:
            by_stem[name].append(index)
    found: dict[int, str] = {}
    left: list[str] = []
    problems: list[str] = []
    prompts = prompts or PromptFile(Path(), {})
    for name in prompts.by_image:
        which = _fitting(name, prompts, paths, by_stem)
        if not which:
            left.append(name)
        elif len(which) > 1 or found.setdefault(which[0], name) != name:
            others = ", ".join(str(images[index]) for index in which[:3])
            problems.append(f"{name} for {others}")
    if problems:
        text = list_problems("prompts fit several images, or several an image", problems)
        raise BadArgumentError(f"{text} Name each image by its folders as well.")
    items = []
    for index, (image, name) in enumerate(zip(images, _names(paths), strict=True)):
        read = None if for_all is None else _always(for_all)
        if index in found:
            read = prompts.by_image[found[index]]
        items.append(BatchItem(image, name, read))
    return items, left


def _fitting(
    name: str,
    prompts: PromptFile,
    paths: Sequence[PurePosixPath],
    by_stem: Mapping[str, Sequence[int]],
) -> list[int]:
    """Which images a name means: that very path, else what ends like it."""
    named = PurePosixPath(name.replace("\\", "/"))
    candidates = list(dict.fromkeys([*by_stem.get(named.name, ()), *by_stem.get(named.stem, ())]))
    if prompts.annotations is not None:
        name_of = prompts.annotations.name_of
        candidates = [index for index in candidates if name_of(Path(paths[index])) == name]
        shared = [_shared(paths[index], named) for index in candidates]
        pairs = zip(candidates, shared, strict=True)
        return [index for index, count in pairs if count == max(shared)]
    for folder in (Path(), prompts.folder):
        whole = Path(os.path.abspath(folder / name)).as_posix()
        if exact := [index for index in candidates if paths[index].as_posix() == whole]:
            return exact
    stem = named.stem if named.suffix.lower() in (*IMAGE_SUFFIXES, ".dcm") else named.name
    without = (*named.parts[:-1], stem)
    ends = [paths[index].parts[-len(without) :] for index in candidates]
    if ending := [i for i, end in zip(candidates, ends, strict=True) if end == named.parts]:
        return ending
    return [i for i in candidates if paths[i].with_suffix("").parts[-len(without) :] == without]


def _shared(path: PurePosixPath, named: PurePosixPath) -> int:
    """How many folders two paths share at their ends."""
    pairs = zip(path.parts[-2::-1], named.parts[-2::-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _names(absolute: Sequence[PurePosixPath]) -> list[str]:
    common = os.path.commonpath([path.parent for path in absolute]) if absolute else ""
    names = [path.relative_to(common) for path in absolute]
    stems = Counter(name.with_suffix("") for name in names)
    chosen = [name if stems[name.with_suffix("")] > 1 else name.with_suffix("") for name in names]
    name, count = max(Counter(chosen).items(), key=lambda pair: pair[1], default=("", 1))
    if count > 1:
        raise BadArgumentError(f"results of {count} images would be called {name}. Rename them.")
    return [each.as_posix() for each in chosen]
