"""What results repeat of the image that they are made from: identifiers, and nothing else.

Patient and study have to be copied from the source, so that a result is filed with it. Real
sources hold dates, sexes and names that the standard does not allow; what has one meaning is
written as the standard wants it, the rest is left empty. Free text, such as comments on the
patient, is not copied.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from samus_edge.errors import ImageFileError
from samus_edge.runtime.dicom.dicom_frames import DicomFrames, text_of
from samus_edge.runtime.dicom.pixel_pipeline import numbers_of
from samus_edge.runtime.notes import Note

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.sr.coding import Code


@dataclass(frozen=True, eq=False)
class ResultSource:
    """A source as its results refer to it.

    Attributes:
        identity: elements of patient and study that results repeat.
        reference: image without pixels, by whose identifiers highdicom refers to it.
        class_uid: SOP class of the source itself.
        is_volume: whether its frames are planes of a volume.
        site: the part of the body, where the source says one that the standard has a code for.
        laterality: its side, where the source says it.
        notes: what was written differently, or left empty.
    """

    identity: "Dataset"
    reference: "Dataset"
    class_uid: str
    is_volume: bool
    site: "Code | None"
    laterality: "Code | None"
    notes: tuple[Note, ...]


def _date(text: str) -> str | None:
    digits = re.sub(r"^(\d{4})[.-](\d\d)[.-](\d\d)$", r"\1\2\3", text)  # ACR-NEMA's and ISO's
    try:
        return datetime.strptime(digits, "%Y%m%d").strftime("%Y%m%d")
    except ValueError:
        return None


def _time(text: str) -> str | None:
    digits = re.sub(r"^(\d\d):(\d\d)(?::(\d\d))?", r"\1\2\3", text)  # ACR-NEMA's and ISO's
    is_time = re.fullmatch(
        r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", digits
    )  # a leap second is left out
    return digits if is_time else None


def _sex(text: str) -> str | None:
    return {"F": "F", "M": "M", "O": "O", "FEMALE": "F", "MALE": "M", "OTHER": "O"}.get(
        text.upper()
    )


def _text(max_characters: int) -> Callable[[str], str | None]:
    def checked(text: str) -> str | None:
        is_text = len(text) <= max_characters and "\\" not in text and text.isprintable()
        return text if is_text else None

    return checked


def _name(text: str) -> str | None:
    groups = text.split("=")
    is_name = len(groups) <= 3 and all(
        len(group) <= 64 and group.count("^") <= 4 and "\\" not in group and group.isprintable()
        for group in groups
    )
    return text if is_name else None


_IDENTITY: dict[str, Callable[[str], str | None]] = {
    "PatientName": _name,
    "PatientID": _text(1024),  # a longer one than the standard allows still files the result
    "IssuerOfPatientID": _text(64),
    "PatientBirthDate": _date,
    "PatientSex": _sex,
    "StudyDate": _date,
    "StudyTime": _time,
    "AccessionNumber": _text(16),
    "StudyID": _text(16),
    "ReferringPhysicianName": _name,
}
_OPTIONAL = ("IssuerOfPatientID",)
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
# What a segmentation in a frame of reference has to state; ultrasound mostly has none of it.
_FRAME_OF_REFERENCE = {
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "PixelSpacing": 2,
    "SliceThickness": 1,
}


def describe_source(source: DicomFrames) -> ResultSource:
    """What a result repeats of its source.

    Args:
        source: the image that was segmented.

    Raises:
        ImageFileError: if an identifier is missing without which a result cannot refer to it.
    """
    from pydicom import Dataset
    from pydicom.uid import EnhancedUSVolumeStorage, UltrasoundImageStorage

    dataset = source.dataset
    identity, reference = Dataset(), Dataset()
    notes: list[Note] = []
    for keyword, conform in _IDENTITY.items():
        stated = text_of(dataset, keyword)
        if keyword in _OPTIONAL and not stated:
            continue
        kept = conform(stated)
        if kept != stated:
            what = "left empty" if not kept else "written as the standard wants it"
            notes.append(_repaired(f"{keyword} is not as the standard wants it, and was {what}"))
        setattr(identity, keyword, kept or "")
        setattr(reference, keyword, "")  # highdicom checks and quotes it; it is filled in later
    if not all(str(element.value).isascii() for element in identity):
        identity.SpecificCharacterSet = "ISO_IR 192"
    identifiers = {
        keyword: _identifier(source, keyword, notes)
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    }
    for keyword, uid in identifiers.items():
        setattr(reference, keyword, uid)
    # highdicom refers to frames of enhanced images only, in a frame of reference.
    reference.SOPClassUID = UltrasoundImageStorage
    reference.Rows, reference.Columns = source.original_hw
    modality = text_of(dataset, "Modality")
    reference.Modality = modality if re.fullmatch("[A-Z0-9_ ]{1,16}", modality) else "OT"
    frame_of_reference = text_of(dataset, "FrameOfReferenceUID")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values of the source
        values = {keyword: numbers_of(dataset.get(keyword)) for keyword in _FRAME_OF_REFERENCE}
    if (
        len(source) == 1
        and _UID.fullmatch(frame_of_reference)
        and all(len(values[name]) == count for name, count in _FRAME_OF_REFERENCE.items())
    ):
        reference.FrameOfReferenceUID = frame_of_reference
        for keyword, numbers in values.items():
            setattr(reference, keyword, numbers if len(numbers) > 1 else numbers[0])
    class_uid = identifiers["SOPClassUID"]
    return ResultSource(
        identity,
        reference,
        class_uid,
        class_uid == EnhancedUSVolumeStorage,
        *_site(dataset),
        tuple(notes),
    )


def _site(dataset: "Dataset") -> "tuple[Code | None, Code | None]":
    """The part of the body and its side, by code or by the standard's words; no other text."""
    from pydicom.sr.codedict import codes

    known = {code.value: code for code in codes.cid4.concepts.values()}
    regions = dataset.get("AnatomicRegionSequence") or ()
    words = text_of(dataset, "BodyPartExamined").title().replace(" ", "")
    site = next(
        (found for each in regions if (found := known.get(text_of(each, "CodeValue")))),
        codes.cid4.concepts.get(words),
    )
    sides = {"R": codes.cid244.Right, "L": codes.cid244.Left, "B": codes.SCT.RightAndLeft}
    stated = text_of(dataset, "ImageLaterality") or text_of(dataset, "Laterality")
    return site, sides.get(stated) if site is not None else None


def _identifier(source: DicomFrames, keyword: str, notes: list[Note]) -> str:
    """A UID, which the file meta information has as well in the case of the instance's own."""
    stated = text_of(source.dataset, keyword)
    if not stated and keyword.startswith("SOP"):
        meta = getattr(source.dataset, "file_meta", None)
        stated = "" if meta is None else text_of(meta, f"MediaStorage{keyword}")
        if stated:
            notes.append(
                _repaired(f"{keyword} is missing; that of the file meta information counts")
            )
    if not _UID.fullmatch(stated) or len(stated) > 64:
        raise ImageFileError(
            f"{source.path} has no valid {keyword}, by which a DICOM segmentation or report refers "
            "to its image. Export the study again, or write a PNG mask."
        )
    return stated


def _repaired(what: str) -> Note:
    return Note("source_repaired", "warning", f"{what}.")
