"""`samus-edge sign`: say who made a bundle, so that `--require-signature` can ask for it."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    bundle: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Bundle to sign, a folder.", exists=True, file_okay=False),
    ],
    key: Annotated[
        Path,
        typer.Option(
            metavar="FILE.pem",
            help="Private key: P-256, P-384 or P-521, not encrypted.",
            exists=True,
            dir_okay=False,
        ),
    ],
    certificates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pem",
            help="The key's certificate, then those between it and the root. Left out: who checks "
            "needs the public key.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Sign every file of a finished bundle, into model.sig beside them (OpenSSF Model Signing).

    Whatever changes the bundle afterwards (calibrate, --record) makes the signature void. Every
    command that takes a bundle checks it with --require-signature; nothing is asked of a network.

    Exit codes: 0 signed; 1 the bundle is damaged, or not a folder; 2 an argument is wrong.
    """
    from samus_edge.runtime.bundle.bundle import Bundle

    typer.echo(f"signed: {Bundle.open(bundle).sign(key, certificates)}")
