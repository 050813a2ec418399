"""DICOM files written for tests, and those that come with pydicom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

Make = Callable[..., Path]


def region(box: tuple[int, int, int, int], delta_cm: float, **changes: Any) -> Dataset:
    """A two-dimensional tissue region."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = box[:2]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box[2:]
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = delta_cm
    for name, value in changes.items():
        setattr(item, name, value)
    return item


@pytest.fixture(scope="session")
def make_region() -> Callable[..., Dataset]:
    """Makes an item of SequenceOfUltrasoundRegions."""
    return region


@pytest.fixture
def make_study(tmp_path: Path) -> Make:
    """Writes an ultrasound cine of given frames, (F, H, W) or (F, H, W, 3), with a named
    patient."""

    def make(
        frames: npt.NDArray[Any],
        *,
        photometric: str = "MONOCHROME2",
        regions: list[Dataset] | None = None,
        name: str = "study.dcm",
        **elements: Any,
    ) -> Path:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name])
        dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=[name, "study"])
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[name, "series"])
        dataset.PatientName, dataset.PatientID = "Secret^Patient", "SECRET-17"
        dataset.PatientBirthDate, dataset.PatientSex = "19700101", "F"
        dataset.StudyDate, dataset.StudyTime, dataset.Modality = "20260101", "120000", "US"
        dataset.AccessionNumber = dataset.StudyID = dataset.ReferringPhysicianName = ""
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
        dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
        if frames.ndim == 4:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = photometric
        bits = 8 * frames.dtype.itemsize
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(frames.dtype.kind == "i")
        if regions is not None:
            dataset.SequenceOfUltrasoundRegions = Sequence(regions)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        content = frames.tobytes()
        dataset.PixelData = content + b"\0" * (len(content) % 2)
        path = tmp_path / name
        dataset.save_as(path, enforce_file_format=True)
        return path

    return make


@pytest.fixture
def cine() -> npt.NDArray[np.uint8]:
    """Three frames that differ, (3, 40, 60), uint8."""
    return np.random.default_rng(5).integers(0, 256, (3, 40, 60), np.uint8)
