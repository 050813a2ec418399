"""What an engine belongs to: it is of no use for anything else."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from samus_edge.runtime.tensorrt.engine_profiles import EngineProfile

__all__ = ["ENGINE_FORMAT", "EngineKey", "profiles_to_json"]

# Goes up when `build_engine` changes what it makes of the same graph.
ENGINE_FORMAT = 1

_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class EngineKey:
    """The identity of an engine.

    Attributes:
        flavour: "tensorrt" or "tensorrt_rtx".
        version: of that library, for example "1.7.1.116".
        gpu_name: the GPU that it was built on; None for any of the compute capability, which
            TensorRT-RTX builds for.
        compute_capability: for example "8.6".
        graph_sha256: of the ONNX file.
        profiles: as `profiles_to_json` gives them, in canonical JSON.
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

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> "EngineKey":
        """From what `to_json` gave.

        Raises:
            TypeError, ValueError: if it is anything else.
        """
        if not isinstance(value, Mapping):
            raise TypeError("the key is no JSON object")
        fields: Mapping[str, Any] = value
        try:
            key = EngineKey(**fields)
        except TypeError as err:
            raise ValueError(f"the key has other fields ({err})") from err
        texts = (key.flavour, key.version, key.compute_capability, key.graph_sha256, key.profiles)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("the key has fields of other types")
        return key

    def why_not(self, other: "EngineKey") -> list[str]:
        """What keeps an engine of this key from being used where `other` is asked for, in words."""
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
        return reasons


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
