"""A bundle that is about to be put in place, verified first."""

from collections.abc import Callable, Sequence
from pathlib import Path

from samus_edge.errors import ExportMismatchError
from samus_edge.evaluation.bundle_verification import VerificationResult, verify_bundle
from samus_edge.evaluation.verification_record import record_verification
from samus_edge.evaluation.verification_source import VerificationSource
from samus_edge.runtime.bundle import Bundle

__all__ = ["prove"]


def prove(
    draft: Path,
    source: VerificationSource,
    precisions: Sequence[str] | None = None,
    *,
    allow_failing: bool = False,
    command: str | None = None,
    on_frame: Callable[[str], None] | None = None,
) -> VerificationResult:
    """Verify a bundle, write the verdicts into its manifest, and refuse it if it fails.

    Args:
        draft: the bundle's folder, not yet in its place.
        source: real frames with prompts.
        precisions: which to verify; None for all.
        allow_failing: whether a precision that fails is let through, which the manifest then says.
        command: by which the bundle was made, for the record.
        on_frame: called with the name of each frame that was done.

    Raises:
        ExportMismatchError: naming every limit that does not hold.
    """
    result = verify_bundle(draft, source, precisions, on_frame=on_frame)
    if not result.passed and not allow_failing:
        raise ExportMismatchError(
            f"The bundle fails its verification: {'; '.join(result.failures())}. Nothing was "
            "written. --allow-failing ships it nevertheless, and says so in its manifest."
        )
    record_verification(
        Bundle.open(draft),
        result,
        allow_failing=allow_failing and not result.passed,
        command=command,
    )
    return result
