"""`samus-edge info`: what is in a bundle, or in a model."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.archs import check_arch
from samus_edge.cli.console import output_console
from samus_edge.cli.options import AsJson, BundlePath, RequireSignature, print_json

if TYPE_CHECKING:
    from samus_edge.runtime.bundle.bundle import Bundle
    from samus_edge.runtime.bundle.manifest import GraphRecord

_WIDTH = 100


def command(
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch", metavar="NAME", help="Show an architecture's parts instead: tiny or vit_b."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Show the parts of weights (.safetensors) instead."
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--all", help="Also graphs, hashes, parity, verification and credits.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's hashes and show what it is for, its limits, precisions and accuracy.

    With --arch or --weights: how many parameters each part of the model has, and how many of them a
    training changes by default.

    Exit codes: 0 whole; 1 missing, damaged or of a newer format; 2 an argument is wrong.
    """
    given = [option for option in (bundle, arch, weights) if option is not None]
    if len(given) > 1:
        raise typer.BadParameter("--bundle, --arch and --weights exclude each other.")
    if bundle is None and given:
        _show_model(arch, weights, as_json)
        return
    # Here, so that --help answers at once.
    from samus_edge.runtime.bundle.bundle import Bundle

    opened = Bundle.open(bundle, require_signature=require_signature)  # which verifies the hashes
    if as_json:
        from samus_edge.runtime.bundle.records import to_json

        manifest = to_json(opened.manifest)
        print_json({"path": str(opened.path), "hashes_verified": True, "manifest": manifest})
    else:
        typer.echo("\n".join(bundle_lines(opened, whole=whole)))


def _show_model(arch: str | None, weights: Path | None, as_json: bool) -> None:
    """Print the parameters of each part; needs torch."""
    if arch is not None:
        check_arch(arch)
    from samus_edge.weights.model_file import report_of_arch, report_of_weights

    report = report_of_weights(weights) if weights is not None else report_of_arch(arch or "")
    if as_json:
        print_json(report.to_json())
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(report.title), title_justify="left", show_footer=True)
    table.add_column("part", footer="all")
    for header, total in (("parameters", report.parameters), ("trained", report.trainable)):
        table.add_column(header, footer=f"{total:,}", justify="right")
    for size in report.parts:
        table.add_row(size.part, f"{size.parameters:,}", f"{size.trainable:,}")
    output_console().print(table)


def bundle_lines(bundle: "Bundle", *, whole: bool = False) -> list[str]:
    """An opened bundle as the lines that `samus-edge info` prints for people.

    Args:
        bundle: as `Bundle.open` gives it, which has verified every graph's hash.
        whole: the full record: graphs, hashes, everything that was measured.
    """
    from samus_edge.runtime.bundle.bundle import available_precisions

    manifest = bundle.manifest
    version = manifest.format_version
    lines = [
        f"{manifest.name}: {manifest.model} ({manifest.arch}), bundle format {version}",
        *("", "intended use", *_paragraph(manifest.intended_use)),
    ]
    if manifest.limits:
        lines += ["", "limits", *_bullets(manifest.limits)]
    lines += ["", "precisions"]
    for name, graphs in available_precisions(bundle).items():
        lines.append(f"  {name}: {graphs.image_encoder} with {graphs.mask_decoder}")
    lines += ["", "accuracy", *(_tree_lines(manifest.accuracy, "  ") or ["  not measured"])]
    lines += ["", f"path: {bundle.path}", f"licence: {manifest.licence}"]
    if not whole:
        return [
            *lines,
            "",
            "graphs, hashes, parity, verification and credits: samus-edge info --all",
        ]
    if manifest.credits:
        lines += ["", "credits", *_bullets(manifest.credits)]
    versions = ", ".join(f"{name} {value}" for name, value in manifest.created_with.items())
    lines += [
        "",
        f"weights: sha256 {manifest.weights_sha256}",
        f"made with: {versions or 'not recorded'}",
        f"mask threshold: logit > {manifest.mask_threshold:g}",
        *("", f"graphs ({len(manifest.graphs)}, SHA-256 of each verified)"),
    ]
    for name, record in manifest.graphs.items():
        lines += _graph_lines(name, record)
    for title, measured in (("parity", manifest.parity), ("verification", manifest.verification)):
        lines += ["", title, *(_tree_lines(measured, "  ") or ["  not measured"])]
    return lines


def _graph_lines(name: str, record: "GraphRecord") -> list[str]:
    stored = record.weight_storage
    weights = "" if stored == record.precision else f" with {stored} weights"
    size = f"{record.size_bytes / 1e6:.2f} MB"
    return [
        f"  {name}: {record.file}, {size}, {record.precision}{weights}, opset {record.opset}",
        f"    sha256 {record.sha256}",
        *(f"    input   {spec}" for spec in record.inputs),
        *(f"    output  {spec}" for spec in record.outputs),
    ]


def _tree_lines(value: Mapping[str, object], indent: str) -> list[str]:
    """Nested measurements, one per line."""
    lines = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            lines += [f"{indent}{name}", *_tree_lines(item, indent + "  ")]
        elif isinstance(item, float):
            lines.append(f"{indent}{name}: {item:.6g}")
        else:
            lines.append(f"{indent}{name}: {item}")
    return lines


def _paragraph(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _bullets(texts: tuple[str, ...]) -> list[str]:
    lines = []
    for text in texts:
        lines += wrap(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return lines
