"""Augmented training samples and fixed validation samples from cases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samus_edge.data.augmentation import AugmentationConfig, augment_appearance, augment_geometry
from samus_edge.data.case import CasesInMemory, CaseSource, UltrasoundCase
from samus_edge.data.collection import DatasetConfig
from samus_edge.data.prompt_protocol import (
    BoxConfig,
    case_generator,
    centre_point,
    jittered_box,
    simulate_background_click,
    simulate_box,
    simulate_click,
    simulate_phantom,
)
from samus_edge.errors import DataError
from samus_edge.modeling.samus_hf import HighFrequency, InputScaling
from samus_edge.training.proposals import proposal_targets

Mask = npt.NDArray[np.bool_]

# at 256x256; a lesion that an augmentation has almost pushed out teaches nothing
MIN_LESION_PX = 24
GEOMETRY_TRIES = 4
VALIDATION_JITTER = 0.05
NUM_CLICKS = 3
CELL_PX = 8  # side of what one place of the embeddings covers, at 256x256
WINDOW_MARGINS = (0.15, 1.0)
"""Of a window around a lesion on each side, fractions of the lesion's side."""


@dataclass(frozen=True)
class TrainingSample:
    """One lesion of one frame with prompts; a batch has one more, leading dimension.

    Attributes:
        image: (1, S, S), float32, grey in [0, 1].
        high_frequency: (1, S, S), float32, in [0, 1].
        mask: (1, S, S), float32, values in {0, 1}.
        box: (2, 2), float32, top left and bottom right corner (x, y), model frame.
        clicks: (3, 2), float32, (x, y) on the lesion, model frame.
        background_click: (1, 2), float32, (x, y) off the lesion, model frame.
        background_label: (1,), float32: 0, or -1 where the frame has no background.
        mask_weight: (1,), float32: 0 for a frame that trains the lesion proposer alone, or else 1.
        proposals: (6, h, h), float32: what the proposer should give for the frame; see
            `proposal_targets`.
        proposal_weights: (2,), float32: weights of its maps and of the presence of a lesion.
    """

    image: Tensor
    high_frequency: Tensor
    mask: Tensor
    box: Tensor
    clicks: Tensor
    background_click: Tensor
    background_label: Tensor
    mask_weight: Tensor
    proposals: Tensor
    proposal_weights: Tensor


class LesionDataset:
    """Lesions of cases, one per case and epoch, or as often as the case's dataset says.

    Samples depend on (seed, epoch, index) only, so a resumed training sees what an uninterrupted
    one sees.

    Args:
        cases: cases with at least one lesion; the samples come in their order.
        image_size: side of the model input, pixels.
        augmentation: strengths, or None for fixed samples: no augmentation, the first lesion, and
            the evaluation's jittered box and centre point as prompts.
        seed: seed of all samples.
        boxes: ways in which boxes miss the lesion; None for the default.
        normal_cases: cases without a lesion, prompted as if there were one and with an empty mask
            as the answer; they come after the others. Only with an augmentation.
        source: decoded cases; None to decode them here and hold them in memory.
        datasets: weight and windows of the datasets that the cases are of; empty for one dataset.
        proposals: whether the lesion proposer learns, from those datasets that say so; then the
            normal cases teach it alone.

    Raises:
        DataError: if a case cannot be read or has no lesion; all of the latter are named.
    """

    def __init__(
        self,
        cases: Sequence[UltrasoundCase],
        *,
        image_size: int,
        augmentation: AugmentationConfig | None,
        seed: int,
        boxes: BoxConfig | None = None,
        normal_cases: Sequence[UltrasoundCase] = (),
        source: CaseSource | None = None,
        datasets: Sequence[DatasetConfig] = (),
        proposals: bool = False,
    ) -> None:
        self._cases = (*cases, *normal_cases)
        self._lesion_cases = len(cases)
        self._source = source or CasesInMemory(self._cases)
        empty = [case.key for case in cases if not self._source.instances(case)]
        if empty:
            raise DataError(
                f"Cases without a lesion cannot be trained on, got {', '.join(empty)}. "
                "Leave them out of the subset, or mend their masks."
            )
        self._members: dict[str, list[int]] = {}
        for index, case in enumerate(self._cases):
            self._members.setdefault(case.dataset, []).append(index)
        self._weights = {dataset.title: dataset.weight for dataset in datasets}
        self._crops = {dataset.title: dataset.crop_probability for dataset in datasets}
        proposing = {dataset.title for dataset in datasets if dataset.proposals}
        self._proposing = (proposing if datasets else {""}) if proposals else set()
        self._with_normals = {case.dataset for case in normal_cases}
        self._normals_have_masks = not proposals
        self.image_size = image_size
        self.augmentation = augmentation
        self.boxes = boxes or BoxConfig()
        self.seed = seed
        self.epoch = 0
        self._input_scaling = InputScaling(image_size)
        self._high_frequency = HighFrequency(image_size)

    def __len__(self) -> int:
        return sum(passes * len(of) + rest for of, passes, rest in self._shares())

    def __getitem__(self, index: int) -> TrainingSample:
        if self.augmentation is None:
            return self._fixed_sample(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        index %= len(self._cases)  # further passes over the cases have indices beyond
        if index < self._lesion_cases:
            frame, mask, lesions = self._augmented_lesion(index, self.augmentation, rng)
        else:
            image = self._source.image(self._cases[index])
            frame, _ = augment_geometry(image, [], self.augmentation, rng, self.image_size)
            mask = np.zeros((self.image_size, self.image_size), dtype=np.bool_)
            lesions = []
        frame = augment_appearance(frame, self.augmentation, rng)
        prompted = mask if mask.any() else simulate_phantom(self.image_size, rng)
        box = simulate_box(prompted, rng, self.boxes)
        clicks = np.concatenate([simulate_click(prompted, rng) for _ in range(NUM_CLICKS)])
        sample = self._sample(frame, mask, box, clicks, simulate_background_click(mask, rng))
        return self._with_proposals(sample, index, lesions)

    def order(self) -> list[int]:
        """The order in which this epoch's samples are learned from."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        # a shuffling DataLoader, whose order this is, first draws a seed for its workers
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        order = torch.randperm(len(self), generator=generator).tolist()
        chosen: list[int] = []
        for members, passes, rest in self._shares():
            drawn = torch.randperm(len(members), generator=generator)[:rest] if rest else ()
            last = passes * len(self._cases)
            for start in range(0, last, len(self._cases)):
                chosen += [start + index for index in members]
            chosen += [last + members[int(number)] for number in drawn]
        return [chosen[place] for place in order]

    def _shares(self) -> Iterator[tuple[list[int], int, int]]:
        """Of each dataset its cases, the whole passes over them, and the cases of one more."""
        for name, members in self._members.items():
            passes, rest = divmod(self._weights.get(name, 1.0), 1.0)
            yield members, int(passes), round(rest * len(members))

    def _augmented_lesion(
        self, index: int, augmentation: AugmentationConfig, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], Mask, list[Mask] | None]:
        """A moved frame with one of its lesions, and all of its lesions; None for the latter where
        the frame shows a window around the one."""
        case = self._cases[index]
        image, instances = self._source.image(case), self._source.instances(case)
        lesion = int(rng.integers(len(instances)))
        moved = [instances[lesion], *instances]
        crop = self._crops.get(case.dataset, 0.0)
        if crop and rng.random() < crop:
            window = _window(instances[lesion], rng)
            image, moved = image[window], [instances[lesion][window]]
        elif case.dataset not in self._proposing:
            del moved[1:]
        for _ in range(GEOMETRY_TRIES):
            frame, masks = augment_geometry(image, moved, augmentation, rng, self.image_size)
            if masks[0].sum() >= MIN_LESION_PX:
                break
        else:
            frame, masks = image, [self._resized(mask) for mask in moved]
        return frame, masks[0], masks[1:] or None

    def _fixed_sample(self, index: int) -> TrainingSample:
        case = self._cases[index]
        image, instances = self._source.image(case), self._source.instances(case)
        instance = instances[0]
        scale = self.image_size / np.array([image.shape[1], image.shape[0]])
        rng = case_generator(case.key, 0, self.seed)
        box = jittered_box(instance, VALIDATION_JITTER, rng).reshape(2, 2)
        clicks = np.repeat(centre_point(instance).reshape(1, 2), NUM_CLICKS, axis=0)
        mask = self._resized(instance)
        background = simulate_background_click(mask, rng)
        box, clicks = _to_model_frame(box, scale), _to_model_frame(clicks, scale)
        sample = self._sample(image, mask, box, clicks, background)
        if case.dataset not in self._proposing:
            return sample
        return self._with_proposals(sample, index, [self._resized(each) for each in instances])

    def _resized(self, mask: Mask) -> Mask:
        size = (self.image_size, self.image_size)
        resized = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized > 127)

    def _with_proposals(
        self, sample: TrainingSample, index: int, lesions: Sequence[Mask] | None
    ) -> TrainingSample:
        """A sample with what the lesion proposer learns from it; None where it does not."""
        dataset = self._cases[index].dataset
        if lesions is None or dataset not in self._proposing:
            return sample
        targets = proposal_targets(lesions, self.image_size // CELL_PX)
        has_mask = bool(lesions) or self._normals_have_masks
        return replace(
            sample,
            mask_weight=torch.tensor([float(has_mask)]),
            proposals=torch.from_numpy(targets),
            proposal_weights=torch.tensor([1.0, float(dataset in self._with_normals)]),
        )

    def _sample(
        self,
        frame: npt.NDArray[np.uint8],
        mask: Mask,
        box: npt.NDArray[np.float32],
        clicks: npt.NDArray[np.float32],
        background: tuple[npt.NDArray[np.float32], int],
    ) -> TrainingSample:
        frames = torch.from_numpy(np.ascontiguousarray(frame))[None]
        return TrainingSample(
            image=self._input_scaling(frames)[0],
            high_frequency=self._high_frequency(frames)[0] / 255.0,
            mask=torch.from_numpy(mask.astype(np.float32))[None],
            box=torch.from_numpy(box),
            clicks=torch.from_numpy(clicks),
            background_click=torch.from_numpy(background[0]),
            background_label=torch.tensor([float(background[1])]),
            mask_weight=torch.ones(1),
            proposals=torch.zeros(6, *[self.image_size // CELL_PX] * 2),
            proposal_weights=torch.zeros(2),
        )


def _window(mask: Mask, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a window that shows a lesion and what is around it."""
    slices = []
    for axis in (1, 0):
        (touched,) = np.nonzero(mask.any(axis=axis))
        first, end = int(touched[0]), int(touched[-1]) + 1
        margins = rng.uniform(*WINDOW_MARGINS, size=2) * (end - first)
        slices.append(slice(max(0, first - int(margins[0])), end + int(margins[1])))
    return slices[0], slices[1]


def collate(samples: Sequence[TrainingSample]) -> TrainingSample:
    """Stack samples: every field gains a leading batch dimension."""
    names = [field.name for field in fields(samples[0])]
    stacked = {name: torch.stack([getattr(sample, name) for sample in samples]) for name in names}
    return replace(samples[0], **stacked)


def _to_model_frame(
    points: npt.NDArray[np.generic], scale: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Pixels of the original image to the model frame, half-pixel rule."""
    return np.asarray((points.astype(np.float64) + 0.5) * scale - 0.5, dtype=np.float32)
