"""Segment many images by one loaded model, into a folder that can be continued after a stop."""

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock, Timeout

from samus_edge.errors import (
    BadArgumentError,
    JobInterruptedError,
    OutputFileError,
    SamusEdgeError,
)
from samus_edge.jobs.batch_input import BatchItem
from samus_edge.jobs.record import Clock, computed_by
from samus_edge.jobs.result_formats import (
    DOCUMENT_FORMATS,
    FILE_FORMATS,
    ImageResult,
    open_results,
)
from samus_edge.jobs.segment_file import (
    ALTERNATIVES,
    FileSegmentation,
    load_segmenter,
    open_image,
    segment_opened,
)
from samus_edge.runtime.cine.cine_source import head_of
from samus_edge.runtime.dicom.dicom_frames import is_dicom
from samus_edge.runtime.images.mask_shapes import rle
from samus_edge.runtime.images.output_files import sha256_of_file, write_files_atomically
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["BatchReport", "BatchSegmentation", "segment_batch"]

_AHEAD = 2
"""Images that are read, measured or written while others are computed."""

_RESULTS, _ERRORS, _JOB = "results{}.jsonl", "errors{}.jsonl", "job.json"
# By its format, where the file of an image goes, and the field of its job.
_FILES: Mapping[str, tuple[str, str]] = {
    "mask": ("masks/{}.png", "mask_file"),
    "overlay": ("overlays/{}.png", "overlay_file"),
    "dicom-seg": ("dicom-seg/{}.dcm", "dicom_seg_file"),
    "dicom-sr": ("dicom-sr/{}.dcm", "dicom_sr_file"),
    "probabilities": ("probabilities/{}.npz", "probability_file"),
}

Line: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class BatchSegmentation:
    """Many images, and where their results go.

    Attributes:
        items: The images, whole: a part of them (`shard`) is named as in the whole.
        folder: Of the results; new, empty, or of the same job before it was stopped.
        each: What is done with each image; its image, prompts and files are those of the item.
        formats: Files to write: "mask", "overlay", "probabilities", "dicom-seg" and "dicom-sr", as
            each image is done (the last two of DICOM images alone), and those of `open_results` at
            the end, of the whole alone.
        jobs: Images that are computed at the same time; None for one.
        shard: (i, n): the i-th part, from 1, of n.
    """

    items: Sequence[BatchItem]
    folder: Path
    each: FileSegmentation
    formats: Sequence[str] = ("mask",)
    jobs: int | None = None
    shard: tuple[int, int] = (1, 1)


@dataclass
class BatchReport:
    """What came of a batch.

    Attributes:
        folder: Of the results.
        results_file: A line for each image with a result, in the order of the images.
        errors_file: A line for each image without one; None if there is none.
        total: Number of images.
        done: Number of images that were segmented.
        kept: Number of images whose result was there already.
        errors: Message of each image that failed, by its path.
        notes: Number of images that were segmented with a note, by its code.
        seconds: Wall time without that of loading the model.
    """

    folder: Path
    results_file: Path
    errors_file: Path | None = None
    total: int = 0
    done: int = 0
    kept: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As the document that `samus-edge infer --out-dir DIR --json` prints."""
        return {
            "folder": str(self.folder),
            "results_file": str(self.results_file),
            "errors_file": None if self.errors_file is None else str(self.errors_file),
            "images": {
                "total": self.total,
                "done": self.done,
                "kept": self.kept,
                "failed": len(self.errors),
            },
            "notes": dict(self.notes),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.done / self.seconds, 3) if self.seconds else None,
        }


def segment_batch(
    job: BatchSegmentation, on_image: Callable[[BatchReport], None] = lambda report: None
) -> BatchReport:
    """Segment many images; one that fails does not keep the others from their results.

    An image whose result is in the folder is not computed again: after a stop, even by `kill -9`,
    the same job goes on, and ends with the same files as if it had not been stopped.

    Args:
        job: What to do.
        on_image: Called after each image, and before the first.

    Raises:
        BadArgumentError: if there is no image, or an argument is wrong.
        SamusEdgeError: if the folder holds something else, or another process works in it.
        BundleError, BackendError: as `Segmenter.load`.
        OutputFileError: if a result cannot be written; what is finished is kept.
        JobInterruptedError: after Ctrl-C; what is finished is kept.
    """
    part, count = job.shard
    suffix = "" if count == 1 else f".{part}-of-{count}"
    items = job.items[part - 1 :: count]
    if not job.items:
        raise BadArgumentError("there is no image. Give files, folders or patterns (--image).")
    known = (*_FILES, *DOCUMENT_FORMATS, *FILE_FORMATS)
    if unknown := set(job.formats) - set(known):
        raise BadArgumentError(
            f"there is no format {', '.join(sorted(unknown))}. Give {', '.join(known)}."
        )
    if "dicom-sr" in job.formats and "dicom-seg" not in job.formats:
        raise BadArgumentError("a report refers to a segmentation: give --format dicom-seg, too.")
    with ExitStack() as closing:
        drafts = closing.enter_context(_own_folder(job.folder, suffix))
        segmenter = closing.enter_context(load_segmenter(job.each))
        _check_settings(job, segmenter, drafts)
        results = _Results(job.folder, suffix)
        closing.callback(results.close)
        report = BatchReport(job.folder, results.path, total=len(items))
        errors_file = job.folder / _ERRORS.format(suffix)
        errors_file.unlink(missing_ok=True)
        worker = _Worker(job, segmenter, results, drafts)
        begun = time.perf_counter()
        on_image(report)
        try:
            for item, outcome in _in_order(worker, items):
                if isinstance(outcome, Exception):
                    message = " ".join(str(outcome).split()) or "not enough memory"
                    report.errors[str(item.image)] = message
                    report.errors_file = errors_file
                    kind = type(outcome).__name__
                    _append(
                        errors_file,
                        {"image": str(item.image), "error": kind, "message": message},
                    )
                elif outcome is None:
                    report.kept += 1
                else:
                    results.add(str(item.image), outcome)
                    report.notes.update({note["code"] for note in outcome["notes"]})
                    report.done += 1
                report.seconds = time.perf_counter() - begun
                on_image(report)
            images = [str(item.image) for item in items]
            results.put_in_order(images, drafts)
            for kind in job.formats:
                if kind not in _FILES and count == 1:
                    _write_format(kind, job, filter(None, map(results.find, images)))
        except KeyboardInterrupt as err:
            done = report.done + report.kept
            raise JobInterruptedError(
                f"stopped after {done} of {len(items)} images. The same command goes on."
            ) from err
        return report


def _write_format(kind: str, job: BatchSegmentation, lines: Iterable[Line]) -> None:
    """Write the best mask of each prompt in a format of other tools."""
    names = {"csv": "measurements.csv", "coco": "coco.json", "coco-polygons": "coco-polygons.json"}
    with open_results(kind, job.folder / names.get(kind, kind), overwrite=True) as writer:
        for line in lines:
            best = [mask for mask in line["masks"] if not mask.get("alternative")]
            for result in ImageResult.of_document(line["name"], {**line, "masks": best}):
                writer.add(result)


@contextmanager
def _own_folder(folder: Path, suffix: str) -> Iterator[Path]:
    """Make the folder of results, and in it one for drafts that no other process uses."""
    has_job = (folder / _JOB).is_file() or not folder.exists() or _is_empty(folder)
    if not has_job:
        raise SamusEdgeError(
            f"{folder} is not a folder of results and is left as it is: it has no {_JOB}. Give a "
            "new folder."
        )
    drafts = folder / f".drafts{suffix}"
    try:
        drafts.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".lock{suffix}")
        lock.acquire(timeout=0)
    except Timeout as err:
        raise SamusEdgeError(
            f"another samus-edge infer writes to {folder}. Wait for it, or give another folder."
        ) from err
    except OSError as err:
        raise OutputFileError(
            f"the folder of results {folder} cannot be written to ({err.strerror}). Give another."
        ) from err
    try:
        for left in drafts.iterdir():  # by a process that was killed
            left.unlink()
        yield drafts
    finally:
        with suppress(OSError):
            drafts.rmdir()
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing, but for what a process leaves that was killed at its start."""
    return folder.is_dir() and all(
        path.name.startswith((".drafts", ".lock")) for path in folder.iterdir()
    )


def _check_settings(job: BatchSegmentation, segmenter: Segmenter, drafts: Path) -> None:
    """Keep what every result of the folder is computed by, and refuse to mix.

    Raises:
        SamusEdgeError: if the folder has results of other settings.
    """
    each = job.each
    spacing, location = each.spacing, each.location
    settings = {
        "computed_by": computed_by(segmenter),
        "frames": list(each.frames),
        "spacing": None if spacing is None else spacing.to_json(),
        "location": None if location is None else str(location),
        "callipers": each.has_callipers,
        "alternatives": each.has_alternatives,
        "max_lesions": each.max_lesions,
    }
    path = job.folder / _JOB
    if not path.exists():
        write_files_atomically({path: (json.dumps(settings, indent=2) + "\n").encode()}, drafts)
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise SamusEdgeError(
            f"{path} is damaged. It says what the results beside it were computed by, so give a "
            "new folder."
        ) from err
    here = [_comparable(each) for each in (settings, earlier)]
    different = [key for key in here[0] if here[0][key] != here[1].get(key)]
    if different:
        raise SamusEdgeError(
            f"{job.folder} has results of other settings ({', '.join(different)}; see {path}). "
            "Give the same, or another folder."
        )


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what may differ between the machines that share a batch."""
    computed = dict(settings.get("computed_by", {}))
    computed.pop("threads", None)
    computed["bundle"] = {**computed.get("bundle", {}), "path": None}
    return {**settings, **computed, "computed_by": None}


class _Results:
    """The results of a folder, a line of JSON each: read by image, and appended to.

    Args:
        folder: Of the results; those of all parts of a batch are read.
        suffix: Of the file that is appended to.

    Raises:
        SamusEdgeError: if a line of them is damaged.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self.path = folder / _RESULTS.format(suffix)
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted(folder.glob(_RESULTS.format("*")), key=lambda file: file != self.path):
            at = 0
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):  # cut off when the process was killed
                        break
                    self._places.setdefault(_image_of(line, path, number), (path, at))
                    at += len(line)
            if path == self.path:
                with path.open("r+b") as own:
                    own.truncate(at)
        self._file = self.path.open("ab")

    def find(self, image: str) -> Line | None:
        """The result of an image, or None."""
        place = self._places.get(image)
        if place is None:
            return None
        line: Line = json.loads(_line_at(*place))
        return line

    def add(self, image: str, line: Line) -> None:
        """Append a result.

        Raises:
            OutputFileError: if it cannot be written.
        """
        place = self.path, self._file.tell()
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as err:
            raise OutputFileError(
                f"{self.path} cannot be written ({err.strerror}). Make room; the same command "
                "goes on."
            ) from err
        self._places[image] = place

    def put_in_order(self, images: Sequence[str], drafts: Path) -> None:
        """Let the file have the results of these images in their order, then those of others."""
        wanted = dict.fromkeys(images)
        others = [image for image, (path, _) in self._places.items() if path == self.path]
        places = [self._places[image] for image in wanted if image in self._places]
        places += [self._places[image] for image in others if image not in wanted]
        if all(path == self.path for path, _ in places) and places == sorted(places):
            return
        draft = drafts / self.path.name
        with draft.open("wb") as file:
            file.writelines(_line_at(*place) for place in places)
        draft.replace(self.path)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def _image_of(line: bytes, path: Path, number: int) -> str:
    """The image that a line is the result of."""
    try:
        image = json.loads(line)["image"]["path"]
    except (ValueError, LookupError, TypeError):
        image = None
    if isinstance(image, str):
        return image
    raise SamusEdgeError(
        f"{path}, line {number}, is damaged: it is not the result of an image. Delete that line "
        "alone; the same command segments its image again."
    )


def _line_at(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.readline()


@dataclass(frozen=True)
class _Worker:
    """From an image to its files and its line; used by several threads."""

    job: BatchSegmentation
    segmenter: Segmenter
    results: _Results
    drafts: Path
    turn: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "turn", threading.Semaphore(self.job.jobs or 1))

    def __call__(self, item: BatchItem) -> Line | None:
        """The line of an image; None if it is there already, with all files."""
        if item.read_prompts is None:
            raise BadArgumentError(
                f"{item.image} has no prompt. Give prompts for it (--prompts), some for all images "
                "(--box, --point), or let the model suggest lesions (--auto)."
            )
        paths: dict[str, Any] = {}
        formats = set(self.job.formats) & set(_FILES)
        if not is_dicom(head_of(item.image)):
            formats -= {"dicom-seg", "dicom-sr"}
        for path, name in map(_FILES.__getitem__, formats):
            path = path.format(item.name)
            if name == "mask_file" and len(self.job.each.frames) > 1:
                path = path.removesuffix(".png") + ".npz"
            paths[name] = self.job.folder / path
        given = item.read_prompts(item.image)
        prompts = given.to_json()
        earlier = self.results.find(str(item.image))
        if earlier is not None and item.image.is_file():
            before = earlier["image"]["sha256"], earlier["name"], earlier["prompts"]
            if before != (sha256_of_file(item.image), item.name, prompts):
                raise SamusEdgeError(
                    f"{item.image} has changed, or has other prompts or another place among the "
                    f"images, since its result was written to {self.job.folder}. Give a new folder."
                )
            if all(path.is_file() for path in paths.values()):
                return None
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        found: list[dict[str, Any]] = []
        file_job = replace(
            self.job.each,
            image=item.image,
            boxes=given.boxes,
            points=given.points,
            masks=given.masks,
            **paths,
        )
        report = segment_opened(
            file_job,
            open_image(file_job),
            self.segmenter,
            Clock(),
            turn=self.turn,
            on_masks=lambda masks: found.extend(map(rle, masks)),
            drafts=self.drafts,
        )
        document = report.to_json()
        for mask, run_lengths in zip(document["masks"], found, strict=True):
            mask["rle"] = run_lengths
        for index, mask in enumerate(document["masks"] if given.labels else ()):
            which = index // (ALTERNATIVES if self.job.each.has_alternatives else 1)
            mask["label"] = given.labels[which % len(given.labels)]
        if earlier is not None:
            return None
        line = {name: document[name] for name in ("image", "masks", "notes")}
        return {"name": item.name, "prompts": prompts, **line}


def _in_order(
    worker: _Worker, items: Sequence[BatchItem]
) -> Iterator[tuple[BatchItem, Line | Exception | None]]:
    """What came of each image, in their order; few are ahead of the one that is waited for."""
    waiting: deque[tuple[BatchItem, Future[Line | None]]] = deque()
    threads = (worker.job.jobs or 1) + _AHEAD
    with ThreadPoolExecutor(threads, thread_name_prefix="image") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(worker, item)))
                if len(waiting) > 2 * threads:
                    yield _settled(*waiting.popleft())
            while waiting:
                yield _settled(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _settled(
    item: BatchItem, future: "Future[Line | None]"
) -> tuple[BatchItem, Line | Exception | None]:
    try:
        return item, future.result()
    except OutputFileError:
        raise
    except (BadArgumentError, SamusEdgeError, MemoryError) as err:
        return item, err


def _append(path: Path, line: Line) -> None:
    try:
        with path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
    except OSError as err:
        raise OutputFileError(f"{path} cannot be written ({err.strerror}). Make room.") from err
