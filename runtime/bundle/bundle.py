"""A bundle: the graphs of one model and the manifest that describes them, in a folder or a zip."""

import hashlib
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from samus_edge.errors import BackendError, BadArgumentError, BundleError
from samus_edge.runtime.bundle.bundle_files import (
    BundleFiles,
    FolderFiles,
    check_file,
    is_safe_path,
    read_file,
)
from samus_edge.runtime.bundle.manifest import (
    IMAGE_ENCODER,
    LESION_PROPOSER,
    MANIFEST_FILE,
    FileRecord,
    GraphRecord,
    GraphSelection,
    Manifest,
)
from samus_edge.runtime.bundle.records import show_value


def default_bundle_path() -> Path:
    """Folder of the bundle that is installed with samus-edge.

    Example:
        >>> default_bundle_path().name
        'default_bundle'
    """
    return Path(__file__).resolve().parents[1] / "default_bundle"


# The key of every reference to another file. Engines look for such files by themselves, some in any
# folder; a graph that needs none does not have the word.
_EXTERNAL_KEY = b"location"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, every file of which was found whole.

    Attributes:
        files: The bundle's files.
        manifest: The bundle's description of itself.
        manifest_sha256: SHA-256 of the file that it was read from.
    """

    files: BundleFiles
    manifest: Manifest
    manifest_sha256: str

    @staticmethod
    def open(
        path: "str | os.PathLike[str] | Bundle | None" = None,
        *,
        require_signature: str | os.PathLike[str] | None = None,
    ) -> "Bundle":
        """Open a bundle and check the size and SHA-256 of every file that its manifest lists.

        Args:
            path: The bundle's folder, or a zip file of it; None for the default bundle. One that is
                open already is taken as it is.
            require_signature: PEM file with the public key of who has to have signed the bundle, or
                with the root certificate that the signer's is under; see docs/trust.md.

        Raises:
            BundleError: if there is no bundle, it is of a newer format version, or a file is
                missing, lies outside the bundle or differs from the manifest; every such file is
                named. And if the required signature is missing, or not of every file as it is.
        """
        bundle = path if isinstance(path, Bundle) else _open(path)
        if require_signature is not None:
            # Here, because few need it.
            from samus_edge.runtime.bundle.signature import check_signature

            check_signature(bundle.files, bundle.hashes(), Path(require_signature))
        return bundle

    def hashes(self) -> dict[str, str]:
        """SHA-256 by file of the manifest and of all that it lists."""
        graphs = self.manifest.graphs.values()
        files = [part for graph in graphs for part in (graph, *graph.external_data)]
        return {**{part.file: part.sha256 for part in files}, MANIFEST_FILE: self.manifest_sha256}

    def sign(
        self, key: str | os.PathLike[str], certificates: str | os.PathLike[str] | None = None
    ) -> Path:
        """Sign every file of the bundle as it was opened, into `model.sig` in its folder.

        Args:
            key: PEM file with an elliptic curve private key (P-256, P-384 or P-521), not encrypted.
            certificates: PEM file with the key's certificate, then those between it and the root;
                None to sign with the key alone.

        Returns:
            The signature's file; an older one is replaced.

        Raises:
            MissingExtraError: if Model Signing is not installed.
            BadArgumentError: if the key or a certificate cannot be used.
            BundleError: if the bundle is a zip file, or holds a link.
            OutputFileError: if the signature cannot be written.
        """
        from samus_edge.runtime.bundle.signature import sign_folder

        chain = None if certificates is None else Path(certificates)
        return sign_folder(self.folder, self.files, self.hashes(), Path(key), chain)

    @property
    def path(self) -> Path:
        """The bundle's folder or zip file."""
        return self.files.path

    @property
    def folder(self) -> Path:
        """The bundle's folder, for what writes into it.

        Raises:
            BundleError: if the bundle is a zip file.
        """
        if not isinstance(self.files, FolderFiles):
            raise BundleError(
                f"bundle {self.path} is a zip file, which is only read. Unpack it and name the "
                f"folder instead: unzip {self.path} -d {self.path.with_suffix('')}"
            )
        return self.files.path

    @property
    def unsigned_folder(self) -> Path:
        """The bundle's folder, for what changes its files.

        Raises:
            BundleError: if the bundle is a zip file, or signed: the signature would hold no longer.
        """
        from samus_edge.runtime.bundle.signature import SIGNATURE_FILE

        folder = self.folder
        if SIGNATURE_FILE in self.files.names():
            raise BundleError(
                f"bundle {folder} is signed, and a change of its manifest would break the "
                f"signature. Remove {SIGNATURE_FILE}, change the bundle, and sign it again."
            )
        return folder

    def graph_record(self, name: str) -> GraphRecord:
        """The manifest's record of one graph.

        Raises:
            BundleError: if the bundle has no graph of that name.
        """
        record = self.manifest.graphs.get(name)
        if record is None:
            names = ", ".join(sorted(self.manifest.graphs)) or "none"
            raise BundleError(
                f"bundle {self.path} has no graph {name!r}, only: {names}. Export it again."
            )
        return record

    def read_graph(self, name: str) -> bytes:
        """The bytes of one graph, checked once more, so that what runs is what was recorded.

        Raises:
            BundleError: if there is no such graph, its file has changed since the bundle was
                opened, or it keeps tensors in other files and the manifest lists none.
        """
        record = self.graph_record(name)
        graph = self._read_again(record)
        if _EXTERNAL_KEY in graph and not record.external_data:
            raise BundleError(
                f"{self.path / record.file} keeps tensors in other files, and the manifest lists "
                "none in its external_data. Export the bundle again."
            )
        return graph

    def read_external_data(self, name: str) -> dict[str, bytes]:
        """The files that one graph keeps tensors in, checked once more.

        Returns:
            Bytes by location, as the graph names it: relative to the graph's folder.

        Raises:
            BundleError: as `read_graph`.
        """
        locations = _locations(self.graph_record(name))
        return {location: self._read_again(data) for location, data in locations.items()}

    def _read_again(self, record: FileRecord) -> bytes:
        try:
            return read_file(self.files, record)
        except BundleError as err:
            raise BundleError(
                f"{self.path / record.file} has changed since the bundle was opened ({err}). "
                "Copy or export the bundle again."
            ) from err


def _files_of(path: Path, is_default: bool) -> BundleFiles:
    if path.is_dir():
        return FolderFiles(path)
    if is_default:
        raise BundleError(
            f"this installation has no default bundle (expected in {path}). "
            "Install samus-edge again, or name a bundle."
        )
    found = "does not exist"
    if path.exists():
        # Here, because what it imports would make opening a folder slower.
        from samus_edge.runtime.bundle.bundle_zip import ZipFiles, is_zip_file

        if is_zip_file(path):
            return ZipFiles(path)
        found = "is neither a folder nor a whole zip file"
    raise BundleError(
        f"bundle {path} {found}. Name a folder that `samus-edge export` has made, a zip file "
        "of it, or none for the default bundle."
    )


def _open(path: str | os.PathLike[str] | None) -> Bundle:
    files = _files_of(default_bundle_path() if path is None else Path(path), path is None)
    content = files.read_manifest()
    manifest = Manifest.from_bytes(content, str(files.path / MANIFEST_FILE))
    bundle = Bundle(files, manifest, hashlib.sha256(content).hexdigest())
    problems = [
        problem
        for name, record in bundle.manifest.graphs.items()
        for problem in _problems(files, name, record)
    ]
    if problems:
        raise BundleError(
            f"bundle {files.path} was damaged or changed: {'; '.join(problems)}. "
            "Copy or export the bundle again."
        )
    return bundle


def _problems(files: BundleFiles, name: str, record: GraphRecord) -> Iterator[str]:
    """Everything that is wrong with the files of a graph."""
    for part in (record, *record.external_data):
        if not is_safe_path(part.file):
            yield (
                f"graph {show_value(name)} names the file {show_value(part.file)}, which is "
                "outside the folder or no plain path (relative, forward slashes, no '..', none of "
                '\\:*?"<>|)'
            )
            continue
        try:
            check_file(files, part)
        except BundleError as err:
            yield str(err)


def _locations(record: GraphRecord) -> dict[str, FileRecord]:
    """A graph's listed files by the location that the graph names: relative to its own folder."""
    # Absolute, or the working directory would be asked for.
    folder = posixpath.dirname(f"/{record.file}")
    return {posixpath.relpath(f"/{data.file}", folder): data for data in record.external_data}


PRECISIONS = ("auto", "fp32", "fp16", "int8", "int8-cpu")
"""What a user may ask for. There are two int8 recipes, since the best one differs: "int8" for
TensorRT (signed and symmetric), "int8-cpu" for CPUs with 8-bit dot products."""


def check_precision(precision: str) -> None:
    """Refuse an unknown precision.

    Raises:
        BadArgumentError: if it is not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise BadArgumentError(
            f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}."
        )


def reference_precision(bundle: Bundle) -> str:
    """The precision of the graphs that all others of a bundle were made from, usually "fp32"."""
    return bundle.graph_record(IMAGE_ENCODER).precision


def available_precisions(bundle: Bundle) -> dict[str, GraphSelection]:
    """Everything that a bundle offers, its reference first."""
    reference = reference_precision(bundle)
    others = {
        name: graphs for name, graphs in bundle.manifest.precisions.items() if name != reference
    }
    return {reference: GraphSelection(), **others}


def precision_name(bundle: Bundle, precision: str) -> str:
    """The precision that a bundle runs in when asked for one.

    Args:
        bundle: An opened bundle.
        precision: One of `PRECISIONS`; "auto" is the reference, which is the most accurate.

    Raises:
        BackendError: if the bundle does not have it; names those that it has.
    """
    if precision == "auto":
        return reference_precision(bundle)
    available = available_precisions(bundle)
    if precision not in available:
        raise BackendError(
            f"bundle {bundle.path} is in {', '.join(available)}, not in {precision}. "
            f"Use one of these or auto, or add it: samus-edge calibrate --precision {precision}"
        )
    return precision


def graphs_to_run(bundle: Bundle, precision: str) -> list[str]:
    """Names of all graphs that serve a precision; arguments and errors as `precision_name`."""
    graphs = select_graphs(bundle, precision)
    proposer = [LESION_PROPOSER] if LESION_PROPOSER in bundle.manifest.graphs else []
    return [graphs.image_encoder, graphs.mask_decoder, *proposer]


def select_graphs(bundle: Bundle, precision: str) -> GraphSelection:
    """The graphs that compute in a precision; arguments and errors as `precision_name`."""
    return available_precisions(bundle)[precision_name(bundle, precision)]
