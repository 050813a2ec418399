"""Masks as a DICOM segmentation that refers to the frames that they were drawn on."""

import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.errors import BadArgumentError
from samus_edge.runtime.dicom.dicom_frames import DicomFrames, require_highdicom
from samus_edge.runtime.dicom.dicom_source import ResultSource, describe_source
from samus_edge.runtime.measurement.lesion_measurements import BreastLocation, LesionMeasurements

if TYPE_CHECKING:
    from highdicom.sr import ComprehensiveSR, Measurement, QualitativeEvaluation
    from pydicom import DataElement, Dataset
    from pydicom.sr.coding import Code

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


@dataclass(frozen=True, eq=False)
class LesionFrame:
    """A lesion in a frame; its mask is kept deflated, so that those of a long cine take little.

    Attributes:
        lesion: number of the lesion, the same in all frames.
        frame: index of the frame in its source, from 0.
        measurements: of the mask.
        comment: what a reader should know of the mask; at most some words, none of a file.
    """

    lesion: int
    frame: int
    measurements: LesionMeasurements
    comment: str
    _hw: tuple[int, int]
    _deflated: bytes

    @classmethod
    def of(
        cls,
        lesion: int,
        frame: int,
        mask: npt.NDArray[np.bool_],
        measurements: LesionMeasurements,
        comment: str = "",
    ) -> "LesionFrame":
        """From a mask, (H, W), that is not empty."""
        height, width = mask.shape
        deflated = zlib.compress(np.packbits(mask).tobytes(), 1)
        return cls(lesion, frame, measurements, comment, (height, width), deflated)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(H, W)."""
        height, width = self._hw
        packed = np.frombuffer(zlib.decompress(self._deflated), np.uint8)
        return np.unpackbits(packed, count=height * width).reshape(self._hw).astype(np.bool_)


def segmentation_of(
    source: DicomFrames, found: Sequence[LesionFrame], model: ModelIdentity
) -> "Dataset":
    """Make a binary DICOM segmentation of one or several frames, one segment for each lesion.

    Patient and study are copied from the source, as the standard demands: the file identifies the
    patient as the source does.

    Args:
        source: the image that was segmented.
        found: lesions in frames, each at most once in a frame. Frames without a mask are left out.
        model: what drew the masks.

    Returns:
        The segmentation, its frames sorted by lesion, then by frame of the source.

    Raises:
        BadArgumentError: if masks do not fit the source, one is empty, or there are none.
        MissingExtraError: without highdicom.
    """
    require_highdicom()
    import highdicom as hd
    from pydicom.sr.codedict import codes

    found = _sorted(found)
    height, width = source.original_hw
    if not found:
        raise BadArgumentError("there is no mask to write. Give another prompt.")
    for each in found:
        if each.mask.shape != (height, width) or not 0 <= each.frame < len(source):
            raise BadArgumentError(
                f"a mask of shape {each.mask.shape} of frame {each.frame} does not fit "
                f"{len(source)} frames of {source.original_hw}."
            )
        if not each.mask.any():
            raise BadArgumentError("a mask is empty: there is nothing to write. Leave it out.")
    lesions = sorted({each.lesion for each in found})
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
    described = describe_source(source)
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
        for number in range(1, len(lesions) + 1)
    ]
    for each in found:
        site, side = _site(described, each.measurements.location)
        if site is None:
            continue
        region = hd.sr.CodedConcept.from_code(site)
        if side is not None:
            region.AnatomicRegionModifierSequence = [hd.sr.CodedConcept.from_code(side)]
        segments[lesions.index(each.lesion)].AnatomicRegionSequence = [region]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hd.seg.Segmentation(
            source_images=[described.reference],
            # A frame of each segment, for what they have in common; see `_put_frames`.
            pixel_array=np.ones((1, height, width, len(lesions)), np.uint8),
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
    _refer_to_class(made, described)
    _put_frames(made, found, described, is_multiframe=len(source) > 1)
    _identify(made, described)
    made.PatientOrientation = ""  # not known of ultrasound
    return made


def dicom_bytes(dataset: "Dataset") -> bytes:
    """A dataset as a DICOM file."""
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _sorted(found: Sequence[LesionFrame]) -> list[LesionFrame]:
    """In the order of a segmentation's frames."""
    return sorted(found, key=lambda each: (each.lesion, each.frame))


def _refer_to_class(made: "Dataset", described: ResultSource) -> None:
    """Refer to the source by its own class, which highdicom need not know."""
    instance = described.reference.SOPInstanceUID

    def put_right(dataset: "Dataset", element: "DataElement") -> None:
        if element.keyword == "ReferencedSOPInstanceUID" and element.value == instance:
            dataset.ReferencedSOPClassUID = described.class_uid

    made.walk(put_right)


def _put_frames(
    segmentation: "Dataset",
    found: Sequence[LesionFrame],
    described: ResultSource,
    *,
    is_multiframe: bool,
) -> None:
    """Put masks in the place of the one frame of each segment, which highdicom makes.

    Without a frame of reference highdicom takes no more than one; they are told apart by their
    order in time or, in an enhanced volume, in space.
    """
    from pydicom import Dataset
    from pydicom.datadict import tag_for_keyword

    groups = list(segmentation.PerFrameFunctionalGroupsSequence)
    lesions = sorted({each.lesion for each in found})
    frames = sorted({each.frame for each in found})
    order = "InStackPositionNumber" if described.is_volume else "TemporalPositionIndex"
    made = []
    for each in found:
        segment = lesions.index(each.lesion)
        group = deepcopy(groups[segment])
        content = group.FrameContentSequence[0]
        if is_multiframe:
            (image,) = group.DerivationImageSequence[0].SourceImageSequence
            image.ReferencedFrameNumber = each.frame + 1
        if len(frames) > 1:
            place = frames.index(each.frame) + 1
            setattr(content, order, place)
            if described.is_volume:
                content.StackID = "1"
            content.DimensionIndexValues = [segment + 1, place]
        if each.comment:
            content.FrameComments = each.comment
        made.append(group)
    if len(frames) > 1:
        dimension = Dataset()
        dimension.DimensionIndexPointer = tag_for_keyword(order)
        dimension.FunctionalGroupPointer = tag_for_keyword("FrameContentSequence")
        dimension.DimensionDescriptionLabel = "Order of the source frames"
        known = segmentation.DimensionIndexSequence
        dimension.DimensionOrganizationUID = known[0].DimensionOrganizationUID
        known.append(dimension)
    segmentation.PerFrameFunctionalGroupsSequence = made
    segmentation.NumberOfFrames = len(made)
    pixels = b"".join(_packed(found))
    segmentation.PixelData = pixels + b"\0" * (len(pixels) % 2)
    segmentation.SegmentsOverlap = "YES" if _do_overlap(found) else "NO"


def _packed(found: Sequence[LesionFrame]) -> Iterator[bytes]:
    """The bits of all masks, the first in the lowest; frames begin where the last one ends, also
    within a byte (PS3.5, 8.1.1)."""
    for start in range(0, len(found), 8):  # eight frames always end with a byte
        bits = np.concatenate([each.mask.ravel() for each in found[start : start + 8]])
        yield np.packbits(bits, bitorder="little").tobytes()


def _do_overlap(found: Sequence[LesionFrame]) -> bool:
    by_frame = sorted(found, key=lambda each: each.frame)
    for _, same in groupby(by_frame, key=lambda each: each.frame):
        masks = [each.mask for each in same]
        if len(masks) > 1 and np.sum(masks, axis=0, dtype=np.uint16).max() > 1:
            return True
    return False


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


def report_of(
    source: DicomFrames,
    found: Sequence[LesionFrame],
    segmentation: "Dataset",
    model: ModelIdentity,
) -> "ComprehensiveSR":
    """Make a structured report by template TID 1500, Measurement Report.

    It has a group of measurements for each lesion in each frame; a lesion keeps its tracking
    identifier. It is neither complete nor verified: a person has to look at it.

    Args:
        source: the image that was segmented.
        found: lesions in frames, as the segmentation has them.
        segmentation: of `segmentation_of`.
        model: what drew the masks.

    Returns:
        highdicom's ComprehensiveSR; `save_as` writes it.

    Raises:
        BadArgumentError: if the segmentation has other frames.
        MissingExtraError: without highdicom.
    """
    require_highdicom()
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    found = _sorted(found)
    if segmentation.NumberOfFrames != len(found):
        raise BadArgumentError(
            f"there are {segmentation.NumberOfFrames} frames and {len(found)} measurements; give "
            "one for each."
        )
    described = describe_source(source)
    sites = [_site(described, each.measurements.location) for each in found]
    lesions = sorted({each.lesion for each in found})
    segments = [segmentation.SegmentSequence[lesions.index(each.lesion)] for each in found]
    groups = [
        hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
            referenced_segment=hd.sr.ReferencedSegmentationFrame(
                segmentation.SOPClassUID,
                segmentation.SOPInstanceUID,
                frame_number=index + 1,
                segment_number=segment.SegmentNumber,
                source_image=hd.sr.SourceImageForSegmentation(
                    described.class_uid,
                    described.reference.SOPInstanceUID,
                    [each.frame + 1] if len(source) > 1 else None,
                ),
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
            finding_sites=None if site is None else [hd.sr.FindingSite(site, laterality=side)],
            measurements=_coded(each.measurements),
            qualitative_evaluations=_evaluations(each.measurements),
        )
        for index, (segment, each, (site, side)) in enumerate(
            zip(segments, found, sites, strict=True)
        )
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
        )
    _refer_to_class(made, described)
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
    values = [
        (Code("103339001", "SCT", "Long Axis"), found.longest.length, length),
        (Code("103340004", "SCT", "Short Axis"), found.perpendicular.length, length),
        (Code("103355008", "SCT", "Width"), found.width, length),
        (Code("121207", "DCM", "Height"), found.height, length),
        (Code("131191004", "SCT", "Perimeter"), found.perimeter, length),
        (Code("42798000", "SCT", "Area"), found.area, area),
    ]
    if found.location is not None:
        mm = codes.UCUM.Millimeter
        for code, value in (
            (codes.DCM.DistanceFromNipple, found.location.nipple_mm),
            (codes.DCM.DistanceFromSkin, found.location.depth_mm),
        ):
            if value is not None:
                values.append((code, value, mm))
    return [
        hd.sr.Measurement(name=name, value=round(value, 4), unit=unit)
        for name, value, unit in values
    ]


def _evaluations(found: LesionMeasurements) -> list["QualitativeEvaluation"]:
    """Orientation (context group 6152) and hour of the clock face (6018)."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    orientations = {"parallel": codes.DCM.Parallel, "not parallel": codes.DCM.NotParallel}
    made = []
    if found.orientation in orientations:
        made.append((codes.DCM.Orientation, orientations[found.orientation]))
    if found.location is not None and found.location.clock is not None:
        hour = getattr(codes.SCT, f"_{found.location.clock}OClockPosition")
        made.append((codes.DCM.ClockfaceOrRegion, hour))
    return [hd.sr.QualitativeEvaluation(name=name, value=value) for name, value in made]


def _site(
    described: ResultSource, location: BreastLocation | None
) -> "tuple[Code | None, Code | None]":
    """The part of the body and its side: as the examiner says, else as the source does."""
    from pydicom.sr.codedict import codes

    if location is None:
        return described.site, described.laterality
    sides: dict[str | None, Code] = {"left": codes.SCT.Left, "right": codes.SCT.Right}
    is_breast = described.site is not None and described.site == codes.SCT.Breast
    stated = described.laterality if is_breast else None
    return codes.SCT.Breast, sides.get(location.side, stated)
