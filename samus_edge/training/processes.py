"""The processes of a training: one, or several that torchrun has started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor, distributed

from samus_edge.errors import BackendError

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
PATIENCE = timedelta(days=1)  # the others wait while the first one distils and validates


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: number of this process, from 0, which alone writes and validates.
        count: how many there are.
        device: what this process computes on.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes and validates."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes of a tensor, the same for each; any shape, floating point."""
        if self.count == 1:
            return values
        total = values.to(self.device)
        distributed.all_reduce(total)
        return (total / self.count).to(values.device)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Lets the first process go through the block alone, and then the others."""
        if self.count > 1 and not self.is_first:
            distributed.barrier()
        yield
        if self.count > 1 and self.is_first:
            distributed.barrier()


@contextmanager
def training_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun has started; without torchrun this one is alone.

    Args:
        device: "cpu" or "cuda"; with "cuda" each process takes the GPU of its local rank.

    Yields:
        This process among them.

    Raises:
        BackendError: if there is no such device.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda" and torch.cuda.device_count() <= local_rank:
        raise BackendError(
            f"device: cuda needs {local_rank + 1} NVIDIA GPU(s) that this build of torch can use, "
            f"found {torch.cuda.device_count()}. Train with device: cpu, start no more processes "
            "than there are GPUs, or install a CUDA build of torch."
        )
    this = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # what torchrun tells its processes
        yield Processes(device=this)
        return
    if device == "cuda":
        torch.cuda.set_device(this)
    distributed.init_process_group(BACKENDS[device], timeout=PATIENCE)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), this)
    finally:
        distributed.destroy_process_group()
