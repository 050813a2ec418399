"""Built engines, kept on the disk for the next start."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from samus_edge.errors import BackendError, OutputFileError
from samus_edge.runtime.backends.backend import CACHE_VARIABLE, default_cache_folder
from samus_edge.runtime.backends.tensorrt.engine_build import EngineProfile, ShapeRange
from samus_edge.runtime.backends.tensorrt.engine_check import EngineCheck
from samus_edge.runtime.bundle.records import from_json, parse_json, to_json
from samus_edge.runtime.images.output_files import write_files_atomically

# Goes up when `build_engine` changes what it makes of the same graph.
ENGINE_FORMAT = 1

_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class EngineKey:
    """The identity of an engine.

    Attributes:
        flavour: "tensorrt" or "tensorrt_rtx".
        version: Version of that library, for example "1.7.1.116".
        gpu_name: the GPU that it was built on, see `EngineTarget`; None for any of the compute
            capability, which TensorRT-RTX builds for.
        compute_capability: for example "8.6".
        graph_sha256: SHA-256 of the ONNX file.
        profiles: A result of `profiles_to_json`.
        tf32: see `EngineOptions`.
        workspace_bytes: see `EngineOptions`.
        engine_format: `ENGINE_FORMAT` of the samus-edge that built it.
    """

    flavour: str
    version: str
    gpu_name: str | None
    compute_capability: str
    graph_sha256: str
    profiles: str
    tf32: bool
    workspace_bytes: int | None
    engine_format: int = ENGINE_FORMAT

    @property
    def digest(self) -> str:
        """32 hexadecimal digits, the same for equal keys on every machine."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def why_not(self, other: "EngineKey", *, any_options: bool = False) -> list[str]:
        """What keeps an engine of this key from being used where `other` is asked for, in words.

        Args:
            other: The key that is asked for.
            any_options: Whether an engine of other options does as well.
        """
        reasons: list[str] = []
        if self.graph_sha256 != other.graph_sha256:
            reasons.append(
                f"it is of the graph {self.graph_sha256[:_SHOWN_DIGITS]}, not "
                f"{other.graph_sha256[:_SHOWN_DIGITS]}"
            )
        if self.flavour != other.flavour:
            reasons.append(f"it was built by {self.flavour}, not {other.flavour}")
        elif self.version != other.version:
            reasons.append(
                f"it was built by {self.flavour} {self.version}, here is {other.version}"
            )
        if self.compute_capability != other.compute_capability:
            reasons.append(
                f"it is for the compute capability {self.compute_capability}, this GPU has "
                f"{other.compute_capability}"
            )
        elif self.gpu_name not in (None, other.gpu_name):
            reasons.append(f"it was built on {self.gpu_name}, this GPU is {other.gpu_name}")
        if self.engine_format != other.engine_format:
            reasons.append("it was built by another version of samus-edge")
        if not any_options:
            names = {"profiles": "sizes", "tf32": "tf32", "workspace_bytes": "workspace"}
            others = [
                word for name, word in names.items() if getattr(self, name) != getattr(other, name)
            ]
            if others:
                reasons.append(f"it was built with other {', '.join(others)}")
        return reasons


def image_sizes(profiles: str) -> ShapeRange | None:
    """The shapes (B, H, W) of images that an engine takes; None if it takes no image of open size.

    Args:
        profiles: A result of `profiles_to_json`.
    """
    for profile in json.loads(profiles):
        if "image" in profile:
            return ShapeRange(*map(tuple, profile["image"]))
    return None


def profiles_to_json(profiles: Sequence[EngineProfile]) -> str:
    """Canonical JSON of optimisation profiles, for a key."""
    plain = [
        {
            name: [list(sizes.smallest), list(sizes.typical), list(sizes.largest)]
            for name, sizes in profile.items()
        }
        for profile in profiles
    ]
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


@contextlib.contextmanager
def process_lock(
    path: Path, *, timeout_seconds: float, on_wait: Callable[[], None] = lambda: None
) -> Iterator[bool]:
    """Hold a lock that at most one process holds at a time; it ends with the process.

    Args:
        path: The lock's file; made if it is not there, and left there.
        timeout_seconds: How long to wait for another process.
        on_wait: Called once if another process holds the lock.

    Yields:
        Whether there is a lock: False where the file cannot be made or the file system has no
        locks; two processes may then do the same work, and both do it right.

    Raises:
        BackendError: if another process holds it for longer.
    """
    from filelock import FileLock, Timeout  # here: only builds need it, and it costs 40 ms

    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire(timeout=timeout_seconds, poll_interval=0.2)
    except Timeout as err:
        raise BackendError(
            f"another process has been building this engine for {timeout_seconds:.0f} seconds. "
            f"Wait for it, or end it; who it is: fuser {path}"
        ) from err
    except OSError:  # a read-only folder, or a file system without locks
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


_STALE_SECONDS = 24 * 3600

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _EngineDocument:
    """What stands beside an engine in the cache; see `CachedEngine`."""

    key: EngineKey
    sha256: str
    size_bytes: int = field(metadata={"json": "bytes"})
    build_seconds: float
    built: float
    graph: str


@dataclass(frozen=True)
class CachedEngine(_EngineDocument):
    """An engine in the cache.

    Attributes:
        key: Identity of the engine.
        sha256: SHA-256 of the engine's file.
        size_bytes: Size of the engine's file.
        build_seconds: Time that the build took.
        built: Time of the build, seconds since 1970.
        graph: Name of the graph when it was built, for people.
        path: The engine's file.
    """

    path: Path

    def read(self) -> bytes:
        """The engine, with its hash checked.

        Raises:
            BackendError: if the file is missing, unreadable or not what was written.
        """
        try:
            content = self.path.read_bytes()
        except OSError as err:
            raise BackendError(
                f"engine {self.path} cannot be read ({err.strerror or err}). Build it again: "
                "samus-edge build --rebuild"
            ) from err
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise BackendError(
                f"engine {self.path} is damaged: it has {len(content)} bytes and is not what was "
                "written. Build it again: samus-edge build --rebuild"
            )
        return content


class EngineCache:
    """A folder of engines; safe to use from several threads and processes at once.

    An engine is two files, `<digest>.plan` and `<digest>.json`; the second is written last, and
    without it the first does not count. Checks on the device are in `<digest>.checks.json`, and
    what TensorRT-RTX has compiled for it in `<digest>.runtime`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Use a folder.

        Args:
            folder: need not exist; None for `default_cache_folder`.
        """
        self.folder = default_cache_folder() if folder is None else folder

    def entries(self) -> list[CachedEngine]:
        """All engines, the newest first; what is not readable is left out."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            if not path.name.endswith(".checks.json"):
                with contextlib.suppress(ValueError, OSError):
                    found.append(_read_entry(path))
        return sorted(found, key=lambda entry: entry.built, reverse=True)

    def get(self, key: EngineKey) -> CachedEngine | None:
        """The engine of exactly this key, or None."""
        try:
            entry = _read_entry(self._file(key, ".json"))
        except (OSError, ValueError):
            return None
        return entry if entry.key == key and entry.path.is_file() else None

    def find(self, wanted: EngineKey, *, any_options: bool = False) -> list[CachedEngine]:
        """The engines that may be used for a graph on a GPU, the newest first.

        Args:
            wanted: The key that is asked for.
            any_options: Whether an engine of other options does as well; of those for the same
                sizes the newest alone is given. One for several images in each run does not.
        """
        found: dict[str, CachedEngine] = {}
        for entry in self.entries():
            if entry.path.is_file() and not entry.key.why_not(wanted, any_options=any_options):
                sizes = image_sizes(entry.key.profiles)
                if not any_options or sizes is None or sizes.smallest[0] == 1:
                    found.setdefault(entry.key.profiles, entry)
        return list(found.values())

    def why_none(self, wanted: EngineKey, *, any_options: bool = False) -> list[str]:
        """Why no engine of the same graph fits, a line for each that is there; see `find`."""
        reasons = {
            entry.path.name: entry.key.why_not(wanted, any_options=any_options)
            for entry in self.entries()
            if entry.key.graph_sha256 == wanted.graph_sha256
        }
        return [f"{name}: {'; '.join(why)}" for name, why in reasons.items() if why]

    def store(
        self, key: EngineKey, engine: bytes, *, graph: str, build_seconds: float
    ) -> CachedEngine:
        """Keep an engine; one of the same key is replaced.

        Raises:
            OutputFileError: if it cannot be written; nothing is left half-written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise OutputFileError(
                f"the engine cache {self.folder} cannot be made ({err.strerror or err}). Name "
                f"another folder in the environment variable {CACHE_VARIABLE}."
            ) from err
        self._sweep()
        document = _EngineDocument(
            key=key,
            sha256=hashlib.sha256(engine).hexdigest(),
            size_bytes=len(engine),
            build_seconds=round(build_seconds, 3),
            built=time.time(),
            graph=graph,
        )
        entry = CachedEngine(**vars(document), path=self._file(key, ".plan"))
        # An earlier check was of other bytes, and so was what was compiled.
        for suffix in (".checks.json", ".runtime"):
            with contextlib.suppress(OSError):
                self._file(key, suffix).unlink(missing_ok=True)
        write_files_atomically(
            {
                entry.path: engine,
                self._file(key, ".json"): json.dumps(to_json(document), indent=2).encode() + b"\n",
            }
        )
        return entry

    def remove(self, entry: CachedEngine) -> None:
        """Delete an engine and what is known of it."""
        for suffix in (".json", ".checks.json", ".runtime", ".plan"):
            with contextlib.suppress(OSError):
                self._file(entry.key, suffix).unlink(missing_ok=True)

    def lock_file(self, key: EngineKey) -> Path:
        """The file by which processes take turns in building an engine."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
        return self._file(key, ".lock")

    def timing_file(self, key: EngineKey) -> Path:
        """What a library has measured on a GPU; shared by all graphs."""
        name = f"{key.flavour}-{key.version}-{key.gpu_name}-{key.compute_capability}"
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        return self.folder / f"{digest}.timing"

    def check_of(
        self, encoder: CachedEngine, decoder: CachedEngine, driver: str
    ) -> EngineCheck | None:
        """What the check of two engines on a driver has found, or None if there was none."""
        try:
            checks = json.loads(self._file(encoder.key, ".checks.json").read_bytes())
            return EngineCheck.from_json(checks[_check_name(encoder, decoder, driver)])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def record_check(
        self, encoder: CachedEngine, decoder: CachedEngine, driver: str, check: EngineCheck
    ) -> None:
        """Remember a check; a cache that cannot be written to forgets it, and it is made again."""
        path = self._file(encoder.key, ".checks.json")
        try:
            checks = json.loads(path.read_bytes())
        except (OSError, ValueError):
            checks = {}
        if not isinstance(checks, Mapping):
            checks = {}
        merged = {**checks, _check_name(encoder, decoder, driver): check.to_json()}
        try:
            write_files_atomically({path: json.dumps(merged, indent=2).encode() + b"\n"})
        except OutputFileError as err:
            _logger.warning("the check of the engines is not kept: %s", err)

    def _file(self, key: EngineKey, suffix: str) -> Path:
        return self.folder / f"{key.digest}{suffix}"

    def _sweep(self) -> None:
        """Remove what builds that died have left."""
        oldest = time.time() - _STALE_SECONDS
        for pattern in (".samus-edge-*.tmp", "*.plan"):
            for path in self.folder.glob(pattern):
                is_left = path.suffix == ".tmp" or not path.with_suffix(".json").exists()
                with contextlib.suppress(OSError):
                    if is_left and path.stat().st_mtime < oldest:
                        path.unlink()


def _check_name(encoder: CachedEngine, decoder: CachedEngine, driver: str) -> str:
    """Engines by their content: built again they may differ."""
    return f"{encoder.sha256[:16]} {decoder.sha256[:16]} driver {driver}"


def _read_entry(path: Path) -> CachedEngine:
    """Raises ValueError if it is not what `store` writes."""
    document = from_json(_EngineDocument, parse_json(path.read_bytes()))
    return CachedEngine(**vars(document), path=path.with_suffix(".plan"))
