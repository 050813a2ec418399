"""Which prompts a training step gives to its images."""

from dataclasses import dataclass

import numpy as np

from samus_edge.data.training_samples import NUM_CLICKS, TrainingSample
from samus_edge.settings_checks import FRACTION, POSITIVE, find_problems
from samus_edge.training.prompt_batch import (
    PromptBatch,
    box_prompts,
    click_prompts,
    several_click_prompts,
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
        refine_iterations: how many times then.
    """

    box_probability: float = 1.0
    box_and_click_probability: float = 0.15
    click_probability: float = 1.0
    second_click_probability: float = 0.5
    several_clicks_probability: float = 0.25
    refine_probability: float = 0.25
    refine_iterations: int = 1

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        probabilities = (
            "box_probability",
            "box_and_click_probability",
            "click_probability",
            "second_click_probability",
            "several_clicks_probability",
            "refine_probability",
        )
        bounds = {**dict.fromkeys(probabilities, FRACTION), "refine_iterations": POSITIVE}
        problems = find_problems(self, bounds, prefix="prompts.")
        if self.box_probability != 1.0 and self.click_probability != 1.0:
            problems.append(
                "prompts.box_probability or prompts.click_probability must be 1, so that every "
                f"step has a prompt, got {self.box_probability} and {self.click_probability}"
            )
        if problems:
            raise ValueError("; ".join(problems))


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
