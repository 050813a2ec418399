"""`samus-edge convert`: a checkpoint in, weights of our own out."""

from pathlib import Path
from typing import Annotated

import typer

from samus_edge.archs import check_arch
from samus_edge.cli.options import RequireSignature, check_signed_start

__all__ = ["command"]


def command(
    checkpoint: Annotated[
        Path,
        typer.Option(
            metavar="FILE|BUNDLE",
            help="sam_vit_b_01ec64.pth or a SAMUS checkpoint (vit_b), lite_medsam.pth (tiny), "
            "weights of samus-edge, or a bundle.",
        ),
    ],
    arch: Annotated[str, typer.Option(metavar="NAME", help="tiny or vit_b.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE.safetensors", help="Weights to write; replaced if there.")
    ],
    hf: Annotated[
        bool, typer.Option("--hf/--no-hf", help="Whether the high-frequency image is seen.")
    ] = True,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Whether there is an attention gate.")
    ] = True,
    average: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|BUNDLE",
            help="Average the weights with these: as a rule those that a training started from, "
            "which keeps more of what they knew.",
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="What those of --average count; the lesion proposer is not averaged.",
            show_default="0.5",
        ),
    ] = None,
    require_signature: RequireSignature = None,
) -> None:
    """Turn a checkpoint into weights that train, export and eval take.

    Prints which tensors were taken, adapted, new (drawn from seed 0) and left over. With a SAMUS
    checkpoint the model computes what SAMUS does until it is trained. No pickled code is run.

    Exit codes: 0 written; 1 not a checkpoint for this architecture, or out not writable; 2 an
    argument is wrong.
    """
    # Here, so that --help answers at once.
    from samus_edge.weights.checkpoint_loading import convert_checkpoint

    if share is not None and average is None:
        raise typer.BadParameter("goes with --average.", param_hint="--share")
    check_signed_start(require_signature, checkpoint, average)
    account = convert_checkpoint(
        checkpoint,
        out,
        arch=check_arch(arch),
        hf=hf,
        gate=gate,
        average=average,
        share=0.5 if share is None else share,
    )
    typer.echo(account.summary())
    typer.echo(f"weights: {out}")
