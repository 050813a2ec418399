"""No look-up, no connection and no file outside our own cache, by us or by what we import.

Look-ups and connections are seen in the C library, where compiled packages make them as well. ONNX
Runtime's telemetry looks its host up after eight seconds, which is not waited for; the file that it
keeps in the home folder is there at once.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import EXAMPLES_DIR

WATCH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    fprintf(stderr, "LOOKUP %s\n", name ? name : "");
    return EAI_FAIL;
}
struct hostent *gethostbyname(const char *name) {
    fprintf(stderr, "LOOKUP %s\n", name);
    return 0;
}
int connect(int socket, const struct sockaddr *address, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    fprintf(stderr, "CONNECT family %d\n", address->sa_family);
    return next(socket, address, length);
}
ssize_t sendto(int socket, const void *bytes, size_t size, int flags,
               const struct sockaddr *address, socklen_t length) {
    ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
        dlsym(RTLD_NEXT, "sendto");
    if (address) fprintf(stderr, "CONNECT family %d\n", address->sa_family);
    return next(socket, bytes, size, flags, address, length);
}
"""

EVERYTHING = """
import importlib, os, sys
from samus_edge.cli.app import main
sys.argv[1:] = ["infer", "--image", os.environ["IMAGE"], "--box", "135,88,446,368", "--json",
                "--out", "mask.png", "--overlay", "overlay.png"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
for name in (
    "cv2", "pydicom", "highdicom", "fastapi", "uvicorn", "tensorrt_rtx", "cuda.bindings.driver"
):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
"""

# Imported as it is, it looks a host up and writes into the home folder.
OPENVINO = """
import os, sys
os.environ["SAMUS_EDGE_CACHE"] = {cache!r}
from samus_edge.runtime import Segmenter, read_image
with Segmenter.load({bundle!r}, backend="openvino") as segmenter:
    segmenter.segment(read_image(os.environ["IMAGE"]), boxes=[[135, 88, 446, 368]])
from openvino import convert_model  # of a host program
assert not [name for name in sys.modules if "openvino_telemetry" in name]
"""

TALKS = """
import socket
try: socket.getaddrinfo("example.org", 80)
except OSError: pass
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
"""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that says what a process looks up and whom it connects to."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler (Debian and Ubuntu: apt-get install gcc)")
    folder = tmp_path_factory.mktemp("watch")
    (folder / "watch.c").write_text(WATCH)
    command = [compiler, "-shared", "-fPIC", "-o", "watch.so", "watch.c", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "watch.so"


def run_watched(script: str, watch: Path, home: Path) -> list[str]:
    """What a process says to the watch, and the files that it leaves in its home folder."""
    home.mkdir()
    work = home.with_name("work")
    work.mkdir(exist_ok=True)
    passed_on = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH")}
    environment = passed_on | {
        "HOME": str(home),
        "LD_PRELOAD": str(watch),
        "IMAGE": str(EXAMPLES_DIR / "benign_80.png"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith(("LOOKUP", "CONNECT"))]
    return said + [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


def test_segmenting_talks_to_nobody(watch: Path, tmp_path: Path) -> None:
    assert run_watched(EVERYTHING, watch, tmp_path / "home") == []


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_talks_to_nobody(watch: Path, disc_bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    script = OPENVINO.format(cache=str(tmp_path / "cache"), bundle=str(disc_bundle))
    assert run_watched(script, watch, home) == []
    assert any((tmp_path / "cache" / "openvino").iterdir())


def test_the_watch_sees_who_talks(watch: Path, tmp_path: Path) -> None:
    seen = run_watched(TALKS, watch, tmp_path / "home")
    assert seen == ["LOOKUP example.org", "CONNECT family 2"]
