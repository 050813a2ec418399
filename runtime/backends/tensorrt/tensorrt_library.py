"""Finding TensorRT: one Python API under two names."""

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, Final

from samus_edge.errors import BackendError, BadArgumentError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Problem:
    """A row of the table.

    Attributes:
        versions: First parts of versions, for example "10.3.".
        compute_capabilities: Those on which it shows; empty for all.
        precisions: Precisions of graphs in which it shows; empty for all.
        text: The fault.
        remedy: What to install instead.
        source: Where it was reported, a link; "" if that is not known.
    """

    versions: tuple[str, ...]
    compute_capabilities: tuple[str, ...]
    precisions: tuple[str, ...]
    text: str
    remedy: str
    source: str


_ISSUES = "https://github.com/NVIDIA/TensorRT/issues"
_PROBLEMS = (
    _Problem(
        versions=("10.3.", "10.4."),
        compute_capabilities=(),
        precisions=(),
        text="gives wrong results for vision transformers, even in float32",
        remedy=(
            "Install 10.8 or newer; JetPack 6.1 and 6.2 come with 10.3: update to JetPack 7.2, or "
            "use the container of docker/jetson"
        ),
        source=f"{_ISSUES}/4419 (10.3), {_ISSUES}/4742 (10.4)",
    ),
    _Problem(
        versions=("10.7.",),
        compute_capabilities=(),
        precisions=(),
        text="computes self-attention wrongly, even in float32",
        remedy="Install 10.8 or newer",
        source=f"{_ISSUES}/4333, {_ISSUES}/4328",
    ),
    _Problem(
        versions=(*(f"10.{minor}." for minor in range(16)), "10.16.0.", "10.16.1."),
        compute_capabilities=("12.0", "12.1"),
        precisions=("fp16", "int8"),
        text="computes fused float16 attention wrongly on this GPU",
        remedy="Install a version after 10.16.1, or use --precision fp32, which is exact",
        source=f"{_ISSUES}/4837",
    ),
    _Problem(
        versions=("10.13.",),
        compute_capabilities=("10.1", "11.0"),
        precisions=("fp16",),
        text="computes float16 attention wrongly on Jetson Thor",
        remedy="Install 10.14 or newer, or use --precision fp32",
        source="",  # the report was not found again
    ),
)


def known_problem(
    flavour: str, version: str, compute_capability: str | None = None, precision: str | None = None
) -> str | None:
    """What is known to be wrong with a version, or None.

    Args:
        flavour: "tensorrt" or "tensorrt_rtx"; nothing is known of the second.
        version: for example "10.3.0.30".
        compute_capability: That of the GPU, for example "12.0"; None names what shows on any.
        precision: Precision of the graph, for example "fp16"; None names what shows in any.
    """
    if flavour != "tensorrt":
        return None
    for problem in _PROBLEMS:
        if not f"{version}.".startswith(problem.versions):
            continue
        elsewhere = problem.compute_capabilities and compute_capability is not None
        if elsewhere and compute_capability not in problem.compute_capabilities:
            continue
        otherwise = problem.precisions and precision is not None
        if otherwise and precision not in problem.precisions:
            continue
        source = f" Source: {problem.source}." if problem.source else ""
        return f"TensorRT {version} {problem.text}. {problem.remedy}.{source}"
    return None


def refuse_known_problem(
    flavour: str, version: str, compute_capability: str, precision: str, *, force: bool = False
) -> None:
    """Refuse a version that is known to be wrong here.

    Args:
        flavour: as for `known_problem`, like all that follow.
        version: see `known_problem`.
        compute_capability: see `known_problem`.
        precision: see `known_problem`.
        force: Whether to warn instead. The check on the device is made all the same.

    Raises:
        BackendError: naming the version, what is wrong with it, and what to install.
    """
    problem = known_problem(flavour, version, compute_capability, precision)
    if problem is None:
        return
    if not force:
        raise BackendError(f"{problem} To use it nevertheless: TensorRTOptions(force=True)")
    _logger.warning("%s It is used because that was forced.", problem)


class TensorRTLog:
    """A logger for TensorRT that writes to Python's: warnings, and at the level DEBUG the rest.

    Attributes:
        logger: the `ILogger` that TensorRT takes; must live as long as what it is given to.
        errors: TensorRT's errors since the list was last cleared, for an exception's message.
    """

    def __init__(self, trt: Any) -> None:
        """Make one for a module `tensorrt` or `tensorrt_rtx`."""
        self.errors: list[str] = []
        self.logger = _make_logger(trt, self.errors)


def _make_logger(trt: Any, errors: list[str]) -> Any:
    base: Any = trt.ILogger
    failures = (base.INTERNAL_ERROR, base.ERROR)

    class Log(base):  # type: ignore[misc]  # its class is known only when the module is imported
        def __init__(self) -> None:
            base.__init__(self)  # as pybind11 needs it

        def log(self, severity: Any, message: str) -> None:
            if severity in failures:
                errors.append(message)
            level = logging.WARNING if severity == base.WARNING else logging.DEBUG
            _logger.log(level, "%s", message)

    return Log()


TENSORRT_FLAVOURS = ("tensorrt", "tensorrt_rtx")

_TITLES: Final = MappingProxyType({"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"})
_HOW_TO_INSTALL: Final = MappingProxyType(
    {
        "tensorrt": (
            "On a Jetson it comes with JetPack (create the virtual environment with "
            "--system-site-packages); elsewhere: pip install tensorrt, or with a driver of CUDA 12 "
            "tensorrt-cu12"
        ),
        "tensorrt_rtx": "pip install 'samus-edge[tensorrt-rtx]'",
    }
)
# Of `tensorrt`: the first with strongly typed networks, progress monitors and 64-bit integers, all
# of which the build needs. TensorRT-RTX has had them from its first version.
_OLDEST_MAJOR: Final = MappingProxyType({"tensorrt": 10, "tensorrt_rtx": 1})


@dataclass(frozen=True)
class TensorRTLibrary:
    """An imported TensorRT.

    Attributes:
        module: the Python module.
        flavour: its name, "tensorrt" or "tensorrt_rtx"; their engines are not exchangeable.
        version: for example "1.7.1.116".
    """

    module: ModuleType
    flavour: str
    version: str

    def __str__(self) -> str:
        return f"{_TITLES[self.flavour]} {self.version}"


def find_tensorrt(flavour: str = "auto") -> TensorRTLibrary:
    """Import TensorRT.

    Args:
        flavour: one of `TENSORRT_FLAVOURS`; or "auto", the first of them that is installed.

    Raises:
        BadArgumentError: if the flavour is unknown.
        BackendError: if it is not installed, cannot be loaded or is too old; says how to get it.
    """
    return _load(installed_flavour(flavour))


def installed_flavour(flavour: str = "auto") -> str:
    """Which TensorRT `find_tensorrt` would import; quick, and nothing is imported.

    Raises:
        BadArgumentError: if the flavour is unknown.
        BackendError: if it is not installed; says how to get it.
    """
    if flavour not in ("auto", *TENSORRT_FLAVOURS):
        choices = ", ".join(("auto", *TENSORRT_FLAVOURS))
        raise BadArgumentError(f"flavour must be one of {choices}, got {flavour!r}.")
    wanted = TENSORRT_FLAVOURS if flavour == "auto" else (flavour,)
    for candidate in wanted:
        if importlib.util.find_spec(candidate) is not None:
            return candidate
    if flavour != "auto":
        raise BackendError(
            f"{_TITLES[flavour]} (Python module {flavour}) is not installed. "
            f"{_HOW_TO_INSTALL[flavour]}"
        )
    ways = " ".join(f"{_TITLES[name]}: {_HOW_TO_INSTALL[name]}." for name in TENSORRT_FLAVOURS)
    raise BackendError(f"neither TensorRT nor TensorRT-RTX is installed. {ways}")


def _load(flavour: str) -> TensorRTLibrary:
    title, how = _TITLES[flavour], _HOW_TO_INSTALL[flavour]
    try:
        module = importlib.import_module(flavour)
        version = str(module.__version__)
        major = int(version.split(".")[0])
    except (ImportError, OSError, AttributeError, ValueError) as err:  # a library is missing, say
        raise BackendError(
            f"{title} is installed but cannot be loaded ({err}). Install it again: {how}"
        ) from err
    if major < _OLDEST_MAJOR[flavour]:
        raise BackendError(
            f"{title} {version} is too old: version {_OLDEST_MAJOR[flavour]} or newer is needed. "
            f"{how}"
        )
    return TensorRTLibrary(module, flavour, version)
