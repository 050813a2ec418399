"""All that is learned from a teacher before a training on masks, with real small runs."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import pi
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError, JobInterruptedError, OutputFileError, WeightsError
from samus_edge.modeling import SamusHF
from samus_edge.runtime.images.output_files import sha256_of_file
from samus_edge.training import distillation
from samus_edge.training.batches import StageProgress
from samus_edge.training.config import DistillationConfig, TrainConfig
from samus_edge.training.distillation import (
    FEATURES,
    MASKS,
    VIEWS,
    DistillationStep,
    FeatureDistillation,
    TeacherCache,
    TeacherMasks,
    TeacherViews,
    fingerprint_of,
    make_teacher_masks,
    make_teacher_views,
    prepare_distillation,
)
from samus_edge.training.teachers import SamusTeacher


def test_tensors_come_back_and_belong_to_their_fingerprint(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "new" / "views")
    assert not cache.holds(3, "a")
    one, other = torch.arange(6, dtype=torch.uint8).view(2, 3), torch.randn(4).half()
    cache.write(3, "a", {"one": one, "other": other})
    assert cache.holds(3, "a")
    assert not cache.holds(3, "b") and not cache.holds(2, "a")
    assert torch.equal(cache.read(3, "one"), one) and torch.equal(cache.read(3, "other"), other)
    cache.write(3, "b", {"one": one + 1})
    assert cache.holds(3, "b") and not cache.holds(3, "a")
    assert torch.equal(cache.read(3, "one"), one + 1)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100])
def test_a_damaged_file_is_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path)
    cache.path(0).write_bytes(content)
    assert not cache.holds(0, "a")
    cache.write(0, "a", {"one": torch.zeros(1)})
    cache.path(0).write_bytes(cache.path(0).read_bytes()[:-1])  # cut short
    assert not cache.holds(0, "a")


def test_a_fingerprint_tells_settings_and_arrays_apart() -> None:
    array = np.arange(6, dtype=np.uint8)
    variants = [
        fingerprint_of({"a": 1, "b": 2}, array),
        fingerprint_of({"a": 1, "b": 3}, array),
        fingerprint_of({"a": 1}, array),
        fingerprint_of({"a": 1, "b": 2}, array[::-1]),
        fingerprint_of({"a": 1, "b": 2}, array.reshape(2, 3)),
        fingerprint_of({"a": 1, "b": 2}, array.view(np.int8)),
        fingerprint_of({"a": 1, "b": 2}, array, array),
    ]
    assert len(set(variants)) == len(variants)
    assert fingerprint_of({"b": 2, "a": 1}, array.copy()) == variants[0]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFileError, match=r"file/views cannot be created"):
        TeacherCache(tmp_path / "file" / "views")


STILL = AugmentationConfig(
    rotation_deg=0, log_scale=0, log_aspect=0, translation=0, flip_probability=0
)


@dataclass
class GreyTeacher:
    """Embeds a frame as 2 x 32 x 32 averages of its grey levels, and counts what it was asked."""

    weights_sha256: str = "0"
    batches: list[int] = field(default_factory=list)

    def embeddings(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Averages, and averages negated."""
        self.batches.append(len(frames))
        grey = [cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA) / 255 for f in frames]
        means = torch.from_numpy(np.stack(grey)).float()
        return torch.stack((means, -means), dim=1)

    def masks(
        self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """Nothing."""
        return np.zeros((len(boxes), *image.shape), np.bool_)


@pytest.fixture
def make(
    bright_cases: list[UltrasoundCase], tmp_path: Path
) -> Callable[..., tuple[TeacherViews, GreyTeacher]]:
    """Makes views of two cases in one folder, with a teacher of its own each time."""

    def call(
        *,
        views: int = 3,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        teacher: GreyTeacher | None = None,
        cases: Sequence[UltrasoundCase] = bright_cases[:2],
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[TeacherViews, GreyTeacher]:
        teacher = teacher or GreyTeacher()
        made = make_teacher_views(
            teacher,
            cases,
            views=views,
            augmentation=augmentation or AugmentationConfig(),
            seed=seed,
            settings={"precision": "fp32"},
            cache=TeacherCache(tmp_path / "views"),
            progress=progress,
        )
        return made, teacher

    return call


Make = Callable[..., tuple[TeacherViews, GreyTeacher]]


def test_each_view_is_another_and_comes_with_its_embedding(
    make: Make, bright_cases: list[UltrasoundCase]
) -> None:
    done: list[int] = []
    views, _ = make(progress=done.append)
    assert len(views) == 6 and done == [3, 6]
    frames = [views.frame(index) for index in range(6)]
    for index, frame in enumerate(frames):
        assert frame.shape == read_image(bright_cases[index // 3]).shape
        assert frame.dtype == np.uint8
        expected = GreyTeacher().embeddings([frame])[0]
        assert views.embedding(index).dtype == torch.float16
        # float16 keeps 11 bits of values up to 1
        torch.testing.assert_close(views.embedding(index).float(), expected, rtol=0, atol=5e-4)
    for one in range(3):
        for other in range(one):
            assert not np.array_equal(frames[one], frames[other])


def test_the_teacher_sees_neither_deformed_nor_coarser_frames(
    make: Make, bright_cases: list[UltrasoundCase]
) -> None:
    assert STILL.elastic_probability > 0 and STILL.resolution_probability > 0
    views, _ = make(views=8, augmentation=STILL)
    for index in range(16):
        assert np.array_equal(views.frame(index), read_image(bright_cases[index // 8]))


def test_views_depend_on_the_seed_alone(make: Make) -> None:
    first, _ = make()
    frames = [first.frame(index) for index in range(6)]
    other, _ = make(seed=1)
    assert not np.array_equal(other.frame(0), frames[0])
    again, teacher = make()
    assert teacher.batches == [3, 3]  # the other seed's views had taken their place
    assert all(np.array_equal(again.frame(index), frames[index]) for index in range(6))


def test_views_that_are_there_are_kept_and_others_are_made(
    make: Make, bright_cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    _, teacher = make(views=5)
    assert teacher.batches == [4, 1, 4, 1]  # at most four frames at a time
    for changed in (
        {},
        {"augmentation": AugmentationConfig(elastic_probability=0.9, log_gain=0.3)},
    ):
        assert make(views=5, **changed)[1].batches == []
    TeacherCache(tmp_path / "views").path(1).unlink()
    assert make(views=5)[1].batches == [4, 1]
    assert make(views=5, teacher=GreyTeacher("1"))[1].batches == [4, 1, 4, 1]
    assert make(views=5, augmentation=STILL)[1].batches == [4, 1, 4, 1]
    assert make(views=5, augmentation=STILL, cases=bright_cases[1::-1])[1].batches == [4, 1, 4, 1]


def test_an_image_that_has_changed_is_viewed_again(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "Dataset" / "benign"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (1, 2):
        pixels = rng.integers(0, 255, (40, 50), dtype=np.uint8)
        assert cv2.imwrite(str(root / f"benign ({number}).png"), pixels)
        assert cv2.imwrite(str(root / f"benign ({number})_mask.png"), pixels)
    cases = list_cases(root.parent)
    assert make(cases=cases)[1].batches == [3, 3]
    assert cv2.imwrite(str(root / "benign (2).png"), pixels[::-1])
    assert make(cases=cases)[1].batches == [3]


def test_variance_is_that_of_each_channel(make: Make) -> None:
    views, _ = make()
    values = np.stack([views.embedding(index).numpy() for index in range(6)]).astype(np.float64)
    channels = values.transpose(1, 0, 2, 3).reshape(2, -1)
    assert views.variance() == pytest.approx(channels.var(axis=1, ddof=1).mean(), rel=1e-9)


ELLIPSE_IN_BOX = 2 * (pi / 4) / (1 + pi / 4)
"""Dice of an ellipse and the box around it."""


@dataclass
class BoxTeacher:
    """Takes the whole box for the lesion, and counts what it was asked."""

    weights_sha256: str = "0"
    boxes: list[int] = field(default_factory=list)

    def embeddings(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Nothing."""
        return torch.zeros(len(frames), 1, 32, 32)

    def masks(
        self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        """The pixels of each box, its edges included."""
        self.boxes.append(len(boxes))
        masks = np.zeros((len(boxes), *image.shape), np.bool_)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
        return masks


@pytest.fixture
def teacher_masks_make(tmp_path: Path) -> Callable[..., TeacherMasks]:
    """Makes masks of cases in one folder."""

    def call(
        teacher: BoxTeacher, cases: Sequence[UltrasoundCase], min_dice: float = 0.7
    ) -> TeacherMasks:
        return make_teacher_masks(
            teacher,
            cases,
            min_dice=min_dice,
            settings={"precision": "fp32"},
            cache=TeacherCache(tmp_path / "masks"),
        )

    return call


TeacherMasksMake = Callable[..., TeacherMasks]


def test_every_lesion_has_the_teachers_mask_of_its_box(
    teacher_masks_make: TeacherMasksMake, fake_busi: Path
) -> None:
    cases = select_lesions(list_cases(fake_busi))
    teacher = BoxTeacher()
    taught = teacher_masks_make(teacher, cases)
    assert teacher.boxes == [1, 2, 1, 1, 1]  # one case has two lesions
    assert taught.dices == [1.0] * 6  # every lesion is a rectangle
    for case, masks in zip(cases, taught.masks, strict=True):
        for mine, annotated in zip(masks, read_instances(case), strict=True):
            assert mine.dtype == np.bool_
            assert np.array_equal(mine, annotated)


def test_a_mask_that_agrees_too_little_gives_way_to_the_annotated_one(
    teacher_masks_make: TeacherMasksMake, bright_cases: list[UltrasoundCase]
) -> None:
    kept, left_out = (
        teacher_masks_make(BoxTeacher(), bright_cases, value) for value in (0.7, 0.95)
    )
    assert kept.dices == left_out.dices
    # the ellipses are about 40 pixels wide, so their outlines are rough
    assert kept.dices == [pytest.approx(ELLIPSE_IN_BOX, abs=0.02)] * 5
    for case, box, fallback in zip(bright_cases, kept.masks, left_out.masks, strict=True):
        (annotated,) = read_instances(case)
        rows, columns = np.nonzero(annotated)
        expected = np.zeros_like(annotated)
        expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        assert np.array_equal(box[0], expected)
        assert np.array_equal(fallback[0], annotated)
    assert f"a mean Dice of {sum(kept.dices) / 5:.3f};" in left_out.summary()
    assert "5 of 5 agree less than 0.95" in left_out.summary()
    assert "0 of 5 agree less than 0.7" in kept.summary()


def test_the_teacher_is_asked_once(
    teacher_masks_make: TeacherMasksMake, bright_cases: list[UltrasoundCase]
) -> None:
    first = teacher_masks_make(BoxTeacher(), bright_cases[:3])
    teacher = BoxTeacher()
    again = teacher_masks_make(teacher, bright_cases, 0.8)  # two more cases
    assert teacher.boxes == [1, 1]
    for one, other in zip(first.masks, again.masks, strict=False):
        assert np.array_equal(one[0], other[0])
    other_teacher = BoxTeacher("1")
    teacher_masks_make(other_teacher, bright_cases)
    assert len(other_teacher.boxes) == 5


def test_a_case_without_a_lesion_is_named(
    teacher_masks_make: TeacherMasksMake, fake_busi: Path
) -> None:
    with pytest.raises(DataError, match=r"'normal/normal \(1\)' has no lesion"):
        teacher_masks_make(BoxTeacher(), list_cases(fake_busi))


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
def feature_distillation_make(
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


FeatureDistillationMake = Callable[..., FeatureDistillation]


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


def test_a_teacher_of_the_same_architecture_is_learned(
    feature_distillation_make: FeatureDistillationMake,
) -> None:
    """Normalisation is frozen in the teacher's state, so that the student can become the
    teacher."""
    epochs: list[tuple[int, float]] = []
    steps: list[DistillationStep] = []
    distillation = feature_distillation_make("run", distillation_with(epochs=15))
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


def test_only_the_encoder_learns_and_it_ends_with_its_average(
    feature_distillation_make: FeatureDistillationMake,
) -> None:
    distillation = feature_distillation_make("run")
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


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    feature_distillation_make: FeatureDistillationMake,
) -> None:
    runs = [feature_distillation_make(name) for name in ("one", "two")]
    runs.append(feature_distillation_make("three", dataclasses.replace(SMALL, seed=1)))
    for run in runs:
        run.run()
    assert_same(weights(runs[0]), weights(runs[1]))
    kernel = "conv.weight"
    assert not torch.equal(weights(runs[0])[kernel], weights(runs[2])[kernel])


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_feature_distillation_an_interrupted_one_goes_on_with_the_same_bits(
    feature_distillation_make: FeatureDistillationMake, stop_after: int, tmp_path: Path
) -> None:
    whole = feature_distillation_make("whole")
    whole.run()
    first = feature_distillation_make("parts")
    with pytest.raises(JobInterruptedError, match=f"after step {stop_after} of 4 .*run the same"):
        first.run(should_stop=lambda: first.steps_done == stop_after)
    second = feature_distillation_make("parts")
    assert second.steps_done == stop_after and not second.is_done
    second.run()
    assert_same(weights(second), weights(whole))
    files = [tmp_path / folder / "history.csv" for folder in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    lines = files[0].read_text().splitlines()
    assert lines[0] == "epoch,loss"
    assert [float(line.split(",")[1]) for line in lines[1:]] == whole.epoch_losses


def test_a_state_is_saved_within_an_epoch_too(
    feature_distillation_make: FeatureDistillationMake,
) -> None:
    class KilledError(Exception):
        """Stands for a killed process."""

    def kill(step: DistillationStep) -> None:
        if step.step == 4:
            raise KilledError

    whole = feature_distillation_make("whole")
    whole.run()
    for interval, kept in ((0, 2), (3, 3)):
        config = dataclasses.replace(SMALL, checkpoint_interval_steps=interval)
        with pytest.raises(KilledError):
            feature_distillation_make(f"every {interval}", config).run(progress=kill)
        resumed = feature_distillation_make(f"every {interval}", config)
        assert resumed.steps_done == kept
        resumed.run()
        assert_same(weights(resumed), weights(whole))


def test_a_finished_one_needs_no_views(
    feature_distillation_make: FeatureDistillationMake, views: TeacherViews
) -> None:
    first = feature_distillation_make("run")
    first.run()
    for index in range(views.images):
        views.cache.path(index).unlink()
    again = feature_distillation_make("run")
    assert again.is_done
    again.run(report=lambda *_: pytest.fail("an epoch was run"))
    assert_same(weights(again), weights(first))


def test_a_state_of_another_distillation_is_refused_with_the_difference(
    feature_distillation_make: FeatureDistillationMake,
) -> None:
    feature_distillation_make("run", settings={"seed": 0, "teacher": "a"}).run()
    with pytest.raises(WeightsError, match=r"with another teacher\. Use the same to resume"):
        feature_distillation_make("run", settings={"seed": 0, "teacher": "b"})
    with pytest.raises(WeightsError, match="with another seed, another teacher"):
        feature_distillation_make("run", settings={"seed": 1})


@pytest.mark.parametrize("kind", ["garbage", "something else"])
def test_a_file_that_is_no_state_is_refused(
    feature_distillation_make: FeatureDistillationMake, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "state.pt"
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    if kind == "something else":
        torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"state\.pt is .*Remove it to start afresh"):
        feature_distillation_make("run")


def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(
    feature_distillation_make: FeatureDistillationMake,
) -> None:
    distillation = feature_distillation_make("run")
    kernel = distillation.encoder.get_parameter("conv.weight")
    kernels: list[Tensor] = []

    def poison_after_the_first(step: DistillationStep) -> None:
        kernels.append(kernel.detach().clone())
        vars(distillation.encoder)["poisoned"] = step.step == 1

    distillation.run(progress=poison_after_the_first)
    assert distillation.skipped_steps == 1
    assert torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[1], kernels[2])


def test_mixed_precision_learns_about_the_same(
    feature_distillation_make: FeatureDistillationMake,
) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        run = feature_distillation_make(precision, dataclasses.replace(SMALL, precision=precision))
        run.run()
        losses.append(run.epoch_losses[0])
    assert losses[0] != losses[1]
    # bf16 keeps 8 bits; two steps do not multiply its rounding
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_too_few_views_are_refused(feature_distillation_make: FeatureDistillationMake) -> None:
    with pytest.raises(ValueError, match="at least batch_size 11 views, got 10"):
        feature_distillation_make("run", dataclasses.replace(SMALL, batch_size=11))


CONFIG = TrainConfig(
    batch_size=2,
    warmup_steps=1,
    precision="fp32",
    distillation=DistillationConfig(
        teacher="teacher.safetensors", views=1, epochs=2, mask_weight=0.5, min_teacher_dice=1.0
    ),
)


@pytest.fixture
def cases(fake_busi: Path) -> list[UltrasoundCase]:
    """Four images; the first has no lesion, the last has two."""
    keys = (
        "normal/normal (1)",
        "benign/benign (1)",
        "malignant/malignant (1)",
        "benign/benign (2)",
    )
    return list_cases(fake_busi, keys)


@pytest.fixture(autouse=True)
def small_teacher(
    make_small_model: Callable[[], SamusHF], monkeypatch: pytest.MonkeyPatch
) -> SamusTeacher:
    """The teacher that every configuration names: small, as no weights file of ours is."""
    model = make_small_model()
    with torch.no_grad():
        for parameter in model.image_encoder.parameters():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    teacher = SamusTeacher(model, "f" * 64, precision="fp32", device=torch.device("cpu"))

    def load(name: str, *, precision: str, device: torch.device) -> SamusTeacher:
        assert (name, precision) == (CONFIG.distillation.teacher, CONFIG.precision)
        return teacher

    monkeypatch.setattr(distillation, "load_teacher", load)
    return teacher


def settings(**changes: object) -> TrainConfig:
    """`CONFIG` with other settings of the distillation."""
    changed = dataclasses.replace(CONFIG.distillation, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(CONFIG, distillation=changed)


def hashes(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every file."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = [str(path.relative_to(folder)) for path in paths]
    return {
        name: (sha256_of_file(path), path.stat().st_mtime_ns)
        for name, path in zip(names, paths, strict=True)
    }


def test_features_are_learned_from_all_images_and_masks_of_the_lesions(
    make_small_model: Callable[[], SamusHF], cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    model, lines, seen = make_small_model(), list[str](), list[StageProgress]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = prepare_distillation(
        model, CONFIG, cases, tmp_path / "run", report=lines.append, progress=seen.append
    )
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed and all(name.startswith("image_encoder.") for name in changed)
    assert masks is not None and [len(found) for found in masks] == [1, 1, 2]
    for found, case in zip(masks, cases[1:], strict=True):
        for mine, annotated in zip(found, read_instances(case), strict=True):
            # random weights do not hit a mask exactly, so the annotated ones stay
            assert np.array_equal(mine, annotated)
    assert [(one.stage, one.done, one.total) for one in seen] == [
        *((VIEWS, done, 4) for done in (1, 2, 3, 4)),
        *((FEATURES, done, 4) for done in (1, 2, 3, 4)),
        *((MASKS, done, 3) for done in (1, 2, 3)),
    ]
    assert [line.split(":")[0] for line in lines[:2]] == [
        "feature distillation, epoch 1 of 2",
        "feature distillation, epoch 2 of 2",
    ]
    assert "4 of 4 agree less than 1" in lines[2]


def test_a_second_call_finds_everything_done(
    make_small_model: Callable[[], SamusHF],
    cases: list[UltrasoundCase],
    small_teacher: SamusTeacher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = make_small_model()
    masks = prepare_distillation(first, CONFIG, cases, tmp_path)
    before = hashes(tmp_path / "distillation")
    assert {Path(name).parts[0] for name in before} == {
        *("state.pt", "history.csv", "views", "masks")
    }
    monkeypatch.setattr(small_teacher, "embeddings", lambda frames: pytest.fail("asked again"))
    monkeypatch.setattr(small_teacher, "masks", lambda image, boxes: pytest.fail("asked again"))
    second = make_small_model()
    again = prepare_distillation(second, CONFIG, cases, tmp_path)
    assert masks is not None and again is not None
    for one, other in zip(masks, again, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
    assert hashes(tmp_path / "distillation") == before


@pytest.mark.parametrize(
    ("calls", "where"),
    [
        (2, "2 of 4 of the teacher's views"),
        (7, "step 3 of 4"),
        (9, "1 of 3 of the teacher's masks"),
    ],
)
def test_an_interrupted_one_goes_on_with_the_same_bits(
    calls: int,
    where: str,
    make_small_model: Callable[[], SamusHF],
    cases: list[UltrasoundCase],
    tmp_path: Path,
) -> None:
    whole, parts = make_small_model(), make_small_model()
    prepare_distillation(whole, CONFIG, cases, tmp_path / "whole")
    answers = iter([False] * (calls - 1) + [True])
    with pytest.raises(JobInterruptedError, match=f"interrupted after {where}"):
        prepare_distillation(
            parts, CONFIG, cases, tmp_path / "parts", should_stop=lambda: next(answers)
        )
    parts = make_small_model()
    prepare_distillation(parts, CONFIG, cases, tmp_path / "parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], tensor), name


def test_each_half_can_be_left_out(
    make_small_model: Callable[[], SamusHF], cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    model = make_small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = prepare_distillation(model, settings(epochs=0), cases, tmp_path / "masks")
    assert masks is not None and len(masks) == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    only_features = settings(mask_weight=0.0)
    assert prepare_distillation(model, only_features, cases, tmp_path / "features") is None
    assert not (tmp_path / "features" / "distillation" / "masks").exists()


def test_without_a_teacher_nothing_happens(
    make_small_model: Callable[[], SamusHF], cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    config = settings(teacher="none", mask_weight=0.0)
    assert prepare_distillation(make_small_model(), config, cases, tmp_path / "run") is None
    assert not (tmp_path / "run").exists()


def test_another_start_or_configuration_is_refused(
    make_small_model: Callable[[], SamusHF], cases: list[UltrasoundCase], tmp_path: Path
) -> None:
    prepare_distillation(make_small_model(), settings(epochs=1), cases, tmp_path)
    # what only concerns masks may change
    prepare_distillation(
        make_small_model(), settings(epochs=1, min_teacher_dice=0.5), cases, tmp_path
    )
    other = make_small_model()
    with torch.no_grad():
        other.image_encoder.get_parameter("conv.weight").mul_(2)
    with pytest.raises(WeightsError, match=r"with another start\. Use the same to resume"):
        prepare_distillation(other, settings(epochs=1), cases, tmp_path)
    with pytest.raises(WeightsError, match=r"with another distillation\.epochs\."):
        prepare_distillation(make_small_model(), CONFIG, cases, tmp_path)
    with pytest.raises(WeightsError, match=r"with another order of cases\."):
        prepare_distillation(make_small_model(), settings(epochs=1), cases[::-1], tmp_path)
