"""Masks as a DICOM segmentation that refers to the frame that they were drawn on."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.errors import BadArgumentError
from samus_edge.runtime.dicom.dicom_frames import DicomFrames, require_highdicom
from samus_edge.runtime.dicom.dicom_source import ResultSource, describe_source
from samus_edge.runtime.measurement.lesion_measurements import LesionMeasurements

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from highdicom.sr import ComprehensiveSR, Measurement
    from pydicom import DataElement, Dataset

__all__ = [
    "MADE_BY",
    "ModelIdentity",
    "dicom_bytes",
    "report_of",
    "segmentation_of",
]


MADE_BY = "samus-edge"
_SERIES_NUMBER = 900
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

    Patient and study are copied from the source, as the standard demands: the file identifies the
    patient as the source does.

    Args:
        source: the image that was segmented.
        frame: index of the frame in it, from 0.
        masks: (N, H, W), bool; each its own segment.
        model: what drew the masks.

    Returns:
        highdicom's Segmentation; `save_as` writes it.

    Raises:
        BadArgumentError: if the masks do not fit the source, or one is empty.
        MissingExtraError: without highdicom.
    """
    require_highdicom()
    import highdicom as hd
    from pydicom.sr.codedict import codes

    if masks.shape[1:] != source.original_hw or not len(masks) or not 0 <= frame < len(source):
        raise BadArgumentError(
            f"masks of shape {masks.shape} of frame {frame} do not fit {len(source)} frames of "
            f"{source.original_hw}."
        )
    if not masks.any(axis=(1, 2)).all():
        raise BadArgumentError("a mask is empty: there is nothing to write. Leave it out.")
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
    described = describe_source(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hd.seg.Segmentation(
            source_images=[described.reference],
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
    _refer_to_frame(made, described, frame if len(source) > 1 else None)
    _identify(made, described)
    made.PatientOrientation = ""  # not known of ultrasound
    return made


def dicom_bytes(dataset: "Dataset") -> bytes:
    """A dataset as a DICOM file."""
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _refer_to_frame(segmentation: "Dataset", described: ResultSource, frame: int | None) -> None:
    """Refer to the source by its own class and, if it has several frames, to the frame, from 1."""
    instance = described.reference.SOPInstanceUID

    def put_right(dataset: "Dataset", element: "DataElement") -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value == instance:
            dataset.ReferencedSOPClassUID = described.class_uid

    segmentation.walk(put_right)
    if frame is None:
        return
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", ()):
            for image in derivation.SourceImageSequence:
                image.ReferencedFrameNumber = frame + 1


def _refer_by_frame(dataset: "Dataset", element: "DataElement") -> None:
    """Each frame of our segmentations has one segment, and the standard allows one of both
    numbers only (PS3.3 C.17.3)."""
    if element.keyword == "ReferencedSegmentNumber" and "ReferencedFrameNumber" in dataset:
        del dataset.ReferencedSegmentNumber


def _identify(made: "Dataset", described: ResultSource) -> None:
    """Patient and study, as they were described."""
    for element in described.identity:
        made[element.tag] = element


_REPORT_SERIES_NUMBER = 901
_OWN_CODES = "99SAMUS"


def report_of(
    source: DicomFrames,
    frame: int,
    segmentation: "Dataset",
    measurements: Sequence[LesionMeasurements],
    model: ModelIdentity,
) -> "ComprehensiveSR":
    """Make a structured report by template TID 1500, Measurement Report.

    It is neither complete nor verified: a person has to look at it.

    Args:
        source: the image that was segmented.
        frame: index of the frame in it, from 0.
        segmentation: of `segmentation_of`, with one segment for each of the measurements.
        measurements: in the order of the segments.
        model: what drew the masks.

    Returns:
        highdicom's ComprehensiveSR; `save_as` writes it.

    Raises:
        BadArgumentError: if segments and measurements are not as many.
        MissingExtraError: without highdicom.
    """
    require_highdicom()
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    segments = segmentation.SegmentSequence
    if len(segments) != len(measurements):
        raise BadArgumentError(
            f"there are {len(segments)} segments and {len(measurements)} measurements; give one "
            "for each."
        )
    described = describe_source(source)
    image = hd.sr.SourceImageForSegmentation(
        described.class_uid,
        described.reference.SOPInstanceUID,
        [frame + 1] if len(source) > 1 else None,
    )
    groups = [
        hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
            referenced_segment=hd.sr.ReferencedSegmentationFrame(
                segmentation.SOPClassUID,
                segmentation.SOPInstanceUID,
                frame_number=index + 1,  # one frame for each segment, in their order
                segment_number=index + 1,
                source_image=image,
            ),
            finding_type=codes.SCT.Lesion,
            algorithm_id=hd.sr.AlgorithmIdentification(
                name=f"{MADE_BY} {model.bundle}"[:64],
                version=__version__,
                parameters=[
                    f"encoder_sha256={model.encoder_sha256}",
                    f"precision={model.precision}",
                ],
            ),
            measurements=_coded(found),
        )
        for index, (segment, found) in enumerate(zip(segments, measurements, strict=True))
    ]
    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            # The same for the same model, wherever it runs.
            uid=generate_uid(entropy_srcs=[MADE_BY, __version__, model.encoder_sha256]),
            name=MADE_BY,
            manufacturer_name=MADE_BY,
            model_name=model.bundle,
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=Code("16310003", "SCT", "Ultrasonography"),
        imaging_measurements=groups,
    )
    described.reference.SOPClassUID = described.class_uid
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hd.sr.ComprehensiveSR(
            evidence=[described.reference, segmentation],
            content=content[0],
            series_instance_uid=hd.UID(),
            series_number=_REPORT_SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MADE_BY,
            series_description="samus-edge lesion measurements",
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    designator=_OWN_CODES, name="samus-edge", responsible_organization=MADE_BY
                )
            ],
        )
    _identify(made, described)
    made.walk(_refer_by_frame)
    return made


def _coded(found: LesionMeasurements) -> list["Measurement"]:
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if found.unit == "mm":
        length, area = codes.UCUM.Millimeter, codes.UCUM.SquareMillimeter
    else:
        length = area = Code("{pixels}", "UCUM", "pixels")
    ratio = Code("{ratio}", "UCUM", "ratio")
    values = (
        (Code("103339001", "SCT", "Long Axis"), found.longest.length, length),
        (Code("103340004", "SCT", "Short Axis"), found.perpendicular.length, length),
        (Code("103355008", "SCT", "Width"), found.width, length),
        (Code("121207", "DCM", "Height"), found.height, length),
        (
            Code("HEIGHT_TO_WIDTH", _OWN_CODES, "Height to width ratio"),
            found.height_to_width,
            ratio,
        ),
        (Code("131191004", "SCT", "Perimeter"), found.perimeter, length),
        (Code("42798000", "SCT", "Area"), found.area, area),
    )
    return [
        hd.sr.Measurement(name=name, value=round(value, 4), unit=unit)
        for name, value, unit in values
    ]
