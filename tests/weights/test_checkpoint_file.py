"""Reading checkpoints: every wrapping, nothing but tensors, and no code."""

import dataclasses
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from samus_edge.errors import WeightsError
from samus_edge.training.checkpoint import TrainingState
from samus_edge.weights.checkpoint_file import read_checkpoint

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b.count": torch.tensor(7)}


def is_as_expected(found: Any) -> bool:
    """Whether a mapping holds `TENSORS`, in order."""
    return list(found) == list(TENSORS) and all(
        torch.equal(tensor, TENSORS[name]) for name, tensor in found.items()
    )


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {f"module.{name}": tensor for name, tensor in TENSORS.items()},
        {"state_dict": TENSORS, "epoch": 3},
        {"epoch": 3, "model": {f"module.{name}": tensor for name, tensor in TENSORS.items()}},
        {"model_state_dict": TENSORS, "loss": 0.5},
    ],
    ids=["plain", "parallel", "wrapped", "wrapped and parallel", "other wrapping"],
)
def test_every_wrapping_is_taken_off(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.path == path and checkpoint.metadata == {}
    assert is_as_expected(checkpoint.tensors)


def test_the_old_format_of_torch_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    assert is_as_expected(read_checkpoint(path).tensors)


def test_safetensors_are_recognised_by_content_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    save_file(TENSORS, path, metadata={"format": "pt"})
    checkpoint = read_checkpoint(path)
    assert is_as_expected(dict(sorted(checkpoint.tensors.items())))
    assert checkpoint.metadata == {"format": "pt"}


def test_module_is_kept_where_not_all_names_have_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, path)
    assert list(read_checkpoint(path).tensors) == ["module.a", "b"]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.pth"
    with pytest.raises(WeightsError, match=r"no checkpoint at .*nowhere\.pth"):
        read_checkpoint(path)
    with pytest.raises(WeightsError, match=r"is no file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n", b"\x80\x04\x95garbage"])
def test_a_file_that_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"notes\.pth is not a PyTorch checkpoint") as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)  # torch's advice would be dangerous


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name, save in (("a.pth", torch.save), ("a.safetensors", save_file)):
        path = tmp_path / name
        save(TENSORS, path)
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(WeightsError, match=name):
            read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {7: torch.zeros(1)}, {"model": 5}])
def test_a_checkpoint_without_plain_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"other\.pth holds no plain state dict"):
        read_checkpoint(path)


def test_the_state_of_a_training_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({field.name: 0 for field in dataclasses.fields(TrainingState)}, path)
    with pytest.raises(WeightsError, match=r"state of a training.*best\.safetensors"):
        read_checkpoint(path)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    plain, archive = tmp_path / "plain.pth", tmp_path / "archive.pth"
    plain.write_bytes(pickle.dumps(Malicious(trace)))
    torch.save({"weight": Malicious(trace)}, archive)
    for path in (plain, archive):
        with pytest.raises(WeightsError, match=path.name):
            read_checkpoint(path)
    assert not trace.exists()
    pickle.loads(plain.read_bytes())  # it would have done it
    assert trace.exists()
