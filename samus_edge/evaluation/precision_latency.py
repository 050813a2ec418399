"""How long the precisions of a bundle take, measured side by side on the same frames."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np

__all__ = ["FASTER_BELOW", "LatencyFigures", "PrecisionTimes", "latency_figures", "timed_ms"]

FASTER_BELOW: Final = 0.95
"""A precision is called faster below this ratio to the reference: a few percent are noise."""

SETTLE_S: Final = 0.002
"""Pause before what is timed: threads of the session that ran before spin a little, waiting for
more work, and would take a core from the next one."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class LatencyFigures:
    """Medians over frames; ratios are medians of each frame's own, below 1 is faster.

    Attributes:
        encoder_ms: of the image encoder, milliseconds.
        decoder_ms: of one run of the mask decoder with all prompts of one kind, milliseconds.
        encoder_ratio: to the reference; None for the reference itself, as all that follows.
        decoder_ratio: to the reference.
        ratio: of encoder and one run of the decoder together.
        is_faster: whether that is below `FASTER_BELOW`; None also where it was not judged.
        note: why it was not judged; "" if it was.
    """

    encoder_ms: float
    decoder_ms: float
    encoder_ratio: float | None = None
    decoder_ratio: float | None = None
    ratio: float | None = None
    is_faster: bool | None = None
    note: str = ""


@dataclass
class PrecisionTimes:
    """What was timed of one precision, milliseconds.

    Attributes:
        encoder: one for each frame.
        decoder: for each frame one for each kind of prompt.
    """

    encoder: list[float] = field(default_factory=list)
    decoder: list[list[float]] = field(default_factory=list)


def timed_ms(run: Callable[[], _Result]) -> tuple[_Result, float]:
    """Run something after a short pause.

    Returns:
        Its result, and how long it took, milliseconds.
    """
    time.sleep(SETTLE_S)
    start = time.perf_counter()
    result = run()
    return result, (time.perf_counter() - start) * 1e3


def latency_figures(
    times: PrecisionTimes, reference: PrecisionTimes | None, *, not_judged: str = ""
) -> LatencyFigures:
    """Sum up what was timed.

    Args:
        times: of at least one frame.
        reference: of the same frames; None if these are the reference's own.
        not_judged: why it is not said whether the precision is faster; "" to say it.
    """
    encoder, decoder = times.encoder, [ms for frame in times.decoder for ms in frame]
    medians = float(np.median(encoder)), float(np.median(decoder))
    if reference is None:
        return LatencyFigures(*medians)
    reference_decoder = [ms for frame in reference.decoder for ms in frame]
    ratio = _median_ratio(_per_frame(times), _per_frame(reference))
    return LatencyFigures(
        *medians,
        encoder_ratio=_median_ratio(encoder, reference.encoder),
        decoder_ratio=_median_ratio(decoder, reference_decoder),
        ratio=ratio,
        is_faster=None if not_judged else ratio < FASTER_BELOW,
        note=not_judged,
    )


def _per_frame(times: PrecisionTimes) -> list[float]:
    """Encoder and one run of the decoder, milliseconds."""
    return [
        encoder + float(np.mean(decoder))
        for encoder, decoder in zip(times.encoder, times.decoder, strict=True)
    ]


def _median_ratio(own: Sequence[float], reference: Sequence[float]) -> float:
    return float(np.median(np.asarray(own) / np.asarray(reference)))
