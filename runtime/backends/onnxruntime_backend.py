"""Inference on ONNX Runtime: on the CPU, or by one of its execution providers for GPUs.

Everything of ours that uses the package `onnxruntime` takes it from here, as `ort`.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before the import. Else Linux wheels from 1.30 look up a host and write into the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime.backends.backend import (
    Feed,
    FloatTensor,
    Predictor,
    check_feeds,
    default_cache_folder,
    default_threads,
    is_large,
)
from samus_edge.runtime.backends.gpu.device import has_nvidia_driver
from samus_edge.runtime.bundle.manifest import GraphRecord, TensorSpec

if TYPE_CHECKING:
    from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor

__all__ = [
    "CPU_PROVIDER",
    "PROVIDERS",
    "OnnxRuntimeBackend",
    "OnnxRuntimeSession",
    "Provider",
    "ort",
    "provider_list",
]


CPU_PROVIDER = "CPUExecutionProvider"

_HOW_TO_GET_GPU = (
    "On x86-64: pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]' (the two "
    "packages are the same module, and hide each other). On a Jetson: the wheel for its JetPack "
    "from NVIDIA's Jetson AI Lab index"
)


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        name: ONNX Runtime's.
        title: Name for people.
        how_to_get: What to install where ONNX Runtime lacks it.
        needs: Libraries that it loads when it starts.
    """

    name: str
    title: str
    how_to_get: str
    needs: str


PROVIDERS = {
    "onnxruntime": Provider(
        CPU_PROVIDER, "the CPU", "Install it again: pip install onnxruntime", "nothing"
    ),
    "onnxruntime-cuda": Provider(
        "CUDAExecutionProvider",
        "CUDA",
        _HOW_TO_GET_GPU,
        "the NVIDIA driver, and CUDA and cuDNN of the versions that it was built for",
    ),
    "onnxruntime-tensorrt": Provider(
        "TensorrtExecutionProvider",
        "TensorRT",
        _HOW_TO_GET_GPU,
        "the NVIDIA driver, CUDA, cuDNN and TensorRT of the versions that it was built for",
    ),
}
"""By the name of the backend."""


def provider_list(
    backend: str, available: list[str], *, device_index: int = 0, cache: Path | None = None
) -> list[tuple[str, dict[str, str]]]:
    """The providers and their options, as `InferenceSession` takes them.

    Args:
        backend: A key of `PROVIDERS`.
        available: The result of `onnxruntime.get_available_providers`.
        device_index: Index of the GPU.
        cache: Folder of the TensorRT provider's engines; None for one in the default cache.

    Raises:
        BackendError: if this ONNX Runtime lacks the provider; says how to get it.
    """
    provider = PROVIDERS[backend]
    if provider.name not in available:
        raise BackendError(
            f"this ONNX Runtime has no execution provider for {provider.title} ({provider.name}); "
            f"it has {', '.join(available)}. {provider.how_to_get}."
        )
    cpu: tuple[str, dict[str, str]] = (
        CPU_PROVIDER,
        {},
    )  # for what a GPU's provider has no kernel for
    index = str(device_index)
    cuda_options = {
        "device_id": index,
        "arena_extend_strategy": "kSameAsRequested",  # not the next power of two
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE may choose another one at every start
        "use_tf32": "0",  # precision is the graph's
    }
    if backend == "onnxruntime":
        return [cpu]
    if backend == "onnxruntime-cuda":
        return [(provider.name, cuda_options), cpu]
    folder = str(default_cache_folder() / "onnxruntime" if cache is None else cache)
    tensorrt_options = {
        "device_id": index,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
        "trt_fp16_enable": "0",  # precision is the graph's
        "trt_int8_enable": "0",
    }
    return [(provider.name, tensorrt_options), ("CUDAExecutionProvider", cuda_options), cpu]


_LOG_ERRORS_ONLY = 3
_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
# The first that refuses paths which lead out of the model's folder.
_EXTERNAL_DATA_VERSION = (1, 24)
# ONNX Runtime's exceptions have no common base class but Exception.
_UNREADABLE = (ort_errors.InvalidProtobuf, ort_errors.InvalidGraph, ort_errors.NoModel)
_FAILED = (
    ort_errors.Fail,
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.InvalidArgument,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,  # of a provider whose libraries are missing
)


def _large_run_options() -> ort.RunOptions:
    """Gives the memory of a run back at its end, which costs time where it is needed again."""
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


class OnnxRuntimeSession:
    """One graph in ONNX Runtime; safe to run from several threads at once."""

    def __init__(self, name: str, session: ort.InferenceSession, record: GraphRecord) -> None:
        self._name = name
        self._session: ort.InferenceSession | None = session
        self._inputs = record.inputs
        self._output_names = [spec.name for spec in record.outputs]

    def largest(self, name: str, axis: int) -> int | None:
        """No limit."""
        return None

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor]:
        """Run the graph; see `GraphSession.run`."""
        check_feeds(self._name, self._inputs, feeds)
        session = self._session
        if session is None:
            raise RuntimeError(
                f"graph {self._name!r} is closed. Load another with Segmenter.load()."
            )
        options = _large_run_options() if is_large(feeds) else None
        try:
            outputs: list[FloatTensor] = session.run(self._output_names, dict(feeds), options)
        except _FAILED as err:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} failed on graph {self._name!r}: {err}"
            ) from err
        return dict(zip(self._output_names, outputs, strict=True))

    def run_on_device(self, feeds: Mapping[str, Feed]) -> "dict[str, FloatTensor | DeviceTensor]":
        """As `run`: outputs are of the host."""
        return {**self.run(feeds)}

    def close(self) -> None:
        """Let the graph go; see `GraphSession.close`."""
        self._session = None


class OnnxRuntimeBackend:
    """ONNX Runtime: one thread pool per graph; on the CPU the same result on every run.

    Args:
        threads: Number of CPU threads that compute one graph; None for `default_threads`.
        name: Name of the backend: "onnxruntime", "onnxruntime-cuda" or "onnxruntime-tensorrt".
        device_index: Index of the GPU.

    Raises:
        BackendError: if this ONNX Runtime lacks the execution provider.
    """

    def __init__(
        self, threads: int | None = None, *, name: str = "onnxruntime", device_index: int = 0
    ) -> None:
        self._name = name
        self._provider = PROVIDERS[name]
        self._providers = provider_list(
            name, ort.get_available_providers(), device_index=device_index
        )
        self._threads = default_threads() if threads is None else threads
        if name != "onnxruntime" and not has_nvidia_driver():
            raise BackendError(
                f"{name} needs an NVIDIA GPU, and there is no NVIDIA driver here. samus-edge "
                "doctor says what is there."
            )
        if name != "onnxruntime" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls(directory="")  # CUDA and cuDNN from NVIDIA's packages, where installed

    @property
    def name(self) -> str:
        """As the user selects it."""
        return self._name

    @property
    def device(self) -> str:
        """The execution provider."""
        return self._provider.name

    @property
    def version(self) -> str:
        """Of ONNX Runtime."""
        return str(ort.__version__)

    @property
    def threads(self) -> int:
        """Threads that compute one graph."""
        return self._threads

    @property
    def gpu(self) -> "Device | None":
        """None: arrays are of the host."""
        return None

    def open_graph(
        self,
        name: str,
        graph: bytes,
        record: GraphRecord,
        external_data: Mapping[str, bytes] | None = None,
    ) -> OnnxRuntimeSession:
        """Make a graph ready to run; see `Backend.open_graph`."""
        options = self.session_options()
        if external_data:
            _add_external_data(options, record.file, external_data)
        try:
            session = ort.InferenceSession(
                graph,
                sess_options=options,
                providers=self._providers,
                enable_fallback=0,  # its fallback prints to stdout
            )
        except _UNREADABLE as err:
            raise BundleError(
                f"{record.file} is not a valid ONNX graph ({err}). Export the bundle again."
            ) from err
        except _FAILED as err:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot run {record.file}: {err}"
            ) from err
        if session.get_providers()[0] != self._provider.name:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} has the execution provider {self._provider.name}, "
                f"but it does not start on this machine. It needs {self._provider.needs}; ONNX "
                "Runtime has written to stderr what is missing. samus-edge doctor says what is "
                "there."
            )
        _check_tensors(record.file, "input", record.inputs, session.get_inputs())
        _check_tensors(record.file, "output", record.outputs, session.get_outputs())
        return OnnxRuntimeSession(name, session, record)

    def check(self, tested: Predictor, open_reference: Callable[[], Predictor]) -> None:
        """Nothing: this is the reference."""

    def session_options(self) -> ort.SessionOptions:
        """The settings of its sessions, for a graph without a record."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = _LOG_ERRORS_ONLY
        # Else the threads of one graph go on spinning after its run, and take the cores from the
        # next: encoding and decoding in turns takes twice as long.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # And between the operators of a run a waiting thread soon sleeps, or two segmenters that
        # share the cores spin for each other. ONNX Runtime before 2026 passes it over.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
        # Else bytes that begin like ONNX Runtime's own format are taken for that, which no one
        # checks.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        return options


def _add_external_data(
    options: ort.SessionOptions, file: str, external_data: Mapping[str, bytes]
) -> None:
    """Give the session the content of files, so that it looks for none on the disk."""
    version = tuple(int(part) for part in re.findall(r"\d+", ort.__version__)[:2])
    if version < _EXTERNAL_DATA_VERSION:
        raise BackendError(
            f"{file} keeps tensors in other files, which ONNX Runtime {ort.__version__} does not "
            "keep to the bundle. Upgrade it: pip install --upgrade 'onnxruntime>=1.24'"
        )
    # A folder that cannot be, so that a file which was not given is not found.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    contents = list(external_data.values())
    options.add_external_initializers_from_files_in_memory(
        list(external_data), contents, [len(content) for content in contents]
    )


def _check_tensors(
    file: str, kind: str, recorded: tuple[TensorSpec, ...], actual: list[Any]
) -> None:
    """Compare a graph's real inputs or outputs (onnxruntime.NodeArg) with the manifest's."""
    specs = {spec.name: spec for spec in recorded}
    found = {arg.name: (_DTYPES.get(arg.type, arg.type), tuple(arg.shape)) for arg in actual}
    problems = [f"it has no {kind} {spec}" for spec in recorded if spec.name not in found]
    for name, (dtype, shape) in found.items():
        spec = specs.get(name)
        got = f"{name} {dtype} ({', '.join(map(str, shape))})"
        if spec is None:
            problems.append(f"its {kind} {got} is not recorded")
        elif not spec.accepts(dtype, shape):
            problems.append(f"its {kind} is {got}, recorded as {spec}")
    if problems:
        raise BundleError(
            f"{file} does not match the manifest: {'; '.join(problems)}. Export the bundle again."
        )
