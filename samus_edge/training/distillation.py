"""What a configuration has to be learned from a teacher before a training on masks begins."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samus_edge.data.case import UltrasoundCase, select_lesions
from samus_edge.errors import JobInterruptedError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.checkpoint import remove_unfinished_files
from samus_edge.training.config import TrainConfig
from samus_edge.training.feature_distillation import FeatureDistillation
from samus_edge.training.stage_progress import StageProgress
from samus_edge.training.teacher import Mask, Teacher, load_teacher
from samus_edge.training.teacher_cache import TeacherCache
from samus_edge.training.teacher_masks import make_teacher_masks
from samus_edge.training.teacher_views import TeacherViews, make_teacher_views

DISTILLATION_FOLDER = "distillation"
STATE_FILE = "state.pt"

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
) -> list[list[Mask]] | None:
    """Distil a teacher's features into a model, in place, and collect the teacher's masks.

    What the teacher said and how far the distillation is lies in the folder `distillation` of the
    run: an interrupted one goes on there, and a later call finds everything done. Its folder
    `views`, about 0.8 MB a view, may be deleted once the features are distilled. Only one process
    may do this at a time; others call it after the first has returned.

    Args:
        model: the model, whose encoder learns; moved to the device.
        config: the training configuration.
        cases: the whole train subset in its order, with and without lesions: features are learned
            from all images, masks of the lesions.
        out_dir: folder of the run; created if missing.
        device: what computes; None for the CPU.
        report: called with lines for a log.
        progress: called as each stage goes on.
        should_stop: asked after each image and step; the distillation ends there if it says yes.

    Returns:
        For each of ``select_lesions(cases)`` a mask of each lesion, as
        :class:`samus_edge.data.training_samples.LesionDataset` takes them; None if no loss uses
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
    model.to(device)
    teacher = load_teacher(settings.teacher, precision=config.precision, device=device)
    folder = out_dir / DISTILLATION_FOLDER

    def advance(stage: str, done: int, total: int) -> None:
        progress(StageProgress(stage, done, total))
        if stage != FEATURES and should_stop():  # the feature distillation asks for itself
            raise JobInterruptedError(
                f"interrupted after {done} of {total} of the {stage}. {folder} keeps them; run the "
                "same command again to go on."
            )

    if settings.epochs:
        _distil_features(model, config, cases, teacher, folder, report, advance, should_stop)
    if not settings.mask_weight:
        return None
    lesions = select_lesions(cases)
    taught = make_teacher_masks(
        teacher,
        lesions,
        min_dice=settings.min_teacher_dice,
        settings={"precision": config.precision},
        cache=_cache(folder / "masks"),
        progress=lambda done: advance(MASKS, done, len(lesions)),
    )
    report(taught.summary())
    return taught.masks


def _distil_features(
    model: SamusHF,
    config: TrainConfig,
    cases: Sequence[UltrasoundCase],
    teacher: Teacher,
    folder: Path,
    report: Callable[[str], None],
    advance: Callable[[str, int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Make the views that are lacking, and distil, both from where an earlier call stopped."""
    settings = config.distillation
    views = TeacherViews(_cache(folder / "views"), len(cases), settings.views)
    remove_unfinished_files(folder)
    distillation = FeatureDistillation(
        model, config, views, folder / STATE_FILE, _identity(model, config, cases, teacher)
    )
    if not distillation.is_done:
        make_teacher_views(
            teacher,
            cases,
            views=settings.views,
            augmentation=config.augmentation,
            seed=config.seed,
            settings={"precision": config.precision},
            cache=views.cache,
            progress=lambda done: advance(VIEWS, done, len(views)),
        )
    distillation.run(
        lambda epoch, loss: report(
            f"feature distillation, epoch {epoch} of {settings.epochs}: loss {loss:.4f}"
        ),
        lambda step: advance(FEATURES, step.step, step.total_steps),
        should_stop,
    )
    if distillation.skipped_steps:
        report(
            "steps of the feature distillation skipped because their gradient was not finite: "
            f"{distillation.skipped_steps}"
        )


def _cache(folder: Path) -> TeacherCache:
    cache = TeacherCache(folder)
    remove_unfinished_files(folder)
    return cache


def _identity(
    model: SamusHF, config: TrainConfig, cases: Sequence[UltrasoundCase], teacher: Teacher
) -> dict[str, Any]:
    """All that the distilled features depend on, under the names that an error gives."""
    settings = config.distillation
    keys = "\n".join(case.key for case in cases).encode(errors="surrogateescape")
    return {
        "teacher": teacher.weights_sha256,
        "start": _sha256_of_weights(model.image_encoder),
        "order of cases": hashlib.sha256(keys).hexdigest(),
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
        "augmentation": dataclasses.asdict(config.augmentation),
    }


def _sha256_of_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
