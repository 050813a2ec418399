"""The example client against a stand-in server that speaks Triton's gRPC protocol on this machine.

No Triton runs here. The stand-in is Triton's own service definition (of `tritonclient`) in front of
ONNX Runtime; it refuses what the configuration in the repository does not allow, by Triton's rules
for shapes, and runs the ONNX file beside it.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from samus_edge.export.triton_repository import TritonRepository
from samus_edge.runtime import Embedding, Segmenter
from samus_edge.runtime.bundle.bundle import Bundle
from tests.conftest import EXAMPLE_BOXES, EXAMPLES_DIR, read_example

SCRIPT = EXAMPLES_DIR / "triton_client.py"
DTYPES = {"UINT8": np.uint8, "FP32": np.float32}

# Between ONNX Runtime on one bundle and on graphs made from it; a pixel may flip at the threshold.
MIN_IOU = 0.9999


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped
    """Serves a repository as Triton is documented to, without batching."""

    def __init__(self, repository: TritonRepository) -> None:
        self.configs = {
            name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
            for name, path in repository.configs.items()
        }
        self._graphs = repository.graphs

    def ModelConfig(self, request: Any, context: Any) -> Any:  # Triton's name
        """The configuration of a model."""
        return service_pb2.ModelConfigResponse(config=self.configs[request.name])

    def ModelInfer(self, request: Any, context: Any) -> Any:  # Triton's name
        """One request."""
        config = self.configs[request.model_name]
        feeds: dict[str, npt.NDArray[Any]] = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            problem = refusal(config, tensor.name, tensor.datatype, list(tensor.shape))
            if problem:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
            feeds[tensor.name] = np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tensor.shape)
        names = [output.name for output in request.outputs]
        session = onnxruntime.InferenceSession(
            self._graphs[request.model_name], providers=["CPUExecutionProvider"]
        )
        response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        for name, value in zip(names, session.run(names, feeds), strict=True):
            response.outputs.add(name=name, datatype="FP32", shape=value.shape)
            response.raw_output_contents.append(value.tobytes())
        return response


def refusal(config: Any, name: str, datatype: str, shape: list[int]) -> str:
    """What Triton would have against an input; empty if nothing."""
    specs = {item.name: item for item in config.input}
    if name not in specs:
        return f"unexpected inference input '{name}' for model '{config.name}'"
    expected = model_config_pb2.DataType.Name(specs[name].data_type).removeprefix("TYPE_")
    if datatype != expected:
        return f"inference input '{name}' data-type is '{datatype}', but model expects '{expected}'"
    if not 1 <= shape[0] <= config.max_batch_size:
        return f"inference request batch-size must be <= {config.max_batch_size} for {config.name}"
    dims = list(specs[name].dims)
    if len(dims) != len(shape) - 1 or any(
        want not in (-1, got) for want, got in zip(dims, shape[1:], strict=True)
    ):
        return f"unexpected shape for input '{name}': expected [-1] + {dims}, got {shape}"
    return ""


def load_client() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("triton_client_example", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """`examples/triton_client.py`."""
    return load_client()


@pytest.fixture(scope="module")
def stand_in(repository: TritonRepository) -> StandIn:
    """Serves the default bundle's repository."""
    return StandIn(repository)


@pytest.fixture(scope="module")
def url(stand_in: StandIn) -> Iterator[str]:
    """Where the stand-in listens: this machine only, a free port."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(stand_in, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait()


@pytest.fixture
def client(example: ModuleType, url: str) -> Iterator[Any]:
    """A connected client."""
    with example.triton.InferenceServerClient(url) as connected:
        yield connected


def test_requests_fit_the_configurations(example: ModuleType, stand_in: StandIn) -> None:
    frame = read_example("benign_80.png")
    embeddings = np.zeros((1, 256, 32, 32), np.float32)
    boxes = [[135, 88, 446, 368], [10, 20, 60, 80]]
    requests = {
        "image_encoder": example.encoder_arrays(frame),
        "mask_decoder": example.decoder_arrays(embeddings, boxes, (473, 561), 256),
    }
    for part, arrays in requests.items():
        inputs = example.infer_inputs(arrays)
        for variant in ("onnx", "tensorrt"):
            config = stand_in.configs[f"{part}_{variant}"]
            assert sorted(item.name() for item in inputs) == sorted(i.name for i in config.input)
            for item in inputs:
                assert refusal(config, item.name(), item.datatype(), item.shape()) == ""
    assert [item.shape() for item in inputs] == [
        [2, 256, 32, 32], [2, 2, 2], [2, 2], [2, 1, 128, 128], [2, 1],
    ]  # fmt: skip


def test_prompts_are_sent_in_the_model_frame(example: ModuleType) -> None:
    arrays = example.decoder_arrays(
        np.zeros((1, 256, 32, 32), np.float32), [[127.5, 63.5, 383.5, 191.5]], (256, 512), 256
    )
    # By hand: x_model = (x + 0.5) * 256 / 512 - 0.5, y_model = (y + 0.5) * 256 / 256 - 0.5.
    np.testing.assert_array_equal(arrays["point_coords"], [[[63.5, 63.5], [191.5, 191.5]]])
    np.testing.assert_array_equal(arrays["point_labels"], [[2, 3]])
    np.testing.assert_array_equal(arrays["has_mask_input"], [[0]])


@pytest.mark.parametrize("variant", ["onnx", "tensorrt"])
def test_masks_over_the_wire_are_those_of_the_runtime(
    example: ModuleType, client: Any, variant: str
) -> None:
    name, box = "malignant_29.png", EXAMPLE_BOXES["malignant_29.png"]
    image = read_example(name)
    boxes = [box, [box[0] + 20, box[1] + 30, box[2], box[3]]]
    bundle = example.served_bundle(client, variant)
    masks = example.segment(client, bundle, image, boxes)
    with Segmenter.load(threads=1) as segmenter:
        expected = segmenter.segment(image, boxes=boxes).masks[:, 0]
    assert masks.shape == expected.shape == (2, *image.shape)
    assert min(map(example.iou, masks, expected)) >= MIN_IOU
    assert example.iou(masks[0], masks[1]) < MIN_IOU  # each box its own mask


def test_a_cart_decodes_what_the_server_has_encoded(example: ModuleType, client: Any) -> None:
    name = "benign_162.png"
    image = read_example(name)
    embeddings = example.infer(
        client, "image_encoder_tensorrt", example.encoder_arrays(image), "image_embeddings"
    )
    parameters = client.get_model_config("image_encoder_tensorrt").config.parameters
    encoder_sha256 = parameters["samus_edge.graph_sha256"].string_value
    embedding = Embedding(embeddings, (image.shape[0], image.shape[1]), encoder_sha256)
    with Segmenter.load(threads=1) as segmenter:
        mask = segmenter.predict(embedding, boxes=[EXAMPLE_BOXES[name]]).masks[0, 0]
        expected = segmenter.segment(image, boxes=[EXAMPLE_BOXES[name]]).masks[0, 0]
    assert example.iou(mask, expected) >= MIN_IOU


def test_the_stand_in_refuses_what_the_configuration_does_not_allow(
    example: ModuleType, client: Any
) -> None:
    exception = sys.modules["tritonclient.utils"].InferenceServerException
    with pytest.raises(exception, match="batch-size must be <= 8"):
        frames = {"image": np.zeros((9, 32, 32), np.uint8)}
        example.infer(client, "image_encoder_onnx", frames, "image_embeddings")
    with pytest.raises(exception, match="data-type is 'FP32', but model expects 'UINT8'"):
        frames = {"image": np.zeros((1, 32, 32), np.float32)}
        example.infer(client, "image_encoder_onnx", frames, "image_embeddings")


def test_models_of_different_weights_are_refused(
    example: ModuleType, client: Any, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = model_config_pb2.ModelConfig()
    other.CopyFrom(stand_in.configs["mask_decoder_onnx"])
    other.parameters["samus_edge.weights_sha256"].string_value = "ab" * 32
    monkeypatch.setitem(stand_in.configs, "mask_decoder_onnx", other)
    with pytest.raises(RuntimeError, match=r"different weights .* and abababababab"):
        example.served_bundle(client, "onnx")


def test_the_script_prints_each_image(url: str) -> None:
    command = [sys.executable, "-I", str(SCRIPT), "--url", url, "--compare"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    head, *lines = ran.stdout.splitlines()
    assert head == f"samus-hf-tiny, weights {Bundle.open().manifest.weights_sha256[:12]}"
    assert [line.split(":")[0] for line in lines] == list(EXAMPLE_BOXES)
    assert all(line.endswith("IoU of the variants 1.0000") for line in lines)


def test_the_comparison_of_variants_can_fail(
    example: ModuleType, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["triton_client.py", "--url", url, "--compare"])
    monkeypatch.setattr(example, "iou", lambda first, second: 0.9)
    with pytest.raises(SystemExit, match=r"the variants differ: IoU 0\.9000 on average"):
        example.main()
