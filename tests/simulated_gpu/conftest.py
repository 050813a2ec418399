"""Fixtures of the tests that run on the simulated driver; see
`tests/runtime/test_simulated_gpu.py`."""

import os
import sys
from collections.abc import Iterator

import pytest

from samus_edge.runtime.backends.gpu.device import Device
from samus_edge.runtime.backends.gpu.find_device import find_device
from simulated_driver import SimulatedDriver

# PyCUDA refers to all of the driver, the simulated one has what is called.
sys.setdlopenflags(os.RTLD_LAZY)


@pytest.fixture
def driver() -> Iterator[SimulatedDriver]:
    """The simulated driver, mended after the test."""
    simulated = SimulatedDriver()
    yield simulated
    simulated.lose_after(-1)
    simulated.set_memory(1 << 33)
    simulated.set_delays()


@pytest.fixture
def device(driver: SimulatedDriver) -> Iterator[Device]:
    """The GPU through the binding that the environment variable SIM_BINDING names."""
    found = find_device(os.environ.get("SIM_BINDING", "auto"))
    yield found
    found.close()
