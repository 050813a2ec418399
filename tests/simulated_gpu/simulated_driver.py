"""What the simulated CUDA driver counts, and what tests make it do."""

import ctypes
from typing import Any

COUNTERS = (
    "allocations",
    "bytes",
    "pinned",
    "streams",
    "events",
    "graphs",
    "executables",
    "primary",
    "contexts",
    "launches",
)


class SimulatedDriver:
    """The driver of this process."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL("libcuda.so.1")
        self._library.sim_count.restype = ctypes.c_long
        self._library.sim_set_memory.argtypes = (ctypes.c_long,)
        self._library.sim_lose_after.argtypes = (ctypes.c_long,)
        self._library.sim_set_delays.argtypes = (ctypes.c_long, ctypes.c_long)

    def counts(self) -> dict[str, int]:
        """What is alive, and how many graphs were launched."""
        return {name: self._library.sim_count(index) for index, name in enumerate(COUNTERS)}

    def live(self) -> dict[str, int]:
        """What is alive, without what is not there."""
        return {name: n for name, n in self.counts().items() if n and name != "launches"}

    def bytes_of(self, device: int) -> int:
        """Memory that is taken of one GPU of several."""
        self._library.sim_bytes_of.restype = ctypes.c_long
        return int(self._library.sim_bytes_of(device))

    @property
    def depth(self) -> int:
        """Contexts on this thread's stack."""
        return int(self._library.sim_depth())

    def set_memory(self, size_bytes: int) -> None:
        """Let the GPU have so much memory."""
        self._library.sim_set_memory(size_bytes)

    def set_delays(self, own: int = 20, of_default: int = 20) -> None:
        """Let every piece of work begin so late, in microseconds: in streams that were made, and in
        the default stream."""
        self._library.sim_set_delays(own, of_default)

    def copy_in_default_stream(self, destination: int, source: int, size_bytes: int) -> None:
        """Queue a copy within the GPU's memory, as another library does: in the default stream."""
        copy = self._library.cuMemcpyDtoDAsync_v2
        copy.argtypes = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p)
        assert copy(destination, source, size_bytes, None) == 0

    def lose_after(self, calls: int) -> None:
        """Let the GPU fail for good after so many copies, launches and waits; -1 mends it."""
        self._library.sim_lose_after(calls)
