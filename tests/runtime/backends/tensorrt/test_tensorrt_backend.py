"""Engines built by TensorRT-RTX once, by several processes, and by one that dies."""

import dataclasses
import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from samus_edge.errors import BackendError
from samus_edge.runtime.backends.tensorrt.engine_build import EngineOptions
from samus_edge.runtime.backends.tensorrt.engine_cache import EngineCache, process_lock
from samus_edge.runtime.backends.tensorrt.tensorrt_backend import (
    EngineTarget,
    ProvidedEngine,
    engine_key,
    provide_engine,
)
from samus_edge.runtime.backends.tensorrt.tensorrt_library import find_tensorrt
from samus_edge.runtime.bundle.manifest import GraphRecord, TensorSpec

pytestmark = pytest.mark.usefixtures("rtx")

RECORD = GraphRecord(
    file="small.onnx",
    sha256="12" * 32,
    size_bytes=1,
    precision="fp32",
    weight_storage="fp32",
    opset=20,
    inputs=(TensorSpec("x", "float32", (4, 8)),),
    outputs=(TensorSpec("y", "float32", (4, 8)),),
)
# Builds with the cache of its first argument, and prints whether it built. With a second argument
# it stops in the middle of the build, and says so.
SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_tensorrt_backend import build

def stop(progress):
    print("building", flush=True)
    time.sleep(600)

options = {{"on_progress": stop}} if len(sys.argv) > 2 else {{}}
print(build(Path(sys.argv[1]), **options).was_built, flush=True)
"""


def small_graph() -> bytes:
    """y (4, 8) = x by the identity."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "matrix"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(np.eye(8, dtype=np.float32), "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def build(folder: Path, **options: Any) -> ProvidedEngine:
    """Provide the small engine for 8.6."""
    return provide_engine(
        "small",
        small_graph(),
        RECORD,
        target=EngineTarget(find_tensorrt("tensorrt_rtx"), "8.6", None),
        options=EngineOptions(),
        cache=EngineCache(folder),
        **options,
    )


@pytest.fixture
def start(tmp_path: Path):  # type: ignore[no-untyped-def]  # a process
    """Starts processes that build into the cache `tmp_path / "cache"`."""
    script = tmp_path / "build.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent))))

    def start_one(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(script), str(tmp_path / "cache"), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start_one


def test_it_is_built_once_and_then_taken_from_the_cache(tmp_path: Path) -> None:
    first, second = build(tmp_path), build(tmp_path)
    assert (first.was_built, second.was_built) == (True, False)
    assert first.engine == second.engine
    assert second.entry is not None
    assert second.entry.key.gpu_name is None
    assert build(tmp_path, rebuild=True).was_built


def test_a_damaged_engine_is_built_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = build(tmp_path).entry
    assert entry is not None
    entry.path.write_bytes(b"garbage")
    again = build(tmp_path)
    assert again.was_built
    assert again.entry is not None
    assert again.entry.read() == again.engine
    assert "is damaged" in caplog.text


def test_two_processes_build_it_once(tmp_path: Path, start) -> None:  # type: ignore[no-untyped-def]
    both = [start(), start()]
    results = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert results == ["False", "True"]
    assert len(EngineCache(tmp_path / "cache").entries()) == 1


def test_a_build_that_is_killed_leaves_no_engine_and_no_lock(tmp_path: Path, start) -> None:  # type: ignore[no-untyped-def]
    cache = EngineCache(tmp_path / "cache")
    key = engine_key(
        EngineTarget(find_tensorrt("tensorrt_rtx"), "8.6", None), RECORD, EngineOptions()
    )
    process = start("stop")
    assert process.stdout.readline() == "building\n", process.communicate()[1]
    try:
        with (
            pytest.raises(BackendError, match=f"fuser {cache.lock_file(key)}"),
            process_lock(cache.lock_file(key), timeout_seconds=0),
        ):
            raise AssertionError
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert cache.entries() == []
    with process_lock(cache.lock_file(key), timeout_seconds=0) as held:
        assert held
    assert build(tmp_path / "cache").was_built


def test_an_engine_that_cannot_be_kept_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    provided = build(blocked / "cache")
    assert provided.was_built
    assert provided.entry is None
    assert len(provided.engine) > 0
    assert "is used, but not kept" in caplog.text


def test_a_lock_is_held_by_one_and_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    waits: list[bool] = []
    with process_lock(path, timeout_seconds=1) as held:
        assert held
        with (
            pytest.raises(BackendError, match=f"for 0 seconds.*fuser {path}"),
            process_lock(path, timeout_seconds=0.3, on_wait=lambda: waits.append(True)),
        ):
            raise AssertionError
    assert waits == [True]
    with process_lock(path, timeout_seconds=0) as held:
        assert held


@pytest.mark.parametrize(
    ("call", "error"),
    [("os.open", errno.EROFS), ("os.open", errno.EACCES), ("fcntl.flock", errno.ENOLCK)],
)
def test_where_there_are_no_locks_the_work_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    """A read-only folder, another user's file, a network file system without a lock daemon."""

    def refuse(*arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(call, refuse)
    with process_lock(tmp_path / "a.lock", timeout_seconds=5) as held:
        monkeypatch.undo()
        assert not held


def test_profiles_follow_the_options() -> None:
    image = replace_inputs(("image", "uint8", ("batch", "height", "width")))
    (profile,) = EngineOptions().profiles(image)
    assert profile["image"].largest == (1, 2048, 2048)
    frozen = replace_inputs(("image", "uint8", (1, 480, 640)))
    assert EngineOptions().profiles(frozen) == ()
    decoder = replace_inputs(
        ("image_embeddings", "float32", (1, 256, 32, 32)),
        ("point_coords", "float32", ("prompts", "points", 2)),
        ("point_labels", "float32", ("prompts", "points")),
        ("mask_input", "float32", ("prompts", 1, 128, 128)),
        ("has_mask_input", "float32", ("prompts", 1)),
    )
    one, several = EngineOptions(max_prompts=6, max_points=9).profiles(decoder)
    assert (one["point_coords"].smallest, one["point_coords"].largest) == ((1, 1, 2), (1, 9, 2))
    assert several["point_coords"].largest == (6, 9, 2)
    assert several["mask_input"].typical == (4, 1, 128, 128)
    assert len(EngineOptions(max_prompts=1).profiles(decoder)) == 1


def replace_inputs(*inputs: tuple[str, str, tuple[int | str, ...]]) -> GraphRecord:
    """A record with these inputs."""
    specs = tuple(TensorSpec(name, dtype, shape) for name, dtype, shape in inputs)
    return dataclasses.replace(RECORD, inputs=specs)
