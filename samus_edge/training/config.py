"""Training configuration: a frozen dataclass read from YAML."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from samus_edge.data.augmentation import AugmentationConfig

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        arch: model size; only "tiny" so far.
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.
        epochs: passes over the training cases.
        batch_size: images per step; each carries two prompts.
        learning_rate: peak rate of the encoder.
        decoder_learning_rate: peak rate of prompt encoder and mask decoder.
        weight_decay: AdamW's decay of matrices and kernels; vectors are not decayed.
        warmup_steps: steps of linear warm-up before the cosine to zero.
        gradient_clip: largest norm of the gradient.
        ema_decay: decay per step of the averaged weights, which are the ones validated and kept.
        box_and_click_probability: chance per step that the boxes come with a click inside.
        refine_probability: chance per step of a second decoding with the previous mask and a corrective click.
        precision: "fp32", or "bf16" for automatic mixed precision.
        seed: seed of initial weights, order, augmentation and prompts.
        augmentation: strengths of the augmentations.
    """

    arch: str = "tiny"
    hf: bool = True
    gate: bool = True
    epochs: int = 60
    batch_size: int = 8
    learning_rate: float = 3e-4
    decoder_learning_rate: float = 1e-4
    weight_decay: float = 0.05
    warmup_steps: int = 100
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    box_and_click_probability: float = 0.15
    refine_probability: float = 0.25
    precision: str = "bf16"
    seed: int = 0
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        problems = []
        if self.arch != "tiny":
            problems.append(f"arch must be 'tiny', got {self.arch!r}")
        if self.precision not in PRECISIONS:
            problems.append(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        for name in ("epochs", "batch_size", "learning_rate", "decoder_learning_rate", "gradient_clip"):
            if getattr(self, name) <= 0:
                problems.append(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps", "seed"):
            if getattr(self, name) < 0:
                problems.append(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("ema_decay", "box_and_click_probability", "refine_probability"):
            if not 0.0 <= getattr(self, name) < 1.0:
                problems.append(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if problems:
            raise ValueError("Training configuration: " + "; ".join(problems) + ".")


def read_config(path: Path) -> TrainConfig:
    """Read a YAML configuration; keys that are not there keep their default.

    Raises:
        ValueError: naming every unknown key and bad value.
    """
    document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold a mapping of settings, got {type(document).__name__}.")
    augmentation = document.pop("augmentation", {})
    unknown = [f"{key!r}" for key in document if key not in {f.name for f in fields(TrainConfig)}]
    known = {f.name for f in fields(AugmentationConfig)}
    unknown += [f"'augmentation.{key}'" for key in augmentation if key not in known]
    if unknown:
        raise ValueError(f"{path} has unknown settings: {', '.join(unknown)}.")
    return TrainConfig(**document, augmentation=AugmentationConfig(**augmentation))


def config_document(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, for YAML and JSON."""
    return asdict(config)
