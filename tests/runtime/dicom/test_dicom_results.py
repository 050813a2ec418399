"""Segmentations and reports, read back by highdicom and pydicom."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom.config
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import EnhancedUSVolumeStorage, UltrasoundMultiFrameImageStorage

from samus_edge.errors import ImageFileError
from samus_edge.runtime.dicom.dicom_frames import DicomFrames
from samus_edge.runtime.dicom.dicom_results import (
    LesionFrame,
    ModelIdentity,
    dicom_bytes,
    report_of,
    segmentation_of,
)
from samus_edge.runtime.dicom.dicom_source import describe_source
from samus_edge.runtime.measurement.lesion_measurements import BreastLocation, measure_lesion

Make = Callable[..., Path]
RETIRED_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3"
MODEL = ModelIdentity("samus-hf-tiny", "ab" * 32, "fp32")


@pytest.fixture
def masks() -> npt.NDArray[np.bool_]:
    """Two, which overlap, (2, 40, 60)."""
    found = np.zeros((2, 40, 60), np.bool_)
    found[0, 5:25, 10:40] = True
    found[1, 20:33, 30:57] = True
    return found


def found_in(
    study: DicomFrames,
    masks: npt.NDArray[np.bool_],
    frame: int = 0,
    location: BreastLocation | None = None,
) -> list[LesionFrame]:
    """Each mask, (N, H, W), as a lesion of its own."""
    spacing = study.spacing_in((0, 0, 9, 9))
    measured = [measure_lesion(mask, spacing, location) for mask in masks]
    return [
        LesionFrame.of(number, frame, mask, size)
        for number, (mask, size) in enumerate(zip(masks, measured, strict=True), 1)
        if size is not None
    ]


@pytest.fixture(params=[1, 3])
def study(request: pytest.FixtureRequest, make_study: Make, cine: Any) -> DicomFrames:
    """Of one and of three frames, 0.1 mm a pixel."""
    return DicomFrames.open(make_study(cine[: request.param], PixelSpacing=[0.1, 0.1]))


def test_a_segmentation_holds_the_masks_and_refers_to_its_frame(
    study: DicomFrames, masks: npt.NDArray[np.bool_]
) -> None:
    frame = len(study) - 1
    content = dicom_bytes(segmentation_of(study, found_in(study, masks, frame), MODEL))
    read = hd.seg.segread(BytesIO(content))
    assert read.segmentation_type == hd.seg.SegmentationTypeValues.BINARY
    np.testing.assert_array_equal(read.pixel_array, masks)
    assert [read.get_segment_description(number).segment_label for number in (1, 2)] == [
        "Lesion 1",
        "Lesion 2",
    ]
    plain = dcmread(BytesIO(content))
    for group in plain.PerFrameFunctionalGroupsSequence:
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPInstanceUID == study.dataset.SOPInstanceUID
        assert image.ReferencedSOPClassUID == study.dataset.SOPClassUID
        if len(study) == 1:
            assert "ReferencedFrameNumber" not in image
        else:
            assert image.ReferencedFrameNumber == frame + 1
    (series,) = plain.ReferencedSeriesSequence
    assert series.ReferencedInstanceSequence[0].ReferencedSOPClassUID == study.dataset.SOPClassUID
    assert plain.StudyInstanceUID == study.dataset.StudyInstanceUID
    assert plain.PatientID == "SECRET-17"  # in the file, as the standard demands
    algorithm = plain.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert f"encoder_sha256={MODEL.encoder_sha256}" in str(algorithm.AlgorithmParameters)


@pytest.mark.parametrize("hw", [(40, 60), (37, 53)], ids=["bytes", "bits"])
@pytest.mark.parametrize(
    "kind", [UltrasoundMultiFrameImageStorage, EnhancedUSVolumeStorage, RETIRED_MULTI_FRAME]
)
def test_lesions_in_several_frames(
    make_study: Make, hw: tuple[int, int], kind: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (12, *hw), np.uint8)
    study = DicomFrames.open(make_study(pixels, SOPClassUID=kind, StudyID="1"))
    # Lesion 2 is not seen in frame 4; frames in between have no lesion.
    places = [(3, 1), (1, 7), (1, 1), (3, 7), (1, 4)]
    masks = {place: rng.random(hw) > 0.6 for place in places}
    found = [
        replace(found_in(study, mask[None], frame)[0], lesion=lesion)
        for (lesion, frame), mask in masks.items()
    ]
    found[1] = replace(found[1], comment="uncertain: it has grown")
    segmentation = segmentation_of(study, found, MODEL)
    report = report_of(study, found, segmentation, MODEL)
    files = tmp_path / "seg.dcm", tmp_path / "sr.dcm"
    for path, made in zip(files, (segmentation, report), strict=True):
        path.write_bytes(dicom_bytes(made))

    read = hd.seg.segread(files[0])
    by_frame = read.get_pixels_by_source_frame(study.dataset.SOPInstanceUID, [2, 5, 8])
    for number, lesion in ((0, 1), (1, 3)):
        for index, frame in enumerate((1, 4, 7)):
            expected = masks.get((lesion, frame), np.zeros(hw, np.bool_))
            np.testing.assert_array_equal(by_frame[index, ..., number], expected)

    # A second reader: the bits of all frames, one after the other, the lowest first.
    plain = dcmread(files[0])
    bits = np.unpackbits(np.frombuffer(plain.PixelData, np.uint8), bitorder="little")
    frames = bits[: 5 * hw[0] * hw[1]].reshape(5, *hw)
    groups = plain.PerFrameFunctionalGroupsSequence
    assert plain.SegmentsOverlap == "YES"
    stored = []
    for group, pixels in zip(groups, frames, strict=True):
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        frame = image.ReferencedFrameNumber - 1
        assert group.FrameContentSequence[0].DimensionIndexValues == [
            number,
            (1, 4, 7).index(frame) + 1,
        ]
        stored.append(((1, 3)[number - 1], frame))
        np.testing.assert_array_equal(pixels, masks[stored[-1]])
    assert stored == sorted(places)
    assert groups[2].FrameContentSequence[0].FrameComments == "uncertain: it has grown"
    if hw == (40, 60):  # GDCM reads the last pixel wrongly if bits are left over
        sitk = pytest.importorskip("SimpleITK")
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(files[0])))
        np.testing.assert_array_equal(array > 0, [masks[place] for place in stored])

    # The report: a group for each lesion in each frame, by whose identifier a lesion is followed.
    content = hd.sr.srread(files[1]).content
    measured = content.get_planar_roi_measurement_groups()  # type: ignore[attr-defined]
    uids = [segment.TrackingUID for segment in plain.SegmentSequence]
    for index, (group, (lesion, frame)) in enumerate(zip(measured, stored, strict=True)):
        assert group.tracking_uid == uids[(1, 3).index(lesion)]
        references = {
            item.ConceptNameCodeSequence[0].CodeValue: item.ReferencedSOPSequence[0]
            for item in group[0].ContentSequence
            if item.ValueType == "IMAGE"
        }
        assert references["121214"].ReferencedFrameNumber == index + 1
        assert references["121214"].ReferencedSOPInstanceUID == plain.SOPInstanceUID
        assert references["121233"].ReferencedFrameNumber == frame + 1
        assert references["121233"].ReferencedSOPInstanceUID == study.dataset.SOPInstanceUID
        assert references["121233"].ReferencedSOPClassUID == kind
    for path in files:
        # It does not know the retired class, whose frames have numbers all the same.
        said = [line for line in dciodvfy(path) if "ReferencedFrameNumber" not in line]
        assert said == [] if kind == RETIRED_MULTI_FRAME else dciodvfy(path) == []


def dciodvfy(path: Path) -> list[str]:
    """What it says against a file."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy, of the package dicom3tools, is not there")
    run = subprocess.run([tool, "-new", str(path)], check=False, capture_output=True, text=True)
    lines = (run.stdout + run.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning"))]


def coded(value: str, meaning: str) -> Dataset:
    """An item of a sequence of codes."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


# Part of the body and side as SNOMED CT has them (PS3.16, CID 4 and 244).
@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"BodyPartExamined": "BREAST", "Laterality": "L"}, ("76752008", "7771000")),
        ({"BodyPartExamined": "THYROID", "ImageLaterality": "U"}, ("69748006", None)),
        (
            {"AnatomicRegionSequence": [coded("76752008", "Secret")], "ImageLaterality": "R"},
            ("76752008", "24028007"),
        ),
        ({"BodyPartExamined": "SECRET", "Laterality": "L"}, (None, None)),
        ({"AnatomicRegionSequence": [coded("1234", "Secret")]}, (None, None)),
        ({"Laterality": "L"}, (None, None)),
    ],
)
def test_the_finding_site_is_that_of_the_source(
    make_study: Make,
    cine: Any,
    masks: Any,
    elements: dict[str, Any],
    expected: tuple[str | None, str | None],
    tmp_path: Path,
) -> None:
    study = DicomFrames.open(make_study(cine, StudyID="1", **elements))
    found = found_in(study, masks)
    segmentation = segmentation_of(study, found, MODEL)
    report = report_of(study, found, segmentation, MODEL)
    content = hd.sr.srread(BytesIO(dicom_bytes(report))).content
    groups = content.get_planar_roi_measurement_groups()  # type: ignore[attr-defined]
    for group, segment in zip(groups, segmentation.SegmentSequence, strict=True):
        sites, regions = group.finding_sites, segment.get("AnatomicRegionSequence") or []
        assert len(sites) == len(regions) == (expected[0] is not None)
        for site, region in zip(sites, regions, strict=True):
            sides = [site.laterality, *region.get("AnatomicRegionModifierSequence", [None])]
            assert [site.value.value, region.CodeValue] == [expected[0]] * 2
            assert [side and side.CodeValue for side in sides] == [expected[1]] * 2
    for made in (segmentation, report):
        assert "Secret" not in str(made).replace("Secret^Patient", "")
        (tmp_path / "made.dcm").write_bytes(dicom_bytes(made))
        assert dciodvfy(tmp_path / "made.dcm") == []


def test_the_source_is_left_as_it_was(study: DicomFrames, masks: npt.NDArray[np.bool_]) -> None:
    before = study.read(0)
    segmentation_of(study, found_in(study, masks), MODEL)
    np.testing.assert_array_equal(study.read(0), before)
    assert "NumberOfFrames" in study.dataset


def test_a_source_without_patient_elements(make_study: Make, cine: Any, masks: Any) -> None:
    path = make_study(cine)
    dataset = dcmread(path)
    for keyword in ("PatientName", "PatientBirthDate", "StudyTime", "ReferringPhysicianName"):
        delattr(dataset, keyword)
    dataset.save_as(path)
    study = DicomFrames.open(path)
    made = segmentation_of(study, found_in(study, masks), MODEL)
    assert made.PatientBirthDate == ""


REPAIRED = ["source_repaired"]


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "expected", "codes"),
    [
        ("PatientBirthDate", "DA", "19700231", "", REPAIRED),
        ("PatientBirthDate", "DA", "01/02/1970", "", REPAIRED),
        ("PatientBirthDate", "DA", "1970.02.01", "19700201", REPAIRED),  # ACR-NEMA's form
        ("StudyTime", "TM", "12:00:00", "120000", REPAIRED),
        ("StudyTime", "TM", "120000.5", "120000.5", []),
        ("StudyTime", "TM", "noon", "", REPAIRED),
        ("PatientSex", "CS", "Female", "F", REPAIRED),
        ("PatientSex", "CS", "2", "", REPAIRED),
        ("AccessionNumber", "SH", "SECRET-ACCESSION-NUMBER", "", REPAIRED),
        ("PatientID", "LO", "P" * 70, "P" * 70, []),
        ("PatientName", "PN", "Mono", "Mono", []),
        ("PatientName", "PN", "A^B^C^D^E^F", "", REPAIRED),
        ("PatientName", "PN", "Müller^Jörg", "Müller^Jörg", []),
        ("FrameOfReferenceUID", "UI", "1.2.3", None, []),  # without a position
        ("FrameOfReferenceUID", "UI", "SECRET", None, []),
        ("ImageLaterality", "CS", "secret!", None, []),
        ("BodyPartExamined", "CS", "secret!", None, []),
        ("PatientComments", "LT", "has told that …", None, []),
        ("OtherPatientNames", "PN", "Other^Name", None, []),
        ("StudyDescription", "LO", "free text", None, []),
    ],
)
def test_sources_that_do_not_conform(
    make_study: Make,
    masks: Any,
    keyword: str,
    vr: str,
    value: str,
    expected: str | None,
    codes: list[str],
    cine: Any,
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = make_study(cine)
    dataset = dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    with pydicom.config.disable_value_validation():
        dataset.add_new(keyword, vr, value)
        dataset.save_as(path)
    study = DicomFrames.open(path)
    recwarn.clear()
    segmentation = segmentation_of(study, found_in(study, masks), MODEL)
    report = report_of(study, found_in(study, masks), segmentation, MODEL)
    notes = describe_source(study).notes
    assert [note.code for note in notes] == codes
    for made in (segmentation, report):
        read = dcmread(BytesIO(dicom_bytes(made)))
        assert (str(read[keyword].value) if keyword in read else None) == expected
        assert read.PatientID == (expected if keyword == "PatientID" else "SECRET-17")
    said = [str(each.message) for each in recwarn.list] + caplog.messages
    said += [note.text for note in notes]
    assert not any(value in text for text in said)


def test_names_in_several_scripts_are_kept(make_study: Make, cine: Any, masks: Any) -> None:
    path = make_study(cine)
    dataset = dcmread(path)
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    dataset.save_as(path)
    study = DicomFrames.open(path)
    made = segmentation_of(study, found_in(study, masks), MODEL)
    read = dcmread(BytesIO(dicom_bytes(made)))
    assert read.PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert read.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("keyword", "is_refused"),
    [
        ("SOPInstanceUID", False),  # the file meta information has it too
        ("SOPClassUID", False),
        ("StudyInstanceUID", True),
        ("SeriesInstanceUID", True),
    ],
)
def test_an_identifier_that_is_missing(
    make_study: Make, cine: Any, masks: Any, keyword: str, is_refused: bool
) -> None:
    path = make_study(cine)
    dataset = dcmread(path)
    kept = dataset[keyword].value
    delattr(dataset, keyword)
    dataset.save_as(path, enforce_file_format=False)
    study = DicomFrames.open(path)
    if is_refused:
        with pytest.raises(ImageFileError, match=f"no valid {keyword}"):
            segmentation_of(study, found_in(study, masks), MODEL)
        return
    read = dcmread(BytesIO(dicom_bytes(segmentation_of(study, found_in(study, masks), MODEL))))
    (image,) = (
        read.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    )
    assert kept in (image.ReferencedSOPInstanceUID, image.ReferencedSOPClassUID)
    assert [note.code for note in describe_source(study).notes] == REPAIRED


def in_a_frame_of_reference(dataset: Dataset) -> None:
    dataset.FrameOfReferenceUID = "1.2.3.4"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [1, 2, 3], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.3, 0.2], 2


def test_a_slice_keeps_its_frame_of_reference(make_study: Make, cine: Any, masks: Any) -> None:
    path = make_study(cine[:1])
    dataset = dcmread(path)
    in_a_frame_of_reference(dataset)
    dataset.save_as(path)
    study = DicomFrames.open(path)
    made = segmentation_of(study, found_in(study, masks), MODEL)
    read = hd.seg.segread(BytesIO(dicom_bytes(made)))
    assert read.FrameOfReferenceUID == "1.2.3.4"
    (measures,) = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert (measures.PixelSpacing, measures.SliceThickness) == ([0.3, 0.2], 2)
    group = read.PerFrameFunctionalGroupsSequence[0]
    assert group.PlanePositionSequence[0].ImagePositionPatient == [1, 2, 3]
    np.testing.assert_array_equal(read.pixel_array, masks)


@pytest.mark.parametrize("kind", ["one frame", "three frames", "slice", "damaged"])
def test_dciodvfy_finds_nothing(
    make_study: Make, cine: Any, masks: Any, kind: str, tmp_path: Path
) -> None:
    path = make_study(cine if kind == "three frames" else cine[:1])
    dataset = dcmread(path)
    dataset.StudyID = "1"
    if kind == "slice":
        in_a_frame_of_reference(dataset)
    elif kind == "damaged":
        with pydicom.config.disable_value_validation():
            dataset.PatientBirthDate, dataset.PatientSex = "1/2/70", "woman"
            dataset.AccessionNumber = "A" * 30
    dataset.save_as(path)
    study = DicomFrames.open(path)
    segmentation = segmentation_of(study, found_in(study, masks), MODEL)
    report = report_of(study, found_in(study, masks), segmentation, MODEL)
    for made in (segmentation, report):
        (tmp_path / "made.dcm").write_bytes(dicom_bytes(made))
        assert dciodvfy(tmp_path / "made.dcm") == []


def test_results_of_a_real_cine(tmp_path: Path) -> None:
    study = DicomFrames.open(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    mask = np.zeros((1, *study.original_hw), np.bool_)
    mask[0, 60:150, 90:200] = True
    found = [each for frame in (0, 14, 29) for each in found_in(study, mask, frame)]
    segmentation = segmentation_of(study, found, MODEL)
    report = report_of(study, found, segmentation, MODEL)
    read = hd.seg.segread(BytesIO(dicom_bytes(segmentation)))
    stored = read.get_pixels_by_source_frame(study.dataset.SOPInstanceUID, [1, 15, 30])
    np.testing.assert_array_equal(stored[..., 0], np.repeat(mask, 3, axis=0))
    for made in (segmentation, report):
        (tmp_path / "made.dcm").write_bytes(dicom_bytes(made))
        said = dciodvfy(tmp_path / "made.dcm")  # against the source's own name, without "^"
        assert [line for line in said if not line.endswith("Retired Person Name form")] == []


@pytest.mark.parametrize(
    ("frame", "change", "message"),
    [
        (5, lambda masks: masks, "does not fit"),
        (0, lambda masks: masks[:, :30], "does not fit"),
        (0, lambda masks: masks[:0], "no mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    study: DicomFrames, masks: Any, frame: int, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        segmentation_of(study, found_in(study, change(masks), frame), MODEL)


def test_a_report_holds_the_measurements_of_each_segment(
    study: DicomFrames, masks: npt.NDArray[np.bool_]
) -> None:
    found = found_in(study, masks, len(study) - 1)
    segmentation = segmentation_of(study, found, MODEL)
    measured = [each.measurements for each in found]
    content = dicom_bytes(report_of(study, found, segmentation, MODEL))
    read = hd.sr.srread(BytesIO(content))
    groups = read.content.get_planar_roi_measurement_groups()  # type: ignore[attr-defined]
    assert len(groups) == 2
    for index, (group, expected) in enumerate(zip(groups, measured, strict=True)):
        values = {
            item.name.meaning: (float(item.value), item.unit.value)
            for item in group.get_measurements()
        }
        assert values["Long Axis"][0] == pytest.approx(expected.longest.length, abs=1e-4)
        assert values["Area"][0] == pytest.approx(expected.area, abs=1e-4)
        assert (values["Long Axis"][1], values["Area"][1]) == ("mm", "mm2")
        assert values["Width"][0] == pytest.approx(expected.width)
        (orientation,) = group.get_qualitative_evaluations()
        assert orientation.name.value == "111354"
        assert orientation.value.meaning.lower() == expected.orientation
        assert group.finding_sites == []
        assert group.tracking_uid == segmentation.SegmentSequence[index].TrackingUID
        segment = group.reference_type
        assert segment.meaning == "Referenced Segmentation Frame"
    assert (read.CompletionFlag, read.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    referred = {
        item.ReferencedSOPInstanceUID
        for study_item in read.CurrentRequestedProcedureEvidenceSequence
        for series in study_item.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert referred == {study.dataset.SOPInstanceUID, segmentation.SOPInstanceUID}


@pytest.mark.parametrize(
    "location",
    [
        BreastLocation("right", 10, 35.5, 12),
        BreastLocation("left"),
        BreastLocation(clock=3, nipple_mm=0),
    ],
    ids=str,
)
def test_where_the_lesion_is(
    make_study: Make, cine: Any, masks: Any, location: BreastLocation, tmp_path: Path
) -> None:
    stated = {"BodyPartExamined": "BREAST", "Laterality": "L"}
    study = DicomFrames.open(make_study(cine, StudyID="1", **stated))
    found = found_in(study, masks[:1], 0, location)
    segmentation = segmentation_of(study, found, MODEL)
    report = report_of(study, found, segmentation, MODEL)
    files = tmp_path / "seg.dcm", tmp_path / "sr.dcm"
    for path, made in zip(files, (segmentation, report), strict=True):
        path.write_bytes(dicom_bytes(made))

    # Codes of PS3.16: SNOMED's breast, left and right; context groups 244, 6018 and 6165.
    side = {"left": "7771000", "right": "24028007"}[location.side or "left"]
    hour = {10: "129781005", 3: "129774003", None: None}[location.clock]
    (region,) = hd.seg.segread(files[0]).SegmentSequence[0].AnatomicRegionSequence
    modifiers = [each.CodeValue for each in region.get("AnatomicRegionModifierSequence", ())]
    assert (region.CodeValue, modifiers) == ("76752008", [side])
    content = hd.sr.srread(files[1]).content
    (group,) = content.get_planar_roi_measurement_groups()  # type: ignore[attr-defined]
    (site,) = group.finding_sites
    assert (site.value.value, site.laterality.value) == ("76752008", side)
    said = {each.name.value: each.value.value for each in group.get_qualitative_evaluations()}
    assert said.get("111014") == hour
    sizes = {each.name.value: (each.value, each.unit.value) for each in group.get_measurements()}
    for code, value in (("121242", location.nipple_mm), ("121243", location.depth_mm)):
        assert sizes.get(code) == (None if value is None else (value, "mm"))
    for path in files:
        assert dciodvfy(path) == []


def test_pixels_are_said_to_be_pixels(study: DicomFrames, masks: npt.NDArray[np.bool_]) -> None:
    size = measure_lesion(masks[0])
    assert size is not None
    found = [LesionFrame.of(1, 0, masks[0], size)]
    segmentation = segmentation_of(study, found, MODEL)
    assert "{pixels}" in str(report_of(study, found, segmentation, MODEL))
    with pytest.raises(ValueError, match="1 frames and 2 measurements"):
        report_of(study, found * 2, segmentation, MODEL)


def test_infer_writes_both_and_says_nothing_of_the_patient(
    make_study: Make,
    asset_frames: list[Any],
    make_region: Callable[..., Dataset],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from samus_edge.cli.app import main

    frame = asset_frames[0]
    height, width = frame.image.shape
    path = make_study(
        np.stack([np.zeros_like(frame.image), frame.image]),
        regions=[make_region((0, 0, width - 1, height - 1), 0.008)],
    )
    box = ",".join(f"{value:g}" for value in frame.box)
    seg, sr, overlay = (tmp_path / name for name in ("seg.dcm", "sr.dcm", "overlay.png"))
    arguments = [
        "infer",
        "--image",
        str(path),
        "--frame",
        "1",
        "--box",
        box,
        "--callipers",
        "--json",
    ]
    arguments += ["--side", "left", "--clock", "11", "--from-nipple", "20", "--depth", "8.5"]
    arguments += ["--dicom-seg", str(seg), "--dicom-sr", str(sr), "--overlay", str(overlay)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "secret" not in (printed.out + printed.err).lower()
    import json

    document = json.loads(printed.out)
    assert document["image"]["frame"] == 1
    (mask,) = document["masks"]
    assert mask["measurements"]["unit"] == "mm"
    measured = mask["measurements"]
    assert measured["location"] == {
        "side": "left",
        "clock": 11,
        "nipple_mm": 20,
        "depth_mm": 8.5,
    }
    area = measured["area"] + measured["other_area"]
    assert area == pytest.approx(mask["area_px"] * 0.08**2, abs=1e-3)
    read = hd.seg.segread(seg)
    assert int(read.pixel_array.sum()) == mask["area_px"]
    assert isinstance(hd.sr.srread(sr), hd.sr.ComprehensiveSR)
    # Both frames: the first is blank, but a mask is a mask.
    assert main([*arguments[:3], "--frame", "0", *arguments[3:-2]]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["frame"] for each in document["masks"]] == [0, 1]
    assert document["masks"][1] == mask
    uid = dcmread(path).SOPInstanceUID
    stored = hd.seg.segread(seg).get_pixels_by_source_frame(uid, [1, 2])[..., 0]
    assert [int(each.sum()) for each in stored] == [each["area_px"] for each in document["masks"]]
    for bad in (["--frame", "2"], ["--frame", "1", "--dicom-seg", str(tmp_path / "x.png")]):
        assert main(["infer", "--image", str(path), "--box", box, *bad]) in (1, 2)
        assert "secret" not in capsys.readouterr().err.lower()
