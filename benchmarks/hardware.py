"""The record of hardware and versions that every benchmark result carries."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("samus-edge", "numpy", "onnxruntime", "opencv-python-headless", "torch", "onnx")


def cpu_model() -> str:
    """Name of the processor as the operating system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide speed; those missing are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_hardware() -> dict[str, object]:
    """Processor, cores, operating system and versions, ready for JSON; nothing that names the machine."""
    return {
        "cpu": cpu_model(),
        "logical_cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": package_versions(),
    }
