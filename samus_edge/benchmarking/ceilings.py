"""What this machine reaches at best: one large matrix product, and copying of memory."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime

__all__ = ["Ceiling", "LargeProduct", "cpu_ceiling", "cuda_ceilings"]

SIDE = 2048
_GPU_SIDE = 8192
_COPY_BYTES = 1 << 28
_REPEATS = 5
_GIGA = 1e9


@dataclass(frozen=True)
class Ceiling:
    """Limits of one device in one precision, measured.

    Attributes:
        gflop_per_s: of a large matrix product.
        gbyte_per_s: of a large copy, bytes read and bytes written.
        how: what was run.
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
        threads: that compute it.
    """

    def __init__(self, threads: int) -> None:
        from onnx import TensorProto, helper

        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "abc"
        ]
        node = helper.make_node("MatMul", ["a", "b"], ["c"])
        graph = helper.make_graph([node], "product", values[:2], values[2:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        generator = np.random.default_rng(0)
        self._feeds = {name: generator.standard_normal((SIDE, SIDE), np.float32) for name in "ab"}
        self._seconds: list[float] = []

    def run(self) -> None:
        """Multiply twice; the first, while threads of something else may still spin, is not timed."""
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
        threads: that compute and copy.

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
        f"float32 product {SIDE}x{SIDE}x{SIDE} on ONNX Runtime, copy of {_COPY_BYTES >> 20} MiB, {threads} threads",
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
