"""Our own weights on disk: safetensors with the model's settings in the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from samus_edge.errors import WeightsError
from samus_edge.modeling.builders import samus_hf_tiny
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.atomic_write import write_files_atomically

FORMAT = "samus-edge-weights"


def save_model(model: SamusHF, path: Path, settings: Mapping[str, Any]) -> None:
    """Write weights atomically.

    Args:
        model: the model.
        path: a `.safetensors` file.
        settings: at least `arch`, `hf` and `gate`, kept as JSON in the file's metadata.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": FORMAT, "settings": json.dumps(dict(settings))}
    write_files_atomically({path: save(tensors, metadata=metadata)})


def load_model(path: Path) -> SamusHF:
    """Build the model that a file describes, with its weights, in evaluation mode.

    Raises:
        WeightsError: if the file is missing, damaged, or not written by :func:`save_model`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as err:
        raise WeightsError(f"{path} cannot be read as safetensors: {err}") from err
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is not a samus-edge weights file: the format in its metadata is "
            f"{metadata.get('format')!r}, expected {FORMAT!r}. Train with `samus-edge train`."
        )
    model = _build(metadata.get("settings", ""), path)
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in own]
    problems += [
        f"{name} {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        raise WeightsError(f"{path} does not fit the model: {'; '.join(problems)}.")
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def _build(settings_json: str, path: Path) -> SamusHF:
    """The model, with random weights, that a file's settings describe."""
    try:
        settings = json.loads(settings_json)
        arch, hf, gate = settings["arch"], settings["hf"], settings["gate"]
    except (ValueError, KeyError, TypeError) as err:
        raise WeightsError(
            f"{path} does not say what model it holds: its settings are {settings_json!r:.80}, "
            "expected JSON with arch, hf and gate."
        ) from err
    if arch != "tiny":
        raise WeightsError(f"{path} holds the architecture {arch!r}; this version knows 'tiny'.")
    return samus_hf_tiny(hf=bool(hf), gate=bool(gate))
