"""The size of pixels from DICOM elements, its source, and why it is not known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset

from samus_edge.runtime import DicomFrames, PixelSpacing, measure_lesion

Make = Callable[..., Path]
MakeRegion = Callable[..., Dataset]
Cine = npt.NDArray[np.uint8]
BOX = (5.0, 5.0, 20.0, 30.0)
ALL = (0, 0, 59, 39)


def found(
    study: DicomFrames, box: tuple[float, float, float, float] = BOX
) -> tuple[Any, list[str]]:
    """Row and column in mm with their source, and the codes of the notes."""
    spacing = study.spacing_in(box)
    numbers = None
    if spacing is not None:
        numbers = (round(spacing.row_mm, 6), round(spacing.column_mm, 6), spacing.source)
    return numbers, [note.code for note in study.spacing_notes(box)]


def test_spacing_is_that_of_the_region_around_the_box(
    make_study: Make, cine: Cine, make_region: MakeRegion
) -> None:
    left = make_region((0, 0, 29, 39), 0.01)
    right = make_region((30, 0, 59, 39), 0.02, PhysicalDeltaY=-0.04)
    spectrum = make_region(ALL, 0.5, RegionSpatialFormat=3)
    study = DicomFrames.open(make_study(cine, regions=[left, right, spectrum]))
    assert found(study) == ((0.1, 0.1, "ultrasound region"), [])
    assert found(study, (35, 5, 50, 30)) == ((0.4, 0.2, "ultrasound region"), [])
    assert found(study, (20, 5, 40, 30)) == (None, ["spacing_unknown"])  # over the border
    assert [each.is_2d for each in study.regions] == [True, True, False]


@pytest.mark.parametrize(
    ("changes", "expected", "codes"),
    [
        ({"PhysicalDeltaX": 0.01005}, 0.1, []),  # rounded
        ({"PhysicalUnitsXDirection": 0}, 0.1, []),  # no size of its own
        ({"RegionDataType": 2, "PhysicalDeltaX": 0.02}, 0.1, ["spacing_contradiction"]),
        ({"RegionFlags": 1, "PhysicalDeltaX": 0.02}, 0.1, ["spacing_contradiction"]),
        ({"PhysicalDeltaX": 0.02}, None, ["spacing_unknown"]),
    ],
)
def test_regions_that_overlap(
    make_study: Make,
    cine: Cine,
    make_region: MakeRegion,
    changes: dict[str, Any],
    expected: float | None,
    codes: list[str],
) -> None:
    inner = make_region((2, 2, 40, 35), 0.01, **changes)
    for regions in ([make_region(ALL, 0.01), inner], [inner, make_region(ALL, 0.01)]):
        spacing, noted = found(DicomFrames.open(make_study(cine, regions=regions)))
        assert noted == codes
        assert (spacing is None) == (expected is None)
        if spacing is not None:
            assert spacing[1] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"PhysicalUnitsXDirection": 4},  # seconds
        {"PhysicalDeltaX": 0.0},
        {"PhysicalDeltaX": float("nan")},
        {"RegionLocationMaxX1": 600},  # outside: the image was scaled after it was made
    ],
)
def test_spacing_that_is_not_certain_is_none(
    make_study: Make, cine: Cine, make_region: MakeRegion, changes: dict[str, Any]
) -> None:
    study = DicomFrames.open(
        make_study(cine, regions=[make_region(ALL, 0.01, **changes)], PixelSpacing=[1, 1])
    )
    assert found(study) == (None, ["spacing_unknown"])


@pytest.mark.parametrize(
    ("elements", "expected", "codes"),
    [
        ({"PixelSpacing": [0.3, 0.2]}, (0.3, 0.2, "PixelSpacing"), []),
        ({"PixelSpacing": [3, 2]}, (3, 2, "PixelSpacing"), ["spacing_implausible"]),
        ({"PixelSpacing": [0.001, 0.1]}, (0.001, 0.1, "PixelSpacing"), ["spacing_implausible"]),
        ({"PixelSpacing": [0, 0.2]}, None, ["spacing_unknown"]),
        (
            {"PixelAspectRatio": [3, 2]},
            (1.5, 1, "PixelAspectRatio"),
            ["spacing_unknown", "pixels_not_square"],
        ),
        ({"PixelAspectRatio": [1, 1]}, None, ["spacing_unknown"]),
        (
            {"PixelAspectRatio": [1, 2], "PixelSpacing": [0.3, 0.2]},
            (0.3, 0.2, "PixelSpacing"),
            ["spacing_contradiction"],
        ),
        (
            {"PixelAspectRatio": [3, 2], "PixelSpacing": [0.3, 0.2]},
            (0.3, 0.2, "PixelSpacing"),
            [],
        ),
        ({}, None, ["spacing_unknown"]),
    ],
)
def test_files_without_regions(
    make_study: Make, cine: Cine, elements: dict[str, Any], expected: Any, codes: list[str]
) -> None:
    assert found(DicomFrames.open(make_study(cine, **elements))) == (expected, codes)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([(0.3, 0.2)] * 3, (0.3, 0.2, "PixelMeasures")), ([(1, 1), (1, 2)], None)],
)
def test_pixel_measures_of_enhanced_volumes(
    make_study: Make, cine: Cine, sizes: list[tuple[float, float]], expected: Any
) -> None:
    groups = []
    for size in sizes:
        measures, group = Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = list(size), 1
        group.PixelMeasuresSequence = [measures]
        groups.append(group)
    shared = DicomFrames.open(make_study(cine, SharedFunctionalGroupsSequence=groups[:1]))
    own = DicomFrames.open(make_study(cine[: len(sizes)], PerFrameFunctionalGroupsSequence=groups))
    assert found(own)[0] == expected
    if expected is not None:
        assert found(shared)[0] == expected


def test_the_region_wins_over_another_pixel_spacing(
    make_study: Make, cine: Cine, make_region: MakeRegion
) -> None:
    path = make_study(cine, regions=[make_region(ALL, 0.01)], PixelSpacing=[0.2, 0.2])
    spacing, codes = found(DicomFrames.open(path))
    assert (spacing[0], codes) == (0.1, ["spacing_contradiction"])


def test_the_shape_of_pixels_alone_corrects_ratios_in_pixels() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[10:30, 20:50] = True  # 20 high, 30 wide
    measured = measure_lesion(mask, PixelSpacing(3.0, 1.0, "PixelAspectRatio", unit="px"))
    assert measured is not None
    assert (measured.unit, measured.height, measured.width) == ("px", 60, 30)
    assert (measured.height_to_width, measured.orientation) == (2, "not parallel")
    assert measured.to_json()["spacing"] == {
        "row": 3.0,
        "column": 1.0,
        "unit": "px",
        "source": "PixelAspectRatio",
    }
