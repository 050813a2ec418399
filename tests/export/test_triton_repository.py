"""A bundle as a Triton model repository: what Triton would read, and what the graphs compute."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2

from samus_edge.errors import (
    BackendError,
    BundleError,
    ExportMismatchError,
    OutputFileError,
    SamusEdgeError,
)
from samus_edge.export import triton_repository
from samus_edge.export.triton_repository import (
    TritonRepository,
    TritonSettings,
    batch_mask_decoder,
    write_triton_repository,
)
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE
from samus_edge.runtime.bundle.records import to_json
from samus_edge.runtime.prediction import mask_decoder_feeds
from samus_edge.runtime.prompts import check_prompts, decoder_prompts
from samus_edge.verification.comparison import check_served_graph
from tests.conftest import EXAMPLE_BOXES, read_example
from tests.export.conftest import Array, killed_steps, run_graph
from tests.stock_tools import TOOLS, assert_taken

MODELS = [
    f"{part}_{variant}"
    for part in ("image_encoder", "mask_decoder")
    for variant in ("onnx", "tensorrt")
]
# Triton's names of ONNX element types, from the table of datatypes in its documentation.
DATA_TYPES = {TensorProto.UINT8: "TYPE_UINT8", TensorProto.FLOAT: "TYPE_FP32"}

# Float32 and the same weights; batches may sum in another order. Logits reach about 30.
BATCH_TOLERANCE = 1e-4


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """The default bundle, to be changed."""
    folder = tmp_path / "bundle"
    shutil.copytree(Bundle.open().folder, folder)
    return folder


@pytest.fixture
def quick_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are not compared: for tests of files, which need not wait for that."""
    monkeypatch.setattr(triton_repository, "check_served_graph", lambda *arguments: 0.0)


def read_config(path: Path) -> Any:
    """A `config.pbtxt`, read with Triton's own message; an unknown field or value is an error."""
    return text_format.Parse(path.read_text(encoding="ascii"), model_config_pb2.ModelConfig())


def update_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a bundle's manifest."""
    document = json.loads((folder / MANIFEST_FILE).read_text())
    change(document)
    (folder / MANIFEST_FILE).write_text(json.dumps(document))


def problems_of(config: Any, graph: ModelProto) -> list[str]:
    """Where a configuration and its ONNX file disagree, by Triton's rules for ONNX Runtime.

    With batching the file's first axis varies and is left out of `dims`; the other axes are the
    same, -1 where they vary.
    """
    problems = []
    for kind, declared, values in (
        ("input", config.input, graph.graph.input),
        ("output", config.output, graph.graph.output),
    ):
        found = {
            value.name: (
                DATA_TYPES[value.type.tensor_type.elem_type],
                [size.dim_value or -1 for size in value.type.tensor_type.shape.dim],
            )
            for value in values
        }
        said = {
            item.name: (
                model_config_pb2.DataType.Name(item.data_type),
                ([-1] if config.max_batch_size > 0 else []) + list(item.dims),
            )
            for item in declared
        }
        if found != said:
            problems.append(f"{kind}: the file has {found}, the configuration {said}")
    return problems


@pytest.mark.parametrize("name", MODELS)
def test_configuration_is_valid_and_fits_the_graph(repository: TritonRepository, name: str) -> None:
    config = read_config(repository.configs[name])
    assert config.name == name == repository.configs[name].parent.name
    assert config.backend == "onnxruntime"
    assert config.default_model_filename == repository.graphs[name].name
    assert list(config.version_policy.specific.versions) == [1]
    assert repository.graphs[name].parent.name == "1"
    assert config.max_batch_size == (8 if "encoder" in name else 32)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    preferred = list(config.dynamic_batching.preferred_batch_size)
    assert preferred == ([] if name.endswith("onnx") else [4, config.max_batch_size])
    (group,) = config.instance_group
    kinds = model_config_pb2.ModelInstanceGroup
    assert group.kind == (kinds.KIND_AUTO if name.endswith("onnx") else kinds.KIND_GPU)
    assert not any(item.allow_ragged_batch for item in config.input)
    graph = onnx.load(repository.graphs[name])
    assert problems_of(config, graph) == []
    # The comparison itself notices what Triton would refuse.
    config.input[0].dims[0] = 7
    assert problems_of(config, graph) != []
    config = read_config(repository.configs[name])
    config.max_batch_size = 0
    assert problems_of(config, graph) != []


@pytest.mark.parametrize("name", MODELS)
def test_traces_lead_back_to_the_bundle(repository: TritonRepository, name: str) -> None:
    manifest = Bundle.open().manifest
    config = read_config(repository.configs[name])
    said = {key: value.string_value for key, value in config.parameters.items()}
    part = name.rsplit("_", 1)[0]
    assert said["samus_edge.bundle"] == manifest.name == config.metric_tags["bundle"]
    assert said["samus_edge.graph_sha256"] == manifest.graphs[part].sha256
    assert said["samus_edge.weights_sha256"] == manifest.weights_sha256
    file_sha256 = hashlib.sha256(repository.graphs[name].read_bytes()).hexdigest()
    assert said["samus_edge.file_sha256"] == file_sha256
    readme = (repository.folder / "README.md").read_text()
    for text in (manifest.graphs[part].sha256, manifest.licence, manifest.intended_use, name):
        assert text in readme
    for text in (*manifest.limits, *manifest.credits):
        assert text in readme
    copied = json.loads((repository.folder / triton_repository.MANIFEST_COPY).read_text())
    assert copied == to_json(manifest)


@pytest.mark.parametrize("name", MODELS)
def test_warm_up_requests_run_on_the_graph(repository: TritonRepository, name: str) -> None:
    config = read_config(repository.configs[name])
    run = run_graph(repository.graphs[name].read_bytes())
    rows = [warm_up.batch_size for warm_up in config.model_warmup]
    assert rows == ([1] if name.endswith("onnx") else [1, 4, config.max_batch_size])
    (warm_up,) = (item for item in config.model_warmup if item.batch_size == 1)
    dtypes = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}
    feeds: dict[str, Array] = {}
    for key, value in warm_up.inputs.items():
        assert value.zero_data or value.random_data
        dtype = dtypes[model_config_pb2.DataType.Name(value.data_type)]
        feeds[key] = np.zeros((1, *value.dims), dtype)
    assert all(np.isfinite(output).all() for output in run(feeds).values())


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("tensorrt")])
def test_the_profile_names_every_input_and_covers_warm_up_and_batches(
    repository: TritonRepository, name: str
) -> None:
    config = read_config(repository.configs[name])
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    profile = {
        extreme: {
            item.split(":")[0]: [int(size) for size in item.split(":")[1].split("x")]
            for item in accelerator.parameters[f"trt_profile_{extreme}_shapes"].split(",")
        }
        for extreme in ("min", "opt", "max")
    }
    assert {item.name for item in config.input} == profile["min"].keys()
    for item in config.input:
        low, typical, high = (np.array(profile[extreme][item.name]) for extreme in profile)
        assert (low <= typical).all() and (typical <= high).all()
        assert (low[0], high[0]) == (1, config.max_batch_size)
        for size, least, most in zip(item.dims, low[1:], high[1:], strict=True):
            assert size in (-1, least, most) and (size == -1 or least == most)
        for warm_up in config.model_warmup:
            shape = np.array([warm_up.batch_size, *warm_up.inputs[item.name].dims])
            assert (low <= shape).all() and (shape <= high).all()
    # An engine of other weights must not be taken for this model's.
    file_sha256 = hashlib.sha256(repository.graphs[name].read_bytes()).hexdigest()
    assert file_sha256[:16] in accelerator.parameters["trt_engine_cache_prefix"]


def test_requests_of_three_clients_in_one_batch_get_their_own_answers(
    repository: TritonRepository,
) -> None:
    bundle = Bundle.open()
    encode = run_graph(bundle.read_graph("image_encoder"))
    decode = run_graph(bundle.read_graph("mask_decoder"))
    requests, expected = [], []
    for name, box in EXAMPLE_BOXES.items():  # three images of three sizes
        image = read_example(name)
        embeddings = encode({"image": image[None]})["image_embeddings"]
        prompts = check_prompts((image.shape[0], image.shape[1]), boxes=[box])
        (group,) = decoder_prompts(prompts, 256)
        requests.append(mask_decoder_feeds(embeddings, group, None, (128, 128)))
        expected.append(decode(requests[-1]))
    feeds = {key: np.concatenate([request[key] for request in requests]) for key in requests[0]}
    batch = run_graph(repository.graphs["mask_decoder_onnx"].read_bytes())(feeds)
    for row, single in enumerate(expected):
        for key, value in single.items():
            np.testing.assert_allclose(batch[key][row : row + 1], value, atol=BATCH_TOLERANCE)
    # The rows are different, so mixing them up would have been seen.
    logits = batch["low_res_masks"]
    assert np.abs(logits[0] - logits[1]).max() > 1 and np.abs(logits[1] - logits[2]).max() > 1


def test_frames_in_one_batch_are_encoded_as_if_alone(repository: TritonRepository) -> None:
    image = read_example("benign_162.png")
    frames = np.stack([image, image[:, ::-1], image[::-1]])
    batch = run_graph(repository.graphs["image_encoder_onnx"].read_bytes())
    single = run_graph(Bundle.open().read_graph("image_encoder"))
    embeddings = batch({"image": frames})["image_embeddings"]
    for row, frame in enumerate(frames):
        expected = single({"image": frame[None]})["image_embeddings"]
        np.testing.assert_allclose(embeddings[row : row + 1], expected, atol=BATCH_TOLERANCE)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 0.5  # mixing them up would have been seen


def test_both_variants_have_the_same_graph_and_the_image_encoder_is_the_bundles_file(
    repository: TritonRepository,
) -> None:
    content = {name: repository.graphs[name].read_bytes() for name in MODELS}
    assert content["image_encoder_onnx"] == Bundle.open().read_graph("image_encoder")
    for part in ("image_encoder", "mask_decoder"):
        assert content[f"{part}_tensorrt"] == content[f"{part}_onnx"]


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_take_the_mask_decoder_as_it_is(repository: TritonRepository, tool: str) -> None:
    assert_taken(repository.graphs["mask_decoder_tensorrt"].read_bytes(), tool)


def test_a_decoder_that_gives_every_row_the_first_image_is_refused() -> None:
    bundle = Bundle.open()
    content = bundle.read_graph("mask_decoder")
    model = onnx.load_model_from_string(content)
    batch_mask_decoder(model)
    record = bundle.graph_record("mask_decoder")
    assert check_served_graph(model.SerializeToString(), content, record) <= BATCH_TOLERANCE
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "image_embeddings":
                node.input[index] = "first"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "row"))
    gather = helper.make_node("Gather", ["image_embeddings", "row"], ["first"], axis=0)
    model.graph.node.insert(0, gather)
    with pytest.raises(ExportMismatchError, match=r"mask_decoder\.onnx gives row 1 of 3"):
        check_served_graph(model.SerializeToString(), content, record)


def test_a_graph_that_is_no_mask_decoder_cannot_be_batched() -> None:
    model = onnx.load_model_from_string(Bundle.open().read_graph("image_encoder"))
    with pytest.raises(ValueError, match="no input image_embeddings and no input point_coords"):
        batch_mask_decoder(model)


@pytest.mark.usefixtures("quick_graphs")
def test_an_existing_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    settings = TritonSettings(variants=("onnx",))
    write_triton_repository(Bundle.open(), folder, settings=settings)
    before = (folder / "image_encoder_onnx" / "config.pbtxt").read_bytes()
    later = TritonSettings(variants=("onnx",), version=2, prefix="ward_3-", max_frames=2)
    with pytest.raises(SamusEdgeError, match=r"models exists.*--overwrite"):
        write_triton_repository(Bundle.open(), folder, settings=later)
    assert (folder / "image_encoder_onnx" / "config.pbtxt").read_bytes() == before
    replaced = write_triton_repository(Bundle.open(), folder, settings=later, overwrite=True)
    names = ["ward_3-image_encoder_onnx", "ward_3-mask_decoder_onnx"]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == names
    config = read_config(replaced.configs[names[0]])
    assert (list(config.version_policy.specific.versions), config.max_batch_size) == ([2], 2)
    assert replaced.graphs[names[0]] == folder / names[0] / "2" / "model.onnx"
    assert all(path.is_file() for path in replaced.graphs.values())
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    with pytest.raises(SamusEdgeError, match=r"not a model repository .* no bundle_manifest\.json"):
        write_triton_repository(Bundle.open(), tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [ExportMismatchError("differs"), OutputFileError("disk full")])
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: SamusEdgeError
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(triton_repository, "check_served_graph", fail)
    with pytest.raises(type(error), match=str(error)):
        write_triton_repository(Bundle.open(), tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


# The graphs are made once.
KILLED = """
from samus_edge.export import triton_repository
from samus_edge.export.triton_repository import TritonSettings
from samus_edge.runtime.bundle.bundle import Bundle

assert "torch" not in sys.modules
bundle, settings = Bundle.open(), TritonSettings(variants=("onnx",))
made = {part: list(triton_repository._served_models(bundle, part, part, settings))
        for part in ("image_encoder", "mask_decoder")}
triton_repository._served_models = lambda bundle, part, graph, settings: made[part]

def write(root):
    triton_repository.write_triton_repository(bundle, root / "models", settings=settings)

kill_each_step(sys.argv[1], write)
"""
MIN_STEPS = 15  # six folders and six files that are written and renamed


def test_a_killed_write_leaves_no_half_repository(tmp_path: Path) -> None:
    roots = killed_steps(KILLED, tmp_path)
    assert len(roots) > MIN_STEPS
    states = set()
    for root in roots:
        visible = [path for path in root.iterdir() if not path.name.startswith(".")]
        states.add(len(visible))
        for folder in visible:
            assert folder.name == "models"
            assert (folder / triton_repository.MANIFEST_COPY).is_file()
            assert len(list(folder.glob("*/1/model.onnx"))) == 2
            assert all(read_config(path) for path in folder.glob("*/config.pbtxt"))
    assert states == {0, 1}
    assert [path.name for path in roots[-1].iterdir()] == ["models"]


@pytest.mark.usefixtures("quick_graphs")
def test_of_a_bundle_in_several_precisions_one_is_served(tmp_path: Path, bundle_copy: Path) -> None:
    model = onnx.load(bundle_copy / "image_encoder.onnx")
    model.doc_string = "another precision"
    content = model.SerializeToString()
    (bundle_copy / "half.onnx").write_bytes(content)

    def add(document: dict[str, Any]) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        described = {"file": "half.onnx", "bytes": len(content), "sha256": sha256}
        graphs = document["graphs"]
        graphs["image_encoder.fp16"] = graphs["image_encoder"] | described | {"precision": "fp16"}
        chosen = {"image_encoder": "image_encoder.fp16", "mask_decoder": "mask_decoder"}
        document["precisions"] = {"fp16": chosen}

    update_manifest(bundle_copy, add)
    bundle = Bundle.open(bundle_copy)
    plain = write_triton_repository(bundle, tmp_path / "plain")
    half = write_triton_repository(bundle, tmp_path / "half", precision="fp16")
    assert sorted(plain.configs) == sorted(half.configs) == sorted(MODELS)
    assert plain.graphs["image_encoder_onnx"].read_bytes() != content
    assert half.graphs["image_encoder_onnx"].read_bytes() == content
    for written, precision, graph in (
        (plain, "fp32", "image_encoder"),
        (half, "fp16", "image_encoder.fp16"),
    ):
        parameters = read_config(written.configs["image_encoder_tensorrt"]).parameters
        assert parameters["samus_edge.precision"].string_value == precision
        assert parameters["samus_edge.graph"].string_value == graph
        assert parameters["samus_edge.graph_sha256"].string_value == (
            bundle.manifest.graphs[graph].sha256
        )
    with pytest.raises(BackendError, match="not in int8"):
        write_triton_repository(bundle, tmp_path / "no", precision="int8")
    with pytest.raises(ValueError, match="got 'bf16'"):
        write_triton_repository(bundle, tmp_path / "no", precision="bf16")
    assert not (tmp_path / "no").exists()


@pytest.mark.usefixtures("quick_graphs")
def test_a_graph_that_does_not_follow_the_contract_is_refused(
    tmp_path: Path, bundle_copy: Path
) -> None:
    def swap(document: dict[str, Any]) -> None:
        graphs = document["graphs"]
        file = {key: graphs["mask_decoder"][key] for key in ("file", "bytes", "sha256")}
        graphs["image_encoder"] |= file  # the manifest says an image encoder, the file is none

    update_manifest(bundle_copy, swap)
    with pytest.raises(BundleError, match="does not follow the bundle contract: no input image"):
        write_triton_repository(Bundle.open(bundle_copy), tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("is_whole", [True, False])
def test_tensors_in_other_files_are_taken_into_the_graphs(
    tmp_path: Path, bundle_copy: Path, is_whole: bool
) -> None:
    path = bundle_copy / "mask_decoder.onnx"
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda item: item.ByteSize())
    weights: bytes = tensor.raw_data
    stored = b"\0" * 64 + (weights if is_whole else weights[:-1])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": "weights.bin", "offset": "64", "length": str(len(weights))}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    (bundle_copy / "weights.bin").write_bytes(stored)

    def describe(document: dict[str, Any]) -> None:
        content = path.read_bytes()
        document["graphs"]["mask_decoder"] |= {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "external_data": [
                {
                    "file": "weights.bin",
                    "bytes": len(stored),
                    "sha256": hashlib.sha256(stored).hexdigest(),
                }
            ],
        }

    update_manifest(bundle_copy, describe)
    bundle, settings = Bundle.open(bundle_copy), TritonSettings(variants=("onnx",))
    if not is_whole:
        with pytest.raises(BundleError, match=rf"ends at byte {len(stored) + 1} of weights\.bin"):
            write_triton_repository(bundle, tmp_path / "models", settings=settings)
        return
    written = write_triton_repository(bundle, tmp_path / "models", settings=settings)
    served = onnx.load(written.graphs["mask_decoder_onnx"])  # alone in its folder
    kept = {item.name: item.raw_data for item in served.graph.initializer}
    assert kept[tensor.name] == weights


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variants": ()}, r"variants must be .*, got \(\)"),
        ({"variants": ("onnx", "onnx")}, "variants must be"),
        ({"variants": ("openvino",)}, "got .*openvino"),
        ({"prefix": "../up"}, r"prefix .*got '\.\./up'"),
        ({"version": 0, "max_points": 1}, "version .*got 0; max_points must be 2 or more, got 1"),
        ({"max_frame_hw": (400, 2000)}, r"\(480, 640\), \(400, 2000\)"),
        ({"min_frame_hw": (0, 1)}, r"got \(0, 1\)"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TritonSettings(**settings)


@pytest.mark.usefixtures("quick_graphs")
def test_any_name_of_a_bundle_can_be_read_again(tmp_path: Path, bundle_copy: Path) -> None:
    name = 'Größe "3" \\ 7'
    update_manifest(bundle_copy, lambda document: document.update(name=name))
    written = write_triton_repository(
        Bundle.open(bundle_copy), tmp_path / "models", settings=TritonSettings(variants=("onnx",))
    )
    for path in written.configs.values():
        assert read_config(path).parameters["samus_edge.bundle"].string_value == name
