# %% [markdown]
# # From an image to a bundle of your own
#
# Segment an ultrasound image, see how far to trust the mask, measure it and save it; then teach the
# network a structure of your own with twenty annotated images, on the CPU, and use the bundle that
# comes out.
#
# You need a checkout and `pip install '.[export]' jupyter`. The notebook is made from
# `from_image_to_bundle.py`, which also runs as it is.

# %%
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from samus_edge.runtime import OverlayItem, Segmenter, draw_overlay, measure_lesion, read_image

# %% tags=["parameters"]
MINUTES = 4  # for all of the fine-tuning; what is done is not done again
EXAMPLES = Path("examples") if Path("examples").is_dir() else Path()
OUT = Path("runs/from_image_to_bundle")


# %%
def picture(name, *drawn):
    """Save pictures side by side as OUT/NAME.png, and give them to the notebook."""
    images = [Image.fromarray(each) for each in drawn]
    for image in images:
        image.thumbnail((480, 480))
    sheet = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)))
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width
    sheet.save(OUT / f"{name}.png")
    return sheet


def samus_edge(*arguments):
    """Run the command `samus-edge`, and show what it prints."""
    command = [sys.executable, "-m", "samus_edge", *map(str, arguments)]
    print("$ samus-edge", *arguments)
    environment = {**os.environ, "COLUMNS": "100", "FORCE_COLOR": ""}  # lines, no moving bars
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode != 0:
        raise RuntimeError(f"samus-edge {arguments[0]} failed: {process.returncode}")


OUT.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A box
#
# Coordinates are pixels of the image, (x, y). Encoding is most of the work and done once for an
# image; then each prompt takes a few milliseconds.

# %%
image = read_image(EXAMPLES / "malignant_29.png")  # (H, W), uint8
box = [20, 80, 316, 384]  # left, top, right, bottom

segmenter = Segmenter.load()  # the default bundle; no torch needed
embedding = segmenter.encode(image)
by_box = segmenter.predict(embedding, boxes=[box])
mask = by_box.masks[0, 0]  # (H, W), bool
picture("box", draw_overlay(image, [OverlayItem(mask, "by its box", box=box)]))

# %% [markdown]
# ## A click, and a second one
#
# A click on the lesion (label 1) is enough. Say that the tip at the top is drawn too wide: a click
# beside the lesion (label 0), and the mask gives way there. Masks obey their clicks.

# %%
clicks, labels = [[170, 230], [148, 100]], [1, 0]
drawn = []
for count, name in enumerate(("one click", "two clicks"), 1):
    by_click = segmenter.predict(
        embedding, point_coords=[clicks[:count]], point_labels=[labels[:count]]
    )
    points = [(x, y, label) for (x, y), label in zip(clicks, labels, strict=True)]
    item = OverlayItem(by_click.masks[0, 0], name, points=points[:count])
    drawn.append(draw_overlay(image, [item]))
picture("clicks", *drawn)

# %% [markdown]
# ## How far to trust it
#
# `quality` is the calibrated probability that a mask is good (Dice of at least 0.8 with what a
# radiologist would draw). Its state is `ok`, `check` or `ask for a click`. `notes` say what looks
# wrong; there may be none.

# %%
for name, prediction in {"box": by_box, "clicks": by_click}.items():
    (quality,) = prediction.quality
    print(f"{name}: {quality.state}, good with a probability of {quality.probability:.2f}")
    for note in prediction.notes:
        print(f"  {note.level} {note.code}: {note.text}")

# %% [markdown]
# ## Measure it
#
# In pixels, since these files do not say how large one is. With
# `measure_lesion(mask, PixelSpacing(0.1, 0.1))` sizes are in millimetres; DICOM studies bring their
# spacing along. The interval holds the true size of nine lesions of ten.

# %%
measurements = measure_lesion(mask)
low, high = by_box.quality[0].diameter_interval(measurements)
print(
    f"longest axis {measurements.longest.length:.0f} {measurements.unit} ({low:.0f} to {high:.0f})"
)
print(f"across it    {measurements.perpendicular.length:.0f} {measurements.unit}")
print(f"area         {measurements.area:.0f} {measurements.unit}²")
picture("callipers", draw_overlay(image, [OverlayItem(mask, "box", measurements=measurements)]))

# %% [markdown]
# ## Save it

# %%
by_box.save(OUT / "mask.png")  # 0 and 255
by_box.save(OUT / "masks.npz")  # masks (N, H, W), bool
(OUT / "coco.json").write_text(json.dumps(by_box.to_coco("malignant_29.png")))
segmenter.close()

# %% [markdown]
# ## Images of your own
#
# Twenty ultrasound images of volunteers, in each a nerve that an anaesthesiologist outlined (COCO):
# far from breast lesions, and the default bundle was trained on none of them. `data import` makes a
# training set from COCO, YOLO, LabelMe, NIfTI, NPZ or mask files: `images/` and `masks/`.

# %%
DATA = OUT / "nerves"
samus_edge(
    *("data", "import", EXAMPLES / "nerves" / "nerves.json"),
    *("--images", EXAMPLES / "nerves" / "images", "--out", DATA, "--overwrite"),
)
samus_edge("data", "check", "--data", DATA)

# %% [markdown]
# ## Fine-tune
#
# One command splits the images (near-duplicates stay together), trains the default bundle on, keeps
# the best weights by images that were set aside for it, exports and verifies a bundle, and compares
# it with the start on images that nothing was chosen by. How many steps the minutes hold depends
# on the machine; after a few nothing has changed yet. Interrupted? The same cell goes on.

# %%
TUNED = OUT / "tuned"
samus_edge(
    *("finetune", "--data", DATA, "--out", TUNED, "--minutes", MINUTES, "--name", "nerves"),
    *("--credit", "usgra-seg, TMK (tmkand), CC BY 4.0"),
)
report = json.loads((TUNED / "report.json").read_text())
print("{steps} steps of {images_per_step} images".format(**report["training"]))

# %% [markdown]
# ## Before and after
#
# On so few images look at the interval of the change, not at the mean alone, and at the pictures.
# Here each nerve of the test images is prompted by one click at its centre. `tuned/report.html` has
# more of them.

# %%
split = json.loads((TUNED / "splits" / "nerves.json").read_text())
before, after = Segmenter.load(), Segmenter.load(TUNED / "bundle")
drawn = []
for key in split["test"]:
    frame = read_image(DATA / "images" / f"{key}.jpg")
    truth = read_image(DATA / "masks" / f"{key}.png") > 127
    rows, columns = np.nonzero(truth)
    x, y = float(columns.mean()), float(rows.mean())
    items = [OverlayItem(truth, "annotated", points=[(x, y, 1)])]
    for name, segmenter in {"before": before, "after": after}.items():
        predicted = segmenter.segment(frame, point_coords=[[[x, y]]], point_labels=[[1]])
        mask, state = predicted.masks[0, 0], predicted.quality[0].state
        dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        items.append(OverlayItem(mask, f"{name}: Dice {dice:.2f}, {state}"))
    drawn.append(draw_overlay(frame, items))
picture("before_and_after", *drawn[:2])

# %% [markdown]
# ## Use the bundle
#
# It is a folder like the default one: give it to `Segmenter.load`, to `samus-edge infer --bundle`,
# to `serve`, to the C++ program. Its manifest says what it was trained on and how good it is.

# %%
prediction = after.segment(frame, point_coords=[[[x, y]]], point_labels=[[1]])
(OUT / "nerve_coco.json").write_text(json.dumps(prediction.to_coco(f"{key}.jpg")))
manifest = after.bundle.manifest
print(manifest.name, manifest.credits[0], manifest.limits[-1], sep="\n")
for opened in (before, after):
    opened.close()
