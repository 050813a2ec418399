"""Evaluation of anything that segments from prompts, lesion by lesion, and what it found."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Final

import numpy as np

from samus_edge.data.case import UltrasoundCase, read_image, read_instances
from samus_edge.data.prompt_protocol import (
    STANDARD_PROTOCOLS,
    PromptProtocol,
    case_generator,
    scale_prompt,
)
from samus_edge.errors import BadArgumentError, DataError
from samus_edge.evaluation.image_perturbation import Image, resize_image
from samus_edge.evaluation.metrics import (
    Mask,
    dice,
    hausdorff_distance,
    hausdorff_distance_95,
    iou,
    normalised_surface_dice,
    resize_mask,
    row_hausdorff_distance,
)
from samus_edge.evaluation.normal_images import NormalsSummary, evaluate_normals, separate_normals
from samus_edge.evaluation.predictor import Embedding, Predictor, predict_prompts
from samus_edge.evaluation.robustness import (
    RobustnessRow,
    robustness_table,
    robustness_variants,
)
from samus_edge.evaluation.summary import (
    ALL_SIZES,
    AS_IS,
    InstanceScore,
    Summary,
    Variant,
    equivalent_diameter_px,
    lesion_size,
    merge_variants,
    summarise,
)
from samus_edge.evaluation.worst_cases import CaseView, draw_case_views
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MANIFEST_FILE, MASK_DECODER
from samus_edge.runtime.bundle.records import JsonValue
from samus_edge.runtime.images.output_files import write_files_atomically

DISTANCE_HW: Final = (256, 256)
"""Size at which distances are measured, pixels, as SAMUS and the report do: both masks are resized
to it without keeping the aspect, so distances compare between images of different sizes."""

DIGITS: Final = 4
"""Digits of what a manifest records."""

NSD_TOLERANCE_PX: Final = 2.0
"""Deviation that the normalised surface Dice accepts, pixels at ``DISTANCE_HW``: 0.8 % of
the image."""


@dataclass(frozen=True)
class EvaluationReport:
    """The result of `samus_edge.evaluation.evaluate.evaluate`."""

    scores: tuple[InstanceScore, ...]
    """One per lesion, image variant and prompt protocol, in the order evaluated."""
    summaries: tuple[Summary, ...]
    """For each prompt protocol: everything, then each class, then each lesion size."""
    seed: int
    """Seed of the prompts and of the bootstrap."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What was evaluated on what, for the reader."""
    robustness: tuple[RobustnessRow, ...] = ()
    """The robustness table; empty if it was not asked for."""
    normals: tuple[NormalsSummary, ...] = ()
    """What prompts on images without a lesion give; empty if there are none, or not asked for."""
    views: tuple[CaseView, ...] = ()
    """Pictures of the worst, median and best lesions; empty if they were not asked for."""

    def to_json(self) -> str:
        """The summaries and tables as a JSON document; the scores are left to `to_csv`."""
        document = {
            "format": "samus-edge-evaluation",
            "format_version": "1.1",
            **self.about,
            "seed": self.seed,
            "summaries": [asdict(summary) for summary in self.summaries],
            "robustness": [asdict(row) for row in self.robustness],
            "normals": [asdict(summary) for summary in self.normals],
        }
        return json.dumps(document, indent=2) + "\n"

    def to_csv(self) -> str:
        """The scores as CSV: a header with the fields of `InstanceScore`, one line per score."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(
            text, [field.name for field in fields(InstanceScore)], lineterminator="\n"
        )
        writer.writeheader()
        for score in self.scores:
            row = asdict(score)
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        return text.getvalue()

    def write(
        self,
        json_path: Path | None = None,
        csv_path: Path | None = None,
        also: Mapping[Path, bytes] | None = None,
    ) -> None:
        """Write the JSON document, the CSV file or both, all whole or none.

        Args:
            json_path: the file of `to_json`.
            csv_path: the file of `to_csv`.
            also: contents of further files, such as an HTML report, written together with them.

        Raises:
            OutputFileError: if a file cannot be written.
        """
        contents = dict(also or {})
        if json_path is not None:
            contents[json_path] = self.to_json().encode()
        if csv_path is not None:
            contents[csv_path] = self.to_csv().encode()
        write_files_atomically(contents)


def evaluate(
    predictor: Predictor[Embedding],
    cases: Sequence[UltrasoundCase],
    *,
    protocols: Sequence[PromptProtocol] = STANDARD_PROTOCOLS,
    variants: Sequence[Variant] = (),
    seed: int = 0,
    groups: Mapping[str, int] | None = None,
    about: Mapping[str, str] | None = None,
    on_case: Callable[[UltrasoundCase], None] | None = None,
) -> EvaluationReport:
    """Segment every lesion of the cases from every kind of prompt, and score the masks.

    Each mask file of an image is one lesion with its own prompt and score. Dice and IoU are
    measured at the image's own size, distances at ``DISTANCE_HW``. Every image is encoded once, and
    once more for each perturbation; a mask of an image that was resized is resized back.

    Args:
        predictor: the segmenter.
        cases: cases to evaluate on; those without a lesion contribute nothing.
        protocols: kinds of prompt, given on the images as they are, and summarised.
        variants: further images and prompts to score, such as the rows of the robustness table.
        seed: seed of the prompts and perturbations, together with each case's key, and of the
            bootstrap; at least 0.
        groups: group number of each case key; cases that share one are near-duplicates and are
            resampled together for the interval. A case without a group is its own.
        about: what is evaluated on what; carried into the report.
        on_case: called after each case, for progress.

    Returns:
        Scores, and summaries of ``protocols``.

    Raises:
        BadArgumentError: if there is no protocol, or if the seed is negative.
        DataError: if no case has a lesion, or if files are missing or broken.
    """
    if not protocols:
        raise BadArgumentError("protocols must name at least one kind of prompt, got none.")
    if seed < 0:
        raise BadArgumentError(f"seed must be at least 0, got {seed}.")
    groups = groups or {}
    merged = merge_variants([Variant(tuple(protocols)), *variants])
    scores: list[InstanceScore] = []
    for case in cases:
        group = f"group {groups[case.key]}" if case.key in groups else case.key
        targets = read_instances(case)
        if targets:
            image = read_image(case)
            for variant in merged:
                scores += _score_variant(predictor, case, image, targets, variant, seed, group)
        if on_case is not None:
            on_case(case)
    if not scores:
        raise DataError(
            f"None of the {len(cases)} cases has a lesion, so there is nothing to evaluate."
        )
    # Protocols together, which is how the scores are read.
    pairs = [(variant.image, protocol.name) for variant in merged for protocol in variant.protocols]
    order = {pair: position for position, pair in enumerate(pairs)}
    scores.sort(key=lambda score: order[score.image, score.prompt])
    summarised = {protocol.name for protocol in protocols}
    standard = [score for score in scores if score.image == AS_IS and score.prompt in summarised]
    return EvaluationReport(tuple(scores), summarise(standard, seed), seed, dict(about or {}))


def _score_variant(
    predictor: Predictor[Embedding],
    case: UltrasoundCase,
    image: Image,
    targets: Sequence[Mask],
    variant: Variant,
    seed: int,
    group: str,
) -> list[InstanceScore]:
    """Encode one image, segment all lesions in one call per protocol, and score each."""
    original_hw = (image.shape[0], image.shape[1])
    encoded = image
    if variant.perturbation is not None:
        # All strengths of a noise draw the same numbers, so their results compare image by image.
        rng = case_generator(f"{case.key}\nimage", 0, seed)
        encoded = variant.perturbation.apply(image, rng)
    embedding = predictor.encode(encoded)
    scores = []
    for protocol in variant.protocols:
        prompts = []
        for instance, target in enumerate(targets):
            prompt = protocol.prompt(target, case_generator(case.key, instance, seed))
            prompts.append(scale_prompt(prompt, original_hw, (encoded.shape[0], encoded.shape[1])))
        predicted = predict_prompts(predictor, embedding, prompts)
        for instance, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            mask = _resize_back(predicted.masks[instance, 0], original_hw)
            diameter_px = equivalent_diameter_px(target)
            score = InstanceScore(
                key=case.key,
                class_name=case.class_name,
                instance=instance,
                group=group,
                size=lesion_size(diameter_px),
                diameter_px=diameter_px,
                image=variant.image,
                prompt=protocol.name,
                prompt_coords=prompt.coords_text,
                height=original_hw[0],
                width=original_hw[1],
                dice=dice(mask, target),
                iou=iou(mask, target),
                **_distances(mask, target),
                iou_prediction=float(predicted.iou_predictions[instance, 0]),
            )
            scores.append(score)
    return scores


def _resize_back(mask: Mask, original_hw: tuple[int, int]) -> Mask:
    """The mask at the image's own size: interpolated, then thresholded at a half."""
    if mask.shape == original_hw:
        return mask
    return resize_image(mask.astype(np.float32), original_hw) > 0.5


def _distances(mask: Mask, target: Mask) -> dict[str, float]:
    small = resize_mask(mask, DISTANCE_HW), resize_mask(target, DISTANCE_HW)
    return {
        "nsd": normalised_surface_dice(*small, NSD_TOLERANCE_PX),
        "hd": hausdorff_distance(*small),
        "hd_manhattan": hausdorff_distance(*small, metric="manhattan"),
        "hd95": hausdorff_distance_95(*small),
        "hd_rows": row_hausdorff_distance(*small),
    }


def run_evaluation(
    predictor: Predictor[Embedding],
    cases: Sequence[UltrasoundCase],
    *,
    protocols: Sequence[PromptProtocol] = STANDARD_PROTOCOLS,
    robustness: bool = False,
    normals: bool = True,
    worst_count: int | None = None,
    seed: int = 0,
    groups: Mapping[str, int] | None = None,
    about: Mapping[str, str] | None = None,
    on_case: Callable[[UltrasoundCase], None] | None = None,
) -> EvaluationReport:
    """Evaluate a predictor on cases with and without lesions.

    Args:
        predictor: the segmenter.
        cases: the cases; at least one has a lesion.
        protocols: kinds of prompt to summarise; the standard ones among them.
        robustness: whether to make the robustness table.
        normals: whether to prompt images without a lesion as well.
        worst_count: how many of the worst lesions to draw for each standard protocol, beside the
            median and the best; None for no pictures.
        seed: seed of prompts, perturbations and intervals; at least 0.
        groups: group number of each case key, see `evaluate`.
        about: what is evaluated on what; carried into the report.
        on_case: called after each case that was segmented, for progress; cases without a lesion are
            left out without ``normals``.

    Raises:
        BadArgumentError: naming every argument that is out of range.
        DataError: if no case has a lesion, or if files are missing or broken.
    """
    problems = [
        f"protocols must include {standard.name}"
        for standard in STANDARD_PROTOCOLS
        if standard not in protocols
    ]
    if worst_count is not None and worst_count < 0:
        problems.append(f"worst_count must be at least 0, got {worst_count}")
    if seed < 0:
        problems.append(f"seed must be at least 0, got {seed}")
    if problems:
        raise BadArgumentError("; ".join(problems) + ".")
    separated = separate_normals(cases)
    report = evaluate(
        predictor,
        separated.lesions,
        protocols=protocols,
        variants=robustness_variants() if robustness else (),
        seed=seed,
        groups=groups,
        about=about,
        on_case=on_case,
    )
    if robustness:
        report = replace(report, robustness=robustness_table(report.scores, seed))
    if normals:
        found = evaluate_normals(predictor, separated, report.scores, on_case=on_case)
        report = replace(report, normals=found)
    if worst_count is not None:
        views = draw_case_views(
            predictor,
            separated.lesions,
            report.scores,
            STANDARD_PROTOCOLS,
            worst_count=worst_count,
            seed=seed,
        )
        report = replace(report, views=views)
    return report


def about_segmenter(segmenter: Segmenter) -> dict[str, str]:
    """Bundle, backend, precision and graphs, for what an evaluation is about."""
    return {
        "bundle": segmenter.bundle.manifest.name,
        "backend": f"{segmenter.backend.name} {segmenter.backend.version}",
        "precision": segmenter.precision,
        **{f"{name}_sha256": sha256 for name, sha256 in segmenter.graph_hashes.items()},
    }


def record_accuracy(bundle: Bundle, report: EvaluationReport) -> None:
    """Replace the `accuracy` of a bundle's manifest by an evaluation of that bundle.

    Args:
        bundle: the bundle, as it was opened for the evaluation.
        report: its evaluation; `about` says on which data.

    Raises:
        BundleError: if the bundle is a zip file, which is only read, or signed.
        BadArgumentError: if the report is of other graphs than the bundle's reference.
        OutputFileError: if the manifest cannot be written.
    """
    folder = bundle.unsigned_folder
    for name in (IMAGE_ENCODER, MASK_DECODER):
        graph = bundle.graph_record(name)
        measured = report.about.get(f"{name}_sha256")
        if measured != graph.sha256:
            raise BadArgumentError(
                f"the report is of the {name} {measured}, and {folder} has {graph.sha256}. "
                "Evaluate this bundle."
            )
    about = {key: value for key, value in report.about.items() if not key.endswith("_sha256")}
    results: dict[str, dict[str, JsonValue]] = {}
    for summary in report.summaries:
        if summary.size == ALL_SIZES:
            results.setdefault(summary.prompt, {})[summary.class_name] = _means(summary)
    accuracy: dict[str, JsonValue] = {**about, "seed": report.seed, "results": dict(results)}
    replace(bundle.manifest, accuracy=accuracy).write(folder / MANIFEST_FILE)


def _means(summary: Summary) -> dict[str, JsonValue]:
    means = {
        "iou": summary.iou,
        "nsd": summary.nsd,
        "hd_px": summary.hd,
        "hd_manhattan_px": summary.hd_manhattan,
        "hd95_px": summary.hd95,
        "hd_rows": summary.hd_rows,
    }
    return {
        "lesions": summary.lesions,
        "dice": round(summary.dice.mean, DIGITS),
        "dice_95_interval": [round(end, DIGITS) for end in summary.dice_interval],
        **{name: round(spread.mean, DIGITS) for name, spread in means.items()},
    }
