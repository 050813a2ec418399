"""The commands that install what is missing, by platform."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from samus_edge.runtime.diagnosis.jetson import Jetson

__all__ = ["PLATFORMS", "install_command"]

PLATFORMS = ("x86-64", "JetPack 5", "JetPack 6", "JetPack 7")

_JETPACK_5 = (
    "JetPack 5 has Python 3.8 and TensorRT 8, and samus-edge needs Python 3.10 and TensorRT 10: update "
    "to JetPack 6, or run on the CPU in a container with Python 3.10"
)
_JETSON_CUDA = "pip install 'cuda-python>=12.6,<13'"

_COMMANDS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "cuda": {
            "x86-64": "pip install 'samus-edge[cuda]'",
            "JetPack 5": _JETPACK_5,
            "JetPack 6": _JETSON_CUDA,
            "JetPack 7": "pip install 'samus-edge[cuda]'",
        },
        "tensorrt": {
            "x86-64": "pip install 'samus-edge[tensorrt]' (or 'samus-edge[tensorrt-rtx]')",
            "JetPack 5": _JETPACK_5,
            "JetPack 6": (
                "sudo apt-get install nvidia-tensorrt python3-libnvinfer, and create the virtual "
                "environment with --system-site-packages; then TensorRT 10.5 or newer for Jetson from "
                "NVIDIA's download page"
            ),
            "JetPack 7": (
                "sudo apt-get install nvidia-tensorrt python3-libnvinfer, and create the virtual "
                "environment with --system-site-packages"
            ),
        },
        "onnxruntime-gpu": {
            "x86-64": "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
            "JetPack 5": _JETPACK_5,
            "JetPack 6": (
                "pip uninstall -y onnxruntime && pip install onnxruntime-gpu --index-url "
                "https://pypi.jetson-ai-lab.io/jp6/cu126"
            ),
            "JetPack 7": (
                "no wheel is published for Thor that we know of: use TensorRT, or build ONNX Runtime "
                "with --use_cuda"
            ),
        },
        "driver": {
            "x86-64": (
                "install the NVIDIA driver (on Ubuntu: sudo ubuntu-drivers install), or start the "
                "container with --gpus all"
            ),
            "JetPack 5": "it comes with JetPack; start a container with --runtime nvidia",
            "JetPack 6": "it comes with JetPack; start a container with --runtime nvidia",
            "JetPack 7": "it comes with JetPack; start a container with --runtime nvidia",
        },
        "dicom": dict.fromkeys(PLATFORMS, "pip install 'samus-edge[dicom]'"),
        "server": dict.fromkeys(PLATFORMS, "pip install 'samus-edge[server]'"),
    }
)


def install_command(what: str, jetson: Jetson | None) -> str:
    """How to get something here.

    Args:
        what: "cuda" (a binding), "tensorrt", "onnxruntime-gpu", "driver", "dicom" or "server".
        jetson: the module that this is; None for a workstation or a server. One whose JetPack is not known
            is answered as JetPack 7.
    """
    if jetson is None:
        return _COMMANDS[what]["x86-64"]
    return _COMMANDS[what].get(f"JetPack {jetson.jetpack}", _COMMANDS[what]["JetPack 7"])
