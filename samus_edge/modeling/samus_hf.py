"""SAMUS-HF: image encoder, prompt encoder and mask decoder as one module."""

from torch import Tensor, nn

from samus_edge.modeling.high_frequency import HighFrequency, InputScaling
from samus_edge.modeling.mask_decoder import MaskDecoder
from samus_edge.modeling.prompt_encoder import PromptEncoder


class SamusHF(nn.Module):
    """Promptable segmentation of one grey ultrasound image.

    Args:
        image_encoder: maps (image, high_frequency), both (B, 1, 256, 256) in [0, 1], to (B, C, 32,
            32).
        prompt_encoder: embeds points, boxes and masks.
        mask_decoder: decodes masks.
        image_size: side of the model input, pixels.
    """

    def __init__(
        self,
        *,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        image_size: int = 256,
    ) -> None:
        super().__init__()
        self.input_scaling = InputScaling(image_size)
        self.high_frequency = HighFrequency(image_size)
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

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
        mask_input: Tensor,
        has_mask_input: Tensor,
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
