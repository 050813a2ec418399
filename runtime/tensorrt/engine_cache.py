"""Built engines, kept on the disk for the next start."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from samus_edge.errors import BackendError, OutputFileError
from samus_edge.runtime.atomic_write import write_files_atomically
from samus_edge.runtime.tensorrt.engine_cache_folder import CACHE_VARIABLE, default_cache_folder
from samus_edge.runtime.tensorrt.engine_check import EngineCheck
from samus_edge.runtime.tensorrt.engine_key import EngineKey

__all__ = ["CachedEngine", "EngineCache"]

_STALE_SECONDS = 24 * 3600

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedEngine:
    """An engine in the cache.

    Attributes:
        path: of the engine's file.
        key: what it belongs to.
        sha256: of the file.
        size_bytes: of the file.
        build_seconds: how long the build took.
        built: when, seconds since 1970.
        graph: the graph's name when it was built, for people.
    """

    path: Path
    key: EngineKey
    sha256: str
    size_bytes: int
    build_seconds: float
    built: float
    graph: str

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
                f"engine {self.path} is damaged: it has {len(content)} bytes and is not what was written. "
                "Build it again: samus-edge build --rebuild"
            )
        return content


class EngineCache:
    """A folder of engines; safe to use from several threads and processes at once.

    An engine is two files, `<digest>.plan` and `<digest>.json`; the second is written last, and
    without it the first does not count. Checks on the device are in `<digest>.checks.json`.
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

    def find(self, wanted: EngineKey) -> CachedEngine | None:
        """The engine to use for a graph on a GPU, or None.

        Args:
            wanted: the key with the default options; an engine of other options fits as well, and the
                one that was built last is taken: whoever builds with options means to use them.
        """
        return next(
            (entry for entry in self.entries() if not entry.key.why_not(wanted)),
            None,
        )

    def why_none(self, wanted: EngineKey) -> list[str]:
        """Why no engine of the same graph fits, a line for each that is there."""
        return [
            f"{entry.path.name}: {'; '.join(entry.key.why_not(wanted))}"
            for entry in self.entries()
            if entry.key.graph_sha256 == wanted.graph_sha256 and entry.key.why_not(wanted)
        ]

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
                f"the engine cache {self.folder} cannot be made ({err.strerror or err}). Name another "
                f"folder in the environment variable {CACHE_VARIABLE}."
            ) from err
        self._sweep()
        entry = CachedEngine(
            path=self._file(key, ".plan"),
            key=key,
            sha256=hashlib.sha256(engine).hexdigest(),
            size_bytes=len(engine),
            build_seconds=build_seconds,
            built=time.time(),
            graph=graph,
        )
        document = {
            "key": key.to_json(),
            "sha256": entry.sha256,
            "bytes": entry.size_bytes,
            "build_seconds": round(build_seconds, 3),
            "built": entry.built,
            "graph": graph,
        }
        # An earlier check was of other bytes.
        with contextlib.suppress(OSError):
            self._file(key, ".checks.json").unlink(missing_ok=True)
        write_files_atomically(
            {
                entry.path: engine,
                self._file(key, ".json"): json.dumps(document, indent=2).encode() + b"\n",
            }
        )
        return entry

    def remove(self, entry: CachedEngine) -> None:
        """Delete an engine and what is known of it."""
        for suffix in (".json", ".checks.json", ".plan"):
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
    document = json.loads(path.read_bytes())
    try:
        return CachedEngine(
            path=path.with_suffix(".plan"),
            key=EngineKey.from_json(document["key"]),
            sha256=str(document["sha256"]),
            size_bytes=int(document["bytes"]),
            build_seconds=float(document["build_seconds"]),
            built=float(document["built"]),
            graph=str(document["graph"]),
        )
    except (KeyError, TypeError) as err:
        raise ValueError(f"{path} is no record of an engine ({err})") from err
