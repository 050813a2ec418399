"""From an ONNX graph to a TensorRT engine.

One code path for TensorRT 10 and 11 and for TensorRT-RTX. Run in tests with TensorRT-RTX alone,
which builds without a GPU; `tensorrt` needs one to build, and no build with it was tried yet.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from samus_edge.errors import BackendError, BadArgumentError, BundleError, OutputFileError
from samus_edge.runtime.backends.tensorrt.tensorrt_library import TensorRTLibrary, TensorRTLog
from samus_edge.runtime.bundle.manifest import GraphRecord, mask_input_hw
from samus_edge.runtime.images.output_files import write_files_atomically

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """The shapes that one input may have; TensorRT's optimisation profile of a tensor.

    Attributes:
        smallest: lower bound of every axis.
        typical: The shape to be fast for, within the bounds.
        largest: upper bound of every axis; memory is reserved for it.

    Raises:
        BadArgumentError: if the ranks differ, a size is not a positive integer, or an axis does not
            have smallest <= typical <= largest.
    """

    smallest: Shape
    typical: Shape
    largest: Shape

    def __post_init__(self) -> None:
        if not len(self.smallest) == len(self.typical) == len(self.largest):
            raise BadArgumentError(
                f"the shapes of a range must have the same number of axes, got {self}."
            )
        sizes = (*self.smallest, *self.typical, *self.largest)
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
            raise BadArgumentError(f"the sizes of a range must be positive integers, got {self}.")
        axes = zip(self.smallest, self.typical, self.largest, strict=True)
        if any(not low <= typical <= high for low, typical, high in axes):
            raise BadArgumentError(
                f"every axis of a range must have smallest <= typical <= largest, got {self}."
            )

    @staticmethod
    def fixed(shape: Shape) -> "ShapeRange":
        """One shape alone."""
        return ShapeRange(shape, shape, shape)

    def fixed_size(self, axis: int) -> int | None:
        """The only size that an axis may have, or None where it may vary."""
        low, high = self.smallest[axis], self.largest[axis]
        return low if low == high else None

    def contains(self, shape: Shape) -> bool:
        """Whether every axis of a shape is within the bounds."""
        return len(shape) == len(self.smallest) and all(
            low <= size <= high
            for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.smallest} to {self.largest}, typically {self.typical}"


# The range of every input whose shape the graph leaves open, by name.
EngineProfile: TypeAlias = Mapping[str, ShapeRange]


def image_encoder_profile(
    smallest_hw: tuple[int, int],
    typical_hw: tuple[int, int] | None = None,
    largest_hw: tuple[int, int] | None = None,
    *,
    frames: int = 1,
) -> EngineProfile:
    """Frame sizes for the image encoder.

    Args:
        smallest_hw: (H, W) of the smallest frame, pixels; alone, the size of every frame.
        typical_hw: the size to be fast for; None for the largest.
        largest_hw: None for the larger of the others.
        frames: B, of one size, in every run; engines are built for one number.

    Raises:
        BadArgumentError: if the sizes are not positive or not in order.
    """
    largest = largest_hw or typical_hw or smallest_hw
    typical = typical_hw or largest
    return {"image": ShapeRange((frames, *smallest_hw), (frames, *typical), (frames, *largest))}


def mask_decoder_profile(
    mask_input_hw: tuple[int, int],
    *,
    typical_prompts: int = 1,
    max_prompts: int = 16,
    typical_points: int = 2,
    max_points: int = 16,
) -> EngineProfile:
    """Numbers of prompts and points for the mask decoder, each from 1.

    Args:
        mask_input_hw: (h, w) of the mask input; see `graph_contract.mask_input_hw`.
        typical_prompts: N to be fast for.
        max_prompts: largest N; 1 fixes it.
        typical_points: P to be fast for; a box, or a point with its padding, has 2.
        max_points: largest P.

    Raises:
        BadArgumentError: if a number is not positive, or a typical one above the largest.
    """

    def prompts_and_points(*rest: int) -> ShapeRange:
        return ShapeRange(
            (1, 1, *rest),
            (typical_prompts, typical_points, *rest),
            (max_prompts, max_points, *rest),
        )

    def prompts(*rest: int) -> ShapeRange:
        return ShapeRange((1, *rest), (typical_prompts, *rest), (max_prompts, *rest))

    return {
        "point_coords": prompts_and_points(2),
        "point_labels": prompts_and_points(),
        "mask_input": prompts(1, *mask_input_hw),
        "has_mask_input": prompts(1),
    }


ANY_FRAME = ShapeRange((64, 64), (512, 640), (2048, 2048))
"""The frames that an image encoder takes unless told otherwise, (H, W), pixels."""


@dataclass(frozen=True)
class EngineOptions:
    """How engines are built; the defaults are right for most.

    Attributes:
        frames: Sizes (H, W) of frames; of no effect on a bundle that takes one size.
        frames_per_run: Frames in every run of the image encoder; `Segmenter` gives it one.
        max_prompts: Most prompts in one run of the mask decoder; more are split.
        max_points: Most points of one prompt; the two corners of a box count.
        tf32: Whether float32 products are rounded to 10 bits of mantissa; faster on tensor cores.
        workspace_bytes: Largest GPU memory that a layer may take for itself; None for no limit.
    """

    frames: ShapeRange = ANY_FRAME
    frames_per_run: int = 1
    max_prompts: int = 16
    max_points: int = 16
    tf32: bool = False
    workspace_bytes: int | None = None

    def profiles(self, record: GraphRecord) -> tuple[EngineProfile, ...]:
        """The optimisation profiles of a graph; none where it leaves no size open.

        A mask decoder gets two: for one prompt, which is what an operator waits for, and for
        several. A context takes the narrowest that fits.

        Raises:
            BadArgumentError: if the sizes are not positive or not in order, or the graph takes
                other sizes.
        """
        open_inputs = {
            spec.name for spec in record.inputs if any(isinstance(size, str) for size in spec.shape)
        }
        if not open_inputs:
            return ()
        if "image" in open_inputs:
            frames = self.frames
            sizes = frames.smallest, frames.typical, frames.largest
            return ({"image": ShapeRange(*((self.frames_per_run, *size) for size in sizes))},)
        if open_inputs == {"image_embeddings"}:  # a lesion proposer: one image at a time
            (spec,) = record.inputs
            shape = tuple(size if isinstance(size, int) else 1 for size in spec.shape)
            return ({spec.name: ShapeRange(shape, shape, shape)},)
        hw = mask_input_hw(record)
        one = mask_decoder_profile(hw, max_prompts=1, max_points=self.max_points)
        if self.max_prompts == 1:
            return (one,)
        several = mask_decoder_profile(
            hw,
            typical_prompts=min(4, self.max_prompts),
            max_prompts=self.max_prompts,
            max_points=self.max_points,
        )
        return (one, several)


@dataclass(frozen=True)
class BuildProgress:
    """How far a build is.

    Attributes:
        phase: TensorRT's name of the phase, for example "Optimizing graph".
        within: the phase that this one is a part of; None for the whole build.
        done: steps of the phase that are done; all of them when the phase ends, even if it ends
            early because the build fails.
        steps: Number of its steps.
    """

    phase: str
    within: str | None
    done: int
    steps: int


def make_progress_monitor(trt: Any, on_progress: Callable[[BuildProgress], None]) -> Any:
    """TensorRT's progress monitor that calls `on_progress`, and keeps in `failure` what it raises.

    An exception must not leave a function that C++ calls.

    Args:
        trt: The module of TensorRT.
        on_progress: called after each step and at the end of each phase, from TensorRT's thread.
    """
    base: Any = trt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]  # its class is known only when the module is imported
        def __init__(self) -> None:
            base.__init__(self)  # as pybind11 needs it
            self.failure: BaseException | None = None
            self._phases: dict[str, tuple[str | None, int]] = {}

        def phase_start(self, phase: str, within: str | None, steps: int) -> None:
            self._phases[phase] = (within, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            return self._report(phase, step + 1)

        def phase_finish(self, phase: str) -> None:
            if phase in self._phases:
                self._report(phase, self._phases[phase][1])  # not every step is told
                del self._phases[phase]

        def _report(self, phase: str, done: int) -> bool:
            """Whether the build is to go on."""
            within, steps = self._phases.get(phase, (None, done))
            if self.failure is None:
                try:
                    on_progress(BuildProgress(phase, within, done, steps))
                except BaseException as err:  # noqa: BLE001  # raised again by build_engine
                    self.failure = err
            return self.failure is None

    return Monitor()


_MAX_ERRORS_SHOWN = 5
# Said after another error by everything that looks for a GPU; never the reason by itself.
_NO_GPU_ECHO = "catchCudaError"

_logger = logging.getLogger(__name__)


def build_engine(
    graph: bytes,
    *,
    library: TensorRTLibrary,
    name: str = "graph",
    profiles: Sequence[EngineProfile] = (),
    compute_capability: str | None = None,
    workspace_bytes: int | None = None,
    timing_cache: Path | None = None,
    tf32: bool = False,
    log_layers: bool = False,
    on_progress: Callable[[BuildProgress], None] | None = None,
) -> bytes:
    """Build an engine: strongly typed, so every tensor has the type that the graph gives it.

    An axis that has one size in all profiles becomes a constant of the engine. TensorRT's messages
    go to Python's logging, see `TensorRTLog`; its errors are in the exception, or are warnings if
    there is an engine in spite of them.

    Args:
        graph: the bytes of an ONNX file with all tensors in it.
        library: A result of `find_tensorrt`; the engine runs on the same flavour and version only.
        name: Name of the graph, for messages.
        profiles: In each, a range for every input whose shape the graph leaves open; empty for a
            graph of fixed shapes. One is enough; several make an engine fast for several sizes.
        compute_capability: That of the GPU to build for, for example "8.6", whether or not
            there is one here (TensorRT-RTX only); None for the library's choice, which for
            `tensorrt` is the GPU of this machine.
        workspace_bytes: Largest GPU memory that a layer may take for itself; None for no limit.
        timing_cache: a file to which `tensorrt` adds what it measured, and from which it takes it
            the next time; made if it is not there. One that is refused or cannot be written is said
            and done without. TensorRT-RTX measures nothing and ignores it.
        tf32: Whether float32 products are rounded to 10 bits of mantissa; faster on tensor cores.
        log_layers: Whether to log the engine's layers with their tensors and kernels, at DEBUG.
        on_progress: called after each step; what it raises ends the build and is raised again.

    Returns:
        The engine, serialised.

    Raises:
        BadArgumentError: if the profiles do not fit the graph's inputs, or a number is out of
            range.
        BundleError: if the bytes are not an ONNX graph.
        BackendError: if TensorRT refuses the graph (names node and operator), cannot build for the
            compute capability, or fails.
    """
    if workspace_bytes is not None and workspace_bytes < 0:
        raise BadArgumentError(f"workspace_bytes must not be negative, got {workspace_bytes}.")
    trt: Any = library.module
    _check_ranks(profiles)
    log = TensorRTLog(trt)
    errors = log.errors
    builder = _created(library, errors, lambda: trt.Builder(log.logger))
    config = _created(library, errors, builder.create_builder_config)
    _set_compute_capability(config, library, compute_capability)

    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    flags = 0 if strongly_typed is None else 1 << int(strongly_typed)  # TensorRT 11 has no other
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        raise _parser_error(library, name, parser)
    if network.num_inputs == 0 or network.num_outputs == 0:
        raise BundleError(f"graph {name!r} is not a valid ONNX graph: it has no inputs or outputs.")

    _fix_sizes(network, profiles)
    _add_profiles(builder, config, network, name, profiles)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # TensorRT sets it by itself
    if log_layers:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    monitor = None if on_progress is None else make_progress_monitor(trt, on_progress)
    if monitor is not None:
        config.progress_monitor = monitor
    if library.flavour == "tensorrt_rtx":
        timing_cache = None  # its functions do nothing there and warn of it
    if timing_cache is not None:
        _read_timing_cache(config, timing_cache)

    errors.clear()
    engine = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.failure is not None:
        raise monitor.failure
    if engine is None:
        raise BackendError(f"{library} cannot build graph {name!r}: {_reasons(errors)}")
    for message in errors:
        _logger.warning("%s", message)
    if timing_cache is not None:
        _keep_timing_cache(config, timing_cache)
    return bytes(engine)


def _check_ranks(profiles: Sequence[EngineProfile]) -> None:
    """All profiles must have the same inputs with the same numbers of axes."""
    ranks = [{name: len(sizes.smallest) for name, sizes in profile.items()} for profile in profiles]
    if any(other != ranks[0] for other in ranks):
        raise BadArgumentError(
            "all profiles must have the same inputs with the same numbers of axes, got "
            f"{'; '.join(map(str, ranks))}."
        )


def _fix_sizes(network: Any, profiles: Sequence[EngineProfile]) -> None:
    """Make constants of the open axes that have the same size in all profiles."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        ranges = [profile[tensor.name] for profile in profiles if tensor.name in profile]
        shape = list(tensor.shape)
        if any(len(sizes.smallest) != len(shape) for sizes in ranges):
            continue  # `_add_profiles` says what does not fit
        for axis, size in enumerate(shape):
            fixed = {sizes.fixed_size(axis) for sizes in ranges}
            if size == -1 and len(fixed) == 1:
                shape[axis] = fixed.pop() or -1
        tensor.shape = shape


def _created(library: TensorRTLibrary, errors: list[str], create: Callable[[], Any]) -> Any:
    """What TensorRT creates; without a GPU, `tensorrt` raises or gives None."""
    try:
        created = create()
    except (TypeError, RuntimeError) as err:
        raise BackendError(f"{library} does not start: {_reasons(errors) or err}") from err
    if created is None:
        raise BackendError(f"{library} does not start: {_reasons(errors)}")
    return created


def _set_compute_capability(
    config: Any, library: TensorRTLibrary, compute_capability: str | None
) -> None:
    if compute_capability is None:
        return
    kinds = getattr(library.module, "ComputeCapability", None)
    if kinds is None or not hasattr(config, "set_compute_capability"):
        raise BackendError(
            f"{library} builds for the GPU of this machine only, not for the compute capability "
            f"{compute_capability}. Leave it out on a machine with that GPU, or use TensorRT-RTX."
        )
    # "8.6" by its member SM86
    members = {
        f"{name[2:-1]}.{name[-1]}": kind
        for name, kind in kinds.__members__.items()
        if name.startswith("SM")
    }
    kind = members.get(compute_capability)
    if kind is None:
        raise BackendError(
            f"{library} does not build for the compute capability {compute_capability!r}, only for "
            f"{', '.join(members)}. For other GPUs use TensorRT on a machine that has one."
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(kind, 0)


def _parser_error(library: TensorRTLibrary, name: str, parser: Any) -> BackendError | BundleError:
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    if any(error.code().name == "MODEL_DESERIALIZE_FAILED" for error in found):
        return BundleError(
            f"graph {name!r} is not a valid ONNX graph ({found[0].desc()}). Export the bundle "
            "again."
        )
    described = []
    for error in found[:_MAX_ERRORS_SHOWN]:
        operator, node = error.node_operator(), error.node_name()
        where = f"node {node!r} ({operator})" if node else f"a node {operator or 'without a name'}"
        described.append(f"{where}: {_reasons(error.desc().splitlines())}")
    if len(found) > _MAX_ERRORS_SHOWN:
        described.append(f"and {len(found) - _MAX_ERRORS_SHOWN} more")
    return BackendError(f"{library} refuses graph {name!r}: {'; '.join(described)}")


def _reasons(messages: Iterable[str]) -> str:
    """TensorRT's messages in one line, without those that only follow from another."""
    lines = [message.strip() for message in messages if message.strip()]
    telling = [line for line in lines if _NO_GPU_ECHO not in line] or lines
    # The parser's "false" means an operator that it does not know.
    return "; ".join("it is not supported" if line == "false" else line for line in telling)


def _add_profiles(
    builder: Any, config: Any, network: Any, name: str, profiles: Sequence[EngineProfile]
) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    still_open = {tensor for tensor, shape in shapes.items() if -1 in shape}
    problems = [] if profiles else [f"no profile gives {tensor} a range" for tensor in still_open]
    for profile in profiles:
        problems += [f"{tensor} has no range" for tensor in still_open - profile.keys()]
        for tensor, sizes in profile.items():
            if not _fits(shapes.get(tensor), sizes):
                actual = shapes.get(tensor, "no such input")
                problems.append(f"{tensor} has the range {sizes}, but in the graph {actual}")
    if problems:
        known = ", ".join(f"{tensor} {shape}" for tensor, shape in shapes.items())
        raise BadArgumentError(
            f"the profiles do not fit graph {name!r}: {'; '.join(sorted(set(problems)))}. "
            f"Its inputs are {known}, -1 for a size that may vary."
        )
    for profile in profiles if still_open else ():
        made = builder.create_optimization_profile()
        for tensor in sorted(still_open):
            sizes = profile[tensor]
            made.set_shape(tensor, sizes.smallest, sizes.typical, sizes.largest)
        if config.add_optimization_profile(made) < 0:
            raise BackendError(f"TensorRT refuses a profile for graph {name!r}: {dict(profile)}")


def _fits(shape: tuple[int, ...] | None, sizes: ShapeRange) -> bool:
    if shape is None or len(shape) != len(sizes.smallest):
        return False
    return all(size in (-1, sizes.fixed_size(axis)) for axis, size in enumerate(shape))


def _read_timing_cache(config: Any, path: Path) -> None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as err:
        _logger.warning("timing cache %s cannot be read (%s); measuring anew", path, err)
        content = b""
    for measured in dict.fromkeys((content, b"")):
        cache = config.create_timing_cache(measured)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return
        _logger.warning("TensorRT refuses the timing cache %s; measuring anew", path)


def _keep_timing_cache(config: Any, path: Path) -> None:
    """The engine is built: nothing here may stop it."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        write_files_atomically({path: bytes(cache.serialize())})
    except OutputFileError as err:
        _logger.warning("the timing cache is not kept: %s", err)
