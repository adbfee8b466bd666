"""The embedded authority: what it signs, and the folder that it lives in."""

import base64
import multiprocessing
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from certbob.ca.builtin import Authority, BuiltinCA, open_authority, sign_leaf
from certbob.errors import CannotStart, CARefused, Problem
from certbob.lint import check_chain, check_leaf
from certbob.ports import CertificateAuthority, Chain, Trust
from certbob.profiles import KeyType, Usage
from certbob.secret import Secret
from tests.support import der, pki
from tests.support.clock import FakeClock
from tests.support.core import InlineSigners
from tests.support.peers import path_of
from tests.support.pkcs12 import AES_256_CBC, HMAC_SHA256, Protection
from tests.support.pki import NOW

PASSPHRASE = Secret("correct horse, ünder stäple")
FILES = ["intermediate.key", "intermediate.pem", "root.key", "root.pem"]
KEY_FILES = ["intermediate.key", "root.key"]
# Those that `[builtin] key_type` takes.
CA_KEY_TYPES = [KeyType.P256, KeyType.P384, KeyType.RSA3072, KeyType.RSA4096]


def open_(folder: Path, **changes: Any) -> Authority:
    settings = {
        "name": "Example",
        "organization": "Example Org",
        "key_type": KeyType.P256,
        "passphrase": None,
        "now": NOW,
    }
    return open_authority(folder, **{**settings, **changes})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return open_(tmp_path_factory.mktemp("data") / "ca")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to copy from: deriving a key from a passphrase takes its time."""
    folder = tmp_path_factory.mktemp("data") / "ca"
    open_(folder, passphrase=PASSPHRASE)
    return folder


@pytest.fixture
def folder(data_dir: Path) -> Path:
    folder = data_dir / "ca"
    open_(folder)
    return folder


@pytest.fixture
def encrypted_folder(data_dir: Path, encrypted: Path) -> Path:
    return Path(shutil.copytree(encrypted, data_dir / "ca"))


def ca_of(authority: Authority, clock: FakeClock) -> BuiltinCA:
    return BuiltinCA(authority, signers=InlineSigners(), clock=clock)


def leaf_of(authority: Authority, key_type: KeyType = KeyType.P256, **changes: Any) -> x509.Certificate:
    content = sign_leaf(
        pki.signing_request(key_type, **changes),
        now=NOW,
        issuer=authority.intermediate.public_bytes(Encoding.DER),
        issuer_key=authority.key,
    )
    return x509.load_der_x509_certificate(content)


# What it signs


@pytest.mark.parametrize("key_type", KeyType)
def test_a_leaf_says_what_was_asked_for_and_nothing_more(authority: Authority, key_type: KeyType) -> None:
    leaf = leaf_of(authority, key_type)
    issuing = authority.intermediate
    expected = [
        (True, x509.BasicConstraints(ca=False, path_length=None)),
        (True, pki.key_usage("digital_signature")),
        (False, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
        (False, x509.SubjectAlternativeName([x509.RFC822Name("ada@example.org")])),
        (False, x509.SubjectKeyIdentifier.from_public_key(leaf.public_key())),
        (False, x509.AuthorityKeyIdentifier(ski(issuing).digest, None, None)),
    ]

    assert leaf.version is x509.Version.v3
    assert leaf.issuer.public_bytes() == issuing.subject.public_bytes()
    assert leaf.subject.public_bytes() == pki.name(
        (NameOID.COMMON_NAME, "Ada Lovelace"), (NameOID.ORGANIZATION_NAME, "Example Org")
    )
    assert leaf.public_key() == x509.load_der_x509_csr(pki.new_key(key_type).csr).public_key()
    assert leaf.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert leaf.not_valid_after_utc == NOW - timedelta(minutes=5) + pki.DAYS_90 - timedelta(seconds=1)
    assert leaf.signature_algorithm_oid.dotted_string == "1.2.840.10045.4.3.2"
    assert [(extension.critical, extension.value) for extension in leaf.extensions] == expected


def test_a_leaf_is_plain_der(authority: Authority) -> None:
    """Down to the last byte it is what an independent reader writes again."""
    content = leaf_of(authority).public_bytes(Encoding.DER)

    assert rewritten(der.parse(content)) == content


@pytest.mark.parametrize(
    "changes",
    [
        {"email": None},
        {"organization": None},
        {"usages": tuple(Usage)},
        {"validity": timedelta(minutes=6)},
        {"validity": timedelta(days=730)},
        {"common_name": "Zoë 山田"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_every_right_request_is_signed_as_asked(authority: Authority, changes: dict[str, Any]) -> None:
    leaf = leaf_of(authority, **changes)
    chain = Chain(leaf, (authority.intermediate,))
    request = pki.signing_request(**changes)

    assert check_leaf(leaf, request, BuiltinCA.rules, now=NOW) == []
    assert check_chain(chain, Trust(authority.root, (authority.intermediate,)), now=NOW) == []


def test_without_an_address_the_leaf_names_our_own_id(authority: Authority) -> None:
    leaf = leaf_of(authority, email=None)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert list(names) == [x509.UniformResourceIdentifier(f"urn:uuid:{pki.SUBJECT}")]


def test_serial_numbers_are_128_random_bits(authority: Authority) -> None:
    serials = [leaf_of(authority).serial_number for _ in range(64)]
    low = [serial & (1 << 127) - 1 for serial in serials]

    assert {serial.bit_length() for serial in serials} == {128}
    assert len(set(serials)) == 64
    # Every bit but the first is now set and now not: by chance otherwise once in 10^17 runs.
    assert all({serial >> place & 1 for serial in low} == {0, 1} for place in range(127))


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"common_name": "alice,O=Evil"}, "may hold"),
        ({"email": "a@b.c,e@v.il"}, "e-mail"),
        ({"usages": (Usage.IPSEC_IKE,)}, "clientAuth"),
        ({"validity": timedelta(0)}, "validity"),
        ({"public_key": pki.new_key(common_name="Bert").public_key}, "another key"),
    ],
)
async def test_a_wrong_request_is_refused(
    authority: Authority, clock: FakeClock, changes: dict[str, Any], finding: str
) -> None:
    clock.set(NOW)

    with pytest.raises(CARefused, match=finding):
        await ca_of(authority, clock).sign(pki.signing_request(**changes))


async def test_it_signs_with_its_intermediate_and_shows_its_root(
    authority: Authority, clock: FakeClock
) -> None:
    clock.set(NOW)
    ca: CertificateAuthority = ca_of(authority, clock)
    request = pki.signing_request()
    chain, trust = await ca.sign(request), await ca.trust()

    assert chain.intermediates == (authority.intermediate,)
    assert trust == Trust(authority.root, (authority.intermediate,))
    assert check_leaf(chain.leaf, request, ca.rules, now=NOW) == []
    assert check_chain(chain, trust, now=NOW) == []


async def test_it_never_signs_beyond_its_own_end(authority: Authority, clock: FakeClock) -> None:
    end = authority.intermediate.not_valid_after_utc
    clock.set(end - timedelta(days=30))
    ca = ca_of(authority, clock)
    longest = await ca.longest_validity()
    chain = await ca.sign(pki.signing_request(validity=longest))

    assert longest == timedelta(days=30)
    assert chain.leaf.not_valid_after_utc <= end
    with pytest.raises(CARefused, match="longer than the authority"):
        await ca.sign(pki.signing_request(validity=longest + timedelta(seconds=1)))


async def test_it_says_when_its_own_end_is_near(authority: Authority, clock: FakeClock) -> None:
    ca, end = ca_of(authority, clock), authority.intermediate.not_valid_after_utc
    clock.set(end - timedelta(days=2))
    healthy = await ca.health()
    clock.set(end - timedelta(hours=23))
    ending = await ca.health()
    clock.set(end + timedelta(days=1))

    assert healthy is None
    assert ending == "the authority's own certificate ends within a day"
    assert await ca.longest_validity() == timedelta(0)
    with pytest.raises(CARefused):
        await ca.sign(pki.signing_request(validity=timedelta(minutes=5)))


@pytest.mark.parametrize("key_type", CA_KEY_TYPES)
def test_an_authority_is_a_root_with_one_intermediate(data_dir: Path, key_type: KeyType) -> None:
    authority = open_(data_dir / "ca", key_type=key_type)
    root, issuing = authority.root, authority.intermediate
    leaf = leaf_of(authority)

    assert_authority(root, "Example Root CA", key_type, path_length=1, years=20)
    assert_authority(issuing, "Example Issuing CA", key_type, path_length=0, years=10)
    assert root.issuer == root.subject == issuing.issuer
    assert aki(issuing).key_identifier == ski(root).digest
    assert ski(root) != ski(issuing)
    assert check_chain(Chain(leaf, (issuing,)), Trust(root, (issuing,)), now=NOW) == []


def test_an_authority_needs_no_organization(data_dir: Path) -> None:
    authority = open_(data_dir / "ca", organization=None)

    assert authority.intermediate.subject.public_bytes() == pki.common_name("Example Issuing CA")


def test_the_key_does_not_show_in_its_repr(authority: Authority) -> None:
    assert "key" not in repr(authority)


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("key_type", CA_KEY_TYPES)
def test_openssl_takes_its_leaves_for_clients_and_not_for_servers(data_dir: Path, key_type: KeyType) -> None:
    authority = open_(data_dir / "ca", key_type=key_type)
    (data_dir / "leaf.pem").write_bytes(leaf_of(authority).public_bytes(Encoding.PEM))
    client, server = (
        subprocess.run(
            [
                path_of("openssl"),
                *("verify", "-x509_strict", "-purpose", purpose),
                *("-CAfile", "ca/root.pem", "-untrusted", "ca/intermediate.pem", "leaf.pem"),
            ],
            cwd=data_dir,
            capture_output=True,
            text=True,
        )
        for purpose in ("sslclient", "sslserver")
    )

    assert (client.returncode, client.stdout) == (0, "leaf.pem: OK\n")
    assert server.returncode != 0
    assert "unsuitable certificate purpose" in server.stderr


# Validator and code of what pkilint finds but RFC 5280 allows.
ACCEPTED = {
    # It wants an authority (//host) in every URI; 4.2.1.6 wants a scheme and a scheme-specific part.
    "leaf without an address": [("GeneralNameUriSyntaxValidator", "pkix.invalid_uri_syntax")],
}


@pytest.mark.parametrize(
    ("name", "certificate_of"),
    [
        ("leaf", leaf_of),
        ("leaf with an RSA key", lambda authority: leaf_of(authority, KeyType.RSA2048)),
        ("leaf without an address", lambda authority: leaf_of(authority, email=None)),
        ("intermediate", lambda authority: authority.intermediate),
        ("root", lambda authority: authority.root),
    ],
)
def test_pkilint_finds_nothing_else(
    authority: Authority, tmp_path: Path, name: str, certificate_of: Callable[[Authority], x509.Certificate]
) -> None:
    """A second opinion, of a linter that is not ours."""
    path = tmp_path / "certificate.der"
    path.write_bytes(certificate_of(authority).public_bytes(Encoding.DER))
    linted = subprocess.run(
        [sys.executable, "-m", "pkilint.bin.lint_pkix_cert", "lint", "-s", "NOTICE", "-f", "CSV", path],
        capture_output=True,
        text=True,
    )
    header, *findings = linted.stdout.strip().splitlines()

    assert header == "node_path,validator,severity,code,message"
    assert [tuple(finding.split(",")[1:4:2]) for finding in findings] == ACCEPTED.get(name, [])
    assert linted.returncode == len(findings)


# The folder


def test_the_folder_is_made_once_and_opened_again(folder: Path) -> None:
    first, second = open_(folder), open_(folder, name="Other", key_type=KeyType.P384)

    assert first == second
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_nobody_else_can_read_the_folder(folder: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}

    assert modes == {"ca": 0o700, **dict.fromkeys(FILES, 0o600)}


def test_modes_do_not_depend_on_the_umask(data_dir: Path) -> None:
    before = os.umask(0)
    try:
        open_(data_dir / "ca")
    finally:
        os.umask(before)

    assert stat.S_IMODE((data_dir / "ca/root.key").stat().st_mode) == 0o600


def test_processes_that_start_at_once_share_one_authority(data_dir: Path) -> None:
    rounds = 10
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    with context.Pool(2, _meet, (barrier,)) as pool:
        roots = pool.map(_open_many, [(data_dir, rounds)] * 2, chunksize=1)

    assert roots[0] == roots[1]
    assert len(set(roots[0])) == rounds
    # No drafts are left behind.
    assert sorted(path.name for path in data_dir.iterdir()) == sorted(map(str, range(rounds)))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777])
@pytest.mark.parametrize("name", KEY_FILES)
def test_a_key_that_others_can_read_stops_the_start(folder: Path, name: str, mode: int) -> None:
    path = folder / name
    path.chmod(mode)

    with pytest.raises(CannotStart) as refusal:
        open_(folder)
    assert (
        refusal.value.text == f"{path} has mode {mode:04o}: others on this machine could use the keys in it."
    )
    assert refusal.value.mend == f"Run: chmod 600 {path}"


def test_so_does_a_folder_that_others_can_enter(folder: Path) -> None:
    folder.chmod(0o755)

    with pytest.raises(CannotStart) as refusal:
        open_(folder)
    assert refusal.value.mend == f"Run: chmod 700 {folder}"


@pytest.mark.parametrize("name", [".", *KEY_FILES])
def test_the_mend_for_a_mode_mends_it(folder: Path, name: str) -> None:
    (folder / name).chmod(0o777)
    with pytest.raises(CannotStart) as refusal:
        open_(folder)
    subprocess.run(refusal.value.mend.removeprefix("Run: ").split(), check=True)

    open_(folder)


# Keys under a passphrase


def test_keys_are_encrypted_as_strongly_as_a_passphrase_of_people_needs(encrypted: Path) -> None:
    for name in KEY_FILES:
        label, content = pem_block(encrypted / name)
        protection = Protection.read(der.parse(content)[0])

        assert label == "ENCRYPTED PRIVATE KEY"
        assert (protection.prf, protection.prf_has_null) == (HMAC_SHA256, True)
        assert (protection.rounds, protection.cipher) == (600_000, AES_256_CBC)
        assert (len(protection.salt), len(protection.iv)) == (16, 16)
    assert pem_block(encrypted / "root.key")[1] != pem_block(encrypted / "intermediate.key")[1]


def test_an_encrypted_authority_signs_like_any_other(encrypted: Path) -> None:
    authority = open_(encrypted, passphrase=PASSPHRASE)
    chain = Chain(leaf_of(authority), (authority.intermediate,))

    assert check_chain(chain, Trust(authority.root, ()), now=NOW) == []


def test_no_byte_of_an_encrypted_key_lies_on_the_disk(encrypted: Path, folder: Path) -> None:
    assert {name: on_disk(encrypted.parent, scalar(encrypted / name, PASSPHRASE)) for name in KEY_FILES} == {
        "intermediate.key": [],
        "root.key": [],
    }
    # The search itself finds what is there.
    assert [on_disk(folder.parent, scalar(folder / name, None)) for name in KEY_FILES] == [
        ["intermediate.key"],
        ["root.key"],
    ]


@pytest.mark.needs("openssl")
def test_openssl_opens_an_encrypted_key(encrypted: Path, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(PASSPHRASE.reveal())
    opened = subprocess.run(
        [path_of("openssl"), "pkey", "-in", encrypted / "root.key", "-passin", "file:pw"],
        cwd=tmp_path,
        capture_output=True,
    )

    assert (
        load_pem_private_key(opened.stdout, None).public_key()
        == open_(encrypted, passphrase=PASSPHRASE).root.public_key()
    )


def test_a_protected_key_needs_its_passphrase(encrypted_folder: Path) -> None:
    with pytest.raises(CannotStart) as refusal:
        open_(encrypted_folder)

    assert refusal.value.text == f"{encrypted_folder}/intermediate.key is protected by a passphrase."
    assert refusal.value.mend == "Set [builtin] passphrase, passphrase_file or BUILTIN_PASSPHRASE."


def test_a_wrong_passphrase_is_told(encrypted_folder: Path) -> None:
    with pytest.raises(CannotStart) as refusal:
        open_(encrypted_folder, passphrase=Secret("wrong"))

    assert refusal.value.text == f"[builtin] passphrase does not open {encrypted_folder}/intermediate.key."
    assert refusal.value.mend == "Set the right one."


@pytest.mark.parametrize("name", KEY_FILES)
def test_a_passphrase_set_later_does_not_leave_a_key_unprotected(encrypted_folder: Path, name: str) -> None:
    path = encrypted_folder / name
    write_key(path, load_pem_private_key(path.read_bytes(), PASSPHRASE.reveal().encode()))

    with pytest.raises(CannotStart) as refusal:
        open_(encrypted_folder, passphrase=PASSPHRASE)
    assert refusal.value.text == f"{path} is not protected, though [builtin] passphrase is set."


@pytest.mark.needs("openssl")
def test_the_mend_for_a_passphrase_set_later_mends_it(folder: Path, tmp_path: Path) -> None:
    before = open_(folder)
    (tmp_path / "pw").write_text(PASSPHRASE.reveal())
    for _ in KEY_FILES:
        with pytest.raises(CannotStart) as refusal:
            open_(folder, passphrase=PASSPHRASE)
        told = re.search(r"openssl (pkcs8 .* -in (\S+) -out new\.key),", refusal.value.mend)
        assert told is not None
        subprocess.run(
            [path_of("openssl"), *told[1].split(), "-passout", "file:pw"], cwd=tmp_path, check=True
        )
        (tmp_path / "new.key").replace(told[2])

    assert open_(folder, passphrase=PASSPHRASE) == before
    assert all(pem_block(folder / name)[0] == "ENCRYPTED PRIVATE KEY" for name in KEY_FILES)


# Damage


@pytest.mark.parametrize("content", [None, b"", b"\0\1\2", b"-----BEGIN CERTIFICATE-----\nMII", b"half"])
@pytest.mark.parametrize("name", ["intermediate.key", "intermediate.pem", "root.pem"])
def test_a_damaged_file_stops_the_start(folder: Path, name: str, content: bytes | None) -> None:
    path = folder / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == b"half" else content)

    assert refused(folder).startswith(f"The authority in {folder} cannot be read: ")


def test_an_empty_folder_is_not_filled_anew(data_dir: Path) -> None:
    """An authority that vanished must be restored: nobody trusts a new one."""
    (data_dir / "ca").mkdir(mode=0o700)

    assert "cannot be read" in refused(data_dir / "ca")
    assert list((data_dir / "ca").iterdir()) == []


def test_the_root_key_may_be_kept_elsewhere(folder: Path) -> None:
    before = open_(folder)
    (folder / "root.key").unlink()

    assert open_(folder) == replace(before, root_key=None)


@pytest.mark.parametrize("organization", ["Example Org", "Foreign Org"])
@pytest.mark.parametrize("name", ["root.pem", "intermediate.pem"])
def test_a_certificate_of_another_authority_stops_the_start(
    folder: Path, name: str, organization: str
) -> None:
    """Also one of the same name."""
    foreign = folder.with_name("foreign")
    open_(foreign, organization=organization)
    shutil.copy(foreign / name, folder / name)

    assert refused(folder) == f"{folder}/intermediate.pem does not belong to root.pem."


@pytest.mark.parametrize(
    "foreign", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)]
)
def test_a_key_of_another_authority_stops_the_start(
    folder: Path, foreign: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    write_key(folder / "intermediate.key", foreign)

    assert refused(folder) == f"{folder}/intermediate.key does not belong to intermediate.pem."


def test_a_key_that_cannot_sign_certificates_for_people_stops_the_start(folder: Path) -> None:
    write_key(folder / "intermediate.key", ed25519.Ed25519PrivateKey.generate())

    assert refused(folder) == f"{folder}/intermediate.key holds a key that cannot sign certificates."


def test_a_key_encrypted_in_the_way_of_old_openssl_stops_the_start(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret")
    )
    (folder / "intermediate.key").write_bytes(key)

    assert "cannot be read" in refused(folder)


def refused(folder: Path) -> str:
    """What is said, after making sure that a mend is told."""
    with pytest.raises(CannotStart) as refusal:
        open_(folder)
    assert refusal.value.mend == "Restore the folder from your last backup."
    return refusal.value.text


def assert_authority(
    certificate: x509.Certificate, name: str, key_type: KeyType, *, path_length: int, years: int
) -> None:
    extensions = {
        extension.oid: (extension.critical, extension.value) for extension in certificate.extensions
    }
    extensions.pop(ExtensionOID.AUTHORITY_KEY_IDENTIFIER, None)
    start = NOW - timedelta(minutes=5)
    key = certificate.public_key()

    assert certificate.subject.public_bytes() == pki.name(
        (NameOID.COMMON_NAME, name), (NameOID.ORGANIZATION_NAME, "Example Org")
    )
    assert certificate.not_valid_before_utc == start
    assert certificate.not_valid_after_utc == start + timedelta(days=365 * years, seconds=-1)
    assert certificate.serial_number.bit_length() == 128
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    assert str(key.key_size) in key_type
    assert extensions == {
        ExtensionOID.BASIC_CONSTRAINTS: (True, x509.BasicConstraints(ca=True, path_length=path_length)),
        ExtensionOID.KEY_USAGE: (True, pki.key_usage("key_cert_sign", "crl_sign")),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (False, x509.SubjectKeyIdentifier.from_public_key(key)),
    }


def ski(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def aki(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value


def rewritten(node: der.Node) -> bytes:
    constructed = node.tag & 0x20
    return der.encode(node.tag, b"".join(map(rewritten, node.children)) if constructed else node.content)


def pem_block(path: Path) -> tuple[str, bytes]:
    match = re.fullmatch(r"-----BEGIN ([A-Z ]+)-----\n([^-]+)-----END \1-----\n", path.read_text())
    assert match is not None
    assert {len(line) for line in match[2].splitlines()[:-1]} == {64}
    return match[1], base64.b64decode(match[2])


def scalar(path: Path, passphrase: Secret | None) -> bytes:
    key = load_pem_private_key(path.read_bytes(), passphrase.reveal().encode() if passphrase else None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value.to_bytes(32)


def on_disk(folder: Path, secret: bytes) -> list[str]:
    """The files that hold these bytes, plain or in PEM."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if secret in path.read_bytes() + pem_block(path)[1]]


def write_key(path: Path, key: Any) -> None:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


_barrier: Barrier


def _meet(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _open_many(job: tuple[Path, int]) -> list[bytes]:
    folder, rounds = job
    roots = []
    try:
        for number in range(rounds):
            _barrier.wait(60)
            roots.append(open_(folder / str(number)).root.public_bytes(Encoding.DER))
    except (Problem, OSError) as error:
        _barrier.abort()
        raise RuntimeError(repr(error)) from None  # ours need not survive the way through a pipe
    return roots
