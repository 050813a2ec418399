"""What a verification found, written into the manifest of the bundle that was verified."""

from collections.abc import Mapping
from dataclasses import replace

from samus_edge.evaluation.bundle_verification import PrecisionVerification, VerificationResult
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_contract import IMAGE_ENCODER, MASK_DECODER
from samus_edge.runtime.json_fields import JsonValue
from samus_edge.runtime.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest
from samus_edge.runtime.precision import select_graphs

__all__ = ["record_verification"]

DIGITS = 6
"""Significant digits of recorded figures."""

_FILE_NAMES = ("mask_iou_worst_case",)
"""Figures that name a frame: a bundle travels further than the data it was verified on."""


def record_verification(
    bundle: Bundle,
    result: VerificationResult,
    *,
    allow_failing: bool = False,
    command: str | None = None,
) -> Manifest:
    """Put the verdicts into a bundle's manifest, those of other precisions stay.

    A precision that failed is recorded as such; one that its user ships nevertheless has
    ``allowed_failing`` as well. Names of frames and times of day are not recorded.

    Args:
        bundle: the bundle, as it was opened for the verification.
        result: its verification.
        allow_failing: whether its user ships what failed.
        command: by which it can be repeated.

    Returns:
        The manifest as it was written; an older format version is raised to ours.

    Raises:
        BundleError: if the bundle is a zip file, which is only read.
        BackendError: if the bundle has not one of the precisions.
        ValueError: if the result is of other graphs than the bundle's.
        OutputFileError: if the manifest cannot be written.
    """
    folder = bundle.folder
    verification = dict(bundle.manifest.verification)
    for verified in result.precisions:
        _check_graphs(bundle, verified)
        verification[verified.precision] = _entry(result, verified, allow_failing, command)
    manifest = replace(
        bundle.manifest,
        verification=verification,
        format_version=_at_least(bundle.manifest.format_version, FORMAT_VERSION),
    )
    manifest.write(folder / MANIFEST_FILE)
    return manifest


def _check_graphs(bundle: Bundle, verified: PrecisionVerification) -> None:
    selected = select_graphs(bundle, verified.precision)
    for kind, name in (
        (IMAGE_ENCODER, selected.image_encoder),
        (MASK_DECODER, selected.mask_decoder),
    ):
        found, expected = verified.graphs[kind], bundle.graph_record(name).sha256
        if found != expected:
            raise ValueError(
                f"the verification is of the {verified.precision} {kind} {found}, and "
                f"{bundle.path} has {expected}. Verify this bundle."
            )


def _entry(
    result: VerificationResult,
    verified: PrecisionVerification,
    allow_failing: bool,
    command: str | None,
) -> dict[str, JsonValue]:
    allowed = allow_failing and not verified.passed
    document = {**verified.to_json(), **result.about}
    return {
        "passed": verified.passed,
        **({"allowed_failing": True} if allowed else {}),
        **{name: _recorded(value) for name, value in document.items() if name != "passed"},
        **({"command": _printable(command)} if command else {}),
    }


def _recorded(value: JsonValue) -> JsonValue:
    """As a manifest may hold it: rounded, printable, without the names of frames."""
    if isinstance(value, Mapping):
        return {key: _recorded(item) for key, item in value.items() if key not in _FILE_NAMES}
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, (list, tuple)):
        return [_recorded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _printable(text: str) -> str:
    """Names of folders may hold what a manifest may not: control characters, lone surrogates."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _at_least(version: str, lowest: str) -> str:
    """The newer one of two "major.minor"."""
    return max(version, lowest, key=lambda each: tuple(map(int, each.split("."))))
