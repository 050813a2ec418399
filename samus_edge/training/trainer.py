"""The training loop: epochs, the best weights, and a state to resume from at any moment."""

import contextlib
import dataclasses
import json
import math
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from samus_edge.errors import BadArgumentError, JobInterruptedError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.training.batches import TrainingData, epoch_batches, load_batches, share, to_device
from samus_edge.training.checkpoint import (
    EpochRecord,
    TrainingState,
    check_state,
    history_csv,
    load_state,
    remove_unfinished_files,
    save_state,
)
from samus_edge.training.config import TrainConfig, config_document
from samus_edge.training.learner import Learner, Processes
from samus_edge.training.losses import mask_iou, segmentation_loss, upscale
from samus_edge.training.objective import encode
from samus_edge.training.prompt_schedule import PromptBatch, box_prompts, click_prompts
from samus_edge.training.training_samples import LesionDataset, TrainingSample
from samus_edge.weights.model_file import save_model

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event; a second one acts as it did before.

    Outside the main thread, where Python takes no handlers, signals act as they did before.

    Yields:
        The event, set by the signal.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    earlier = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in SIGNALS:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()


@dataclass(frozen=True)
class ValidationScores:
    """What the prompts that the training uses give on the validation cases.

    Attributes:
        loss: mean loss over cases and prompts.
        dice_box: mean Dice at 256x256 with a jittered box, in [0, 1]; None if boxes are not
            trained.
        dice_point: mean Dice at 256x256 with the centre point, in [0, 1]; None if clicks are not
            trained.
    """

    loss: float
    dice_box: float | None
    dice_point: float | None


@torch.no_grad()
def validate(
    model: SamusHF, data: LesionDataset, config: TrainConfig, device: torch.device
) -> ValidationScores:
    """Score a model, which is left in evaluation mode, in float32.

    Args:
        model: the model, on the device.
        data: fixed samples.
        config: the training configuration.
        device: what to compute on.
    """
    model.eval()
    losses: list[Tensor] = []
    dices: dict[str, list[Tensor]] = {}
    indices = list(range(len(data)))
    size = config.batch_size
    batches = [indices[start : start + size] for start in range(0, len(indices), size)]
    for loaded in load_batches(data, batches, config.num_workers):
        batch = to_device(loaded, device)
        embeddings = encode(model, batch)
        for kind, prompts in _validation_prompts(batch, config).items():
            logits, iou = model.decode(embeddings, *prompts)
            losses.append(segmentation_loss(logits, iou, batch.mask, config.loss))
            overlap = mask_iou(upscale(logits[:, :1]), batch.mask)[:, 0]
            dices.setdefault(kind, []).append(2 * overlap / (1 + overlap))
    means = {kind: float(torch.cat(values).mean()) for kind, values in dices.items()}
    return ValidationScores(
        float(torch.cat(losses).mean()), dice_box=means.get("box"), dice_point=means.get("point")
    )


def _validation_prompts(batch: TrainingSample, config: TrainConfig) -> dict[str, PromptBatch]:
    """A box and a click, as far as the training uses them."""
    prompts = {}
    if config.prompts.box_probability > 0:
        prompts["box"] = box_prompts(batch, with_click=False)
    if config.prompts.click_probability > 0:
        prompts["point"] = click_prompts(batch)
    return prompts


STATE_FILE = "state.pt"
BEST_FILE = "best.safetensors"
HISTORY_FILE = "history.csv"
CONFIG_FILE = "config.json"
VALIDATION_SEED = 0


@dataclass(frozen=True)
class StepRecord:
    """What a step did.

    Attributes:
        step: steps done, this one included.
        loss: its loss, the mean over all processes.
        learning_rate: its rate of the encoder.
    """

    step: int
    loss: float
    learning_rate: float


class Trainer:
    """Train SAMUS-HF on lesions, from the start or from the last state.

    A step takes ``batch_size * accumulation_steps`` images on each process. On the CPU, a training
    that was stopped at any moment and resumed ends with the same bits as one that was not.

    A finished training is extended by more epochs: it continues at the rate that a training of the
    new length has at that step. A cosine therefore rises again, and the result is not that of a
    training that was so long from the start.

    Args:
        model: the model with its initial weights; what does not require a gradient stays frozen.
        config: the training configuration.
        data: the cases.
        out_dir: folder of checkpoints and history; a state found there is resumed.
        processes: this process among those that train together.

    Raises:
        BadArgumentError: if there are no validation cases, fewer training cases than a step takes,
            or nothing to train.
        WeightsError: if the folder holds a state of another training or a damaged one.
        DataError: if a case cannot be read or has no lesion.
    """

    def __init__(
        self,
        model: SamusHF,
        config: TrainConfig,
        data: TrainingData,
        out_dir: Path,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self.data = data
        self.out_dir = out_dir
        self.processes = processes or Processes()
        self._pass_size = config.batch_size * self.processes.count
        self.steps_per_epoch = data.train_count // (self._pass_size * config.accumulation_steps)
        if not self.steps_per_epoch or not data.val_cases:
            raise BadArgumentError(
                "training needs at least as many cases as a step takes (batch_size "
                f"{config.batch_size} x accumulation_steps {config.accumulation_steps} x "
                f"{self.processes.count} process(es)) and one to validate on, got "
                f"{data.train_count} and {len(data.val_cases)}."
            )
        image_size = model.prompt_encoder.image_size
        self.train_data = LesionDataset(
            data.train_cases,
            image_size=image_size,
            augmentation=config.augmentation,
            seed=config.seed,
            boxes=config.boxes,
            normal_cases=data.normal_cases,
            teacher_masks=data.teacher_masks,
            source=data.source,
        )
        self.val_data = LesionDataset(
            data.val_cases,
            image_size=image_size,
            augmentation=None,
            seed=VALIDATION_SEED,
            source=data.source,
        )
        self.learner = Learner(model, config, self.total_steps, self.processes)
        self.epoch = 0
        self.best_loss = math.inf
        self.history: list[EpochRecord] = []
        self._epoch_losses: list[float] = []
        self._resume()

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole training."""
        return self.config.epochs * self.steps_per_epoch

    def run(
        self,
        report: Callable[[EpochRecord], None],
        progress: Callable[[StepRecord], None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Path:
        """Train to the configured number of epochs.

        Args:
            report: called after each epoch when its state is saved, on the first process.
            progress: called after each step.
            should_stop: asked after each step; the training ends there if any process says yes.

        Returns:
            Path of the best weights, by validation loss.

        Raises:
            JobInterruptedError: if it was asked to stop; the state was saved before.
            OutputFileError: if a checkpoint cannot be written; the previous one is whole.
        """
        if self.processes.is_first:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            remove_unfinished_files(self.out_dir)
            document = json.dumps(config_document(self.config), indent=2)
            write_files_atomically({self.out_dir / CONFIG_FILE: f"{document}\n".encode()})
        while self.epoch < self.config.epochs:
            self._train_epoch(progress, should_stop)
            self.epoch += 1
            losses, self._epoch_losses = self._epoch_losses, []
            if self.processes.is_first:
                report(self._end_epoch(float(np.mean(losses))))
        return self.out_dir / BEST_FILE

    def _train_epoch(
        self, progress: Callable[[StepRecord], None], should_stop: Callable[[], bool]
    ) -> None:
        """The steps of an epoch that are not done yet."""
        interval = self.config.checkpoint_interval_steps
        done, learner = len(self._epoch_losses), self.learner
        with contextlib.closing(self._batches(done)) as batches:
            for number in range(done + 1, self.steps_per_epoch + 1):
                own = torch.tensor([learner.step(batches), should_stop()], dtype=torch.float64)
                loss, stop = self.processes.mean(own).tolist()
                self._epoch_losses.append(loss)
                progress(StepRecord(learner.steps_done, loss, learner.learning_rate))
                if stop:
                    self._interrupt()
                is_due = interval and learner.steps_done % interval == 0
                if is_due and number < self.steps_per_epoch and self.processes.is_first:
                    self._save()

    def _batches(self, steps_done: int) -> Generator[TrainingSample, None, None]:
        """This process's batches of the epoch, from the first that is not done."""
        self.train_data.epoch = self.epoch
        config, processes = self.config, self.processes
        batches = epoch_batches(len(self.train_data), self._pass_size, config.seed, self.epoch)
        passes = config.accumulation_steps
        todo = batches[steps_done * passes : self.steps_per_epoch * passes]
        own = [share(batch, processes.rank, processes.count) for batch in todo]
        return load_batches(self.train_data, own, config.num_workers)

    def _end_epoch(self, train_loss: float) -> EpochRecord:
        """Validate, keep the weights if they are the best, and save the state."""
        learner = self.learner
        scores = validate(learner.averaged, self.val_data, self.config, learner.device)
        record = EpochRecord(
            epoch=self.epoch,
            train_loss=train_loss,
            val_loss=scores.loss,
            val_dice_box=scores.dice_box,
            val_dice_point=scores.dice_point,
            learning_rate=learner.learning_rate,
        )
        self.history.append(record)
        # before the state: a kill in between repeats the epoch, and ends with the same weights
        if record.val_loss < self.best_loss or not (self.out_dir / BEST_FILE).exists():
            self.best_loss = min(self.best_loss, record.val_loss)
            self._save_best()
        self._save()
        return record

    def _interrupt(self) -> None:
        """Save the state, and weights if there are none yet, and end the training.

        Raises:
            JobInterruptedError: always.
        """
        if self.processes.is_first:
            self._save()
            if not (self.out_dir / BEST_FILE).exists():
                self._save_best()
        raise JobInterruptedError(
            f"interrupted after step {self.learner.steps_done} of {self.total_steps}. "
            f"{self.out_dir} holds the state; run the same command again to go on."
        )

    def _save_best(self) -> None:
        document = config_document(self.config)
        save_model(self.learner.averaged, self.out_dir / BEST_FILE, document)

    def _save(self) -> None:
        """Save the state and the history that belongs to it."""
        state = TrainingState(
            learner=self.learner.state_dict(),
            epoch=self.epoch,
            epoch_losses=self._epoch_losses,
            best_loss=self.best_loss,
            history=[dataclasses.asdict(record) for record in self.history],
            config=config_document(self.config),
            data=self.data.fingerprint(),
            processes=self.processes.count,
        )
        along = {self.out_dir / HISTORY_FILE: history_csv(self.history).encode()}
        save_state(state, self.out_dir / STATE_FILE, along=along)

    def _resume(self) -> None:
        path = self.out_dir / STATE_FILE
        if not path.exists():
            return
        state = load_state(path)
        config = config_document(self.config)
        before = state.config.get("epochs", 0)
        if state.epoch == before < self.config.epochs:  # finished, and to be extended
            config["epochs"] = before
        check_state(
            state,
            path,
            config=config,
            data=self.data.fingerprint(),
            processes=self.processes.count,
        )
        self.learner.load_state_dict(state.learner)
        self.epoch, self.best_loss = state.epoch, state.best_loss
        self.history = [EpochRecord(**record) for record in state.history]
        self._epoch_losses = state.epoch_losses
