"""Signatures of bundles by OpenSSF Model Signing, with keys and certificates on the disk.

The signature lists the SHA-256 of every file of the bundle. It is compared with the hashes of what
was read: of the manifest that is in use, of the graphs that it names, which are held to these
hashes whenever they are read, and of everything else beside them. Nothing is looked up anywhere.
"""

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from samus_edge.errors import BadArgumentError, BundleError, SamusEdgeError, explain_import_error
from samus_edge.runtime.bundle.bundle_files import BundleFiles, sha256_of
from samus_edge.runtime.images.output_files import write_files_atomically

SIGNATURE_FILE = "model.sig"
"""In the bundle's folder, where Model Signing's own command looks for it."""

_MAX_BYTES = 1 << 20


def sign_folder(
    bundle: Path,
    files: BundleFiles,
    known: Mapping[str, str],
    key: Path,
    certificates: Path | None,
) -> Path:
    """See `Bundle.sign`; `files` are those of the folder, `known` as in `check_signature`."""
    content = _read_pem(key)
    chain = None if certificates is None else _read_pem(certificates)
    with TemporaryDirectory() as folder, _foreign(BadArgumentError, f"{key} cannot sign"):
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding
        from model_signing import signing

        draft = Path(folder)
        (draft / "key").write_bytes(content)
        config = signing.Config().set_hashing_config(_given(_hashes(files, known)))
        if chain is None:
            config.use_elliptic_key_signer(private_key=draft / "key")
        else:
            parts = []
            for number, each in enumerate(x509.load_pem_x509_certificates(chain)):
                parts.append(draft / f"certificate{number}")
                parts[-1].write_bytes(each.public_bytes(Encoding.PEM))
            config.use_certificate_signer(
                private_key=draft / "key",
                signing_certificate=parts[0],
                certificate_chain=parts[1:] or parts,  # it takes no empty chain
            )
        config.sign(bundle, draft / SIGNATURE_FILE)
        signature = (draft / SIGNATURE_FILE).read_bytes()
    path = bundle / SIGNATURE_FILE
    write_files_atomically({path: signature})
    return path


def check_signature(files: BundleFiles, known: Mapping[str, str], trusted: Path) -> None:
    """Refuse a bundle that is not, to the last file, what a trusted key has signed.

    Args:
        files: The bundle's files.
        known: SHA-256 by file of those that were read already, and that are compared with it
            whenever they are read again. All others are read here.
        trusted: PEM file with the signer's public key, or with the root certificates under one of
            which the signer's certificate has to be, and both be valid today.

    Raises:
        MissingExtraError: if Model Signing is not installed.
        BadArgumentError: if `trusted` is no such file.
        BundleError: if the bundle is unsigned, signed by somebody else, or has a file that was
            changed, added or removed since; or a certificate is not valid today.
    """
    roots = _read_pem(trusted)
    is_certificate = b"-----BEGIN CERTIFICATE-----" in roots
    if not is_certificate and b"-----BEGIN PUBLIC KEY-----" not in roots:
        raise BadArgumentError(
            f"{trusted} holds neither a public key nor a certificate. Expected a PEM file with the "
            "signer's public key, or the root certificate that the signer's is under."
        )
    if SIGNATURE_FILE not in files.names():
        raise BundleError(
            f"bundle {files.path} is not signed, and a signature was required: it has no "
            f"{SIGNATURE_FILE}. Get it from who made it, or sign it: samus-edge sign"
        )
    files.size_bytes(SIGNATURE_FILE)
    with files.opened(SIGNATURE_FILE) as stream:
        signature = stream.read(_MAX_BYTES)
    problem = f"bundle {files.path} is not one that {trusted} vouches for"
    with TemporaryDirectory() as folder, _foreign(BundleError, problem):
        from model_signing import verifying

        draft = Path(folder)
        (draft / SIGNATURE_FILE).write_bytes(signature)
        (draft / "trusted").write_bytes(roots)
        found = _hashes(files, known)
        config = verifying.Config().set_hashing_config(_given(found))
        if is_certificate:
            config.use_certificate_verifier(certificate_chain=[draft / "trusted"])
        else:
            config.use_elliptic_key_verifier(public_key=draft / "trusted")
        try:
            config.verify(files.path, draft / SIGNATURE_FILE)
        except ValueError as err:
            if str(err).startswith("Signature mismatch"):  # the last that is looked at
                raise BundleError(f"{problem}: {_differences(signature, found)}.") from err
            raise
        if is_certificate:
            _check_dates(signature, roots)


def _read_pem(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_BYTES)
    except OSError as err:
        raise BadArgumentError(
            f"{path} cannot be read ({err.strerror}). Name a PEM file with a key or certificate."
        ) from err


def _hashes(files: BundleFiles, known: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of every file but the signature."""
    names = [name for name in files.names() if name != SIGNATURE_FILE]
    return {name: known.get(name) or sha256_of(files, name) for name in names}


def _given(hashes: Mapping[str, str]) -> Any:
    """What tells Model Signing these hashes, instead of reading a folder again."""
    from model_signing._hashing.hashing import Digest  # nothing public makes one
    from model_signing.hashing import Config
    from model_signing.manifest import FileManifestItem, Manifest, SerializationType

    described = SerializationType.from_args(
        {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [SIGNATURE_FILE],
        }
    )
    items = [
        FileManifestItem(path=Path(name), digest=Digest("sha256", bytes.fromhex(sha256)))
        for name, sha256 in hashes.items()
    ]
    config = Config()
    config.hash = lambda path, **_: Manifest(path.name, items, described)
    return config


def _differences(signature: bytes, found: Mapping[str, str]) -> str:
    """How the files differ from those of a genuine signature."""
    payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
    signed = {each["name"]: each["digest"] for each in payload["predicate"]["resources"]}
    kinds = {
        "changed": [name for name in signed.keys() & found.keys() if signed[name] != found[name]],
        "added": found.keys() - signed.keys(),
        "removed": signed.keys() - found.keys(),
    }
    told = [f"{kind}: {', '.join(sorted(names)[:5])}" for kind, names in kinds.items() if names]
    return f"since it was signed, files were {'; '.join(told)}"


def _check_dates(signature: bytes, roots: bytes) -> None:
    """Check the certificates as of now; Model Signing has done so as of the signer's first day."""
    from cryptography import x509
    from OpenSSL import crypto

    material = json.loads(signature)["verificationMaterial"]
    signer, *others = [
        crypto.X509.from_cryptography(
            x509.load_der_x509_certificate(base64.b64decode(each["rawBytes"]))
        )
        for each in material["x509CertificateChain"]["certificates"]
    ]
    store = crypto.X509Store()
    for root in x509.load_pem_x509_certificates(roots):
        store.add_cert(crypto.X509.from_cryptography(root))
    crypto.X509StoreContext(store, signer, others).verify_certificate()


@contextmanager
def _foreign(error: type[Exception], problem: str) -> Iterator[None]:
    """Whatever Model Signing says of keys and signatures, as one error; its prints go to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (SamusEdgeError, BadArgumentError):
        raise
    except ImportError as err:
        raise explain_import_error("A signature", err) or err from err
    except Exception as err:  # what parsers of foreign bytes raise; whatever it is, it is a refusal
        reason = str(err).rstrip(". ") or type(err).__name__
        raise error(f"{problem}: {reason}.") from err
