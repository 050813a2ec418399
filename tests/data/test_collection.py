"""Several datasets: rules that split them, names, and leaks that are refused."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samus_edge.data.case import read_instances
from samus_edge.data.collection import DatasetConfig, joined, load_collection
from samus_edge.data.splitting import SUBSETS
from samus_edge.errors import BadArgumentError, DataError

NAMES = [f"{patient}-{frame}" for patient in range(1, 7) for frame in (1, 2)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two datasets of six patients with two frames each, whose pictures are all different."""
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        for number, stem in enumerate(NAMES):
            mask = np.zeros((64, 80), np.uint8)
            cv2.circle(mask, (20 + 2 * number, 30), 12, 255, -1)
            coarse = rng.integers(0, 256, (8, 10)).astype(np.uint8)
            picture = cv2.resize(coarse, (80, 64), interpolation=cv2.INTER_CUBIC)
            for folder, image in (("images", picture), ("masks", mask)):
                path = tmp_path / name / folder / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), image)
    return tmp_path


def keys(root: Path, splits: Path | None = None, **rule: Any) -> dict[str, list[str]]:
    subsets = load_collection(root, [DatasetConfig("left", **rule)], splits)["left"]
    return {name: [case.key for case in subsets.get(name)] for name in SUBSETS}


def test_patients_stay_together(root: Path) -> None:
    split = keys(root, patient=r"^\d+", fractions=(0.5, 0.25, 0.25))
    patients = [{key.split("-")[0] for key in of_subset} for of_subset in split.values()]
    assert all(patients) and sorted(key for of in split.values() for key in of) == NAMES
    assert len(set.union(*patients)) == sum(map(len, patients)) == 6


def test_expressions_choose_subsets_and_take_the_rest_of_a_patient_along(root: Path) -> None:
    split = keys(root, patient=r"^\d+", test="^5-1", val="^4", skip="^6", fractions=(1.0, 0.0, 0.0))
    assert split == {"train": NAMES[:6], "val": ["4-1", "4-2"], "test": ["5-1", "5-2"]}


def test_a_split_is_kept_and_not_made_again_by_another_rule(root: Path, tmp_path: Path) -> None:
    splits = tmp_path / "run" / "splits"
    split = keys(root, splits, test="^5", fractions=(0.8, 0.2, 0.0))
    assert split == keys(root, test="^5", fractions=(0.8, 0.2, 0.0))
    (root / "left" / "images" / "6-2.png").rename(root / "left" / "images" / "9-9.png")
    with pytest.raises(DataError, match="6-2"):  # it is the file that is read
        keys(root, splits, test="^5", fractions=(0.8, 0.2, 0.0))
    with pytest.raises(DataError, match=r"left\.json was not made by the rule"):
        keys(root, splits, test="^4", fractions=(0.8, 0.2, 0.0))


def test_cases_know_their_dataset_and_what_a_lesion_is(root: Path) -> None:
    datasets = [
        DatasetConfig("left", fractions=(1, 0, 0)),
        DatasetConfig("right", name="other", lesions="together", fractions=(0, 0, 1)),
    ]
    shutil.copy(root / "right" / "masks" / "1-1.png", root / "right" / "masks" / "6-2_1.png")
    found = load_collection(root, datasets)
    assert {case.dataset for case in joined(list(found.values())).train} == {"left"}
    case = found["other"].test[-1]
    assert (case.dataset, case.key, len(case.mask_paths)) == ("other", "6-2", 2)
    (instance,) = read_instances(case)
    alone = [read_instances(dataclasses.replace(case, mask_paths=(p,))) for p in case.mask_paths]
    np.testing.assert_array_equal(instance, alone[0][0] | alone[1][0])


def test_an_image_trained_on_in_one_dataset_may_not_judge_another(root: Path) -> None:
    datasets = [
        DatasetConfig("left", fractions=(1, 0, 0)),
        DatasetConfig("left", name="again", fractions=(0, 0, 1)),
    ]
    with pytest.raises(DataError, match=r"1-1\.png is in train of left and in test of again"):
        load_collection(root, datasets)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ([{}, {}], "several datasets are called left"),
        ([{"test": "("}], r"'\(' is no regular expression"),
        ([{"test": "^x"}], "finds nothing in any key"),
        ([{"split": "a.json", "test": "^5"}], "leaves nothing to test"),
        ([{"fractions": (0.5, 0.5)}], "three numbers"),
        ([{"fractions": (0.5, 0.1, 0.1)}], "add up to 1"),
        ([{"lesions": "some"}], "lesions"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    root: Path, datasets: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(BadArgumentError, match=message):
        load_collection(root, [DatasetConfig("left", **each) for each in datasets])
