"""CUDA's errors, in words that say what can be done."""

from samus_edge.errors import BackendError

__all__ = ["cuda_error"]

_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": (
        "The GPU has not enough free memory: close what else uses it, or build the engines for smaller "
        "frames and fewer prompts."
    ),
    "CUDA_ERROR_NO_DEVICE": "No NVIDIA GPU is visible: look at CUDA_VISIBLE_DEVICES and nvidia-smi.",
    "CUDA_ERROR_INVALID_DEVICE": "There is no GPU of that index: samus-edge doctor lists them.",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "Reboot: the driver was updated while it was in use.",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "Update the NVIDIA driver.",
    "CUDA_ERROR_INSUFFICIENT_DRIVER": "Update the NVIDIA driver.",
}
# After these the context is unusable for good, in every thread.
_LOST = (
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_EXTERNAL_DEVICE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
)


def cuda_error(what: str, name: str) -> BackendError:
    """The error to raise.

    Args:
        what: was asked for, for example "allocate 1048576 bytes".
        name: CUDA's name of the error, for example "CUDA_ERROR_OUT_OF_MEMORY".
    """
    advice = _ADVICE.get(name, "samus-edge doctor says what is there and what is missing.")
    if name in _LOST:
        advice = (
            "The GPU is lost to this process: end it and start it again. If that does not help, look "
            "for Xid messages in the kernel's log."
        )
    return BackendError(f"CUDA cannot {what}: {name}. {advice}")
