"""`samus-edge export`: weights in, checked bundle out."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    weights: Annotated[
        Path, typer.Option(help="Weights (.safetensors) to export.", exists=True, dir_okay=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.", file_okay=False)],
    frames: Annotated[
        Path,
        typer.Option(
            help="Folder of real frames (PNG) on which the graphs are compared with torch.",
            exists=True,
            file_okay=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the bundle.", show_default="samus-hf- and the architecture"),
    ] = None,
    credit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Whose data the weights were trained on, for the manifest. Repeat for more.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 20 or newer.")] = 20,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle.")
    ] = False,
) -> None:
    """Export weights to a bundle: image encoder, mask decoder and manifest.

    The written files are run on ONNX Runtime and compared with torch on every frame; a bundle that
    differs is not left behind.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from samus_edge.export.bundle_writer import BundleText, write_bundle
    from samus_edge.runtime.file_hash import sha256_of_file
    from samus_edge.runtime.image_io import read_image
    from samus_edge.weights.model_file import load_model

    paths = sorted(frames.glob("*.png"))
    if not paths:
        raise typer.BadParameter(f"{frames} holds no PNG file.", param_hint="--frames")
    console = Console()
    model = load_model(weights)
    with console.status("exporting") as status:
        manifest, parity = write_bundle(
            model,
            out,
            text=BundleText.of(model, name, credit or ()),
            weights_sha256=sha256_of_file(weights),
            frames=[read_image(path) for path in paths],
            opset=opset,
            overwrite=overwrite,
            report=status.update,
        )
    table = Table(title=escape(f"{out}: {manifest.name}"), title_justify="left")
    for column in ("graph", "MB", "weights", "opset"):
        table.add_column(column)
    for graph, record in manifest.graphs.items():
        size = f"{record.size_bytes / 1e6:.2f}"
        table.add_row(graph, size, record.weight_storage, str(record.opset))
    console.print(table)
    for graph, record in manifest.graphs.items():
        console.print(f"{graph}", highlight=False)
        for arrow, specs in (("in ", record.inputs), ("out", record.outputs)):
            for spec in specs:
                console.print(f"  {arrow} {spec}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"parity with torch on {parity.frames} frames, {parity.prompts} prompts: logits within "
        f"{parity.max_abs_logit_error:.1e}, worst mask IoU {parity.min_mask_iou:.5f}",
        highlight=False,
        soft_wrap=True,
    )
