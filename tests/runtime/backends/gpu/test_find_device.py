"""What is said where there is no GPU, no driver or no binding."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from samus_edge.errors import BackendError
from samus_edge.runtime.backends.gpu import find_device as module
from samus_edge.runtime.backends.gpu.device import cuda_error, has_nvidia_driver
from samus_edge.runtime.backends.gpu.find_device import find_device, list_gpus


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The bindings that seem to be installed: none, until a test adds some."""
    bindings: set[str] = set()
    monkeypatch.setattr(module, "_is_installed", bindings.__contains__)
    return bindings


def test_an_unknown_binding_is_refused() -> None:
    for find in (find_device, list_gpus):
        with pytest.raises(ValueError, match="one of auto, cuda-python, pycuda, got 'numba'"):
            find("numba")


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("auto", r"neither cuda-python nor PyCUDA .*pip install 'samus-edge\[cuda\]'"),
        ("cuda-python", r"cuda-python is not installed\. pip install 'samus-edge\[cuda\]'"),
        ("pycuda", r"pycuda is not installed\. pip install 'samus-edge\[pycuda\]'"),
    ],
)
def test_a_missing_binding_says_how_to_get_it(
    installed: set[str], binding: str, message: str
) -> None:
    for find in (find_device, list_gpus):
        with pytest.raises(BackendError, match=message):
            find(binding)


@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
def test_a_binding_without_a_driver_says_what_to_install(installed: set[str], binding: str) -> None:
    if has_nvidia_driver():
        pytest.skip("this machine has an NVIDIA driver")
    installed.add(binding)  # where it is not, it cannot be imported, as PyCUDA without a driver
    for find in (find_device, list_gpus):
        with pytest.raises(BackendError, match=rf"{binding} (finds no|cannot).*samus-edge doctor"):
            find("auto")


def test_a_context_of_pycuda_is_followed(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("pycuda") is not None:
        pytest.skip("PyCUDA is installed; tests/simulated_gpu has the real one")
    installed.add("cuda-python")

    class Error(Exception):
        """PyCUDA's, where it is not initialised."""

    def current() -> object:
        return object()

    def not_initialised() -> object:
        raise Error

    for get_current, expected in ((current, "pycuda"), (not_initialised, "cuda-python")):
        driver = SimpleNamespace(Context=SimpleNamespace(get_current=get_current), Error=Error)
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        assert module._chosen("auto") == expected


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("CUDA_ERROR_OUT_OF_MEMORY", "close what else uses it"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "Reboot"),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", "end it and start it again"),
        ("CUDA_ERROR_CONTAINED", "end it and start it again"),
        ("CUDA_ERROR_TENSOR_MEMORY_LEAK", "end it and start it again"),
        ("CUDA_ERROR_SYSTEM_NOT_READY", "nvidia-fabricmanager"),
        ("CUDA_ERROR_INSUFFICIENT_DRIVER", "'cuda-python>=12.6,<13' and tensorrt-cu12"),
        ("CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", "'cuda-python>=12.6,<13' and tensorrt-cu12"),
        ("CUDA_ERROR_SOMETHING_NEW", "samus-edge doctor"),
    ],
)
def test_errors_of_cuda_come_with_advice(name: str, advice: str) -> None:
    assert f"CUDA cannot copy 5 bytes: {name}. " in str(cuda_error("copy 5 bytes", name))
    assert advice in str(cuda_error("copy 5 bytes", name))
