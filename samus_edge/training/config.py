"""Training configuration: frozen dataclasses; `config_file` reads them from YAML."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from samus_edge.archs import ARCHS
from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.prompt_protocol import BoxConfig
from samus_edge.errors import BadArgumentError
from samus_edge.settings_checks import BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, find_problems
from samus_edge.training.losses import LossWeights
from samus_edge.training.prompt_schedule import PromptConfig

TEACHERS = ("none", "lite_medsam")


@dataclass(frozen=True)
class DistillationConfig:
    """What is learned from a teacher before and while masks are learned.

    Attributes:
        teacher: "lite_medsam", "none", or the path of weights of ours (`.safetensors`).
        views: random views of each training image that the teacher encodes, once.
        epochs: passes over these views in which the encoder learns the teacher's embeddings, before
            the training on masks.
        learning_rate: peak rate of these passes.
        ema_decay: decay per step of the averaged encoder that they end with.
        mask_weight: share of the loss that compares with the teacher's masks, rather than with the
            annotated ones.
        min_teacher_dice: a teacher's mask that agrees less with the annotated one is not used.
    """

    teacher: str = "none"
    views: int = 4
    epochs: int = 10
    learning_rate: float = 1e-3
    ema_decay: float = 0.995
    mask_weight: float = 0.0
    min_teacher_dice: float = 0.7

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        bounds = {
            "views": POSITIVE,
            "epochs": NOT_NEGATIVE,
            "learning_rate": POSITIVE,
            "ema_decay": BELOW_ONE,
            "mask_weight": FRACTION,
            "min_teacher_dice": FRACTION,
        }
        problems = find_problems(self, bounds, prefix="distillation.")
        is_text = isinstance(self.teacher, str)
        if is_text and self.teacher not in TEACHERS and not self.teacher.endswith(".safetensors"):
            problems.append(
                "distillation.teacher must be none, lite_medsam or a .safetensors file, got "
                f"{self.teacher!r}"
            )
        if self.teacher == "none" and self.mask_weight:
            problems.append(
                f"distillation.mask_weight must be 0 without a teacher, got {self.mask_weight}"
            )
        if problems:
            raise BadArgumentError("; ".join(problems))


PRECISIONS = ("fp32", "bf16")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine")
DEVICES = ("cpu", "cuda")

# They change how fast a training runs and how much a crash costs, not what is learned.
OPERATIONAL_SETTINGS = ("num_workers", "checkpoint_interval_steps", "device")


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        arch: model size, "tiny" or "vit_b".
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.
        train_decoder: whether prompt encoder and mask decoder are trained where the architecture
            freezes them (vit_b).
        unfreeze: further parts that are trained where the architecture freezes them.
        epochs: passes over the training cases.
        batch_size: images per forward pass, on each process. Batch normalisation sees these alone.
        accumulation_steps: forward passes whose gradients are averaged in one step.
        normals: whether images without a lesion are trained on, too, with an empty mask.
        optimizer: "adamw" or "adam".
        learning_rate: peak rate of the encoder.
        decoder_learning_rate: peak rate of prompt encoder and mask decoder.
        weight_decay: decay of matrices and kernels; vectors are not decayed.
        schedule: what follows the warm-up: "cosine" to zero, or "constant".
        warmup_steps: steps of linear warm-up.
        gradient_clip: largest norm of the gradient; 0 for any.
        ema_decay: decay per step of the averaged weights, which are the ones validated and kept; 0
            for none, which keeps the weights themselves.
        precision: "fp32", or "bf16" for automatic mixed precision.
        seed: seed of initial weights, order, augmentation and prompts.
        device: "cpu" or "cuda".
        num_workers: threads that prepare the next batches; 0 to prepare each when it is needed.
        checkpoint_interval_steps: steps between two saved states within an epoch; each end of an
            epoch is saved, too. 0 for these alone.
        augmentation: strengths of the augmentations.
        prompts: chances of the prompts.
        boxes: how boxes miss the lesion.
        loss: weights of the loss.
        distillation: what is learned from a teacher.
    """

    arch: str = "tiny"
    hf: bool = True
    gate: bool = True
    train_decoder: bool = False
    unfreeze: tuple[str, ...] = ()
    epochs: int = 60
    batch_size: int = 8
    accumulation_steps: int = 1
    normals: bool = False
    optimizer: str = "adamw"
    learning_rate: float = 3e-4
    decoder_learning_rate: float = 1e-4
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup_steps: int = 100
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    precision: str = "bf16"
    seed: int = 0
    device: str = "cpu"
    num_workers: int = 1
    checkpoint_interval_steps: int = 200
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    boxes: BoxConfig = field(default_factory=BoxConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        positive = (
            *("epochs", "batch_size", "accumulation_steps"),
            *("learning_rate", "decoder_learning_rate"),
        )
        not_negative = (
            *("weight_decay", "warmup_steps", "seed", "gradient_clip"),
            *("num_workers", "checkpoint_interval_steps"),
        )
        bounds = {
            **dict.fromkeys(positive, POSITIVE),
            **dict.fromkeys(not_negative, NOT_NEGATIVE),
            "ema_decay": BELOW_ONE,
        }
        problems = find_problems(self, bounds)
        choices = {
            "arch": ARCHS,
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "device": DEVICES,
        }
        for name, expected in choices.items():
            value = getattr(self, name)
            if value not in expected:
                problems.append(f"{name} must be one of {', '.join(expected)}, got {value!r}")
        parts: object = self.unfreeze  # whatever stood in a file
        if isinstance(parts, (list, tuple)) and all(isinstance(part, str) for part in parts):
            object.__setattr__(self, "unfreeze", tuple(parts))
        else:
            problems.append(f"unfreeze must be a list of names, got {parts!r}")
        if problems:
            raise BadArgumentError("; ".join(problems))


SECTIONS: dict[str, type[Any]] = {
    "augmentation": AugmentationConfig,
    "prompts": PromptConfig,
    "boxes": BoxConfig,
    "loss": LossWeights,
    "distillation": DistillationConfig,
}


def config_document(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, for YAML and JSON."""
    return {**asdict(config), "unfreeze": list(config.unfreeze)}


Settings = TypeVar("Settings")


def read_config(path: Path | None, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML configuration; keys that are not there keep their default.

    Args:
        path: the file; None for the default configuration.
        changes: settings that replace the file's, each as "key=value" with the value in YAML, such
            as "epochs=20" or "prompts.refine_probability=0.5".

    Raises:
        ValueError: if the file is no YAML mapping, or naming every unknown key and bad value.
    """
    problems: list[str] = []
    document = {} if path is None else _mapping(_read_yaml(path), "", problems)
    for change in changes:
        _apply(change, document, problems)
    values = _known_values(document, TrainConfig, "", problems)
    for name, section in SECTIONS.items():
        given = _known_values(values.pop(name, None), section, f"{name}.", problems)
        built = _build(section, given, problems)
        if built is not None:
            values[name] = built
    config = _build(TrainConfig, values, problems)
    if config is None or problems:
        source = "--set" if path is None else f"{path} with --set" if changes else str(path)
        raise BadArgumentError(f"{source}: {'; '.join(problems)}.")
    return config


def _read_yaml(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise BadArgumentError(f"{path} is not a YAML file: {err}") from err


def _apply(change: str, document: dict[str, Any], problems: list[str]) -> None:
    """Put one "key=value" into a document, in place."""
    key, equals, text = change.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not name:
        problems.append(f"{change!r} is not key=value, as in prompts.refine_probability=0.5")
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(f"the value of {change!r} is not YAML")
        return
    target = document
    for depth, section in enumerate(sections, 1):
        inner = _mapping(target.get(section), ".".join(sections[:depth]), problems)
        target[section] = inner
        target = inner
    target[name] = value


def _mapping(document: object, name: str, problems: list[str]) -> dict[str, Any]:
    """A copy of what must be a mapping; anything else but None is a problem."""
    if isinstance(document, dict):
        return dict(document)
    if document is not None:
        name = name or "the file"
        problems.append(f"{name} must be a mapping of settings, got {document!r:.60}")
    return {}


def _known_values(
    document: object, settings: type[Any], prefix: str, problems: list[str]
) -> dict[str, Any]:
    """The settings in a mapping that exist; those that do not are problems."""
    given = _mapping(document, prefix.rstrip("."), problems)
    known = {field.name for field in fields(settings)}
    problems += [f"unknown setting {f'{prefix}{key}'!r}" for key in given if key not in known]
    return {key: value for key, value in given.items() if key in known}


def _build(
    settings: type[Settings], values: dict[str, Any], problems: list[str]
) -> Settings | None:
    try:
        return settings(**values)
    except ValueError as err:
        problems.append(str(err))
        return None
