"""`samus-edge info`: what is in a bundle."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="DIR", help="Bundle to show instead of the default one."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of text.")
    ] = False,
) -> None:
    """Check a bundle's hashes and show its graphs, measurements, licence and intended use.

    Exit codes: 0 whole; 1 missing, damaged or of a newer format; 2 an argument is wrong.
    """
    # Here, so that --help answers at once.
    from samus_edge.runtime.bundle import Bundle
    from samus_edge.runtime.bundle_report import bundle_json, bundle_lines

    opened = Bundle.open(bundle)
    if as_json:
        import json

        typer.echo(json.dumps(bundle_json(opened), indent=2, allow_nan=False))
    else:
        typer.echo("\n".join(bundle_lines(opened)))
