"""`samus-edge infer`: segment one image file."""

from pathlib import Path
from typing import Annotated

import typer

from samus_edge.cli.options import (
    AsJson,
    BackendName,
    BundlePath,
    ClockHour,
    Depth,
    DeviceName,
    DicomSeg,
    DicomSr,
    FromNipple,
    PrecisionName,
    RequireSignature,
    Side,
    Spacing,
    Strict,
    Threads,
    open_signed,
    parse_box,
    parse_location,
    parse_point,
    parse_spacing,
    print_json,
    silence_opencv,
)

__all__ = ["command"]


def command(
    image: Annotated[
        Path,
        typer.Option(
            "--image", metavar="FILE", help="PNG, JPEG, BMP, TIFF or WebP, 8 or 16 bits; or DICOM."
        ),
    ],
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="X1,Y1,X2,Y2",
            help="Box around an object, pixels of the image, two opposite corners; repeatable, one "
            "mask for each. What sticks out of the image is cut off.",
        ),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="X,Y[,LABEL]",
            help="Point, pixels of the image; label 1 (default) on the object, 0 on background; "
            "repeatable. Without --box all points are one prompt; with one box they correct its "
            "mask in turn; with several, each box that contains them.",
        ),
    ] = None,
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: PrecisionName = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.png",
            help="Write the mask at the image's size: 0 and 255; with several boxes 1 for the "
            "first mask, 2 for the second and so on, the later one where they overlap. Of several "
            "frames: a folder of such files, or one NumPy file (.npz).",
        ),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            "--overlay",
            metavar="FILE.png",
            help="Write a picture (PNG or JPEG) with contours, prompts and a legend.",
        ),
    ] = None,
    frame: Annotated[
        list[int] | None,
        typer.Option(
            "--frame",
            min=0,
            metavar="N",
            help="Frame of a DICOM file, or page of a TIFF, from 0 (the default); repeatable, with "
            "the same prompts in each.",
        ),
    ] = None,
    dicom_seg: DicomSeg = None,
    dicom_sr: DicomSr = None,
    spacing: Spacing = None,
    side: Side = None,
    clock: ClockHour = None,
    from_nipple: FromNipple = None,
    depth: Depth = None,
    callipers: Annotated[
        bool, typer.Option("--callipers", help="Draw the diameters on the overlay.")
    ] = False,
    threads: Threads = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Segment one image by boxes and points.

    Coordinates are pixels, x to the right, y down, (0, 0) the centre of the upper left pixel. Files
    are written only when everything has succeeded. Exit codes: 0 done; 1 the job failed (image,
    bundle, backend or output); 2 an argument is wrong.
    """
    boxes = [parse_box(text) for text in box or ()]
    points = [parse_point(text) for text in point or ()]
    size = parse_spacing(spacing)
    location = parse_location(side, clock, from_nipple, depth)

    # Here, so that --help and a mistyped option answer at once.
    from samus_edge.jobs.segment_file import FileSegmentation, segment_file

    silence_opencv()
    report = segment_file(
        FileSegmentation(
            image=image,
            boxes=boxes,
            points=points,
            bundle=open_signed(bundle, require_signature),
            backend=backend,
            precision=precision,
            threads=threads,
            device=device,
            mask_file=out,
            overlay_file=overlay,
            spacing=size,
            location=location,
            has_callipers=callipers,
            is_strict=strict,
            frames=frame or [0],
            dicom_seg_file=dicom_seg,
            dicom_sr_file=dicom_sr,
        )
    )
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo("\n".join(report.lines()))
