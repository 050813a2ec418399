"""Fixtures that tests of several packages share."""

import dataclasses
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

# Before any test imports onnxruntime, whose wheels report to their maker otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# And OpenVINO's do by this package, whose absence they take.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # "not there", to Python

if TYPE_CHECKING:
    import onnx
    from onnx import ModelProto

    from samus_edge.modeling import SamusHF
    from samus_edge.runtime import Segmenter
    from samus_edge.runtime.bundle.manifest import Manifest

FRAMES_DIR = Path(__file__).parent / "assets" / "frames"
EXAMPLES_DIR = Path(__file__).parents[1] / "examples"
EXAMPLE_BOXES: dict[str, list[int]] = json.loads((EXAMPLES_DIR / "prompts.json").read_text())
"""The lesions of the example images, XYXY in pixels."""


SLOW_FILES = (
    *("test_ablate.py", "test_bench.py", "test_bundle_calibration.py", "test_convert.py"),
    *("test_cpp_example.py", "test_engine_build.py", "test_engine_precisions.py"),
    *("test_examples.py", "test_export.py", "test_file_memory.py", "test_finetune.py"),
    *("test_foreign_checkpoints.py", "test_gpu_script.py", "test_killed_export.py"),
    *("test_objective.py", "test_openvino_backend.py", "test_packaging.py", "test_page.py"),
    *("test_resume.py", "test_runtime_subject.py", "test_sam_profile.py", "test_simulated_gpu.py"),
    *("test_torch_graph.py", "test_train.py", "test_trainer.py"),
    *("test_triton_client.py", "test_triton_repository.py"),
)
"""They go first where processes share the suite, so that none is left with one at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slow files first, in the processes of pytest-xdist alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.name not in SLOW_FILES)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the suite's own: what the user has built there is not to be taken by "auto"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMUS_EDGE_CACHE", str(tmp_path_factory.getbasetemp() / "samus_edge_cache"))
        yield


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """A folder that the first of the suite's processes makes and all of them read."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / name
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            draft = base / f"{name}.draft"
            shutil.rmtree(draft, ignore_errors=True)  # of a process that failed
            make(draft)
            draft.rename(folder)
    return folder


@pytest.fixture(scope="session")
def openvino_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache where the default bundle is prepared for two threads; do not change it.

    It is empty where OpenVINO is not installed. What is prepared in the suite's own cache instead
    would be taken by "auto" in later tests.
    """
    from samus_edge.runtime import Segmenter
    from samus_edge.runtime.backends.openvino_backend import OpenVinoBackend
    from samus_edge.runtime.bundle.bundle import Bundle

    def prepare(folder: Path) -> None:
        folder.mkdir()
        if importlib.util.find_spec("openvino") is not None:
            Segmenter(Bundle.open(), OpenVinoBackend(2, cache=folder)).close()

    return made_once(tmp_path_factory, "openvino_cache", prepare)


def read_example(name: str) -> npt.NDArray[np.uint8]:
    """An example image, or its mask, (H, W), uint8."""
    image = cv2.imread(str(EXAMPLES_DIR / name), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return image.astype(np.uint8)


@dataclass(frozen=True)
class AssetFrame:
    """A small real ultrasound frame of `tests/assets/frames`."""

    name: str
    """File name; ends in width x height."""
    image: npt.NDArray[np.uint8]
    """(H, W), uint8."""
    box: npt.NDArray[np.float32]
    """(4,), float32: the lesion, XYXY in pixels of the frame."""


@pytest.fixture(scope="session")
def asset_frames() -> list[AssetFrame]:
    """Twenty real frames of different sizes and shapes, largest first."""
    frames = []
    for record in json.loads((FRAMES_DIR / "frames.json").read_text(encoding="utf-8")):
        image = cv2.imread(str(FRAMES_DIR / record["file"]), cv2.IMREAD_GRAYSCALE)
        assert image is not None, record["file"]
        box = np.array(record["box"], dtype=np.float32)
        frames.append(AssetFrame(record["file"], image.astype(np.uint8), box))
    return frames


@pytest.fixture(scope="session")
def segment_anything_modeling() -> Iterator[types.ModuleType]:
    """Meta's `segment_anything.modeling` (PromptEncoder, MaskDecoder, TwoWayTransformer, ...).

    `segment_anything/__init__.py` imports the predictor and with it torchvision, whose published
    wheels refuse to load beside a CPU build of torch. `modeling` needs torch alone, so it is
    imported under a parent package whose `__init__.py` has not run.
    """
    spec = importlib.util.find_spec("segment_anything")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("segment-anything is not installed: pip install --no-deps segment-anything")
    pytest.importorskip("torch", reason="torch is not installed: pip install 'samus-edge[train]'")
    parent = importlib.util.module_from_spec(
        importlib.machinery.ModuleSpec("segment_anything", loader=None, is_package=True)
    )
    parent.__path__ = list(spec.submodule_search_locations)
    sys.modules["segment_anything"] = parent
    try:
        yield importlib.import_module("segment_anything.modeling")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "segment_anything"]:
            del sys.modules[name]


@pytest.fixture(scope="session")
def lite_medsam_checkpoint() -> Path:
    """LiteMedSAM's checkpoint; skips where its package is not installed."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'samus-edge[train]'")
    from samus_edge.errors import MissingExtraError
    from samus_edge.weights.foreign_checkpoints import default_checkpoint

    try:
        return default_checkpoint()
    except MissingExtraError as err:
        pytest.skip(str(err))


@pytest.fixture
def fake_busi(tmp_path: Path) -> Path:
    """A folder in BUSI's layout with its oddities; every lesion is a rectangle.

    | case | image (W x H) | lesions, rows and columns |
    | --- | --- | --- |
    | benign (1) | 80x60 grey | 10:30, 20:60 |
    | benign (2) | 80x60 grey | 10:30, 20:60 and 40:50, 5:25 in an RGBA mask |
    | benign (10) | 81x61 grey | 10:30, 20:60 |
    | malignant (1) | 50x70 colour, a red calliper | 20:60, 10:40 |
    | malignant (2) | 64x64 grey | 8:24, 8:24 and an empty second mask |
    | normal (1) | 80x60 grey | an empty RGB mask |
    """
    root = tmp_path / "Dataset_BUSI_with_GT"
    rng = np.random.default_rng(0)

    def image(hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        return rng.integers(1, 255, hw, dtype=np.uint8)

    def mask(hw: tuple[int, int], rows: slice, columns: slice) -> npt.NDArray[np.uint8]:
        drawn = np.zeros(hw, dtype=np.uint8)
        drawn[rows, columns] = 255
        return drawn

    colour = cv2.cvtColor(image((70, 50)), cv2.COLOR_GRAY2BGR)
    colour[5, 5] = (0, 0, 255)  # BGR
    rgba = cv2.cvtColor(mask((60, 80), slice(40, 50), slice(5, 25)), cv2.COLOR_GRAY2BGRA)
    lesion = mask((60, 80), slice(10, 30), slice(20, 60))
    files = {
        "benign/benign (1).png": image((60, 80)),
        "benign/benign (1)_mask.png": lesion,
        "benign/benign (2).png": image((60, 80)),
        "benign/benign (2)_mask.png": lesion,
        "benign/benign (2)_mask_1.png": rgba,
        "benign/benign (10).png": image((61, 81)),
        "benign/benign (10)_mask.png": mask((61, 81), slice(10, 30), slice(20, 60)),
        "malignant/malignant (1).png": colour,
        "malignant/malignant (1)_mask.png": mask((70, 50), slice(20, 60), slice(10, 40)),
        "malignant/malignant (2).png": image((64, 64)),
        "malignant/malignant (2)_mask.png": mask((64, 64), slice(8, 24), slice(8, 24)),
        "malignant/malignant (2)_mask_1.png": np.zeros((64, 64), dtype=np.uint8),
        "normal/normal (1).png": image((60, 80)),
        "normal/normal (1)_mask.png": np.zeros((60, 80, 3), dtype=np.uint8),
    }
    for name, pixels in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)
    return root


@pytest.fixture
def fake_split(fake_busi: Path) -> Path:
    """A split file for `fake_busi`: lesion images 2 for training, 1 for validation, 2 to test."""
    split = {
        "train": ["benign/benign (1)", "benign/benign (10)", "normal/normal (1)"],
        "val": ["malignant/malignant (2)"],
        "test": ["benign/benign (2)", "malignant/malignant (1)"],
        "groups": {"benign/benign (1)": 0, "benign/benign (10)": 0, "benign/benign (2)": 1},
    }
    path = fake_busi.parent / "split.json"
    path.write_text(json.dumps(split), encoding="utf-8")
    return path


@pytest.fixture
def fake_folders(tmp_path: Path) -> Path:
    """A folder of images/ and masks/, 50x40 pixels each; every lesion is a rectangle.

    | case | image | masks |
    | --- | --- | --- |
    | case_2 | PNG | PNG and, for a second lesion, BMP |
    | case_10 | JPEG | TIFF |
    | scan_1 | PNG | PNG |
    | cyst/c1 | PNG in a class folder | PNG |
    | normal/n1 | PNG in the class folder of images without a lesion | none |
    """
    root = tmp_path / "folders"
    rng = np.random.default_rng(1)
    masks = ("case_2.png", "case_2_1.bmp", "case_10.tif", "scan_1.png", "cyst/c1.png")
    images = ("case_2.png", "case_10.JPG", "scan_1.png", "cyst/c1.png", "normal/n1.png")
    for name in (*(f"images/{name}" for name in images), *(f"masks/{name}" for name in masks)):
        pixels = np.zeros((40, 50), dtype=np.uint8)
        if name.startswith("images/"):
            pixels = rng.integers(1, 255, pixels.shape, dtype=np.uint8)
        else:
            top = 5 if name.endswith(".png") else 22
            pixels[top : top + 12, 8:30] = 255
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / name), pixels)
    return root


@pytest.fixture
def fake_us30k(tmp_path: Path) -> Path:
    """A folder in US30K's layout, 32x24 pixels each, as SAMUS's example folder has it.

    | dataset | classes | label maps |
    | --- | --- | --- |
    | Breast | 2, with the background | b1 to b3 hold 0 and 255 |
    | Echo | 4 | e1 to e3 hold 0, 1 and 2 |
    """
    root = tmp_path / "US30K"
    rng = np.random.default_rng(2)
    for dataset, names in (("Breast", ("b1", "b2", "b3")), ("Echo", ("e1", "e2", "e3"))):
        for folder in ("img", "label"):
            (root / dataset / folder).mkdir(parents=True)
        for name in names:
            label = np.zeros((24, 32), dtype=np.uint8)
            label[4:12, 5:15] = 255 if dataset == "Breast" else 1
            if dataset == "Echo":
                label[14:20, 8:28] = 2
            image = rng.integers(0, 255, label.shape, dtype=np.uint8)
            assert cv2.imwrite(str(root / dataset / "img" / f"{name}.png"), image)
            assert cv2.imwrite(str(root / dataset / "label" / f"{name}.png"), label)
    files = {
        "class.json": '{"Breast": 2, "Echo": 4}',
        "train.txt": "1/Breast/b1\n1/Echo/e1\n2/Echo/e1\n",
        "val.txt": "1/Breast/b2\n1/Echo/e2",
        "test.txt": "Breast/b3\r\n1/Echo/e3\r\n",
        "train-Breast.txt": "1/Breast/b1",
        "test-Breast.txt": "Breast/b3",
    }
    (root / "MainPatient").mkdir()
    for name, content in files.items():
        (root / "MainPatient" / name).write_text(content, encoding="utf-8", newline="")
    return root


@pytest.fixture(scope="session")
def busi_root() -> Path:
    """The real `Dataset_BUSI_with_GT`, from SAMUS_EDGE_BUSI; skips without it."""
    default = Path(__file__).parents[2] / "shared" / "data" / "Dataset_BUSI_with_GT"
    root = Path(os.environ.get("SAMUS_EDGE_BUSI", default))
    if not root.is_dir():
        pytest.skip(
            f"needs BUSI, which is not in {root}: "
            "set SAMUS_EDGE_BUSI to the folder Dataset_BUSI_with_GT"
        )
    return root


@pytest.fixture(scope="session")
def busi_split(busi_root: Path) -> Path:
    """The split file beside the real dataset; skips without it."""
    path = busi_root.resolve().parent / "busi_split_v1.json"
    if not path.is_file():
        pytest.skip(f"needs the split of BUSI: {path} does not exist")
    return path


@pytest.fixture(scope="session")
def random_model() -> "SamusHF":
    """The tiny architecture with random weights, in evaluation mode; do not change it.

    No tensor is left constant, as after a training: fresh projections and gates that are zero would
    hide what is behind them. The running variances stay positive. Two biases that are added to each
    other have the same gradient and are equal, as after a training.
    """
    torch = pytest.importorskip(
        "torch", reason="torch is not installed: pip install 'samus-edge[export]'"
    )
    from samus_edge.modeling import samus_hf_tiny

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = samus_hf_tiny(proposer=True)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                tensor += 0.02 * torch.randn_like(tensor)
        skips = model.image_encoder
        skips.get_parameter("skip_cnn.bias").copy_(skips.get_parameter("skip1.bias"))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def shipped_random_model(random_model: "SamusHF") -> "SamusHF":
    """What `random_bundle` computes: normalisation folded, weights rounded."""
    from samus_edge.export.bundle_writer import shipped_model

    return shipped_model(random_model)


@pytest.fixture(scope="session")
def exported_graphs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, "ModelProto"]:
    """The graphs of `random_model` from the exporter: the suite's one export of a `tiny`."""
    onnx = pytest.importorskip(
        "onnx", reason="onnx is not installed: pip install 'samus-edge[export]'"
    )
    from samus_edge.export import torch_graph

    def export(folder: Path) -> None:
        model = request.getfixturevalue("shipped_random_model")
        folder.mkdir()
        for name in ("image_encoder_graph", "mask_decoder_graph", "lesion_proposer_graph"):
            graph = getattr(torch_graph, name)(model, opset=torch_graph.DEFAULT_OPSET)
            onnx.save(graph, folder / f"{name}.onnx")

    folder = made_once(tmp_path_factory, "exported_graphs", export)
    return {path.stem: onnx.load(path) for path in folder.iterdir()}


def spare_export(
    patch: pytest.MonkeyPatch, module: object, graphs: "dict[str, ModelProto]"
) -> None:
    """Let a module of the exporter take graphs that are at hand: an export takes 16 seconds."""
    from onnx import ModelProto

    from samus_edge.export.torch_graph import DEFAULT_OPSET

    def copied(graph: ModelProto) -> Callable[..., ModelProto]:
        def build(model: object, *, opset: int) -> ModelProto:
            assert opset == DEFAULT_OPSET
            copy = ModelProto()
            copy.CopyFrom(graph)
            return copy

        return build

    for name, graph in graphs.items():
        patch.setattr(module, name, copied(graph))


@pytest.fixture
def spared_export(
    exported_graphs: dict[str, "ModelProto"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lets `write_bundle` start from `exported_graphs`."""
    from samus_edge.export import bundle_writer

    spare_export(monkeypatch, bundle_writer, exported_graphs)


@pytest.fixture(scope="session")
def random_bundle(
    random_model: "SamusHF",
    exported_graphs: dict[str, "ModelProto"],
    tmp_path_factory: pytest.TempPathFactory,
    asset_frames: list[AssetFrame],
) -> Path:
    """A bundle that the exporter wrote from `random_model`; do not change it."""
    from samus_edge.export import bundle_writer

    def write(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            spare_export(patch, bundle_writer, exported_graphs)
            bundle_writer.write_bundle(
                random_model,
                folder,
                text=bundle_writer.BundleText("random-weights"),
                weights_sha256="0" * 64,
                frames=[frame.image for frame in asset_frames[-2:]],
            )

    return made_once(tmp_path_factory, "random_bundle", write)


@dataclass(frozen=True)
class DiscPrecision:
    """How a further precision of the disc bundle differs from its reference."""

    logit_shift: float = 0.0
    """Added to all logits, and so to the discs' radii in pixels of 256; NaN for NaN everywhere."""
    iou_shift: float = 0.0
    """Added to the predicted IoU."""
    embedding_divisor: float = 1.0
    """Of the embeddings; NaN for NaN everywhere."""
    runs: bool = True
    """Whether ONNX Runtime knows all operators of the mask decoder."""


@pytest.fixture(scope="session")
def make_precision() -> type[DiscPrecision]:
    """`DiscPrecision`."""
    return DiscPrecision


@pytest.fixture
def disc_precisions(tmp_path: Path) -> Callable[[dict[str, DiscPrecision]], Path]:
    """Writes the disc bundle of `tests/discs.py` with further precisions.

    The reference draws discs of radius 40 + 10 * mean grey / 255, pixels of the 256 x 256 frame;
    its recorded parity with PyTorch is within the limits.
    """
    import onnx
    from onnx import numpy_helper

    from samus_edge.runtime.bundle.manifest import MANIFEST_FILE, GraphSelection, Manifest
    from tests import discs

    def changed(graph: "onnx.GraphProto", name: str, constant: str, by: float) -> None:
        graph.name = name
        (item,) = (item for item in graph.initializer if item.name == constant)
        values = numpy_helper.to_array(item)
        values = values * by if constant == "white" else values + by
        item.CopyFrom(numpy_helper.from_array(values.astype(np.float32), constant))

    def write(precisions: dict[str, DiscPrecision]) -> Path:
        graphs, selections = [discs.mean_grey_encoder(), discs.disc_decoder()], {}
        for name, change in precisions.items():
            encoder, decoder = discs.mean_grey_encoder(), discs.disc_decoder()
            names = f"image_encoder.{name}", f"mask_decoder.{name}"
            changed(encoder, names[0], "white", change.embedding_divisor)
            changed(decoder, names[1], "radii", change.logit_shift)
            changed(decoder, names[1], "tenths", change.iou_shift)
            graphs += [encoder, decoder]
            selections[name] = GraphSelection(*names)
        folder: Path = discs.save_bundle(tmp_path / "discs", graphs)
        manifest = Manifest.read(folder / MANIFEST_FILE)
        records = dict(manifest.graphs)
        for name, change in precisions.items():
            if not change.runs:
                record = records[f"mask_decoder.{name}"]
                model = onnx.load(str(folder / record.file))
                model.opset_import.append(onnx.helper.make_opsetid("unknown", 1))
                model.graph.node[0].domain = "unknown"
                content = model.SerializeToString()
                (folder / record.file).write_bytes(content)
                sha256 = hashlib.sha256(content).hexdigest()
                records[f"mask_decoder.{name}"] = dataclasses.replace(
                    record, sha256=sha256, size_bytes=len(content)
                )
        dataclasses.replace(
            manifest,
            graphs=records,
            precisions=selections,
            parity={"max_abs_logit_error": 1e-4, "min_mask_iou": 0.9999},
            accuracy={},
        ).write(folder / MANIFEST_FILE)
        return folder

    return write


@pytest.fixture
def disc_lesions(tmp_path: Path) -> Path:
    """Folders images/ and masks/ with split.json beside them; every lesion is a disc of radius 42.

    Frames are 256 x 256 of grey level 51, so the reference of `disc_precisions` draws such discs.

    | case | subset | centres (x, y) |
    | --- | --- | --- |
    | one | val | (128, 128) |
    | two | val | (80, 80) and, in a second file, (170, 170) |
    | three | test | (128, 128) |
    """
    root = tmp_path / "lesions"
    rows, columns = np.mgrid[0:256, 0:256]
    centres = {"one": 128, "two": 80, "two_1": 170, "three": 128}
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name, centre in centres.items():
        mask = (np.hypot(rows - centre, columns - centre) < 42).astype(np.uint8) * 255
        assert cv2.imwrite(str(root / "masks" / f"{name}.png"), mask)
    for name in ("one", "two", "three"):
        assert cv2.imwrite(str(root / "images" / f"{name}.png"), np.full((256, 256), 51, np.uint8))
    split = {"train": [], "val": ["one", "two"], "test": ["three"]}
    (tmp_path / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def disc_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle of `mean_grey_encoder` and `disc_decoder`; do not change it."""
    folder = tmp_path_factory.mktemp("bundles") / "discs"
    from tests.discs import disc_decoder, mean_grey_encoder, save_bundle

    return save_bundle(folder, [mean_grey_encoder(), disc_decoder()])


@pytest.fixture
def disc_bundle_copy(disc_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `disc_bundle` to be damaged."""
    return Path(shutil.copytree(disc_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def disc_manifest(disc_bundle: Path) -> "Manifest":
    """The manifest of `disc_bundle`."""
    from samus_edge.runtime.bundle.bundle import Bundle

    return Bundle.open(disc_bundle).manifest


@pytest.fixture(scope="session")
def disc_segmenter(disc_bundle: Path) -> "Segmenter":
    """A segmenter on `disc_bundle`; do not close it."""
    from samus_edge.runtime import Segmenter

    return Segmenter.load(disc_bundle, threads=1)


@pytest.fixture
def make_bundle(tmp_path: Path) -> "Callable[[list[onnx.GraphProto]], Path]":
    """Writes a bundle of other graphs and gives its folder."""
    from tests.discs import save_bundle

    return lambda graphs: save_bundle(tmp_path / "made", graphs)


@pytest.fixture
def disc_graphs() -> "list[onnx.GraphProto]":
    """The graphs of `disc_bundle`, to be changed and given to `make_bundle`."""
    from tests.discs import disc_decoder, mean_grey_encoder

    return [mean_grey_encoder(), disc_decoder()]
