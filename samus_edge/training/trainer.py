"""The training loop: epochs, the best weights, and a state to resume from at any moment."""

import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from samus_edge.errors import BadArgumentError, JobInterruptedError
from samus_edge.reporting.figure import require_matplotlib
from samus_edge.runtime.images.output_files import write_files_atomically
from samus_edge.training.batches import load_batches, share
from samus_edge.training.checkpoint import (
    TrainingState,
    check_state,
    load_state,
    remove_unfinished_files,
    save_state,
)
from samus_edge.training.config import config_document
from samus_edge.training.history import EpochRecord, TensorBoardLog, draw_curves, history_csv
from samus_edge.training.learner import Learner, Processes
from samus_edge.training.objective import MaskObjective
from samus_edge.training.training_samples import TrainingSample
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


STATE_FILE = "state.pt"
BEST_FILE = "best.safetensors"
HISTORY_FILE = "history.csv"
CONFIG_FILE = "config.json"
CURVES_FILE = "curves.png"
TENSORBOARD_FOLDER = "tensorboard"


@dataclass(frozen=True)
class StepRecord:
    """The outcome of a step.

    Attributes:
        step: steps done, this one included.
        loss: mean loss over all processes.
        learning_rate: learning rate of the encoder.
    """

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Limits:
    """What ends a training beside its epochs.

    Attributes:
        minutes: minutes of steps and validations, in place of the number of epochs; 0 for those.
            The rate follows the time, so that a cosine ends with it on any machine.
        patience: epochs without a better validation after which nothing more is expected, on one
            process; 0 for any number.
        start_counts: whether the weights that it starts from are validated, and kept if none of the
            later ones are better.
    """

    minutes: float = 0.0
    patience: int = 0
    start_counts: bool = False


class Trainer:
    """Minimise an objective, from the start or from the last state.

    A step takes ``batch_size * accumulation_steps`` samples on each process. On the CPU, a training
    that was stopped at any moment and resumed ends with the same bits as one that was not.

    A finished training is extended by more epochs: it continues at the rate that a training of the
    new length has at that step. A cosine therefore rises again, and the result is not that of a
    training that was so long from the start.

    Args:
        objective: what to minimise, with the model, its initial weights and the configuration.
        out_dir: folder of checkpoints and history; a state found there is resumed.
        processes: this process among those that train together.
        limits: what ends the training beside its epochs. With minutes, a training that was resumed
            ends with other bits, since the time that steps take is not the same.

    Raises:
        BadArgumentError: if there are fewer samples than a step takes, or nothing to train.
        WeightsError: if the folder holds a state of another training or a damaged one.
    """

    def __init__(
        self,
        objective: MaskObjective,
        out_dir: Path,
        processes: Processes | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.objective = objective
        self.limits = limits
        self.config = config = objective.config
        self.out_dir = out_dir
        self.processes = processes or Processes()
        self._pass_size = config.batch_size * self.processes.count
        count = len(objective.samples)
        self.steps_per_epoch = count // self.images_per_step
        if not self.steps_per_epoch:
            raise BadArgumentError(
                f"training needs at least as many images as a step takes (batch_size "
                f"{config.batch_size} x accumulation_steps {config.accumulation_steps} x "
                f"{self.processes.count} process(es)), got {count}. Lower batch_size or add images."
            )
        total = self.config.epochs * self.steps_per_epoch
        self.learner = Learner(objective, total, self.processes)
        self.epoch = 0
        self.seconds = 0.0
        self.best_loss = math.inf
        self.history: list[EpochRecord] = []
        self._epoch_losses: list[float] = []
        self._resume()

    @property
    def images_per_step(self) -> int:
        """Images that a step takes, over all passes and processes."""
        return self._pass_size * self.config.accumulation_steps

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole training; an estimate where minutes are given."""
        return self.learner.total_steps

    @property
    def is_done(self) -> bool:
        """Whether :meth:`run` has nothing left to do."""
        return self._is_over or self._is_stale

    @property
    def _is_over(self) -> bool:
        """Whether its time is over, or its epochs are done."""
        if self.limits.minutes:
            return self.seconds >= 60 * self.limits.minutes
        return self.epoch >= self.config.epochs

    @property
    def _is_stale(self) -> bool:
        """Whether too many epochs have passed since the best one."""
        losses = [record.val_loss for record in self.history]
        since = len(losses) - 1 - losses.index(min(losses)) if losses else 0
        return 0 < self.limits.patience <= since

    def run(
        self,
        report: Callable[[EpochRecord], None] = lambda record: None,
        progress: Callable[[StepRecord], None] = lambda record: None,
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
        self._began = time.monotonic() - self.seconds
        is_new = not self.history and not self._epoch_losses
        if self.limits.start_counts and is_new and self.processes.is_first:
            report(self._end_epoch(math.nan))
        while self._epoch_losses or not self.is_done:  # the former: stopped within an epoch
            self._train_epoch(progress, should_stop)
            self.epoch += 1
            losses, self._epoch_losses = self._epoch_losses, []
            if self.processes.is_first:
                report(self._end_epoch(float(np.mean(losses))))
        return self.out_dir / BEST_FILE

    def _train_epoch(
        self, progress: Callable[[StepRecord], None], should_stop: Callable[[], bool]
    ) -> None:
        """Take the steps of an epoch that are not done yet."""
        interval = self.config.checkpoint_interval_steps
        done, learner = len(self._epoch_losses), self.learner
        with contextlib.closing(self._batches(done)) as batches:
            for number in range(done + 1, self.steps_per_epoch + 1):
                if self._is_over:
                    return
                loss, stop = learner.step(batches), should_stop()
                own = torch.tensor(
                    [loss, stop, time.monotonic() - self._began], dtype=torch.float64
                )
                loss, stop, self.seconds = self.processes.mean(own).tolist()
                self._epoch_losses.append(loss)
                self._fit_schedule()
                progress(StepRecord(learner.steps_done, loss, learner.learning_rate))
                if stop:
                    self._interrupt()
                is_due = interval and learner.steps_done % interval == 0
                if is_due and number < self.steps_per_epoch and self.processes.is_first:
                    self._save()

    def _fit_schedule(self) -> None:
        """With minutes, take as many steps as they hold if the next ones are as fast as these."""
        if self.limits.minutes:
            steps = self.learner.steps_done
            share = self.seconds / (60 * self.limits.minutes)
            self.learner.total_steps = max(steps, round(steps / share)) if share < 1 else steps

    def _batches(self, steps_done: int) -> Generator[TrainingSample, None, None]:
        """This process's batches of the epoch, from the first that is not done."""
        samples, processes, size = self.objective.samples, self.processes, self._pass_size
        samples.epoch = self.epoch
        order, passes = samples.order(), self.config.accumulation_steps
        first, end = (steps * passes * size for steps in (steps_done, self.steps_per_epoch))
        own = [
            share(order[start : start + size], processes.rank, processes.count)
            for start in range(first, end, size)
        ]
        return load_batches(samples, own, self.config.num_workers)

    def _end_epoch(self, train_loss: float) -> EpochRecord:
        """Validate, keep the weights if they are the best, and save the state."""
        scores = self.objective.validate(self.learner.averaged)
        record = EpochRecord(
            epoch=self.epoch,
            train_loss=train_loss,
            val_loss=scores.loss,
            val_dice_box=scores.dice_box,
            val_dice_point=scores.dice_point,
            learning_rate=self.learner.learning_rate,
            datasets=scores.datasets,
        )
        self.history.append(record)
        # before the state: a kill in between repeats the epoch, and ends with the same weights
        if scores.loss < self.best_loss or not (self.out_dir / BEST_FILE).exists():
            self.best_loss = min(self.best_loss, scores.loss)
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
            f"training interrupted after step {self.learner.steps_done} of "
            f"{self.total_steps}. {self.out_dir} holds the state; run the same command again to go "
            "on."
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
            data=self.objective.fingerprint,
            processes=self.processes.count,
            seconds=self.seconds,
        )
        along = {self.out_dir / HISTORY_FILE: history_csv(self.history).encode()}
        save_state(state, self.out_dir / STATE_FILE, along=along)

    def _resume(self) -> None:
        path = self.out_dir / STATE_FILE
        if not path.exists():
            return
        state = load_state(path)
        config = config_document(self.config)
        before = state.config.get("epochs")
        if state.epoch == before < config.get("epochs", 0):  # finished, and to be extended
            config["epochs"] = before
        check_state(
            state,
            path,
            config=config,
            data=self.objective.fingerprint,
            processes=self.processes.count,
        )
        self.learner.load_state_dict(state.learner)
        self.epoch, self.best_loss, self.seconds = state.epoch, state.best_loss, state.seconds
        self.history = [EpochRecord(**record) for record in state.history]
        self._epoch_losses = state.epoch_losses
        if self.seconds:
            self._fit_schedule()


def run_training(
    trainer: Trainer,
    report: Callable[[EpochRecord], None] = lambda record: None,
    progress: Callable[[StepRecord], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    tensorboard: bool = False,
) -> Path:
    """Train as :meth:`Trainer.run`, and draw the curves after each epoch.

    Args:
        trainer: the training.
        report: called after each epoch, on the first process.
        progress: called after each step.
        should_stop: asked after each step.
        tensorboard: whether to log for TensorBoard, too.

    Returns:
        Path of the best weights.

    Raises:
        JobInterruptedError: if it was asked to stop; the state was saved before.
        OutputFileError: if a file cannot be written; the previous state is whole.
        MissingExtraError: if matplotlib, or tensorboardX if asked for, is not installed.
    """
    require_matplotlib()
    with contextlib.ExitStack() as stack:
        log = None
        if tensorboard and trainer.processes.is_first:
            log = TensorBoardLog(trainer.out_dir / TENSORBOARD_FOLDER, trainer.learner.steps_done)
            stack.enter_context(contextlib.closing(log))

        def on_step(record: StepRecord) -> None:
            if log is not None:
                scalars = {"loss/step": record.loss, "learning_rate": record.learning_rate}
                log.add(record.step, scalars)
            progress(record)

        def on_epoch(record: EpochRecord) -> None:
            curves = draw_curves(trainer.history)
            write_files_atomically({trainer.out_dir / CURVES_FILE: curves})
            if log is not None:
                scalars = {
                    "loss/train": record.train_loss,
                    "loss/val": record.val_loss,
                    "dice/box": record.val_dice_box,
                    "dice/point": record.val_dice_point,
                    **record.dataset_columns(),
                }
                log.add(trainer.learner.steps_done, scalars)
            report(record)

        return trainer.run(on_epoch, on_step, should_stop)
