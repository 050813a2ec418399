"""Raw grey frames to the model's input."""

from torch import Tensor, nn
from torch.nn import functional as F


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
