"""What is benchmarked computes what the runtime computes."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from samus_edge.benchmarking import bench_run
from samus_edge.benchmarking.bench_run import BenchOptions, describe_hardware, run_bench
from samus_edge.benchmarking.runtime_subject import RuntimeSubject
from samus_edge.benchmarking.subject import Workload
from samus_edge.benchmarking.torch_subject import TorchSubject
from samus_edge.errors import BackendError
from samus_edge.runtime.backends.backend_selection import select_backend
from samus_edge.runtime.bundle.bundle import Bundle


def test_runtime_and_torch_do_the_same(workload: Workload) -> None:
    bundle = Bundle.open()
    ours = RuntimeSubject(bundle, select_backend("onnxruntime", 1), "auto", workload)
    rival = TorchSubject(bundle, workload, threads=1)
    assert (ours.name, rival.name) == ("onnxruntime fp32", "torch fp32")
    expected = [
        ("image_encoder", 1),
        ("image_encoder", 2),
        ("mask_decoder", 1),
        ("mask_decoder", 3),
    ]
    results = {}
    for subject in (ours, rival):
        stages = {(stage.name, stage.items): stage.run for stage in subject.stages}
        assert list(stages) == [*expected, ("end_to_end", 1)]
        results[subject.name] = {key: run() for key, run in stages.items()}
    own, other = results.values()
    for key in expected[:2]:
        embeddings = own[key]["image_embeddings"]  # type: ignore[index]
        assert embeddings.shape == (key[1], 256, 32, 32)
        np.testing.assert_allclose(embeddings, np.asarray(other[key]), atol=2e-3)
    for key in expected[2:]:
        logits = own[key]["low_res_masks"]  # type: ignore[index]
        np.testing.assert_allclose(logits, np.asarray(other[key][0]), atol=2e-2)  # type: ignore[index]
    masks = own["end_to_end", 1].masks[:, :1]  # type: ignore[attr-defined]
    assert np.mean(masks == other["end_to_end", 1]) > 0.999
    for subject in (ours, rival):
        subject.close()
        assert subject.gpu_memory_bytes is None


def test_half_precision_computes_nearly_the_same(workload: Workload) -> None:
    bundle, workload = Bundle.open(), Workload.of(workload.frame)
    runs = {}
    for precision in ("fp32", "bf16"):
        subject = TorchSubject(bundle, workload, precision=precision, threads=1)
        stage = subject.stages[0]
        runs[precision] = np.asarray(stage.run().float()).ravel()  # type: ignore[attr-defined]
        subject.close()
    a, b = runs.values()
    assert float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) > 0.99


def test_what_cannot_run_is_left_out_with_its_reason(
    workload: Workload, openvino_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(openvino_cache))
    options = BenchOptions(rivals=(), rounds=1, runs=1, threads=2)
    results = run_bench(Bundle.open(), workload, options)
    works = {"onnxruntime fp32"} | ({"openvino fp32"} if find_spec("openvino") else set())
    assert {row.subject for row in results.rows} == works
    assert "CUDAExecutionProvider" in results.left_out["onnxruntime-cuda auto"]
    assert results.facts["frame_hw"] == [48, 64]


def test_missing_torch_is_said(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "find_spec", lambda name: None)
    options = BenchOptions(backends=("onnxruntime",), rounds=1, runs=1, threads=1)
    results = run_bench(Bundle.open(), workload, options)
    assert set(results.left_out) == {"torch", "torch-compile"}


def test_a_backend_that_was_named_must_run(workload: Workload) -> None:
    with pytest.raises(BackendError, match="CUDAExecutionProvider"):
        run_bench(Bundle.open(), workload, BenchOptions(backends=("onnxruntime-cuda",)))


def test_hardware_names_no_machine() -> None:
    found = describe_hardware()
    assert {"cpu", "gpus", "packages", "usable_cores"} <= set(found)
    import platform

    assert platform.node() not in str(found)
