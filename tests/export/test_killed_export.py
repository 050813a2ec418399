"""An export that is killed, wherever that happens, leaves nothing that looks finished."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import ModelProto

from samus_edge.modeling import SamusHF
from samus_edge.runtime.bundle.bundle import Bundle
from tests.export.conftest import killed_steps

SCRIPT = """
import numpy as np, onnx, torch
from samus_edge.export import bundle_writer
from samus_edge.export.bundle_writer import BundleText, write_bundle
from samus_edge.modeling import samus_hf_tiny

torch.set_num_threads(1)
work, inputs, overwrite = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "overwrite"
model = samus_hf_tiny(proposer=True)
model.load_state_dict(torch.load(inputs / "model.pt", weights_only=True))
model.eval().requires_grad_(False)
for name in ("image_encoder_graph", "mask_decoder_graph", "lesion_proposer_graph"):
    graph = onnx.load(inputs / f"{name}.onnx")
    setattr(bundle_writer, name, lambda model, opset, graph=graph: graph)
frame = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
shipped = bundle_writer.shipped_model(model)
parity = bundle_writer.measure_parity(shipped, inputs / "old", [frame])
bundle_writer.shipped_model = lambda model: shipped  # once is enough: neither writes
bundle_writer.measure_parity = lambda *arguments: parity

def export(root):
    write_bundle(model, root / "bundle", text=BundleText("finished"), weights_sha256="0" * 64,
                 frames=[frame], overwrite=overwrite)

def prepare(root):
    if overwrite:
        (root / "bundle").mkdir()
        for file in (inputs / "old").iterdir():
            (root / "bundle" / file.name).write_bytes(file.read_bytes())

kill_each_step(work, export, prepare)
"""
MIN_STEPS = 10  # two folders, five files that are written and renamed


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
    roots = killed_steps(SCRIPT, tmp_path, export_inputs, kind)
    assert len(roots) > MIN_STEPS
    for root in roots:
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
