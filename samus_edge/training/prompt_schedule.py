"""Which prompts a training step gives to its images.

Batches of prompts with equally many points, as the runtime gives them to the decoder.

The decoder attends to padding as to any other point, so prompts of different length are not padded
to one length here: a training that pads would teach a decoder for prompts that the runtime never
sends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samus_edge.data.prompt_protocol import simulate_correction
from samus_edge.runtime.bundle.records import Count, Fraction, check_record
from samus_edge.training.losses import upscale
from samus_edge.training.training_samples import NUM_CLICKS, TrainingSample

BOX_LABELS = (2.0, 3.0)
FOREGROUND, PADDING = 1.0, -1.0


class PromptBatch(NamedTuple):
    """Arguments of the prompt encoder.

    Attributes:
        point_coords: (N, P, 2), float32, model frame.
        point_labels: (N, P), float32.
        mask_input: (N, 1, 128, 128), float32, logits; None where no prompt has a mask.
        has_mask_input: (N, 1), float32; None along with ``mask_input``.
    """

    point_coords: Tensor
    point_labels: Tensor
    mask_input: Tensor | None = None
    has_mask_input: Tensor | None = None


def box_prompts(batch: TrainingSample, *, with_click: bool) -> PromptBatch:
    """A box for each image; with a click inside it, too, if asked."""
    coords = torch.cat((batch.box, batch.clicks[:, :1]), dim=1) if with_click else batch.box
    labels = (*BOX_LABELS, FOREGROUND) if with_click else BOX_LABELS
    return _without_mask(coords, labels)


def click_prompts(batch: TrainingSample, *, which: int = 0) -> PromptBatch:
    """A click for each image, and the padding point that SAM adds to prompts without a box.

    Args:
        batch: the samples.
        which: number of the click among the samples' clicks.
    """
    click = batch.clicks[:, which : which + 1]
    coords = torch.cat((click, torch.zeros_like(click)), dim=1)
    return _without_mask(coords, (FOREGROUND, PADDING))


def several_click_prompts(batch: TrainingSample, *, count: int) -> PromptBatch:
    """Clicks on the lesion, one off it, and SAM's padding point, for each image.

    Args:
        batch: the samples.
        count: clicks on the lesion, at most as many as the samples have.
    """
    clicks = batch.clicks[:, :count]
    coords = torch.cat((clicks, batch.background_click, torch.zeros_like(clicks[:, :1])), dim=1)
    prompts = _without_mask(coords, (*(FOREGROUND,) * count, FOREGROUND, PADDING))
    labels = prompts.point_labels.clone()
    labels[:, count] = batch.background_label[:, 0]
    return prompts._replace(point_labels=labels)


def corrected_prompts(
    prompts: PromptBatch, mask_logits: Tensor, mask_targets: Tensor, rng: np.random.Generator
) -> PromptBatch:
    """The same prompts with the previous mask and one corrective click each.

    Args:
        prompts: the prompts that gave the masks.
        mask_logits: (N, 1, 128, 128), float32, their masks.
        mask_targets: (N, 1, 256, 256), float32, values in {0, 1}.
        rng: source of randomness.
    """
    previous = mask_logits.detach()
    device = previous.device
    predicted = (upscale(previous) > 0)[:, 0].cpu().numpy()
    truth = (mask_targets > 0.5)[:, 0].cpu().numpy()
    corrections = [simulate_correction(t, p, rng) for t, p in zip(truth, predicted, strict=True)]
    clicks = torch.from_numpy(np.stack([click for click, _ in corrections])).to(device)  # (N, 1, 2)
    labels = torch.tensor([[float(label)] for _, label in corrections], device=device)  # (N, 1)
    return PromptBatch(
        point_coords=torch.cat((clicks, prompts.point_coords), dim=1),
        point_labels=torch.cat((labels, prompts.point_labels), dim=1),
        mask_input=previous,
        has_mask_input=torch.ones(len(labels), 1, device=device),
    )


def joined_prompts(prompts: Sequence[PromptBatch]) -> PromptBatch:
    """One batch of several with equally many points; all have masks, or none has."""
    masks = [each.mask_input for each in prompts if each.mask_input is not None]
    has_mask = [each.has_mask_input for each in prompts if each.has_mask_input is not None]
    return PromptBatch(
        point_coords=torch.cat([each.point_coords for each in prompts]),
        point_labels=torch.cat([each.point_labels for each in prompts]),
        mask_input=torch.cat(masks) if masks else None,
        has_mask_input=torch.cat(has_mask) if has_mask else None,
    )


def _without_mask(coords: Tensor, labels: tuple[float, ...]) -> PromptBatch:
    count, device = len(coords), coords.device
    return PromptBatch(
        point_coords=coords,
        point_labels=torch.tensor(labels, device=device).expand(count, -1),
    )


@dataclass(frozen=True)
class PromptConfig:
    """Chances of each kind of prompt in a step; all images of a step get the same kinds.

    Attributes:
        box_probability: chance of a box: tight, jittered or loose.
        box_and_click_probability: chance that the box comes with a click inside.
        click_probability: chance of one click.
        second_click_probability: chance of one more click, decoded on its own.
        several_clicks_probability: chance of two or three clicks and one off the lesion, together.
        refine_probability: chance that every prompt is decoded again with the previous mask and a
            corrective click, as Segment Anything does.
        refine_iterations: number of such decodings.
    """

    box_probability: Fraction = 1.0
    box_and_click_probability: Fraction = 0.15
    click_probability: Fraction = 1.0
    second_click_probability: Fraction = 0.5
    several_clicks_probability: Fraction = 0.25
    refine_probability: Fraction = 0.25
    refine_iterations: Count = 1

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        further = []
        if self.box_probability != 1.0 and self.click_probability != 1.0:
            further.append(
                "box_probability or click_probability must be 1, so that every step has a prompt, "
                f"got {self.box_probability} and {self.click_probability}"
            )
        check_record(self, further)


def scheduled_prompts(
    batch: TrainingSample, config: PromptConfig, rng: np.random.Generator
) -> list[PromptBatch]:
    """The prompts of one step, each to be decoded on its own; at least one.

    Args:
        batch: the samples.
        config: chances.
        rng: source of randomness; draws equally many numbers whatever comes out.
    """
    chances = rng.random(5)
    count = int(rng.integers(2, NUM_CLICKS + 1))
    prompts = []
    if chances[0] < config.box_probability:
        prompts.append(box_prompts(batch, with_click=chances[1] < config.box_and_click_probability))
    if chances[2] < config.click_probability:
        prompts.append(click_prompts(batch))
    if chances[3] < config.second_click_probability:
        prompts.append(click_prompts(batch, which=1))
    if chances[4] < config.several_clicks_probability:
        prompts.append(several_click_prompts(batch, count=count))
    return prompts
