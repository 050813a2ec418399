"""The wavelet high-frequency (HF) image: the numpy definition that every other one must agree with.

The torch module and the exported graph compute the same image and are tested against this function
to within 0.05 grey levels. It is written for clarity and exactness, not for speed.
"""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, missing_extra

MIN_BAND_RANGE: Final = 0.25
"""A detail band is divided by its range (max - min, grey levels), but never by less than this.

A one-level Haar band of 8-bit data holds multiples of 0.5, so a range is 0 or at least 0.5. What
lies below is rounding noise of the wavelet filters (about 1e-13), which dividing by its own range
would blow up to full contrast; divided by this it stays below 1e-9 grey levels.
"""

MIN_SUM_RANGE: Final = 2.0
"""The sum of the three scaled bands (0..765) is divided by its range, but never by less than this.

Two different bands can cancel almost perfectly when they are only a few pixels large. Dividing by
such a small range would amplify float32 rounding: the scaled sum carries an error of at most
1.7e-4, so a difference of two values, stretched by 255 / 2, is off by at most 0.043 grey levels,
inside the tolerance of 0.05. A floor on the divisor, unlike a threshold, is continuous: two
implementations that round a range to either side of it still agree. Real frames have ranges of
tens to hundreds and never reach it.
"""

FULL_SCALE: Final = 255.0
"""Upper end of the value range of each scaled band and of the result."""


def high_frequency_image(
    image: npt.NDArray[np.uint8], output_hw: tuple[int, int] = (256, 256)
) -> npt.NDArray[np.float32]:
    """Compute the high-frequency image H = HL + LH + HH of a grey frame.

    The three detail bands of a one-level Haar wavelet transform of the frame at its own size are
    min-max scaled to 0..255 each and summed; the sum is min-max scaled to 0..255 and resized
    bilinearly (half-pixel centres, no antialiasing) to ``output_hw``. Odd sizes are padded as
    PyWavelets does by default: the last row or column is repeated.

    Differences from the source, which divides by zero when a band or the sum is constant:

    * no band is divided by less than ``MIN_BAND_RANGE`` and the sum never by less than
      ``MIN_SUM_RANGE``: a flat band contributes zeros, and a constant frame gives zeros;
    * the source resizes back to the frame's size and resizes again for the model, this function
      resizes once, straight to ``output_hw``.

    Args:
        image: (H, W) raw grey frame, 0..255, any size from 1x1.
        output_hw: Height and width of the result in pixels, both at least 1.

    Returns:
        (h, w) high-frequency image, 0..255.

    Raises:
        TypeError: If ``image`` is not a uint8 array.
        BadArgumentError: If ``image`` is not two-dimensional or has no pixels, or if ``output_hw``
            is not two positive sizes.
        MissingExtraError: If PyWavelets is not installed.

    Source:
        The report the project started from, equation 3 and the listing in section 4.2.
    """
    _check_arguments(image, output_hw)
    try:
        import pywt
    except ImportError as err:
        raise missing_extra("The reference high-frequency image", "pywt") from err

    _, details = pywt.dwt2(image.astype(np.float64), "haar")
    scaled = [_min_max_scale(band, MIN_BAND_RANGE) for band in details]  # 3 of (H', W'), halved
    merged = _min_max_scale(scaled[0] + scaled[1] + scaled[2], MIN_SUM_RANGE)  # (H', W')
    height, width = output_hw
    resized = cv2.resize(merged, (width, height), interpolation=cv2.INTER_LINEAR)  # (h, w)
    # Interpolation weights may sum to 1 + 1e-7.
    return np.clip(resized, 0.0, FULL_SCALE).astype(np.float32)


def _min_max_scale(values: npt.NDArray[np.float64], min_range: float) -> npt.NDArray[np.float64]:
    """Scale to 0..255 by the range of the values, or by ``min_range`` if that is larger."""
    shifted: npt.NDArray[np.float64] = values - values.min()
    return shifted / max(float(shifted.max()), min_range) * FULL_SCALE


def _check_arguments(image: npt.NDArray[np.uint8], output_hw: tuple[int, int]) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = f"dtype {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image must be a uint8 array with shape (H, W), got {got}.")
    if image.ndim != 2:
        raise BadArgumentError(
            f"image must be one grey frame with shape (H, W), got shape {image.shape}. "
            "Convert colour with cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)."
        )
    if image.size == 0:
        raise BadArgumentError(f"image must have at least one pixel, got shape {image.shape}.")
    if len(output_hw) != 2 or min(output_hw) < 1:
        raise BadArgumentError(f"output_hw must be two sizes of at least 1 pixel, got {output_hw}.")
