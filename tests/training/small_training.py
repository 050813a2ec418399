"""A model and cases small enough to train in a test; as a program, trainings that end in any way.

As a program it takes a JSON list of scenarios and prints their exit codes as a JSON list. Each
scenario is a training in a process of its own (or several that train together), forked after
everything is imported: its keys are the arguments of `run_scenario`. A kill is the exit code -9.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.dataset import list_cases
from samus_edge.errors import JobInterruptedError, SamusEdgeError
from samus_edge.modeling.mask_decoder import MaskDecoder
from samus_edge.modeling.prompt_encoder import PromptEncoder
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.two_way_transformer import TwoWayTransformer
from samus_edge.training.batches import TrainingData
from samus_edge.training.config import read_config
from samus_edge.training.learner import training_processes
from samus_edge.training.objective import MaskObjective
from samus_edge.training.trainer import StepRecord, Trainer, stop_on_signal

EMBED_DIM = 16


class SmallEncoder(nn.Module):
    """One convolution to 32x32 with a normalisation and an integer buffer."""

    offsets: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, EMBED_DIM, kernel_size=8, stride=8)
        self.norm = norm
        self.register_buffer("offsets", torch.arange(16), persistent=False)
        self.poisoned = False

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Embed; NaN while poisoned."""
        embeddings: Tensor = self.norm(self.conv(torch.cat((image, high_frequency), dim=1)))
        return embeddings * float("nan") if self.poisoned else embeddings


def small_model(*, batch_norm: bool = True) -> SamusHF:
    """A model with 16-dimensional embeddings, always with the same random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = TwoWayTransformer(
            depth=2, embedding_dim=EMBED_DIM, num_heads=2, mlp_dim=EMBED_DIM
        )
        norm = nn.BatchNorm2d(EMBED_DIM) if batch_norm else nn.GroupNorm(1, EMBED_DIM)
        return SamusHF(
            image_encoder=SmallEncoder(norm),
            prompt_encoder=PromptEncoder(embed_dim=EMBED_DIM, mask_in_chans=4),
            mask_decoder=MaskDecoder(
                transformer=transformer, embed_dim=EMBED_DIM, iou_head_hidden_dim=EMBED_DIM
            ),
        )


def write_bright_cases(root: Path, lesions: int, normals: int = 0) -> list[UltrasoundCase]:
    """Cases in BUSI's layout: a bright ellipse, which is the lesion, in dark noise; or the
    noise."""
    rng = np.random.default_rng(0)
    for number in range(1, lesions + normals + 1):
        height, width = 90 + 7 * number, 120 - 5 * number
        rows, columns = np.mgrid[0:height, 0:width]
        y, x = rng.uniform(0.35, 0.65, 2) * (height, width)
        lesion = ((rows - y) / (0.2 * height)) ** 2 + ((columns - x) / (0.25 * width)) ** 2 < 1
        name = "benign" if number <= lesions else "normal"
        lesion &= name == "benign"
        image = rng.integers(0, 60, (height, width)) + 150 * lesion
        stem = root / name / f"{name} ({number})"
        stem.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(f"{stem}.png", image.astype(np.uint8))
        assert cv2.imwrite(f"{stem}_mask.png", lesion.astype(np.uint8) * 255)
    return list_cases(root)


def copied(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's tensors."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, through mappings and lists."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def run_scenario(
    root: str,
    out: str,
    settings: list[str],
    *,
    batch_norm: bool = True,
    kill_at_step: int | None = None,
    kill_at_replace: tuple[str, int] | None = None,
    signal_at_step: tuple[int, str] | None = None,
    largest_file: int | None = None,
) -> int:
    """Train the small model on all cases of a folder but the last, which is validated on.

    Args:
        root: the dataset.
        out: the run's folder; each process leaves its model there, too.
        settings: as `--set` takes them.
        batch_norm: see `small_model`.
        kill_at_step: SIGKILL after this step.
        kill_at_replace: SIGKILL when a file of this name is to get its content, the n-th time.
        signal_at_step: this signal after this step.
        largest_file: bytes beyond which no file can grow, as on a full disk.

    Returns:
        The exit code.
    """
    if largest_file is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    replace, seen = os.replace, []

    def replace_or_die(source: Any, target: Any) -> None:
        if kill_at_replace is not None and Path(target).name == kill_at_replace[0]:
            seen.append(target)
            if len(seen) == kill_at_replace[1]:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    vars(os)["replace"] = replace_or_die  # this process is a forked one

    def on_step(record: StepRecord) -> None:
        if record.step == kill_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        if signal_at_step is not None and record.step == signal_at_step[0]:
            os.kill(os.getpid(), signal.Signals[signal_at_step[1]])

    config = read_config(None, settings)
    cases = list_cases(root)
    try:
        with training_processes(config.device) as processes, stop_on_signal() as stop:
            model = small_model(batch_norm=batch_norm)
            objective = MaskObjective(model, config, TrainingData(cases[:-1], cases[-1:]))
            trainer = Trainer(objective, Path(out), processes)
            trainer.run(progress=on_step, should_stop=stop.is_set)
            torch.save(model.state_dict(), Path(out) / f"rank{processes.rank}.pt")
    except JobInterruptedError as err:
        print(err, file=sys.stderr)
        return 130
    except SamusEdgeError as err:
        print(err, file=sys.stderr)
        return 1
    return 0


def fork_scenario(scenario: dict[str, Any]) -> int:
    """Run a scenario, on as many processes as it says; the exit code of the first that fails."""
    count = scenario.pop("processes", 1)
    children = []
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(count):
        child = os.fork()
        if child == 0:
            if count > 1:  # as torchrun does
                os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"}
                os.environ |= {"MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
            code = None
            try:
                code = run_scenario(**scenario)
            finally:  # a child must not come out of this function
                if code is None:
                    traceback.print_exc()
                sys.stderr.flush()
                os._exit(99 if code is None else code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    print(json.dumps([fork_scenario(scenario) for scenario in json.loads(sys.argv[1])]))
