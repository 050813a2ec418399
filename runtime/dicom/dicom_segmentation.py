"""Masks as a DICOM segmentation that refers to the frame that they were drawn on."""

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.runtime.dicom.dicom_frames import DicomFrames
from samus_edge.runtime.dicom.require_pydicom import require_highdicom

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom import DataElement, Dataset

__all__ = ["MADE_BY", "ModelIdentity", "complete_source", "dicom_bytes", "segmentation_of"]

MADE_BY = "samus-edge"
_SERIES_NUMBER = 900
_COPIED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_SYNTAX = "1.2.840.10008.1.2.1"  # Explicit VR Little Endian


@dataclass(frozen=True)
class ModelIdentity:
    """What drew the masks.

    Attributes:
        bundle: its name.
        encoder_sha256: of the image encoder graph.
        precision: that computed.
    """

    bundle: str
    encoder_sha256: str
    precision: str


def segmentation_of(
    source: DicomFrames, frame: int, masks: npt.NDArray[np.bool_], model: ModelIdentity
) -> "Segmentation":
    """Make a binary DICOM segmentation of one frame.

    Patient and study are copied from the source, as the standard demands: the file identifies the patient as the
    source does.

    Args:
        source: the image that was segmented.
        frame: index of the frame in it, from 0.
        masks: (N, H, W), bool; each its own segment.
        model: what drew the masks.

    Returns:
        highdicom's Segmentation; `save_as` writes it.

    Raises:
        ValueError: if the masks do not fit the source, or one is empty.
        MissingExtraError: without highdicom.
    """
    require_highdicom()
    import highdicom as hd
    from pydicom.sr.codedict import codes

    if masks.shape[1:] != source.original_hw or not len(masks) or not 0 <= frame < len(source):
        raise ValueError(
            f"masks of shape {masks.shape} of frame {frame} do not fit {len(source)} frames of "
            f"{source.original_hw}."
        )
    if not masks.any(axis=(1, 2)).all():
        raise ValueError("a mask is empty: there is nothing to write. Leave it out.")
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f"{MADE_BY} {model.bundle}"[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        source=MADE_BY,
        parameters={
            "bundle": model.bundle,
            "precision": model.precision,
            "encoder_sha256": model.encoder_sha256,
        },
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"Lesion {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,  # a person prompted it
            algorithm_identification=algorithm,
            tracking_uid=hd.UID(),
            tracking_id=f"Lesion {number}",
        )
        for number in range(1, len(masks) + 1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values of the source
        made = hd.seg.Segmentation(
            source_images=[_frame_as_source(source.dataset)],
            pixel_array=masks.transpose(1, 2, 0)[None].astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MADE_BY,
            manufacturer_model_name=f"{MADE_BY} {model.bundle}"[:64],
            software_versions=__version__,
            device_serial_number=model.encoder_sha256[:16],
            content_description="Lesions, prompted by a person. Research.",
            content_label="LESIONS",
            series_description="samus-edge lesion segmentation",
            transfer_syntax_uid=_SYNTAX,
        )
    _refer_to_frame(made, source, frame)
    return made


def dicom_bytes(dataset: "Dataset") -> bytes:
    """A dataset as a DICOM file."""
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _frame_as_source(dataset: "Dataset") -> "Dataset":
    """An image as if it were one frame of its own.

    highdicom refers to frames of enhanced images only, in a frame of reference. Ultrasound has none: where the
    probe was is not known. `_refer_to_frame` puts right what the object then says.
    """
    from pydicom.uid import UltrasoundImageStorage

    found = complete_source(dataset)
    for keyword in (
        *("PixelData", "NumberOfFrames", "FrameIncrementPointer", "FrameTimeVector"),
        "PixelSpacing",  # highdicom would copy it, and then miss a slice thickness
    ):
        if keyword in found:
            delattr(found, keyword)
    found.SOPClassUID = UltrasoundImageStorage
    return found


def _refer_to_frame(segmentation: "Dataset", source: DicomFrames, frame: int) -> None:
    """Refer to the source by its own class and, if it has several frames, to the frame, from 1."""
    instance, class_uid = source.dataset.SOPInstanceUID, source.dataset.SOPClassUID

    def put_right(dataset: "Dataset", element: "DataElement") -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value == instance:
            dataset.ReferencedSOPClassUID = class_uid

    segmentation.walk(put_right)
    if len(source) == 1:
        return
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", ()):
            for image in derivation.SourceImageSequence:
                image.ReferencedFrameNumber = frame + 1


def complete_source(dataset: "Dataset") -> "Dataset":
    """A copy of a source, with empty elements where it lacks what objects that refer to it must copy."""
    from pydicom import Dataset

    found = Dataset()  # copy.copy would share the elements
    found.update(dataset)
    found.file_meta = dataset.file_meta
    for keyword in _COPIED:
        if keyword not in found:
            setattr(found, keyword, "")
    return found
