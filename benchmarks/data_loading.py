"""Time to get a training sample: decoding the files, reading the cache, and with augmentation.

Run it in the development environment, with BUSI at hand:
`SAMUS_EDGE_BUSI=/path/to/Dataset_BUSI_with_GT python benchmarks/data_loading.py`. Writes
`benchmarks/results/data_loading.json`.

One process, OpenCV on one thread, as in a worker of a data loader. Each step runs over the same
lesion cases once untimed (the files are in the system's memory then) and a few times timed.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from samus_edge.benchmarking.bench_run import write_results
from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import (
    CaseCache,
    UltrasoundCase,
    read_image,
    read_instances,
    select_lesions,
)
from samus_edge.data.dataset import list_cases
from samus_edge.training.training_samples import LesionDataset

BENCHMARKS_DIR = Path(__file__).resolve().parent
IMAGE_SIZE = 256


def per_case_ms(step: Callable[[int], object], count: int, rounds: int) -> dict[str, float]:
    """Wall time of a step for each index below ``count``: median and 90th percentile, ms."""
    times = np.empty((rounds, count))
    for round_number in range(-1, rounds):  # the first is not counted
        for index in range(count):
            start = time.perf_counter()
            step(index)
            times[max(round_number, 0), index] = time.perf_counter() - start
    return {
        "p50_ms": round(float(np.median(times)) * 1e3, 3),
        "p90_ms": round(float(np.percentile(times, 90)) * 1e3, 3),
    }


def measure(cases: list[UltrasoundCase], cache: CaseCache, rounds: int) -> dict[str, Any]:
    """All steps, over the same cases."""
    memory = LesionDataset(cases, image_size=IMAGE_SIZE, augmentation=AugmentationConfig(), seed=0)
    started = time.perf_counter()
    decoded = cache.fill(cases)
    filling_ms = (time.perf_counter() - started) * 1e3 / len(cases)

    on_disk = LesionDataset(
        cases, image_size=IMAGE_SIZE, augmentation=AugmentationConfig(), seed=0, source=cache
    )

    def decode(index: int) -> None:
        read_image(cases[index])
        read_instances(cases[index])

    def read_cached(index: int) -> None:
        cache.image(cases[index])
        cache.instances(cases[index])

    steps: dict[str, Callable[[int], object]] = {
        "decode_files": decode,
        "read_cache": read_cached,
        "augmented_sample_from_memory": memory.__getitem__,
        "augmented_sample_from_cache": on_disk.__getitem__,
    }
    results: dict[str, Any] = {
        name: per_case_ms(step, len(cases), rounds) for name, step in steps.items()
    }
    size = sum(path.stat().st_size for path in cache.folder.iterdir())
    results["fill_cache"] = {"cases": decoded, "mean_ms": round(filling_ms, 3)}
    results["cache_mb_per_case"] = round(size / 1e6 / len(cases), 3)
    return results


def main(
    data: Annotated[
        Path, typer.Option(help="Folder of BUSI.", envvar="SAMUS_EDGE_BUSI", exists=True)
    ],
    cases: Annotated[int, typer.Option(help="Lesion cases, spread over the dataset.", min=1)] = 60,
    rounds: Annotated[int, typer.Option(help="Timed rounds over the cases.", min=1)] = 3,
    out: Annotated[Path, typer.Option(help="Result file.")] = (
        BENCHMARKS_DIR / "results" / "data_loading.json"
    ),
) -> None:
    """Print and write milliseconds per sample for each step."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    found = select_lesions(list_cases(data))
    chosen = [found[index] for index in np.linspace(0, len(found) - 1, cases).astype(int)]
    with tempfile.TemporaryDirectory() as folder:
        results = measure(chosen, CaseCache(folder), rounds)
    document = {"cases": cases, "rounds": rounds, **results}
    write_results(out, document)
    table = Table("step", "p50 ms", "p90 ms")
    for name, result in results.items():
        if isinstance(result, dict) and "p50_ms" in result:
            table.add_row(name, f"{result['p50_ms']:.2f}", f"{result['p90_ms']:.2f}")
    Console().print(table)
    filled, size = results["fill_cache"], results["cache_mb_per_case"]
    Console().print(f"filling the cache: {filled['mean_ms']:.2f} ms and {size:.2f} MB per case")


if __name__ == "__main__":
    typer.run(main)
