"""Options that several commands have, and the way from their text to numbers."""

import json
import os
import platform
import re
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.errors import BadArgumentError

if TYPE_CHECKING:
    from samus_edge.runtime.bundle.bundle import Bundle
    from samus_edge.runtime.measurement.lesion_measurements import BreastLocation, PixelSpacing


def command_line(context: typer.Context, *, places: bool = True) -> str:
    """The command with the options that were given, quoted for a shell; it runs again as it stands.

    Args:
        context: The command's context.
        places: Whether paths are given whole; else by their last part, for what travels further
            than this machine.
    """
    words = ["samus-edge", *context.command_path.split()[1:]]
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name or ""]
        names = [*parameter.opts, *parameter.secondary_opts]
        if isinstance(value, bool):
            words.append(names[0] if value else names[-1])
            continue
        # Older versions of Typer leave a path a string here, and say its type.
        kind = getattr(getattr(parameter, "type", None), "name", "")
        for each in value if isinstance(value, (list, tuple)) else [value]:
            text = str(getattr(each, "value", each))
            if not places and (isinstance(each, Path) or kind in ("path", "file", "directory")):
                text = Path(text).resolve().name
            words += [names[0], text]
    return shlex.join(words)


def check_outputs(
    files: Mapping[str, Path | None], suffixes: Mapping[str, str] | None = None
) -> None:
    """Refuse output files that cannot be written, before the work rather than after it.

    Args:
        files: by option; None where it was not given.
        suffixes: what a file's name has to end in, by option.
    """
    taken: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        suffix = (suffixes or {}).get(option, "")
        problem = ""
        if not path.name.lower().endswith(suffix):
            problem = f"{path} does not end in {suffix}."
        elif not path.absolute().parent.is_dir():
            problem = f"the folder of {path} does not exist; create it first."
        elif (other := taken.setdefault(path.resolve(), option)) != option:
            problem = f"{path} is that of {other} as well."
        if problem:
            raise typer.BadParameter(problem, param_hint=option)


def versions_line(engine: str = "onnxruntime") -> str:
    """The versions of what computes, for the header of a report."""
    packages = ("samus-edge", engine, "numpy", "opencv-python-headless")
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    )


def silence_opencv() -> None:
    """Keep OpenCV from saying what is wrong with a file: we say it, once."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET, read at the first video
    import cv2

    if getattr(cv2, "imdecode", None) is None:  # a half-removed package imports
        raise ImportError("the package has no functions", name="cv2")
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


BundlePath = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="PATH",
        help="Bundle, a folder or a zip file of one; left out: the one that comes with samus-edge.",
    ),
]
RequireSignature = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="FILE.pem",
        help="Take only a bundle that this public key has signed, or a certificate under this root "
        "certificate.",
        exists=True,
        dir_okay=False,
    ),
]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="auto, onnxruntime (CPU), onnxruntime-cuda, onnxruntime-tensorrt, openvino or "
        "tensorrt.",
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Of several: cuda:1 for the second NVIDIA GPU; for OpenVINO cpu, gpu, gpu.1 or npu. "
        "[default: the backend's choice]",
    ),
]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="auto, fp32, fp16, int8 (for TensorRT) or int8-cpu; auto is the most accurate.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="CPU threads. [default: all cores, at most 8]"),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        "--spacing",
        metavar="MM|ROW,COLUMN",
        help="Size of a pixel, mm: one number, or from row to row and from column to column. Left "
        "out: as a DICOM file says, else sizes are in pixels.",
    ),
]
DicomSeg = Annotated[
    Path | None,
    typer.Option(
        "--dicom-seg",
        metavar="FILE.dcm",
        help="Write the masks as a DICOM segmentation of a DICOM image; it identifies the patient "
        "as that does.",
    ),
]
DicomSr = Annotated[
    Path | None,
    typer.Option(
        "--dicom-sr",
        metavar="FILE.dcm",
        help="Write their measurements as a DICOM structured report; with --dicom-seg.",
    ),
]
Side = Annotated[
    str | None,
    typer.Option("--side", metavar="left|right", help="Breast that the lesion is in, for reports."),
]
ClockHour = Annotated[
    int | None,
    typer.Option("--clock", metavar="HOUR", help="Its position on the clock face, 1 to 12."),
]
FromNipple = Annotated[
    float | None,
    typer.Option("--from-nipple", metavar="MM", help="Its distance from the nipple."),
]
Depth = Annotated[
    float | None, typer.Option("--depth", metavar="MM", help="Its distance from the skin.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of text for people.")
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail (exit code 1) where a note of level warning says that the result may be wrong; "
        "infer writes no file then, track those of the frames that it has followed.",
    ),
]
AllowFailing = Annotated[
    bool,
    typer.Option(
        "--allow-failing", help="Keep a bundle that fails `verify`; its manifest says so."
    ),
]
DataFolder = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Dataset folder: BUSI's layout (benign/, malignant/, normal/), US30K's (MainPatient/, "
        "DATASET/img, DATASET/label), or images/ with masks/.",
        exists=True,
        file_okay=False,
    ),
]
SplitsFolder = Annotated[
    Path | None,
    typer.Option(
        "--splits",
        metavar="DIR",
        help="With --config: the folder splits/ of its training. Left out: rules are followed "
        "again, which gives the same subsets and takes longer.",
        exists=True,
        file_okay=False,
    ),
]

SplitFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSON file with the subsets, as `samus-edge data split` writes it. US30K has its own: "
        "leave it out, or pass MainPatient/train-TASK.txt for those of a task.",
        exists=True,
        dir_okay=False,
    ),
]


def open_signed(bundle: Path | None, require_signature: Path | None) -> "Path | Bundle | None":
    """A bundle for a job: its path, or opened here where it has to be signed."""
    if require_signature is None:
        return bundle
    from samus_edge.runtime.bundle.bundle import Bundle

    return Bundle.open(bundle, require_signature=require_signature)


def check_signed_start(require_signature: Path | None, *starts: Path | str | None) -> None:
    """Refuse to take weights from a bundle that is not signed as required, or from none.

    Args:
        require_signature: As `Bundle.open` takes it; None checks nothing.
        starts: What weights are taken from: bundles, "default" for the default one, other files.

    Raises:
        BadArgumentError: if none of them is a bundle.
        BundleError: if one is not signed as required.
    """
    if require_signature is None:
        return
    from samus_edge.runtime.bundle.bundle import Bundle

    paths = [Path(start) for start in starts if start]
    defaults = [path for path in paths if path == Path("default") and not path.exists()]
    bundles = [path for path in paths if path.is_dir() or path.suffix == ".zip"]
    if not (defaults or bundles):
        raise BadArgumentError(
            "--require-signature is for bundles, and the weights are those of "
            f"{paths[0] if paths else 'LiteMedSAM'}. Take a signed bundle."
        )
    for bundle in (*bundles, *(None for _ in defaults)):
        Bundle.open(bundle, require_signature=require_signature)


def refuse_record(record: bool, require_signature: Path | None) -> None:
    """Refuse to write into a manifest that was just held against its signature."""
    if record and require_signature is not None:
        raise typer.BadParameter(
            "changes the manifest, which is signed. Record first, then sign: samus-edge sign",
            param_hint="--record",
        )


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document, which is all that stdout gets."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Parse "x1,y1,x2,y2"."""
    expected = "4: x1,y1,x2,y2, two opposite corners in pixels, as in --box 10,20,200,220"
    x1, y1, x2, y2 = _numbers("--box", text, (4,), expected)
    return x1, y1, x2, y2


def parse_point(text: str) -> tuple[float, float, int]:
    """Parse "x,y" or "x,y,label".

    Returns:
        x, y and the label: 1 foreground (where it was left out), 0 background.
    """
    expected = "x,y or x,y,label, as in --point 105,120 or --point 20,30,0"
    x, y, *rest = _numbers("--point", text, (2, 3), expected)
    label = rest[0] if rest else 1
    if label not in (0, 1):
        raise BadArgumentError(
            f"--point {text!r} has the label {label:g}, expected 1 (foreground) or 0 (background)."
        )
    return x, y, int(label)


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Parse "train,val,test"."""
    expected = "3: train,val,test, as in --fractions 0.7,0.1,0.2"
    train, val, test = _numbers("--fractions", text, (3,), expected)
    return train, val, test


def parse_spacing(text: str | None) -> "PixelSpacing | None":
    """Parse "mm" or "row,column"; None where the option was left out."""
    if text is None:
        return None
    from samus_edge.runtime.measurement.lesion_measurements import PixelSpacing

    expected = "mm or row,column, as in --spacing 0.1"
    numbers = _numbers("--spacing", text, (1, 2), expected)
    if not all(0 < number < 1000 for number in numbers):
        raise BadArgumentError(
            f"--spacing {text!r} is not {expected}: positive numbers below 1000."
        )
    return PixelSpacing(numbers[0], numbers[-1])


def parse_location(
    side: str | None, clock: int | None, nipple_mm: float | None, depth_mm: float | None
) -> "BreastLocation | None":
    """Where a lesion is; None where no option says anything of it."""
    if all(value is None for value in (side, clock, nipple_mm, depth_mm)):
        return None
    from samus_edge.runtime.measurement.lesion_measurements import BreastLocation

    return BreastLocation(side, clock, nipple_mm, depth_mm)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse "seed,seed,...": integers of at least 0."""
    return _integers("--seeds", text, 0, "integers of at least 0, as in --seeds 0,1,2")


def parse_sizes(option: str, text: str) -> tuple[int, ...]:
    """Parse "n,n,...", as of --batch and --prompts: different integers of at least 1, sorted."""
    expected = f"different integers of at least 1, as in {option} 1,2,4"
    sizes = _integers(option, text, 1, expected)
    if len(set(sizes)) != len(sizes):
        raise BadArgumentError(f"{option} {text!r} is not {expected}.")
    return tuple(sorted(sizes))


def parse_frame_range(text: str) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Parse "HxW,HxW,HxW": (H, W) in pixels of the smallest, the typical and the largest frame."""
    sizes = [parse_frame_size(part.strip(), "--frame-range") for part in text.split(",")]
    if len(sizes) != 3:
        raise BadArgumentError(
            f"--frame-range {text!r} has {len(sizes)} sizes, expected 3: smallest,typical,largest, "
            "as in --frame-range 240x320,512x640,1080x1920."
        )
    return sizes[0], sizes[1], sizes[2]


def parse_frame_size(text: str, option: str = "--frame-size") -> tuple[int, int]:
    """Parse "HxW", two integers from 1 to 65535: (H, W), pixels."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    sizes = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(1 <= size <= 65535 for size in sizes):
        raise BadArgumentError(
            f"{option} {text!r} is not HxW, height and width in pixels, as in 480x640."
        )
    return sizes


def _numbers(option: str, text: str, counts: tuple[int, ...], expected: str) -> list[float]:
    """Numbers with commas between them, as many as one of `counts`."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise BadArgumentError(f"{option} {text!r} is not numbers, expected {expected}.") from None
    if len(numbers) not in counts:
        raise BadArgumentError(
            f"{option} {text!r} has {len(numbers)} numbers, expected {expected}."
        )
    return numbers


def _integers(option: str, text: str, least: int, expected: str) -> tuple[int, ...]:
    """Integers with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) >= least for part in parts):
        raise BadArgumentError(f"{option} {text!r} is not {expected}.")
    return tuple(int(part) for part in parts)
