"""A whole evaluation: scores, robustness, images without a lesion, pictures of the worst."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from samus_edge.data.case import UltrasoundCase
from samus_edge.data.prompt_protocol import STANDARD_PROTOCOLS, PromptProtocol
from samus_edge.errors import BadArgumentError
from samus_edge.evaluation.evaluate import evaluate
from samus_edge.evaluation.normal_images import evaluate_normals, separate_normals
from samus_edge.evaluation.predictor import Embedding, Predictor
from samus_edge.evaluation.report import EvaluationReport
from samus_edge.evaluation.robustness import robustness_table, robustness_variants
from samus_edge.evaluation.summary import ALL_SIZES, Summary
from samus_edge.evaluation.worst_cases import CaseView, draw_case_views
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER, MANIFEST_FILE, MASK_DECODER
from samus_edge.runtime.bundle.records import JsonValue

__all__ = [
    "EvaluationResult",
    "EvaluationSettings",
    "record_accuracy",
    "run_evaluation",
]


DIGITS = 4


def record_accuracy(bundle: Bundle, report: EvaluationReport) -> None:
    """Replace the `accuracy` of a bundle's manifest by an evaluation of that bundle.

    Args:
        bundle: the bundle, as it was opened for the evaluation.
        report: its evaluation; `about` says on which data.

    Raises:
        BundleError: if the bundle is a zip file, which is only read.
        ValueError: if the report is of other graphs than the bundle's reference.
        OutputFileError: if the manifest cannot be written.
    """
    folder = bundle.folder
    for name in (IMAGE_ENCODER, MASK_DECODER):
        graph = bundle.graph_record(name)
        measured = report.about.get(f"{name}_sha256")
        if measured != graph.sha256:
            raise BadArgumentError(
                f"the report is of the {name} {measured}, and {folder} has {graph.sha256}. "
                "Evaluate this bundle."
            )
    about = {key: value for key, value in report.about.items() if not key.endswith("_sha256")}
    results: dict[str, JsonValue] = {}
    for summary in report.summaries:
        if summary.size != ALL_SIZES:
            continue
        by_class = results.setdefault(summary.prompt, {})
        assert isinstance(by_class, dict)
        by_class[summary.class_name] = _means(summary)
    accuracy: dict[str, JsonValue] = {**about, "seed": report.seed, "results": results}
    manifest = replace(bundle.manifest, accuracy=accuracy)
    manifest.write(folder / MANIFEST_FILE)


def _means(summary: Summary) -> dict[str, JsonValue]:
    return {
        "lesions": summary.lesions,
        "dice": round(summary.dice.mean, DIGITS),
        "dice_95_interval": [round(end, DIGITS) for end in summary.dice_interval],
        "iou": round(summary.iou.mean, DIGITS),
        "nsd": round(summary.nsd.mean, DIGITS),
        "hd_px": round(summary.hd.mean, DIGITS),
        "hd_manhattan_px": round(summary.hd_manhattan.mean, DIGITS),
        "hd95_px": round(summary.hd95.mean, DIGITS),
        "hd_rows": round(summary.hd_rows.mean, DIGITS),
    }


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated."""

    protocols: tuple[PromptProtocol, ...] = STANDARD_PROTOCOLS
    """Kinds of prompt to summarise; the standard ones among them."""
    robustness: bool = False
    """Whether to make the robustness table."""
    normals: bool = True
    """Whether to prompt images without a lesion as well."""
    pictures: bool = False
    """Whether to draw the worst, median and best lesions."""
    worst_count: int = 5
    """How many of the worst lesions to draw for each standard protocol; at least 0."""
    seed: int = 0
    """Of prompts, perturbations and intervals; at least 0."""

    def __post_init__(self) -> None:
        """Check all of it."""
        lacking = [
            protocol.name for protocol in STANDARD_PROTOCOLS if protocol not in self.protocols
        ]
        problems = [f"protocols must include {name}" for name in lacking]
        if self.worst_count < 0:
            problems.append(f"worst_count must be at least 0, got {self.worst_count}")
        if self.seed < 0:
            problems.append(f"seed must be at least 0, got {self.seed}")
        if problems:
            raise BadArgumentError("; ".join(problems) + ".")


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """A report with its pictures."""

    report: EvaluationReport
    views: tuple[CaseView, ...]


def run_evaluation(
    predictor: Predictor[Embedding],
    cases: Sequence[UltrasoundCase],
    settings: EvaluationSettings,
    *,
    groups: Mapping[str, int] | None = None,
    about: Mapping[str, str] | None = None,
    on_case: Callable[[UltrasoundCase], None] | None = None,
) -> EvaluationResult:
    """Evaluate a predictor on cases with and without lesions.

    Args:
        predictor: what segments.
        cases: the cases; at least one has a lesion.
        settings: what to evaluate.
        groups: group number of each case key, see `evaluate`.
        about: what is evaluated on what; carried into the report.
        on_case: called after each case that was segmented, for progress. Cases without a lesion are
            left out if ``settings.normals`` is off.

    Raises:
        DataError: if no case has a lesion, or if files are missing or broken.
    """
    separated = separate_normals(cases)
    report = evaluate(
        predictor,
        separated.lesions,
        protocols=settings.protocols,
        variants=robustness_variants() if settings.robustness else (),
        seed=settings.seed,
        groups=groups,
        about=about,
        on_case=on_case,
    )
    if settings.robustness:
        report = replace(report, robustness=robustness_table(report.scores, settings.seed))
    if settings.normals:
        report = replace(
            report,
            normals=evaluate_normals(
                predictor,
                separated.normals,
                separated.typical_box_wh,
                report.scores,
                on_case=on_case,
            ),
        )
    views: tuple[CaseView, ...] = ()
    if settings.pictures:
        views = draw_case_views(
            predictor,
            separated.lesions,
            report.scores,
            STANDARD_PROTOCOLS,
            worst_count=settings.worst_count,
            seed=settings.seed,
        )
    return EvaluationResult(report, views)
