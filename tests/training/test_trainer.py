"""The training loop: it learns, resumes bit for bit, and keeps what it has on a failure."""

import csv
import dataclasses
import itertools
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.data.prompt_protocol import mask_box
from samus_edge.errors import JobInterruptedError, WeightsError
from samus_edge.evaluation.metrics import dice
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.modeling import samus_hf_tiny
from samus_edge.training.batches import TrainingData
from samus_edge.training.checkpoint import load_state
from samus_edge.training.config import TrainConfig, config_document
from samus_edge.training.history import EpochRecord
from samus_edge.training.learner import schedule_factor
from samus_edge.training.objective import MaskObjective, ValidationScores
from samus_edge.training.prompt_schedule import PromptConfig
from samus_edge.training.trainer import Limits, StepRecord, Trainer, stop_on_signal
from samus_edge.training.training_samples import LesionDataset, TrainingSample
from tests.training.small_training import assert_same, copied, small_model


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5.0)
    assert signal.getsignal(number) is before


@pytest.fixture
def python_handles_ctrl_c() -> Iterator[None]:
    """Python's own handler, also where the shell has the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_ctrl_c")
def test_a_second_ctrl_c_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(5.0)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5.0)


def test_handlers_are_restored_without_a_signal_and_not_touched_in_other_threads() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    seen = []

    def elsewhere() -> None:
        with stop_on_signal() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


SMALL = TrainConfig(
    epochs=3,
    batch_size=2,
    learning_rate=3e-3,
    decoder_learning_rate=1e-3,
    warmup_steps=2,
    ema_decay=0.5,
    precision="fp32",
    prompts=PromptConfig(refine_probability=0.5),
)


NO_LIMITS = Limits()


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.fixture
def make_trainer(bright_cases: list[UltrasoundCase]) -> Callable[..., Trainer]:
    """Makes a trainer of the small model on four cases, two steps an epoch, in a given folder."""

    def make(
        folder: Path, config: TrainConfig = SMALL, limits: Limits = NO_LIMITS, **more: Any
    ) -> Trainer:
        data = TrainingData(bright_cases[:4], bright_cases[4:], **more)
        return Trainer(MaskObjective(small_model(), config, data), folder, limits=limits)

    return make


def history(folder: Path) -> list[dict[str, float]]:
    """Rows of the history."""
    with (folder / "history.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_the_tiny_model_learns_a_lesion_and_its_best_weights_find_it(
    bright_cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    """Twelve steps on one image, in float32, from random weights."""
    case = bright_cases[0]
    still = {field.name: 0.0 for field in dataclasses.fields(AugmentationConfig)}
    config = TrainConfig(
        epochs=2,
        batch_size=1,
        learning_rate=1e-3,
        decoder_learning_rate=1e-3,
        warmup_steps=0,
        ema_decay=0.0,
        precision="fp32",
        prompts=PromptConfig(
            box_and_click_probability=0.0,
            second_click_probability=0.0,
            several_clicks_probability=0.0,
            refine_probability=0.0,
        ),
        augmentation=AugmentationConfig(**{**still, "min_resolution": 1.0}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = samus_hf_tiny()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5  # twelve steps are too few for statistics that follow slowly
    records: list[EpochRecord] = []
    trainer = Trainer(MaskObjective(model, config, TrainingData([case] * 6, [case])), tmp_path)
    best = trainer.run(records.append)
    assert records[1].train_loss < 0.8 * records[0].train_loss

    image, target = read_image(case), read_instances(case)[0]
    predictor = TorchPredictor.load(best)
    prediction = predictor.predict(predictor.encode(image), boxes=mask_box(target)[None])
    assert dice(prediction.masks[0, 0], target) > 0.6


def test_a_training_that_failed_in_an_epoch_resumes_bit_for_bit(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    """From the end of the epoch before; `test_resume` kills trainings with states in between."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    steps: list[StepRecord] = []
    make_trainer(whole).run(progress=steps.append)
    assert [record.step for record in steps] == [1, 2, 3, 4, 5, 6]

    def interrupt_in_the_second_epoch(record: StepRecord) -> None:
        if record.step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        make_trainer(parts).run(progress=interrupt_in_the_second_epoch)
    assert load_state(parts / "state.pt").epoch == 1
    resumed = make_trainer(parts)
    assert (resumed.learner.steps_done, resumed.epoch) == (2, 1)
    resumed.run()

    states = [vars(load_state(folder / "state.pt")) for folder in (parts, whole)]
    for state in states:
        del state["seconds"]  # of the clock
    assert_same(*states)
    assert_same(load_file(parts / "best.safetensors"), load_file(whole / "best.safetensors"))
    assert (parts / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_training_asked_to_stop_saves_itself_and_weights_even_before_the_first_epoch_ends(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(JobInterruptedError, match=r"after step 1 of 6\. .* run the same command"):
        trainer.run(should_stop=lambda: True)
    state = load_state(tmp_path / "state.pt")
    assert (state.epoch, len(state.epoch_losses), state.learner["steps_done"]) == (0, 1, 1)
    assert_same(load_file(tmp_path / "best.safetensors"), trainer.learner.averaged.state_dict())
    assert history(tmp_path) == []


def test_samples_of_steps_that_are_done_are_not_made_again(
    make_trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(SMALL, epochs=1, num_workers=0)
    with pytest.raises(JobInterruptedError):
        make_trainer(tmp_path, config).run(should_stop=lambda: True)
    resumed = make_trainer(tmp_path, config)
    made: list[int] = []
    make = LesionDataset.__getitem__

    def noting(data: LesionDataset, index: int) -> TrainingSample:
        if data is resumed.objective.samples:
            made.append(index)
        return make(data, index)

    monkeypatch.setattr(LesionDataset, "__getitem__", noting)
    resumed.run()
    assert made == resumed.objective.samples.order()[2:]


def test_states_are_saved_every_so_many_steps(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    found = []

    def note(record: StepRecord) -> None:
        path = tmp_path / "state.pt"
        found.append(load_state(path).learner["steps_done"] if path.exists() else 0)

    config = dataclasses.replace(SMALL, batch_size=1, epochs=2, checkpoint_interval_steps=3)
    make_trainer(tmp_path, config).run(progress=note)
    # seen in the step after: 3, then 4, the end of an epoch, then 6
    assert found == [0, 0, 0, 3, 4, 4, 6, 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_number_of_threads_changes_nothing_and_may_change_in_between(
    make_trainer: Callable[..., Trainer], tmp_path: Path, workers: int
) -> None:
    expected: list[StepRecord] = []
    make_trainer(tmp_path / "one", dataclasses.replace(SMALL, epochs=1)).run(
        progress=expected.append
    )
    config = dataclasses.replace(SMALL, epochs=1, num_workers=workers)
    found: list[StepRecord] = []
    make_trainer(tmp_path / "other", config).run(progress=found.append)
    assert found == expected
    make_trainer(tmp_path / "one", config)  # resumes


def test_normals_are_trained_on_but_not_validated_on(
    make_trainer: Callable[..., Trainer], normal_cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, epochs=1, num_workers=0)
    trainer = make_trainer(tmp_path, config, normal_cases=normal_cases)
    assert (trainer.steps_per_epoch, len(trainer.objective.samples)) == (3, 6)
    records: list[EpochRecord] = []
    trainer.run(records.append)
    assert trainer.learner.skipped_steps == 0 and math.isfinite(records[0].train_loss)
    with pytest.raises(WeightsError, match="with other cases"):
        make_trainer(tmp_path, config)


def test_a_finished_training_is_left_as_it_is(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    best = make_trainer(tmp_path).run()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(_: object) -> None:
        raise AssertionError("nothing is left to do")

    assert make_trainer(tmp_path).run(fail, fail) == best
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_history_has_a_row_for_each_epoch_and_the_best_weights_are_those_of_the_smallest_loss(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    records: list[EpochRecord] = []
    saved: list[dict[str, torch.Tensor]] = []

    def keep(record: EpochRecord) -> None:
        records.append(record)
        saved.append(
            {name: value.clone() for name, value in trainer.learner.averaged.state_dict().items()}
        )

    trainer = make_trainer(tmp_path)
    best = trainer.run(keep)
    rows = history(tmp_path)
    expected = [dataclasses.asdict(record) for record in records]
    assert all(row.pop("datasets") == {} for row in expected)  # one has no name
    assert rows == expected
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])
        assert 0 <= row["val_dice_box"] <= 1 and 0 <= row["val_dice_point"] <= 1
    losses = [row["val_loss"] for row in rows]
    assert_same(load_file(best), saved[losses.index(min(losses))])
    assert json.loads((tmp_path / "config.json").read_text()) == config_document(SMALL)


def test_a_state_of_another_configuration_is_refused_with_the_difference(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, epochs=1)
    make_trainer(tmp_path, config).run()
    other = dataclasses.replace(config, seed=3, augmentation=AugmentationConfig(log_gain=0.0))
    with pytest.raises(WeightsError, match=r"which differs in seed, augmentation\. Use the same"):
        make_trainer(tmp_path, other)


def test_a_finished_training_is_extended_by_more_epochs(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, epochs=1)
    make_trainer(tmp_path, config).run()
    first = history(tmp_path)
    longer = dataclasses.replace(config, epochs=3)
    steps: list[StepRecord] = []
    trainer = make_trainer(tmp_path, longer)
    trainer.run(progress=steps.append)
    assert history(tmp_path)[:1] == first and len(history(tmp_path)) == 3
    assert steps[0].step == trainer.steps_per_epoch + 1
    expected = schedule_factor(
        longer.schedule, trainer.steps_per_epoch, longer.warmup_steps, trainer.total_steps
    )
    assert steps[0].learning_rate == pytest.approx(longer.learning_rate * expected)
    with pytest.raises(
        WeightsError, match="which differs in epochs"
    ):  # fewer would undo what is done
        make_trainer(tmp_path, dataclasses.replace(config, epochs=2))


def test_minutes_end_a_training_with_its_schedule_also_a_resumed_one(
    make_trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second for each step: nine of them are nine steps, in the middle of an epoch."""
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    limits = Limits(minutes=9 / 60)
    steps: list[StepRecord] = []
    trainer = make_trainer(tmp_path, limits=limits)
    with pytest.raises(JobInterruptedError, match="after step 5 of 9"):
        trainer.run(progress=steps.append, should_stop=lambda: len(steps) == 4)
    again = make_trainer(tmp_path, limits=limits)
    again.run(progress=steps.append)
    assert again.is_done and make_trainer(tmp_path, limits=limits).is_done
    expected = [
        SMALL.learning_rate * schedule_factor("cosine", step, SMALL.warmup_steps, 9)
        for step in range(9)
    ]
    assert [record.step for record in steps] == list(range(1, 10))
    assert [record.learning_rate for record in steps] == pytest.approx(expected)
    assert [row["epoch"] for row in history(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_start_that_nothing_betters_is_kept_and_ends_the_training_early(
    make_trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, limits=Limits(patience=2, start_counts=True))
    scores = [ValidationScores(loss, 0.5, 0.5) for loss in (0.5, 0.6, 0.5, 0.1)]
    monkeypatch.setattr(trainer.objective, "validate", lambda model: scores.pop(0))
    start = copied(trainer.learner.averaged)
    trainer.run()
    assert [row["val_loss"] for row in history(tmp_path)] == [0.5, 0.6, 0.5]
    assert_same(load_file(tmp_path / "best.safetensors"), start)


def test_a_history_left_behind_does_not_join_a_new_training(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, epochs=1)
    make_trainer(tmp_path, config).run()
    (tmp_path / "state.pt").unlink()
    make_trainer(tmp_path, config).run()
    assert [row["epoch"] for row in history(tmp_path)] == [1]


def test_rates_warm_up_and_fall_along_a_cosine(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    records: list[StepRecord] = []
    epochs: list[EpochRecord] = []
    trainer = make_trainer(tmp_path)
    trainer.run(epochs.append, records.append)
    cosine = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]  # 6 steps, 2 of warm-up
    expected = [3e-3 * factor for factor in (0.5, 1.0, *cosine)]
    assert [record.learning_rate for record in records] == pytest.approx(expected)
    assert [record.learning_rate for record in epochs] == pytest.approx(expected[1::2])
    rates = {group["peak_lr"]: group["lr"] for group in trainer.learner.optimizer.param_groups}
    assert rates == pytest.approx({3e-3: 3e-3 * cosine[3], 1e-3: 1e-3 * cosine[3]})


def test_mixed_precision_learns_about_the_same(
    make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        records: list[EpochRecord] = []
        config = dataclasses.replace(SMALL, epochs=1, precision=precision)
        make_trainer(tmp_path / precision, config).run(records.append)
        losses.append(records[0].train_loss)
    # bf16 keeps 8 bits; two steps do not multiply its rounding
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_too_few_cases_are_refused(bright_cases: list[UltrasoundCase], tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, accumulation_steps=2)
    for train, val, got in (
        (bright_cases[:3], bright_cases, "batch_size 2 x accumulation_steps 2 .* got 3"),
        (bright_cases, [], "one case .* to validate on, got 0"),
    ):
        with pytest.raises(ValueError, match=got):
            Trainer(MaskObjective(small_model(), config, TrainingData(train, val)), tmp_path)
    assert not any(tmp_path.iterdir())
