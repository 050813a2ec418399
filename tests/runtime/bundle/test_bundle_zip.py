"""Bundles in zip files: the same as in a folder, and refused where a zip file could do harm."""

import shutil
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from samus_edge.errors import BundleError
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE, Manifest

FILES = ("manifest.json", "image_encoder.onnx", "mask_decoder.onnx")
# Where local and central headers have their fields, by APPNOTE 6.3, 4.3.7 and 4.3.12.
LOCAL_HEADER, CENTRAL_HEADER, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
FLAGS = {LOCAL_HEADER: 6, CENTRAL_HEADER: 8}
METHOD = {LOCAL_HEADER: 8, CENTRAL_HEADER: 10}


def zip_with(path: Path, contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip file of these entries, in this order."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def contents_of(folder: Path) -> dict[str, bytes]:
    """The three files of a bundle."""
    return {name: (folder / name).read_bytes() for name in FILES}


def set_in_headers(path: Path, offsets: dict[bytes, int], value: int) -> None:
    """Set two bytes in every header, at the offset that its kind has."""
    content = bytearray(path.read_bytes())
    for signature, offset in offsets.items():
        position = content.find(signature)
        while position >= 0:
            content[position + offset : position + offset + 2] = value.to_bytes(2, "little")
            position = content.find(signature, position + 4)
    path.write_bytes(content)


def refusal(path: Path) -> str:
    """What opening says."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    return str(caught.value)


def by_python(folder: Path, path: Path) -> None:
    files = [str(folder / name) for name in FILES]
    subprocess.run([sys.executable, "-m", "zipfile", "-c", str(path), *files], check=True)


def by_python_with_folder(folder: Path, path: Path) -> None:
    subprocess.run([sys.executable, "-m", "zipfile", "-c", str(path), str(folder)], check=True)


def by_shutil(folder: Path, path: Path) -> None:
    shutil.make_archive(str(path.with_suffix("")), "zip", folder.parent, folder.name)


def by_info_zip(folder: Path, path: Path) -> None:
    if shutil.which("zip") is None:
        pytest.skip("needs the command zip")
    subprocess.run(["zip", "-qr", str(path), folder.name], cwd=folder.parent, check=True)


def by_finder(folder: Path, path: Path) -> None:
    """As macOS does it: one folder, and a second one with its notes."""
    entries = {f"bundle/{name}": content for name, content in contents_of(folder).items()}
    notes = {f"__MACOSX/bundle/._{name}": b"\0\5\x16\7" for name in FILES}
    zip_with(path, {**entries, **notes}, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    "make", [by_python, by_python_with_folder, by_shutil, by_info_zip, by_finder]
)
def test_a_zip_of_any_tool_is_the_bundle_in_its_folder(
    disc_bundle: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    path = tmp_path / "discs.zip"
    make(disc_bundle, path)
    bundle = Bundle.open(path)
    assert bundle.path == path
    assert bundle.manifest == Manifest.read(disc_bundle / MANIFEST_FILE)
    for graph in ("image_encoder", "mask_decoder"):
        assert bundle.read_graph(graph) == (disc_bundle / f"{graph}.onnx").read_bytes()


def test_masks_from_a_zip_are_those_from_its_folder(
    disc_bundle: Path, disc_segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_with(tmp_path / "discs.zip", contents_of(disc_bundle), zipfile.ZIP_DEFLATED)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("TMPDIR", str(empty))
    monkeypatch.chdir(empty)
    image = np.full((50, 70), 90, np.uint8)
    expected = disc_segmenter.segment(image, boxes=[[10, 10, 40, 30]])
    with Segmenter.load(path, threads=1) as segmenter:
        found = segmenter.segment(image, boxes=[[10, 10, 40, 30]])
    assert np.array_equal(found.low_res_logits, expected.low_res_logits)
    assert [*empty.iterdir()] == []  # nothing was unpacked


def test_a_zip_has_no_folder_to_write_into(disc_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(zip_with(tmp_path / "discs.zip", contents_of(disc_bundle)))
    with pytest.raises(BundleError, match=r"discs\.zip is a zip file, which is only read\. Unpack"):
        _ = bundle.folder


def test_a_zip_changed_after_opening_is_not_run(disc_bundle: Path, tmp_path: Path) -> None:
    contents = contents_of(disc_bundle)
    path = zip_with(tmp_path / "discs.zip", contents)
    bundle = Bundle.open(path)
    zip_with(path, {**contents, "image_encoder.onnx": contents["image_encoder.onnx"][::-1]})
    with pytest.raises(BundleError, match=r"image_encoder\.onnx has changed since"):
        bundle.read_graph("image_encoder")
    assert "image_encoder.onnx has SHA-256" in refusal(path)


@pytest.mark.parametrize("cut", ["end", "start"])
def test_a_zip_that_was_cut_off_is_refused(disc_bundle: Path, tmp_path: Path, cut: str) -> None:
    path = zip_with(tmp_path / "discs.zip", contents_of(disc_bundle))
    content = path.read_bytes()
    path.write_bytes(content[:-100] if cut == "end" else content[100_000:])
    assert "discs.zip" in refusal(path)


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt", "a\nb"],
)
def test_a_zip_that_would_unpack_elsewhere_is_refused(
    disc_bundle: Path, tmp_path: Path, name: str
) -> None:
    path = zip_with(tmp_path / "discs.zip", {**contents_of(disc_bundle), name: b"x"})
    message = refusal(path)
    assert repr(name) in message and "without '..'" in message and "\n" not in message


def test_a_file_that_is_there_twice_is_refused(disc_bundle: Path, tmp_path: Path) -> None:
    path = zip_with(tmp_path / "discs.zip", contents_of(disc_bundle))
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's own, about what is wanted here
        archive.writestr("mask_decoder.onnx", b"other")
    assert "holds 'mask_decoder.onnx' twice" in refusal(path)


@pytest.mark.parametrize(
    ("offsets", "value", "message"),
    [
        (FLAGS, 0x1, "manifest.json is encrypted, and only files without a password are read"),
        *(
            (METHOD, method, f"compressed by method {method}, and only store (0) and deflate (8)")
            for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93, 99)
        ),
    ],
)
def test_encrypted_and_otherwise_compressed_files_are_refused(
    disc_bundle: Path, tmp_path: Path, offsets: dict[bytes, int], value: int, message: str
) -> None:
    path = zip_with(tmp_path / "discs.zip", contents_of(disc_bundle))
    set_in_headers(path, offsets, value)
    assert message in refusal(path)


def test_a_link_in_a_zip_is_refused(disc_bundle: Path, tmp_path: Path) -> None:
    contents = contents_of(disc_bundle)
    del contents["mask_decoder.onnx"]
    path = zip_with(tmp_path / "discs.zip", contents)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("mask_decoder.onnx")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "mask_decoder.onnx is a link, and only files are read" in refusal(path)


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        ((), "has no manifest.json, neither at its top nor in one folder there"),
        (("a/b/",), "has no manifest.json, neither at its top nor in one folder there"),
        (("a/", "b/"), "holds 2 bundles, in a/, b/; one expected"),
    ],
)
def test_a_zip_without_one_bundle_says_so(
    disc_bundle: Path, tmp_path: Path, prefixes: tuple[str, ...], message: str
) -> None:
    entries = {
        prefix + name: content
        for prefix in prefixes
        for name, content in contents_of(disc_bundle).items()
    }
    assert message in refusal(zip_with(tmp_path / "discs.zip", entries))


def peak_bytes_of_refusing(path: Path) -> tuple[str, int]:
    """What opening says, and how much memory Python took for that."""
    tracemalloc.start()
    try:
        return refusal(path), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["manifest.json", "mask_decoder.onnx"])
def test_a_file_that_would_unpack_to_much_more_is_not_unpacked(
    disc_bundle: Path, tmp_path: Path, name: str
) -> None:
    bomb_bytes = 200 << 20
    path = zip_with(tmp_path / "d.zip", {**contents_of(disc_bundle), name: b""})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in contents_of(disc_bundle).items():
            with archive.open(file, "w") as stream:
                for _ in range(bomb_bytes >> 20 if file == name else 0):
                    stream.write(bytes(1 << 20))
                if file != name:
                    stream.write(content)
    message, peak_bytes = peak_bytes_of_refusing(path)
    assert f"{name} would unpack from" in message and f"to {bomb_bytes} bytes" in message
    assert peak_bytes < 20 << 20


def test_a_size_that_is_a_lie_is_found_while_reading(disc_bundle: Path, tmp_path: Path) -> None:
    contents = contents_of(disc_bundle)
    honest = len(contents["mask_decoder.onnx"])
    contents["mask_decoder.onnx"] += bytes(50 << 20)
    path = zip_with(tmp_path / "discs.zip", contents, zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    true_size = len(contents["mask_decoder.onnx"]).to_bytes(4, "little")
    path.write_bytes(content.replace(true_size, honest.to_bytes(4, "little")))
    message, peak_bytes = peak_bytes_of_refusing(path)
    assert "mask_decoder.onnx cannot be read (Bad CRC-32" in message
    assert peak_bytes < 20 << 20


def test_a_directory_of_millions_of_files_is_not_read(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "many.zip", {"a": b""})
    content = path.read_bytes()
    start = content.index(CENTRAL_HEADER)
    end = content.index(END)
    entries = content[start:end] * 120_000
    tail = bytearray(content[end:])
    tail[12:16] = len(entries).to_bytes(4, "little")  # size of the directory
    path.write_bytes(content[:start] + entries + tail)
    message, peak_bytes = peak_bytes_of_refusing(path)
    assert f"directory has {len(entries)} bytes" in message
    assert peak_bytes < 20 << 20
