"""What a built wheel contains and asks for, and how large the repository is."""

import email.message
import email.parser
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE_FOLDERS = ("samus_edge", "export", "runtime", "calibration")
BUNDLE_DIR = REPOSITORY / "runtime" / "default_bundle"

TRACKED_LIMIT_BYTES = 30_000_000
BUNDLE_LIMIT_BYTES = 20_000_000


def wheel_name_of(source: Path) -> str:
    """Name inside the wheel of a file in the checkout: runtime/x.py is samus_edge/runtime/x.py."""
    relative = source.relative_to(REPOSITORY)
    name = relative.as_posix()
    return name if relative.parts[0] == "samus_edge" else f"samus_edge/{name}"


def requirement_name(requirement: str) -> str:
    """`onnxruntime>=1.19; extra == "x"` is `onnxruntime`."""
    matched = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert matched is not None, requirement
    return matched[0].lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of the checkout, built from a copy so that no build folder is left in it."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for folder in (*PACKAGE_FOLDERS, "tests"):
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-I", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(target), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    """The wheel's METADATA."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.parser.Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_has_every_module_of_the_mapped_folders(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for folder in PACKAGE_FOLDERS:
        for source in (REPOSITORY / folder).rglob("*.py"):
            assert wheel_name_of(source) in names
    for package in ("runtime", "export", "calibration"):
        assert f"samus_edge/{package}/__init__.py" in names


def test_the_wheel_has_the_data_files(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert "samus_edge/py.typed" in names
    for folder in ("samus_edge/configs", "samus_edge/server/page", "runtime/bundle/check_frames"):
        sources = [path for path in (REPOSITORY / folder).iterdir() if path.is_file()]
        assert sources
        for source in sources:
            assert wheel_name_of(source) in names


def test_the_wheel_has_the_default_bundle(wheel: zipfile.ZipFile) -> None:
    if not BUNDLE_DIR.is_dir():
        pytest.skip(f"this checkout has no default bundle in {BUNDLE_DIR}")
    names = set(wheel.namelist())
    for name in ("image_encoder.onnx", "mask_decoder.onnx", "manifest.json"):
        assert wheel_name_of(BUNDLE_DIR / name) in names
    for source in BUNDLE_DIR.iterdir():
        assert wheel.read(wheel_name_of(source)) == source.read_bytes()


def test_the_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    top_level = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"samus_edge"}
    assert not [name for name in wheel.namelist() if Path(name).name.startswith("test_")]


def test_the_wheel_has_licence_and_notice(wheel: zipfile.ZipFile) -> None:
    names = {Path(name).name for name in wheel.namelist() if ".dist-info/licenses/" in name}
    assert names == {"LICENSE", "NOTICE"}


def test_the_base_install_is_the_runtime_alone(metadata: email.message.Message) -> None:
    requirements = metadata.get_all("Requires-Dist", [])
    base = {requirement_name(text) for text in requirements if "extra ==" not in text}
    assert base == {"numpy", "onnxruntime", "opencv-python-headless", "typer"}


def test_the_documented_extras_exist(metadata: email.message.Message) -> None:
    assert {"train", "export", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["Requires-Python"] == ">=3.10"


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "samus-edge = samus_edge.cli.app:main" in wheel.read(name).decode()


def test_tracked_files_stay_small() -> None:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("needs git and a git checkout")
    # Untracked files that git does not ignore count as well: they are about to be tracked.
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout
    paths = [REPOSITORY / name.decode() for name in listed.split(b"\0") if name]
    sizes = {path: path.lstat().st_size for path in paths if path.is_symlink() or path.is_file()}
    largest = sorted(sizes, key=lambda path: -sizes[path])[:5]
    assert sum(sizes.values()) < TRACKED_LIMIT_BYTES, [(str(p), sizes[p]) for p in largest]


def test_the_default_bundle_stays_small() -> None:
    if not BUNDLE_DIR.is_dir():
        pytest.skip(f"this checkout has no default bundle in {BUNDLE_DIR}")
    assert sum(path.stat().st_size for path in BUNDLE_DIR.iterdir()) <= BUNDLE_LIMIT_BYTES
