"""A TensorRT whose engines are ONNX graphs that run on ONNX Runtime, in the simulated device's
memory.

It stands in for the module `tensorrt` where engines are loaded and run. It is as strict as the real
one about shapes, addresses and profiles, and queues its work in the stream, so that captures record
it.
"""

import ctypes
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from samus_edge.runtime.backends.tensorrt.engine_build import EngineProfile
from samus_edge.runtime.backends.tensorrt.tensorrt_library import TensorRTLibrary

_MAGIC = b"SIMULATED-ENGINE"
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DTYPES = {onnx.TensorProto.UINT8: np.uint8, onnx.TensorProto.FLOAT: np.float32}

live = {"engines": 0, "contexts": 0}
"""Objects that TensorRT would hold memory for."""

compiled: list[Any] = []
"""The shapes that the simulated TensorRT-RTX has compiled kernels for in this process."""

faults = {
    "scale": 1.0,
    "nan": False,
    "fail": False,
    "no_memory": False,
    "uncapturable": False,
    "no_shapes": False,
}
"""What goes wrong: outputs are multiplied by scale, become NaN; running, making a context or
inferring shapes fails."""


def serialize(graph: bytes, profiles: tuple[EngineProfile, ...]) -> bytes:
    """An engine of a graph."""
    plain = [
        {name: [sizes.smallest, sizes.typical, sizes.largest] for name, sizes in profile.items()}
        for profile in profiles
    ]
    header = json.dumps(plain).encode()
    return _MAGIC + len(header).to_bytes(4, "little") + header + graph


class _ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        pass


class _Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> "_Engine | None":
        if not content.startswith(_MAGIC):
            self.logger.log(_ILogger.ERROR, "the magic tag does not match")
            return None
        start = len(_MAGIC) + 4
        length = int.from_bytes(content[len(_MAGIC) : start], "little")
        profiles = json.loads(content[start : start + length])
        return _Engine(content[start + length :], profiles, self.logger)


class _Engine:
    device_memory_size_v2 = 1 << 20

    def __init__(self, graph: bytes, profiles: list[dict[str, Any]], logger: Any) -> None:
        self.graph = onnx.load_from_string(graph).graph
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.profiles = profiles
        self.logger = logger
        self.tensors = {value.name: value for value in (*self.graph.input, *self.graph.output)}
        self.input_names = [value.name for value in self.graph.input]
        live["engines"] += 1

    def __del__(self) -> None:
        live["engines"] -= 1

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return max(len(self.profiles), 1)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.tensors)[index])

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.input_names else "output"

    def get_tensor_dtype(self, name: str) -> Any:
        return _DTYPES[self.tensors[name].type.tensor_type.elem_type]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        if self.profiles and name in self.profiles[profile]:
            return [tuple(shape) for shape in self.profiles[profile][name]]
        return [tuple(size.dim_value for size in self.dims(name))] * 3

    def dims(self, name: str) -> Any:
        return self.tensors[name].type.tensor_type.shape.dim

    def create_runtime_config(self) -> "_RuntimeConfig":
        return _RuntimeConfig()

    def create_execution_context(self, config: "_RuntimeConfig | None" = None) -> "_Context | None":
        if faults["no_memory"]:
            self.logger.log(_ILogger.ERROR, "OutOfMemory")
            return None
        return _Context(self, config)


class _RuntimeCache:
    def __init__(self) -> None:
        self.compiled: list[Any] = []

    def serialize(self) -> bytes:
        return _MAGIC + json.dumps(self.compiled).encode()

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(_MAGIC):
            return False
        self.compiled = json.loads(content[len(_MAGIC) :])
        return True


class _RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = "lazy"
    cache: _RuntimeCache | None = None

    def create_runtime_cache(self) -> _RuntimeCache:
        return _RuntimeCache()

    def set_runtime_cache(self, cache: _RuntimeCache) -> bool:
        self.cache = cache
        return True


class _Context:
    def __init__(self, engine: _Engine, config: _RuntimeConfig | None = None) -> None:
        self.engine = engine
        self.config = config
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.queued: list[Any] = []  # keeps functions alive that a graph may call again
        self.driver = ctypes.CDLL("libcuda.so.1")
        live["contexts"] += 1

    def __del__(self) -> None:
        live["contexts"] -= 1

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        self.shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        sizes = zip(low, shape, high, strict=True)
        if not all(smallest <= size <= largest for smallest, size, largest in sizes):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        if faults["no_shapes"]:
            raise RuntimeError("infer_shapes error code: -1")
        return [name for name in self.engine.input_names if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        known: dict[str, int] = {}
        for other, shape in self.shapes.items():
            sizes = zip(self.engine.dims(other), shape, strict=True)
            known |= {dim.dim_param: size for dim, size in sizes if dim.dim_param}
        return tuple(known.get(dim.dim_param, dim.dim_value) for dim in self.engine.dims(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if faults["fail"]:
            self.engine.logger.log(_ILogger.ERROR, "Cuda Runtime (an illegal memory access)")
            return False
        shapes = {name: self.get_tensor_shape(name) for name in self.engine.tensors}
        addresses, engine = dict(self.addresses), self.engine
        if self.config is not None and self.config.cache is not None:
            inputs = [list(shapes[name]) for name in engine.input_names]
            if inputs not in self.config.cache.compiled:
                self.config.cache.compiled.append(inputs)
                compiled.append(inputs)

        def compute(_: int | None) -> None:
            arrays = {
                name: _array(shape, engine.get_tensor_dtype(name), addresses[name])
                for name, shape in shapes.items()
            }
            feeds = {name: arrays[name].copy() for name in engine.input_names}
            outputs = [name for name in arrays if name not in feeds]
            for name, value in zip(outputs, engine.session.run(outputs, feeds), strict=True):
                arrays[name][...] = np.nan if faults["nan"] else value * np.float32(faults["scale"])

        function = _HOST_FUNCTION(compute)
        self.queued.append(function)
        launch = self.driver.cuLaunchHostFunc
        launch.argtypes = (ctypes.c_void_p, _HOST_FUNCTION, ctypes.c_void_p)
        return bool(launch(stream, function, None) == 0)

    def is_stream_capturable(self, stream: int) -> bool:
        return not faults["uncapturable"]


def _array(shape: tuple[int, ...], dtype: Any, address: int) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    array: np.ndarray[Any, Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
    return array


_MODULE = {
    "ILogger": _ILogger,
    "Runtime": _Runtime,
    "TensorIOMode": SimpleNamespace(INPUT="input", OUTPUT="output"),
    "nptype": lambda dtype: dtype,
}
_STRATEGIES = SimpleNamespace(LAZY="lazy", EAGER="eager")

simulated_library = TensorRTLibrary(
    module=SimpleNamespace(**_MODULE),  # type: ignore[arg-type]  # stands in for the module
    flavour="tensorrt",
    version="10.99.0",
)
simulated_rtx = TensorRTLibrary(
    module=SimpleNamespace(  # type: ignore[arg-type]  # stands in for the module
        **_MODULE, DynamicShapesKernelSpecializationStrategy=_STRATEGIES
    ),
    flavour="tensorrt_rtx",
    version="1.99.0",
)
