"""Inference on OpenVINO: on CPUs of any make, on Intel's integrated GPUs and NPUs.

Everything of ours that uses the package `openvino` takes it from `load_openvino`.
"""

import hashlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from samus_edge.errors import BackendError, BundleError, OutputFileError, install_command
from samus_edge.runtime.backends.backend import (
    Feed,
    FloatTensor,
    Predictor,
    check_feeds,
    cpu_features,
    cpu_model,
    default_cache_folder,
    default_threads,
    is_large,
)
from samus_edge.runtime.bundle.check_frame import CheckFrame, load_check_frames
from samus_edge.runtime.bundle.manifest import GraphRecord, TensorSpec
from samus_edge.runtime.images.output_files import write_files_atomically

if TYPE_CHECKING:
    from samus_edge.runtime.backends.gpu.device import Device, DeviceTensor
    from samus_edge.runtime.backends.tensorrt.engine_check import EngineCheck

_logger = logging.getLogger(__name__)


def load_openvino() -> Any:
    """The package `openvino`, which talks to nobody when it is imported from here.

    Its import asks `openvino_telemetry`, where that is there, to write into the home folder and to
    report to a host; without it a stub of OpenVINO's own does nothing. The converter of models,
    which is most of the import's time, comes when a host program asks for it.

    Raises:
        BackendError: if it is not installed or does not load; says how to get it.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    _require_openvino()
    try:
        with _hidden("openvino.tools.ovc", _TELEMETRY):
            import openvino
    except ImportError as err:
        raise BackendError(
            f"OpenVINO does not load ({err}). Install it again: {install_command('openvino')}"
        ) from err
    if not hasattr(openvino, "__getattr__"):
        openvino.__getattr__ = _converter
    return openvino


_TELEMETRY = "openvino_telemetry"


@contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """Modules that an import takes for missing, where they are not loaded already."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None says so, to Python
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _converter(name: str) -> Any:
    """What `openvino` has under this name beside what was imported."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    with _hidden(_TELEMETRY):
        from openvino.tools.ovc import convert_model
    return convert_model


def _require_openvino() -> None:
    if find_spec("openvino") is None:
        raise BackendError(f"OpenVINO is not installed: {install_command('openvino')}")


_using_process: int | None = None
"""The process whose threads OpenVINO has; a forked child would have none of them."""

Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""The sizes of inputs that a graph is compiled for; -1 for one that may vary."""

_MAX_COMPILED = 4
_BATCH = "batch"
"""The size of the axis of frames, in the records of `samus-edge export`."""


def _frame_by_frame(record: GraphRecord, feeds: Mapping[str, Feed]) -> list[dict[str, Any]] | None:
    """The feeds of a graph that takes frames, one frame each; None if they are of one."""
    (first, *others) = record.inputs
    count = feeds[first.name].shape[0]
    if others or first.shape[0] != _BATCH or count == 1:
        return None
    frames = np.asarray(feeds[first.name])
    return [{first.name: frames[index : index + 1]} for index in range(count)]


class OpenVinoSession:
    """One graph in OpenVINO; safe to run from several threads, which take turns.

    OpenVINO computes one request at a time on its stream, so threads would gain nothing by requests
    of their own, and each would take the memory of one.
    """

    def __init__(
        self,
        name: str,
        record: GraphRecord,
        compile_for: Callable[[str, Shapes], Any],
        precision: str,
        *,
        is_fixed: bool,
    ) -> None:
        """Hold a graph that is not compiled yet.

        Args:
            name: Name of the graph, for messages.
            record: Its record in the manifest.
            compile_for: Compiles it in a precision for inputs of some sizes.
            precision: What it computes in: "f32", "bf16" or "f16".
            is_fixed: Whether the device needs every size; else those of frames and prompts vary.
        """
        self.record = record
        self.precision = precision
        self._name = name
        self._compile_for: Callable[[str, Shapes], Any] | None = compile_for
        self._is_fixed = is_fixed
        self._requests: OrderedDict[tuple[str, Shapes], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._is_closed = False

    def largest(self, name: str, axis: int) -> int | None:
        """No limit."""
        return None

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, FloatTensor]:
        """Run the graph; see `GraphSession.run`."""
        check_feeds(self._name, self.record.inputs, feeds)
        if not self._is_fixed and (single := _frame_by_frame(self.record, feeds)) is not None:
            runs = [self.run(each) for each in single]
            return {name: np.concatenate([each[name] for each in runs]) for name in runs[0]}
        with self._lock:
            request = self.prepare({name: feed.shape for name, feed in feeds.items()})
            try:
                request.infer(dict(feeds))
                outputs = {
                    spec.name: np.array(request.get_tensor(spec.name).data)
                    for spec in self.record.outputs
                }
                if is_large(feeds):
                    request.get_compiled_model().release_memory()
                return outputs
            except RuntimeError as err:
                raise BackendError(f"OpenVINO failed on graph {self._name!r}: {err}") from err

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """The request that computes inputs of these shapes, compiled where it is new.

        Raises:
            RuntimeError: if the session is closed.
            BackendError, BundleError: if the graph cannot be compiled.
        """
        if self._is_closed:
            raise RuntimeError(
                f"graph {self._name!r} is closed. Load another with Segmenter.load()."
            )
        key = (self.precision, self._frozen(shapes))
        if key not in self._requests:
            assert self._compile_for is not None  # there is one key where it was given back
            self._requests[key] = self._compile_for(*key).create_infer_request()
            if len(self._requests) > _MAX_COMPILED:
                self._requests.popitem(last=False)
        self._requests.move_to_end(key)
        return self._requests[key]

    def _frozen(self, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
        """What of the shapes is compiled in: on a CPU, that there is one frame.

        With that, 10 of the encoder's 1,847 operations have a size that varies with the frame's,
        and it is as fast as one that is compiled for a single size of frames.
        """
        if self._is_fixed:
            return tuple(sorted(shapes.items()))
        return tuple(
            (
                spec.name,
                tuple(
                    size if isinstance(size, int) else 1 if size == _BATCH else -1
                    for size in spec.shape
                ),
            )
            for spec in self.record.inputs
        )

    def settle(self) -> None:
        """Stay with this precision: give back what only another would need."""
        for key in [key for key in self._requests if key[0] != self.precision]:
            del self._requests[key]
        if not self._is_fixed and self._requests:
            self._compile_for = None  # and the graph with it

    def run_on_device(self, feeds: Mapping[str, Feed]) -> "dict[str, FloatTensor | DeviceTensor]":
        """As `run`: outputs are of the host."""
        return {**self.run(feeds)}

    def close(self) -> None:
        """Let the graph go, after the run under way; see `GraphSession.close`."""
        with self._lock:
            self._is_closed = True
            self._requests.clear()


@dataclass(frozen=True)
class Verdict:
    """What the check of a bundle's graphs on this machine has found.

    Attributes:
        precision: The fastest that passed; the last one tried, if none did.
        check: How near its masks are to those of ONNX Runtime.
        milliseconds: A frame with one box, by precision and for "onnxruntime", measured in turns.
    """

    precision: str
    check: "EngineCheck"
    milliseconds: Mapping[str, float]

    @property
    def is_faster(self) -> bool:
        """Whether it computes a frame in clearly less time than ONNX Runtime."""
        mine = self.milliseconds.get(self.precision, math.inf)  # one that failed was not timed
        return mine < _CLEARLY * self.milliseconds["onnxruntime"]

    def __str__(self) -> str:
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in self.milliseconds.items())
        return (
            f"{self.precision}: {self.check.masks} masks, mean IoU {self.check.mean_mask_iou:.4f}, "
            f"worst {self.check.worst_mask_iou:.4f} against ONNX Runtime; a frame with a box: "
            f"{times}"
        )

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        milliseconds = {name: round(value, 2) for name, value in self.milliseconds.items()}
        return asdict(self) | {"check": self.check.to_json(), "milliseconds": milliseconds}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Verdict":
        """From what `to_json` gave."""
        from samus_edge.runtime.backends.tensorrt.engine_check import EngineCheck

        return Verdict(**{**value, "check": EngineCheck.from_json(value["check"])})


# Less than this share of the time: what is nearly as fast is not worth other rounding, and the next
# measurement might say the opposite.
_CLEARLY = 0.95
_ROUNDS = 9
# Goes up when what is kept is no longer what this module would make.
_FORMAT = 2
_MAX_KEPT_GRAPHS = 16
_DIGEST_BYTES = hashlib.sha256().digest_size


class _Cache:
    """Compiled graphs and verdicts of one OpenVINO on one device; safe to share by processes.

    A file appears whole, and one that is damaged or of another key does not count.
    """

    def __init__(self, folder: Path, key: Mapping[str, object]) -> None:
        self.folder = folder
        self._key = {"format": _FORMAT, **key}

    def graph(self, **key: object) -> Any:
        """A compiled graph, an openvino.Tensor of bytes; None if there is none that is whole."""
        openvino, path = load_openvino(), self._path(".blob", key)
        try:
            size = path.stat().st_size - _DIGEST_BYTES
            # In memory of OpenVINO's own, which goes on using it: no copy of 35 MB.
            blob = openvino.Tensor(openvino.Type.u8, openvino.Shape([max(0, size)]))
            with path.open("rb") as file:
                digest = file.read(_DIGEST_BYTES)
                file.readinto(blob.data)
            path.touch()
        except OSError:
            return None
        if hashlib.sha256(blob.data).digest() == digest:
            return blob
        _logger.warning("the compiled graph %s is damaged, and made again", path)
        return None

    def keep_graph(self, blob: bytes, **key: object) -> None:
        """Keep a compiled graph, and let go of those that were not used for longest."""
        self._write(self._path(".blob", key), hashlib.sha256(blob).digest() + blob)
        with suppress(OSError):
            kept = sorted(self.folder.glob("*.blob"), key=lambda path: path.stat().st_mtime)
            for path in kept[:-_MAX_KEPT_GRAPHS]:
                path.unlink(missing_ok=True)

    def verdicts(self, **key: object) -> dict[str, Verdict]:
        """The verdicts of this device, by the hashes of the graphs."""
        try:
            kept = json.loads(self._path(".json", key).read_bytes())["verdicts"]
            return {graphs: Verdict.from_json(verdict) for graphs, verdict in kept.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def keep_verdicts(self, verdicts: Mapping[str, Verdict], **key: object) -> None:
        """Keep the verdicts of this device."""
        document = {
            "of": {**self._key, **key},
            "verdicts": {graphs: verdict.to_json() for graphs, verdict in verdicts.items()},
        }
        self._write(self._path(".json", key), json.dumps(document, indent=2).encode() + b"\n")

    def _path(self, suffix: str, key: Mapping[str, object]) -> Path:
        text = json.dumps({**self._key, **key}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}{suffix}"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_files_atomically({path: content})
        except (OSError, OutputFileError) as err:
            _logger.warning("OpenVINO's work is not kept for the next start: %s", err)


_HOW_TO_PREPARE = "Compare it with ONNX Runtime, once: samus-edge build --backend openvino"


class OpenVinoBackend:
    """OpenVINO on one device.

    Args:
        threads: CPU threads that compute one graph; None for `default_threads`.
        device: OpenVINO's name: "CPU", "GPU", "GPU.1", "NPU".
        precision: "f32", "bf16", "bf16+f32" or "f16", and nothing is compared; None for the fastest
            that computes what ONNX Runtime does.
        build_missing: Whether graphs are compiled and compared with ONNX Runtime that were not on
            this machine yet, which takes seconds; else that is an error, and so is a comparison
            that found ONNX Runtime faster.
        renew: Whether to compare again what was compared before.
        cache: Folder of the engines; None for the default one.

    Raises:
        BackendError: if OpenVINO or the device is not there.
    """

    def __init__(
        self,
        threads: int | None = None,
        *,
        device: str = "CPU",
        precision: str | None = None,
        build_missing: bool = True,
        renew: bool = False,
        cache: Path | None = None,
    ) -> None:
        self._device = device.upper()
        self._is_cpu = self._device == "CPU"
        self._threads = (default_threads() if threads is None else threads) if self._is_cpu else 1
        self._named_precision = precision
        self._build_missing = build_missing
        folder = (default_cache_folder() if cache is None else cache) / "openvino"
        _require_openvino()
        if not build_missing and next(folder.glob("*.json"), None) is None:
            raise BackendError(f"OpenVINO was not compared with ONNX Runtime. {_HOW_TO_PREPARE}")
        self._version = _installed_version()
        processor = {"cpu": cpu_model(), "features": cpu_features()}
        self._cache = _Cache(
            folder, {"openvino": self._version, "device": self._device, **processor}
        )
        self._verdicts = {} if renew else self._cache.verdicts(threads=self._threads)
        self._sessions: WeakValueDictionary[str, OpenVinoSession] = WeakValueDictionary()
        self._precision = precision or ""
        if build_missing and not self._is_cpu:
            self._check_device()

    @property
    def name(self) -> str:
        """ "openvino"."""
        return "openvino"

    @property
    def device(self) -> str:
        """OpenVINO's name of it."""
        return self._device

    @property
    def version(self) -> str:
        """Of OpenVINO, with what it computes in."""
        return f"{self._version} ({self._precision})" if self._precision else self._version

    @property
    def threads(self) -> int:
        """Threads that compute one graph."""
        return self._threads

    @property
    def gpu(self) -> "Device | None":
        """None: arrays are of the host."""
        return None

    def open_graph(
        self,
        name: str,
        graph: bytes,
        record: GraphRecord,
        external_data: Mapping[str, bytes] | None = None,
    ) -> OpenVinoSession:
        """Make a graph ready to run; see `Backend.open_graph`."""
        if external_data:
            raise BackendError(
                f"graph {name!r} keeps tensors in other files, which the backend openvino does not "
                "read. Export the bundle again with samus-edge export, which writes one file."
            )
        kept = [verdict for graphs, verdict in self._verdicts.items() if record.sha256 in graphs]
        if not self._build_missing:
            self._refuse(kept[0] if kept else None)
        precision = kept[0].precision if kept else self._precisions[0]
        session = OpenVinoSession(
            name,
            record,
            partial(self._compile, graph, record),
            _precision_of(record, self._named_precision or precision),
            is_fixed=not self._is_cpu,
        )
        if self._is_cpu:  # elsewhere when the first frame says how large frames are
            session.prepare({spec.name: _smallest(spec) for spec in record.inputs})
        self._sessions[record.sha256] = session
        return session

    def check(self, tested: Predictor, open_reference: Callable[..., Predictor]) -> None:
        """Compare with ONNX Runtime, or recall that this was done; see `Backend.check`."""
        if self._named_precision is not None:
            return
        verdict = self.verdict(tested, open_reference)
        if verdict.check.problems:
            raise BackendError(
                f"OpenVINO {self._version} on {self._device} does not compute what the graphs "
                f"compute on ONNX Runtime: {'; '.join(verdict.check.problems)}. Use the backend "
                "onnxruntime, or another version of OpenVINO."
            )
        if not self._build_missing:
            self._refuse(verdict)

    def verdict(self, tested: Predictor, open_reference: Callable[..., Predictor]) -> Verdict:
        """The verdict on two graphs, kept or found now; they go on in the precision that it names.

        Args:
            tested: The graphs on this backend.
            open_reference: Opens the same graphs on ONNX Runtime, with a number of threads.
        """
        graphs = " ".join(tested.graph_hashes.values())
        sessions = [self._sessions[sha256] for sha256 in tested.graph_hashes.values()]
        verdict = self._verdicts.get(graphs)
        if verdict is None:
            _logger.info("comparing OpenVINO on %s with ONNX Runtime, once", self._device)
            with closing(open_reference(self._threads if self._is_cpu else None)) as reference:
                verdict = self._measure(tested, reference, sessions)
            _logger.info("OpenVINO on %s in %s", self._device, verdict)
            self._verdicts = {**self._cache.verdicts(threads=self._threads), graphs: verdict}
            self._cache.keep_verdicts(self._verdicts, threads=self._threads)
        self._use(sessions, verdict.precision)
        for session in sessions:
            session.settle()
        return verdict

    def _refuse(self, verdict: Verdict | None) -> None:
        """Raise an error unless it has been found to compute the same in less time."""
        if verdict is None:
            raise BackendError(
                f"OpenVINO {self._version} was not compared with ONNX Runtime on this processor "
                f"with {self._threads} threads and these graphs. {_HOW_TO_PREPARE}"
            )
        if verdict.check.problems or not verdict.is_faster:
            raise BackendError(f"OpenVINO {self._version} is no gain here ({verdict}).")

    def _use(self, sessions: Sequence[OpenVinoSession], precision: str) -> None:
        self._precision = precision
        for session in sessions:
            session.precision = _precision_of(session.record, precision)

    def _measure(
        self, tested: Predictor, reference: Predictor, sessions: Sequence[OpenVinoSession]
    ) -> Verdict:
        from samus_edge.runtime.backends.tensorrt.engine_check import compare_predictors

        frames = load_check_frames(_frame_hw(sessions[0], is_cpu=self._is_cpu))
        checks: dict[str, EngineCheck] = {}
        times: dict[str, list[float]] = {"onnxruntime": []}
        for precision in self._precisions:
            self._use(sessions, precision)
            checks[precision] = compare_predictors(tested, reference, frames)
            if not checks[precision].problems:
                times[precision] = []
        for _ in range(_ROUNDS):
            for name, taken in times.items():
                if name != "onnxruntime":
                    self._use(sessions, name)
                taken.append(_milliseconds(reference if name == "onnxruntime" else tested, frames))
        milliseconds = {name: float(np.median(taken)) for name, taken in times.items()}
        # The most accurate holds its place unless less precision is clearly faster.
        *rougher, best = self._precisions
        for precision in reversed(rougher):
            if precision in times and not (
                best in times and milliseconds[precision] > _CLEARLY * milliseconds[best]
            ):
                best = precision
        return Verdict(best, checks[best], milliseconds)

    @cached_property
    def _core(self) -> Any:
        global _using_process
        if _using_process not in (None, os.getpid()):
            raise BackendError(
                "OpenVINO was used before this process forked, and its threads stayed in the "
                "parent: here it would wait for them for ever. Load in the children alone, start "
                "them with the method 'spawn', or use the backend onnxruntime."
            )
        _using_process = os.getpid()
        return load_openvino().Core()

    @cached_property
    def _precisions(self) -> tuple[str, ...]:
        """What it may compute in here, the fastest by its reputation first; "bf16+f32" is the image
        encoder in bfloat16 and the mask decoder in float32, with half the error."""
        if not self._is_cpu:
            return ("f16",) if self._device.startswith("NPU") else ("f16", "f32")
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("bf16", "bf16+f32", "f32") if "BF16" in capabilities else ("f32",)

    def _check_device(self) -> None:
        """Of a GPU or NPU: to ask loads the drivers of all, and a CPU is always there."""
        available = self._core.available_devices
        known = {*available, *(name.partition(".")[0] for name in available)}
        if self._device not in known:
            raise BackendError(
                f"OpenVINO {self._version} has no device {self._device} on this machine; it has "
                f"{', '.join(available)}. An integrated GPU or an NPU needs Intel's driver."
            )

    def _compile(self, graph: bytes, record: GraphRecord, precision: str, shapes: Shapes) -> Any:
        """A compiled graph, from the cache if it is there."""
        key = {"graph": record.sha256, "precision": precision, "shapes": shapes}
        options: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self._is_cpu:
            options |= {
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": 1,
                # Else two segmenters, or two processes, are put on the same cores.
                "ENABLE_CPU_PINNING": False,
            }
        kept = self._cache.graph(**key)
        if kept is not None:
            try:
                return self._import(kept, options)
            except RuntimeError as err:
                _logger.warning("a compiled graph does not load, and is made again: %s", err)
        try:
            model = self._core.read_model(graph)
        except RuntimeError as err:
            raise BackendError(
                f"OpenVINO {self._version} cannot read {record.file} ({_end_of(err)}). Upgrade it "
                f"to 2026.0 or newer ({install_command('openvino')}), or use the backend "
                "onnxruntime."
            ) from err
        _check_tensors(record.file, "input", record.inputs, model.inputs)
        _check_tensors(record.file, "output", record.outputs, model.outputs)
        try:
            model.reshape({each: list(shape) for each, shape in shapes})
            compiled = self._core.compile_model(model, self._device, options)
        except RuntimeError as err:
            raise BackendError(
                f"OpenVINO {self._version} cannot run {record.file} on {self._device}: "
                f"{_end_of(err)}"
            ) from err
        with suppress(RuntimeError):  # of a device that gives nothing away
            self._cache.keep_graph(_exported(compiled), **key)
        return compiled

    def _import(self, kept: Any, options: Mapping[str, object]) -> Any:
        try:
            return self._core.import_model(kept, self._device, options)
        except TypeError:  # of an older version, which takes bytes
            return self._core.import_model(kept.data.tobytes(), self._device, options)


def _precision_of(record: GraphRecord, precision: str) -> str:
    """That of one graph: "bf16+f32" names the image encoder's and the others'."""
    of_encoder, _, of_others = precision.partition("+")
    takes_image = any(spec.name == "image" for spec in record.inputs)
    return of_encoder if takes_image or not of_others else of_others


def _installed_version() -> str:
    """Of OpenVINO, by what the installer wrote beside it: importlib.metadata takes longer to load
    than the rest of this module, OpenVINO as long as half a frame."""
    found = find_spec("openvino")
    if found is not None and found.origin is not None:
        for path in Path(found.origin).parents[1].glob("openvino-*.dist-info"):
            return path.name.removesuffix(".dist-info").partition("-")[2]
    return str(load_openvino().get_version()).partition("-")[0]


def _end_of(err: RuntimeError) -> str:
    """OpenVINO's messages have dozens of lines, the reason in the last."""
    return " ".join(str(err).split())[-200:]


def _smallest(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 1 for size in spec.shape)


def _exported(compiled: Any) -> bytes:
    exported = compiled.export_model()
    return exported if isinstance(exported, bytes) else bytes(exported.getvalue())


def _milliseconds(predictor: Predictor, frames: Sequence[CheckFrame]) -> float:
    """A frame with one box."""
    begun = time.perf_counter()
    predictor.decode(predictor.encode(frames[0].image), boxes=frames[0].box[None])
    return 1000 * (time.perf_counter() - begun)


# What a device that compiles for every size is checked and timed with.
_TYPICAL_FRAME_HW = (480, 640)


def _frame_hw(encoder: OpenVinoSession, *, is_cpu: bool) -> tuple[int, int] | None:
    """What frames are resized to for the check; None if each may keep its size."""
    _, height, width = encoder.record.inputs[0].shape
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    return None if is_cpu else _TYPICAL_FRAME_HW


def _check_tensors(
    file: str, kind: str, recorded: tuple[TensorSpec, ...], actual: Sequence[Any]
) -> None:
    """Compare a graph's real inputs or outputs (openvino.Output) with the manifest's."""
    found = {port.get_any_name(): port for port in actual}
    problems = [f"it has no {kind} {spec}" for spec in recorded if spec.name not in found]
    specs = {spec.name: spec for spec in recorded}
    for name, port in found.items():
        dtype = np.dtype(port.get_element_type().to_dtype()).name
        shape = tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
        if name not in specs:
            problems.append(f"its {kind} {name} is not recorded")
        elif not specs[name].accepts(dtype, shape):
            problems.append(f"its {kind} {name} is {dtype} {shape}, recorded as {specs[name]}")
    if problems:
        raise BundleError(
            f"{file} does not match the manifest: {'; '.join(problems)}. Export the bundle again."
        )
