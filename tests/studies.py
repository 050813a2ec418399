"""DICOM files for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def write_study(path: Path, frames: list[npt.NDArray[np.uint8]], **elements: Any) -> Path:
    """A multi-frame ultrasound file without compression."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    dataset.NumberOfFrames, (dataset.Rows, dataset.Columns) = len(frames), frames[0].shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = np.stack(frames).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path
