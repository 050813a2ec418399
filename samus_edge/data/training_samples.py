"""Augmented training samples and fixed validation samples from cases held in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from samus_edge.data.augmentation import AugmentationConfig, augment_appearance, augment_geometry
from samus_edge.data.busi import UltrasoundCase, read_image, read_instances
from samus_edge.data.prompts import simulate_box, simulate_click
from samus_edge.errors import DataError
from samus_edge.evaluation.prompt_protocol import case_generator, centre_point, jittered_box
from samus_edge.modeling.high_frequency import HighFrequency
from samus_edge.modeling.input_scaling import InputScaling

# at 256x256; a lesion that an augmentation has almost pushed out teaches nothing
MIN_LESION_PX = 24
GEOMETRY_TRIES = 4
VALIDATION_JITTER = 0.05


@dataclass(frozen=True)
class TrainingSample:
    """One lesion of one frame with a box and a click; a batch has one more, leading dimension.

    Attributes:
        image: (1, S, S), float32, grey in [0, 1].
        high_frequency: (1, S, S), float32, in [0, 1].
        mask: (1, S, S), float32, values in {0, 1}.
        box: (2, 2), float32, top left and bottom right corner (x, y), model frame.
        click: (1, 2), float32, (x, y) on the lesion, model frame.
    """

    image: Tensor
    high_frequency: Tensor
    mask: Tensor
    box: Tensor
    click: Tensor


class LesionDataset(Dataset[TrainingSample]):
    """Lesions of cases, one per case and epoch, decoded once and kept in memory.

    Samples depend on (seed, epoch, index) only, so a resumed training sees what an uninterrupted
    one sees.

    Args:
        cases: cases with at least one lesion.
        image_size: side of the model input, pixels.
        augmentation: strengths, or None for fixed samples: no augmentation, the first lesion, and
            the evaluation's jittered box and centre point as prompts.
        seed: seed of all samples.

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
    ) -> None:
        self.keys = [case.key for case in cases]
        self.images = [read_image(case) for case in cases]
        self.instances = [read_instances(case) for case in cases]
        empty = [case.key for case, found in zip(cases, self.instances, strict=True) if not found]
        if empty:
            raise DataError(
                f"Cases without a lesion cannot be trained on, got {', '.join(empty)}. "
                "Leave them out of the subset, or mend their masks."
            )
        self.image_size = image_size
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self._input_scaling = InputScaling(image_size)
        self._high_frequency = HighFrequency(image_size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> TrainingSample:
        if self.augmentation is None:
            return self._fixed_sample(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        image = self.images[index]
        instance = self.instances[index][rng.integers(len(self.instances[index]))]
        for _ in range(GEOMETRY_TRIES):
            frame, mask = augment_geometry(image, instance, self.augmentation, rng, self.image_size)
            if mask.sum() >= MIN_LESION_PX:
                break
        else:
            frame, mask = image, self._resized(instance)
        frame = augment_appearance(frame, self.augmentation, rng)
        return self._sample(frame, mask, simulate_box(mask, rng), simulate_click(mask, rng))

    def _fixed_sample(self, index: int) -> TrainingSample:
        image, instance = self.images[index], self.instances[index][0]
        scale = self.image_size / np.array([image.shape[1], image.shape[0]])
        rng = case_generator(self.keys[index], 0, self.seed)
        box = jittered_box(instance, VALIDATION_JITTER, rng).reshape(2, 2)
        click = centre_point(instance).reshape(1, 2)
        mask = self._resized(instance)
        return self._sample(image, mask, _to_model_frame(box, scale), _to_model_frame(click, scale))

    def _resized(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        size = (self.image_size, self.image_size)
        resized = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized > 127)

    def _sample(
        self,
        frame: npt.NDArray[np.uint8],
        mask: npt.NDArray[np.bool_],
        box: npt.NDArray[np.float32],
        click: npt.NDArray[np.float32],
    ) -> TrainingSample:
        frames = torch.from_numpy(np.ascontiguousarray(frame))[None]
        return TrainingSample(
            image=self._input_scaling(frames)[0],
            high_frequency=self._high_frequency(frames)[0] / 255.0,
            mask=torch.from_numpy(mask.astype(np.float32))[None],
            box=torch.from_numpy(box),
            click=torch.from_numpy(click),
        )


def collate(samples: Sequence[TrainingSample]) -> TrainingSample:
    """Stack samples: every field gains a leading batch dimension."""
    return TrainingSample(
        image=torch.stack([sample.image for sample in samples]),
        high_frequency=torch.stack([sample.high_frequency for sample in samples]),
        mask=torch.stack([sample.mask for sample in samples]),
        box=torch.stack([sample.box for sample in samples]),
        click=torch.stack([sample.click for sample in samples]),
    )


def _to_model_frame(
    points: npt.NDArray[np.generic], scale: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Pixels of the original image to the model frame, half-pixel rule."""
    return np.asarray((points.astype(np.float64) + 0.5) * scale - 0.5, dtype=np.float32)
