"""Training configuration: a frozen dataclass read from YAML."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.settings_checks import (
    BELOW_ONE,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    find_problems,
)

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
        refine_probability: chance per step of a second decoding with the previous mask and a
            corrective click.
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
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        positive = (
            "epochs",
            "batch_size",
            "learning_rate",
            "decoder_learning_rate",
            "gradient_clip",
        )
        probabilities = ("box_and_click_probability", "refine_probability")
        bounds = {
            **dict.fromkeys(positive, POSITIVE),
            **dict.fromkeys(("weight_decay", "warmup_steps", "seed"), NOT_NEGATIVE),
            **dict.fromkeys(probabilities, FRACTION),
            "ema_decay": BELOW_ONE,
        }
        problems = find_problems(self, bounds)
        if self.arch != "tiny":
            problems.append(f"arch must be 'tiny', got {self.arch!r}")
        if self.precision not in PRECISIONS:
            expected = ", ".join(PRECISIONS)
            problems.append(f"precision must be one of {expected}, got {self.precision!r}")
        if problems:
            raise ValueError("; ".join(problems))


Settings = TypeVar("Settings", TrainConfig, AugmentationConfig)


def read_config(path: Path) -> TrainConfig:
    """Read a YAML configuration; keys that are not there keep their default.

    Raises:
        ValueError: if the file is no YAML mapping, or naming every unknown key and bad value.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ValueError(f"{path} is not a YAML file: {err}") from err
    problems: list[str] = []
    values = _known_values(document, TrainConfig, "", problems)
    given = _known_values(
        values.pop("augmentation", None), AugmentationConfig, "augmentation.", problems
    )
    augmentation = _build(AugmentationConfig, given, problems)
    config = _build(TrainConfig, values, problems)
    if augmentation is None or config is None or problems:
        raise ValueError(f"{path}: {'; '.join(problems)}.")
    return replace(config, augmentation=augmentation)


def config_document(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, for YAML and JSON."""
    return asdict(config)


def _known_values(
    document: object, settings: type[Settings], prefix: str, problems: list[str]
) -> dict[str, Any]:
    """The settings in a mapping that exist; those that do not are problems."""
    if document is None:
        return {}
    if not isinstance(document, dict):
        name = prefix.rstrip(".") or "the file"
        problems.append(f"{name} must be a mapping of settings, got {document!r:.60}")
        return {}
    known = {field.name for field in fields(settings)}
    problems += [f"unknown setting {f'{prefix}{key}'!r}" for key in document if key not in known]
    return {key: value for key, value in document.items() if key in known}


def _build(
    settings: type[Settings], values: dict[str, Any], problems: list[str]
) -> Settings | None:
    try:
        return settings(**values)
    except ValueError as err:
        problems.append(str(err))
        return None
