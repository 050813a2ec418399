"""Engines on the disk: what fits what, what is damaged, and what stops a write."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from samus_edge.errors import BackendError, OutputFileError
from samus_edge.runtime.backends.backend import default_cache_folder
from samus_edge.runtime.backends.tensorrt.engine_build import ShapeRange
from samus_edge.runtime.backends.tensorrt.engine_cache import (
    EngineCache,
    EngineKey,
    profiles_to_json,
)
from samus_edge.runtime.backends.tensorrt.engine_check import EngineCheck
from samus_edge.runtime.bundle.records import from_json, to_json
from samus_edge.runtime.images import output_files as atomic_write

KEY = EngineKey(
    flavour="tensorrt",
    version="10.9.0",
    gpu_name="Orin",
    compute_capability="8.7",
    graph_sha256="ab" * 32,
    profiles="[]",
    tf32=False,
    workspace_bytes=None,
)
CHECK = EngineCheck(8, 32, 0.999, 0.98, 0.01, 0.9999)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """An empty cache, whose folder is not there yet."""
    return EngineCache(tmp_path / "cache")


def test_an_engine_comes_back_byte_for_byte(cache: EngineCache) -> None:
    assert cache.get(KEY) is None
    stored = cache.store(KEY, b"engine", graph="image_encoder", build_seconds=2.5)
    found = cache.get(KEY)
    assert found == stored
    assert found is not None
    assert found.read() == b"engine"
    assert (found.size_bytes, found.build_seconds, found.graph) == (6, 2.5, "image_encoder")
    assert cache.entries() == [stored]
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".plan"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"graph_sha256": "cd" * 32}, "of the graph abababababab, not cdcdcdcdcdcd"),
        ({"flavour": "tensorrt_rtx"}, "built by tensorrt, not tensorrt_rtx"),
        ({"version": "10.9.1"}, "built by tensorrt 10.9.0, here is 10.9.1"),
        ({"compute_capability": "8.6"}, "for the compute capability 8.7, this GPU has 8.6"),
        ({"gpu_name": "Orin Nano"}, "built on Orin, this GPU is Orin Nano"),
        ({"engine_format": 2}, "another version of samus-edge"),
    ],
)
def test_an_engine_of_something_else_is_not_taken(
    cache: EngineCache, change: dict[str, object], reason: str
) -> None:
    cache.store(KEY, b"engine", graph="image_encoder", build_seconds=1)
    wanted = replace(KEY, **change)  # type: ignore[arg-type]  # one field
    assert cache.find(wanted, any_options=True) == []
    assert cache.get(wanted) is None
    assert reason in "; ".join(KEY.why_not(wanted))
    lines = cache.why_none(wanted, any_options=True)
    assert (reason in "".join(lines)) == ("graph_sha256" not in change)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"profiles": "[{}]"}, "sizes"),
        ({"tf32": True}, "tf32"),
        ({"workspace_bytes": 1}, "workspace"),
    ],
)
def test_options_are_asked_for_or_left_open(
    cache: EngineCache, change: dict[str, object], word: str
) -> None:
    other = replace(KEY, **change)  # type: ignore[arg-type]  # one field
    first = cache.store(KEY, b"first", graph="g", build_seconds=1)
    assert cache.find(other) == []
    assert cache.why_none(other) == [f"{first.path.name}: it was built with other {word}"]
    second = cache.store(other, b"second", graph="g", build_seconds=1)
    assert (cache.find(KEY), cache.find(other)) == ([first], [second])
    newest_of_each_size = [second, first] if "profiles" in change else [second]
    assert cache.find(KEY, any_options=True) == newest_of_each_size


def test_an_engine_for_several_images_is_for_who_asks_for_it(cache: EngineCache) -> None:
    profile = {"image": ShapeRange.fixed((4, 300, 400))}
    batched = replace(KEY, profiles=profiles_to_json([profile]))
    entry = cache.store(batched, b"four", graph="g", build_seconds=1)
    assert (cache.find(batched), cache.find(batched, any_options=True)) == ([entry], [])


def test_an_engine_for_a_capability_fits_every_gpu_that_has_it(cache: EngineCache) -> None:
    cache.store(replace(KEY, gpu_name=None), b"any", graph="g", build_seconds=1)
    assert cache.find(replace(KEY, gpu_name="Whatever"))
    assert not cache.find(replace(KEY, compute_capability="8.9"))


def test_keys_are_told_apart_by_each_field() -> None:
    changed = [
        replace(KEY, **{name: value})  # type: ignore[arg-type]  # one field
        for name, value in {
            "flavour": "x",
            "version": "x",
            "gpu_name": None,
            "compute_capability": "x",
            "graph_sha256": "x",
            "profiles": "x",
            "tf32": True,
            "workspace_bytes": 1,
            "engine_format": 9,
        }.items()
    ]
    assert len({KEY.digest, *(key.digest for key in changed)}) == len(changed) + 1
    assert from_json(EngineKey, json.loads(json.dumps(to_json(KEY)))) == KEY


@pytest.mark.parametrize("damage", [b"", b"engin", b"Engine", b"engine!"])
def test_a_damaged_engine_is_an_error_that_names_the_file(
    cache: EngineCache, damage: bytes
) -> None:
    entry = cache.store(KEY, b"engine", graph="g", build_seconds=1)
    entry.path.write_bytes(damage)
    with pytest.raises(BackendError, match=rf"{entry.path} is damaged: it has {len(damage)} bytes"):
        entry.read()


def test_a_missing_engine_is_none(cache: EngineCache) -> None:
    entry = cache.store(KEY, b"engine", graph="g", build_seconds=1)
    entry.path.unlink()
    assert cache.get(KEY) is None
    with pytest.raises(BackendError, match="cannot be read"):
        entry.read()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"key": 3}', b'{"key": {"flavour": 1}}']
)
def test_a_record_that_is_none_is_passed_over(cache: EngineCache, content: bytes) -> None:
    entry = cache.store(KEY, b"engine", graph="g", build_seconds=1)
    entry.path.with_suffix(".json").write_bytes(content)
    assert cache.entries() == []
    assert cache.get(KEY) is None
    cache.store(KEY, b"again", graph="g", build_seconds=1)
    assert [each.read() for each in cache.entries()] == [b"again"]


def test_an_engine_without_its_record_does_not_count_and_is_swept_when_old(
    cache: EngineCache,
) -> None:
    """What a build leaves that died between its two files."""
    cache.folder.mkdir()
    left = [cache.folder / f"{name}.plan" for name in ("old", "new")]
    for path in left:
        path.write_bytes(b"half")
    os.utime(left[0], (0, 0))
    assert cache.entries() == []
    cache.store(KEY, b"engine", graph="g", build_seconds=1)
    assert [path.exists() for path in left] == [False, True]


def test_a_full_disk_leaves_nothing(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_write, "_write_and_sync", full)
    with pytest.raises(OutputFileError, match="No space left on device"):
        cache.store(KEY, b"engine", graph="g", build_seconds=1)
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFileError, match="SAMUS_EDGE_CACHE"):
        EngineCache(tmp_path / "file" / "cache").store(KEY, b"", graph="g", build_seconds=1)


def test_checks_are_of_two_engines_on_a_driver(cache: EngineCache) -> None:
    encoder = cache.store(KEY, b"encoder", graph="e", build_seconds=1)
    decoder = cache.store(
        replace(KEY, graph_sha256="cd" * 32), b"decoder", graph="d", build_seconds=1
    )
    assert cache.check_of(encoder, decoder, "13.0") is None
    cache.record_check(encoder, decoder, "13.0", CHECK)
    failed = replace(CHECK, worst_mask_iou=float("nan"), failure="NaN")
    cache.record_check(encoder, decoder, "13.1", failed)
    assert cache.check_of(encoder, decoder, "13.0") == CHECK
    recalled = cache.check_of(encoder, decoder, "13.1")
    assert recalled is not None
    assert recalled.problems[0] == "NaN"
    other = cache.store(replace(KEY, graph_sha256="ef" * 32), b"other", graph="d", build_seconds=1)
    assert cache.check_of(encoder, other, "13.0") is None
    again = cache.store(KEY, b"encoder 2", graph="e", build_seconds=1)
    assert cache.check_of(again, decoder, "13.0") is None


def test_removing_leaves_nothing(cache: EngineCache) -> None:
    entry = cache.store(KEY, b"engine", graph="g", build_seconds=1)
    cache.record_check(entry, entry, "13.0", CHECK)
    cache.remove(entry)
    assert list(cache.folder.iterdir()) == []


def test_the_folder_is_that_of_the_variable_or_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(tmp_path / "named"))
    assert EngineCache().folder == tmp_path / "named"
    monkeypatch.delenv("SAMUS_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_cache_folder() == tmp_path / "samus-edge" / "engines"


@pytest.mark.parametrize(
    ("mean", "worst", "failure", "problems"),
    [
        (0.995, 0.96, "", 0),
        (0.9949, 0.99, "", 1),
        (0.999, 0.9599, "", 1),
        (float("nan"), float("nan"), "no number", 3),
    ],
)
def test_the_limits_of_a_check(mean: float, worst: float, failure: str, problems: int) -> None:
    check = EngineCheck(8, 32, mean, worst, 0.0, 1.0, failure)
    assert len(check.problems) == problems


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"x": 1}'])
def test_checks_that_cannot_be_read_are_made_again(cache: EngineCache, content: bytes) -> None:
    entry = cache.store(KEY, b"engine", graph="g", build_seconds=1)
    entry.path.with_suffix(".checks.json").write_bytes(content)
    assert cache.check_of(entry, entry, "13.0") is None
    cache.record_check(entry, entry, "13.0", CHECK)
    assert cache.check_of(entry, entry, "13.0") == CHECK


def test_a_check_that_cannot_be_kept_is_said(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    entry = cache.store(KEY, b"engine", graph="g", build_seconds=1)
    cache.remove(entry)
    cache.folder.rmdir()
    cache.record_check(entry, entry, "13.0", CHECK)
    assert "the check of the engines is not kept" in caplog.text
