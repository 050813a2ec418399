"""One process; several are tested in `test_resume`."""

import pytest
import torch

from samus_edge.errors import BackendError
from samus_edge.training.processes import training_processes


def test_without_torchrun_this_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with training_processes("cpu") as processes:
        assert (processes.rank, processes.count, processes.device.type) == (0, 1, "cpu")
        assert processes.is_first
        values = torch.tensor([0.1, 3.0], dtype=torch.float64)
        assert torch.equal(processes.mean(values), values)
        with processes.first_before_others():
            pass


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "63")
    with (
        pytest.raises(BackendError, match=r"device: cuda needs 64 NVIDIA GPU\(s\) .* found \d"),
        training_processes("cuda"),
    ):
        pass
