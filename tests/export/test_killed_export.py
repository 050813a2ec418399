"""An export that is killed, wherever that happens, leaves nothing that looks finished."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import ModelProto

from samus_edge.modeling import SamusHF
from samus_edge.runtime.bundle.bundle import Bundle

# Exports again and again, each time in a child that is killed (SIGKILL) at its next change of the
# file system under the target's parent; prints a line of JSON for each.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import numpy as np, onnx, torch
from samus_edge.export import bundle_writer
from samus_edge.export.bundle_writer import BundleText, write_bundle
from samus_edge.modeling import samus_hf_tiny

torch.set_num_threads(1)
inputs, work, overwrite = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "overwrite"
model = samus_hf_tiny()
model.load_state_dict(torch.load(inputs / "model.pt", weights_only=True))
model.eval().requires_grad_(False)
for name in ("image_encoder_graph", "mask_decoder_graph"):
    graph = onnx.load(inputs / f"{name}.onnx")
    setattr(bundle_writer, name, lambda model, opset, graph=graph: graph)

frame = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
shipped = bundle_writer.shipped_model(model)
bundle_writer.shipped_model = lambda model: shipped
parity = bundle_writer.measure_parity(shipped, inputs / "old", [frame])
bundle_writer.measure_parity = lambda *arguments: parity  # is not what is killed here

def export(folder, overwrite):
    write_bundle(model, folder, text=BundleText("finished"), weights_sha256="0" * 64,
                 frames=[frame], overwrite=overwrite)

def kill_at(last, root):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event == "open":
            path, _, flags = arguments
            is_change = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path = arguments[0] if arguments else None
            is_change = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "ctypes.dlopen")
            path = str(root) if event == "ctypes.dlopen" else path
        if is_change and isinstance(path, (str, os.PathLike)) and str(path).startswith(str(root)):
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for step in range(1, 100):
    root = work / f"{step:02}"
    root.mkdir(parents=True)
    if overwrite:
        (root / "bundle").mkdir()
        for file in (inputs / "old").iterdir():
            (root / "bundle" / file.name).write_bytes(file.read_bytes())
    child = os.fork()
    if child == 0:
        kill_at(step, root)
        try:
            export(root / "bundle", overwrite)
        except BaseException as err:
            print(repr(err), file=sys.stderr, flush=True)
            os._exit(3)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([step, status]), flush=True)
    if status != -signal.SIGKILL:
        break
"""
MIN_STEPS = 10  # two folders, four files that are written and renamed


@pytest.fixture(scope="session")
def export_inputs(
    tmp_path_factory: pytest.TempPathFactory,
    random_model: SamusHF,
    random_bundle: Path,
    exported_graphs: dict[str, ModelProto],
) -> Path:
    """The model, its graphs and an older bundle as files, to be read by another process."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.save(random_model.state_dict(), folder / "model.pt")
    for name, graph in exported_graphs.items():
        onnx.save(graph, folder / f"{name}.onnx")
    (folder / "old").mkdir()
    for file in random_bundle.iterdir():
        (folder / "old" / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["new", "overwrite"])
def test_a_killed_export_leaves_nothing_that_looks_finished(
    export_inputs: Path, tmp_path: Path, kind: str
) -> None:
    command = [sys.executable, "-I", "-c", SCRIPT, str(export_inputs), str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert steps[-1][1] == 0, done.stderr  # the last was not killed any more
    assert len(steps) > MIN_STEPS
    for step, _ in steps:
        root = tmp_path / f"{step:02}"
        visible = [path.name for path in root.iterdir() if not path.name.startswith(".")]
        assert visible in ([["bundle"]] if kind == "overwrite" else [[], ["bundle"]])
        for name in visible:
            manifest = Bundle.open(root / name).manifest  # whole, hashes included
            assert manifest.name in ("finished", "random-weights")
            assert manifest.parity
        for file in root.glob(".*/**/manifest.json"):
            manifest_name = json.loads(file.read_text())["name"]
            is_measured = bool(json.loads(file.read_text())["parity"])
            assert is_measured or manifest_name == "unfinished export of finished"
    assert Bundle.open(root / "bundle").manifest.name == "finished"
    assert [path.name for path in root.iterdir()] == ["bundle"]
