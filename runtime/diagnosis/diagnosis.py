"""What is there, what is missing, and what to do about it: `samus-edge doctor`."""

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from samus_edge import __version__
from samus_edge.errors import SamusEdgeError
from samus_edge.runtime.backend_selection import AUTO_ORDER, select_backend
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.diagnosis.host_facts import (
    cpu_features,
    cpu_model,
    memory_bytes,
    package_versions,
)
from samus_edge.runtime.diagnosis.install_commands import install_command
from samus_edge.runtime.diagnosis.jetson import Jetson, find_jetson
from samus_edge.runtime.gpu.find_device import list_gpus
from samus_edge.runtime.gpu.nvidia_driver import has_nvidia_driver
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.runtime.tensorrt.engine_cache import EngineCache
from samus_edge.runtime.tensorrt.tensorrt_library import find_tensorrt
from samus_edge.runtime.tensorrt.tensorrt_versions import known_problem

__all__ = ["LEVELS", "Diagnosis", "Finding", "diagnose"]

LEVELS = ("ok", "note", "problem")
"""Of findings: as it should be; missing but not needed; broken."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: one of `LEVELS`.
        topic: for example "tensorrt".
        text: what was found.
        remedy: what to do, usually a command; "" if nothing is to be done.
    """

    level: str
    topic: str
    text: str
    remedy: str = ""


@dataclass
class Diagnosis:
    """Everything that was found.

    Attributes:
        findings: in the order in which people read them.
        facts: the same for programs: system, gpus, packages, backends and so on.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def has_problem(self) -> bool:
        """Whether something is broken."""
        return any(finding.level == "problem" for finding in self.findings)

    def add(self, level: str, topic: str, text: str, remedy: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(level, topic, text, remedy))

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {**self.facts, "findings": [asdict(finding) for finding in self.findings]}


def diagnose(root: Path = Path("/"), cache: Path | None = None) -> Diagnosis:
    """Look at this machine and its installation.

    Args:
        root: of the file system that says which machine it is.
        cache: folder of the engines; None for the default one.
    """
    diagnosis = Diagnosis()
    jetson = find_jetson(root)
    _system(diagnosis, root, jetson)
    packages = package_versions()
    diagnosis.facts["packages"] = packages
    _conflicts(diagnosis, packages)
    capability = _gpus(diagnosis, jetson)
    _tensorrt(diagnosis, jetson, capability)
    _extras(diagnosis, packages, jetson)
    _engines(diagnosis, EngineCache(cache))
    if _bundle(diagnosis):
        _backends(diagnosis, jetson, capability is not None)
    return diagnosis


def _system(diagnosis: Diagnosis, root: Path, jetson: Jetson | None) -> None:
    memory = memory_bytes()
    libc = " ".join(platform.libc_ver()).strip()
    features = cpu_features(root)
    diagnosis.facts |= {
        "samus_edge": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "libc": libc,
        "cpu": {"model": cpu_model(root), "cores": os.cpu_count(), "features": list(features)},
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
    diagnosis.add(
        "ok", "cpu", f"{cpu_model(root)}, {os.cpu_count()} cores{size}; {' '.join(features)}"
    )
    if jetson is not None:
        mode = f", power mode {jetson.power_mode}" if jetson.power_mode else ""
        diagnosis.add(
            "ok" if jetson.jetpack is not None and jetson.jetpack >= 6 else "note",
            "jetson",
            f"{jetson.model}, L4T {jetson.l4t}, JetPack {jetson.jetpack or 'unknown'}{mode}",
            install_command("tensorrt", jetson) if jetson.jetpack == 5 else "",
        )


def _conflicts(diagnosis: Diagnosis, packages: Mapping[str, str | None]) -> None:
    for first, second in (
        ("onnxruntime", "onnxruntime-gpu"),
        ("opencv-python", "opencv-python-headless"),
    ):
        if packages[first] and packages[second]:
            diagnosis.add(
                "problem",
                "packages",
                f"{first} and {second} are both installed, and are the same module: which one is imported "
                "is chance",
                f"pip uninstall -y {first} {second} && pip install {second}",
            )


def _gpus(diagnosis: Diagnosis, jetson: Jetson | None) -> str | None:
    """Note the GPUs; gives the first one's compute capability."""
    try:
        gpus = list_gpus()
    except SamusEdgeError as err:
        diagnosis.facts["gpus"] = []
        if has_nvidia_driver():
            remedy = install_command("cuda", jetson)
            diagnosis.add("note", "gpu", f"there is an NVIDIA driver, but: {err}", remedy)
        else:
            remedy = install_command("driver", jetson)
            diagnosis.add(
                "note", "gpu", "no NVIDIA driver; the CPU computes", f"if there is a GPU: {remedy}"
            )
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
            level = "problem" if capability is not None else "note"
            diagnosis.add(level, "tensorrt", problem)
    diagnosis.facts["tensorrt"] = found
    if not found:
        remedy = install_command("tensorrt", jetson)
        diagnosis.add("note", "tensorrt", "neither TensorRT nor TensorRT-RTX is installed", remedy)


def _extras(
    diagnosis: Diagnosis, packages: Mapping[str, str | None], jetson: Jetson | None
) -> None:
    for extra, package in (("dicom", "pydicom"), ("server", "fastapi")):
        if packages[package] is None:
            remedy = install_command(extra, jetson)
            diagnosis.add("note", extra, f"{package} is not installed", remedy)


def _engines(diagnosis: Diagnosis, cache: EngineCache) -> None:
    entries = cache.entries()
    diagnosis.facts["engine_cache"] = {"folder": str(cache.folder), "engines": len(entries)}
    existing = next(path for path in (cache.folder, *cache.folder.parents) if path.exists())
    if os.access(existing, os.W_OK):
        diagnosis.add("ok", "engines", f"{len(entries)} in {cache.folder}")
    else:
        diagnosis.add(
            "note",
            "engines",
            f"{len(entries)} in {cache.folder}, which cannot be written to: engines are built at "
            "every start",
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
            device, milliseconds = _try_backend(name)
        except SamusEdgeError as err:
            results[name] = {"works": False, "reason": str(err)}
            # On a machine with a GPU it is missed; on another there is nothing to miss.
            if has_gpu or name == "onnxruntime":
                level = "problem" if name == "onnxruntime" else "note"
                what = {"tensorrt": "tensorrt", "onnxruntime-cuda": "onnxruntime-gpu"}.get(name)
                remedy = ""
                if what is not None and "samus-edge build" not in str(err):
                    remedy = install_command(what, jetson)
                diagnosis.add(level, name, f"does not work: {err}", remedy)
            continue
        chosen = chosen or name
        results[name] = {"works": True, "device": device, "milliseconds": round(milliseconds, 1)}
        diagnosis.add("ok", name, f"segments on {device}, a frame in {milliseconds:.0f} ms")
    diagnosis.facts |= {"backends": results, "auto": chosen}
    if chosen is not None:
        diagnosis.add("ok", "auto", f"takes {chosen}")


def _try_backend(name: str) -> tuple[str, float]:
    """Its device, and milliseconds of one frame with one box, the second time."""
    frame = np.tile(np.arange(256, dtype=np.uint8), (200, 1))
    backend = select_backend(name, build_missing=False)
    with Segmenter(Bundle.open(), backend) as segmenter:
        for _ in range(2):
            begun = time.perf_counter()
            segmenter.segment(frame, boxes=[[60, 50, 180, 150]])
            seconds = time.perf_counter() - begun
    return backend.device, 1000 * seconds
