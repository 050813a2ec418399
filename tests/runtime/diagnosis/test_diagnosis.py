"""The diagnosis of a machine and its installation, on real and on faked machines."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.diagnosis import diagnosis
from samus_edge.runtime.diagnosis.diagnosis import Diagnosis, Finding, diagnose
from samus_edge.runtime.diagnosis.host_facts import package_versions
from samus_edge.runtime.gpu.device import GpuInfo
from samus_edge.runtime.tensorrt.tensorrt_library import TensorRTLibrary

Patch = Callable[..., None]


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Replaces what the diagnosis looks at, by name."""

    def replace(**parts: object) -> None:
        for name, part in parts.items():
            monkeypatch.setattr(diagnosis, name, part)

    return replace


@pytest.fixture
def on_cpu(patch: Patch) -> None:
    """A machine without a GPU, its driver or TensorRT."""

    def no_gpu() -> None:
        raise BackendError("no binding")

    def no_tensorrt(flavour: str) -> None:
        raise BackendError(f"{flavour} is not installed")

    patch(list_gpus=no_gpu, find_tensorrt=no_tensorrt, has_nvidia_driver=lambda: False)


def _one(found: Diagnosis, topic: str, level: str | None = None) -> Finding:
    (only,) = (
        finding
        for finding in found.findings
        if finding.topic == topic and (level is None or finding.level == level)
    )
    return only


@pytest.mark.usefixtures("on_cpu")
def test_a_machine_without_a_gpu_is_no_problem(tmp_path: Path) -> None:
    found = diagnose(cache=tmp_path / "engines")
    assert not found.has_problem
    assert _one(found, "gpu").level == "note"
    assert "ubuntu-drivers" in _one(found, "gpu").remedy
    assert "samus-edge[tensorrt]" in _one(found, "tensorrt").remedy
    assert _one(found, "auto").text == "takes onnxruntime"
    assert _one(found, "engines").text == f"0 in {tmp_path / 'engines'}"
    assert not (tmp_path / "engines").exists()  # a diagnosis changes nothing


@pytest.mark.usefixtures("on_cpu")
def test_facts_are_plain_values(tmp_path: Path) -> None:
    document = json.loads(json.dumps(diagnose(cache=tmp_path).to_json()))
    assert document["auto"] == "onnxruntime"
    assert document["backends"]["onnxruntime"]["works"] is True
    assert document["backends"]["onnxruntime"]["milliseconds"] > 0
    assert document["backends"]["tensorrt"]["works"] is False
    assert document["bundle"]["name"] == Bundle.open().manifest.name
    assert document["jetson"] is None
    assert {finding["level"] for finding in document["findings"]} <= set(diagnosis.LEVELS)


@pytest.mark.usefixtures("on_cpu")
def test_a_jetson_gets_its_own_commands(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1")
    found = diagnose(root=tmp_path, cache=tmp_path / "engines")
    assert _one(found, "jetson").level == "ok"
    assert "JetPack 6" in _one(found, "jetson").text
    assert "python3-libnvinfer" in _one(found, "tensorrt").remedy
    assert "--runtime nvidia" in _one(found, "gpu").remedy


@pytest.mark.usefixtures("on_cpu")
def test_jetpack_5_is_told_to_update(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R35 (release), REVISION: 4.1, GCID: 1")
    found = _one(diagnose(root=tmp_path, cache=tmp_path / "engines"), "jetson")
    assert (found.level, "update to JetPack 6" in found.remedy) == ("note", True)


@pytest.mark.usefixtures("on_cpu")
def test_two_packages_of_one_module_are_a_problem(tmp_path: Path, patch: Patch) -> None:
    patch(package_versions=lambda: {**package_versions(), "onnxruntime-gpu": "1.31.1"})
    found = diagnose(cache=tmp_path)
    assert found.has_problem
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in _one(found, "packages").remedy


@pytest.mark.usefixtures("on_cpu")
def test_a_changed_bundle_is_a_problem(tmp_path: Path, patch: Patch) -> None:
    class Changed:
        @staticmethod
        def open() -> None:
            raise BundleError("image_encoder.onnx has another hash")

    patch(Bundle=Changed)
    found = diagnose(cache=tmp_path)
    assert found.has_problem
    assert _one(found, "bundle").remedy == "pip install --force-reinstall samus-edge"
    assert found.facts["bundle"] is None
    assert "backends" not in found.facts


@pytest.mark.usefixtures("on_cpu")
def test_a_read_only_cache_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Answered for the process, because root may write into any folder.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    found = _one(diagnose(cache=tmp_path), "engines")
    assert found.level == "note"
    assert "SAMUS_EDGE_CACHE" in found.remedy


@pytest.mark.usefixtures("on_cpu")
def test_a_driver_without_a_binding_names_the_binding(tmp_path: Path, patch: Patch) -> None:
    patch(has_nvidia_driver=lambda: True)
    assert _one(diagnose(cache=tmp_path), "gpu").remedy == "pip install 'samus-edge[cuda]'"


@pytest.mark.usefixtures("on_cpu")
def test_a_gpu_that_nothing_uses_is_noted_with_commands(tmp_path: Path, patch: Patch) -> None:
    gpu = GpuInfo(0, "Example GPU", "8.6", 8 << 30, "12.8", 20, 1_200_000)
    patch(list_gpus=lambda: [gpu])
    found = diagnose(cache=tmp_path)
    assert "Example GPU, compute capability 8.6, 8.6 GB" in _one(found, "gpu").text
    assert "onnxruntime-gpu" in _one(found, "onnxruntime-cuda").remedy
    assert not found.has_problem  # the CPU does the work


@pytest.mark.parametrize(("has_gpu", "level"), [(True, "problem"), (False, "note")])
@pytest.mark.usefixtures("on_cpu")
def test_a_version_that_computes_wrong_results_is_named(
    tmp_path: Path, patch: Patch, has_gpu: bool, level: str
) -> None:
    def find(flavour: str) -> TensorRTLibrary:
        if flavour != "tensorrt":
            raise BackendError("not installed")
        return TensorRTLibrary(
            flavour="tensorrt", module=ModuleType("tensorrt"), version="10.3.0.30"
        )

    patch(find_tensorrt=find)
    if has_gpu:
        patch(list_gpus=lambda: [GpuInfo(0, "Orin", "8.7", 8 << 30, "12.6", 8, 918_000)])
    problems = [f for f in diagnose(cache=tmp_path).findings if "10.3" in f.text]
    assert [f.level for f in problems if f.topic == "tensorrt"] == [level]
