"""The mask decoder's upscaling and masks, on image tokens."""

from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.layer_norm_2d import LayerNorm2d


class MaskUpscaling(nn.Sequential):
    """Image tokens to four times the resolution, and their products with the masks' weights.

    A transposed convolution whose stride is its kernel's size is a matrix product for each position.
    So the four positions that come of one stay beside each other, the normalisation finds its channels
    last, and only the masks, of far fewer channels, are put into rows and columns.

    Args:
        embed_dim: C of the image tokens.

    Source: Segment Anything (arXiv 2304.02643), appendix A; same parameter names as its
        `output_upscaling`.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(embed_dim, embed_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(embed_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(embed_dim // 4, embed_dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )

    def masks(self, image_tokens: Tensor, hyper: Tensor, embedding_hw: tuple[int, int]) -> Tensor:
        """Upscale image tokens and multiply them with each mask's weights.

        Args:
            image_tokens: (N, h w, C), float32.
            hyper: (N, M, C/8), float32.
            embedding_hw: (h, w).

        Returns:
            (N, M, 4h, 4w), float32, what ``hyper @ forward(image)`` gives for the same image as
            (N, C, h, w).
        """
        height, width = embedding_hw
        first, norm, _, second, _ = self
        assert isinstance(norm, LayerNorm2d)
        x = _spread(first, image_tokens, nn.Identity())  # (N, 4hw, C/4)
        x = F.gelu(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = _spread(second, x, nn.GELU())  # (N, 16hw, C/8)
        masks = hyper @ x.transpose(1, 2)  # (N, M, 16hw)
        num_prompts, num_masks, _ = masks.shape
        # position, then rows and columns of the first and the second upscaling
        masks = masks.view(num_prompts, num_masks, height, width, 2, 2, 2, 2)
        masks = masks.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(num_prompts, num_masks, 4 * height, 4 * width)


def _spread(convolution: nn.Module, x: Tensor, activation: nn.Module) -> Tensor:
    """(N, L, in) to (N, 4L, out): the four positions of each one, row by row."""
    assert isinstance(convolution, nn.ConvTranspose2d) and convolution.bias is not None
    weight = convolution.weight.permute(0, 2, 3, 1)  # (in, 2, 2, out)
    # the bias once for each position: short rows are slow to add
    spread = x @ weight.flatten(1) + convolution.bias.repeat(4)
    out: Tensor = activation(spread)
    return out.view(x.shape[0], 4 * x.shape[1], weight.shape[-1])
