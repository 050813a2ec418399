"""Features that an encoder learns from a teacher before a training on masks begins."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from samus_edge.data.augmentation import AugmentationConfig, augment_appearance
from samus_edge.data.case import UltrasoundCase, select_lesions
from samus_edge.errors import JobInterruptedError
from samus_edge.modeling.samus_hf import HighFrequency, InputScaling, SamusHF
from samus_edge.training.batches import StageProgress
from samus_edge.training.config import TrainConfig
from samus_edge.training.history import EpochRecord
from samus_edge.training.learner import Processes
from samus_edge.training.objective import Objective, encode
from samus_edge.training.teacher_cache import (
    TeacherCache,
    TeacherViews,
    make_teacher_masks,
    make_teacher_views,
)
from samus_edge.training.teachers import Mask, Teacher, UInt8Image, load_teacher
from samus_edge.training.trainer import StepRecord, Trainer, run_training
from samus_edge.training.training_samples import Sample, frame_inputs

ORDER_STREAM = 11  # of random numbers, apart from those of views and of the training on masks
APPEARANCE_STREAM = 12
MIN_SIDE_PX = 32


@dataclass(frozen=True)
class ViewSample(Sample):
    """A teacher's view with a new appearance; a batch has one more, leading dimension.

    Attributes:
        embedding: (C, 32, 32), float16, the teacher's.
    """

    embedding: Tensor


class ViewSamples:
    """A teacher's views, each as another scanner might show it.

    Args:
        views: the views.
        image_size: side of the model input, pixels.
        augmentation: strengths of the appearance.
        seed: seed of all samples.
    """

    def __init__(
        self, views: TeacherViews, image_size: int, augmentation: AugmentationConfig, seed: int
    ) -> None:
        self.views = views
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self._input_scaling = InputScaling(image_size)
        self._high_frequency = HighFrequency(image_size)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> ViewSample:
        rng = np.random.default_rng((self.seed, APPEARANCE_STREAM, self.epoch, index))
        frame = _with_new_appearance(self.views.frame(index), self.augmentation, rng)
        inputs = frame_inputs(frame, self._input_scaling, self._high_frequency)
        return ViewSample(*inputs, embedding=self.views.embedding(index))

    def order(self) -> list[int]:
        """The order in which this epoch's samples are learned from."""
        rng = np.random.default_rng((self.seed, ORDER_STREAM, self.epoch))
        return [int(index) for index in rng.permutation(len(self))]


def _with_new_appearance(
    frame: UInt8Image, augmentation: AugmentationConfig, rng: np.random.Generator
) -> UInt8Image:
    """The frame as another scanner might show it: perhaps smaller, with other grey levels."""
    if rng.random() < augmentation.resolution_probability:
        factor = rng.uniform(augmentation.min_resolution, 1.0)
        height, width = (max(MIN_SIDE_PX, round(side * factor)) for side in frame.shape)
        resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        frame = np.asarray(resized, dtype=np.uint8)
    return augment_appearance(frame, augmentation, rng)


class FeatureObjective(Objective):
    """The error of the encoder's embeddings of views whose appearance is changed.

    It is the squared error over the variance of the teacher's embeddings: 1 for an encoder that
    knows no more than their mean. The schedule is a cosine and the optimiser AdamW, whatever the
    training on masks uses.

    Args:
        model: the model, whose encoder learns.
        config: the configuration of the training on masks.
        views: the teacher's views; read when the first loss is computed.
        settings: everything that the features depend on, as plain values by name.
        fingerprint: tells the cases and their order from others.
    """

    name = "feature distillation"

    def __init__(
        self,
        model: SamusHF,
        config: TrainConfig,
        views: TeacherViews,
        settings: dict[str, Any],
        fingerprint: str,
    ) -> None:
        distillation = config.distillation
        self.views = views
        super().__init__(
            model,
            replace(
                config,
                epochs=distillation.epochs,
                accumulation_steps=1,
                optimizer="adamw",
                schedule="cosine",
                learning_rate=distillation.learning_rate,
                ema_decay=distillation.ema_decay,
            ),
            ViewSamples(views, model.prompt_encoder.image_size, config.augmentation, config.seed),
            settings=settings,
            fingerprint=fingerprint,
        )

    def forward(self, batch: ViewSample, rng: np.random.Generator) -> Tensor:
        """Mean squared error, as a fraction of the variance."""
        with self.autocast(batch.image.device):
            embeddings = encode(self.model, batch)
        error = embeddings.float() - batch.embedding.float()
        return error.square().mean() / self._variance

    @cached_property
    def _variance(self) -> float:
        return self.views.variance()


DISTILLATION_FOLDER = "distillation"

VIEWS = "teacher's views"
FEATURES = "feature distillation"
MASKS = "teacher's masks"


def prepare_distillation(
    model: SamusHF,
    config: TrainConfig,
    cases: Sequence[UltrasoundCase],
    out_dir: Path,
    *,
    device: torch.device | None = None,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[StageProgress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    tensorboard: bool = False,
) -> list[list[Mask]] | None:
    """Distil a teacher's features into a model, in place, and collect the teacher's masks.

    The folder `distillation` of the run holds the teacher's views and masks and the state of the
    distillation: an interrupted one goes on there, and a later call finds everything done. Its
    folder `views`, about 0.8 MB a view, may be deleted once the features are distilled. Only one
    process may do this at a time; others call it after the first has returned.

    Args:
        model: the model, whose encoder learns; moved to the device.
        config: the training configuration.
        cases: the whole train subset in its order, with and without lesions: features are learned
            from all images, masks of the lesions.
        out_dir: folder of the run; created if missing.
        device: the device to compute on; None for the CPU.
        report: called with lines for a log.
        progress: called as each stage goes on.
        should_stop: asked after each image and step; the distillation ends there if it says yes.
        tensorboard: whether to log for TensorBoard, in the folder `distillation`.

    Returns:
        For each of ``select_lesions(cases)`` a mask of each lesion, as
        :class:`samus_edge.training.training_samples.LesionDataset` takes them; None if no loss uses
        them.

    Raises:
        JobInterruptedError: if it was asked to stop; what was done is saved.
        MissingExtraError: if LiteMedSAM's checkpoint is not installed.
        WeightsError: if the teacher's file, or the state of an earlier call, is not what it should
            be.
        DataError: if a case cannot be read.
        OutputFileError: if a file cannot be written.
    """
    settings = config.distillation
    if settings.teacher == "none":
        return None
    device = device or torch.device("cpu")
    teacher = load_teacher(settings.teacher, precision=config.precision, device=device)
    folder = out_dir / DISTILLATION_FOLDER

    def advance(stage: str, done: int, total: int) -> None:
        progress(StageProgress(stage, done, total))
        if should_stop():
            raise JobInterruptedError(
                f"interrupted after {done} of {total} of the {stage}. {folder} keeps them; run the "
                "same command again to go on."
            )

    if settings.epochs:
        views = TeacherViews(TeacherCache(folder / "views"), len(cases), settings.views)
        objective = FeatureObjective(
            model, config, views, *_identity(model, config, cases, teacher)
        )
        trainer = Trainer(objective, folder, Processes(device=device))
        if not trainer.is_done:
            make_teacher_views(
                teacher,
                cases,
                views=settings.views,
                augmentation=config.augmentation,
                seed=config.seed,
                precision=config.precision,
                cache=views.cache,
                progress=lambda done: advance(VIEWS, done, len(views)),
            )

        def report_epoch(record: EpochRecord) -> None:
            epochs = f"epoch {record.epoch} of {settings.epochs}"
            report(f"{objective.name}, {epochs}: loss {record.train_loss:.4f}")

        def report_step(record: StepRecord) -> None:
            progress(StageProgress(FEATURES, record.step, trainer.total_steps))

        run_training(trainer, report_epoch, report_step, should_stop, tensorboard=tensorboard)
        learner = trainer.learner
        model.image_encoder.load_state_dict(learner.averaged.image_encoder.state_dict())
        if learner.skipped_steps:
            report(
                "steps of the feature distillation skipped because their gradient was not finite: "
                f"{learner.skipped_steps}"
            )
    if not settings.mask_weight:
        return None
    lesions = select_lesions(cases)
    taught = make_teacher_masks(
        teacher,
        lesions,
        min_dice=settings.min_teacher_dice,
        precision=config.precision,
        cache=TeacherCache(folder / "masks"),
        progress=lambda done: advance(MASKS, done, len(lesions)),
    )
    report(taught.summary())
    return taught.masks


def _identity(
    model: SamusHF, config: TrainConfig, cases: Sequence[UltrasoundCase], teacher: Teacher
) -> tuple[dict[str, Any], str]:
    """The settings that the distilled features depend on, and the fingerprint of the cases."""
    settings = config.distillation
    keys = "\n".join(case.key for case in cases).encode(errors="surrogateescape")
    return {
        "teacher": teacher.weights_sha256,
        "start": _sha256_of_weights(model.image_encoder),
        "distillation.views": settings.views,
        "distillation.epochs": settings.epochs,
        "distillation.learning_rate": settings.learning_rate,
        "distillation.ema_decay": settings.ema_decay,
        "batch_size": config.batch_size,
        "weight_decay": config.weight_decay,
        "warmup_steps": config.warmup_steps,
        "gradient_clip": config.gradient_clip,
        "precision": config.precision,
        "seed": config.seed,
        "augmentation": asdict(config.augmentation),
    }, hashlib.sha256(keys).hexdigest()


def _sha256_of_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
