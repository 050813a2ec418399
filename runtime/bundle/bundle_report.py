"""What `samus-edge info` reports about a bundle."""

from collections.abc import Iterator, Mapping
from textwrap import wrap

from samus_edge.runtime.bundle.bundle import Bundle, available_precisions
from samus_edge.runtime.bundle.manifest import GraphRecord
from samus_edge.runtime.bundle.records import JsonValue, to_json

__all__ = ["bundle_json", "bundle_lines"]

_WIDTH = 100


def bundle_json(bundle: Bundle) -> dict[str, JsonValue]:
    """An opened bundle as the document that `samus-edge info --json` prints.

    Args:
        bundle: as `Bundle.open` gives it, which has verified every graph's hash.
    """
    return {
        "path": str(bundle.path),
        "hashes_verified": True,
        "manifest": to_json(bundle.manifest),
    }


def bundle_lines(bundle: Bundle) -> list[str]:
    """An opened bundle as the lines that `samus-edge info` prints for people.

    Args:
        bundle: as `Bundle.open` gives it, which has verified every graph's hash.
    """
    manifest = bundle.manifest
    versions = ", ".join(f"{name} {value}" for name, value in manifest.created_with.items())
    version = manifest.format_version
    lines = [
        f"{manifest.name}: {manifest.model} ({manifest.arch}), bundle format {version}",
        f"  path: {bundle.path}",
        f"  weights: sha256 {manifest.weights_sha256}",
        f"  made with: {versions or 'not recorded'}",
        f"  mask threshold: logit > {manifest.mask_threshold:g}",
        "",
        f"graphs ({len(manifest.graphs)}, SHA-256 of each verified)",
    ]
    for name, record in manifest.graphs.items():
        lines += _graph_lines(name, record)
    lines += ["", "precisions"]
    for name, graphs in available_precisions(bundle).items():
        lines.append(f"  {name}: {graphs.image_encoder} with {graphs.mask_decoder}")
    for title, measured in (
        ("parity", manifest.parity),
        ("accuracy", manifest.accuracy),
        ("verification", manifest.verification),
    ):
        lines += ["", title, *(_tree_lines(measured, "  ") if measured else ["  not measured"])]
    lines += ["", "intended use", *_paragraph(manifest.intended_use)]
    if manifest.limits:
        lines += ["", "limits", *_bullets(manifest.limits)]
    lines += ["", f"licence: {manifest.licence}"]
    if manifest.credits:
        lines += ["", "credits", *_bullets(manifest.credits)]
    return lines


def _graph_lines(name: str, record: GraphRecord) -> list[str]:
    stored = record.weight_storage
    weights = "" if stored == record.precision else f" with {stored} weights"
    size = f"{record.size_bytes / 1e6:.2f} MB"
    return [
        f"  {name}: {record.file}, {size}, {record.precision}{weights}, opset {record.opset}",
        f"    sha256 {record.sha256}",
        *(f"    input   {spec}" for spec in record.inputs),
        *(f"    output  {spec}" for spec in record.outputs),
    ]


def _tree_lines(value: Mapping[str, JsonValue], indent: str) -> Iterator[str]:
    """Nested measurements, one per line."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield f"{indent}{name}"
            yield from _tree_lines(item, indent + "  ")
        elif isinstance(item, float):
            yield f"{indent}{name}: {item:.6g}"
        else:
            yield f"{indent}{name}: {item}"


def _paragraph(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _bullets(texts: tuple[str, ...]) -> list[str]:
    lines = []
    for text in texts:
        lines += wrap(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return lines
