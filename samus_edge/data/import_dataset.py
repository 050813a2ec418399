"""A training set, `images/` and `masks/`, from the annotations of another tool."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.annotations import (
    SUFFIXES,
    Annotation,
    Annotations,
    files_below,
    nifti_frames,
    read_annotations,
    stem_of,
)
from samus_edge.data.case import NORMAL_CLASS, list_problems
from samus_edge.data.dataset import IMAGE_SUFFIXES
from samus_edge.errors import BadArgumentError, DataError, SamusEdgeError
from samus_edge.runtime.cine.cine_source import open_frames
from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.images.output_files import draft_folder
from samus_edge.runtime.images.overlay import encode_image, mask_image

_RECORD = "import.json"
_NIFTI: Final = SUFFIXES["nifti"]
_MASK: Final = re.compile(r"_(mask|gt)(_\d+)?$")


@dataclass
class ImportReport:
    """What a training set was made of; it is also in its `import.json`.

    Attributes:
        source: The annotations.
        format: Their format.
        images: Number of images.
        lesions: Number of lesions.
        normal: Number of the images that show none.
        left_out: Number of images without an annotation that were left out.
        labels: Number of lesions by the name of their class.
    """

    source: str
    format: str
    images: int = 0
    lesions: int = 0
    normal: int = 0
    left_out: int = 0
    labels: dict[str, int] = field(default_factory=dict)


def import_dataset(
    source: Path,
    out: Path,
    *,
    kind: str | None = None,
    images: Path | None = None,
    keep_normal: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int], object] = lambda count: None,
    on_image: Callable[[Path], object] = lambda image: None,
) -> ImportReport:
    """Make a training set, whole or not at all.

    Images are copied as they are; frames of DICOM and NIfTI files become PNG. Each lesion has a
    mask file of its own, so those that overlap stay apart.

    Args:
        source: The annotations; see `read_annotations`.
        out: Folder of the training set, made here.
        kind: Format of the annotations; None finds out.
        images: Folder of the images; None for that of the annotations, or `images` in it.
        keep_normal: Whether images without an annotation become the class "normal"; else they are
            left out.
        overwrite: Whether `out` is replaced if it is such a training set.
        on_start: Called with the number of image files.
        on_image: Called after each.

    Raises:
        BadArgumentError: if the folder of the images has to be named.
        DataError: if there is no image, one that is annotated is missing, or annotations are
            damaged, of another size or without a mask; all are named.
        SamusEdgeError: if `out` exists and is not to be replaced.
        MissingExtraError: if a package is needed that is not installed.
    """
    annotations = read_annotations(source, kind)
    if images is None and annotations.format in SUFFIXES:
        raise BadArgumentError(
            f"{source} has masks alone. Say in which folder their images are (--images)."
        )
    if images is None:
        images = source if source.is_dir() else source.parent
        images = images / "images" if (images / "images").is_dir() else images
    names = {file: _name(file, images) for file in _image_files(images, source)}
    on_start(len(names))
    problems = [
        f"{count} images would be called {name}"
        for name, count in Counter(names.values()).items()
        if count > 1
    ]
    owners: dict[str | None, list[str]] = {}
    for file in names:
        owners.setdefault(annotations.name_of(_annotated(file)), []).append(str(file))
    for annotated, files in owners.items():
        if annotated is not None and len(files) > 1:
            problems.append(f"{annotated} could be for {' or '.join(files)}")
    if annotations.format not in SUFFIXES:
        missing = [each for each in annotations.names if each not in owners]
        problems += [f"no image for {each} in {images}" for each in missing]
    report = ImportReport(str(source), annotations.format)
    with draft_folder(out, kind="a training set", marker=_RECORD, overwrite=overwrite) as draft:
        taken = {name.as_posix() for name in names.values()}
        for file, name in names.items():
            try:
                _import_image(file, name, annotations, keep_normal, draft, taken, report)
            except SamusEdgeError as err:
                problems.append(str(err))
            on_image(file)
        if problems:
            raise DataError(list_problems(f"{source} cannot be imported", problems))
        if not report.images:
            raise DataError(f"None of {len(names)} images in {images} is annotated in {source}.")
        text = json.dumps(asdict(report), indent=2) + "\n"
        (draft / _RECORD).write_text(text, encoding="utf-8")
    return report


def _image_files(folder: Path, source: Path) -> list[Path]:
    """The images of a folder, without files that are masks by their place or name."""
    found = [
        file
        for file in files_below(folder, (*IMAGE_SUFFIXES, ".webp", ".dcm", *_NIFTI))
        if source == folder or not file.is_relative_to(source)
    ]
    stems = {stem_of(file.name) for file in found}
    images = [
        file
        for file in found
        if not _MASK.search(stem_of(file.name)) or _MASK.sub("", stem_of(file.name)) not in stems
    ]
    if not images:
        raise DataError(f"{folder} has no images. Give their folder (--images).")
    return images


def _name(file: Path, folder: Path) -> Path:
    """Name in the training set, without an ending: one level of folders stays, as classes."""
    *folders, name = file.relative_to(folder).parts
    return Path(*folders[:1], "_".join([*folders[1:], stem_of(name)]))


def _annotated(file: Path) -> Path:
    """The name that annotations have for a file: nnU-Net adds the number of the channel."""
    return file.with_name(re.sub(r"_0000(\.nii(\.gz)?)$", r"\1", file.name))


def _import_image(
    file: Path,
    name: Path,
    annotations: Annotations,
    keep_normal: bool,
    draft: Path,
    taken: set[str],
    report: ImportReport,
) -> None:
    """Write the frames of an image that are wanted, and count them."""
    frames = list(_frames(file, annotations.format))
    for frame, image in enumerate(frames):
        height, width = image.shape
        found = annotations.of(_annotated(file), frame, (height, width))
        masks = [_mask(each, file) for each in found]
        shown = [index for index, mask in enumerate(masks) if mask.any()]
        if not shown and not keep_normal:
            report.left_out += 1
            continue
        place = name if len(frames) == 1 else name.with_name(f"{name.name}_frame_{frame:06d}")
        if not shown:
            place = Path(NORMAL_CLASS, "_".join(place.parts))
        target = draft / "images" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if len(frames) == 1 and file.suffix.lower() in IMAGE_SUFFIXES:
            shutil.copyfile(file, target.with_name(target.name + file.suffix))
        else:
            target = target.with_name(target.name + ".png")
            target.write_bytes(encode_image(target, image))
        (draft / "masks" / place).parent.mkdir(parents=True, exist_ok=True)
        number = 0
        for index in shown:
            # `case_1` is the second lesion of `case`, unless there is an image of this name.
            while number and f"{place.as_posix()}_{number}" in taken:
                number += 1
            target = draft / "masks" / (f"{place}_{number}.png" if number else f"{place}.png")
            target.write_bytes(encode_image(target, mask_image(masks[index][None])))
            label = found[index].label
            report.labels[label] = report.labels.get(label, 0) + 1
            number += 1
        report.images += 1
        report.lesions += len(shown)
        report.normal += not shown


def _frames(file: Path, kind: str) -> Iterator[GreyFrame]:
    """All frames where annotations may be a stack, else the first."""
    if file.name.lower().endswith(_NIFTI):
        values = nifti_frames(file)
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 255:
            values = (values - low) * (255 / max(high - low, 1e-9))
        yield from np.rint(values).astype(np.uint8)
        return
    source = open_frames(file)
    for frame in range(len(source) if kind in ("nifti", "npz") else 1):
        yield source.read(frame)


def _mask(annotation: Annotation, file: Path) -> npt.NDArray[np.bool_]:
    if annotation.mask is None:
        raise DataError(
            f"{file} has a box or a point without an outline, which training needs. Segment the "
            "boxes first: samus-edge infer --prompts"
        )
    return annotation.mask
