"""Signed bundles: whom they are from and that nothing was changed, with real keys and offline."""

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from samus_edge.errors import BadArgumentError, BundleError
from samus_edge.runtime import Bundle, Segmenter

pytest.importorskip("model_signing", reason="needs the extra signing")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing, verifying

NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)
GRAPH = "mask_decoder.onnx"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a connection or a look-up")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@dataclass(frozen=True)
class Identity:
    """A key with a certificate, and the files of both."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    folder: Path

    def file(self, *also: "Identity") -> Path:
        """The certificate and those of others, as one file."""
        path = self.folder / "-".join(each.folder.name for each in (self, *also))
        pem = [each.certificate.public_bytes(serialization.Encoding.PEM) for each in (self, *also)]
        path.write_bytes(b"".join(pem))
        return path


def write_key(key: ec.EllipticCurvePrivateKey, folder: Path) -> None:
    folder.mkdir()
    private, public = serialization.PrivateFormat.PKCS8, serialization.PublicFormat
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, private, plain))
    public_pem = key.public_key().public_bytes(pem, public.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public_pem)


def make_identity(
    folder: Path,
    issuer: Identity | None = None,
    *,
    days: tuple[int, int] = (-10, 10),
    may_sign: bool = True,
) -> Identity:
    """A root, or a certificate under an issuer; `days` from now is it valid."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(key, folder)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
    is_authority = "root" in folder.name or "middle" in folder.name
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    usage |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
    usage["key_encipherment"] = not may_sign
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=may_sign, key_cert_sign=is_authority, **usage),
            critical=True,
        )
        .sign(key if issuer is None else issuer.key, hashes.SHA256())
    )
    return Identity(key, certificate, folder)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """Signers under a root, one under another root, and roots that are no longer valid."""
    base = tmp_path_factory.mktemp("people")
    found: dict[str, Identity] = {}

    def add(name: str, issuer: str | None = None, **options: Any) -> None:
        above = None if issuer is None else found[issuer]
        found[name] = make_identity(base / name, above, **options)

    add("root")
    add("middle", "root")
    add("signer", "middle")
    add("expired", "middle", days=(-10, -1))
    add("early", "middle", days=(1, 10))
    add("no_signer", "middle", may_sign=False)
    add("other_root")
    add("old_root", days=(-10, -1))
    add("signer_of_old_root", "old_root")
    return found


@pytest.fixture
def bundle(disc_bundle_copy: Path) -> Path:
    """A bundle with a file that its manifest does not list, in a folder of its own."""
    (disc_bundle_copy / "notes").mkdir()
    (disc_bundle_copy / "notes" / "README.md").write_text("For the cart in room 3.")
    return disc_bundle_copy


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


def change_note(folder: Path) -> None:
    (folder / "notes" / "README.md").write_text("For the cart in room 4.")


def add_file(folder: Path) -> None:
    (folder / "notes" / "more.onnx").write_bytes(b"")


def remove_file(folder: Path) -> None:
    (folder / "notes" / "README.md").unlink()


def replace_graph(folder: Path) -> None:
    """What an attacker does: another graph, and its hash in the manifest."""
    graph = (folder / GRAPH).read_bytes() + b"\x72\x00"  # an empty field of a protocol buffer
    (folder / GRAPH).write_bytes(graph)
    manifest = json.loads((folder / "manifest.json").read_text())
    record = manifest["graphs"]["mask_decoder"]
    record |= {"sha256": sha256(graph).hexdigest(), "bytes": len(graph)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def remove_signature(folder: Path) -> None:
    (folder / "model.sig").unlink()


def cut_signature(folder: Path) -> None:
    content = (folder / "model.sig").read_bytes()
    (folder / "model.sig").write_bytes(content[: len(content) // 2])


def sign_other_files(folder: Path) -> None:
    """The payload of the signature says what is there; who signed has not said so."""
    change_note(folder)
    signed = json.loads((folder / "model.sig").read_text())
    key = folder.parent / "thief"
    write_key(ec.generate_private_key(ec.SECP256R1()), key)
    Bundle.open(folder).sign(key / "key.pem")
    forged = json.loads((folder / "model.sig").read_text())
    signed["dsseEnvelope"]["payload"] = forged["dsseEnvelope"]["payload"]
    (folder / "model.sig").write_text(json.dumps(signed))


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_note, "changed: notes/README.md"),
        (add_file, "added: notes/more.onnx"),
        (remove_file, "removed: notes/README.md"),
        (replace_graph, f"changed: manifest.json, {GRAPH}"),
        (remove_signature, "is not signed, and a signature was required"),
        (cut_signature, "is not one that .*key.pub vouches for"),
        (sign_other_files, "InvalidSignature"),
    ],
)
def test_a_bundle_that_is_not_as_it_was_signed_is_refused(
    bundle: Path,
    people: dict[str, Identity],
    change: Callable[[Path], None],
    said: str,
    is_zip: bool,
) -> None:
    signer = people["signer"].folder
    Bundle.open(bundle).sign(signer / "key.pem")
    trusted = signer / "key.pub"
    path = zipped(bundle) if is_zip else bundle
    with Segmenter.load(path, require_signature=trusted, threads=1) as segmenter:
        prompted = segmenter.segment(np.full((40, 60), 90, np.uint8), boxes=[[5, 5, 30, 30]])
    assert prompted.masks.shape == (1, 1, 40, 60)
    change(bundle)
    path = zipped(bundle) if is_zip else bundle
    with pytest.raises(BundleError, match=f"{path.name} .*{said}"):
        Segmenter.load(path, require_signature=trusted)
    Bundle.open(path)  # as before where no signature is asked for


@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated")  # of Model Signing's log
@pytest.mark.parametrize(
    ("signer", "trusted", "said"),
    [
        (["signer", "middle"], "root", None),
        (["signer", "middle"], "other_root", "unable to get"),
        (["signer"], "root", "unable to get"),
        (["expired", "middle"], "root", "expired"),
        (["early", "middle"], "root", "not yet valid"),
        (["no_signer", "middle"], "root", "cannot be used for signing"),
        (["signer_of_old_root"], "old_root", "expired"),
        (["root"], "signer_key", "is not one that"),
        ([], "root", "is not one that"),
        ([], "signer_key", None),
        ([], "root_key", "Key mismatch"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_a_signer_counts_under_the_root_that_is_trusted_and_while_its_certificate_is_valid(
    bundle: Path, people: dict[str, Identity], signer: list[str], trusted: str, said: str | None
) -> None:
    first, *others = [people[name] for name in signer or ["signer"]]
    Bundle.open(bundle).sign(first.folder / "key.pem", first.file(*others) if signer else None)
    identity = people[trusted.removesuffix("_key")]
    file = identity.folder / "key.pub" if trusted.endswith("_key") else identity.file()
    if said is None:
        Bundle.open(bundle, require_signature=file)
    else:
        with pytest.raises(BundleError, match=f"(?s){said}"):
            Bundle.open(bundle, require_signature=file)


def test_what_runs_is_what_was_signed_also_when_files_change_later(
    bundle: Path, people: dict[str, Identity]
) -> None:
    Bundle.open(bundle).sign(people["signer"].folder / "key.pem")
    opened = Bundle.open(bundle, require_signature=people["signer"].folder / "key.pub")
    replace_graph(bundle)
    with pytest.raises(BundleError, match=f"{GRAPH} has changed since the bundle was opened"):
        Segmenter.load(opened, backend="onnxruntime")


def test_a_signed_bundle_is_not_written_into(bundle: Path, people: dict[str, Identity]) -> None:
    signer = people["signer"].folder
    assert Bundle.open(bundle).unsigned_folder == bundle
    Bundle.open(bundle).sign(signer / "key.pem")
    with pytest.raises(BundleError, match=r"is signed.* Remove model\.sig"):
        _ = Bundle.open(bundle).unsigned_folder
    Bundle.open(bundle, require_signature=signer / "key.pub")


def test_links_are_not_signed_and_not_taken(bundle: Path, people: dict[str, Identity]) -> None:
    signer = people["signer"].folder
    Bundle.open(bundle).sign(signer / "key.pem")
    (bundle / "link").symlink_to(bundle / GRAPH)
    for refused in (
        lambda: Bundle.open(bundle).sign(signer / "key.pem"),
        lambda: Bundle.open(bundle, require_signature=signer / "key.pub"),
    ):
        with pytest.raises(BundleError, match="link is a link"):
            refused()


def test_model_signing_itself_takes_our_signature_and_we_take_its_own(
    bundle: Path, people: dict[str, Identity]
) -> None:
    key, public = (people["signer"].folder / name for name in ("key.pem", "key.pub"))
    file = Bundle.open(bundle).sign(key)
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(bundle, file)
    file.unlink()
    signing.Config().use_elliptic_key_signer(private_key=key).sign(bundle, file)
    Bundle.open(bundle, require_signature=public)


def test_keys_that_are_none_are_refused(bundle: Path, people: dict[str, Identity]) -> None:
    signer, other = people["signer"], people["other_root"]
    opened = Bundle.open(bundle)
    with pytest.raises(BadArgumentError, match=r"key.pub cannot sign"):
        opened.sign(signer.folder / "key.pub")
    with pytest.raises(BadArgumentError, match=r"cannot sign: The public key.*does not match"):
        opened.sign(signer.folder / "key.pem", other.file())
    assert not (bundle / "model.sig").exists()
    opened.sign(signer.folder / "key.pem")
    with pytest.raises(BadArgumentError, match="neither a public key nor a certificate"):
        Bundle.open(bundle, require_signature=signer.folder / "key.pem")
    with pytest.raises(BadArgumentError, match=r"missing\.pem cannot be read"):
        Bundle.open(bundle, require_signature=bundle / "missing.pem")
