"""What tests of benchmarking share."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from samus_edge.benchmarking.subject import Stage, Subject, Workload


class FakeSubject(Subject):
    """A subject whose stages note that they ran."""

    def __init__(
        self,
        name: str,
        ran: list[str],
        stage_names: Sequence[tuple[str, int]] = (("image_encoder", 1), ("end_to_end", 1)),
        device_times: Callable[[int], list[float]] | None = None,
        *,
        precision: str = "fp32",
        is_on_gpu: bool = False,
    ) -> None:
        def noting(stage: str, items: int) -> Callable[[], None]:
            return lambda: ran.append(f"{name} {stage} {items}")

        stages = [Stage(each, n, noting(each, n), device_times) for each, n in stage_names]
        super().__init__(name, stages, precision=precision, is_on_gpu=is_on_gpu)


@pytest.fixture
def fake() -> type[FakeSubject]:
    """Makes subjects whose runs are noted; the second argument is the list of them."""
    return FakeSubject


@pytest.fixture
def workload() -> Workload:
    """A small frame, one and two at once."""
    frame = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    return Workload.of(frame, batches=(1, 2), prompts=(1, 3))


@pytest.fixture
def load_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script of `benchmarks/` by its name."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
