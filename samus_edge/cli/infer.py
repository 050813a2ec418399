"""`samus-edge infer`: segment one image file, or many."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import progress_bar
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
from samus_edge.errors import BadArgumentError

if TYPE_CHECKING:
    from samus_edge.jobs.batch_input import BatchItem
    from samus_edge.jobs.segment_file import FileSegmentation

_LINE_SECONDS = 30.0
_SHOWN_ERRORS = 5


def command(
    context: typer.Context,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="FILE|FOLDER|PATTERN",
            help="PNG, JPEG, BMP, TIFF or WebP, 8 or 16 bits; or DICOM. Of many images, with "
            "--out-dir: files, folders with all below them, quoted patterns; repeatable.",
        ),
    ] = None,
    image_list: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Text file with such a path on each line."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE|FOLDER",
            help="Prompts of each image: CSV (image,x1,y1,x2,y2), JSON, COCO, YOLO, LabelMe, "
            "NIfTI, NPZ or masks. Without --image: of the images that it names.",
        ),
    ] = None,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine", help="Start from the masks of --prompts, not from boxes around them alone."
        ),
    ] = False,
    alternatives: Annotated[
        bool,
        typer.Option(
            "--alternatives",
            help="Three masks for each prompt, the best first, which alone goes into files.",
        ),
    ] = False,
    probabilities: Annotated[
        Path | None,
        typer.Option(
            "--probabilities",
            metavar="FILE.npz",
            help="Write how probable it is of each pixel that it is in the mask.",
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out-dir",
            metavar="DIR",
            help="Folder for the results of many images. The same command goes on after a stop.",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="What --out-dir gets beside results.jsonl: mask (the default), overlay, csv, "
            "coco, coco-polygons, yolo, labelme, nifti, npz, png, probabilities, dicom-seg, "
            "dicom-sr; repeatable.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", min=1, metavar="N", help="With --out-dir: images at a time."),
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="With --out-dir: part I of N, for several processes."
        ),
    ] = None,
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
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="Without a prompt: what the model suggests, which a person has to look at. It "
            "misses lesions, and marks what is none.",
        ),
    ] = False,
    lesions: Annotated[
        int, typer.Option("--lesions", min=1, max=3, metavar="N", help="With --auto: at most N.")
    ] = 1,
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
    """Segment an image by boxes and points, or many with --out-dir.

    Coordinates are pixels, x to the right, y down, (0, 0) the centre of the upper left pixel. Files
    are written only when everything has succeeded; of many images, each image's. Exit codes: 0
    done; 1 the job failed (image, bundle, backend or output), or some of many images; 2 an argument
    is wrong; 130 stopped by Ctrl-C.
    """
    boxes = [parse_box(text) for text in box or ()]
    points = [parse_point(text) for text in point or ()]
    size = parse_spacing(spacing)
    location = parse_location(side, clock, from_nipple, depth)
    if not image and image_list is None and prompts is None:
        raise typer.BadParameter("Missing option '--image'.", context)
    if out_dir is None and (formats or shard or jobs > 1):
        raise BadArgumentError("--format, --jobs and --shard are of many images: give --out-dir.")
    if prompts is not None and (boxes or points):
        raise BadArgumentError("prompts are from --prompts, or from --box and --point, not both.")
    if auto and (prompts is not None or boxes or points):
        raise BadArgumentError("--auto takes no prompts: give the one or the others.")
    if refine and prompts is None:
        raise BadArgumentError(
            "--refine starts from masks: give them as well (--prompts MASK.png)."
        )

    # Here, so that --help and a mistyped option answer at once.
    from samus_edge.jobs.segment_file import FileSegmentation, segment_file

    silence_opencv()
    job = FileSegmentation(
        image=Path(),
        boxes=boxes,
        points=points,
        max_lesions=lesions if auto else 0,
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
        has_alternatives=alternatives,
        probability_file=probabilities,
    )
    if out_dir is not None:
        if any(path is not None for path in (out, overlay, probabilities, dicom_seg, dicom_sr)):
            raise BadArgumentError(
                "--out, --overlay, --probabilities, --dicom-seg and --dicom-sr are files of one "
                "image. With --out-dir give --format mask, overlay and so on."
            )
        items = _items(image or [], image_list, prompts, refine, job, out_dir)
        _segment_many(job, items, out_dir, formats or ["mask"], jobs, shard, as_json)
        return
    if prompts is None and image_list is None and len(image or ()) == 1:
        job = replace(job, image=Path((image or [""])[0]))
    else:
        items = _items(image or [], image_list, prompts, refine, job)
        if len(items) != 1:
            raise BadArgumentError(
                f"there are {len(items)} images. Give a folder for their results (--out-dir)."
            )
        job = replace(job, image=items[0].image)
        if items[0].read_prompts is not None:
            given = items[0].read_prompts(job.image)
            job = replace(job, boxes=given.boxes, points=given.points, masks=given.masks)
    report = segment_file(job)
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo("\n".join(report.lines()))


def _items(
    images: list[str],
    image_list: Path | None,
    prompts: Path | None,
    refine: bool,
    job: "FileSegmentation",
    out_dir: Path | None = None,
) -> "list[BatchItem]":
    """The images with their prompts: those of the file, or else those of the job for each."""
    from samus_edge.jobs.batch_input import ImagePrompts, find_images, make_batch, read_prompts

    given = None if prompts is None else read_prompts(prompts, refine=refine)
    if given is not None and not images and image_list is None:
        images = [str(given.folder / name) for name in given.by_image]
    for_all = ImagePrompts(tuple(job.boxes), tuple(job.points))
    has_any = job.boxes or job.points or job.max_lesions
    items, left = make_batch(
        find_images(images, image_list, out_dir), given, for_all if has_any else None
    )
    if left and out_dir is not None:
        names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        typer.echo(f"warning: no image for {len(left)} prompts of {prompts}: {names}", err=True)
    return items


def _segment_many(
    job: "FileSegmentation",
    items: "list[BatchItem]",
    out_dir: Path,
    formats: list[str],
    jobs: int,
    shard: str | None,
    as_json: bool,
) -> None:
    from samus_edge.jobs.batch_input import parse_shard
    from samus_edge.jobs.segment_batch import BatchReport, BatchSegmentation, segment_batch

    part = (1, 1) if shard is None else parse_shard(shard)
    with progress_bar("loading", line_seconds=_LINE_SECONDS) as bar:
        shown = 0

        def show(report: BatchReport) -> None:
            nonlocal shown
            now = report.done + report.kept + len(report.errors)
            rate = f"{report.done / report.seconds:.1f} images/s" if report.seconds else "images"
            failed = f", {len(report.errors)} failed" if report.errors else ""
            bar.update(rate + failed, total=report.total, advance=now - shown)
            shown = now

        batch = BatchSegmentation(items, out_dir, job, formats, jobs, part)
        report = segment_batch(batch, show)
    if as_json:
        print_json(report.to_json())
    else:
        kept = f", {report.kept} were there already" if report.kept else ""
        rate = f" ({report.done / report.seconds:.1f} images/s)" if report.done else ""
        typer.echo(f"{report.done} of {report.total} images segmented{rate}{kept}")
        typer.echo(f"  results: {report.results_file}")
        if report.notes:
            counts = ", ".join(f"{code} {count}" for code, count in report.notes.most_common())
            typer.echo(f"  images by the notes on their lines: {counts}")
        typer.echo("  Not a medical device; `samus-edge info` says what it is for.")
    for path, message in list(report.errors.items())[:_SHOWN_ERRORS]:
        typer.echo(f"error: {path}: {message}", err=True)
    if report.errors:
        typer.echo(
            f"error: {len(report.errors)} of {report.total} images failed; each with its reason in "
            f"{report.errors_file}",
            err=True,
        )
        raise typer.Exit(1)
