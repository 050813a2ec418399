"""A small cart application: frames come in, a lesion is followed, somebody asks for masks in
between.

Run it: `python examples/cart/cart.py --seconds 5`. The frame source is a fake, a real image that
moves. A cart has a grabber in its place, whose frames may also be on the GPU (docs/embedding.md).
Everything else is as in a product.
"""

import argparse
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.runtime import (
    PixelSpacing,
    Segmenter,
    Stream,
    StreamResult,
    measure_lesion,
    read_image,
)

IMAGE = Path(__file__).parents[1] / "benign_80.png"
BOX = (135.0, 88.0, 446.0, 368.0)
SPACING = PixelSpacing.square(0.1)  # a cart knows the depth that is set
log = logging.getLogger("cart")


@dataclass(frozen=True)
class FakeGrabber:
    """Frames at a steady rate, whether they are taken or not."""

    frames_per_second: float = 25.0

    def frames(self, seconds: float) -> Iterator[npt.NDArray[np.uint8]]:
        """A picture under a probe that moves to and fro."""
        image = read_image(IMAGE)
        begun = time.monotonic()
        for number in range(int(seconds * self.frames_per_second)):
            shift = round(15 * np.sin(number / 12))
            yield np.roll(image, shift, axis=1)
            time.sleep(max(0.0, begun + (number + 1) / self.frames_per_second - time.monotonic()))


def audit(segmenter: Segmenter, result: StreamResult) -> dict[str, object]:
    """What is kept of each result, so that it can be explained later; nothing of the patient."""
    tracked = result.tracked
    measured = None
    if tracked is not None and tracked.mask is not None:
        measured = measure_lesion(tracked.mask, SPACING)
    return {
        "frame": result.number,
        "state": None if tracked is None else tracked.state,
        "reason": "" if tracked is None else tracked.reason,
        "prompt": list(BOX),
        "longest_mm": None if measured is None else round(measured.longest.length, 2),
        "latency_ms": round(result.latency_ms, 1),
        "graphs": segmenter.graph_hashes,
        "precision": segmenter.precision,
        "backend": f"{segmenter.backend.name} {segmenter.backend.version}",
        "samus_edge": __version__,
    }


def ask_in_between(stream: Stream, stop: threading.Event, answers: list[int]) -> None:
    """Another thread, such as a touch screen's: a mask at a point of the newest frame."""
    while not stop.wait(0.5):
        try:
            number, prediction = stream.predict(point_coords=[[290.0, 230.0]])
        except RuntimeError:  # nothing is encoded yet
            continue
        answers.append(int(prediction.masks[0, 0].sum()))
        log.info("asked on frame %d: %d pixels", number, answers[-1])


def run(seconds: float, backend: str, trail: Path | None) -> dict[str, object]:
    """Follow a lesion for some seconds; what came of it."""
    states: dict[str, int] = {}
    answers: list[int] = []
    stop = threading.Event()
    lines: list[str] = []
    with Segmenter.load(backend=backend) as segmenter, Stream(segmenter) as stream:

        def take_results() -> None:
            for result in stream:
                entry = audit(segmenter, result)
                states[str(entry["state"])] = states.get(str(entry["state"]), 0) + 1
                lines.append(json.dumps(entry))

        threads = [
            threading.Thread(target=take_results, name="results"),
            threading.Thread(target=ask_in_between, args=(stream, stop, answers), name="screen"),
        ]
        for thread in threads:
            thread.start()
        stream.mark(BOX)  # a person has drawn it
        for frame in FakeGrabber().frames(seconds):
            stream.submit(frame)  # never waits
        stop.set()
        stream.close(drains=True)
        for thread in threads:
            thread.join()
        statistics = stream.statistics()
    if trail is not None:
        trail.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"states": states, "answers": len(answers), **statistics.to_json()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--backend", default="auto", help="auto takes a GPU where there is one")
    parser.add_argument(
        "--trail", type=Path, help="write the audit trail, one JSON document a line"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    print(json.dumps(run(arguments.seconds, arguments.backend, arguments.trail), indent=2))
