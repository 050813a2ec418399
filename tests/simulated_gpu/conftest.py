"""Fixtures of the tests that run on the simulated driver; see `tests/runtime/test_simulated_gpu.py`."""

import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from samus_edge.runtime.device import Device
from samus_edge.runtime.find_device import find_device

# PyCUDA refers to all of the driver, the simulated one has what is called.
sys.setdlopenflags(os.RTLD_LAZY)

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
    """What the simulated driver counts, and what tests make it do."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL("libcuda.so.1")
        self._library.sim_count.restype = ctypes.c_long
        self._library.sim_set_memory.argtypes = (ctypes.c_long,)
        self._library.sim_lose_after.argtypes = (ctypes.c_long,)

    def counts(self) -> dict[str, int]:
        """What is alive, and how many graphs were launched."""
        return {name: self._library.sim_count(index) for index, name in enumerate(COUNTERS)}

    def live(self) -> dict[str, int]:
        """What is alive, without what is not there."""
        return {name: n for name, n in self.counts().items() if n and name != "launches"}

    @property
    def depth(self) -> int:
        """Contexts on this thread's stack."""
        return int(self._library.sim_depth())

    def set_memory(self, size_bytes: int) -> None:
        """Let the GPU have so much memory."""
        self._library.sim_set_memory(size_bytes)

    def lose_after(self, calls: int) -> None:
        """Let the GPU fail for good after so many copies, launches and waits; -1 mends it."""
        self._library.sim_lose_after(calls)


@pytest.fixture
def driver() -> Iterator[SimulatedDriver]:
    """The simulated driver, mended after the test."""
    simulated = SimulatedDriver()
    yield simulated
    simulated.lose_after(-1)
    simulated.set_memory(1 << 33)


@pytest.fixture
def device(driver: SimulatedDriver) -> Iterator[Device]:
    """The GPU through the binding that the environment variable SIM_BINDING names."""
    found = find_device(os.environ.get("SIM_BINDING", "auto"))
    yield found
    found.close()
