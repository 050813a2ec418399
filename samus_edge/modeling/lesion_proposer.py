"""Lesions without a prompt: a small head on the image embeddings that says where to look."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PROPOSALS = 3
"""Boxes that the head gives for an image, best first."""

BOX_UNIT = 32.0
"""Pixels of the model's input that one unit of a predicted distance stands for."""

_SUPPRESSED = 5  # cells: within such a square only the highest peak is a proposal


class LesionProposer(nn.Module):
    """Boxes around what may be lesions, with scores.

    A map of lesions and a map of their centres, with the distances to the sides of the box at each
    cell, after CenterNet (arXiv 1904.07850) and FCOS (1904.01355), and the presence of any lesion.

    Args:
        embed_dim: channels of the image embeddings.
        width: channels of the head.
        image_size: side of the model's input, pixels.
    """

    def __init__(self, *, embed_dim: int = 256, width: int = 64, image_size: int = 256) -> None:
        super().__init__()
        self.image_size = image_size
        self.reduce = nn.Conv2d(embed_dim, width, 1)
        self.context = nn.Conv2d(width, width, 1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.maps = nn.Conv2d(width, 6, 1)
        self.presence = nn.Linear(2 * width, 1, bias=False)
        bias = self.maps.bias
        assert bias is not None  # as Conv2d has unless told otherwise
        with torch.no_grad():
            bias[:2].fill_(-3.0)  # most cells are no lesion

    def forward(self, image_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Predict, for a loss.

        Args:
            image_embeddings: (B, C, h, w).

        Returns:
            (B, 6, h, w): logits of lesion and centre, and the distances from the cell to the left,
            top, right and bottom side of its lesion, in `BOX_UNIT`, positive; and (B,) logits of
            the presence of a lesion.
        """
        x = F.gelu(self.reduce(image_embeddings))
        x = x + self.context(x.mean(dim=(2, 3), keepdim=True))
        x = x + F.gelu(self.mix(x))
        maps = self.maps(x)
        maps = torch.cat((maps[:, :2], F.softplus(maps[:, 2:])), dim=1)
        pooled = torch.cat((x.mean(dim=(2, 3)), x.amax(dim=(2, 3))), dim=1)
        return maps, self.presence(pooled)[:, 0]

    def propose(self, image_embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The peaks of the centre map.

        Args:
            image_embeddings: (B, C, h, w), float32.

        Returns:
            boxes (B, K, 4), x1, y1, x2, y2 in pixels of the model's input, best first; scores
            (B, K) in [0, 1]: of the first box the estimated probability that the image shows a
            lesion, of the others as much less as their peaks are lower; points (B, K, 2), x, y of
            the peaks; and lesion_map (B, h, w) in [0, 1], the share of each cell that is lesion.
        """
        maps, presence = self(image_embeddings)
        centres = torch.sigmoid(maps[:, 1:2])  # (B, 1, h, w)
        highest = F.max_pool2d(centres, _SUPPRESSED, stride=1, padding=_SUPPRESSED // 2)
        peaks = (centres * (centres >= highest)).flatten(1)
        heights, places = peaks.topk(PROPOSALS, dim=1)  # (B, K)
        distances = maps[:, 2:] * BOX_UNIT
        xs, ys = self._cell_centres(centres)
        boxes = torch.stack(
            (
                xs - distances[:, 0],
                ys - distances[:, 1],
                xs + distances[:, 2],
                ys + distances[:, 3],
            ),
            dim=1,
        ).flatten(2)  # (B, 4, h * w)
        boxes = boxes.clamp(0.0, self.image_size - 1.0)
        middles = torch.stack((xs.expand_as(centres[0, 0]), ys.expand_as(centres[0, 0]))).flatten(1)
        middles = middles + 0.0 * boxes[:, :2]  # (B, 2, h * w), without a shape that varies
        places = places[:, None]  # (B, 1, K)
        chosen = torch.cat((boxes, middles), dim=1).gather(2, places.expand(-1, 6, -1))
        chosen = chosen.transpose(1, 2)  # (B, K, 6)
        scores = torch.sigmoid(presence)[:, None] * heights / heights[:, :1].clamp(min=1e-6)
        return chosen[..., :4], scores, chosen[..., 4:], torch.sigmoid(maps[:, 0])

    def _cell_centres(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """x (1, w) and y (h, 1) of the cells' centres, pixels of the model's input."""
        height, width = like.shape[-2:]
        xs = (torch.arange(width, device=like.device) + 0.5) * (self.image_size / width) - 0.5
        ys = (torch.arange(height, device=like.device) + 0.5) * (self.image_size / height) - 0.5
        return xs[None], ys[:, None]
