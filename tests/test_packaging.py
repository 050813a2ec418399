"""What wheel and sdist contain, what a plain install can do, how large the repository is."""

import email.message
import email.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from samus_edge import __version__

REPOSITORY = Path(__file__).parents[1]
PACKAGE_FOLDERS = ("samus_edge", "export", "runtime", "calibration")
BUNDLE_DIR = REPOSITORY / "runtime" / "default_bundle"

README_LINES = 150
TRACKED_LIMIT_BYTES = 40_000_000
BUNDLE_LIMIT_BYTES = 24_000_000


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


def _pip(*arguments: str | Path) -> None:
    command = [
        sys.executable,
        "-I",
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git tracks or would track, links as links."""
    copy = tmp_path_factory.mktemp("checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a git checkout")
    for name in filter(None, listed.decode().split("\0")):
        source, target = REPOSITORY / name, copy / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return copy


@pytest.fixture(scope="module")
def wheel_file(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    target = tmp_path_factory.mktemp("wheel")
    _pip(
        "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", target, checkout
    )
    shutil.rmtree(checkout / "build", ignore_errors=True)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist_file(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of the checkout."""
    target = tmp_path_factory.mktemp("sdist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        str(target),
        ".",
    ]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel of the checkout, open."""
    with zipfile.ZipFile(wheel_file) as archive:
        yield archive


@pytest.fixture(scope="module")
def plain_python(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with a plain install of the package.

    What the package depends on is borrowed from this environment, whose own install of samus-edge
    stays invisible: it is an entry of a .pth file, and those count only in an environment's folder.
    """
    environment = tmp_path_factory.mktemp("plain")
    venv.EnvBuilder(symlinks=True).create(environment)
    python = environment / "bin" / "python"
    _pip("--python", python, "install", "--no-deps", "--no-index", wheel_file)
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    folder = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    borrowed = "\n".join(path for path in sys.path if Path(path).name == "site-packages")
    (Path(folder) / "borrowed.pth").write_text(borrowed + "\n", encoding="utf-8")
    return python


def _in_root(checkout: Path, python: Path, *arguments: str, text: str | None = None) -> str:
    """Run the plain install's Python in the checkout's root and give what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), *arguments],
        cwd=checkout,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


README_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MASKS_SHAPE = "(1, 1, 473, 561)"


@pytest.mark.parametrize("way", ["-", "-c", "-i", "file"])
def test_the_python_block_of_the_readme_runs_in_the_root(
    checkout: Path, plain_python: Path, tmp_path: Path, way: str
) -> None:
    (block,) = README_BLOCK.findall((checkout / "README.md").read_text(encoding="utf-8"))
    if way == "-c":  # a notebook's first entry of sys.path is the same, the working folder
        printed = _in_root(checkout, plain_python, "-c", block)
    elif way == "file":
        script = tmp_path / "block.py"
        script.write_text(block, encoding="utf-8")
        printed = _in_root(checkout, plain_python, str(script))
    else:  # -i: pasted, where a block that is indented ends with an empty line
        pasted = re.sub(r"\n(?=\S)(?<=\n)", "\n", block)
        pasted = re.sub(r"(\n +[^\n]*)(?=\n\S)", r"\1\n", pasted) if way == "-i" else block
        printed = _in_root(checkout, plain_python, way, text=pasted)
    assert MASKS_SHAPE in printed


def test_the_command_runs_as_a_module_in_the_root(checkout: Path, plain_python: Path) -> None:
    printed = _in_root(checkout, plain_python, "-m", "samus_edge", "--version")
    assert printed == f"samus-edge {__version__}\n"


def test_torchrun_runs_it_as_a_module_in_the_root(checkout: Path, plain_python: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    arguments = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=1",
        "-m",
        "samus_edge",
        "--version",
    )
    assert f"samus-edge {__version__}" in _in_root(checkout, plain_python, *arguments)


def test_the_sdist_has_what_a_packager_needs(sdist_file: Path, checkout: Path) -> None:
    with tarfile.open(sdist_file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "docs", "examples", "benchmarks"):
        for path in (checkout / folder).rglob("*"):
            if path.is_file():
                assert path.relative_to(checkout).as_posix() in names
    assert {
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "pyproject.toml",
        "runtime/segmenter.py",
    } <= names


def test_the_wheel_of_the_sdist_is_the_same(
    sdist_file: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    _pip(
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path,
        sdist_file,
    )
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as other:
        contents = {name: other.read(name) for name in other.namelist()}
    assert contents == {name: wheel.read(name) for name in wheel.namelist()}


def test_the_readme_renders_and_its_links_lead_somewhere(metadata: email.message.Message) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= README_LINES
    urls = dict(text.split(", ", 1) for text in metadata.get_all("Project-URL", []))
    home = urls["Homepage"]
    raw = home.replace("github.com", "raw.githubusercontent.com")
    links = re.findall(r"\]\(([^)\s]+)\)", readme)
    assert len(links) > 10
    for link in links:  # a package index shows the page without the repository around it
        base = f"{raw}/main/" if link.startswith(raw) else f"{home}/blob/main/"
        assert link.startswith(base), link
        assert (REPOSITORY / link.removeprefix(base).partition("#")[0]).exists(), link


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
    assert base == {
        "filelock",
        "jinja2",
        "numpy",
        "onnxruntime",
        "opencv-python-headless",
        "pillow",
        "rich",
        "typer",
    }


def test_the_documented_extras_exist(metadata: email.message.Message) -> None:
    assert {"train", "export", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata["Requires-Python"] == ">=3.10"


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "samus-edge = samus_edge.__main__:main" in wheel.read(name).decode()


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
