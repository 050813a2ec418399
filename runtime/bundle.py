"""A bundle: a folder with the graphs of one model and the manifest that describes them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from samus_edge.errors import BundleError
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.runtime.graph_record import GraphRecord
from samus_edge.runtime.manifest import MANIFEST_FILE, Manifest

__all__ = ["Bundle", "default_bundle_folder"]


def default_bundle_folder() -> Path:
    """Where the bundle that is installed with samus-edge lies."""
    return Path(__file__).resolve().parent / "default_bundle"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, every graph of which was found whole.

    Attributes:
        folder: the bundle's folder.
        manifest: what the bundle says about itself.
    """

    folder: Path
    manifest: Manifest

    @staticmethod
    def open(folder: str | os.PathLike[str] | None = None) -> "Bundle":
        """Open a bundle and check the size and SHA-256 of every graph in it.

        Args:
            folder: the bundle's folder; None for the default bundle.

        Raises:
            BundleError: if the folder is not a bundle, is of a newer format version, or has a graph
                that is missing, lies outside the folder or differs from the manifest; every such
                file is named.
        """
        path = default_bundle_folder() if folder is None else Path(folder)
        if folder is None and not path.is_dir():
            raise BundleError(
                f"this installation has no default bundle (expected in {path}). "
                "Install samus-edge again, or name the folder of a bundle."
            )
        if not path.is_dir():
            found = "is not a folder" if path.exists() else "does not exist"
            raise BundleError(
                f"bundle {path} {found}. Name a folder that `samus-edge export` has made, "
                "or none for the default bundle."
            )
        bundle = Bundle(folder=path, manifest=Manifest.read(path / MANIFEST_FILE))
        graphs = bundle.manifest.graphs.items()
        problems = [problem for name, record in graphs if (problem := bundle._fault(name, record))]
        if problems:
            raise BundleError(
                f"bundle {path} was damaged or changed: {'; '.join(problems)}. "
                "Copy or export the bundle again."
            )
        return bundle

    def graph_record(self, name: str) -> GraphRecord:
        """The manifest's record of one graph.

        Raises:
            BundleError: if the bundle has no graph of that name.
        """
        record = self.manifest.graphs.get(name)
        if record is None:
            names = ", ".join(sorted(self.manifest.graphs)) or "none"
            raise BundleError(
                f"bundle {self.folder} has no graph {name!r}, only: {names}. Export it again."
            )
        return record

    def read_graph(self, name: str) -> bytes:
        """The bytes of one graph, checked once more, so that what runs is what was recorded.

        Raises:
            BundleError: if there is no such graph, or its file has changed since the bundle was
                opened.
        """
        record = self.graph_record(name)
        path = self.folder / record.file
        try:
            content = path.read_bytes()
        except OSError as err:
            raise BundleError(f"{path} cannot be read ({err.strerror}).") from err
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise BundleError(
                f"{path} has changed since the bundle was opened. Copy or export the bundle again."
            )
        return content

    def _fault(self, name: str, record: GraphRecord) -> str | None:
        """What is wrong with a graph's file, or None."""
        if not self._is_inside(record.file):
            return f"graph {name!r} names the file {record.file!r}, which is outside the folder"
        path = self.folder / record.file
        try:
            if not path.is_file():
                return f"{record.file} is missing"
            size_bytes = path.stat().st_size
            if size_bytes != record.size_bytes:
                return f"{record.file} has {size_bytes} bytes, expected {record.size_bytes}"
            sha256 = sha256_of_file(path)
        except OSError as err:
            return f"{record.file} cannot be read ({err.strerror})"
        if sha256 != record.sha256:
            return f"{record.file} has SHA-256 {sha256}, expected {record.sha256}"
        return None

    def _is_inside(self, file: str) -> bool:
        """Whether a graph's path stays in the folder, on every system and through links too."""
        pure, windows = PurePosixPath(file), PureWindowsPath(file)
        if pure.is_absolute() or windows.is_absolute() or windows.drive or "\\" in file:
            return False
        if ".." in pure.parts or "\0" in file:
            return False
        return (self.folder / file).resolve().is_relative_to(self.folder.resolve())
