"""Measured accuracy, written into the manifest of the bundle that it was measured on."""

from dataclasses import replace

from samus_edge.evaluation.report import EvaluationReport
from samus_edge.evaluation.summary import ALL_SIZES, Summary
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_contract import IMAGE_ENCODER, MASK_DECODER
from samus_edge.runtime.json_fields import JsonValue
from samus_edge.runtime.manifest import MANIFEST_FILE

__all__ = ["record_accuracy"]

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
            raise ValueError(
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
