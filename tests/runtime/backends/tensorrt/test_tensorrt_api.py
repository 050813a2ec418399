"""Every name of TensorRT that the backend uses is one of TensorRT 10, 11 and RTX.

The bindings install without the library, which they load: here a stub of it, since none of it is
called. `make test` installs them into a folder of their own, where nothing else finds them.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from samus_edge.runtime.backends.tensorrt import tensorrt_engine

BACKEND = Path(tensorrt_engine.__file__).parent
BINDINGS = Path(sys.prefix) / "tensorrt-bindings"

# What TensorRT's objects are called in our modules.
OBJECTS = {
    "engine_build.py": {
        "builder": "Builder",
        "config": "IBuilderConfig",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "error": "ParserError",
        "tensor": "ITensor",
        "made": "IOptimizationProfile",
        "cache": "ITimingCache",
    },
    "tensorrt_engine.py": {
        "self._runtime": "Runtime",
        "self._engine": "ICudaEngine",
        "engine": "ICudaEngine",
        "config": "IRuntimeConfig",
        "cache": "IRuntimeCache",
        "self._runtime_cache": "IRuntimeCache",
    },
    "tensorrt_context.py": {"self._context": "IExecutionContext", "context": "IExecutionContext"},
    "tensorrt_library.py": {"base": "ILogger"},
}
# Used only where it is there: `getattr` asks for it or for its class before.
OF_RTX = {
    "IBuilderConfig": {"num_compute_capabilities", "set_compute_capability"},
    "IRuntimeConfig": {
        "create_runtime_cache",
        "dynamic_shapes_kernel_specialization_strategy",
        "set_runtime_cache",
    },
    "IRuntimeCache": {"deserialize", "serialize"},
    "ICudaEngine": {"create_runtime_config"},
}
STUB = """
#define STUB(name) void *name(void) { return 0; }
STUB(createInferBuilder_INTERNAL) STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL) STUB(createNvOnnxParserRefitter_INTERNAL)
STUB(createNvOnnxParser_INTERNAL) STUB(getBuilderPluginRegistry) STUB(getPluginRegistry)
STUB(initLibNvInferPlugins) STUB(getNvOnnxParserVersion) STUB(getInferLibVersion)
"""
LIST_NAMES = """
import json, sys
import tensorrt_bindings as trt
print(json.dumps([trt.__version__, {name: dir(getattr(trt, name)) for name in dir(trt)}]))
"""


def _used_names() -> dict[str, set[str]]:
    """The attributes that our modules take of each class; of the module under ""."""
    used: dict[str, set[str]] = defaultdict(set)
    for path in BACKEND.glob("*.py"):
        objects = OBJECTS.get(path.name, {})
        seen: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            receiver = ast.unparse(node.value)
            if receiver == "trt":
                used[""].add(node.attr)
            elif receiver.startswith("trt."):
                used[receiver.removeprefix("trt.")].add(node.attr)
            elif receiver in objects and not node.attr.startswith("_"):
                seen.add(receiver)
                used[objects[receiver]].add(node.attr)
        assert seen == objects.keys(), f"{path.name} has no {objects.keys() - seen}"
    return used


def _missing(names: dict[str, list[str]], *, is_rtx: bool) -> list[str]:
    """What the backend uses of a TensorRT that has these names of each class, and it has not."""
    return [
        f"{kind or 'module'}.{name}"
        for kind, used in _used_names().items()
        for name in sorted(used - (set() if is_rtx else OF_RTX.get(kind, set())))
        if name not in (names if kind == "" else names.get(kind, ()))
    ]


@pytest.mark.parametrize("version", ["10.0", "10", "11"])
def test_tensorrt_has_every_name_that_is_used(tmp_path: Path, version: str) -> None:
    compiler, major = shutil.which("cc") or shutil.which("gcc"), version.split(".")[0]
    if not (BINDINGS / version).is_dir() or compiler is None:
        pytest.skip(f"needs TensorRT's bindings in {BINDINGS / version} (make test), and gcc")
    (tmp_path / "stub.c").write_text(STUB)
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        file = f"lib{library}.so.{major}"
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(tmp_path / file)]
        subprocess.run([compiler, *flags, str(tmp_path / "stub.c")], check=True)
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(BINDINGS / version)}
    done = subprocess.run(
        [sys.executable, "-c", LIST_NAMES],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, names = json.loads(done.stdout)
    assert f"{found}.".startswith(f"{version}.")
    assert _missing(names, is_rtx=False) == []
    # Without it no runtime config is asked for, and without one nothing of `OF_RTX`.
    assert "DynamicShapesKernelSpecializationStrategy" not in names


def test_tensorrt_rtx_has_every_name_that_is_used() -> None:
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'samus-edge[tensorrt-rtx]'"
    )
    assert _missing({name: dir(getattr(trt, name)) for name in dir(trt)}, is_rtx=True) == []
