"""What a machine says of itself."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from samus_edge.errors import BackendError, BundleError, install_command
from samus_edge.jobs import doctor as diagnosis
from samus_edge.jobs.doctor import (
    PACKAGES,
    Diagnosis,
    Finding,
    Jetson,
    diagnose,
    find_jetson,
    how_to_get,
    package_versions,
)
from samus_edge.runtime.backends.backend import cpu_features, cpu_model
from samus_edge.runtime.backends.gpu.device import GpuInfo
from samus_edge.runtime.backends.tensorrt.tensorrt_library import TensorRTLibrary
from samus_edge.runtime.bundle.bundle import Bundle

_X86 = """processor\t: 0
model name\t: Example CPU @ 3.00GHz
flags\t\t: fpu sse2 avx2 avx512_vnni avx512f
"""
_ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm sve
CPU part\t: 0xd42
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system without anything but an empty /proc."""
    (tmp_path / "proc").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("cpuinfo", "model", "features"),
    [
        (_X86, "Example CPU @ 3.00GHz", ("avx2", "avx512f", "avx512_vnni")),
        (_ARM, "", ("asimddp", "i8mm", "sve")),
        (None, "", ()),
    ],
    ids=["x86", "arm", "no cpuinfo"],
)
def test_a_processor(
    root: Path, cpuinfo: str | None, model: str, features: tuple[str, ...]
) -> None:
    if cpuinfo is not None:
        (root / "proc" / "cpuinfo").write_text(cpuinfo)
    assert cpu_model(root) == model or (not model and cpu_model(root))
    assert cpu_features(root) == features


def test_versions_are_those_that_are_imported() -> None:
    versions = package_versions()
    assert tuple(versions) == PACKAGES
    assert versions["numpy"] == np.__version__
    assert versions["onnxruntime-gpu"] is None


_RELEASE = "# R{major} (release), REVISION: {minor}, GCID: 38968081, BOARD: generic, EABI: aarch64"


def _write(root: Path, release: str | None, model: str | None) -> None:
    if release is not None:
        (root / "etc").mkdir()
        (root / "etc" / "nv_tegra_release").write_text(release)
    if model is not None:
        (root / "proc" / "device-tree").mkdir(parents=True)
        (root / "proc" / "device-tree" / "model").write_bytes(model.encode() + b"\0")


ORIN, THOR = "NVIDIA Jetson Orin NX", "NVIDIA Jetson AGX Thor Developer Kit"


@pytest.mark.parametrize(
    ("release", "model", "expected"),
    [
        (("35", "4.1"), ORIN, Jetson(ORIN, "35.4.1", 5, "")),
        (("36", "4.3"), ORIN, Jetson(ORIN, "36.4.3", 6, "")),
        (("38", "2.0"), THOR, Jetson(THOR, "38.2.0", 7, "")),
        (("39", "0.0"), THOR, Jetson(THOR, "39.0.0", 7, "")),
        (("32", "7.1"), ORIN, Jetson(ORIN, "32.7.1", None, "")),
        (None, THOR, Jetson(THOR, "", None, "")),  # a container without the release file
        (None, "Raspberry Pi 5 Model B Rev 1.0", None),
        (None, None, None),
    ],
)
def test_a_jetson_is_known_by_its_release_or_its_device_tree(
    tmp_path: Path, release: tuple[str, str] | None, model: str | None, expected: Jetson | None
) -> None:
    text = None if release is None else _RELEASE.format(major=release[0], minor=release[1])
    _write(tmp_path, text, model)
    assert find_jetson(tmp_path) == expected


@pytest.mark.parametrize(
    ("driver", "cuda", "tensorrt"),
    [
        ("12.8", "'cuda-python>=12.6,<13'", "tensorrt-cu12 "),
        ("13.0", install_command("cuda"), "samus-edge[tensorrt]"),
        (None, install_command("cuda"), "samus-edge[tensorrt]"),
    ],
)
def test_commands_are_for_the_cuda_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, cuda: str, tensorrt: str
) -> None:
    monkeypatch.setattr(diagnosis, "driver_cuda_version", lambda: driver)
    assert cuda in how_to_get("cuda", None)
    assert tensorrt in how_to_get("tensorrt", None)
    assert how_to_get("dicom", None) == install_command("dicom")


def test_commands_differ_by_platform() -> None:
    orin = {jetpack: Jetson("NVIDIA Jetson Orin", "", jetpack, "") for jetpack in (5, 6, 7, None)}
    assert how_to_get("cuda", None) == how_to_get("cuda", orin[7]) == install_command("cuda")
    assert how_to_get("dicom", orin[6]) == install_command("dicom")
    assert "'cuda-python>=12.6,<13'" in how_to_get("cuda", orin[6])
    assert "to JetPack 7.2" in how_to_get("tensorrt", orin[5])
    assert "to JetPack 7.2" in how_to_get("tensorrt", orin[6])
    assert how_to_get("tensorrt", orin[None]) == how_to_get("tensorrt", orin[7])
    assert "--runtime nvidia" in how_to_get("driver", orin[7])


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


def _one(found: Diagnosis, topic: str) -> Finding:
    (only,) = (finding for finding in found.findings if finding.topic == topic)
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
    document = json.loads(json.dumps(found.to_json()))
    backends = document["backends"]
    assert (document["auto"], document["jetson"]) == ("onnxruntime", None)
    assert backends["onnxruntime"]["works"] and backends["onnxruntime"]["milliseconds"] > 0
    assert not backends["tensorrt"]["works"]
    assert document["bundle"]["name"] == Bundle.open().manifest.name
    assert {finding["level"] for finding in document["findings"]} <= {"ok", "note", "problem"}
    assert document["memory_bytes"] % os.sysconf("SC_PAGE_SIZE") == 0
    assert document["memory_bytes"] > 1 << 28


@pytest.mark.usefixtures("on_cpu")
def test_a_jetson_gets_its_own_commands(tmp_path: Path) -> None:
    _write(tmp_path, _RELEASE.format(major=36, minor="4.3"), None)
    found = diagnose(root=tmp_path, cache=tmp_path / "engines")
    assert _one(found, "jetson").level == "ok"
    assert "JetPack 6" in _one(found, "jetson").text
    assert "JetPack 7.2" in _one(found, "tensorrt").remedy
    assert "--runtime nvidia" in _one(found, "gpu").remedy


@pytest.mark.usefixtures("on_cpu")
def test_jetpack_5_is_told_to_update(tmp_path: Path) -> None:
    _write(tmp_path, _RELEASE.format(major=35, minor="4.1"), None)
    found = _one(diagnose(root=tmp_path, cache=tmp_path / "engines"), "jetson")
    assert (found.level, "to JetPack 7.2" in found.remedy) == ("note", True)


@pytest.mark.usefixtures("on_cpu")
def test_two_packages_of_one_module_are_a_problem(tmp_path: Path, patch: Patch) -> None:
    patch(package_versions=lambda: {**package_versions(), "onnxruntime-gpu": "1.31.1"})
    found = diagnose(cache=tmp_path)
    assert found.has_problem
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in _one(found, "packages").remedy


BROKEN = "raise ImportError('libGL.so.1: cannot open shared object file')"


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("module", "content", "said", "remedy"),
    [
        ("cv2", BROKEN, "opencv-python-headless does not load: ImportError: libGL.so.1", "pip"),
        ("cv2", "", "no attribute 'distanceTransform'", "; pip install opencv-python-headless"),
        ("onnxruntime", BROKEN, "onnxruntime does not load: ImportError", "reinstall onnxruntime"),
        ("onnxruntime", "", "onnxruntime does not load: ", "reinstall onnxruntime"),
        ("PIL", "raise OSError('no libjpeg')", "Pillow does not load: OSError", "reinstall Pillow"),
    ],
)
def test_a_package_that_does_not_load_is_named_and_the_rest_is_looked_at(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    content: str,
    said: str,
    remedy: str,
) -> None:
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    # What is loaded already comes back after the test.
    forgotten = [name for name in sys.modules if name.partition(".")[0] == module]
    if module == "onnxruntime":
        forgotten.append("samus_edge.runtime.backends.onnxruntime_backend")
    for name in forgotten:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = diagnose(cache=tmp_path / "engines")
    assert found.has_problem
    problem = _one(found, "packages")
    assert (said in problem.text, remedy in problem.remedy) == (True, True)
    assert _one(found, "bundle").level == "ok"
    assert "backends" not in found.facts  # nothing could segment
    assert json.dumps(found.to_json())


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
    assert _one(diagnose(cache=tmp_path), "gpu").remedy == install_command("cuda")


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
