"""SAM's mask decoder."""

import torch
from torch import Tensor, nn

from samus_edge.modeling.mask_upscaling import MaskUpscaling
from samus_edge.modeling.mlp import MLP
from samus_edge.modeling.two_way_transformer import TwoWayTransformer


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
