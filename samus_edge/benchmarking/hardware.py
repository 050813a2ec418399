"""The record of hardware and versions that every benchmark result carries."""

import os
import platform
from dataclasses import asdict

from samus_edge import __version__
from samus_edge.errors import SamusEdgeError
from samus_edge.runtime.diagnosis.host_facts import cpu_features, cpu_model, package_versions
from samus_edge.runtime.diagnosis.jetson import find_jetson
from samus_edge.runtime.gpu.find_device import list_gpus

__all__ = ["describe_hardware"]


def describe_hardware() -> dict[str, object]:
    """Processor, GPUs, operating system and versions, ready for JSON; nothing that names the machine."""
    jetson = find_jetson()
    try:
        gpus = list_gpus()
    except SamusEdgeError:
        gpus = []
    return {
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "logical_cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "machine": platform.machine(),
        "system": platform.system(),
        "gpus": [asdict(gpu) for gpu in gpus],
        "jetson": None if jetson is None else asdict(jetson),
        "python": platform.python_version(),
        "packages": {
            "samus-edge": __version__,
            **{name: version for name, version in package_versions().items() if version},
        },
    }
