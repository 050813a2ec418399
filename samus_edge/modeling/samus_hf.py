"""SAMUS-HF as one module: its inputs, image encoder, prompt encoder and mask decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.high_frequency import MIN_BAND_RANGE, MIN_SUM_RANGE
from samus_edge.modeling.lesion_proposer import LesionProposer
from samus_edge.modeling.mask_decoder import MaskDecoder
from samus_edge.modeling.prompt_encoder import PromptEncoder


class InputScaling(nn.Module):
    """Grey frames of any size to the square model input in [0, 1].

    Bilinear with half-pixel centres and no antialiasing, as `cv2.resize(..., INTER_LINEAR)` on
    float32; the aspect ratio is not kept; no mean or standard deviation.

    Args:
        image_size: side of the model input, pixels.

    Source: the input pipeline of SAMUS's reference implementation.
    """

    def __init__(self, image_size: int = 256) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, frames: Tensor) -> Tensor:
        """From (B, H, W) frames, uint8 or float32 in 0..255, to (B, 1, S, S), float32 in [0, 1]."""
        size = (self.image_size, self.image_size)
        grey = frames.unsqueeze(1).float()  # (B, 1, H, W)
        return F.interpolate(grey, size=size, mode="bilinear", align_corners=False) / 255.0


class HighFrequency(nn.Module):
    """H = HL + LH + HH of a one-level Haar transform of the raw frame, at the model's input size.

    Agrees with :func:`samus_edge.high_frequency.high_frequency_image`, the reference that defines
    it, to 0.05 grey levels. Haar bands of 8-bit data are multiples of 0.5 below 512, so they are
    exact in float32.

    Args:
        image_size: side of the output, pixels.

    Source: the report's equation 3 and section 4.2.
    """

    def __init__(self, image_size: int = 256) -> None:
        super().__init__()
        self.image_size = image_size

    def forward(self, frames: Tensor) -> Tensor:
        """From (B, H, W) frames, uint8 or float32, to (B, 1, S, S), float32, both in 0..255."""
        x = frames.float()
        # an odd side is padded by its last row or column, as PyWavelets' symmetric mode does
        x = torch.cat((x, x[:, -1:, :]), dim=1)
        x = torch.cat((x, x[:, :, -1:]), dim=2)
        top, bottom = x[:, 0:-1:2], x[:, 1::2]  # (B, ceil(H / 2), W + 1) each
        top_sum, top_difference = _pairs(top)
        bottom_sum, bottom_difference = _pairs(bottom)
        horizontal = 0.5 * (top_sum - bottom_sum)
        vertical = 0.5 * (top_difference + bottom_difference)
        diagonal = 0.5 * (top_difference - bottom_difference)
        bands = _min_max_scale(horizontal, MIN_BAND_RANGE)
        for band in (vertical, diagonal):
            bands = bands + _min_max_scale(band, MIN_BAND_RANGE)
        sum_of_scaled = _min_max_scale(bands, MIN_SUM_RANGE)  # (B, ceil(H / 2), ceil(W / 2))
        size = (self.image_size, self.image_size)
        return F.interpolate(
            sum_of_scaled.unsqueeze(1), size=size, mode="bilinear", align_corners=False
        )


def _pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and difference of horizontal neighbours: (B, h, W + 1) to two (B, h, ceil(W / 2))."""
    left, right = rows[:, :, 0:-1:2], rows[:, :, 1::2]
    return left + right, left - right


def _min_max_scale(band: Tensor, min_range: float) -> Tensor:
    """Scale each image of (B, h, w) to 0..255, dividing by at least ``min_range``.

    A flat band is zero everywhere once its minimum is subtracted, so it stays zero.
    """
    shifted = band - band.amin(dim=(1, 2), keepdim=True)
    span = shifted.amax(dim=(1, 2), keepdim=True).clamp(min=min_range)
    return shifted * (255.0 / span)


class SamusHF(nn.Module):
    """Promptable segmentation of one grey ultrasound image.

    Args:
        image_encoder: maps (image, high_frequency), both (B, 1, 256, 256) in [0, 1], to (B, C, 32,
            32).
        prompt_encoder: embeds points, boxes and masks.
        mask_decoder: decodes masks.
        lesion_proposer: says where lesions may be; None for a model that is always prompted.
        image_size: side of the model input, pixels.
    """

    def __init__(
        self,
        *,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        lesion_proposer: LesionProposer | None = None,
        image_size: int = 256,
    ) -> None:
        super().__init__()
        self.input_scaling = InputScaling(image_size)
        self.high_frequency = HighFrequency(image_size)
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.lesion_proposer = lesion_proposer

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode raw frames.

        Args:
            frames: (B, H, W), uint8, grey, any size.

        Returns:
            image_embeddings, (B, C, 32, 32), float32.
        """
        image = self.input_scaling(frames)  # (B, 1, 256, 256), [0, 1]
        high_frequency = self.high_frequency(frames) / 255.0  # (B, 1, 256, 256), [0, 1]
        out: Tensor = self.image_encoder(image, high_frequency)
        return out

    def decode(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor | None,
        has_mask_input: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Masks for N prompts.

        Args:
            image_embeddings: (N or 1, C, 32, 32), float32.
            point_coords: as in :meth:`PromptEncoder.forward`, like all that follow.
            point_labels: see there.
            mask_input: see there.
            has_mask_input: see there.

        Returns:
            low_res_masks (N, M, 128, 128) logits and iou_predictions (N, M), float32.
        """
        sparse, dense = self.prompt_encoder(point_coords, point_labels, mask_input, has_mask_input)
        out: tuple[Tensor, Tensor] = self.mask_decoder(
            image_embeddings, self.prompt_encoder.dense_pe(), sparse, dense
        )
        return out
