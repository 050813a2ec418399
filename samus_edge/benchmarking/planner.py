"""What graphs compute and move, what a machine can do, and what a Jetson would need.

Figures of Jetsons are estimates from published ceilings; no Jetson was measured for them.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from samus_edge.benchmarking.subject import IMAGE_ENCODER, MASK_DECODER, Workload, cpu_session
from samus_edge.benchmarking.turns import Latency, Timed
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import GraphRecord

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = [
    "ASSUMPTIONS",
    "JETSON_MODULES",
    "PLANNED_PRECISIONS",
    "Ceiling",
    "Estimate",
    "GraphWork",
    "JetsonModule",
    "LargeProduct",
    "RooflinePoint",
    "count_traffic",
    "cpu_ceiling",
    "cuda_ceilings",
    "estimate",
    "roofline",
    "work_of_bundle",
]


GFLOP = 1e9

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def count_flop(model: "ModelProto", feeds: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, int]:
    """Floating-point operations of the matrix products and convolutions of one run.

    A multiplication and its addition count as two. What is no matrix product (normalisation,
    activation, resizing) is left out, as in published figures. The graph is run once.

    Args:
        model: a float32 graph.
        feeds: inputs by name; their shapes are those that are counted for.

    Returns:
        Operations by node name, of the nodes that have any, in the graph's order.
    """
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    constants = {item.name: tuple(item.dims) for item in model.graph.initializer}
    shown = [
        name
        for node in products
        for name in (*node.input[:2], node.output[0])
        if name not in constants and name not in feeds
    ]
    shapes = constants | {name: np.shape(value) for name, value in feeds.items()}
    from samus_edge.export.graph_cleanup import tensor_values

    values = tensor_values(model, list(dict.fromkeys(shown)), feeds)
    shapes |= {name: value.shape for name, value in values.items()}
    return {node.name: _flop_of(node, shapes) for node in products}


def _flop_of(node: "NodeProto", shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second = shapes[node.input[0]], shapes[node.input[1]]
    out = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return 2 * out * math.prod(second[1:])  # weights are (out, in / groups, ...)
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(first) * math.prod(second[1:])  # weights are (in, out / groups, ...)
    if node.op_type == "Gemm":
        is_transposed = any(item.name == "transA" and item.i for item in node.attribute)
        return 2 * out * first[-2 if is_transposed else -1]
    return 2 * out * first[-1]


def count_traffic(
    model: "ModelProto", feeds: Mapping[str, npt.NDArray[np.generic]]
) -> tuple[int, int, int]:
    """Count the bytes that a graph moves in one run, in the dtypes of its tensors.

    Args:
        model: the graph, without subgraphs.
        feeds: inputs by name; their shapes are those that are counted for.

    Returns:
        Bytes of the constants that nodes read; bytes that have to be moved even if all that is
        between nodes stays in caches (constants, inputs, outputs); and bytes that are moved if
        every node reads from memory and writes to it.
    """
    graph = model.graph
    from onnx import numpy_helper

    from samus_edge.export.graph_cleanup import tensor_values

    outputs = [value.name for value in graph.output]
    written = [name for node in graph.node for name in node.output if name]
    sizes = {name: value.nbytes for name, value in tensor_values(model, written, feeds).items()}
    read = [name for node in graph.node for name in node.input if name]
    weights = sum(
        numpy_helper.to_array(item).nbytes for item in graph.initializer if item.name in read
    )
    least = weights + sum(np.asarray(value).nbytes for value in feeds.values())
    least += sum(sizes[name] for name in outputs)
    between = sum(sizes[name] for name in written if name not in outputs)
    return weights, least, least + between + sum(sizes.get(name, 0) for name in read)


_ORIN_FLOP_PER_CLOCK = 2048  # fp16 on tensor cores, dense, of one multiprocessor
_KILO = 1e3


@dataclass(frozen=True)
class JetsonModule:
    """What the data sheet says of a module in its fastest power mode.

    Attributes:
        name: its name on the command line.
        title: its name for people.
        fp16_tflops: of the GPU's tensor cores, dense; int8 is twice that. Advertised TOPS are
            sparse int8, four times that, and on some modules with the DLA's.
        gbyte_per_s: bandwidth of the memory.
        memory_gb: shared by CPU and GPU.
        source: where the figures are from.
    """

    name: str
    title: str
    fp16_tflops: float
    gbyte_per_s: float
    memory_gb: int
    source: str


def _orin(
    name: str, title: str, processors: int, mhz: int, gbyte_per_s: float, memory_gb: int, sheet: str
) -> JetsonModule:
    tflops = processors * _ORIN_FLOP_PER_CLOCK * mhz / _KILO**2
    source = f"{sheet}: {processors} multiprocessors at {mhz} MHz, {gbyte_per_s} GB/s"
    return JetsonModule(name, title, tflops, gbyte_per_s, memory_gb, source)


_NANO = "NVIDIA Jetson Orin Nano Series data sheet"
_NX = "NVIDIA Jetson Orin NX Series data sheet"
_AGX = "NVIDIA Jetson AGX Orin Series data sheet"
_SUPER = "NVIDIA Jetson Orin Nano Super Developer Kit data sheet"

JETSON_MODULES = {
    module.name: module
    for module in (
        _orin("orin-nano-4gb", "Jetson Orin Nano 4GB", 4, 625, 34.0, 4, _NANO),
        _orin("orin-nano-8gb", "Jetson Orin Nano 8GB", 8, 625, 68.0, 8, _NANO),
        _orin("orin-nano-super", "Jetson Orin Nano Super (8GB)", 8, 1020, 102.0, 8, _SUPER),
        _orin("orin-nx-8gb", "Jetson Orin NX 8GB", 8, 765, 102.4, 8, _NX),
        _orin("orin-nx-16gb", "Jetson Orin NX 16GB", 8, 918, 102.4, 16, _NX),
        _orin("agx-orin-32gb", "Jetson AGX Orin 32GB", 14, 930, 204.8, 32, _AGX),
        _orin("agx-orin-64gb", "Jetson AGX Orin 64GB", 16, 1300, 204.8, 64, _AGX),
        JetsonModule(
            "thor-t5000",
            "Jetson Thor T5000",
            258.0,
            273.0,
            128,
            "NVIDIA Jetson Thor data sheet: 2070 TFLOPS of sparse FP4, an eighth of which is "
            "dense fp16",
        ),
    )
}
"""Modules by name."""


SIDE = 2048
_GPU_SIDE = 8192
_COPY_BYTES = 1 << 28
_REPEATS = 5
_GIGA = 1e9


@dataclass(frozen=True)
class Ceiling:
    """Limits of one device in one precision, measured.

    Attributes:
        gflop_per_s: speed of a large matrix product.
        gbyte_per_s: speed of a large copy, bytes read and bytes written.
        how: the product and the copy.
    """

    gflop_per_s: float
    gbyte_per_s: float
    how: str

    def gflop_per_s_at(self, flop_per_byte: float) -> float:
        """What can be reached by something that does so many operations with each byte."""
        return min(self.gflop_per_s, flop_per_byte * self.gbyte_per_s)


class LargeProduct:
    """One large float32 matrix product on ONNX Runtime: the processor's limit.

    Args:
        threads: CPU threads that compute it.
    """

    def __init__(self, threads: int) -> None:
        from onnx import TensorProto, helper

        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "abc"
        ]
        node = helper.make_node("MatMul", ["a", "b"], ["c"])
        graph = helper.make_graph([node], "product", values[:2], values[2:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        self._session = cpu_session(model.SerializeToString(), threads)
        generator = np.random.default_rng(0)
        self._feeds = {name: generator.standard_normal((SIDE, SIDE), np.float32) for name in "ab"}
        self._seconds: list[float] = []

    def run(self) -> None:
        """Multiply twice; the first, while threads of something else may still spin, is not
        timed."""
        self._session.run(None, self._feeds)
        start = time.perf_counter()
        self._session.run(None, self._feeds)
        self._seconds.append(time.perf_counter() - start)

    @property
    def gflop_per_s(self) -> float:
        """What was reached in the fastest run."""
        return 2 * SIDE**3 / _GIGA / min(self._seconds)


def cpu_ceiling(threads: int) -> Ceiling:
    """Measure the CPU.

    Args:
        threads: CPU threads that compute and copy.

    Raises:
        ImportError: without the package onnx.
    """
    product = LargeProduct(threads)
    for _ in range(_REPEATS):
        product.run()
    sources = [np.ones(_COPY_BYTES // threads, np.uint8) for _ in range(threads)]
    targets = [np.zeros_like(source) for source in sources]
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            list(pool.map(np.copyto, targets, sources))

        seconds = _fastest(copy)
    return Ceiling(
        product.gflop_per_s,
        2 * sum(source.nbytes for source in sources) / _GIGA / seconds,
        f"float32 product {SIDE}x{SIDE}x{SIDE} on ONNX Runtime, copy of {_COPY_BYTES >> 20} MiB, "
        f"{threads} threads",
    )


def cuda_ceilings() -> dict[str, Ceiling]:
    """Measure the GPU by torch, for each precision; empty where torch is missing or has no GPU."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}

    def seconds_of(work: Callable[[], object]) -> float:
        def until_done() -> None:
            work()
            torch.cuda.synchronize()

        until_done()
        return _fastest(until_done)

    block = torch.ones(_COPY_BYTES * 4, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(block)
    seconds = seconds_of(partial(target.copy_, block))
    gbyte_per_s = 2 * block.numel() / _GIGA / seconds
    del block, target
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, Ceiling] = {}
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        a, b = (torch.randn(_GPU_SIDE, _GPU_SIDE, device="cuda", dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = seconds_of(partial(torch.matmul, a, b, out=out))
        how = f"{name} product {_GPU_SIDE}x{_GPU_SIDE}x{_GPU_SIDE} and copy of 1 GiB by torch"
        found[name] = Ceiling(2 * _GPU_SIDE**3 / _GIGA / seconds, gbyte_per_s, how)
    return found


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


@dataclass(frozen=True)
class GraphWork:
    """Work of a graph for one frame or one box, in the dtypes of the reference graphs, float32.

    Attributes:
        flop: multiplications and additions of matrix products and convolutions.
        weight_bytes: size of the constants.
        least_bytes: bytes that have to be moved: weights, inputs, outputs.
        most_bytes: bytes moved if no node keeps anything in caches for the next.
    """

    flop: int
    weight_bytes: int
    least_bytes: int
    most_bytes: int

    @property
    def intensity(self) -> float:
        """Operations per byte that has to be moved."""
        return self.flop / self.least_bytes

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {**asdict(self), "flop_per_byte": round(self.intensity, 1)}


def work_of_bundle(bundle: Bundle, workload: Workload) -> dict[str, GraphWork]:
    """Count for image encoder and mask decoder, by name.

    Args:
        bundle: opened.
        workload: the frame and the box that are counted for.

    Raises:
        ImportError: without the package onnx.
    """
    import onnx

    records = {name: bundle.graph_record(name) for name in (IMAGE_ENCODER, MASK_DECODER)}
    embeddings = _embeddings(records[IMAGE_ENCODER])
    feeds: dict[str, Mapping[str, Any]] = {
        IMAGE_ENCODER: {"image": workload.frames(1)},
        MASK_DECODER: workload.decoder_feeds(bundle, embeddings, 1),
    }
    work: dict[str, GraphWork] = {}
    for name in records:
        model = onnx.load_from_string(bundle.read_graph(name))
        flop = sum(count_flop(model, feeds[name]).values())
        work[name] = GraphWork(flop, *count_traffic(model, feeds[name]))
    return work


def _embeddings(encoder: GraphRecord) -> npt.NDArray[np.float32]:
    (spec,) = (spec for spec in encoder.outputs if spec.name == "image_embeddings")
    return np.zeros([size if isinstance(size, int) else 1 for size in spec.shape], np.float32)


@dataclass(frozen=True)
class RooflinePoint:
    """One graph of one subject.

    Attributes:
        subject: its name.
        graph: its name.
        flop_per_byte: operations for each byte that has to be moved.
        gflop_per_s: reached, at the median.
        limit_gflop_per_s: the machine's limit at this intensity.
        bound: "compute" or "memory": which of the two limits it is.
        ceiling: key of the ceiling, for example "cpu fp32".
    """

    subject: str
    graph: str
    flop_per_byte: float
    gflop_per_s: float
    limit_gflop_per_s: float
    bound: str
    ceiling: str

    @property
    def reached(self) -> float:
        """Reached part of the limit, 0 to 1."""
        return self.gflop_per_s / self.limit_gflop_per_s

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {**asdict(self), "reached": round(self.reached, 4)}


def roofline(
    timed: Sequence[Timed], work: Mapping[str, GraphWork], ceilings: Mapping[str, Ceiling]
) -> list[RooflinePoint]:
    """Compare what was timed with what the machine allows.

    The device's clock counts where there is one. Subjects in a precision whose ceiling was not
    measured are left out.

    Args:
        timed: the stages of subjects.
        work: work of one frame or one prompt, by stage.
        ceilings: the machine's limits by "cpu fp32", "gpu fp16" and so on.
    """
    points: list[RooflinePoint] = []
    for each in timed:
        subject, stage = each.subject, each.stage
        key = f"{'gpu' if subject.is_on_gpu else 'cpu'} {subject.precision}"
        if stage.name not in work or stage.items != 1 or key not in ceilings:
            continue
        graph, ceiling = work[stage.name], ceilings[key]
        milliseconds = Latency.of(each.device_milliseconds or each.milliseconds).p50
        # Weights and activations of half precision are half as many bytes.
        intensity = graph.intensity * (2 if subject.precision in ("fp16", "bf16") else 1)
        limit = ceiling.gflop_per_s_at(intensity)
        points.append(
            RooflinePoint(
                subject.name,
                stage.name,
                intensity,
                graph.flop / _GIGA / (milliseconds / 1e3),
                limit,
                "compute" if limit == ceiling.gflop_per_s else "memory",
                key,
            )
        )
    return points


PLANNED_PRECISIONS = ("fp16", "int8")

_BYTES_PER_VALUE = {"fp16": 2, "int8": 1}
_REFERENCE_BYTES = 4  # graphs are counted in float32


@dataclass(frozen=True)
class Assumptions:
    """What lies between a ceiling and a real graph at batch 1. Assumed, not measured.

    Attributes:
        compute: part of the tensor cores' ceiling that is reached.
        bandwidth: part of the memory's.
        launch_ms: time that a graph takes before and after it computes.
    """

    compute: float
    bandwidth: float
    launch_ms: float


ASSUMPTIONS = {
    "fast": Assumptions(compute=0.5, bandwidth=0.8, launch_ms=0.05),
    "slow": Assumptions(compute=0.1, bandwidth=0.5, launch_ms=0.5),
}
"""Small graphs at batch 1 leave most of a GPU idle, so the range is wide. The fast end moves only
what has to be moved, the slow end everything that nodes read and write."""


@dataclass(frozen=True)
class Estimate:
    """Estimated time of one graph on one module, for one frame or one box.

    Attributes:
        module: name of the module.
        graph: name of the graph.
        precision: one of `PLANNED_PRECISIONS`.
        low_ms: time by the fast assumptions.
        high_ms: time by the slow ones.
        bound: "compute" or "memory": what decides at the fast end.
        is_estimate: always true, for whoever reads the JSON.
    """

    module: str
    graph: str
    precision: str
    low_ms: float
    high_ms: float
    bound: str
    is_estimate: bool = True


def estimate(module: JetsonModule, work: Mapping[str, GraphWork]) -> list[Estimate]:
    """Estimate every graph in every planned precision.

    The longer of computing and moving, each at the assumed part of its ceiling, and the launch.

    Args:
        module: its published figures.
        work: work of one frame or one box, by graph.
    """
    found: list[Estimate] = []
    for graph, counted in work.items():
        for precision in PLANNED_PRECISIONS:
            tflops = module.fp16_tflops * (2 if precision == "int8" else 1)
            scale = _BYTES_PER_VALUE[precision] / _REFERENCE_BYTES
            milliseconds: dict[str, float] = {}
            bound = ""
            for end, assumed in ASSUMPTIONS.items():
                moved = counted.least_bytes if end == "fast" else counted.most_bytes
                compute = counted.flop / (tflops * 1e12 * assumed.compute) * 1e3
                memory = moved * scale / (module.gbyte_per_s * 1e9 * assumed.bandwidth) * 1e3
                milliseconds[end] = max(compute, memory) + assumed.launch_ms
                bound = bound or ("compute" if compute >= memory else "memory")
            found.append(
                Estimate(
                    module.name,
                    graph,
                    precision,
                    round(milliseconds["fast"], 3),
                    round(milliseconds["slow"], 3),
                    bound,
                )
            )
    return found
