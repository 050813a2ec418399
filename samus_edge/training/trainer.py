"""The training loop: epochs, the best weights, and a state to resume from at any moment."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from samus_edge.data.training_samples import LesionDataset, TrainingSample
from samus_edge.errors import JobInterruptedError
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.atomic_write import write_files_atomically
from samus_edge.training.batches import epoch_batches, load_batches, share
from samus_edge.training.checkpoint import (
    TrainingState,
    check_state,
    load_state,
    remove_unfinished_files,
    save_state,
)
from samus_edge.training.config import TrainConfig, config_document
from samus_edge.training.history import EpochRecord, history_csv
from samus_edge.training.learner import Learner
from samus_edge.training.processes import Processes
from samus_edge.training.training_data import TrainingData
from samus_edge.training.validation import validate
from samus_edge.weights.model_file import save_model

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

    Args:
        model: the model with its initial weights; what does not require a gradient stays frozen.
        config: the training configuration.
        data: the cases.
        out_dir: folder of checkpoints and history; a state found there is resumed.
        processes: this process among those that train together.

    Raises:
        ValueError: if there are no validation cases, fewer training cases than a step takes, or
            nothing to train.
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
            raise ValueError(
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
        check_state(
            state,
            path,
            config=config_document(self.config),
            data=self.data.fingerprint(),
            processes=self.processes.count,
        )
        self.learner.load_state_dict(state.learner)
        self.epoch, self.best_loss = state.epoch, state.best_loss
        self.history = [EpochRecord(**record) for record in state.history]
        self._epoch_losses = state.epoch_losses
