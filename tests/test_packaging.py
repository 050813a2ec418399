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
DATA_FOLDERS = ("samus_edge/configs", "samus_edge/server/page", "runtime/bundle/check_frames")
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


def _run(*command: str | Path, folder: Path | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _pip(*arguments: str | Path) -> None:
    _run(
        *(sys.executable, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check"),
        *arguments,
    )


def _build_wheel(source: Path, target: Path) -> Path:
    """The wheel of a checkout or an sdist."""
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir")
    _pip("wheel", *options, target, source)
    (path,) = target.glob("*.whl")
    return path


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
    path = _build_wheel(checkout, tmp_path_factory.mktemp("wheel"))
    shutil.rmtree(checkout / "build", ignore_errors=True)
    return path


@pytest.fixture(scope="module")
def sdist_file(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of the checkout."""
    target = tmp_path_factory.mktemp("sdist")
    build = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", target, ".")
    _run(*build, folder=checkout)
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


@pytest.mark.parametrize("way", ["-", "-c", "-i"])
def test_the_python_block_of_the_readme_runs_in_the_root(
    checkout: Path, plain_python: Path, way: str
) -> None:
    (block,) = README_BLOCK.findall((checkout / "README.md").read_text(encoding="utf-8"))
    if way == "-c":  # a notebook's first entry of sys.path is the same, the working folder
        printed = _in_root(checkout, plain_python, "-c", block)
    else:  # -i: pasted, where a block that is indented ends with an empty line
        pasted = re.sub(r"\n(?=\S)(?<=\n)", "\n", block)
        pasted = re.sub(r"(\n +[^\n]*)(?=\n\S)", r"\1\n", pasted) if way == "-i" else block
        printed = _in_root(checkout, plain_python, way, text=pasted)
    assert MASKS_SHAPE in printed


@pytest.mark.parametrize("start", [(), ("-m", "torch.distributed.run", "--nproc-per-node=1")])
def test_the_command_runs_as_a_module_in_the_root(
    checkout: Path, plain_python: Path, start: tuple[str, ...]
) -> None:
    if start:
        pytest.importorskip("torch", reason="torch is not installed")
    printed = _in_root(checkout, plain_python, *start, "-m", "samus_edge", "--version")
    assert f"samus-edge {__version__}\n" in printed


def test_the_sdist_has_what_a_packager_needs(sdist_file: Path, checkout: Path) -> None:
    with tarfile.open(sdist_file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "docs", "examples", "benchmarks"):
        for path in (checkout / folder).rglob("*"):
            if path.is_file():
                assert path.relative_to(checkout).as_posix() in names
    assert {"CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml"} <= names
    assert "runtime/segmenter.py" in names


def test_the_wheel_of_the_sdist_is_the_same(
    sdist_file: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    with zipfile.ZipFile(_build_wheel(sdist_file, tmp_path)) as other:
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


def test_the_wheel_has_modules_data_and_licences_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    sources = [path for name in PACKAGE_FOLDERS for path in (REPOSITORY / name).rglob("*.py")]
    for folder in DATA_FOLDERS:
        found = [path for path in (REPOSITORY / folder).iterdir() if path.is_file()]
        assert found
        sources += found
    assert {wheel_name_of(source) for source in sources} <= names
    assert "samus_edge/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"samus_edge"}
    assert not [name for name in names if Path(name).name.startswith("test_")]
    licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    assert "samus-edge = samus_edge.__main__:main" in wheel.read(entry_points).decode()


def test_the_wheel_has_the_default_bundle_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    if not BUNDLE_DIR.is_dir():
        pytest.skip(f"this checkout has no default bundle in {BUNDLE_DIR}")
    files = {path.name: path.read_bytes() for path in BUNDLE_DIR.iterdir()}
    assert {"image_encoder.onnx", "mask_decoder.onnx", "manifest.json"} <= set(files)
    assert sum(map(len, files.values())) <= BUNDLE_LIMIT_BYTES
    for name, content in files.items():
        assert wheel.read(wheel_name_of(BUNDLE_DIR / name)) == content


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
