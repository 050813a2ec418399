"""Manifests: what is written, read back and refused, and which tensors fit a recorded one."""

import json
from pathlib import Path
from typing import Any

import pytest

from samus_edge.errors import BundleError
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE, Manifest, TensorSpec
from samus_edge.runtime.bundle.records import to_json


@pytest.mark.parametrize(
    ("dtype", "shape", "fits"),
    [
        ("float32", (3, 7, 2), True),
        ("float32", ("n", None, 2), True),  # sizes not known yet
        ("float32", (3, 7, 3), False),  # a fixed size differs
        ("float32", (7, 2), False),  # rank
        ("float64", (3, 7, 2), False),  # dtype
    ],
)
def test_only_sizes_known_on_both_sides_must_agree(
    dtype: str, shape: tuple[int | str | None, ...], fits: bool
) -> None:
    spec = TensorSpec("point_coords", "float32", ("N", "P", 2))
    assert spec.accepts(dtype, shape) is fits


def changed(manifest: Manifest, path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """The manifest's JSON with one field set, or removed where the value is `...`."""
    document: dict[str, Any] = json.loads(json.dumps(to_json(manifest)))
    target: Any = document
    for step in path[:-1]:
        target = target[step]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return document


def read(document: dict[str, Any]) -> Manifest:
    """The manifest of a JSON document."""
    return Manifest.from_bytes(json.dumps(document).encode(), "manifest.json")


def test_what_is_written_is_read_back(disc_manifest: Manifest, tmp_path: Path) -> None:
    disc_manifest.write(tmp_path / MANIFEST_FILE)
    assert Manifest.read(tmp_path / MANIFEST_FILE) == disc_manifest


def test_every_field_of_the_contract_is_in_the_json(disc_manifest: Manifest) -> None:
    document = json.loads(json.dumps(to_json(disc_manifest)))
    assert set(document) == {
        *("format", "format_version", "name", "model", "arch", "weights_sha256", "created_with"),
        *("preprocessing", "prompts", "mask_threshold", "graphs", "parity", "accuracy"),
        *("licence", "credits", "intended_use", "limits"),
    }
    graphs: Any = document["graphs"]
    assert set(graphs["image_encoder"]) == {
        *("file", "sha256", "bytes", "precision", "weight_storage", "opset", "inputs", "outputs")
    }
    assert graphs["image_encoder"]["inputs"] == [
        {"name": "image", "dtype": "uint8", "shape": ["B", "H", "W"]}
    ]


@pytest.mark.parametrize(
    "path",
    [
        ("later",),
        ("preprocessing", "later"),
        ("prompts", "later"),
        ("graphs", "image_encoder", "later"),
        ("graphs", "image_encoder", "inputs", 0, "later"),
    ],
)
def test_unknown_fields_survive_reading_and_writing(
    disc_manifest: Manifest, tmp_path: Path, path: tuple[str | int, ...]
) -> None:
    document = changed(disc_manifest, path, {"nested": [1, None, "text"]})
    file = tmp_path / MANIFEST_FILE
    file.write_text(json.dumps(document))
    Manifest.read(file).write(file)
    assert json.loads(file.read_text()) == document


def test_a_newer_minor_version_is_read_and_kept(disc_manifest: Manifest) -> None:
    manifest = read(changed(disc_manifest, ("format_version",), "1.7"))
    assert to_json(manifest)["format_version"] == "1.7"


def test_a_newer_major_version_is_refused_before_anything_else(disc_manifest: Manifest) -> None:
    document = changed(disc_manifest, ("format_version",), "2.0")
    document["graphs"] = "of a kind that we do not know"
    with pytest.raises(BundleError, match=r"format version 2\.0.*up to 1\.x.*Upgrade") as caught:
        read(document)
    assert "graphs" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "something-else", r"format is 'something-else', expected \"samus-edge"),
        (("format",), ..., "format is missing"),
        (("format_version",), "0.9", r"format version 0\.9.*reads 1\.x"),
        (("format_version",), "one", "format_version must look like .* got 'one'"),
        (("name",), "", "name must be a non-empty string, got ''"),
        (("created_with",), {"torch": 2}, "created_with.torch must be a string, got 2"),
        (("preprocessing",), ..., "preprocessing is missing"),
        (("preprocessing", "image_size"), 0, "preprocessing.image_size must be a positive integer"),
        (("prompts", "frame"), "original", "prompts.frame must be 'model', got 'original'"),
        (("graphs", "mask_decoder", "sha256"), "ABC", "graphs.mask_decoder.sha256 must be 64"),
        (("mask_threshold",), 10**400, "mask_threshold must be a finite number, got 1000"),
        (("prompts", "size"), 10**400, r"prompts.size must be a positive integer up to 2\*\*53"),
        (("format_version",), "\u0661.0", "format_version must look like"),  # another script's 1
        (
            ("graphs", "mask_decoder", "external_data"),
            [{"file": "w.bin", "bytes": 8, "sha256": "ABC"}],
            r"graphs.mask_decoder.external_data\[0\].sha256 must be 64 lower-case hex digits",
        ),
        (("graphs", "mask_decoder", "bytes"), -1, "graphs.mask_decoder.bytes must be a positive"),
        (("limits",), "x" * 200, r"limits must be a list, got 'x{59}\.\.\."),
    ],
)
def test_a_wrong_field_is_named_with_its_value(
    disc_manifest: Manifest, path: tuple[str | int, ...], value: object, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        read(changed(disc_manifest, path, value))


def test_all_problems_are_reported_at_once(disc_manifest: Manifest) -> None:
    document = changed(disc_manifest, ("licence",), ...)
    del document["model"]
    document["graphs"]["image_encoder"]["opset"] = "18"
    with pytest.raises(BundleError) as caught:
        read(document)
    for part in ("licence is missing", "model is missing", "graphs.image_encoder.opset"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b'{"mask_threshold": NaN}', "NaN is not a JSON number"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", r"the document must be a mapping, got \[\]"),
        (b" " * (5 << 20), "has more than 4194304 bytes"),
        (b'{"a": {"sha256": "0", "sha256": "1"}}', "the field 'sha256' is there twice"),
        (b'{"later": 1e999}', "a number is too large"),
        (b'{"later": 1' + b"0" * 5000 + b"}", "is not valid JSON"),
        (b'{"later": ' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 64 deep"),
        (b'{"name": "\\u001b[2J"}', r"a text holds the control character '\\x1b'"),
        (b'{"\\u0000": 1}', r"a text holds the control character '\\x00'"),
        (b'{"name": "\\ud800"}', r"a text holds the control character '\\ud800'"),
        ('{"name": "x"}'.encode("utf-16"), "is not valid JSON"),
    ],
)
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / MANIFEST_FILE
    file.write_bytes(content)
    with pytest.raises(BundleError, match=message) as caught:
        Manifest.read(file)
    assert str(file) in str(caught.value)
