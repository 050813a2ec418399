"""Frames in real time for a long while: latency, dropped frames, and whether memory grows.

`python benchmarks/stream_soak.py --minutes 30`

The cine is one of the packaged frames under known motion, over and over.
"""

import time
from collections import Counter
from typing import Annotated

import numpy as np
import typer

from samus_edge.benchmarking import recipe
from samus_edge.benchmarking.subject import resident_bytes
from samus_edge.benchmarking.synthetic_cine import CineMotion, synthetic_cine
from samus_edge.runtime import Segmenter, Stream
from samus_edge.runtime.bundle.check_frame import load_check_frames

RATE = 15.0  # frames per second
SAMPLE_SECONDS = 30


def command(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 30.0,
    threads: recipe.Threads = 2,
    output: recipe.Output = None,
) -> None:
    """Stream frames in real time, over and over, and watch the memory."""
    frame = load_check_frames((480, 640))[0]
    x1, y1, x2, y2 = frame.box.round().astype(int).tolist()
    mask = np.zeros(frame.image.shape, np.bool_)
    mask[y1:y2, x1:x2] = True  # where the motion turns around, no more
    # Two to-and-fros: the last frame meets the first.
    frames = [each.image for each in synthetic_cine(frame.image, mask, CineMotion(frames=120))]
    samples: list[dict[str, float]] = []
    states: Counter[str] = Counter()
    begun, sent = time.monotonic(), 0
    with Segmenter.load(threads=threads) as segmenter, Stream(segmenter) as stream:
        stream.mark((x1, y1, x2, y2))
        while (elapsed := time.monotonic() - begun) < 60 * minutes:
            stream.submit(frames[sent % len(frames)])
            sent += 1
            try:
                while True:
                    tracked = stream.result(timeout=0).tracked
                    states.update([] if tracked is None else [tracked.state])
            except TimeoutError:
                pass
            if elapsed >= SAMPLE_SECONDS * (len(samples) + 1) or not samples:
                memory = round((resident_bytes() or 0) / 1e6, 1)
                samples.append({"seconds": round(elapsed), "mb": memory})
                print(samples[-1], flush=True)
            time.sleep(max(0.0, sent / RATE - (time.monotonic() - begun)))
        statistics = stream.statistics().to_json()
    settled = samples[len(samples) // 4 :]
    slope = 0.0
    if len(settled) > 1:
        times, sizes = ([each[name] for each in settled] for name in ("seconds", "mb"))
        slope = float(np.polyfit(np.array(times) / 60, sizes, 1)[0])
    recipe.print_rows(
        f"{minutes:g} minutes at {RATE:g} frames a second", [{**statistics, **states}]
    )
    document = {
        "minutes": minutes,
        "threads": threads,
        "frames_per_second_submitted": RATE,
        "statistics": statistics,
        "states": states,
        "memory": samples,
        "growth_mb_per_minute_after_a_quarter": round(slope, 4),
    }
    recipe.write_results(__file__, document, output)


if __name__ == "__main__":
    typer.run(command)
