"""Measurements as a DICOM structured report that refers to a segmentation and its source."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from samus_edge import __version__
from samus_edge.runtime.dicom.dicom_frames import DicomFrames
from samus_edge.runtime.dicom.dicom_segmentation import MADE_BY, ModelIdentity, complete_source
from samus_edge.runtime.dicom.require_pydicom import require_highdicom
from samus_edge.runtime.measurement.lesion_measurements import LesionMeasurements

if TYPE_CHECKING:
    from highdicom.sr import ComprehensiveSR, Measurement
    from pydicom import Dataset

__all__ = ["report_of"]

_SERIES_NUMBER = 901
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
        ValueError: if segments and measurements are not as many.
        MissingExtraError: without highdicom.
    """
    require_highdicom()
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    segments = segmentation.SegmentSequence
    if len(segments) != len(measurements):
        raise ValueError(
            f"there are {len(segments)} segments and {len(measurements)} measurements; give one for each."
        )
    image = hd.sr.SourceImageForSegmentation(
        source.dataset.SOPClassUID,
        source.dataset.SOPInstanceUID,
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
            uid=hd.UID(), name=MADE_BY, manufacturer_name=MADE_BY, model_name=model.bundle
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=Code("16310003", "SCT", "Ultrasonography"),
        imaging_measurements=groups,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values of the source
        return hd.sr.ComprehensiveSR(
            evidence=[complete_source(source.dataset), segmentation],
            content=content[0],
            series_instance_uid=hd.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MADE_BY,
            series_description="samus-edge lesion measurements",
        )


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
        (Code("HEIGHT", _OWN_CODES, "Height along the beam"), found.height, length),
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
