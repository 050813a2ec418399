"""The configuration of a training: frozen dataclasses, and their YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from samus_edge.archs import ARCHS
from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.collection import DatasetConfig
from samus_edge.data.prompt_protocol import BoxConfig
from samus_edge.errors import BadArgumentError
from samus_edge.runtime.bundle.records import (
    BelowOne,
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    RecordError,
    check_record,
    from_json,
    one_of,
    to_json,
)
from samus_edge.training.losses import LossWeights
from samus_edge.training.prompt_schedule import PromptConfig

PRECISIONS = ("auto", "fp32", "bf16")
OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine")
DEVICES = ("cpu", "cuda")

# They change how fast a training runs and how much a crash costs, not what is learned.
OPERATIONAL_SETTINGS = ("num_workers", "shares", "checkpoint_interval_steps", "device")


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        arch: model size, "tiny" or "vit_b".
        start: weights to start from where the command names none: a checkpoint, a bundle, or
            "default" for the default bundle; empty for LiteMedSAM's.
        datasets: the datasets to train on together, in the folder that the command names; empty
            where that is the only one.
        hf: whether the high-frequency image enters the CNN branch.
        gate: whether the multi-scale attention gate follows the CNN branch.
        train_decoder: whether prompt encoder and mask decoder are trained where the architecture
            freezes them (vit_b).
        unfreeze: further parts that are trained where the architecture freezes them.
        epochs: passes over the training cases.
        batch_size: images per forward pass, on each process. Batch normalisation sees these alone.
        accumulation_steps: forward passes whose gradients are averaged in one step.
        normals: whether images without a lesion are trained on, too, with an empty mask.
        proposer_only: whether the lesion proposer alone is trained; the masks stay as they are.
        optimizer: "adamw" or "adam".
        learning_rate: peak rate of the encoder.
        decoder_learning_rate: peak rate of prompt encoder and mask decoder.
        proposer_learning_rate: peak rate of the lesion proposer.
        weight_decay: decay of matrices and kernels; vectors are not decayed.
        schedule: course of the rate after the warm-up: "cosine" to zero, or "constant".
        warmup_steps: steps of linear warm-up.
        gradient_clip: largest norm of the gradient; 0 for any.
        ema_decay: decay per step of the averaged weights, which are the ones validated and kept; 0
            for none, which keeps the weights themselves.
        precision: "bf16" for automatic mixed precision, "fp32", or "auto" for bf16 where the
            processor has instructions for it (without, it is ten times slower than fp32).
        seed: seed of initial weights, order, augmentation and prompts.
        device: "cpu" or "cuda".
        num_workers: threads that prepare the next batches; 0 to prepare each when it is needed.
        shares: parts of a batch that a CPU learns from at the same time, each in a thread; 0 for as
            many as there are processors. Faster than several threads for each operation, by far on
            a machine that others use, too. Batch normalisation in training takes batches whole.
        checkpoint_interval_steps: steps between two saved states within an epoch; each end of an
            epoch is saved, too. 0 for these alone.
        augmentation: strengths of the augmentations.
        prompts: chances of the prompts.
        boxes: ways in which boxes miss the lesion.
        loss: weights of the loss.
    """

    arch: Annotated[str, one_of(ARCHS)] = "tiny"
    start: str = ""
    datasets: tuple[DatasetConfig, ...] = ()
    hf: bool = True
    gate: bool = True
    train_decoder: bool = False
    unfreeze: tuple[str, ...] = ()
    epochs: Count = 60
    batch_size: Count = 8
    accumulation_steps: Count = 1
    normals: bool = False
    proposer_only: bool = False
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"
    learning_rate: Positive = 3e-4
    decoder_learning_rate: Positive = 1e-4
    proposer_learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.05
    schedule: Annotated[str, one_of(SCHEDULES)] = "cosine"
    warmup_steps: CountOrZero = 100
    gradient_clip: NotNegative = 1.0
    ema_decay: BelowOne = 0.998
    precision: Annotated[str, one_of(PRECISIONS)] = "auto"
    seed: CountOrZero = 0
    device: Annotated[str, one_of(DEVICES)] = "cpu"
    num_workers: CountOrZero = 1
    shares: CountOrZero = 0
    checkpoint_interval_steps: CountOrZero = 200
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    boxes: BoxConfig = field(default_factory=BoxConfig)
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            BadArgumentError: naming every bad one.
        """
        further = []
        if self.proposer_only and not self.loss.proposals:
            further.append("proposer_only needs loss.proposals above 0, got 0.0")
        if self.loss.proposals and self.datasets and not any(d.proposals for d in self.datasets):
            further.append("loss.proposals needs a dataset with proposals: true, got none")
        check_record(self, further)


def config_document(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain values, for YAML and JSON."""
    return to_json(config)


def differing_settings(config: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Names of the settings in which two configurations learn something else.

    Args:
        config: the configuration of today, as plain values.
        stored: that of an earlier training. What 0.1.0 kept of a teacher, where there was none,
            differs in nothing.
    """
    left_out = {*OPERATIONAL_SETTINGS}
    if (stored.get("distillation") or {}).get("teacher") == "none":
        left_out.add("distillation")
    return [
        key
        for key in {**config, **stored}
        if key not in left_out and stored.get(key) != config.get(key)
    ]


def find_config(name: str | Path) -> Path:
    """A configuration by its path, or by the name of one that comes with samus-edge.

    Args:
        name: a YAML file, or for example "tiny_busi".

    Raises:
        BadArgumentError: if there is neither; lists the names.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = Path(__file__).parents[1] / "configs"
    packaged = folder / f"{path}.yaml"
    if path.parent == Path() and packaged.is_file():
        return packaged
    names = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
    raise BadArgumentError(f"--config {name} is neither a YAML file nor one of {names}.")


def read_config(path: Path | None, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML configuration; keys that are not there keep their default.

    Args:
        path: The file; None for the default configuration.
        changes: Settings that replace the file's, each as "key=value" with the value in YAML, such
            as "epochs=20" or "prompts.refine_probability=0.5".

    Raises:
        BadArgumentError: if the file is no YAML mapping, or naming every unknown key and bad value.
    """
    document: Any = {} if path is None else _read_yaml(path)
    problems: list[str] = []
    for change in changes if isinstance(document, dict) else ():
        _apply(change, document, problems)
    try:
        config = from_json(TrainConfig, document)
    except RecordError as err:
        problems += err.problems
    if problems:
        source = "--set" if path is None else f"{path} with --set" if changes else str(path)
        raise BadArgumentError(f"{source}: {'; '.join(problems)}.")
    return config


def _read_yaml(path: Path) -> object:
    """The document; an empty one, and empty sections of it, hold no settings."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise BadArgumentError(f"{path} is not a YAML file: {err}") from err
    if not isinstance(document, dict):
        return {} if document is None else document
    sections = {each.name for each in fields(TrainConfig) if is_dataclass(each.type)}
    return {
        key: {} if key in sections and value is None else value for key, value in document.items()
    }


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
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            return  # which is said when the document is read
    target[name] = value
