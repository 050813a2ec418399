"""Masks into a format of another tool, and from there into a training set."""

import json
import shutil
from pathlib import Path

import cv2
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from samus_edge.cli.app import app
from samus_edge.data.case import read_image, read_instances
from samus_edge.data.dataset import list_cases
from samus_edge.data.dataset_check import check_dataset
from samus_edge.data.import_dataset import import_dataset
from samus_edge.errors import BadArgumentError, DataError, SamusEdgeError
from samus_edge.jobs.record import mask_record
from samus_edge.jobs.result_formats import ImageResult, open_results

Mask = npt.NDArray[np.bool_]
HW = (48, 64)


def disc(x: float, y: float, radius: float) -> Mask:
    rows, columns = np.mgrid[: HW[0], : HW[1]]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


RING = disc(20, 20, 12) & ~disc(22, 18, 4)
LESIONS: dict[str, list[Mask]] = {
    "a": [RING, disc(30, 24, 10)],  # which overlap
    "a_1": [disc(50, 10, 5) | disc(50, 30, 7)],  # named like a lesion of `a`
    "benign/b": [disc(12, 12, 9)],
    "empty": [],
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "data/images"
    for grey, name in enumerate(LESIONS, 60):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full(HW, grey, np.uint8))
    return folder


def write(kind: str, images: Path) -> Path:
    """The lesions in a format, as `samus-edge infer` would write them."""
    path = images.parent / ("annotations.json" if "coco" in kind else f"annotations.{kind}")
    with open_results(kind, path) as writer:
        for name, masks in LESIONS.items():
            if masks or kind in ("coco", "yolo", "labelme"):
                # Two files of one name would be refused.
                first = f"{name}_mask" if kind in ("png", "nifti") else name
                writer.add(
                    ImageResult(
                        name=first,
                        image=images / f"{name}.png",
                        masks=np.array(masks, np.bool_).reshape(-1, *HW),
                        records=[mask_record(mask, 0.9, None).to_json() for mask in masks],
                        labels=["cyst"] * len(masks),
                    )
                )
    return path


@pytest.mark.parametrize(
    "kind", ["coco", "coco-polygons", "yolo", "labelme", "nifti", "npz", "png"]
)
def test_masks_come_back_to_the_pixel(images: Path, tmp_path: Path, kind: str) -> None:
    source = write(kind, images)
    out = tmp_path / "set"
    arguments = ["data", "import", str(source), "--images", str(images), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--normal"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "4 images with 4 lesions" in result.output
    cases = {case.key: case for case in list_cases(out)}
    assert set(cases) == {"a", "a_1", "benign/b", "normal/empty"}
    for name, masks in LESIONS.items():
        case = cases[name if masks else f"normal/{name}"]
        assert (read_image(case) == 60 + list(LESIONS).index(name)).all()
        assert len(read_instances(case)) == len(masks)
        for found, mask in zip(read_instances(case), masks, strict=True):
            assert np.array_equal(found, mask)
    assert not check_dataset(out).problems
    assert json.loads((out / "import.json").read_text())["images"] == 4
    with pytest.raises(SamusEdgeError, match="exists"):
        import_dataset(source, out, images=images)
    assert import_dataset(source, out, images=images, overwrite=True).left_out == 1


def test_a_stack_in_the_layout_of_nnu_net_becomes_frames(tmp_path: Path) -> None:
    frames = np.stack([np.full(HW, grey, np.float32) for grey in (0, 1000, 2000)])
    labels = np.stack([RING * 1, disc(40, 30, 8) * 1, np.zeros(HW, int)]).astype(np.uint8)
    for folder, name, values in (("imagesTr", "c_0000", frames), ("labelsTr", "c", labels)):
        (tmp_path / folder).mkdir()
        image = nibabel.Nifti1Image(values.T, np.eye(4))
        nibabel.save(image, tmp_path / folder / f"{name}.nii.gz")
    report = import_dataset(tmp_path / "labelsTr", tmp_path / "out", images=tmp_path / "imagesTr")
    assert (report.images, report.left_out) == (2, 1)
    cases = list_cases(tmp_path / "out")
    assert [case.key for case in cases] == ["c_0000_frame_000000", "c_0000_frame_000001"]
    for case, grey, mask in zip(cases, (0, 128), labels[:2], strict=True):
        assert (read_image(case) == grey).all()
        (found,) = read_instances(case)
        assert np.array_equal(found, mask)


def test_all_that_is_wrong_is_named_and_nothing_is_made(images: Path, tmp_path: Path) -> None:
    (images / "benign/b.png").unlink()
    for folder in ("x", "y"):
        (images / folder).mkdir()
        shutil.copy(images / "a_1.png", images / folder)
    source = write("coco", images)
    document = json.loads(source.read_text())
    document["annotations"][0].update(segmentation=None)
    source.write_text(json.dumps(document))
    with pytest.raises(
        DataError, match=r"a_1\.png could be for .* or .*no image for .*b\.png.*a\.png has a box"
    ) as raised:
        import_dataset(source, tmp_path / "out", images=images)
    assert "--prompts" in str(raised.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadArgumentError, match="--images"):
        import_dataset(write("png", images), tmp_path / "out")
