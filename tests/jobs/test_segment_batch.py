"""Many images: each has the result that it has alone, whatever happens to the others."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from samus_edge.cli.app import main
from samus_edge.errors import BadArgumentError, ImageFileError
from samus_edge.jobs.batch_input import ImagePrompts, find_images, make_batch, read_prompts
from samus_edge.jobs.segment_file import FileSegmentation, segment_file
from tests.studies import write_study

BOX = (100.0, 50.0, 300.0, 250.0)
Infer = Callable[..., tuple[int, str]]


@pytest.fixture
def infer(disc_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Infer:
    """Runs `samus-edge infer`, and gives its exit code and what it said on stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        words = ["infer", "--bundle", disc_bundle, "--threads", 1, *arguments]
        exit_code = main([str(word) for word in words])
        return exit_code, capsys.readouterr().err

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images with one stem in two folders, spaces and letters of other languages."""
    rng = np.random.default_rng(0)
    for name in ("a/x.png", "b/x.png", "b/x.bmp", "großes Bild (1).png", "b/深/ü.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.full((320, 400), rng.integers(20, 230), np.uint8)
        _, content = cv2.imencode(path.suffix, grey)
        path.write_bytes(bytes(content))
    return tmp_path / "images"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The documents of a file with one on each line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tree_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_each_image_has_the_result_that_it_has_alone(
    infer: Infer, images: Path, disc_bundle: Path, tmp_path: Path
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    (images / "unprompted.png").write_bytes((images / "a" / "x.png").read_bytes())
    prompts = {
        "a/x.png": [10, 20, 110, 120],
        "b/x.png": [[100, 50, 300, 250], [20, 20, 60, 70]],
        "b/x.bmp": {"boxes": [[-5, 50, 300, 250]], "points": [[150, 150, 1]], "labels": ["cyst"]},
        "großes Bild (1).png": {"points": [[50, 60, 1]]},
        "深/ü": [0, 0, 399, 319],
        "broken.png": [1, 2, 3, 4],
        "nowhere.png": [1, 2, 3, 4],
    }
    file = images.parent / "prompts.json"
    file.write_text(json.dumps(prompts), encoding="utf-8")
    out = tmp_path / "out"
    formats = ("mask", "overlay", "coco", "dicom-seg")  # the last one of DICOM images alone
    what = [word for name in formats for word in ("--format", name)]
    exit_code, said = infer(
        "--image", images, "--prompts", file, "--out-dir", out, *what, "--jobs", 3
    )
    assert exit_code == 1
    assert "warning: no image for 1 prompts" in said and "nowhere.png" in said
    assert "2 of 7 images failed" in said
    errors = lines_of(out / "errors.jsonl")
    assert [Path(line["image"]).name for line in errors] == ["broken.png", "unprompted.png"]
    assert [line["error"] for line in errors] == ["ImageFileError", "BadArgumentError"]

    results = lines_of(out / "results.jsonl")
    mask_utils = pytest.importorskip("pycocotools.mask")
    coco = pytest.importorskip("pycocotools.coco").COCO(str(out / "coco.json"))
    areas = [int(mask["area_px"]) for line in results for mask in line["masks"]]
    assert [coco.anns[number]["area"] for number in sorted(coco.anns)] == areas
    names = [line["name"] for line in results]
    assert names == ["a/x", "b/x.bmp", "b/x.png", "b/深/ü", "großes Bild (1)"]
    for line in results:
        path = Path(line["image"]["path"])
        by_image = read_prompts(file).by_image
        (given,) = [read(path) for name, read in by_image.items() if name in str(path)]
        mask_file, overlay_file = tmp_path / "mask.png", tmp_path / "overlay.png"
        alone = segment_file(
            FileSegmentation(
                image=path,
                boxes=given.boxes,
                points=given.points,
                bundle=disc_bundle,
                threads=1,
                mask_file=mask_file,
                overlay_file=overlay_file,
            )
        ).to_json()
        masks = [mask_utils.decode(mask.pop("rle")) for mask in line["masks"]]
        assert [mask.pop("label", None) for mask in line["masks"]] == (
            ["cyst"] if path.suffix == ".bmp" else [None] * len(masks)
        )
        assert line["masks"] == alone["masks"]
        assert (line["image"], line["notes"]) == (alone["image"], alone["notes"])
        assert (out / "masks" / f"{line['name']}.png").read_bytes() == mask_file.read_bytes()
        assert (out / "overlays" / f"{line['name']}.png").read_bytes() == overlay_file.read_bytes()
        labels = cv2.imread(str(mask_file), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        assert np.array_equal(np.any(masks, axis=0), labels > 0)


def wait_for_lines(process: "subprocess.Popen[bytes]", file: Path, count: int) -> None:
    """Wait until a running batch has so many results."""
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_a_stopped_batch_goes_on_to_the_same_files(
    infer: Infer, disc_bundle: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.full((480, 640), 90, np.uint8))
    for number in range(1, 60):
        os.link(folder / "0.png", folder / f"{number}.png")
    prompted = ("--image", str(folder), "--box", "100,50,300,250", "--format", "overlay")
    # Jobs in the background of a shell ignore Ctrl-C, and so would their children.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from samus_edge.cli.app import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "infer", "--bundle", str(disc_bundle)]
    command += [*prompted, "--threads", "1", "--out-dir", str(out)]
    for kill, exit_code, lines in ((signal.SIGINT, 130, 3), (signal.SIGKILL, -9, 12)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for_lines(process, out / "results.jsonl", lines)
        process.send_signal(kill)
        _, said = process.communicate()
        assert process.returncode == exit_code, said
        assert exit_code != 130 or b"The same command goes on" in said
    before = (out / "results.jsonl").read_bytes()
    assert 12 <= before.count(b"\n") < 60
    (out / "results.jsonl").write_bytes(before + before[:100])  # as if killed while it wrote
    assert infer(*prompted, "--out-dir", out)[0] == 0
    assert infer(*prompted, "--out-dir", tmp_path / "whole", "--jobs", 4)[0] == 0
    assert tree_of(out) == tree_of(tmp_path / "whole")


def test_a_cine_of_which_no_frame_is_named_says_which_was_taken(
    infer: Infer, disc_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    cine = tmp_path / "cine.dcm"
    write_study(cine, [np.full((320, 400), grey, np.uint8) for grey in (60, 90, 120)])
    job = FileSegmentation(image=cine, boxes=[BOX], bundle=disc_bundle, threads=1)
    alone = segment_file(job).to_json()["notes"]
    assert "Frame 0 of 3" in next(note["text"] for note in alone if note["code"] == "first_frame")
    prompted = ("--image", cine, "--box", "100,50,300,250")
    words = ["infer", "--bundle", disc_bundle, *prompted, "--out-dir", tmp_path / "first"]
    assert main([str(word) for word in words]) == 0
    assert "first_frame 1" in capsys.readouterr().out
    assert infer(*prompted, "--out-dir", tmp_path / "named", "--frame", 1)[0] == 0
    (first,), (named,) = (
        lines_of(tmp_path / name / "results.jsonl") for name in ("first", "named")
    )
    assert first["notes"] == alone
    assert "first_frame" not in {note["code"] for note in named["notes"]}


def test_a_damaged_folder_says_where_and_how_it_is_mended(
    infer: Infer, images: Path, tmp_path: Path
) -> None:
    out, common = tmp_path / "out", ("--image", images, "--box", "100,50,300,250")
    assert infer(*common, "--out-dir", out)[0] == 0
    before = tree_of(out)
    whole = before["results.jsonl"].splitlines(keepends=True)
    for damaged in (b'{"image": \n', b"\xff\x00\n", b"[1]\n", b'{"image": null}\n'):
        (out / "results.jsonl").write_bytes(b"".join([*whole[:2], damaged, *whole[3:]]))
        exit_code, said = infer(*common, "--out-dir", out)
        assert exit_code == 1 and f"{out / 'results.jsonl'}, line 3, is damaged" in said
        assert "this is a bug" not in said
    (out / "results.jsonl").write_bytes(b"".join([*whole[:2], *whole[3:]]))  # as it says
    assert infer(*common, "--out-dir", out)[0] == 0
    assert tree_of(out) == before
    (out / "job.json").write_bytes(b"{")
    exit_code, said = infer(*common, "--out-dir", out)
    assert exit_code == 1 and f"{out / 'job.json'} is damaged" in said


def test_masks_of_frames_leave_nothing_after_kill(
    infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    first, second = (Image.fromarray(rng.integers(0, 256, (320, 400), np.uint8)) for _ in "ab")
    first.save(tmp_path / "pages.tif", save_all=True, append_images=[second])
    frames = ("--image", tmp_path / "pages.tif", "--frame", 0, "--frame", 1)
    common = (*frames, "--box", "100,50,300,250", "--out-dir", tmp_path / "out")

    class Killed(BaseException):
        """Ends all at once."""

    replace = os.replace

    def kill(source: Path, target: Path) -> None:
        if Path(target).suffix == ".npz":
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", kill)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        infer(*common)
    assert list((tmp_path / "out").rglob("*.tmp"))
    assert infer(*common)[0] == 0
    assert sorted(tree_of(tmp_path / "out")) == ["job.json", "masks/pages.npz", "results.jsonl"]


def test_parts_are_the_whole(infer: Infer, images: Path, tmp_path: Path) -> None:
    common = ("--image", images / "**" / "*.*", "--box", "100,50,300,250")
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for part in (3, 1, 2):
        assert infer(*common, "--out-dir", parts, "--shard", f"{part}/3")[0] == 0
    counts = [len(lines_of(parts / f"results.{part}-of-3.jsonl")) for part in (1, 2, 3)]
    assert counts == [2, 2, 1]
    masks = {path: path.stat().st_mtime_ns for path in parts.rglob("*.png")}
    assert infer(*common, "--out-dir", parts)[0] == 0
    assert masks == {path: path.stat().st_mtime_ns for path in parts.rglob("*.png")}
    assert infer(*common, "--out-dir", whole)[0] == 0
    together = tree_of(parts)
    for part in (1, 2, 3):
        del together[f"results.{part}-of-3.jsonl"]
    assert together == tree_of(whole)


def test_nothing_is_overwritten_and_a_full_disk_ends_the_batch(
    infer: Infer, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, common = tmp_path / "out", ("--image", images, "--box", "100,50,300,250")
    with monkeypatch.context() as patch:

        def fail(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", fail)
        assert infer(*common, "--out-dir", out)[0] == 1
    assert infer(*common, "--out-dir", out)[0] == 0
    before = tree_of(out)
    exit_code, said = infer(*common, "--out-dir", out, "--spacing", "0.1")
    assert (exit_code, "other settings (spacing" in said) == (1, True)
    exit_code, said = infer("--image", images, "--box", "9,9,90,90", "--out-dir", out)
    assert (exit_code, "5 of 5 images failed" in said) == (1, True)
    shutil.copy(images / "a" / "x.png", images / "b" / "x.png")
    exit_code, said = infer(*common, "--out-dir", out)
    assert (exit_code, "x.png has changed" in said) == (1, True)
    (out / "errors.jsonl").unlink()
    assert tree_of(out) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert infer(*common, "--out-dir", other)[0] == 1
    assert tree_of(other) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "p.csv",
            "\ufeffImage,x1,y1,x2,y2,label\na.png,1,2,3,4,cyst\na.png,5,6,7,8.5,\n",
            ImagePrompts(((1, 2, 3, 4), (5, 6, 7, 8.5)), (), ("cyst", "")),
        ),
        (
            "p.csv",
            "x,y,positive,image\n1,2,,a.png\n3,4,0,a.png\n",
            ImagePrompts((), ((1, 2, 1), (3, 4, 0))),
        ),
        ("p.json", '{"a.png": [1, 2, 3, 4]}', ImagePrompts(((1, 2, 3, 4),))),
        ("p.json", '{"a.png": [[1, 2, 3, 4]]}', ImagePrompts(((1, 2, 3, 4),))),
        ("p.csv", "file,box\na.png,1\n", "has the columns file, box, expected image"),
        ("p.csv", "image,x1,y1,x2,y2\na.png,1,2,3\nb.png,1,2,3,q\n", "line 3: b.png,1,2,3,q"),
        ("p.json", '{"a.png": [1, 2, 3]}', "expected boxes of 4 numbers"),
        ("p.json", '{"a.png": 7}', "has 7 for a.png, expected a box"),
        ("p.json", "[", "are no JSON"),
    ],
)
def test_prompts_are_read_or_refused(
    tmp_path: Path, name: str, content: str, expected: ImagePrompts | str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    if isinstance(expected, ImagePrompts):
        assert {name: read(Path(name)) for name, read in read_prompts(path).by_image.items()} == {
            "a.png": expected
        }
    else:
        with pytest.raises(BadArgumentError) as caught:
            read_prompts(path)
        assert expected in str(caught.value)


def test_prompts_that_fit_two_images_are_refused(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text('{"x.png": [1, 2, 30, 40]}', encoding="utf-8")
    with pytest.raises(BadArgumentError, match=r"x\.png for .*a/x\.png, .*b/x\.png"):
        make_batch(find_images([str(images)]), read_prompts(file))
    file.write_text('{"a/x.png": [1, 2, 30, 40], "c/x": [1, 2, 3, 4]}', encoding="utf-8")
    items, left = make_batch(find_images([str(images)]), read_prompts(file))
    assert [item.name for item in items if item.read_prompts is not None] == ["a/x"]
    assert left == ["c/x"]


def test_annotations_of_other_tools_are_prompts(images: Path, tmp_path: Path) -> None:
    """A lesion of columns 30 to 49 and rows 60 to 99 of one image, in each format."""
    mask = np.zeros((320, 400), np.uint8)
    mask[60:100, 30:50] = 255
    for name in ("masks/a/x.png", "masks/深/ü_mask.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(cv2.imencode(".png", mask)[1]))
    (tmp_path / "yolo" / "labels" / "a").mkdir(parents=True)
    text = f"0 {40 / 400} {80 / 320} {20 / 400} {40 / 320}\n"
    (tmp_path / "yolo" / "labels" / "a" / "x.txt").write_text(text)
    shape = {"label": "cyst", "points": [[30, 60], [50, 100]], "shape_type": "rectangle"}
    labelme = {"shapes": [shape], "imagePath": "x.png", "imageHeight": 320, "imageWidth": 400}
    (tmp_path / "labelme" / "a").mkdir(parents=True)
    (tmp_path / "labelme" / "a" / "x.json").write_text(json.dumps(labelme))
    coco = {
        "images": [{"id": 7, "file_name": "a/x.png", "width": 400, "height": 320}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [30, 60, 20, 40]}],
        "categories": [{"id": 3, "name": "cyst"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    expected = {"masks": ["a/x", "b/深/ü"]}
    for form in ("masks", "yolo", "labelme", "coco.json"):
        prompts = read_prompts(tmp_path / form, refine=form == "masks")
        items, left = make_batch(find_images([str(images)]), prompts)
        assert left == []
        prompted = [item for item in items if item.read_prompts is not None]
        assert [item.name for item in prompted] == expected.get(form, ["a/x"])
        for item in prompted:
            assert item.read_prompts is not None
            given = item.read_prompts(item.image)
            assert given.boxes == ((29.5, 59.5, 49.5, 99.5),)
            assert given.labels == {"masks": (), "yolo": ("0",)}.get(form, ("cyst",))
            assert [(each > 0).tolist() for each in given.masks] == (
                [(mask > 0).tolist()] if form == "masks" else []
            )


def test_images_are_found_by_folder_pattern_and_list(images: Path, tmp_path: Path) -> None:
    every = find_images([str(images)])
    assert len(every) == 5
    listed = tmp_path / "list.txt"
    listed.write_text("\r\n".join(str(path) for path in every), encoding="utf-8")
    assert find_images([], listed) == every
    assert find_images([str(images / "**" / "*.png"), str(images)]) != every
    assert sorted(find_images([str(images / "**" / "*.png"), str(images)])) == sorted(every)
    assert find_images([str(images)], but=images / "b") == [
        path for path in every if "b" not in path.relative_to(images).parts
    ]
    for nothing in (images / "*.tif", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ImageFileError):
            find_images([str(nothing)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "{0}/a/x.png", "--image", "{0}/b/x.png"), "there are 2 images"),
        (("--image", "{0}", "--out-dir", "{1}", "--shard", "3/2"), "'3/2' is not i/n"),
        (("--image", "{0}", "--out-dir", "{1}", "--format", "png8"), "no format png8"),
        (("--image", "{0}", "--out-dir", "{1}", "--format", "dicom-sr"), "give --format dicom-seg"),
        (("--image", "{0}", "--out-dir", "{1}", "--out", "m.png"), "files of one image"),
        (("--image", "{0}", "--format", "mask"), "give --out-dir"),
        (("--box", "1,2,3,4"), "Missing option '--image'"),
        (("--image", "{0}", "--prompts", "p.csv", "--point", "1,2"), "not both"),
    ],
)
def test_wrong_arguments_are_said_before_anything_is_written(
    infer: Infer, images: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    words = [word.format(images, tmp_path / "out") for word in arguments]
    exit_code, said = infer(*words)
    assert (exit_code, message in said, said.count("\n")) == (2, True, 1)
    assert not (tmp_path / "out").exists()
