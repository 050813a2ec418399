"""`samus-edge info`: what is in a bundle, or in a model."""

from pathlib import Path
from typing import Annotated

import typer

from samus_edge.archs import check_arch

__all__ = ["command"]


def command(
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="PATH",
            help="Bundle to show instead of the default one: a folder, or a zip file of it.",
        ),
    ] = None,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of text.")
    ] = False,
) -> None:
    """Check a bundle's hashes and show its graphs, measurements, licence and intended use.

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
    from samus_edge.runtime.bundle.bundle_report import bundle_json, bundle_lines

    opened = Bundle.open(bundle)
    if as_json:
        import json

        typer.echo(json.dumps(bundle_json(opened), indent=2, allow_nan=False))
    else:
        typer.echo("\n".join(bundle_lines(opened)))


def _show_model(arch: str | None, weights: Path | None, as_json: bool) -> None:
    """Print the parameters of each part; needs torch."""
    if arch is not None:
        check_arch(arch)
    from samus_edge.weights.model_file import report_of_arch, report_of_weights

    report = report_of_weights(weights) if weights is not None else report_of_arch(arch or "")
    if as_json:
        import json

        typer.echo(json.dumps(report.to_json(), indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(report.title), title_justify="left", show_footer=True)
    table.add_column("part", footer="all")
    for header, total in (("parameters", report.parameters), ("trained", report.trainable)):
        table.add_column(header, footer=f"{total:,}", justify="right")
    for size in report.parts:
        table.add_row(size.part, f"{size.parameters:,}", f"{size.trainable:,}")
    Console().print(table)
