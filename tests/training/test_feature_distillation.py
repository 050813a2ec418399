"""Feature distillation: it learns, resumes bit for bit, and refuses what is not its own."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase
from samus_edge.errors import JobInterruptedError, WeightsError
from samus_edge.modeling import SamusHF
from samus_edge.training.config import TrainConfig
from samus_edge.training.distillation_config import DistillationConfig
from samus_edge.training.feature_distillation import DistillationStep, FeatureDistillation
from samus_edge.training.samus_teacher import SamusTeacher
from samus_edge.training.teacher_cache import TeacherCache
from samus_edge.training.teacher_views import TeacherViews, make_teacher_views

SMALL = TrainConfig(
    batch_size=4,
    warmup_steps=2,
    weight_decay=0.0,
    precision="fp32",
    augmentation=AugmentationConfig(
        log_gamma=0.05,
        log_gain=0.05,
        offset=0.0,
        attenuation_probability=0.0,
        shadow_probability=0.0,
        speckle_probability=0.0,
        blur_probability=0.0,
        resolution_probability=0.1,
        min_resolution=0.9,
    ),
    distillation=DistillationConfig(
        teacher="lite_medsam", views=2, epochs=2, learning_rate=1e-2, ema_decay=0.5
    ),
)
"""Ten views, two steps an epoch."""


@pytest.fixture
def views(
    make_small_model: Callable[[], SamusHF], bright_cases: list[UltrasoundCase], tmp_path: Path
) -> TeacherViews:
    """Two views of each of five images by a teacher with the student's architecture."""
    model = make_small_model()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model.image_encoder.get_parameter("conv.weight").normal_(std=0.1)
    teacher = SamusTeacher(model, "", precision="fp32", device=torch.device("cpu"))
    return make_teacher_views(
        teacher,
        bright_cases,
        views=2,
        augmentation=SMALL.augmentation,
        seed=0,
        settings={},
        cache=TeacherCache(tmp_path / "views"),
    )


@pytest.fixture
def make(
    make_small_model: Callable[[], SamusHF], views: TeacherViews, tmp_path: Path
) -> Callable[..., FeatureDistillation]:
    """Makes a distillation into a fresh small model, in a given folder."""

    def call(
        folder: str, config: TrainConfig = SMALL, settings: dict[str, object] | None = None
    ) -> FeatureDistillation:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / "state.pt"
        return FeatureDistillation(
            make_small_model(), config, views, path, settings or {"seed": config.seed}
        )

    return call


Make = Callable[..., FeatureDistillation]


def weights(distillation: FeatureDistillation) -> dict[str, Tensor]:
    """A copy of the encoder's tensors."""
    state = distillation.encoder.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def distillation_with(**changes: object) -> TrainConfig:
    """`SMALL` with other settings of the distillation."""
    settings = dataclasses.replace(SMALL.distillation, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(SMALL, distillation=settings)


def test_a_teacher_of_the_same_architecture_is_learned(make: Make) -> None:
    """Normalisation is frozen in the teacher's state, so that the student can become the teacher."""
    epochs: list[tuple[int, float]] = []
    steps: list[DistillationStep] = []
    distillation = make("run", distillation_with(epochs=15))
    distillation.encoder.get_submodule("norm").requires_grad_(False)
    before = weights(distillation)
    distillation.run(lambda *epoch: epochs.append(epoch), steps.append)
    assert [number for number, _ in epochs] == list(range(1, 16))
    assert steps[0].loss > 0.8  # an encoder that knows the mean has 1
    # what is left is the change of appearance, which the teacher does not see
    assert epochs[-1][1] < 0.25
    assert [step.step for step in steps] == list(range(1, 31))
    assert {step.total_steps for step in steps} == {30}
    for number, loss in epochs:
        two = [step.loss for step in steps[2 * number - 2 : 2 * number]]
        assert loss == pytest.approx(sum(two) / 2)
    for name, tensor in weights(distillation).items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("conv.")), name


def test_only_the_encoder_learns_and_it_ends_with_its_average(make: Make) -> None:
    distillation = make("run")
    before = {name: p.clone() for name, p in distillation.model.named_parameters()}
    kernels: list[Tensor] = []
    kernel = distillation.encoder.get_parameter("conv.weight")
    distillation.run(progress=lambda step: kernels.append(kernel.detach().clone()))
    for name, parameter in distillation.model.named_parameters():
        assert torch.equal(parameter, before[name]) != name.startswith("image_encoder."), name
    expected = kernels[0]
    for one in kernels[1:]:
        expected = 0.5 * expected + 0.5 * one
    torch.testing.assert_close(kernel.detach(), expected, rtol=0, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(make: Make) -> None:
    runs = [make(name) for name in ("one", "two")]
    runs.append(make("three", dataclasses.replace(SMALL, seed=1)))
    for run in runs:
        run.run()
    assert_same(weights(runs[0]), weights(runs[1]))
    kernel = "conv.weight"
    assert not torch.equal(weights(runs[0])[kernel], weights(runs[2])[kernel])


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_interrupted_one_goes_on_with_the_same_bits(
    make: Make, stop_after: int, tmp_path: Path
) -> None:
    whole = make("whole")
    whole.run()
    first = make("parts")
    with pytest.raises(JobInterruptedError, match=f"after step {stop_after} of 4 .*run the same"):
        first.run(should_stop=lambda: first.steps_done == stop_after)
    second = make("parts")
    assert second.steps_done == stop_after and not second.is_done
    second.run()
    assert_same(weights(second), weights(whole))
    files = [tmp_path / folder / "history.csv" for folder in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    lines = files[0].read_text().splitlines()
    assert lines[0] == "epoch,loss"
    assert [float(line.split(",")[1]) for line in lines[1:]] == whole.epoch_losses


def test_a_state_is_saved_within_an_epoch_too(make: Make) -> None:
    class KilledError(Exception):
        """Stands for a killed process."""

    def kill(step: DistillationStep) -> None:
        if step.step == 4:
            raise KilledError

    whole = make("whole")
    whole.run()
    for interval, kept in ((0, 2), (3, 3)):
        config = dataclasses.replace(SMALL, checkpoint_interval_steps=interval)
        with pytest.raises(KilledError):
            make(f"every {interval}", config).run(progress=kill)
        resumed = make(f"every {interval}", config)
        assert resumed.steps_done == kept
        resumed.run()
        assert_same(weights(resumed), weights(whole))


def test_a_finished_one_needs_no_views(make: Make, views: TeacherViews) -> None:
    first = make("run")
    first.run()
    for index in range(views.images):
        views.cache.path(index).unlink()
    again = make("run")
    assert again.is_done
    again.run(report=lambda *_: pytest.fail("an epoch was run"))
    assert_same(weights(again), weights(first))


def test_a_state_of_another_distillation_is_refused_with_the_difference(make: Make) -> None:
    make("run", settings={"seed": 0, "teacher": "a"}).run()
    with pytest.raises(WeightsError, match=r"with another teacher\. Use the same to resume"):
        make("run", settings={"seed": 0, "teacher": "b"})
    with pytest.raises(WeightsError, match="with another seed, another teacher"):
        make("run", settings={"seed": 1})


@pytest.mark.parametrize("kind", ["garbage", "something else"])
def test_a_file_that_is_no_state_is_refused(make: Make, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run" / "state.pt"
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    if kind == "something else":
        torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"state\.pt is .*Remove it to start afresh"):
        make("run")


def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(make: Make) -> None:
    distillation = make("run")
    kernel = distillation.encoder.get_parameter("conv.weight")
    kernels: list[Tensor] = []

    def poison_after_the_first(step: DistillationStep) -> None:
        kernels.append(kernel.detach().clone())
        vars(distillation.encoder)["poisoned"] = step.step == 1

    distillation.run(progress=poison_after_the_first)
    assert distillation.skipped_steps == 1
    assert torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[1], kernels[2])


def test_mixed_precision_learns_about_the_same(make: Make) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        run = make(precision, dataclasses.replace(SMALL, precision=precision))
        run.run()
        losses.append(run.epoch_losses[0])
    assert losses[0] != losses[1]
    # bf16 keeps 8 bits; two steps do not multiply its rounding
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_too_few_views_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="at least batch_size 11 views, got 10"):
        make("run", dataclasses.replace(SMALL, batch_size=11))
