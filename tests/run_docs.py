"""Run the code blocks of README.md and docs/*.md as a newcomer would. `make test-docs`.

Every block runs in the root of a copy of the repository, with the interpreter of a plain install
(`SAMUS_EDGE_DOCS_PYTHON`), in the order of its page. The files that the pages speak of (`x.png`,
`study.dcm`, `loop.mp4`, `my_data`, ...) are small stand-ins made here. A command that is not run is
skipped with the reason from `NOT_RUN`, and pytest lists it.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "examples/README.md",
    *(f"docs/{p.name}" for p in sorted((REPOSITORY / "docs").glob("*.md"))),
)

FENCE = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)

NOT_RUN = (
    (r"^git clone|^source |pip install|python3 -m venv", "sets up what is set up here already"),
    (r"^sudo |^docker |nvidia", "needs root, Docker or a Jetson"),
    (r"--backend tensorrt|samus-edge build|backend=\"tensorrt\"", "needs an NVIDIA GPU"),
    (r"--backend openvino", "needs OpenVINO, see tests/runtime/backends/test_openvino_backend.py"),
    (r"make (jetson-check|benchmark|demo)", "has a test of its own, or takes minutes"),
    (r"--video camera", "needs a camera"),
    (
        r"track .*--auto",
        "the loop that is made here shows no lesion: exit code 1, see test_proposals.py",
    ),
    (r"samus-edge ablate|samus_report|sam_vit_b", "trains for hours"),
    (r"samus-edge finetune", "takes minutes, see tests/cli/test_finetune.py"),
    (r"tiny_many|tiny_proposing|runs/proposing|runs/averaged", "takes hours on eight datasets"),
    (r"samus-edge bench$|samus-edge bench  ", "takes minutes; `bench --compare none` is run"),
    (
        r"--profile sam --weights|samexporter",
        "needs another project, see tests/export/test_sam_profile.py",
    ),
    (r"--bundle runs/tiny/bundle --triton", "the default bundle's repository is run"),
    (r"triton_client\.py|client\.get_model_config", "needs a Triton server"),
    (
        r"lite_medsam_accuracy|benchmarks/(accuracy|quality|proposals|cine|stream|int8|gpu)\S*\.py",
        "needs the whole dataset",
    ),
    (r"cmake|jq |build/cpp|\bzip -0", "needs tools outside Python, see tests/test_cpp_example.py"),
    (r"ray_batch\.py", "needs Ray, see tests/test_examples.py"),
    (
        r"--label-studio|cvat-cli",
        "needs Label Studio or CVAT, see tests/server/test_label_studio.py and test_cvat.py",
    ),
    (r"calibrate --quality", "has a test of its own, tests/cli/test_calibrate.py"),
    (r"update_bundle\.py", "has a test of its own, tests/test_examples.py"),
)
"""What is not run, and why: the first pattern that a command holds."""

# Instead of hours, or of for ever.
SHORTER = (
    (r"(samus-edge train .*)", r"\1 --epochs 1"),
    (
        r"^samus-edge serve$",
        "timeout --signal=INT 5 samus-edge serve --port 8765 || [ $? -eq 124 ]",
    ),
)

# What a Python fragment of a page takes for granted.
GIVEN = {
    "docs/measurements.md": "import numpy as np\nmask = np.ones((40, 50), bool)",
    "docs/tracking.md": "from samus_edge.runtime import read_image\nframe = read_image('x.png')",
}

TIMEOUT_S = 240


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each block of each page."""
    if "block" in metafunc.fixturenames:
        blocks = []
        for page in PAGES:
            text = (REPOSITORY / page).read_text(encoding="utf-8")
            for found in FENCE.finditer(text):
                line = text[: found.start()].count("\n") + 1
                blocks.append(pytest.param((page, found[1], found[2]), id=f"{page}:{line}"))
        metafunc.parametrize("block", blocks)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a copy of the repository, with the files that the pages speak of."""
    copy = tmp_path_factory.mktemp("docs") / "samus-edge"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (REPOSITORY / name).is_symlink() or (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name, follow_symlinks=False)
    _make_stand_ins(copy)
    yield copy
    shutil.rmtree(copy)


def _make_stand_ins(root: Path) -> None:
    image = cv2.imread(str(REPOSITORY / "examples" / "benign_80.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    for name in ("x.png", "image.png"):
        cv2.imwrite(str(root / name), image)
    _make_video(root / "loop.mp4", image)
    _make_study(root / "study.dcm", image)
    frames = sorted((REPOSITORY / "tests" / "assets" / "frames").glob("*.png"))
    boxes = {
        each["file"]: each["box"]
        for each in json.loads((frames[0].parent / "frames.json").read_text())
    }
    for kind in ("images", "masks"):
        (root / "my_data" / kind).mkdir(parents=True)
    (root / "my_frames").mkdir()
    names = []
    for path in frames:
        frame = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert frame is not None
        x1, y1, x2, y2 = boxes[path.name]
        mask = np.zeros(frame.shape, np.uint8)
        cv2.ellipse(
            mask,
            (int(x1 + x2) // 2, int(y1 + y2) // 2),
            (max(2, int(x2 - x1) // 2), max(2, int(y2 - y1) // 2)),
            0,
            0,
            360,
            255,
            -1,
        )
        for folder, picture in (("images", frame), ("masks", mask)):
            cv2.imwrite(str(root / "my_data" / folder / path.name), picture)
        shutil.copy(path, root / "my_frames")
        names.append(path.stem)
    # The published dataset and split stand for themselves by a small one of the same layout.
    busi = root / "Dataset_BUSI_with_GT"
    keys = []
    for number, path in enumerate(frames, 1):
        kind = path.name.split("_")[0]
        (busi / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, busi / kind / f"{kind} ({number}).png")
        shutil.copy(
            root / "my_data" / "masks" / path.name, busi / kind / f"{kind} ({number})_mask.png"
        )
        keys.append(f"{kind}/{kind} ({number})")
    split = {"train": keys[:12], "val": keys[12:16], "test": keys[16:]}
    (root / "busi_split_v1.json").write_text(json.dumps(split), encoding="utf-8")
    (root / "split.json").write_text(json.dumps(split), encoding="utf-8")
    shutil.copytree(root / "runtime" / "default_bundle", root / "runs" / "tiny" / "bundle")
    shutil.copytree(root / "runtime" / "default_bundle", root / "bundle")


def _make_video(path: Path, image: np.ndarray) -> None:
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 15, (width, height))
    for shift in range(12):
        moved = np.roll(image, (shift // 2, shift), axis=(0, 1))[:height, :width]
        writer.write(cv2.cvtColor(moved, cv2.COLOR_GRAY2BGR))
    writer.release()


def _make_study(path: Path, image: np.ndarray) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = (
        UltrasoundMultiFrameImageStorage,
        ExplicitVRLittleEndian,
    )
    meta.MediaStorageSOPInstanceUID = generate_uid()
    study = pydicom.Dataset()
    study.file_meta = meta
    study.SOPClassUID, study.SOPInstanceUID = (
        UltrasoundMultiFrameImageStorage,
        meta.MediaStorageSOPInstanceUID,
    )
    study.StudyInstanceUID, study.SeriesInstanceUID = generate_uid(), generate_uid()
    study.PatientName, study.PatientID, study.Modality = "Test^Phantom", "phantom", "US"
    study.PatientBirthDate = study.PatientSex = study.AccessionNumber = study.StudyID = ""
    study.ReferringPhysicianName, study.SeriesNumber, study.InstanceNumber = "", "1", "1"
    study.StudyDate, study.StudyTime = "20260101", "120000"
    frames = np.stack([np.roll(image, shift, axis=1) for shift in range(16)])
    study.NumberOfFrames, study.Rows, study.Columns = len(frames), *image.shape
    study.SamplesPerPixel, study.PhotometricInterpretation = 1, "MONOCHROME2"
    study.BitsAllocated = study.BitsStored = 8
    study.HighBit, study.PixelRepresentation, study.FrameTime = 7, 0, 66.0
    study.FrameIncrementPointer = pydicom.tag.Tag(0x0018, 0x1063)
    region = pydicom.Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = image.shape[1] - 1, image.shape[0] - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.01
    study.SequenceOfUltrasoundRegions = pydicom.Sequence([region])
    study.PixelData = frames.tobytes()
    study.save_as(path, enforce_file_format=True)


def _commands(text: str) -> list[str]:
    """The commands of a bash block, without comments; a line that ends in a backslash goes on."""
    joined = re.sub(r"\\\n\s*", "", text)
    stripped = (re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _reason(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN if re.search(pattern, command)), None)


@pytest.fixture(scope="module")
def environment(root: Path) -> dict[str, str]:
    """The variables of a newcomer's shell whose environment is the plain install."""
    if "SAMUS_EDGE_DOCS_PYTHON" not in os.environ:
        pytest.skip(
            "set SAMUS_EDGE_DOCS_PYTHON to the interpreter of a plain install: make test-docs"
        )
    python = Path(os.environ["SAMUS_EDGE_DOCS_PYTHON"]).absolute()
    # Beside what a plain install holds: curl, zip and the like.
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "HOME": str(root.parent), "MPLBACKEND": "agg"}
    variables.pop("PYTHONPATH", None)
    return variables


@pytest.fixture
def server(block: tuple[str, str, str], root: Path, environment: dict[str, str]) -> Iterator[None]:
    """The service on port 8000, for the blocks that call it."""
    if "localhost:8000" not in block[2]:
        yield
        return
    with subprocess.Popen(["samus-edge", "serve"], cwd=root, env=environment) as process:
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", 8000), timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        yield
        process.terminate()


@pytest.fixture
def page_files(block: tuple[str, str, str], root: Path) -> None:
    """`split.json` as a page begins with it: none where it makes its own, else that of the
    dataset."""
    page, _, text = block
    whole = (REPOSITORY / page).read_text(encoding="utf-8")
    first = FENCE.search(whole)
    assert first is not None
    if first[2] != text:
        return
    (root / "split.json").unlink(missing_ok=True)
    shutil.rmtree(root / "runs" / "mine", ignore_errors=True)
    if "data split" not in whole:
        shutil.copy(root / "busi_split_v1.json", root / "split.json")


@pytest.mark.usefixtures("server", "page_files")
def test_block(block: tuple[str, str, str], root: Path, environment: dict[str, str]) -> None:
    page, language, text = block
    skipped: dict[str, str] = {}
    if language == "python":
        if (reason := _reason(text)) is not None:
            pytest.skip(f"{page}: {reason}")
        commands = [f"python -c {shlex.quote(GIVEN.get(page, '') + chr(10) + text)}"]
    else:
        commands = []
        for command in _commands(text):
            if (reason := _reason(command)) is not None:
                skipped[command] = reason
                continue
            for pattern, shorter in SHORTER:
                command = re.sub(pattern, shorter, command)
            commands.append(command)
    if commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.returncode == 0, f"{page}:\n" + "\n".join(commands) + f"\n{said}"
    if skipped:
        listed = "; ".join(f"{command} ({reason})" for command, reason in skipped.items())
        pytest.skip(f"{page}, {len(commands)} commands run. Not run: {listed}")
