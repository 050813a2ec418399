"""A TensorRT engine on a GPU: what it takes and gives, and contexts to run it in."""

import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samus_edge.errors import BackendError, OutputFileError
from samus_edge.runtime.backends.gpu.device import Device
from samus_edge.runtime.backends.tensorrt.engine_build import ShapeRange
from samus_edge.runtime.backends.tensorrt.tensorrt_library import TensorRTLibrary, TensorRTLog
from samus_edge.runtime.images.output_files import write_files_atomically

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine.

    Attributes:
        name: Its name in the graph.
        dtype: Its numpy dtype.
        is_input: False for an output.
        profiles: for an input, its range in each optimisation profile; empty for an output.
    """

    name: str
    dtype: "np.dtype[Any]"
    is_input: bool
    profiles: tuple[ShapeRange, ...] = ()

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Size of such a tensor, bytes."""
        return math.prod(shape) * self.dtype.itemsize


class TensorRTEngine:
    """An engine, deserialised on the GPU that is current in the calling thread."""

    def __init__(
        self,
        name: str,
        engine: bytes,
        *,
        library: TensorRTLibrary,
        device: Device,
        runtime_cache: Path | None = None,
    ) -> None:
        """Load an engine.

        Args:
            name: Name of its graph, for messages.
            engine: A result of `build_engine`.
            library: The library of the flavour and version that built it.
            device: The GPU to run on; current in this thread.
            runtime_cache: The file of what TensorRT-RTX has compiled for this engine on this GPU:
                read now, and written by `keep_runtime_cache`. None keeps nothing.

        Raises:
            BackendError: if the library refuses it: another version, another GPU, no memory,
                damaged.
        """
        trt: Any = library.module
        self.name = name
        self.device = device
        self.library = library
        self._log = TensorRTLog(trt)
        self._runtime: Any = None
        self._engine: Any = None
        try:
            self._runtime = trt.Runtime(self._log.logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine)
        except (TypeError, RuntimeError) as err:  # without a driver the bindings raise these
            raise BackendError(self._refusal(str(err))) from err
        if self._engine is None:
            raise BackendError(self._refusal(""))
        self._runtime_cache_file = runtime_cache
        self._runtime_cache: Any = None
        self._kept = b""
        self._config = self._runtime_config(trt)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self.tensors = tuple(self._tensor(trt, tensor) for tensor in names)

    @property
    def compiles(self) -> bool:
        """Whether kernels are compiled on the GPU for every new shape, as TensorRT-RTX does."""
        return self._config is not None

    @property
    def must_compile(self) -> bool:
        """Whether nothing that was compiled at an earlier start could be read."""
        return self.compiles and not self._kept

    @property
    def profiles(self) -> int:
        """Number of optimisation profiles."""
        return int(self._engine.num_optimization_profiles)

    @property
    def activation_bytes(self) -> int:
        """Memory of the GPU that a context needs beside its inputs and outputs; 0 in TensorRT 10.0,
        which does not say."""
        return int(getattr(self._engine, "device_memory_size_v2", 0))

    def create_context(self) -> Any:
        """An `IExecutionContext`; may be used by one thread at a time.

        Raises:
            BackendError: if there is not enough memory.
        """
        self._log.errors.clear()
        if self._config is None:
            context = self._engine.create_execution_context()
        else:
            context = self._engine.create_execution_context(self._config)
        if context is None:
            raise BackendError(
                f"{self.library} cannot run graph {self.name!r} on {self.device.info.name}: "
                f"{self.last_errors()}. It needs {self.activation_bytes / 1e6:.0f} MB of the GPU, "
                f"and {self.device.free_memory_bytes() / 1e6:.0f} MB are free. Close what else "
                "uses the GPU, or build for smaller frames and fewer prompts."
            )
        return context

    def last_errors(self) -> str:
        """TensorRT's errors since the last call, in one line."""
        found = "; ".join(message.strip() for message in self._log.errors) or "no reason given"
        self._log.errors.clear()
        return found

    def keep_runtime_cache(self) -> None:
        """Write what was compiled since it was read; a file that cannot be written is a warning."""
        if self._runtime_cache is None or self._runtime_cache_file is None:
            return
        content = bytes(self._runtime_cache.serialize())
        if content == self._kept:
            return
        try:
            write_files_atomically({self._runtime_cache_file: content})
            self._kept = content
        except OutputFileError as err:
            _logger.warning("what was compiled for graph %r is not kept: %s", self.name, err)

    def close(self) -> None:
        """Give the engine's memory back; its contexts must be gone."""
        self._runtime_cache = None
        self._config = None
        self._engine = None
        self._runtime = None

    def _runtime_config(self, trt: Any) -> Any:
        """TensorRT-RTX compiles kernels on the GPU, for each new shape another time.

        It may do so in the background and change kernels between two runs: then the same frame
        gives different logits. Compiled at once, a shape is slow the first time and the same ever
        after; the runtime cache makes that the first time on this machine.
        """
        strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return None
        config = self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._runtime_cache = cache = config.create_runtime_cache()
        if self._runtime_cache_file is not None:
            with suppress(OSError):
                content = self._runtime_cache_file.read_bytes()
                if cache.deserialize(content):
                    self._kept = content
                else:  # of another driver, GPU or version
                    _logger.info("%s does not fit; compiling anew", self._runtime_cache_file)
        config.set_runtime_cache(cache)
        return config

    def _tensor(self, trt: Any, name: str) -> EngineTensor:
        engine = self._engine
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        ranges: list[ShapeRange] = []
        for profile in range(self.profiles if is_input else 0):
            low, typical, high = engine.get_tensor_profile_shape(name, profile)
            ranges.append(ShapeRange(tuple(low), tuple(typical), tuple(high)))
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        return EngineTensor(name, dtype, is_input, tuple(ranges))

    def _refusal(self, message: str) -> str:
        reasons = "; ".join(part for part in (message, *self._log.errors) if part)
        return (
            f"{self.library} does not load the engine of graph {self.name!r} on "
            f"{self.device.info.name}: {reasons or 'no reason given'}. Build it again on this "
            "machine: samus-edge build --rebuild"
        )
