"""Fine-tuning in one go: split, train, export, verify, and compare with the start.

Everything is in one folder, and what is done there is not done again:

| in the folder | |
| --- | --- |
| `splits/NAME.json` | how the data was split |
| `training/` | what `samus-edge train` writes |
| `bundle/` | the result, verified, with its accuracy |
| `report.html`, `report.json` | start and result on the held-out part |
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.data.collection import DatasetConfig, load_collection
from samus_edge.data.dataset import Subsets, list_cases
from samus_edge.data.dataset_check import check_cases
from samus_edge.data.prompt_protocol import (
    CENTRE_POINT,
    JITTERED_BOX,
    BoxProtocol,
    PromptProtocol,
    case_generator,
)
from samus_edge.data.splitting import SUBSETS
from samus_edge.errors import DataError
from samus_edge.evaluation.evaluate import (
    EvaluationReport,
    about_segmenter,
    evaluate,
    record_accuracy,
)
from samus_edge.evaluation.paired_comparison import PairedComparison, compare_paired
from samus_edge.evaluation.predictor import Predictor, predict_prompts
from samus_edge.evaluation.quality import calibrate_quality
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.export.bundle_writer import BundleText, write_bundle
from samus_edge.reporting.contact_sheets import SheetCell, SheetRow, draw_contact_sheet
from samus_edge.reporting.html import render_page
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.bundle.manifest import LESION_PROPOSER, MANIFEST_FILE, Manifest
from samus_edge.runtime.images.canvas import Canvas
from samus_edge.runtime.images.output_files import sha256_of_file, write_files_atomically
from samus_edge.training.config import TrainConfig
from samus_edge.training.trainer import Limits, Trainer
from samus_edge.training.training_run import DEFAULT_BUNDLE, started_model
from samus_edge.verification.frames import lesions_of_cases
from samus_edge.verification.verify_bundle import prove
from samus_edge.weights.model_file import load_model

TRAINING_FOLDER, BUNDLE_FOLDER, SPLITS_FOLDER = "training", "bundle", "splits"
REPORT_FILE, PAGE_FILE = "report.json", "report.html"

PROTOCOLS: Final[tuple[PromptProtocol, ...]] = (JITTERED_BOX, BoxProtocol(0.2), CENTRE_POINT)
"""Kinds of prompt by which start and result are compared."""

EPOCH_IMAGES: Final = 64
"""Images between two validations, however few there are; twice those validated on if more."""

PATIENCE: Final = 12
"""Epochs without a better one after which a training ends."""

RESERVED_MINUTES: Final = 2.0
"""Of the budget, for export, verification and comparison; half of a budget that is less than 4."""

VERIFIED_LESIONS: Final = 8
JUDGED_IMAGES: Final = 32
SHOWN_LESIONS: Final = 12
SEED: Final = 0


def training_limits(minutes: float) -> Limits:
    """What ends the training of a fine-tuning that may take so many minutes in all."""
    left = max(minutes - RESERVED_MINUTES, minutes / 2)
    return Limits(left, patience=PATIENCE, start_counts=True)


def split_cases(data: Path, rule: DatasetConfig, out: Path) -> Subsets:
    """Check every file of a dataset and split it, or read how it was split.

    Args:
        data: the dataset.
        rule: how it is split; its folder is the dataset's name.
        out: folder of the fine-tuning.

    Raises:
        DataError: naming every file that is broken or missing, or every subset without a lesion.
        BadArgumentError: if there are too few cases that differ.
    """
    check_cases(list_cases(data))
    (subsets,) = load_collection(data.absolute().parent, [rule], out / SPLITS_FOLDER).values()
    empty = [name for name in SUBSETS[:2] if not select_lesions(subsets.get(name))]
    if empty:
        raise DataError(
            f"{data} has no image with a lesion in {' and '.join(empty)}. Add images with masks, "
            "or change the rule of the split."
        )
    return subsets


def fitted_config(
    config: TrainConfig, rule: DatasetConfig, subsets: Subsets, start: Path | None
) -> TrainConfig:
    """The configuration with epochs of about `EPOCH_IMAGES`; a proposer of the start is trained on.

    Args:
        config: the configuration.
        rule: the rule of the split.
        subsets: what it gave.
        start: what the training starts from; None for the configuration's.
    """
    bundle = _bundle_of(Path(config.start) if start is None else start)
    if bundle is not None and LESION_PROPOSER in bundle.manifest.graphs:
        rule = dataclasses.replace(rule, proposals=True)
        loss = dataclasses.replace(config.loss, proposals=config.loss.proposals or 1.0)
        config = dataclasses.replace(config, loss=loss)
    has_normals = config.normals or config.loss.proposals
    count = len(subsets.train if has_normals else select_lesions(subsets.train))
    images = max(EPOCH_IMAGES, 2 * len(select_lesions(subsets.val)), config.batch_size)
    datasets = (dataclasses.replace(rule, weight=images / count),)
    return dataclasses.replace(config, datasets=datasets)


def _bundle_of(start: Path) -> Bundle | None:
    """The bundle that a training starts from; None if that is a file of weights."""
    if start == Path(DEFAULT_BUNDLE) and not start.exists():
        return Bundle.open()
    return Bundle.open(start) if start.is_dir() or start.suffix == ".zip" else None


@dataclass(frozen=True)
class Comparison:
    """The start and the result on the same lesions.

    Attributes:
        subset: "test", or "val" where nothing was held out, by which the result was chosen.
        before: evaluation of the start.
        after: evaluation of the result.
        dice: comparison of their Dice by kind of prompt.
    """

    subset: str
    before: EvaluationReport
    after: EvaluationReport
    dice: Mapping[str, PairedComparison]

    def worst(self, prompt: str) -> tuple[float, float]:
        """The lowest Dice of the start and of the result."""
        first, second = (
            min(score.dice for score in report.scores if score.prompt == prompt)
            for report in (self.before, self.after)
        )
        return first, second


class Finetuned:
    """The result of a training, to be exported and compared with its start.

    Args:
        out: folder of the fine-tuning.
        weights: the best weights.
        trainer: the training that they are of, done.
        start: what the training started from; None for the configuration's.
        subsets: the cases.

    Attributes:
        subset: "test", or "val" where nothing was held out.
        judged: its cases with lesions, which start and result are compared on.
    """

    def __init__(
        self, out: Path, weights: Path, trainer: Trainer, start: Path | None, subsets: Subsets
    ) -> None:
        self.out = out
        self.weights = weights
        self.trainer = trainer
        self.config = trainer.config
        self.start = Path(self.config.start) if start is None else start
        self.subsets = subsets
        self.bundle = out / BUNDLE_FOLDER
        self.subset = "test" if select_lesions(subsets.test) else "val"
        self.judged = select_lesions(subsets.get(self.subset))

    def export(
        self,
        name: str,
        credits: Sequence[str] = (),
        *,
        command: str | None = None,
        report: Callable[[str], None] = lambda stage: None,
    ) -> None:
        """Write the bundle, verify and calibrate it on what was validated on, unless it is there.

        Args:
            name: the bundle's name.
            credits: whose data it was trained on.
            command: the command line that makes it, for the record.
            report: called with the name of each stage as it starts.

        Raises:
            ExportMismatchError: if it does not compute what the weights do.
        """
        digest = sha256_of_file(self.weights)
        manifest = self.bundle / MANIFEST_FILE
        if manifest.exists() and Manifest.read(manifest).weights_sha256 == digest:
            return
        model, start = load_model(self.weights), _bundle_of(self.start)
        text = BundleText.of(model, name, credits)
        if start is not None:
            text = BundleText.of_manifest(start.manifest, name, credits)
        count = len(select_lesions(self.subsets.train))
        limit = f"Trained on with {count} images of {self.config.datasets[0].title} alone."
        text = dataclasses.replace(text, limits=(*text.limits, limit))
        source = lesions_of_cases(
            self.subsets.val,
            groups=self.subsets.groups,
            limit=VERIFIED_LESIONS,
            about={"data": self.config.datasets[0].title, "subset": "val"},
        )

        def verify(draft: Path) -> None:
            report(f"verifying on {len(source)} images")
            prove(draft, source, command=command)

        write_bundle(
            model,
            self.bundle,
            text=text,
            weights_sha256=digest,
            frames=[frame.image for frame in load_check_frames()],
            template=Bundle.open() if start is None else start,
            overwrite=True,
            check=verify,
            report=report,
        )
        report("judging masks")
        about = {"data": self.config.datasets[0].title, "subset": "val"}
        try:
            calibrate_quality(self.bundle, self.subsets.val, about, limit=JUDGED_IMAGES)
        except DataError as err:
            report(f"masks come without a judgement: {err}")

    def compare(self, on_case: Callable[[UltrasoundCase], None] = lambda case: None) -> Comparison:
        """Evaluate start and result on what was held out, and write the report.

        The accuracy of the result is recorded in its manifest.

        Args:
            on_case: called with each case that one of both has segmented.

        Raises:
            OutputFileError: if a file cannot be written.
        """
        about = {"data": self.config.datasets[0].title, "subset": self.subset}
        with ExitStack() as stack:
            start = _bundle_of(self.start)
            first: Predictor[Any]
            if start is None:
                first = TorchPredictor(started_model(self.config, self.start)[0])
                names = {"weights": self.start.name}
            else:
                segmenter = Segmenter.load(start.path, backend="onnxruntime")
                first, names = stack.enter_context(segmenter), about_segmenter(segmenter)
            second = stack.enter_context(Segmenter.load(self.bundle, backend="onnxruntime"))

            def report(predictor: Predictor[Any], names: Mapping[str, str]) -> EvaluationReport:
                return evaluate(
                    predictor,
                    self.judged,
                    protocols=PROTOCOLS,
                    seed=SEED,
                    groups=self.subsets.groups,
                    about={**about, **names},
                    on_case=on_case,
                )

            before, after = report(first, names), report(second, about_segmenter(second))
            comparison = Comparison(self.subset, before, after, _compared(before, after))
            sheet = _picture_sheet((first, second), self.judged, comparison)
        record_accuracy(Bundle.open(self.bundle), comparison.after)
        self._write(comparison, sheet)
        return comparison

    def _write(self, comparison: Comparison, sheet: Canvas) -> None:
        sizes = {name: len(select_lesions(self.subsets.get(name))) for name in SUBSETS}
        trainer, history = self.trainer, self.trainer.history
        training = {
            "seconds": round(trainer.seconds, 1),
            "steps": trainer.learner.steps_done,
            "images_per_step": trainer.images_per_step,
            "epochs": trainer.epoch,
            "best_epoch": min(history, key=lambda record: record.val_loss).epoch,
        }
        header: dict[str, Any] = {
            "data": self.config.datasets[0].title,
            "images": ", ".join(f"{name} {size}" for name, size in sizes.items()),
            "start": comparison.before.about.get("bundle", self.start.name),
            "result": str(self.bundle),
            "training": "{seconds} s, {steps} steps of {images_per_step} images; best of {epochs} "
            "epochs: {best_epoch} (0 is the start)".format(**training),
            "compared on": comparison.subset,
        }
        rows = {name: asdict(result) for name, result in comparison.dice.items()}
        document = {
            "format": "samus-edge-finetuning",
            "images": sizes,
            "training": training,
            "start": header["start"],
            "subset": comparison.subset,
            "dice": rows,
            "before": json.loads(comparison.before.to_json()),
            "after": json.loads(comparison.after.to_json()),
        }
        page = render_page(
            "finetuning.html", {"header": header, "comparison": comparison, "sheet": sheet}
        )
        write_files_atomically(
            {
                self.out / REPORT_FILE: f"{json.dumps(document, indent=2)}\n".encode(),
                self.out / PAGE_FILE: page.encode(errors="backslashreplace"),
            }
        )


def _compared(before: EvaluationReport, after: EvaluationReport) -> dict[str, PairedComparison]:
    found = {}
    for protocol in PROTOCOLS:
        first, second = (
            [score for score in report.scores if score.prompt == protocol.name]
            for report in (before, after)
        )
        found[protocol.name] = compare_paired(
            [score.dice for score in first],
            [score.dice for score in second],
            [score.group for score in first],
            names=("start", "result"),
            seed=SEED,
        )
    return found


def _picture_sheet(
    predictors: tuple[Predictor[Any], Predictor[Any]],
    cases: Sequence[UltrasoundCase],
    comparison: Comparison,
) -> Canvas:
    """Annotation, start and result of lesions, from the one that lost most to the best."""
    dices = [
        {(score.key, score.instance, score.prompt): score.dice for score in report.scores}
        for report in (comparison.before, comparison.after)
    ]
    point = CENTRE_POINT.name
    changes = {
        place[:2]: dices[1][place] - dices[0][place] for place in dices[0] if place[2] == point
    }
    ordered = sorted(changes, key=changes.__getitem__)
    count = min(SHOWN_LESIONS, len(ordered))
    chosen = np.linspace(0, len(ordered) - 1, count).round().astype(int).tolist()
    by_key = {case.key: case for case in cases}
    rows = []
    for key, instance in (ordered[number] for number in chosen):
        image, truth = read_image(by_key[key]), read_instances(by_key[key])[instance]
        cells = [SheetCell(image, [truth], "annotated")]
        embeddings = [predictor.encode(image) for predictor in predictors]
        for protocol in PROTOCOLS[1:]:
            prompt = protocol.prompt(truth, case_generator(key, instance, SEED))
            for number, name in enumerate(("start", "result")):
                predicted = predict_prompts(predictors[number], embeddings[number], [prompt])
                dice = dices[number][key, instance, protocol.name]
                caption = f"{name}, {protocol.name}: {dice:.3f}"
                cells.append(SheetCell(image, [predicted.masks[0, 0]], caption))
        title = [key, f"lesion {instance}", f"{point}: {changes[key, instance]:+.3f}"]
        rows.append(SheetRow(title, cells))
    return draw_contact_sheet(rows)
