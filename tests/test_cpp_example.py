"""The C++ example builds without warnings and gives the masks of the Python runtime.

It is compiled here with the library of the installed onnxruntime wheel, which has no headers: those
are taken from ONNXRUNTIME_ROOT, from the package amd-quark, which carries them, or from the system.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import default_bundle_path
from tests.conftest import EXAMPLE_BOXES, EXAMPLES_DIR, AssetFrame, read_example

REPOSITORY = Path(__file__).parents[1]
CPP_DIR = EXAMPLES_DIR / "cpp"
GUIDE = REPOSITORY / "docs" / "cpp.md"

HEADER = "onnxruntime_cxx_api.h"
HEADERS_PACKAGE = "amd-quark"
WARNINGS = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g")
DEADLINE_S = 120

# Both run the same graphs in the same library. OpenCV rounds its weights of the last resize
# differently, which may move a pixel whose logit is 0 within rounding.
LEAST_MASK_IOU = 0.9999
# It is printed with 6 decimals; the number of threads, which may differ, changes the order of sums.
IOU_PREDICTION_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Program:
    """The compiled example.

    Attributes:
        file: the executable.
        environment: variables that it runs with.
    """

    file: Path
    environment: dict[str, str]

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it; a sanitizer's finding is a failure here, whatever the test expects."""
        command = [str(self.file), *(str(argument) for argument in arguments)]
        ran = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert "Sanitizer" not in ran.stderr and "runtime error" not in ran.stderr, ran.stderr
        return ran


def found_headers() -> Path | None:
    """The folder of ONNX Runtime's C++ headers."""
    folders = [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime")]
    if root := os.environ.get("ONNXRUNTIME_ROOT"):
        folders.insert(0, Path(root) / "include")
    try:
        files = importlib.metadata.files(HEADERS_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    folders[1:1] = [Path(str(file.locate())).parent for file in files if file.name == HEADER]
    return next((folder for folder in folders if (folder / HEADER).is_file()), None)


def found_library() -> Path | None:
    """The shared library in the onnxruntime wheel, of the Python runtime's version."""
    spec = importlib.util.find_spec("onnxruntime")
    locations = spec.submodule_search_locations if spec is not None else None
    found = [
        path for root in locations or [] for path in Path(root).glob("capi/libonnxruntime.so.*")
    ]
    return found[0] if found else None


@pytest.fixture(scope="module")
def onnxruntime_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ONNX Runtime's release archives have it: include/ and lib/."""
    headers, library = found_headers(), found_library()
    if headers is None:
        pytest.skip(
            f"no {HEADER}: pip install --no-deps --ignore-requires-python {HEADERS_PACKAGE}==0.9, "
            "or set ONNXRUNTIME_ROOT to an unpacked release archive of ONNX Runtime"
        )
    if library is None:
        pytest.skip("the installed onnxruntime wheel has no libonnxruntime.so.* (not Linux?)")
    root = tmp_path_factory.mktemp("onnxruntime")
    (root / "include").symlink_to(headers)
    (root / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # to link with, to start with
        (root / "lib" / name).symlink_to(library)
    return root


@pytest.fixture(scope="module")
def compiler() -> str:
    """The name of a C++ compiler: $CXX, g++ or clang++."""
    candidates = (os.environ.get("CXX", ""), "g++", "clang++")
    found = next((name for name in candidates if name and shutil.which(name)), None)
    if found is None:
        pytest.skip("no C++ compiler: install g++ or clang++, or set CXX")
    return found


def compile_source(compiler: str, root: Path, source: Path, *options: str) -> None:
    """Compile with warnings as errors; shows the compiler's words where it fails."""
    headers = ("-isystem", str(root / "include"), "-I", str(CPP_DIR))
    command = [compiler, *WARNINGS, *headers, str(source), *options]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert built.returncode == 0, built.stderr


def works(compiler: str, folder: Path, options: Sequence[str]) -> bool:
    """Whether an empty program builds and runs with these options."""
    source = folder / "empty.cpp"
    source.write_text("int main() { return 0; }\n", encoding="utf-8")
    command = [compiler, *options, str(source), "-o", str(folder / "empty")]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return False
    return subprocess.run([folder / "empty"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def program(
    compiler: str, onnxruntime_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Program:
    """The example, with sanitizers for addresses, leaks and undefined behaviour if there are."""
    folder = tmp_path_factory.mktemp("segment")
    library = onnxruntime_root / "lib"
    options = [f"-L{library}", "-lonnxruntime", f"-Wl,-rpath,{library}", "-pthread"]
    has_sanitizers = works(compiler, folder, SANITIZERS)
    options += SANITIZERS if has_sanitizers else ["-O2"]
    file = folder / "segment"
    compile_source(compiler, onnxruntime_root, CPP_DIR / "segment.cpp", *options, "-o", str(file))
    return Program(file, dict(os.environ))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The Python runtime with the default bundle."""
    if not default_bundle_path().is_dir():
        pytest.skip(f"this checkout has no default bundle in {default_bundle_path()}")
    return Segmenter.load(threads=2)


@pytest.fixture
def frame_pgm(tmp_path: Path) -> Path:
    """A PGM of `benign_80.png`."""
    path = tmp_path / "frame.pgm"
    assert cv2.imwrite(str(path), read_example("benign_80.png"))
    return path


def assert_same_as_python(
    program: Program,
    segmenter: Segmenter,
    image: npt.NDArray[np.uint8],
    box: Sequence[float],
    folder: Path,
) -> None:
    """Mask, area and predicted IoU of one frame are those of the Python runtime."""
    frame, mask_file = folder / "frame.pgm", folder / "mask.pgm"
    assert cv2.imwrite(str(frame), image)
    box_text = ",".join(str(value) for value in box)
    ran = program.run(default_bundle_path(), frame, box_text, mask_file, "2")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "" and ran.stdout.count("\n") == 1
    report = json.loads(ran.stdout)

    # What the graphs alone give, without what `predict` makes of it.
    expected = segmenter.decode(segmenter.encode(image), boxes=[list(box)])
    expected_mask = expected.masks[0, 0]
    raw = cv2.imread(str(mask_file), cv2.IMREAD_UNCHANGED)
    assert raw is not None and raw.shape == image.shape
    assert set(np.unique(raw)) <= {0, 255}
    mask = raw == 255
    union = int((mask | expected_mask).sum())
    assert union == 0 or int((mask & expected_mask).sum()) / union >= LEAST_MASK_IOU
    assert report["area_px"] == int(mask.sum())
    iou_prediction = float(expected.iou_predictions[0, 0])
    assert report["iou_prediction"] == pytest.approx(iou_prediction, abs=IOU_PREDICTION_TOLERANCE)
    assert report["encode_ms"] > 0 and report["decode_ms"] > 0 and report["threads"] == 2


@pytest.mark.parametrize("name", EXAMPLE_BOXES)
def test_the_masks_of_the_examples_are_those_of_the_python_runtime(
    program: Program, segmenter: Segmenter, tmp_path: Path, name: str
) -> None:
    assert_same_as_python(program, segmenter, read_example(name), EXAMPLE_BOXES[name], tmp_path)


def test_nothing_is_written_into_the_home_folder(
    program: Program, frame_pgm: Path, tmp_path: Path
) -> None:
    """Telemetry of ONNX Runtime keeps its events there, from its first session on."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in program.environment.items() if k != "ORT_DISABLE_TELEMETRY"}
    watched = Program(program.file, kept | {"HOME": str(home), "XDG_CACHE_HOME": ""})
    ran = watched.run(default_bundle_path(), frame_pgm, "135,88,446,368", tmp_path / "m.pgm", "2")
    assert ran.returncode == 0, ran.stderr
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ("160x480", None),  # smaller than the logits, or far from square
        ("64x64", None),
        ("31x47", None),
        ("128x128", [-30.5, -1e9, 77.25, 300.0]),  # what sticks out is cut off
    ],
)
def test_masks_of_small_and_narrow_frames_are_those_of_the_python_runtime(
    program: Program,
    segmenter: Segmenter,
    asset_frames: list[AssetFrame],
    tmp_path: Path,
    size: str,
    box: list[float] | None,
) -> None:
    (frame,) = [frame for frame in asset_frames if frame.name.endswith(f"_{size}.png")]
    assert_same_as_python(program, segmenter, frame.image, box or frame.box.tolist(), tmp_path)


def test_a_pgm_may_have_comments(
    program: Program, disc_bundle: Path, tmp_path: Path, frame_pgm: Path
) -> None:
    commented = tmp_path / "commented.pgm"
    content = frame_pgm.read_bytes()
    assert content.startswith(b"P5\n561 473\n255\n")
    pixels = content.removeprefix(b"P5\n561 473\n255\n")
    commented.write_bytes(b"P5 # a scanner\n# 1 2\n561\t473 #\n255\n" + pixels)
    areas = []
    for frame in (frame_pgm, commented):
        ran = program.run(disc_bundle, frame, "135,88,446,368", tmp_path / "mask.pgm")
        assert ran.returncode == 0, ran.stderr
        areas.append(json.loads(ran.stdout)["area_px"])
    assert areas[0] == areas[1]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("446,88,135,368", "x1 < x2"),
        ("561,88,700,368", "no area within the frame of 561 x 473"),
        ("1e-9,1,2e-9,9", "no area within"),  # thinner than float32 can tell
        ("nan,88,446,368", "got nan,88,446,368"),
        ("135,88,1e999,368", "got 135,88,1e999,368"),
        ("-1e308,88,1e308,368", "finite"),
        ("135,88,446", "four numbers"),
        ("135,88,446,368,1", "four numbers"),
        ("", "four numbers"),
    ],
)
def test_a_wrong_box_is_one_line_and_exit_code_2(
    program: Program, disc_bundle: Path, tmp_path: Path, frame_pgm: Path, box: str, words: str
) -> None:
    mask = tmp_path / "mask.pgm"
    ran = program.run(disc_bundle, frame_pgm, box, mask)
    assert ran.returncode == 2
    assert words in ran.stderr and ran.stderr.count("\n") == 1 and ran.stdout == ""
    assert not mask.exists()


@pytest.mark.parametrize("arguments", [[], ["bundle"], ["b", "f", "1,2,3,4", "m", "0"]])
def test_wrong_arguments_are_one_line_and_exit_code_2(
    program: Program, arguments: list[str]
) -> None:
    ran = program.run(*arguments)
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: ") and ran.stderr.count("\n") == 1 and ran.stdout == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content[:-1], "ends after 265352 of 265353 pixels"),
        (lambda content: content[:15], "ends after 0 of 265353 pixels"),
        (lambda content: content[:7], "not a binary PGM"),
        (lambda content: b"", "not a binary PGM"),
        (lambda content: content.replace(b"P5", b"P2", 1), "not a binary PGM"),
        (lambda content: content.replace(b"255", b"65535", 1), "with 255 as maximum"),
        (lambda content: content.replace(b"561", b"0", 1), "not a binary PGM"),
        (lambda content: content.replace(b"561", b"9" * 30, 1), "not a binary PGM"),
        (lambda content: content.replace(b"561", b"4611686018427387905", 1), "more than 67108864"),
    ],
)
def test_a_damaged_frame_is_one_line_and_exit_code_1(
    program: Program,
    disc_bundle: Path,
    tmp_path: Path,
    frame_pgm: Path,
    change: Callable[[bytes], bytes],
    words: str,
) -> None:
    frame_pgm.write_bytes(change(frame_pgm.read_bytes()))
    ran = program.run(disc_bundle, frame_pgm, "1,2,30,40", tmp_path / "mask.pgm")
    assert ran.returncode == 1
    assert words in ran.stderr and ran.stderr.count("\n") == 1 and ran.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frame.pgm"]


@pytest.mark.parametrize("fault", ["missing", "swapped", "cut", "empty", "folder"])
def test_a_wrong_graph_is_one_line_and_exit_code_1(
    program: Program, disc_bundle: Path, tmp_path: Path, frame_pgm: Path, fault: str
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    encoder, decoder = (
        (disc_bundle / f"{name}.onnx").read_bytes() for name in ("image_encoder", "mask_decoder")
    )
    if fault == "folder":
        (bundle / "image_encoder.onnx").mkdir()
    elif fault != "missing":
        content = {"swapped": decoder, "cut": encoder[:-1000], "empty": b""}[fault]
        (bundle / "image_encoder.onnx").write_bytes(content)
    (bundle / "mask_decoder.onnx").write_bytes(encoder)
    mask = tmp_path / "mask.pgm"
    ran = program.run(bundle, frame_pgm, "1,2,30,40", mask)
    assert ran.returncode == 1
    assert "image_encoder.onnx" in ran.stderr and ran.stderr.count("\n") == 1 and ran.stdout == ""
    assert not mask.exists()


@pytest.mark.parametrize("target", ["missing/mask.pgm", "."])
def test_a_mask_that_cannot_be_written_is_one_line_and_leaves_nothing(
    program: Program, disc_bundle: Path, tmp_path: Path, frame_pgm: Path, target: str
) -> None:
    ran = program.run(disc_bundle, frame_pgm, "1,2,30,40", tmp_path / target)
    assert ran.returncode == 1
    assert "cannot write" in ran.stderr and ran.stderr.count("\n") == 1 and ran.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frame.pgm"]


def test_cmake_builds_it_without_warnings(
    compiler: str, onnxruntime_root: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake: install it, on Debian and Ubuntu with apt-get install cmake")
    build = tmp_path / "build"
    options = [
        f"-DONNXRUNTIME_ROOT={onnxruntime_root}",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_CXX_FLAGS=-Werror",
    ]
    for command in (
        ["cmake", "-S", str(CPP_DIR), "-B", str(build), *options],
        ["cmake", "--build", str(build)],
    ):
        built = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
        assert built.returncode == 0, built.stdout + built.stderr
    program = Program(build / "segment", dict(os.environ))
    image, box = read_example("benign_162.png"), EXAMPLE_BOXES["benign_162.png"]
    assert_same_as_python(program, segmenter, image, box, tmp_path)


def test_the_constants_are_those_of_the_default_bundle(segmenter: Segmenter) -> None:
    source = (CPP_DIR / "segmenter.hpp").read_text(encoding="utf-8")
    manifest = segmenter.bundle.manifest
    assert f"kMaskThreshold = {manifest.mask_threshold:.1f}F;" in source
    assert f"kModelSize = {manifest.prompts.size}," in source


def test_the_excerpts_of_the_guide_compile(
    compiler: str, onnxruntime_root: Path, tmp_path: Path
) -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    excerpts = re.findall(r"^```cpp\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert len(excerpts) >= 4
    source = tmp_path / "excerpts.cpp"
    headers = ("<array>", "<fstream>", "<iterator>", "<utility>", '"segmenter.hpp"')
    parts = [
        *(f"#include {header}\n" for header in headers),
        # What the text around the excerpts has introduced.
        "extern Ort::Env env;\nextern Ort::SessionOptions options;\nextern Ort::Session encoder;\n",
        "extern std::vector<uint8_t> frame;\nextern int64_t height, width;\n",
        *(f"void excerpt_{i}();\nvoid excerpt_{i}() {{\n{e}}}\n" for i, e in enumerate(excerpts)),
    ]
    source.write_text("".join(parts), encoding="utf-8")
    unused = ("-Wno-unused-variable", "-Wno-shadow")  # results are for the reader
    compile_source(compiler, onnxruntime_root, source, "-fsyntax-only", *unused)
