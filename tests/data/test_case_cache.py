"""The cache of decoded cases: the same pixels as from the files, never those of another file."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.data.case_cache import CaseCache
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError, OutputFileError


@pytest.fixture
def cache(tmp_path: Path) -> CaseCache:
    """In a folder that does not exist yet."""
    return CaseCache(tmp_path / "new" / "cache")


def same(cache: CaseCache, case: UltrasoundCase) -> bool:
    image, instances = cache.image(case), cache.instances(case)
    assert image.dtype == np.uint8 and image.flags.writeable  # torch.from_numpy wants both
    assert all(mask.dtype == np.bool_ and mask.flags.writeable for mask in instances)
    expected = read_instances(case)
    return (
        np.array_equal(image, read_image(case))
        and len(instances) == len(expected)
        and all(np.array_equal(*both) for both in zip(instances, expected, strict=True))
    )


def test_what_is_read_is_what_is_decoded(
    cache: CaseCache, fake_busi: Path, fake_us30k: Path, fake_folders: Path
) -> None:
    # sizes whose pixels do not fill whole bytes, several lesions, none, and label maps
    for root in (fake_busi, fake_us30k, fake_folders):
        for case in list_cases(root):
            assert same(cache, case)  # decoded
            assert same(cache, case)  # read


def test_cached_cases_are_not_decoded_again(cache: CaseCache, fake_busi: Path) -> None:
    case = list_cases(fake_busi)[0]
    image = cache.image(case)
    status = case.image_path.stat()
    # damaged, but of the same size and time: only reading it would tell
    case.image_path.write_bytes(b"x" * status.st_size)
    os.utime(case.image_path, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(cache.image(case), image)


def test_a_changed_file_is_decoded_again(cache: CaseCache, fake_busi: Path) -> None:
    case = list_cases(fake_busi)[0]
    cache.image(case)
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[1, 2] = 255
    assert cv2.imwrite(str(case.mask_paths[0]), mask)
    assert same(cache, case)
    assert cache.instances(case)[0].sum() == 1
    assert len(list(cache.folder.iterdir())) == 1  # in place of the old one


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"SEC0" + content[4:],
    ],
)
def test_a_damaged_cache_file_is_made_again(
    cache: CaseCache, fake_busi: Path, damage: Callable[[bytes], bytes]
) -> None:
    case = list_cases(fake_busi)[0]
    cache.image(case)
    path = cache.path(case)
    path.write_bytes(damage(path.read_bytes()))
    assert same(cache, case)


def test_classes_of_one_label_map_are_kept_apart(cache: CaseCache, fake_us30k: Path) -> None:
    one, two = list_cases(fake_us30k, ["Echo:1/e1", "Echo:2/e1"])
    assert cache.path(one) != cache.path(two)
    assert not np.array_equal(cache.instances(one)[0], cache.instances(two)[0])


def test_filling_names_every_broken_case_and_keeps_the_others(
    cache: CaseCache, fake_busi: Path
) -> None:
    cases = list_cases(fake_busi)
    cases[0].image_path.unlink()
    cases[3].mask_paths[0].write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        cache.fill(cases)
    assert cases[0].image_path.name in str(caught.value)
    assert cases[3].mask_paths[0].name in str(caught.value)
    assert len(list(cache.folder.iterdir())) == 4
    seen: list[str] = []
    whole = [case for case in cases if case not in (cases[0], cases[3])]
    assert cache.fill(whole, on_case=lambda case: seen.append(case.key)) == 0
    assert seen == [case.key for case in whole]
    with pytest.raises(DataError, match=r"Case 'benign/benign \(1\)' is broken"):
        cache.image(cases[0])


def test_a_folder_that_cannot_be_made_or_written_is_named(
    cache: CaseCache, fake_busi: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cache folder .*file/cache cannot be created"):
        CaseCache(tmp_path / "file" / "cache")
    cache.folder.rmdir()
    with pytest.raises(OutputFileError, match=r"\.case cannot be written"):
        cache.image(list_cases(fake_busi)[0])
