"""An export with the signature of SAM's classic ONNX pair, for tools that load such pairs."""

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from samus_edge import __version__
from samus_edge.calibration.weight_storage import store_compactly
from samus_edge.errors import SamusEdgeError
from samus_edge.export.bundle_writer import NEWEST_OPSET, shipped_model
from samus_edge.export.folder_replacement import put_in_place
from samus_edge.export.opset_downgrade import GELU_OPSET, OLDEST_OPSET, downgrade
from samus_edge.export.sam_graphs import PROMPT_SIDE, sam_decoder_graph, sam_encoder_graph
from samus_edge.export.sam_profile_check import check_sam_profile
from samus_edge.export.torch_graph import DEFAULT_OPSET
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.atomic_write import write_files_atomically

__all__ = ["CONFIG_FILE", "SamProfile", "write_sam_profile"]

CONFIG_FILE = "anylabeling.yaml"
"""What AnyLabeling and X-AnyLabeling are given as a custom model; both read the same fields."""

# X-AnyLabeling takes no other letters in a model's name.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

_CONFIG = """\
# Custom model for AnyLabeling and X-AnyLabeling.
type: segment_anything
name: "{stem}"
display_name: {display_name}
encoder_model_path: "{encoder}"
decoder_model_path: "{decoder}"
input_size: {side}
max_width: {side}
max_height: {side}
"""


@dataclass(frozen=True)
class SamProfile:
    """A written pair.

    Attributes:
        folder: where it is.
        name: of the model, as files and tools have it.
        encoder: path of the encoder, `NAME.encoder.onnx`.
        decoder: path of the decoder, `NAME.decoder.onnx`.
        config: path of the custom model file for AnyLabeling and X-AnyLabeling.
        opset: ONNX operator set of both graphs.
        encoder_bytes: size of the encoder.
        decoder_bytes: size of the decoder.
    """

    folder: Path
    name: str
    encoder: Path
    decoder: Path
    config: Path
    opset: int
    encoder_bytes: int
    decoder_bytes: int

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that was written."""
        return (self.encoder, self.decoder, self.config)


def write_sam_profile(
    model: SamusHF,
    folder: Path,
    *,
    name: str,
    opset: int = DEFAULT_OPSET,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda stage: None,
) -> SamProfile:
    """Export a model as a SAM pair, compare it with the model, and only then put it in place.

    Args:
        model: the model; left as it is. Rounded as in a bundle, so both give the same masks.
        folder: where the pair goes.
        name: of the model, shown by the tools; in file names, what is neither an ASCII letter nor a
            digit nor one of `._-` becomes `-`.
        opset: ONNX operator set, from `OLDEST_OPSET` to `NEWEST_OPSET`; ONNX Runtime
            takes 20 from 1.17 on; 17 was run on 1.16.
        overwrite: whether a pair at ``folder`` is replaced.
        report: called with the name of each stage as it starts.

    Returns:
        What was written.

    Raises:
        ValueError: if ``opset`` is out of range, or nothing of the name can be in a file name.
        SamusEdgeError: if ``folder`` exists and is not to be overwritten, or is no such pair.
        ExportMismatchError: if the pair computes something else; nothing is left at ``folder``.
        OutputFileError: if a file cannot be written; nothing is left.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ValueError(f"opset must be from {OLDEST_OPSET} to {NEWEST_OPSET}, got {opset}.")
    stem = _NOT_IN_NAMES.sub("-", name).strip("-.")
    if not stem:
        raise ValueError(f"name must have a letter or digit, got {name!r}.")
    if folder.exists():
        _check_replaceable(folder, overwrite)
    model = shipped_model(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        draft = Path(temporary) / "pair"
        draft.mkdir(mode=0o755)
        builders = {"encoder": sam_encoder_graph, "decoder": sam_decoder_graph}
        sizes: dict[str, int] = {}
        for part, build in builders.items():
            report(f"exporting the {part}")
            graph = build(model, opset=max(opset, GELU_OPSET))
            if opset < GELU_OPSET:
                downgrade(graph, opset)
            content = _serialised(graph)
            write_files_atomically({draft / f"{stem}.{part}.onnx": content})
            sizes[part] = len(content)
            del graph, content  # half a gigabyte for a large encoder, before the next one is made
        report("comparing with torch")
        encoder, decoder = (f"{stem}.{part}.onnx" for part in builders)
        check_sam_profile(model, draft / encoder, draft / decoder)
        config = _CONFIG.format(
            stem=stem,
            display_name=_quoted(name),
            encoder=encoder,
            decoder=decoder,
            side=PROMPT_SIDE,
        )
        # Last: a folder without it is no pair that was finished.
        write_files_atomically({draft / CONFIG_FILE: config.encode()})
        put_in_place(draft, folder)
    return SamProfile(
        folder=folder,
        name=stem,
        encoder=folder / encoder,
        decoder=folder / decoder,
        config=folder / CONFIG_FILE,
        opset=opset,
        encoder_bytes=sizes["encoder"],
        decoder_bytes=sizes["decoder"],
    )


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not overwrite:
        raise SamusEdgeError(f"{folder} exists. Give another folder, or --overwrite to replace it.")
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG_FILE).is_file()):
        raise SamusEdgeError(
            f"{folder} is not a SAM pair of samus-edge and is not replaced: it has no "
            f"{CONFIG_FILE}. Give another folder."
        )


def _serialised(graph: ModelProto) -> bytes:
    store_compactly(graph)
    # The oldest file format that has the operator set: older ONNX Runtimes refuse newer ones.
    graph.ir_version = onnx.helper.find_min_ir_version_for(graph.opset_import)
    graph.producer_name, graph.producer_version = "samus-edge", __version__
    onnx.checker.check_model(graph, full_check=True)
    content: bytes = graph.SerializeToString(deterministic=True)
    return content


def _quoted(text: str) -> str:
    """A string in YAML, whose double-quoted strings are those of JSON."""
    return json.dumps(text, ensure_ascii=True)
