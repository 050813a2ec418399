"""`samus-edge export`: weights in, checked bundle out; or another form of what a bundle has."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.options import (
    AllowFailing,
    RequireSignature,
    command_line,
    open_signed,
    parse_frame_size,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from samus_edge.export.bundle_writer import BundleText
    from samus_edge.modeling.samus_hf import SamusHF
    from samus_edge.runtime.bundle.bundle import Bundle


class Profile(str, Enum):
    """Signatures of the exported graphs."""

    NATIVE = "native"
    SAM = "sam"


def command(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the bundle, or of the pair of --profile sam.",
            file_okay=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights (.safetensors) to export.", exists=True, dir_okay=False
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Bundle to export again instead of weights; without both the default bundle.",
        ),
    ] = None,
    require_signature: RequireSignature = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of real frames (PNG) on which the graphs are compared with torch. Left "
            "out: "
            "the eight that come with samus-edge.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    profile: Annotated[
        Profile,
        typer.Option(
            help="native: a bundle. sam: an encoder and decoder with SAM's own signature, for "
            "annotation tools."
        ),
    ] = Profile.NATIVE,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Beside fp32 also fp16. For int8: samus-edge calibrate.",
            show_default="fp32",
        ),
    ] = None,
    frame_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="The one frame size that the image encoder takes, such as 480x640; for CUDA "
            "graphs.",
            show_default="any size",
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write a model repository for Triton Inference Server here.",
            file_okay=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Name of the bundle.",
            show_default="samus-hf- and the architecture",
        ),
    ] = None,
    credit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Whose data the weights were trained on, for the manifest. Repeat for more.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option(metavar="N", help="ONNX operator set, 17 to 23.")] = 20,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Make the graphs anew with PyTorch's exporter, which takes a minute, also where "
            "those of the default bundle are the same but for their weights.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    allow_failing: AllowFailing = False,
) -> None:
    """Export weights to a bundle: image encoder, mask decoder and manifest.

    The written files are run on ONNX Runtime, compared with torch on every frame and verified; a
    bundle that differs is not left behind.
    """
    if weights is not None and bundle is not None:
        raise typer.BadParameter("give --weights or --bundle, not both.")
    if weights is not None and require_signature is not None:
        raise typer.BadParameter("is of a bundle, not weights.", param_hint="--require-signature")
    if out is None and triton is None:
        raise typer.BadParameter("give --out or --triton.")
    if profile is Profile.SAM and (out is None or triton or precision or frame_size):
        raise typer.BadParameter(
            "goes with --out, and without --triton, --precision and --frame-size.",
            param_hint="--profile sam",
        )
    if out is None and (weights or frame_size or precision or name or credit):
        raise typer.BadParameter("is needed for these options.", param_hint="--out")
    if triton is not None and frame_size is not None:
        raise typer.BadParameter(
            "goes without --frame-size: Triton joins frames of any size into batches.",
            param_hint="--triton",
        )
    for wanted in precision or ():
        if wanted not in ("fp32", "fp16"):
            raise typer.BadParameter(
                f"must be fp32 or fp16, got {wanted!r}. For int8: samus-edge calibrate",
                param_hint="--precision",
            )
    frame_hw = None if frame_size is None else parse_frame_size(frame_size)

    from rich.console import Console

    console = Console()
    with console.status("reading") as status:
        source = open_signed(bundle, require_signature)
        if out is not None and profile is Profile.SAM:
            _export_sam(console, status, out, weights, source, name, opset, overwrite)
        elif out is not None:
            _export_bundle(
                *(console, status, out, weights, source, frames, name, credit or []),
                *(opset, frame_hw, "fp16" in (precision or ()), trace, overwrite, allow_failing),
                command=command_line(context, places=False),
            )
        if triton is not None:
            _export_triton(console, status, triton, out or source, overwrite)


def _model_and_text(
    weights: Path | None, bundle: "Path | Bundle | None", name: str | None, credit: list[str]
) -> "tuple[SamusHF, BundleText, str]":
    """The model, what its bundle says about itself, and the SHA-256 of its weights."""
    from samus_edge.export.bundle_writer import BundleText
    from samus_edge.runtime.bundle.bundle import Bundle
    from samus_edge.runtime.images.output_files import sha256_of_file
    from samus_edge.weights.bundle_file import load_bundle_model
    from samus_edge.weights.model_file import load_model

    if weights is not None:
        model = load_model(weights)
        return model, BundleText.of(model, name, credit), sha256_of_file(weights)
    manifest = Bundle.open(bundle).manifest
    text = BundleText.of_manifest(manifest, name, credit)
    return load_bundle_model(bundle), text, manifest.weights_sha256


def _export_bundle(
    console: "Console",
    status: "Status",
    out: Path,
    weights: Path | None,
    bundle: "Path | Bundle | None",
    frames: Path | None,
    name: str | None,
    credit: list[str],
    opset: int,
    frame_hw: tuple[int, int] | None,
    half: bool,
    trace: bool,
    overwrite: bool,
    allow_failing: bool,
    *,
    command: str,
) -> None:
    if frames is None:
        from samus_edge.runtime.bundle.check_frame import FOLDER

        frames = FOLDER
    paths = sorted(frames.glob("*.png"))
    if not paths:
        raise typer.BadParameter(f"{frames} holds no PNG file.", param_hint="--frames")

    import cv2
    import numpy as np

    from samus_edge.calibration.bundle_calibration import CalibrationSettings, calibrate_bundle
    from samus_edge.cli.tables import print_summary
    from samus_edge.export.bundle_writer import write_bundle
    from samus_edge.runtime.bundle.bundle import Bundle
    from samus_edge.runtime.images.image_io import grey_frame, read_image
    from samus_edge.verification.frames import frames_of_images
    from samus_edge.verification.verify_bundle import prove

    model, text, weights_sha256 = _model_and_text(weights, bundle, name, credit)
    images = [grey_frame(read_image(path)) for path in paths]
    if frame_hw is not None:
        images = [np.asarray(cv2.resize(image, frame_hw[::-1]), np.uint8) for image in images]
    named = {path.name: image for path, image in zip(paths, images, strict=True)}

    def finish(draft: Path) -> None:
        """Add the other precision, and verify both."""
        source = frames_of_images(named, about={"data": frames.resolve().name})
        if half:
            calibrate_bundle(
                Bundle.open(draft),
                draft,
                list(source.frames()),
                CalibrationSettings(("fp16",)),
                data=frames.resolve().name,
                overwrite=True,
                report=status.update,
            )
        status.update(f"verifying on {len(images)} frames")
        prove(draft, source, allow_failing=allow_failing, command=command)

    _, parity = write_bundle(
        model,
        out,
        text=text,
        weights_sha256=weights_sha256,
        frames=images,
        opset=opset,
        frame_hw=frame_hw,
        template=None if trace else Bundle.open(),
        overwrite=overwrite,
        check=finish,
        report=status.update,
    )
    del model  # before the graphs are read again: half a gigabyte of a large one
    status.update("counting operations")
    print_summary(console, Bundle.open(out), parity)


def _export_sam(
    console: "Console",
    status: "Status",
    out: Path,
    weights: Path | None,
    bundle: "Path | Bundle | None",
    name: str | None,
    opset: int,
    overwrite: bool,
) -> None:
    from samus_edge.export.sam_profile import write_sam_profile

    model, text, _ = _model_and_text(weights, bundle, name, [])
    profile = write_sam_profile(
        model, out, name=text.name, opset=opset, overwrite=overwrite, report=status.update
    )
    console.print(f"{out}: {text.name}, with SAM's signature", highlight=False, markup=False)
    for path in profile.files:
        console.print(f"  {path.name}  {path.stat().st_size / 1e6:.2f} MB", highlight=False)


def _export_triton(
    console: "Console",
    status: "Status",
    folder: Path,
    bundle: "Path | Bundle | None",
    overwrite: bool,
) -> None:
    from samus_edge.export.triton_repository import write_triton_repository
    from samus_edge.runtime.bundle.bundle import Bundle

    status.update("writing the Triton model repository")
    repository = write_triton_repository(Bundle.open(bundle), folder, overwrite=overwrite)
    console.print(f"{folder}: Triton model repository", highlight=False, markup=False)
    for model in repository.models:
        console.print(f"  {model.name}", highlight=False, markup=False)
