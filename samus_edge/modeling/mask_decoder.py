"""SAM's mask decoder."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.layers import LayerNorm2d
from samus_edge.modeling.two_way_transformer import TwoWayTransformer


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        dims: dimensions from input to output, at least two.

    Source: `MLP` of Segment Anything's mask decoder; same parameter names.
    """

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(dim_in, dim_out) for dim_in, dim_out in pairwise(dims)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dims[0]) to (..., dims[-1])."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class MaskUpscaling(nn.Sequential):
    """Image tokens to four times the resolution, and their products with the masks' weights.

    A transposed convolution whose stride is its kernel's size is a matrix product for each
    position. So the four positions that come of one stay beside each other, the normalisation finds
    its channels last, and only the masks, of far fewer channels, are put into rows and columns.

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


class MaskDecoder(nn.Module):
    """Image embeddings and prompt embeddings to mask logits and predicted IoU.

    Args:
        transformer: the two-way transformer.
        embed_dim: C of the embeddings.
        num_multimask_outputs: masks offered for an ambiguous prompt, beside the single-mask output.
        iou_head_hidden_dim: hidden dimension of the IoU head.

    Source: Segment Anything (arXiv 2304.02643), appendix A; same parameter names.
    """

    def __init__(
        self,
        *,
        transformer: TwoWayTransformer,
        embed_dim: int = 256,
        num_multimask_outputs: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, embed_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, embed_dim)
        self.output_upscaling = MaskUpscaling(embed_dim)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP((embed_dim, embed_dim, embed_dim, embed_dim // 8))
            for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            (embed_dim, iou_head_hidden_dim, iou_head_hidden_dim, self.num_mask_tokens)
        )

    def forward(
        self, image_embeddings: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode all masks of N prompts.

        Args:
            image_embeddings: (N or 1, C, h, w), float32; one image serves all prompts by
                broadcasting.
            image_pe: (1, h*w, C), float32, from :meth:`PromptEncoder.dense_pe`.
            sparse: (N, P, C), float32, embedded points and boxes.
            dense: (N, C, h, w), float32, embedded masks.

        Returns:
            low_res_masks (N, M, 4h, 4w) logits and iou_predictions (N, M), float32. M = 1 + the
            multimask outputs; index 0 is the single-mask output.
        """
        num_prompts, _, height, width = dense.shape
        output_tokens = torch.cat((self.iou_token.weight, self.mask_tokens.weight), dim=0)
        output_tokens = output_tokens.unsqueeze(0).expand(num_prompts, -1, -1)
        tokens = torch.cat((output_tokens, sparse), dim=1)  # (N, 1 + M + P, C)

        image_tokens = (image_embeddings + dense).flatten(2).transpose(1, 2)  # (N, hw, C)
        tokens, image_tokens = self.transformer(image_tokens, image_pe, tokens)

        heads = enumerate(self.output_hypernetworks_mlps)
        hyper = torch.stack(
            [mlp(tokens[:, 1 + index]) for index, mlp in heads], dim=1
        )  # (N, M, C/8)
        masks = self.output_upscaling.masks(image_tokens, hyper, (height, width))
        iou_predictions = self.iou_prediction_head(tokens[:, 0])  # (N, M)
        return masks, iou_predictions
