"""The page in a real browser."""

import csv
import importlib.resources
import json
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from samus_edge.benchmarking.synthetic_cine import CineMotion, synthetic_cine
from samus_edge.jobs.track_cine import OverlayVideo
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.check_frame import load_check_frames
from tests import discs

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def address(serve: Callable[..., Any]) -> Iterator[str]:
    """Of a service in a process of its own."""
    with serve() as (found, _):
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """An installed Chromium, without a window."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian and Ubuntu: apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    """The page, with every error in its console an error of the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    # The browser itself notes requests that were answered with 404 and 415, which tests mean.
    opened.on(
        "console",
        lambda line: (
            problems.append(line.text)
            if line.type == "error" and not re.search("status of (404|415)|ERR_FAILED", line.text)
            else None
        ),
    )
    foreign: list[str] = []
    opened.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "blob:", "data:"))
            else foreign.append(request.url)
        ),
    )
    opened.goto(address)
    opened.evaluate("document.getElementById('preview').checked = false")  # has its own test
    yield opened
    context.close()
    assert foreign == []  # it works offline
    assert problems == []


def wait_until(page: Page, expression: str) -> None:
    """Until some JavaScript is true. Playwright's own way needs eval, which the page forbids."""
    end = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


def wait_for_mask(page: Page) -> None:
    """Until measurements are shown."""
    page.wait_for_selector("#sizes dt")


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the frame is on the screen."""
    found = page.evaluate(
        """([x, y]) => {
        const canvas = document.getElementById("canvas"), bounds = canvas.getBoundingClientRect();
        const [width, height] =
        document.getElementById("status").dataset.size.split("x").map(Number); const scale =
        Math.min(bounds.width / width, bounds.height / height); return [bounds.left + (bounds.width
        - width * scale) / 2 + (x + .5) * scale,
                bounds.top + (bounds.height - height * scale) / 2 + (y + .5) * scale];
    }""",
        [x, y],
    )
    return found[0], found[1]


def choose_example(page: Page, index: int = 1) -> str:
    """Open the first example."""
    wait_until(page, "document.getElementById('example').options.length > 1")
    name: str = page.evaluate(f"document.getElementById('example').options[{index}].value")
    page.select_option("#example", name)
    wait_until(page, f"document.getElementById('source').textContent === '{name}'")
    wait_for_mask(page)
    return name


def area(page: Page) -> float:
    """As the page shows it, for the prompt that is drawn."""
    wait_until(page, "!document.getElementById('phase').textContent")
    texts = page.locator("#sizes dd").all_inner_texts()
    names = page.locator("#sizes dt").all_inner_texts()
    return float(dict(zip(names, texts, strict=True))["Area"].split()[0])


def test_an_example_is_segmented_and_measured(page: Page, screenshots: Path) -> None:
    name = choose_example(page)
    frame = next(each for each in load_check_frames() if each.name == name)
    with Segmenter.load() as segmenter:
        mask = segmenter.segment(frame.image, boxes=frame.box[None]).masks[0, 0]
    from samus_edge.runtime.measurement.lesion_measurements import measure_lesion

    expected = measure_lesion(mask)
    assert expected is not None
    assert area(page) == round(expected.area)
    assert "predicted IoU" in page.inner_text("#status")
    page.screenshot(path=screenshots / "example.png")
    page.fill("#pixel", "0.1")
    page.dispatch_event("#pixel", "change")
    wait_until(page, "document.querySelector('#sizes').textContent.includes('mm')")
    page.click("#place summary")
    page.select_option("[data-place=side]", "left")
    page.fill("[data-place=clock]", "11")
    page.dispatch_event("[data-place=clock]", "change")
    wait_until(page, "document.querySelector('#sizes').textContent.includes('Breastleft')")
    wait_until(page, "document.querySelector('#sizes').textContent.includes('Hour11')")
    page.screenshot(path=screenshots / "place.png")
    page.click("#clear")  # the next lesion is somewhere else
    assert page.input_value("[data-place=side]") == page.input_value("[data-place=clock]") == ""


def test_boxes_are_dragged_and_clicks_correct_them(page: Page, screenshots: Path) -> None:
    choose_example(page, 2)
    page.keyboard.press("Escape")
    page.wait_for_selector("#sizes dt", state="detached")
    assert "IoU" not in page.inner_text("#status")
    frame = load_check_frames()[1]
    x1, y1, x2, y2 = (float(value) for value in frame.box)
    page.mouse.move(*at(page, x1, y1))
    page.mouse.down()
    page.mouse.move(*at(page, (x1 + x2) / 2, (y1 + y2) / 2), steps=3)
    page.mouse.move(*at(page, x2, y2), steps=3)
    page.mouse.up()
    wait_for_mask(page)
    first = area(page)
    page.keyboard.press("r")
    page.mouse.click(*at(page, x1 + (x2 - x1) * 0.2, (y1 + y2) / 2))
    wait_until(page, f"!document.querySelector('#sizes').textContent.includes('Area{first:.0f} ')")
    assert area(page) < first
    page.screenshot(path=screenshots / "corrected.png")
    page.keyboard.press("z")
    wait_until(page, f"document.querySelector('#sizes').textContent.includes('Area{first:.0f} ')")
    page.keyboard.press("Shift+A")
    page.click("#clear")
    assert page.is_disabled("#clear")


def test_files_are_saved(page: Page, tmp_path: Path) -> None:
    stem = choose_example(page).removesuffix(".png")
    for name in ("mask.png", "overlay.png", "result.json"):
        with page.expect_download(timeout=WAIT_MS) as download:
            page.click(f"#save [data-file='{name}']")
        path = tmp_path / name
        download.value.save_as(path)
        assert download.value.suggested_filename == f"{stem}_{name}"
        if name.endswith(".png"):
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            document = json.loads(path.read_text())
            assert document["trace"]["graphs"]["image_encoder"]
            assert document["masks"][0]["area_px"] > 0
    assert page.is_hidden("#save [data-file='segmentation.dcm']")


def test_a_cine_is_followed_and_played(page: Page, tmp_path: Path, screenshots: Path) -> None:
    frame = load_check_frames()[1]
    with Segmenter.load() as segmenter:
        mask = segmenter.segment(frame.image, boxes=frame.box[None]).masks[0, 0]
    motion = CineMotion(frames=12, period=24, hidden=(8, 99), fade=1)
    path = tmp_path / "cine.mp4"
    with OverlayVideo(path, 10) as video:
        for each in synthetic_cine(frame.image, mask, motion):
            video.write(np.repeat(each.image[..., None], 3, axis=2))
    page.set_input_files("#file", path)
    wait_until(page, "document.getElementById('frame-text').textContent === '1 / 12'")
    x1, y1, x2, y2 = (float(value) for value in frame.box)
    page.mouse.move(*at(page, x1, y1))
    page.mouse.down()
    page.mouse.move(*at(page, x2, y2), steps=4)
    page.mouse.up()
    wait_for_mask(page)
    page.click("#track")
    wait_until(page, "document.getElementById('status').textContent.startsWith('Followed')")
    assert "tracking" in page.inner_text("#status")
    assert "lost" in page.inner_text("#status")
    page.screenshot(path=screenshots / "cine.png")
    page.focus("#canvas")
    page.keyboard.press(".")
    wait_until(page, "document.getElementById('frame-text').textContent === '2 / 12'")
    assert page.locator("#sizes dt").count() > 3
    page.fill("#frame", "10")
    page.wait_for_selector("#state:not([hidden])")
    assert "lost" in page.inner_text("#state")
    page.click("#play")
    wait_until(page, "document.getElementById('play').textContent === 'Pause'")
    wait_until(page, "document.getElementById('frame-text').textContent === '3 / 12'")
    page.click("#play")


def test_a_study_gives_a_dicom_segmentation(page: Page, tmp_path: Path) -> None:
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    page.set_input_files("#file", str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    wait_until(page, "document.getElementById('frame-text').textContent === '1 / 30'")
    page.mouse.move(*at(page, 120, 60))
    page.mouse.down()
    page.mouse.move(*at(page, 220, 150), steps=4)
    page.mouse.up()
    wait_for_mask(page)
    saved = []
    for name in ("segmentation.dcm", "report.dcm"):
        with page.expect_download(timeout=WAIT_MS) as download:
            page.click(f"#save [data-file='{name}']")
        download.value.save_as(tmp_path / name)
        saved.append(dcmread(tmp_path / name))
    assert [each.Modality for each in saved] == ["SEG", "SR"]
    # The report is of the segmentation that was saved.
    assert saved[0].SOPInstanceUID in str(saved[1].ContentSequence)


def test_a_mask_by_the_keyboard_alone(page: Page) -> None:
    choose_example(page)
    page.focus("#canvas")
    page.keyboard.press("Escape")
    page.wait_for_selector("#sizes dt", state="detached")
    page.keyboard.press("a")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    wait_for_mask(page)


def test_a_bad_file_is_said(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no image")
    page.set_input_files("#file", path)
    page.wait_for_selector("#status.error", timeout=WAIT_MS)
    assert "is not a PNG" in page.inner_text("#status")


def test_everything_can_be_named_and_reached(page: Page, screenshots: Path) -> None:
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas")].filter((element) =>
        !(element.textContent.trim() || element.getAttribute("aria-label") ||
        element.labels?.length))
        .map((element) => element.outerHTML)"""
    )
    assert unnamed == []
    assert page.evaluate("document.documentElement.lang") == "en"
    choose_example(page)
    page.keyboard.press("l")
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    source = importlib.resources.files(axe) / "axe.min.js"
    page.evaluate(source.read_text(encoding="utf-8"))
    for name, size in (("desktop", (1440, 900)), ("tablet", (820, 1180)), ("phone", (375, 667))):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = page.evaluate("axe.run()")
        assert [each["id"] for each in found["violations"]] == []
        page.screenshot(path=screenshots / f"{name}.png")
    assert page.evaluate(  # on a phone it is seen without scrolling
        "document.getElementById('status').getBoundingClientRect().bottom <= innerHeight"
    )


def hold(page: Page, part: str) -> list[Any]:
    """Requests whose address has this part wait for `release`."""
    held: list[Any] = []
    page.route(f"**/*{part}*", lambda route: held.append(route))  # by its own name
    return held


def release(page: Page, held: list[Any], number: int = 0) -> None:
    """Let the first one that waits go on."""
    end = time.monotonic() + WAIT_MS / 1000
    while len(held) <= number:
        assert time.monotonic() < end
        page.wait_for_timeout(20)
    held.pop(number).continue_()


def click_on(page: Page, x: float, y: float) -> None:
    page.keyboard.press("a")
    page.mouse.click(*at(page, x, y))


def test_a_late_answer_does_not_paint_the_next_study(page: Page) -> None:
    choose_example(page)
    held = hold(page, "/masks")
    click_on(page, 100, 100)
    page.wait_for_timeout(100)
    assert len(held) == 1
    page.once("dialog", lambda dialog: dialog.accept())  # what is drawn is not saved
    page.select_option("#example", index=3)
    name = load_check_frames()[2].name
    wait_until(page, f"document.getElementById('source').textContent === '{name}'")
    size = page.evaluate("document.getElementById('status').dataset.size")
    release(page, held)  # the answer for the first study
    release(page, held)  # and that for the box of the second
    page.unroute("**/*/masks*")
    wait_for_mask(page)
    frame = load_check_frames()[2]
    assert size == f"{frame.image.shape[1]}x{frame.image.shape[0]}"
    with Segmenter.load() as segmenter:
        mask = segmenter.segment(frame.image, boxes=frame.box[None]).masks[0, 0]
    assert area(page) == pytest.approx(mask.sum(), rel=0.01)


def test_only_the_answer_to_what_is_drawn_is_shown_and_saved(page: Page) -> None:
    choose_example(page)
    first = area(page)
    held = hold(page, "/masks")
    for x in (80, 100, 120):
        click_on(page, x, 110)
    wait_until(page, "document.getElementById('phase').textContent === 'Working…'")
    assert page.locator("#sizes").inner_text().startswith("of an older prompt")
    assert page.is_disabled("#save [data-file='result.json']")
    release(page, held)
    release(page, held)  # one question for all that was drawn in the meantime
    wait_until(page, "!document.getElementById('phase').textContent")
    assert held == []
    page.unroute("**/*/masks*")
    with page.expect_download(timeout=WAIT_MS) as download:
        page.click("#save [data-file='result.json']")
    document = json.loads(download.value.path().read_text())
    (lesion,) = document["request"]["lesions"]
    assert [point["x"] for point in lesion["points"]] == pytest.approx([80, 100, 120], abs=1)
    assert document["masks"][0]["area_px"] == area(page)
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert area(page) == first
    page.keyboard.press("Control+Shift+Z")
    wait_until(page, "!document.getElementById('redo').disabled")


def test_what_fails_is_said_and_tried_again(page: Page) -> None:
    choose_example(page)
    page.route("**/*/masks*", lambda route: route.fulfill(status=415, json={"detail": "no luck"}))
    click_on(page, 100, 100)
    wait_until(page, "document.getElementById('phase').textContent === 'Failed'")
    assert "no luck" in page.inner_text("#status")
    assert page.is_disabled("#save [data-file='mask.png']")
    page.unroute("**/*/masks*")
    page.click("#retry")
    assert area(page) > 0


def test_a_pixel_size_belongs_to_one_study(page: Page) -> None:
    choose_example(page)
    page.fill("#pixel", "0.5")
    page.dispatch_event("#pixel", "change")
    wait_until(page, "document.querySelector('#sizes').textContent.includes('mm')")
    assert "0.5 \u00d7 0.5 mm" in page.inner_text("#sizes")
    page.once("dialog", lambda dialog: dialog.accept())
    choose_example(page, 2)
    assert page.input_value("#pixel") == ""
    wait_until(page, "document.querySelector('#sizes').textContent.includes('size not known')")


def test_an_image_that_was_forgotten_is_sent_again(page: Page, address: str) -> None:
    with page.expect_response(lambda response: response.status == 201) as sent:
        choose_example(page)
    page.evaluate(f"fetch('/v1/images/{sent.value.json()['id']}', {{method: 'DELETE'}})")
    before = area(page)
    click_on(page, 10, 10)
    assert area(page) != before


def test_a_follow_can_be_stopped_and_saved(page: Page, tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    study = str(get_testdata_file("examples_ybr_color.dcm", download=False))
    page.set_input_files("#file", study)
    wait_until(page, "document.getElementById('frame-text').textContent === '1 / 30'")
    page.mouse.move(*at(page, 120, 60))
    page.mouse.down()
    page.mouse.move(*at(page, 220, 150), steps=4)
    page.mouse.up()
    wait_for_mask(page)
    page.click("#track")
    wait_until(page, "document.getElementById('frame-text').textContent === '4 / 30'")
    page.click("#track")
    wait_until(page, "document.getElementById('status').textContent.startsWith('Stopped')")
    for name in ("frames.csv", "masks.npz", "overlay.mp4", "result.json", "segmentation.dcm"):
        with page.expect_download(timeout=WAIT_MS) as download:
            page.click(f"#followed [data-file='{name}']")
        assert download.value.suggested_filename == f"examples_ybr_color_track_{name}"
        download.value.save_as(tmp_path / name)
    count = len((tmp_path / "frames.csv").read_text().splitlines()) - 1
    assert 4 <= count < 30
    with np.load(tmp_path / "masks.npz") as arrays:
        assert arrays["masks"].shape[0] == count
    assert len(json.loads((tmp_path / "result.json").read_text())["frames"]) == count
    # Prompts belong to their frame: the first still has its box.
    page.fill("#frame", "0")
    wait_until(page, "!document.getElementById('clear').disabled")


def test_zoom_moves_nothing_and_a_box_is_moved_by_its_edge(page: Page) -> None:
    choose_example(page, 2)
    x1, y1, x2, y2 = (float(value) for value in load_check_frames()[1].box)
    before = area(page)
    page.mouse.click(5, page.viewport_size["height"] / 2, button="middle")  # type: ignore[index]
    page.mouse.click(*at(page, x1, y1), button="middle")
    assert area(page) == before
    edge = at(page, x1, (y1 + y2) / 2)
    page.mouse.move(*edge)
    page.mouse.down()
    page.mouse.move(edge[0] + 20, edge[1], steps=4)
    page.mouse.up()
    with page.expect_download(timeout=WAIT_MS) as download:
        wait_until(page, "!document.getElementById('phase').textContent")
        page.click("#save [data-file='result.json']")
    box = json.loads(download.value.path().read_text())["request"]["lesions"][0]["box"]
    assert box[0] > x1 + 2 and box[2] - box[0] == pytest.approx(x2 - x1, abs=0.2)
    page.mouse.move(*at(page, x2, y2))
    page.mouse.wheel(0, -600)
    shown = area(page)
    page.keyboard.press("f")
    assert area(page) == shown


def drag(page: Page, x1: float, y1: float, x2: float, y2: float) -> None:
    """With the mouse, in pixels of the frame."""
    page.mouse.move(*at(page, x1, y1))
    page.mouse.down()
    page.mouse.move(*at(page, x2, y2), steps=4)
    page.mouse.up()


def saved(page: Page, name: str) -> bytes:
    with page.expect_download(timeout=WAIT_MS) as download:
        page.click(f"#save [data-file='{name}']")
    return download.value.path().read_bytes()


def test_several_lesions_are_named_and_saved_together(page: Page, screenshots: Path) -> None:
    choose_example(page, 2)
    first = area(page)
    page.keyboard.press("l")
    drag(page, 20, 30, 100, 90)
    second = area(page)
    assert second != first
    page.click("#place summary")
    page.fill("#name", "cyst, left")
    page.keyboard.press("Tab")
    page.screenshot(path=screenshots / "lesions.png")
    wait_until(page, "document.getElementById('lesions').textContent.includes('cyst, left')")
    rows = list(csv.DictReader(saved(page, "measurements.csv").decode().splitlines()))
    assert [row["label"] for row in rows] == ["Lesion 1", "cyst, left"]
    assert [float(row["area"]) for row in rows] == [first, second]
    labels = cv2.imdecode(np.frombuffer(saved(page, "mask.png"), np.uint8), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    assert np.bincount(labels.ravel())[1:].tolist() == [int(row["area_px"]) for row in rows]
    page.focus("#canvas")
    page.keyboard.press("1")
    assert area(page) == first
    page.keyboard.press("n")  # what else it may mean
    document = json.loads(saved(page, "result.json")) if area(page) else {}
    assert [each["alternative"] for each in document["request"]["lesions"]] == [1, None]
    page.click("#remove-lesion")
    assert page.locator("#lesions button").count() == 1
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert page.locator("#lesions button").count() == 2
    assert area(page) in (first, second)


def test_a_suggestion_says_that_it_is_one_until_somebody_changes_it(
    browser: Any, serve: Callable[..., Any], tmp_path: Path
) -> None:
    graphs = [discs.mean_grey_encoder(), discs.disc_decoder(), discs.corner_proposer()]
    bundle = discs.save_bundle(tmp_path / "bundle", graphs)
    cv2.imwrite(str(tmp_path / "x.png"), np.full((128, 512), 51, np.uint8))
    with serve("--bundle", str(bundle), "--backend", "onnxruntime") as (found, _):
        context = browser.new_context()
        page = context.new_page()
        page.goto(found)
        page.wait_for_selector("#suggest:not([hidden])")
        page.set_input_files("#file", tmp_path / "x.png")
        page.wait_for_selector("#suggest:not([disabled])")
        page.click("#suggest")
        wait_for_mask(page)
        assert "nobody marked it" in page.inner_text("#sizes")
        assert page.inner_text("#lesions button").startswith("Suggestion 1")
        # A disc of the radius 42 in 256 x 256, around (64, 64)
        assert area(page) == pytest.approx(np.pi * 42**2 * 2 * 0.5, rel=0.05)
        click_on(page, 130, 40)
        area(page)
        assert "nobody marked it" not in page.inner_text("#sizes")
        assert page.inner_text("#lesions button").startswith("Lesion 1")
        context.close()


def test_a_ruler_in_the_picture_says_how_large_a_pixel_is(page: Page) -> None:
    choose_example(page, 2)
    before = area(page)
    page.keyboard.press("m")
    drag(page, 20, 200, 120, 200)
    wait_until(page, "document.getElementById('sizes').textContent.includes('Line 1100 px')")
    page.fill("#line-mm", "12")
    page.click("#calibrate")
    wait_until(page, "document.getElementById('sizes').textContent.includes('Line 112.0 mm')")
    assert float(page.input_value("#pixel")) == pytest.approx(0.12, abs=0.002)
    assert area(page) == pytest.approx(before * 0.12**2, rel=0.03)
    page.keyboard.press("Escape")
    assert "Line" not in page.inner_text("#sizes")


def test_a_click_is_shown_beforehand_where_answers_are_fast(page: Page) -> None:
    choose_example(page)
    shown, asked = area(page), list[str]()
    page.on("request", lambda each: asked.append(each.url) if "/masks" in each.url else None)

    def hover() -> int:
        for x in range(60, 100, 10):
            page.mouse.move(*at(page, x, 100))
            page.wait_for_timeout(60)
        return len(asked)

    page.keyboard.press("a")
    assert hover() == 0  # it is switched off
    page.evaluate("document.getElementById('preview').checked = true")
    page.evaluate(
        "performance.now = (now => () => (window.slow ? 9 : 0.01) * now())(performance.now.bind("
        "performance))"
    )
    click_on(page, 90, 90)
    once = len(asked)
    assert area(page) != shown
    shown = area(page)
    assert hover() > once
    assert area(page) == shown  # nothing was clicked
    page.evaluate("window.slow = true")
    for x in range(70, 120, 10):
        click_on(page, x, 95)
        area(page)
    assert "too slow" in (page.text_content("#preview-speed") or "")
    once = len(asked)
    assert hover() == once


def test_colour_is_shown_as_colour(page: Page, tmp_path: Path) -> None:
    picture = np.full((90, 120, 3), 60, np.uint8)
    picture[20:60, 30:80] = (40, 90, 220)  # BGR
    cv2.imwrite(str(tmp_path / "doppler.png"), picture)
    page.set_input_files("#file", tmp_path / "doppler.png")
    wait_until(page, "document.getElementById('source').textContent === 'doppler.png'")
    pixel = (
        "[...document.getElementById('canvas').getContext('2d').getImageData("
        "document.getElementById('canvas').width / 2, document.getElementById('canvas').height / 2,"
        " 1, 1).data]"
    )
    wait_until(page, f"{pixel}[0] > 0")
    assert page.evaluate(pixel) == [220, 90, 40, 255]


def test_a_service_that_was_away_gets_the_file_again(page: Page, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.full((90, 120), 60, np.uint8))
    failed = [True, True]
    page.route(
        "**/v1/images",
        lambda route: route.abort() if failed and failed.pop() else route.continue_(),
    )
    page.set_input_files("#file", tmp_path / "x.png")
    wait_until(page, "document.getElementById('status').textContent.includes('does not answer')")
    wait_until(page, "document.getElementById('source').textContent === 'x.png'")


def test_two_fingers_pinch_and_never_draw(browser: Any, address: str) -> None:
    context = browser.new_context(
        viewport={"width": 375, "height": 667}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(address)
    choose_example(page)
    page.keyboard.press("Escape")
    session = context.new_cdp_session(page)
    middle = at(page, 100, 100)

    def touch(kind: str, apart: float) -> None:
        points = [
            {"x": middle[0] - apart, "y": middle[1]},
            {"x": middle[0] + apart, "y": middle[1]},
        ]
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [] if kind == "touchEnd" else points},
        )

    touch("touchStart", 20)
    for apart in (25, 35, 50):
        touch("touchMove", apart)
    touch("touchEnd", 50)
    page.wait_for_timeout(200)
    assert page.is_disabled("#clear")  # no prompt came of it
    low = page.evaluate(
        "[...document.querySelectorAll('button, select, input[type=number], summary')]"
        ".filter((each) => each.getClientRects().length)"
        ".filter((each) => each.getBoundingClientRect().height < 44)"
        ".map((each) => each.outerHTML)"
    )
    assert low == []
    context.close()


def test_the_token_is_asked_for_kept_from_the_address_and_shared_by_tabs(
    browser: Any, serve: Callable[..., Any], screenshots: Path
) -> None:
    def is_open(page: Page) -> None:
        wait_until(page, "document.getElementById('example').options.length > 1")
        assert page.locator("#login").is_hidden()
        assert "sesame" not in page.url
        assert not page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])").count(
            "sesame"
        )

    with serve(SAMUS_EDGE_TOKEN="open sesame") as (found, _):
        context = browser.new_context()
        page = context.new_page()
        page.goto(found)
        page.wait_for_selector("#login:not([hidden])")
        page.screenshot(path=screenshots / "token.png")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        wait_until(page, "document.getElementById('status').textContent.includes('not the token')")
        page.fill("#token", "open sesame")
        page.keyboard.press("Enter")
        is_open(page)
        second = context.new_page()
        second.goto(found)
        is_open(second)
        context.close()
        for link in ("/#token=open%20sesame", "/?token=open%20sesame"):
            context = browser.new_context()
            page = context.new_page()
            page.goto(found + link)
            is_open(page)
            context.close()


def test_an_image_is_forgotten_when_its_page_is_left(
    browser: Any, serve: Callable[..., Any]
) -> None:
    def kept(found: str) -> str:
        with urllib.request.urlopen(f"{found}/metrics", timeout=5) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        return next(line for line in lines if line.startswith("samus_edge_sessions "))

    with serve() as (found, _):
        context = browser.new_context()
        own = context.new_page()
        own.goto(found)
        choose_example(own)
        assert kept(found) == "samus_edge_sessions 1.0"
        own.goto("about:blank")
        end = time.monotonic() + 5
        while kept(found) != "samus_edge_sessions 0.0":
            assert time.monotonic() < end
            time.sleep(0.05)
        context.close()
