"""What tests of benchmarking share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from samus_edge.benchmarking.subject import Stage, Workload


@dataclass
class FakeSubject:
    """A subject whose stages note that they ran."""

    name: str
    ran: list[str]
    stage_names: Sequence[tuple[str, int]] = (("image_encoder", 1), ("end_to_end", 1))
    device: str = "cpu"
    version: str = "1"
    precision: str = "fp32"
    is_on_gpu: bool = False
    memory_bytes: int | None = 1_000_000
    gpu_memory_bytes: int | None = None
    device_times: Callable[[int], list[float]] | None = None
    stages: list[Stage] = field(init=False)

    def __post_init__(self) -> None:
        self.stages = [
            Stage(name, items, self._noting(name, items), self.device_times)
            for name, items in self.stage_names
        ]

    def _noting(self, name: str, items: int) -> Callable[[], None]:
        return lambda: self.ran.append(f"{self.name} {name} {items}")

    def close(self) -> None:
        """Note it."""
        self.ran.append(f"{self.name} closed")


@pytest.fixture
def fake() -> type[FakeSubject]:
    """Makes subjects whose runs are noted; the second argument is the list of them."""
    return FakeSubject


@pytest.fixture
def workload() -> Workload:
    """A small frame, one and two at once."""
    frame = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    return Workload.of(frame, batches=(1, 2), prompts=(1, 3))
