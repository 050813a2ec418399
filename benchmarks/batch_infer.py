"""Images per second and memory of `samus-edge infer --out-dir`, beside the model's own time.

`python benchmarks/batch_infer.py`

The images are ultrasound frames of 640x480, each with a box, on ONNX Runtime; every image is read,
segmented, measured and written. The model alone (image encoder and mask decoder of the same
frames, one after the other, as many threads in all) is timed before and after in the same process.
Processor time counts what was computed, also where other programs kept the cores busy.
"""

import os
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import cv2
import typer

from samus_edge.benchmarking import recipe
from samus_edge.jobs.batch_input import BatchItem, ImagePrompts
from samus_edge.jobs.segment_batch import BatchReport, BatchSegmentation, segment_batch
from samus_edge.jobs.segment_file import FileSegmentation
from samus_edge.runtime import Segmenter, read_image

FRAMES = Path(__file__).resolve().parents[1] / "tests" / "assets" / "frames"
WIDTH, HEIGHT = 640, 480
BOX = (160.0, 120.0, 480.0, 360.0)


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def time_alone(paths: list[Path], threads: int, jobs: int) -> tuple[float, float]:
    """Images per second, and milliseconds of processor time for one, of the model alone."""
    images = [read_image(path) for path in paths]
    with Segmenter.load(backend="onnxruntime", threads=threads) as segmenter:
        segmenter.segment(images[0], boxes=[BOX])
        wall, processor = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda image: segmenter.segment(image, boxes=[BOX]), images))
        rate = len(images) / (time.perf_counter() - wall)
        return rate, 1000 * (time.process_time() - processor) / len(images)


def command(
    images: Annotated[int, typer.Option(min=10, help="How many.")] = 10_000,
    threads: recipe.Threads = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 2,
    output: recipe.Output = None,
) -> None:
    """Measure images per second, the ratio to the model alone, and memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, items = Path(scratch), []
        frames = [folder / f"frame {source.name}" for source in sorted(FRAMES.glob("*.png"))]
        for frame in frames:
            image = read_image(FRAMES / frame.name.removeprefix("frame "))
            cv2.imwrite(str(frame), cv2.resize(image, (WIDTH, HEIGHT)))
        for index in range(images):
            path = folder / f"{index}.png"
            os.link(frames[index % len(frames)], path)
            items.append(BatchItem(path, path.stem, lambda path: ImagePrompts((BOX,))))
        marks, memory = {images * share // 100: share for share in (10, 50, 100)}, {}

        def on_image(report: BatchReport) -> None:
            if (share := marks.get(report.done)) is not None:
                memory[f"at_{share}_percent_mb"] = memory_mb()

        each = FileSegmentation(image=Path(), backend="onnxruntime", threads=threads)
        alone = [time_alone(frames, threads, jobs)]
        begun = time.process_time()
        report = segment_batch(BatchSegmentation(items, folder / "out", each, jobs=jobs), on_image)
        cpu_ms = 1000 * (time.process_time() - begun) / images
        alone.append(time_alone(frames, threads, jobs))
    rate, model_ms = (sum(values) / 2 for values in zip(*alone, strict=True))
    measured = {
        "images": report.done,
        "per_second": report.done / report.seconds,
        "model_alone_per_second": rate,
        "cpu_ms": cpu_ms,
        "model_alone_cpu_ms": model_ms,
        "cpu_ratio": cpu_ms / model_ms,
        **memory,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }
    recipe.print_rows(f"{WIDTH}x{HEIGHT}, {threads} threads each, {jobs} at a time", [measured])
    document = {"threads": threads, "jobs": jobs, "width": WIDTH, "height": HEIGHT, **measured}
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
