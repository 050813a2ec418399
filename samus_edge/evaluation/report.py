"""What an evaluation found: one score per lesion and prompt, and what they sum up to."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from samus_edge.evaluation.normal_images import NormalsSummary
from samus_edge.evaluation.robustness import RobustnessRow
from samus_edge.evaluation.summary import InstanceScore, Summary
from samus_edge.runtime.images.output_files import write_files_atomically

__all__ = ["EvaluationReport"]


@dataclass(frozen=True)
class EvaluationReport:
    """The result of `samus_edge.evaluation.evaluate.evaluate`."""

    scores: tuple[InstanceScore, ...]
    """One per lesion, image variant and prompt protocol, in the order evaluated."""
    summaries: tuple[Summary, ...]
    """For each prompt protocol: everything, then each class, then each lesion size."""
    seed: int
    """Of the prompts and of the bootstrap."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What was evaluated on what, for the reader."""
    robustness: tuple[RobustnessRow, ...] = ()
    """The robustness table; empty if it was not asked for."""
    normals: tuple[NormalsSummary, ...] = ()
    """What prompts on images without a lesion give; empty if there are none, or not asked for."""

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
        """Write the JSON document, the CSV file or both, each whole or not at all.

        Args:
            json_path: File of `to_json`.
            csv_path: File of `to_csv`.
            also: Contents of further files, such as an HTML report, written together with them.

        Raises:
            OutputFileError: If a file cannot be written.
        """
        contents = dict(also or {})
        if json_path is not None:
            contents[json_path] = self.to_json().encode()
        if csv_path is not None:
            contents[csv_path] = self.to_csv().encode()
        write_files_atomically(contents)
