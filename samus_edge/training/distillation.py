"""What a configuration has to be learned from a teacher before a training on masks begins."""

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from samus_edge.data.augmentation import AugmentationConfig, augment_appearance, augment_geometry
from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.data.prompt_protocol import mask_box
from samus_edge.errors import (
    BadArgumentError,
    DataError,
    JobInterruptedError,
    OutputFileError,
    WeightsError,
)
from samus_edge.evaluation.metrics import dice
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.training.batches import StageProgress
from samus_edge.training.checkpoint import remove_unfinished_files
from samus_edge.training.config import TrainConfig
from samus_edge.training.learner import averaged_copy, make_optimizer, schedule_factor, set_rates
from samus_edge.training.objective import set_training_mode
from samus_edge.training.teachers import Mask, Teacher, UInt8Image, load_teacher

FINGERPRINT = "fingerprint"


def fingerprint_of(settings: Mapping[str, Any], *arrays: npt.NDArray[np.generic]) -> str:
    """SHA-256 of settings and arrays, shapes included: 64 hexadecimal digits.

    Args:
        settings: anything that JSON can hold; the order of keys does not matter.
        arrays: what the teacher was shown.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class TeacherCache:
    """Tensors in a folder, one file per image, each with a fingerprint of what it was made from.

    Args:
        folder: created if missing. It may be deleted; what was in it is then made again.

    Raises:
        OutputFileError: if the folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise OutputFileError(
                f"The folder {folder} cannot be created ({err.strerror or err}). "
                "Give a folder, or a name that is free, where you may write."
            ) from err

    def path(self, index: int) -> Path:
        """The file of an image, whether it exists or not."""
        return self.folder / f"{index:06d}.safetensors"

    def holds(self, index: int, fingerprint: str) -> bool:
        """Whether the file is there, whole, and made from the same."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.path(index)), framework="pt") as file:
                return (file.metadata() or {}).get(FINGERPRINT) == fingerprint
        except (OSError, SafetensorError):
            return False

    def write(self, index: int, fingerprint: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an image's tensors atomically; an earlier file is replaced.

        Raises:
            OutputFileError: if the file cannot be written.
        """
        from safetensors.torch import save

        content = save(dict(tensors), metadata={FINGERPRINT: fingerprint})
        write_files_atomically({self.path(index): content})

    def read(self, index: int, name: str) -> Tensor:
        """One tensor of an image that the cache holds; the others are not read."""
        from safetensors import safe_open

        with safe_open(str(self.path(index)), framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


VIEW_STREAM = 7  # of random numbers, apart from those of samples and steps
TEACHER_BATCH = 4


@dataclass(frozen=True)
class TeacherViews:
    """Frames and embeddings on disk; about 0.8 MB a view, read when asked for.

    Attributes:
        cache: where they are.
        images: how many images they are views of.
        views: views of each image; those of an image are next to each other.
    """

    cache: TeacherCache
    images: int
    views: int

    def __len__(self) -> int:
        return self.images * self.views

    def frame(self, index: int) -> UInt8Image:
        """The view, (H, W), uint8, of the size of its image."""
        image, view = divmod(index, self.views)
        frame: UInt8Image = self.cache.read(image, _frame_name(view)).numpy()
        return frame

    def embedding(self, index: int) -> Tensor:
        """What the teacher makes of the view, (256, 32, 32), float16."""
        image, view = divmod(index, self.views)
        return self.cache.read(image, _embedding_name(view))

    def variance(self) -> float:
        """Variance of each channel over all places of all views, averaged over the channels."""
        count = 0
        total, squares = torch.zeros(1).double(), torch.zeros(1).double()  # (C,) after the first
        for index in range(len(self)):
            values = self.embedding(index).flatten(1).double()  # (C, h * w)
            count += values.shape[1]
            total = total + values.sum(dim=1)
            squares = squares + values.square().sum(dim=1)
        return float(((squares - total.square() / count) / (count - 1)).mean())


def make_teacher_views(
    teacher: Teacher,
    cases: Sequence[UltrasoundCase],
    *,
    views: int,
    augmentation: AugmentationConfig,
    seed: int,
    settings: dict[str, object],
    cache: TeacherCache,
    progress: Callable[[int], None] = lambda done: None,
) -> TeacherViews:
    """Have a teacher embed random views of images, with or without a lesion.

    A view is turned, zoomed, shifted and mirrored, but neither deformed nor stored smaller: the
    teacher is to see anatomy as it is. The student's appearance and resolution are changed later.

    Args:
        teacher: the teacher.
        cases: the images, in an order that seeds them.
        views: views of each image.
        augmentation: strengths of the geometry.
        seed: seed of the views.
        settings: whatever else the embeddings depend on, for the fingerprint.
        cache: where the views go; those that are there and fit are kept.
        progress: called with the views that are there.

    Raises:
        DataError: if an image cannot be read.
        OutputFileError: if a view cannot be written.
    """
    geometry = replace(augmentation, elastic_probability=0.0, resolution_probability=0.0)
    settings = {
        **settings,
        "teacher_sha256": teacher.weights_sha256,
        "views": views,
        "geometry": asdict(geometry),
        "seed": seed,
    }
    for index, case in enumerate(cases):
        image = read_image(case)
        fingerprint = fingerprint_of({**settings, "index": index}, image)
        if not cache.holds(index, fingerprint):
            frames = [
                _view(image, geometry, np.random.default_rng((seed, VIEW_STREAM, index, view)))
                for view in range(views)
            ]
            cache.write(index, fingerprint, _embedded(teacher, frames))
        progress((index + 1) * views)
    return TeacherViews(cache, len(cases), views)


def _view(image: UInt8Image, geometry: AugmentationConfig, rng: np.random.Generator) -> UInt8Image:
    frame, _ = augment_geometry(image, [], geometry, rng, mask_size=0)
    return frame


def _embedded(teacher: Teacher, frames: list[UInt8Image]) -> dict[str, Tensor]:
    """Tensors of one image's views, by name."""
    batches = [
        teacher.embeddings(frames[start : start + TEACHER_BATCH])
        for start in range(0, len(frames), TEACHER_BATCH)
    ]
    tensors = {}
    for view, (frame, embedding) in enumerate(zip(frames, torch.cat(batches), strict=True)):
        tensors[_frame_name(view)] = torch.from_numpy(np.ascontiguousarray(frame))
        tensors[_embedding_name(view)] = embedding.half().contiguous()
    return tensors


def _frame_name(view: int) -> str:
    return f"frame_{view}"


def _embedding_name(view: int) -> str:
    return f"embedding_{view}"


MASKS_NAME = "masks"


@dataclass(frozen=True, eq=False)
class TeacherMasks:
    """What a student learns beside the annotated masks.

    Attributes:
        masks: for each case and each of its lesions a mask, (H, W), bool: the teacher's, or the
            annotated one where the teacher's agrees too little with it.
        dices: Dice of the teacher's mask and the annotated one, lesion by lesion, in [0, 1].
        min_dice: the least that a teacher's mask has to agree.
    """

    masks: list[list[Mask]]
    dices: list[float]
    min_dice: float

    def summary(self) -> str:
        """One line for a log."""
        replaced = sum(value < self.min_dice for value in self.dices)
        return (
            f"the teacher's masks agree with the annotated ones to a mean Dice of "
            f"{float(np.mean(self.dices)):.3f}; {replaced} of {len(self.dices)} agree less than "
            f"{self.min_dice:g} and are left out"
        )


def make_teacher_masks(
    teacher: Teacher,
    cases: Sequence[UltrasoundCase],
    *,
    min_dice: float,
    settings: dict[str, object],
    cache: TeacherCache,
    progress: Callable[[int], None] = lambda done: None,
) -> TeacherMasks:
    """Have a teacher segment every lesion from its exact box.

    Args:
        teacher: the teacher.
        cases: cases with at least one lesion each.
        min_dice: a mask that agrees less with the annotated one is replaced by it.
        settings: whatever else the masks depend on, for the fingerprint.
        cache: where the teacher's masks go; those that are there and fit are kept.
        progress: called with the cases done.

    Raises:
        DataError: if a case cannot be read or has no lesion.
        OutputFileError: if masks cannot be written.
    """
    settings = {**settings, "teacher_sha256": teacher.weights_sha256}
    masks: list[list[Mask]] = []
    dices: list[float] = []
    for index, case in enumerate(cases):
        image, instances = read_image(case), read_instances(case)
        if not instances:
            raise DataError(f"Case '{case.key}' has no lesion, so there is no box to segment.")
        annotated = np.stack(instances)  # (N, H, W)
        fingerprint = fingerprint_of(settings, image, annotated)
        if not cache.holds(index, fingerprint):
            boxes = np.stack([mask_box(mask) for mask in instances])
            bits = np.packbits(teacher.masks(image, boxes), axis=-1)
            cache.write(index, fingerprint, {MASKS_NAME: torch.from_numpy(bits)})
        bits = cache.read(index, MASKS_NAME).numpy()
        predicted: npt.NDArray[np.bool_] = np.unpackbits(bits, axis=-1, count=image.shape[1]).view(
            np.bool_
        )
        agreement = [dice(one, other) for one, other in zip(predicted, annotated, strict=True)]
        pairs = zip(predicted, annotated, agreement, strict=True)
        masks.append([mine if value >= min_dice else true for mine, true, value in pairs])
        dices += agreement
        progress(index + 1)
    return TeacherMasks(masks, dices, min_dice)


ORDER_STREAM = 11  # of random numbers, apart from those of views and of the training on masks
APPEARANCE_STREAM = 12
MIN_SIDE_PX = 32
HISTORY_FILE = "history.csv"


@dataclasses.dataclass(frozen=True)
class DistillationStep:
    """What a step did.

    Attributes:
        step: steps done, this one included.
        total_steps: steps of the whole distillation.
        loss: its loss, as a fraction of the variance of the teacher's embeddings.
    """

    step: int
    total_steps: int
    loss: float


class FeatureDistillation:
    """An encoder learns to give a teacher's embeddings of views whose appearance is changed.

    The loss is the squared error over the variance of the teacher's embeddings: 1 for an encoder
    that knows no more than their mean. The encoder ends with the moving average of its weights. On
    the CPU, a distillation that was stopped at any moment and resumed ends with the same bits as
    one that was not.

    Args:
        model: the model, whose encoder learns, in place; what does not require a gradient stays.
        config: the training configuration; the schedule is a cosine and the optimiser AdamW,
            whatever the training on masks uses.
        views: the views; only read by :meth:`run`, and not if a state says that all is done.
        state_path: file of the state; one that is there is resumed.
        settings: tells this distillation from others, JSON values by name.

    Raises:
        BadArgumentError: if there are fewer views than a batch holds.
        WeightsError: if the state is damaged or of another distillation.
    """

    def __init__(
        self,
        model: SamusHF,
        config: TrainConfig,
        views: TeacherViews,
        state_path: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self.config = config
        self.views = views
        self.state_path = state_path
        self.settings = dict(settings)
        self.steps_per_epoch = len(views) // config.batch_size
        if not self.steps_per_epoch:
            raise BadArgumentError(
                f"feature distillation needs at least batch_size {config.batch_size} views, got "
                f"{len(views)}. Raise distillation.views or lower batch_size."
            )
        self.device = next(model.parameters()).device
        # torch's annotations of Module.to leave memory_format out
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.encoder = model.image_encoder
        self._ema = averaged_copy(self.encoder, config.distillation.ema_decay)
        self._optimizer = make_optimizer(
            model,
            dataclasses.replace(
                config, optimizer="adamw", learning_rate=config.distillation.learning_rate
            ),
        )
        self.steps_done = 0
        self.skipped_steps = 0
        self.epoch_losses: list[float] = []
        self._losses: list[float] = []  # of the steps of the epoch under way
        self._resume()

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole distillation."""
        return self.config.distillation.epochs * self.steps_per_epoch

    @property
    def is_done(self) -> bool:
        """Whether :meth:`run` has no step left to do."""
        return self.steps_done == self.total_steps

    def run(
        self,
        report: Callable[[int, float], None] = lambda epoch, loss: None,
        progress: Callable[[DistillationStep], None] = lambda step: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Distil to the configured number of epochs; then the model has the averaged encoder.

        Args:
            report: called after each epoch with its number, from 1, and its mean loss.
            progress: called after each step.
            should_stop: asked after each step; the distillation ends there if it says yes.

        Raises:
            JobInterruptedError: if it was asked to stop; the state was saved before.
            OutputFileError: if the state cannot be written; the previous one is whole.
        """
        variance = 0.0 if self.is_done else self.views.variance()
        while not self.is_done:
            self._run_epoch(variance, progress, should_stop)
            self.epoch_losses.append(float(np.mean(self._losses)))
            self._losses = []
            self._save()
            report(len(self.epoch_losses), self.epoch_losses[-1])
        self.encoder.load_state_dict(self._ema.module.state_dict())

    def _run_epoch(
        self,
        variance: float,
        progress: Callable[[DistillationStep], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """The steps of an epoch that are not done yet."""
        config, epoch = self.config, len(self.epoch_losses)
        rng = np.random.default_rng((config.seed, ORDER_STREAM, epoch))
        order = rng.permutation(len(self.views))
        while len(self._losses) < self.steps_per_epoch:
            start = len(self._losses) * config.batch_size
            chosen = [int(index) for index in order[start : start + config.batch_size]]
            loss = self._step(chosen, epoch, variance)
            self._losses.append(loss)
            progress(DistillationStep(self.steps_done, self.total_steps, loss))
            if should_stop():
                self._save()
                raise JobInterruptedError(
                    f"interrupted after step {self.steps_done} of {self.total_steps} of the "
                    "feature "
                    f"distillation. {self.state_path.parent} holds the state; run the same command "
                    "again to go on."
                )
            interval = config.checkpoint_interval_steps
            is_due = interval and self.steps_done % interval == 0
            if is_due and len(self._losses) < self.steps_per_epoch:
                self._save()

    def _step(self, chosen: list[int], epoch: int, variance: float) -> float:
        """One optimisation step on the chosen views; skipped if its gradient is not finite."""
        config = self.config
        image, high_frequency = self._inputs(chosen, epoch)
        target = torch.stack([self.views.embedding(index) for index in chosen])
        factor = schedule_factor("cosine", self.steps_done, config.warmup_steps, self.total_steps)
        set_rates(self._optimizer, factor)
        set_training_mode(self.encoder)
        enabled = config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            embeddings: Tensor = self.encoder(image, high_frequency)
        error = embeddings.float() - target.to(self.device).float()
        loss = error.square().mean() / variance
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = clip_grad_norm_(self.encoder.parameters(), config.gradient_clip or math.inf)
        if torch.isfinite(norm):
            self._optimizer.step()
        else:
            self.skipped_steps += 1
        self.steps_done += 1
        self._ema.update_parameters(self.encoder)
        return float(loss.detach())

    def _inputs(self, chosen: list[int], epoch: int) -> tuple[Tensor, Tensor]:
        """Images and high-frequency images, both (B, 1, S, S), of views with a new appearance."""
        config, model = self.config, self.model
        images, high_frequencies = [], []
        for index in chosen:
            rng = np.random.default_rng((config.seed, APPEARANCE_STREAM, epoch, index))
            frame = _with_new_appearance(self.views.frame(index), config.augmentation, rng)
            frames = torch.from_numpy(frame)[None].to(self.device)
            images.append(model.input_scaling(frames))
            high_frequencies.append(model.high_frequency(frames) / 255.0)
        layout = torch.channels_last
        return (
            torch.cat(images).contiguous(memory_format=layout),
            torch.cat(high_frequencies).contiguous(memory_format=layout),
        )

    def _save(self) -> None:
        """Save the state and the history that belongs to it."""
        state = {
            "encoder": self.encoder.state_dict(),
            "ema": self._ema.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps_done": self.steps_done,
            "skipped_steps": self.skipped_steps,
            "epoch_losses": self.epoch_losses,
            "losses": self._losses,
            "settings": self.settings,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        rows = [f"{epoch},{loss!r}\n" for epoch, loss in enumerate(self.epoch_losses, start=1)]
        history = "".join(["epoch,loss\n", *rows])
        write_files_atomically(
            {
                self.state_path: buffer.getvalue(),
                self.state_path.with_name(HISTORY_FILE): history.encode(),
            }
        )

    def _resume(self) -> None:
        path = self.state_path
        if not path.exists():
            return
        state = _load_state(path)
        stored = state["settings"]
        differing = [
            name
            for name in {**self.settings, **stored}
            if stored.get(name) != self.settings.get(name)
        ]
        if differing:
            raise WeightsError(
                f"{path} is of a feature distillation with another {', another '.join(differing)}. "
                "Use the same to resume, or another folder."
            )
        self.encoder.load_state_dict(state["encoder"])
        self._ema.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done, self.skipped_steps = state["steps_done"], state["skipped_steps"]
        self.epoch_losses, self._losses = state["epoch_losses"], state["losses"]


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


def _load_state(path: Path) -> dict[str, Any]:
    """Read a state, without executing pickled code.

    Raises:
        WeightsError: if the file is not the state of a feature distillation.
    """
    advice = "Remove it to start afresh."
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises half a dozen types for a file that it did not write
        raise WeightsError(
            f"{path} is not the state of a feature distillation ({type(err).__name__}). {advice}"
        ) from err
    if not isinstance(state, dict) or "epoch_losses" not in state or "settings" not in state:
        raise WeightsError(f"{path} is the state of something else. {advice}")
    return state


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
