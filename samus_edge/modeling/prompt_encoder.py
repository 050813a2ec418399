"""SAM's prompt encoder, without in-place indexing, so that it exports as it is."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.layers import ConvStep, LayerNorm2d


class PositionEmbedding(nn.Module):
    """A position table of twice the grid's side, reduced to the grid by the position adapter.

    The result depends on weights alone, so it is constant once training is over: after
    :meth:`fold` the table holds it, and ``adapter`` is gone.

    Args:
        dim: C.
        grid_size: side of the token grid.

    Source: SAMUS (arXiv 2309.06824), section 3.2, and its reference implementation.
    """

    def __init__(self, dim: int, *, grid_size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, 2 * grid_size, 2 * grid_size, dim))
        self.adapter: ConvStep | None = ConvStep(dim, dim)

    def forward(self) -> Tensor:
        """The embedding of the grid: (1, grid_size, grid_size, C), float32."""
        if self.adapter is None:
            return self.table
        reduced = F.max_pool2d(self.table.permute(0, 3, 1, 2), 2)  # (1, C, h, w)
        adapted: Tensor = self.adapter(reduced)
        return adapted.permute(0, 2, 3, 1)

    @torch.no_grad()
    def fold(self) -> None:
        """Keep the constant in place of what it is computed from, once; later calls do nothing."""
        self.table = nn.Parameter(self().contiguous(), requires_grad=False)
        self.adapter = None


LABEL_PADDING = -1
NUM_POINT_LABELS = 4  # background, foreground, first and second corner of a box


class PositionEmbeddingRandom(nn.Module):
    """Positional encoding with random spatial frequencies.

    Args:
        num_pos_feats: frequencies; the encoding has twice as many features.

    Source: Segment Anything; same buffer name.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_pos_feats))

    def forward(self, coords: Tensor) -> Tensor:
        """Encode (..., 2) coordinates (x, y) in [0, 1]; (..., 2 * num_pos_feats) out."""
        # A product of matrices would round otherwise in half precision, and TensorRT has none in
        # float32 for compute capability 7.5.
        products = (2 * coords - 1).unsqueeze(-1) * self.positional_encoding_gaussian_matrix
        phase = 2 * math.pi * products.sum(dim=-2)
        return torch.cat((torch.sin(phase), torch.cos(phase)), dim=-1)


class PromptEncoder(nn.Module):
    """Points, boxes and masks to sparse and dense prompt embeddings.

    Args:
        embed_dim: C of the embeddings.
        embedding_size: side of the image embeddings, h = w.
        image_size: side of the model input, pixels.
        mask_in_chans: hidden channels of the mask embedding.

    Source: Segment Anything (arXiv 2304.02643), appendix A; same parameter names. We differ: a box
    is two points labelled 2 and 3, and labels select embeddings by arithmetic, not by indexed
    assignment.
    """

    dense_encoding: Tensor | None

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        embedding_size: int = 32,
        image_size: int = 256,
        mask_in_chans: int = 16,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(
            nn.Embedding(1, embed_dim) for _ in range(NUM_POINT_LABELS)
        )
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            nn.GELU(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            nn.GELU(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)
        self.register_buffer("dense_encoding", None, persistent=False)

    @torch.no_grad()
    def fold(self) -> None:
        """Keep what `dense_pe` gives, for an export: weights that are loaded later do not count."""
        self.dense_encoding = self.dense_pe()

    def dense_pe(self) -> Tensor:
        """Positional encoding of the image embeddings: (1, h*w, C), float32, row by row."""
        if self.dense_encoding is not None:
            return self.dense_encoding
        side = self.embedding_size
        centres = (torch.arange(side, device=self.no_mask_embed.weight.device) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        encoding: Tensor = self.pe_layer(torch.stack((x, y), dim=-1).reshape(1, -1, 2))
        return encoding

    def forward(
        self,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor | None,
        has_mask_input: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Embed prompts.

        Args:
            point_coords: (N, P, 2), float32, (x, y) in pixels of the ``image_size`` model frame,
                pixel centres at integers.
            point_labels: (N, P), float32 or int; 1 foreground, 0 background, 2 and 3 the first (top
                left) and second (bottom right) corner of a box, -1 padding. SAM pads a prompt
                without a box by one point.
            mask_input: (N, 1, 4h, 4w), float32, logits of an earlier prediction; None where no
                prompt has one.
            has_mask_input: (N, 1), float32, 1 where ``mask_input`` counts, 0 where it does not;
                None along with ``mask_input``.

        Returns:
            Sparse embeddings (N, P, C) and dense embeddings (N, C, h, w), float32.
        """
        encoded = self.pe_layer((point_coords + 0.5) / self.image_size)  # (N, P, C)
        labels = point_labels.unsqueeze(-1)  # (N, P, 1)
        is_padding = (labels == LABEL_PADDING).to(encoded.dtype)
        sparse = encoded * (1.0 - is_padding) + is_padding * self.not_a_point_embed.weight
        for label, embedding in enumerate(self.point_embeddings):
            weight: Tensor = embedding.get_parameter("weight")  # (1, C)
            sparse = sparse + (labels == label).to(encoded.dtype) * weight

        no_mask = self.no_mask_embed.weight[:, :, None, None]  # (1, C, 1, 1)
        if mask_input is None or has_mask_input is None:
            side = self.embedding_size
            return sparse, no_mask.expand(len(sparse), -1, side, side)
        has_mask = has_mask_input[:, :, None, None]  # (N, 1, 1, 1)
        dense = has_mask * self.mask_downscaling(mask_input) + (1.0 - has_mask) * no_mask
        return sparse, dense
