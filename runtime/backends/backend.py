"""What the runtime asks of an inference engine."""

import math
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import GraphRecord, TensorSpec

if TYPE_CHECKING:
    from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor

# A graph takes arrays of several dtypes, and their ranks are checked at run time.
Tensor: TypeAlias = npt.NDArray[Any]
FloatTensor: TypeAlias = npt.NDArray[np.float32]


class Feed(Protocol):
    """What a graph is fed: an array of the host, or a `DeviceTensor`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> "np.dtype[Any]": ...


class GraphSession(Protocol):
    """One graph, ready to run. `run` may be called from several threads at once."""

    def largest(self, name: str, axis: int) -> int | None:
        """The largest size of an input's axis in one run; None where there is no limit."""
        ...

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor]:
        """Run the graph.

        Args:
            feeds: one array for each input of the graph, by name, of the recorded dtype and shape;
                of the host, or of the device that the engine computes on.

        Returns:
            One float32 array for each output of the graph, by name, owned by the caller.

        Raises:
            BadArgumentError: if the feeds do not fit the graph.
            BackendError: if the engine fails.
            RuntimeError: if the graph is closed.
        """
        ...

    def run_on_device(self, feeds: Mapping[str, Feed]) -> "dict[str, FloatTensor | DeviceTensor]":
        """As `run`, but outputs stay on the GPU if the engine computes on one and can leave them
        there.

        They are for what is fed to another graph of the same backend.
        """
        ...

    def close(self) -> None:
        """Give memory back; runs under way end first. A second call does nothing."""
        ...


class Predictor(Protocol):
    """What a device check needs of a `Segmenter`."""

    @property
    def graph_hashes(self) -> dict[str, str]: ...

    @property
    def encode(self) -> Callable[..., Any]: ...

    @property
    def decode(self) -> Callable[..., Any]: ...

    def close(self) -> None: ...


class Backend(Protocol):
    """An inference engine on one device.

    Attributes:
        name: The name that the user selects, for example "onnxruntime".
        device: The engine's name of what computes, for example "CPUExecutionProvider".
        version: Version of the engine.
        threads: Number of CPU threads that compute one graph.
        gpu: The GPU whose arrays graphs take and give, or None.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def gpu(self) -> "Device | None": ...

    def open_graph(
        self,
        name: str,
        graph: bytes,
        record: GraphRecord,
        external_data: Mapping[str, bytes] | None = None,
    ) -> GraphSession:
        """Make a graph ready to run.

        Args:
            name: Name of the graph, for messages.
            graph: Content of the ONNX file.
            record: Its record in the manifest.
            external_data: the files that the graph keeps tensors in, by the location that it names;
                nothing else may be read for it from the disk. None for a graph in one file.

        Raises:
            BundleError: if the graph is not ONNX, or differs from its record.
            BackendError: if the engine cannot run the graph.
        """
        ...

    def check(self, tested: Predictor, open_reference: Callable[..., Predictor]) -> None:
        """Refuse to compute if results on this device are not to be trusted; most backends need no
        check.

        Args:
            tested: The graphs on this backend.
            open_reference: Opens the same graphs on ONNX Runtime, with a number of threads.

        Raises:
            BackendError: if the two differ by more than is allowed.
        """
        ...


def check_feeds(name: str, inputs: tuple[TensorSpec, ...], feeds: Mapping[str, Feed]) -> None:
    """Compare what is fed to a graph with what it takes: names, then dtype and shape of each.

    Args:
        name: Name of the graph, for the message.
        inputs: The graph's inputs.
        feeds: The arrays about to be fed.

    Raises:
        BadArgumentError: listing everything that does not fit, with what was got and what was
            expected.
    """
    expected = {spec.name: spec for spec in inputs}
    problems = [f"missing {spec}" for spec in inputs if spec.name not in feeds]
    for feed_name, feed in feeds.items():
        spec = expected.get(feed_name)
        got = f"{feed_name} {feed.dtype.name} {feed.shape}"
        if spec is None:
            problems.append(f"unexpected {got}")
        elif not spec.accepts(feed.dtype.name, feed.shape):
            problems.append(f"got {got}, expected {spec}")
    if problems:
        raise BadArgumentError(f"wrong inputs for graph {name!r}: {'; '.join(problems)}")


# A frame of 480 x 640 makes ONNX Runtime hold 8 MB, one of 8192 x 8192 pixels 1.8 GB.
_LARGE_FEED_BYTES = 4 << 20


def is_large(feeds: Mapping[str, Feed]) -> bool:
    """Whether a graph is fed so much that its engine is to give the memory of the run back."""
    return any(
        math.prod(feed.shape) * feed.dtype.itemsize > _LARGE_FEED_BYTES for feed in feeds.values()
    )


# The graphs are small: beyond this, threads cost more to synchronise than they compute.
_MAX_DEFAULT_THREADS = 8


def default_threads() -> int:
    """The CPU cores that this process may use, at most 8: its affinity and its container's quota
    count."""
    return min(usable_cores(), _MAX_DEFAULT_THREADS)


def usable_cores(root: Path = Path("/")) -> int:
    """The CPU cores that this process may use; part of a core counts as one.

    Args:
        root: Where `proc` and `sys` are.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS or Windows
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min([cores, *(math.ceil(quota) for quota in _cpu_quotas(root))])


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Cores that the control groups of this process allow it, by Linux's cgroups(7).

    A group's own quota and those of the groups above it hold; in a container, what is above is not
    visible, and its group is the root of what is mounted.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")  # version 1 or 2
        group = PurePosixPath(path)
        for each in (group, *group.parents):
            folder = mounted / each.relative_to("/")
            try:
                if controllers:
                    quota = (folder / "cpu.cfs_quota_us").read_text()
                    period = (folder / "cpu.cfs_period_us").read_text()
                else:
                    quota, period = (folder / "cpu.max").read_text().split()
                if quota != "max" and float(quota) > 0:  # -1: none, in version 1
                    yield float(quota) / float(period)
            except (OSError, ValueError):
                continue  # a group that is not visible


# What makes products of matrices fast, by the names that Linux gives.
_FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimddp", "i8mm", "bf16", "sve"),
)


def cpu_model(root: Path = Path("/")) -> str:
    """The processor, in the words of the operating system."""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _cpuinfo(root), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_features(root: Path = Path("/")) -> tuple[str, ...]:
    """Which instruction sets for products of matrices it has; empty where Linux does not say."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(root), re.MULTILINE)
    present = set(found[1].split()) if found else set()
    return tuple(name for name in _FEATURES if name in present)


def _cpuinfo(root: Path) -> str:
    try:
        return (root / "proc" / "cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


CACHE_VARIABLE = "SAMUS_EDGE_CACHE"
"""The environment variable that names another folder."""


def default_cache_folder() -> Path:
    """`$SAMUS_EDGE_CACHE`, or a folder among the user's caches; need not exist."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "samus-edge" / "engines"


def open_bundle_graph(backend: Backend, bundle: Bundle, name: str) -> GraphSession:
    """Open a graph with its record and what it keeps in other files.

    Args:
        backend: The backend to run it.
        bundle: An open bundle.
        name: Name of the graph in the manifest, for example "image_encoder".

    Raises:
        BundleError: if it differs from its record.
        BackendError: if the backend cannot run it.
    """
    return backend.open_graph(
        name, bundle.read_graph(name), bundle.graph_record(name), bundle.read_external_data(name)
    )
