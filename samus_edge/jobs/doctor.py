"""What is there, what is missing, and what to do about it: `samus-edge doctor`."""

import importlib
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from samus_edge import __version__
from samus_edge.errors import SamusEdgeError, install_command
from samus_edge.runtime.backends.backend import cpu_features, cpu_model
from samus_edge.runtime.backends.backend_selection import AUTO_ORDER, select_backend
from samus_edge.runtime.backends.gpu.device import driver_cuda_version, has_nvidia_driver
from samus_edge.runtime.backends.gpu.find_device import list_gpus
from samus_edge.runtime.backends.openvino_backend import load_openvino
from samus_edge.runtime.backends.tensorrt.engine_cache import EngineCache
from samus_edge.runtime.backends.tensorrt.tensorrt_backend import TensorRTBackend
from samus_edge.runtime.backends.tensorrt.tensorrt_library import find_tensorrt, known_problem
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER
from samus_edge.runtime.segmenter import Segmenter

PACKAGES = (
    *("numpy", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "opencv-python"),
    *("openvino", "tensorrt", "tensorrt-rtx-cu13", "cuda-python", "pycuda", "torch", "onnx"),
    *("pydicom", "highdicom", "fastapi"),
)
"""Whose versions matter, by their names on the package index."""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _memory_bytes() -> int | None:
    """Of the whole machine; None where the operating system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def package_versions() -> dict[str, str | None]:
    """The installed version of each of `PACKAGES`, or None."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


# Jetson Linux (L4T) releases by the JetPack that brings them.
_JETPACKS = {35: 5, 36: 6, 38: 7, 39: 7}
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")


@dataclass(frozen=True)
class Jetson:
    """A Jetson module.

    Attributes:
        model: Its name in the device tree, for example "NVIDIA Jetson AGX Orin Developer Kit".
        l4t: Release of Jetson Linux, for example "36.4.3"; "" if it does not say.
        jetpack: Major version of JetPack; None if the release is not known.
        power_mode: The name that nvpmodel gives, for example "MAXN"; "" if it does not say.
    """

    model: str
    l4t: str
    jetpack: int | None
    power_mode: str


def find_jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson that this is, or None; `root` is that of the file system."""
    release = _read(root / "etc" / "nv_tegra_release")
    model = _read(root / "proc" / "device-tree" / "model").rstrip("\0\n ")
    if not release and "Jetson" not in model:
        return None
    found = _RELEASE.search(release)
    l4t = f"{found[1]}.{found[2]}" if found else ""
    jetpack = _JETPACKS.get(int(found[1])) if found else None
    return Jetson(model, l4t, jetpack, _power_mode() if root == Path("/") else "")


def _power_mode() -> str:
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"NV Power Mode: (\S+)", done.stdout)
    return found[1] if found else ""


_JETPACK_5 = (
    "JetPack 5 has Python 3.8 and TensorRT 8, and samus-edge needs Python 3.10 and TensorRT 10: "
    "update an Orin to JetPack 7.2, or run on the CPU in a container with Python 3.10"
)
_JETPACK_TENSORRT = (
    "sudo apt-get install nvidia-tensorrt python3-libnvinfer, and create the virtual environment "
    "with --system-site-packages"
)
_JETPACK_DRIVER = "it comes with JetPack; start a container with --runtime nvidia"
# By the JetPack, None for a workstation or a server. What is not here is an extra.
_COMMANDS: Final[Mapping[str, Mapping[int | None, str]]] = {
    "cuda": {5: _JETPACK_5, 6: "pip install 'cuda-python>=12.6,<13'"},
    "tensorrt": {
        None: "pip install 'samus-edge[tensorrt]' (or 'samus-edge[tensorrt-rtx]')",
        5: _JETPACK_5,
        6: "its TensorRT 10.3 computes vision transformers wrongly: update the Orin to JetPack 7.2 "
        "(TensorRT 10.16), or use the container of docker/jetson",
        7: _JETPACK_TENSORRT,
    },
    "onnxruntime-gpu": {
        None: "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        5: _JETPACK_5,
        6: "pip uninstall -y onnxruntime && pip install onnxruntime-gpu --index-url "
        "https://pypi.jetson-ai-lab.io/jp6/cu126",
        7: "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu>=1.31'",
    },
    "driver": {
        None: "install the NVIDIA driver (on Ubuntu: sudo ubuntu-drivers install), or start the "
        "container with --gpus all",
        **dict.fromkeys((5, 6, 7), _JETPACK_DRIVER),
    },
}


# A workstation or server whose driver is of CUDA 12: what is newest wants one of CUDA 13.
_COMMANDS_OF_CUDA_12: Final[Mapping[str, str]] = {
    "cuda": "pip install 'cuda-python>=12.6,<13'",
    "tensorrt": "pip install tensorrt-cu12 'cuda-python>=12.6,<13', or update the driver",
}


def how_to_get(what: str, jetson: Jetson | None) -> str:
    """The command that installs something here, or what else is to be done.

    Args:
        what: "tensorrt", "onnxruntime-gpu", "driver", or an extra such as "cuda" or "dicom".
        jetson: The module that this is; None for a workstation or a server. One whose JetPack is
            not known is answered as JetPack 7.
    """
    if jetson is None and (driver_cuda_version() or "").startswith("12."):
        of_cuda_12 = _COMMANDS_OF_CUDA_12.get(what)
        if of_cuda_12 is not None:
            return of_cuda_12
    jetpack = None if jetson is None else jetson.jetpack or 7
    return _COMMANDS.get(what, {}).get(jetpack) or install_command(what)


Level: TypeAlias = Literal["ok", "note", "problem"]
"""As it should be; missing but not needed; broken."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: How it is.
        topic: Part of the machine, for example "tensorrt".
        text: What was found.
        remedy: What to do, usually a command; "" if nothing is to be done.
    """

    level: Level
    topic: str
    text: str
    remedy: str = ""


@dataclass
class Diagnosis:
    """Everything that was found.

    Attributes:
        findings: All findings, in the order in which people read them.
        facts: The same for programs: system, gpus, packages, backends and so on.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def has_problem(self) -> bool:
        """Whether something is broken."""
        return any(finding.level == "problem" for finding in self.findings)

    def add(self, level: Level, topic: str, text: str, remedy: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(level, topic, text, remedy))

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {**self.facts, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(root: Path = Path("/"), cache: Path | None = None) -> Diagnosis:
    """Look at this machine and its installation.

    Args:
        root: Root of the file system that says which machine it is.
        cache: Folder of the engines; None for the default one.
    """
    diagnosis = Diagnosis()
    jetson = find_jetson(root)
    _system(diagnosis, root, jetson)
    packages = package_versions()
    diagnosis.facts["packages"] = packages
    _packages(diagnosis, packages, jetson)
    all_load = _loads(diagnosis, packages)
    capability = _gpus(diagnosis, jetson)
    _tensorrt(diagnosis, jetson, capability)
    _openvino(diagnosis)
    _engines(diagnosis, EngineCache(cache))
    if _bundle(diagnosis) and all_load:
        _backends(diagnosis, jetson, capability is not None)
    return diagnosis


def _system(diagnosis: Diagnosis, root: Path, jetson: Jetson | None) -> None:
    memory, features = _memory_bytes(), cpu_features(root)
    libc = " ".join(platform.libc_ver()).strip()
    model, cores = cpu_model(root), os.cpu_count()
    diagnosis.facts |= {
        "samus_edge": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "libc": libc,
        "cpu": {"model": model, "cores": cores, "features": list(features)},
        "memory_bytes": memory,
        "jetson": None if jetson is None else asdict(jetson),
    }
    diagnosis.add(
        "ok",
        "system",
        f"samus-edge {__version__}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()} {libc}",
    )
    size = "" if memory is None else f", {memory / 1e9:.0f} GB"
    diagnosis.add("ok", "cpu", f"{model}, {cores} cores{size}; {' '.join(features)}")
    if jetson is not None:
        mode = f", power mode {jetson.power_mode}" if jetson.power_mode else ""
        diagnosis.add(
            "ok" if jetson.jetpack is not None and jetson.jetpack >= 6 else "note",
            "jetson",
            f"{jetson.model}, L4T {jetson.l4t}, JetPack {jetson.jetpack or 'unknown'}{mode}",
            how_to_get("tensorrt", jetson) if jetson.jetpack == 5 else "",
        )


def _packages(
    diagnosis: Diagnosis, packages: Mapping[str, str | None], jetson: Jetson | None
) -> None:
    for first, second in (
        ("onnxruntime", "onnxruntime-gpu"),
        ("opencv-python", "opencv-python-headless"),
    ):
        if packages[first] and packages[second]:
            diagnosis.add(
                "problem",
                "packages",
                f"{first} and {second} are both installed, and are the same module: which one is "
                "imported is chance",
                f"pip uninstall -y {first} {second} && pip install {second}",
            )
    for extra, package in (("dicom", "pydicom"), ("server", "fastapi")):
        if packages[package] is None:
            remedy = how_to_get(extra, jetson)
            diagnosis.add("note", extra, f"{package} is not installed", remedy)


# By module: a name that a half-removed package lacks, and the packages that bring it, the usual one
# first.
_NEEDED_TO_SEGMENT = {
    "cv2": ("distanceTransform", ("opencv-python-headless", "opencv-python")),
    "PIL.Image": ("open", ("Pillow",)),
    "samus_edge.runtime.backends.onnxruntime_backend": (
        "OnnxRuntimeBackend",
        ("onnxruntime", "onnxruntime-gpu"),
    ),
}


def _loads(diagnosis: Diagnosis, packages: Mapping[str, str | None]) -> bool:
    """Note which packages that every segmentation needs do not load; whether all of them do."""
    broken: dict[str, str] = {}
    for module, (name, brought_by) in _NEEDED_TO_SEGMENT.items():
        try:
            getattr(importlib.import_module(module), name)
        except Exception as err:  # noqa: BLE001  # a broken package raises anything
            package = next((known for known in brought_by if packages.get(known)), brought_by[0])
            broken[package] = reason = " ".join(f"{type(err).__name__}: {err}".split())
            remedy = f"pip install --force-reinstall {package}"
            if module == "cv2":  # another OpenCV, or what is left of it, may be in the way
                others = "opencv-python opencv-contrib-python opencv-python-headless"
                remedy = f"pip uninstall -y {others}; pip install opencv-python-headless"
            diagnosis.add("problem", "packages", f"{package} does not load: {reason}", remedy)
    diagnosis.facts["broken_packages"] = broken
    return not broken


def _gpus(diagnosis: Diagnosis, jetson: Jetson | None) -> str | None:
    """Note the GPUs; gives the first one's compute capability."""
    try:
        gpus = list_gpus()
    except SamusEdgeError as err:
        diagnosis.facts["gpus"] = []
        text, remedy = f"there is an NVIDIA driver, but: {err}", how_to_get("cuda", jetson)
        if not has_nvidia_driver():
            text = "no NVIDIA driver; the CPU computes"
            remedy = f"if there is a GPU: {how_to_get('driver', jetson)}"
        diagnosis.add("note", "gpu", text, remedy)
        return None
    diagnosis.facts["gpus"] = [asdict(gpu) for gpu in gpus]
    for gpu in gpus:
        diagnosis.add(
            "ok",
            "gpu",
            f"{gpu.index}: {gpu.name}, compute capability {gpu.compute_capability}, "
            f"{gpu.total_memory_bytes / 1e9:.1f} GB, driver for CUDA {gpu.driver_version}",
        )
    return gpus[0].compute_capability if gpus else None


def _tensorrt(diagnosis: Diagnosis, jetson: Jetson | None, capability: str | None) -> None:
    """Note what is installed of TensorRT; that it is missing matters only where there is a GPU."""
    found: dict[str, str] = {}
    for flavour in ("tensorrt", "tensorrt_rtx"):
        try:
            library = find_tensorrt(flavour)
        except SamusEdgeError as err:
            if "cannot be loaded" in str(err) or "too old" in str(err):
                diagnosis.add("note", "tensorrt", str(err))
            continue
        found[flavour] = library.version
        problem = known_problem(flavour, library.version, capability)
        if problem is None:
            diagnosis.add("ok", "tensorrt", str(library))
        else:
            diagnosis.add("note" if capability is None else "problem", "tensorrt", problem)
    diagnosis.facts["tensorrt"] = found
    if not found:
        remedy = how_to_get("tensorrt", jetson)
        diagnosis.add("note", "tensorrt", "neither TensorRT nor TensorRT-RTX is installed", remedy)


def _openvino(diagnosis: Diagnosis) -> None:
    """Note OpenVINO and its devices, where it is installed."""
    diagnosis.facts["openvino"] = None
    if find_spec("openvino") is None:
        return
    try:
        openvino = load_openvino()
        core = openvino.Core()
        devices = {
            name: core.get_property(name, "FULL_DEVICE_NAME") for name in core.available_devices
        }
    except (SamusEdgeError, RuntimeError) as err:  # RuntimeError: of a driver that is broken
        diagnosis.add("problem", "openvino", f"does not work: {err}")
        return
    diagnosis.facts["openvino"] = {"version": openvino.__version__, "devices": devices}
    listed = ", ".join(f"{name} ({full})" for name, full in devices.items())
    diagnosis.add(
        "ok", "openvino", f"OpenVINO {openvino.__version__.partition('-')[0]} on {listed}"
    )


def _engines(diagnosis: Diagnosis, cache: EngineCache) -> None:
    entries, folder = cache.entries(), cache.folder
    diagnosis.facts["engine_cache"] = {"folder": str(folder), "engines": len(entries)}
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(existing, os.W_OK):
        diagnosis.add("ok", "engines", f"{len(entries)} in {folder}")
        return
    diagnosis.add(
        "note",
        "engines",
        f"{len(entries)} in {folder}, which cannot be written to: engines are built at every start",
        "name another folder in the environment variable SAMUS_EDGE_CACHE",
    )


def _bundle(diagnosis: Diagnosis) -> bool:
    try:
        opened = Bundle.open()
    except SamusEdgeError as err:
        diagnosis.facts["bundle"] = None
        diagnosis.add("problem", "bundle", str(err), "pip install --force-reinstall samus-edge")
        return False
    hashes = {name: record.sha256 for name, record in opened.manifest.graphs.items()}
    diagnosis.facts["bundle"] = {"name": opened.manifest.name, "graphs": hashes}
    diagnosis.add("ok", "bundle", f"{opened.manifest.name}, all hashes hold")
    return True


def _backends(diagnosis: Diagnosis, jetson: Jetson | None, has_gpu: bool) -> None:
    """Segment a generated frame on every backend: what works is shown, not concluded."""
    results: dict[str, dict[str, object]] = {}
    chosen: str | None = None
    for name in AUTO_ORDER:
        try:
            device, version, milliseconds = _try_backend(name)
        except SamusEdgeError as err:
            results[name] = {"works": False, "reason": str(err)}
            if name == "openvino" and chosen is None:
                diagnosis.add("note", name, f"auto does not take it: {err}")
                continue
            # On a machine with a GPU it is missed; on another there is nothing to miss.
            if has_gpu or name == "onnxruntime":
                level: Level = "problem" if name == "onnxruntime" else "note"
                what = {"tensorrt": "tensorrt", "onnxruntime-cuda": "onnxruntime-gpu"}.get(name)
                remedy = ""
                if what is not None and "samus-edge build" not in str(err):
                    remedy = how_to_get(what, jetson)
                diagnosis.add(level, name, f"does not work: {err}", remedy)
            continue
        chosen = chosen or name
        results[name] = {
            "works": True,
            "device": device,
            "version": version,
            "milliseconds": round(milliseconds, 1),
        }
        text = f"segments on {device} ({version}), a frame in {milliseconds:.0f} ms"
        diagnosis.add("ok", name, text)
    diagnosis.facts |= {"backends": results, "auto": chosen}
    if chosen is not None:
        diagnosis.add("ok", "auto", f"takes {chosen}")


def _try_backend(name: str) -> tuple[str, str, float]:
    """Its device and version, and milliseconds of one frame with one box, the third time."""
    backend = select_backend(name, build_missing=False)
    with Segmenter(Bundle.open(), backend) as segmenter:
        height, width = 200, 256
        if isinstance(backend, TensorRTBackend):  # whose engine may take one size alone
            sizes = backend.frame_sizes(segmenter.graph_hashes[IMAGE_ENCODER])
            height, width = (height, width) if sizes is None else sizes.typical
        frame = np.tile(np.arange(width).astype(np.uint8), (height, 1))
        box = [0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]
        for _ in range(3):  # a graph of CUDA is captured in the second, and is part of the third
            begun = time.perf_counter()
            segmenter.segment(frame, boxes=[box])
            seconds = time.perf_counter() - begun
        return backend.device, backend.version, 1000 * seconds
