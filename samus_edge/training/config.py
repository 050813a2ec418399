"""Training configuration: frozen dataclasses; `config_file` reads them from YAML."""

from dataclasses import asdict, dataclass, field
from typing import Any

from samus_edge.archs import ARCHS
from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.prompts import BoxConfig
from samus_edge.settings_checks import BELOW_ONE, NOT_NEGATIVE, POSITIVE, find_problems
from samus_edge.training.distillation_config import DistillationConfig
from samus_edge.training.losses import LossWeights
from samus_edge.training.prompt_schedule import PromptConfig

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
            raise ValueError("; ".join(problems))


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
