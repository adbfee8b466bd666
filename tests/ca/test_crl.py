"""The lists of revoked certificates that the embedded authority signs, as others read and find them."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from cryptography.x509.oid import ExtensionOID

from certbob.ca.builtin import Authority, BuiltinCA, open_authority, sign_crl, sign_leaf
from certbob.lint import check_crl, check_leaf, crl_distribution_points
from certbob.ports import CrlSigner, LeafRules, Revoked
from certbob.profiles import KeyType
from tests.support import der, pki
from tests.support.clock import FakeClock
from tests.support.core import InlineSigners
from tests.support.peers import path_of
from tests.support.pki import NOW, Draft

CA_KEY_TYPES = [KeyType.P256, KeyType.P384, KeyType.RSA3072, KeyType.RSA4096]
CRL_URL = "https://cert.example.org/ca/crl"
NUMBER = 1_795_000_000
THIS_UPDATE = NOW - timedelta(minutes=5)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
REVOKED_AT = NOW - timedelta(hours=3)
REASONS = {
    0: None,
    1: x509.ReasonFlags.key_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    9: x509.ReasonFlags.privilege_withdrawn,
}
SOME = tuple(Revoked((1 << 127) + code, REVOKED_AT + timedelta(minutes=code), code) for code in REASONS)


def open_(folder: Path, key_type: KeyType = KeyType.P256) -> Authority:
    return open_authority(
        folder, name="Example", organization="Example Org", key_type=key_type, passphrase=None, now=NOW
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return open_(tmp_path_factory.mktemp("data") / "ca")


def crl_of(authority: Authority, revoked: tuple[Revoked, ...] = SOME, **changes: Any) -> bytes:
    """The issuing authority's list, DER."""
    settings = {
        "number": NUMBER,
        "this_update": THIS_UPDATE,
        "next_update": THIS_UPDATE + WEEK,
        "issuer": authority.intermediate.public_bytes(Encoding.DER),
        "issuer_key": authority.key,
    }
    return sign_crl(revoked, **{**settings, **changes})


def root_crl_of(authority: Authority, revoked: tuple[Revoked, ...] = (), **changes: Any) -> bytes:
    issuer = authority.root.public_bytes(Encoding.DER)
    return crl_of(authority, revoked, issuer=issuer, issuer_key=authority.root_key, **changes)


def leaf_of(authority: Authority, crl_url: str | None = CRL_URL) -> x509.Certificate:
    content = sign_leaf(
        pki.signing_request(),
        crl_url=crl_url,
        now=NOW,
        issuer=authority.intermediate.public_bytes(Encoding.DER),
        issuer_key=authority.key,
    )
    return x509.load_der_x509_certificate(content)


def ski(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


# What it says


def test_it_says_what_it_was_asked_to_and_nothing_more(authority: Authority) -> None:
    crl = x509.load_der_x509_crl(crl_of(authority))
    issuing = authority.intermediate
    key = issuing.public_key()

    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(key)
    assert crl.issuer.public_bytes() == issuing.subject.public_bytes()
    assert (crl.last_update_utc, crl.next_update_utc) == (THIS_UPDATE, THIS_UPDATE + WEEK)
    assert crl.signature_algorithm_oid.dotted_string == "1.2.840.10045.4.3.2"
    assert [(extension.critical, extension.value) for extension in crl.extensions] == [
        (False, x509.AuthorityKeyIdentifier(ski(issuing).digest, None, None)),
        (False, x509.CRLNumber(NUMBER)),
    ]
    assert [(entry.serial_number, entry.revocation_date_utc) for entry in crl] == [
        (each.serial, each.revoked_at) for each in SOME
    ]


def test_it_is_the_der_of_rfc_5280(authority: Authority) -> None:
    """Down to the last byte, but for the signature; 5.3.1: unspecified is left out."""
    algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    entries = []
    for each in SOME[:2]:
        reason = der.encode(0x0A, bytes([each.reason_code]))
        extension = der.sequence(der.oid("2.5.29.21"), der.encode(der.OCTETS, reason))
        extensions = der.sequence(extension) if each.reason_code else b""
        entries.append(der.sequence(der.integer(each.serial), der.time(each.revoked_at), extensions))
    key_identifier = der.sequence(der.encode(0x80, ski(authority.intermediate).digest))
    extensions = der.sequence(
        der.sequence(der.oid("2.5.29.35"), der.encode(der.OCTETS, key_identifier)),
        der.sequence(der.oid("2.5.29.20"), der.encode(der.OCTETS, der.integer(NUMBER))),
    )
    expected = der.sequence(
        der.integer(1),  # version 2
        algorithm,
        authority.intermediate.subject.public_bytes(),
        der.time(THIS_UPDATE),
        der.time(THIS_UPDATE + WEEK),
        der.sequence(*entries),
        der.tagged(0, extensions),
    )
    to_be_signed, outer, signature = der.parse(crl_of(authority, SOME[:2])).children

    assert to_be_signed.encoded == expected
    assert outer.encoded == algorithm
    assert signature.only(der.BITS)[0] == 0


def test_an_empty_list_has_no_empty_part(authority: Authority) -> None:
    """RFC 5280 5.1.2.6: without revoked certificates their list must be absent."""
    content = crl_of(authority, ())
    tags = [part.tag for part in der.parse(content)[0].children]

    assert list(x509.load_der_x509_crl(content)) == []
    assert tags == [der.INTEGER, *[der.SEQUENCE] * 2, *[der.UTC_TIME] * 2, 0xA0]


def test_ten_thousand_entries_are_all_there(authority: Authority) -> None:
    many = tuple(Revoked((1 << 127) + number, REVOKED_AT, number % 2) for number in range(10_000))
    crl = x509.load_der_x509_crl(crl_of(authority, many))

    assert {entry.serial_number for entry in crl} == {each.serial for each in many}
    for each in (many[0], many[4_999], many[-1]):
        entry = crl.get_revoked_certificate_by_serial_number(each.serial)
        assert entry is not None
        assert bool(len(entry.extensions)) == bool(each.reason_code)
    assert crl.get_revoked_certificate_by_serial_number((1 << 127) - 1) is None


@pytest.mark.parametrize("serial", [1, 1 << 64, (1 << 128) - 1, (1 << 159) - 1])
def test_serial_numbers_of_every_length_are_kept(authority: Authority, serial: int) -> None:
    (entry,) = x509.load_der_x509_crl(crl_of(authority, (Revoked(serial, REVOKED_AT, 1),)))

    assert entry.serial_number == serial


async def test_the_authority_signs_both_lists(authority: Authority, clock: FakeClock) -> None:
    ca = BuiltinCA(authority, signers=InlineSigners(), clock=clock)
    assert isinstance(ca, CrlSigner)
    times = {"this_update": THIS_UPDATE, "next_update": THIS_UPDATE + WEEK}
    of_root = await ca.sign_root_crl(number=NUMBER, **times)
    of_issuing = x509.load_der_x509_crl(await ca.sign_crl(list(SOME), number=NUMBER, **times))

    assert of_root is not None
    assert check_crl(x509.load_der_x509_crl(of_root), authority.root, set()) == []
    assert check_crl(of_issuing, authority.intermediate, {each.serial for each in SOME}) == []
    without_key = BuiltinCA(replace(authority, root_key=None), signers=InlineSigners(), clock=clock)
    assert await without_key.sign_root_crl(number=NUMBER, **times) is None


# What others read in it


@dataclass(frozen=True, slots=True)
class Files:
    """An authority, a good certificate of it and a revoked one, with the lists, as OpenSSL wants them."""

    folder: Path
    authority: Authority
    good: x509.Certificate
    revoked: x509.Certificate

    def verify(self, name: str, *, at: datetime = NOW, crls: str = "crls.pem") -> tuple[int, list[int]]:
        """The status, and the numbers of the errors."""
        told = run(
            *("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check_all"),
            *("-attime", str(int(at.timestamp())), "-CRLfile", crls),
            *("-CAfile", "root.pem", "-untrusted", "intermediate.pem", name),
            folder=self.folder,
        )
        errors = re.findall(r"^error (\d+) ", told.stderr, re.MULTILINE)
        return told.returncode, [int(number) for number in errors]

    def write(self, name: str, *lists: bytes) -> None:
        pems = (x509.load_der_x509_crl(content).public_bytes(Encoding.PEM) for content in lists)
        (self.folder / name).write_bytes(b"".join(pems))


def files_of(folder: Path, authority: Authority) -> Files:
    good, revoked = leaf_of(authority), leaf_of(authority)
    files = Files(folder, authority, good, revoked)
    entry = Revoked(revoked.serial_number, NOW, 1)
    crl, root_crl = crl_of(authority, (entry,)), root_crl_of(authority)
    files.write("crls.pem", crl, root_crl)
    files.write("crl.pem", crl)
    files.write("root-crl.pem", root_crl)
    certificates = {"good": good, "revoked": revoked, "root": authority.root}
    certificates["intermediate"] = authority.intermediate
    for name, certificate in certificates.items():
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return files


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    return files_of(tmp_path, authority)


def run(program: str, *arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [path_of(program), *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("key_type", CA_KEY_TYPES)
def test_openssl_refuses_what_is_revoked_and_nothing_else(tmp_path: Path, key_type: KeyType) -> None:
    files = files_of(tmp_path, open_(tmp_path / "ca", key_type))

    assert files.verify("good.pem") == (0, [])
    assert files.verify("revoked.pem") == (2, [23])  # certificate revoked


@pytest.mark.needs("openssl")
def test_openssl_wants_the_roots_list_too(files: Files) -> None:
    assert files.verify("good.pem", crls="crl.pem") == (2, [3])  # unable to get certificate CRL


@pytest.mark.needs("openssl")
@pytest.mark.parametrize(
    ("at", "errors"),
    [
        (THIS_UPDATE, set()),
        (THIS_UPDATE + WEEK - timedelta(seconds=1), set()),
        (THIS_UPDATE + WEEK + timedelta(seconds=1), {12}),  # CRL has expired
        (THIS_UPDATE - timedelta(seconds=1), {9, 11}),  # neither certificates nor lists are valid yet
    ],
    ids=["from", "until", "over", "too early"],
)
def test_openssl_believes_it_for_as_long_as_it_says(files: Files, at: datetime, errors: set[int]) -> None:
    status, found = files.verify("good.pem", at=at)

    assert set(found) == set(errors)
    assert bool(status) == bool(errors)


@pytest.mark.needs("openssl")
def test_a_revoked_intermediate_would_be_refused(files: Files) -> None:
    """What the root's list is for; nothing in CertBob revokes an intermediate."""
    authority = files.authority
    entry = Revoked(authority.intermediate.serial_number, NOW, 1)
    files.write("crls.pem", crl_of(authority, ()), root_crl_of(authority, (entry,)))

    assert files.verify("good.pem") == (2, [23])


@pytest.mark.needs("openssl")
def test_openssl_shows_all_of_it(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "crl.der").write_bytes(crl_of(authority))
    (tmp_path / "intermediate.pem").write_bytes(authority.intermediate.public_bytes(Encoding.PEM))
    told = run(
        *("openssl", "crl", "-inform", "DER", "-in", "crl.der", "-noout", "-text"),
        *("-CAfile", "intermediate.pem", "-nameopt", "RFC2253"),
        folder=tmp_path,
    )

    assert told.returncode == 0
    assert "verify OK" in told.stderr
    text = re.sub(r"\s+", " ", told.stdout)
    assert "Version 2 (0x1) Signature Algorithm: ecdsa-with-SHA256" in text
    assert f"X509v3 CRL Number: {NUMBER}" in text
    assert "Issuer: O=Example Org,CN=Example Issuing CA" in text
    assert re.findall(r"Serial Number: (\w+)", text) == [f"{each.serial:X}" for each in SOME]
    assert re.findall(r"CRL Reason Code: (\w+ \w+)", text) == [
        *("Key Compromise", "Affiliation Changed", "Superseded Serial"),
        *("Cessation Of", "Privilege Withdrawn"),
    ]


@pytest.mark.needs("certtool")
@pytest.mark.parametrize(("name", "issuer"), [("crl", "intermediate"), ("root-crl", "root")])
def test_gnutls_believes_it(files: Files, name: str, issuer: str) -> None:
    told = run(
        *("certtool", "--verify-crl", "--infile", f"{name}.pem", "--load-ca-certificate", f"{issuer}.pem"),
        folder=files.folder,
    )

    assert told.returncode == 0, told.stderr
    assert "Verified" in told.stdout


@pytest.mark.needs("certtool")
def test_gnutls_shows_all_of_it(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "crl.der").write_bytes(crl_of(authority))
    told = run("certtool", "--crl-info", "--inder", "--infile", "crl.der", folder=tmp_path)

    assert told.returncode == 0, told.stderr
    text = re.sub(r"\s+", " ", told.stdout)
    assert "Version: 2 Issuer: " in text
    assert f"CRL Number (not critical): {NUMBER:08x}" in text
    assert f"Revoked certificates ({len(SOME)}):" in text
    assert re.findall(r"Serial Number \(hex\): (\w+)", text) == [f"{each.serial:034x}" for each in SOME]


@pytest.mark.parametrize(
    ("kind", "crl"),
    [
        ("CRL", lambda authority: crl_of(authority)),
        ("CRL", lambda authority: crl_of(authority, ())),
        ("CRL", lambda authority: crl_of(authority, SOME, number=(1 << 63) - 1)),
        ("CRL", lambda authority: across_2050(authority)),
        ("ARL", lambda authority: root_crl_of(authority)),
    ],
    ids=["some", "none", "a large number", "across 2050", "of the root"],
)
def test_pkilint_finds_nothing(
    authority: Authority, tmp_path: Path, kind: str, crl: Callable[[Authority], bytes]
) -> None:
    """A second opinion, of a linter that is not ours."""
    path = tmp_path / "crl.der"
    path.write_bytes(crl(authority))

    assert linted("lint_crl", "-t", kind, "-p", "PKIX", path=path) == []


def across_2050(authority: Authority) -> bytes:
    """RFC 5280 5.1.2.4: until 2049 two digits of the year, then four."""
    this_update = datetime(2049, 12, 30, tzinfo=UTC)
    content = crl_of(authority, this_update=this_update, next_update=this_update + WEEK)
    assert [part.tag for part in der.parse(content)[0].children][3:5] == [der.UTC_TIME, der.GENERALIZED_TIME]
    return content


def linted(program: str, *arguments: str, path: Path) -> list[str]:
    options = "-s", "NOTICE", "-f", "CSV"
    done = subprocess.run(
        [sys.executable, "-m", f"pkilint.bin.{program}", "lint", *arguments, *options, path],
        capture_output=True,
        text=True,
        check=False,
    )
    header, *findings = done.stdout.strip().splitlines()
    assert header == "node_path,validator,severity,code,message", done.stderr
    assert done.returncode == len(findings)
    return findings


# What is not believed


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # some changes make it negative
def test_no_changed_bit_is_believed(authority: Authority) -> None:
    content = crl_of(authority, SOME[:3])
    expected = {each.serial for each in SOME[:3]}
    assert findings(content, authority, expected) == []

    signature = der.parse(content)[2].content
    # `cryptography` does not mind how many bits of the signature are said to be unused, if they are zero.
    meaningless = len(content) - len(signature)

    believed = set()
    for place in range(len(content) * 8):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        if not findings(bytes(changed), authority, expected):
            believed.add(place // 8)

    assert believed <= {meaningless}


UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)


def findings(content: bytes, authority: Authority, revoked: set[int]) -> list[str]:
    try:
        return check_crl(x509.load_der_x509_crl(content), authority.intermediate, revoked)
    except UNREADABLE as error:
        return [f"cannot be read: {error}"]


def test_a_list_that_names_others_is_found(authority: Authority) -> None:
    serials = {each.serial for each in SOME}
    finding = ["it does not name exactly the revoked certificates"]

    assert findings(crl_of(authority), authority, serials | {1}) == finding
    assert findings(crl_of(authority), authority, serials - {SOME[0].serial}) == finding
    assert findings(crl_of(authority, ()), authority, serials) == finding


def test_the_list_of_another_authority_is_found(authority: Authority, tmp_path: Path) -> None:
    """Of the same name; then of our own root, with the right key and the wrong name."""
    twin = open_(tmp_path / "ca")
    signature, issuer = "it is not signed by the authority", "its issuer is not the authority"

    assert findings(crl_of(twin), authority, {each.serial for each in SOME}) == [signature]
    assert findings(root_crl_of(authority), authority, set()) == [signature, issuer]


Change = Callable[[x509.CertificateRevocationListBuilder], x509.CertificateRevocationListBuilder]
EXTENSIONS = "its extensions are not exactly the expected ones"


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"number": None}, EXTENSIONS),
        ({"key_identifier": None}, EXTENSIONS),
        ({"number": True}, EXTENSIONS),
        ({"key_identifier": True}, EXTENSIONS),
        ({"partial": True}, EXTENSIONS),
        ({"lifetime": timedelta(days=10, seconds=1)}, "it lasts for longer than ten days"),
    ],
    ids=[
        *("no number", "no key identifier", "a critical number", "a critical key identifier"),
        *("for some certificates only", "too long"),
    ],
)
def test_a_wrong_list_is_found(authority: Authority, changes: dict[str, Any], finding: str) -> None:
    assert check_crl(drafted(authority, **changes), authority.intermediate, set()) == [finding]


def test_a_right_list_is_not(authority: Authority) -> None:
    assert check_crl(drafted(authority), authority.intermediate, set()) == []
    assert check_crl(drafted(authority, lifetime=timedelta(days=10)), authority.intermediate, set()) == []


def drafted(
    authority: Authority,
    *,
    number: bool | None = False,
    key_identifier: bool | None = False,
    partial: bool = False,
    lifetime: timedelta = WEEK,
) -> x509.CertificateRevocationList:
    """Signed by the authority. `number`, `key_identifier`: whether critical, None: missing."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.intermediate.subject)
        .last_update(THIS_UPDATE)
        .next_update(THIS_UPDATE + lifetime)
    )
    if key_identifier is not None:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            ski(authority.intermediate)
        )
        builder = builder.add_extension(identifier, critical=key_identifier)
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(NUMBER), critical=number)
    if partial:
        point = x509.IssuingDistributionPoint(
            full_name=[x509.UniformResourceIdentifier(CRL_URL)],
            relative_name=None,
            only_contains_user_certs=True,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        )
        builder = builder.add_extension(point, critical=True)
    key = load_der_private_key(authority.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return builder.sign(key, hashes.SHA256())


# Where certificates say that it is


@pytest.mark.parametrize("url", [CRL_URL, "http://127.0.0.1:8000/ca/crl"])
async def test_a_leaf_names_the_place_of_the_list(authority: Authority, clock: FakeClock, url: str) -> None:
    clock.set(NOW)
    ca = BuiltinCA(authority, signers=InlineSigners(), clock=clock, crl_url=url)
    request = pki.signing_request()
    leaf = (await ca.sign(request)).leaf
    found = leaf.extensions.get_extension_for_oid(ExtensionOID.CRL_DISTRIBUTION_POINTS)
    full_name = der.tagged(0, der.encode(0x86, url.encode()))

    assert not found.critical
    assert found.value.public_bytes() == der.sequence(der.sequence(der.tagged(0, full_name)))
    assert ca.rules.crl_url == url
    assert check_leaf(leaf, request, ca.rules, now=NOW) == []


def test_pkilint_finds_nothing_in_such_a_leaf(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "leaf.der"
    path.write_bytes(leaf_of(authority, "http://cert.example.org/ca/crl").public_bytes(Encoding.DER))

    assert linted("lint_pkix_cert", path=path) == []


ISSUING = pki.below(pki.root())
RULES = LeafRules(exact=True, crl_url=CRL_URL)
GOOD = pki.draft_leaf(pki.signing_request(), ISSUING).put(crl_distribution_points(CRL_URL))
POINTS = ExtensionOID.CRL_DISTRIBUTION_POINTS
LEAF_EXTENSIONS = "the extensions or their critical flags are not exactly the expected ones"
PLACE = "the place of the revocation list is not the configured one"


def lint(draft: Draft, rules: LeafRules = RULES) -> list[str]:
    return check_leaf(draft.signed_by(ISSUING), pki.signing_request(), rules, now=NOW)


def points(*urls: str, **changes: Any) -> x509.CRLDistributionPoints:
    """One point with these addresses."""
    parts: dict[str, Any] = {"relative_name": None, "reasons": None, "crl_issuer": None}
    names = [x509.UniformResourceIdentifier(url) for url in urls]
    return x509.CRLDistributionPoints([x509.DistributionPoint(names or None, **{**parts, **changes})])


def test_a_leaf_with_the_right_place_is_accepted() -> None:
    assert lint(GOOD) == []


@pytest.mark.parametrize(
    ("draft", "expected"),
    [
        (GOOD.drop(POINTS), [LEAF_EXTENSIONS, PLACE]),
        (GOOD.flip_critical(POINTS), [LEAF_EXTENSIONS]),
        (GOOD.put(points("https://evil.example/ca/crl")), [PLACE]),
        (GOOD.put(points(f"{CRL_URL}/")), [PLACE]),
        (GOOD.put(points(CRL_URL.replace("https", "http"))), [PLACE]),
        (GOOD.put(points(CRL_URL, "https://evil.example/ca/crl")), [PLACE]),
        (GOOD.put(x509.CRLDistributionPoints([*points(CRL_URL), *points(CRL_URL)])), [PLACE]),
        (GOOD.put(points(CRL_URL, reasons=frozenset({x509.ReasonFlags.key_compromise}))), [PLACE]),
        (GOOD.put(points(CRL_URL, crl_issuer=[x509.DirectoryName(ISSUING.certificate.subject)])), [PLACE]),
        (GOOD.put(points(crl_issuer=[x509.DirectoryName(ISSUING.certificate.subject)])), [PLACE]),
    ],
    ids=[
        *("missing", "critical", "another", "longer", "another scheme", "one more", "twice"),
        *("for one reason", "of another issuer", "an issuer alone"),
    ],
)
def test_a_leaf_with_a_wrong_place_is_refused(draft: Draft, expected: list[str]) -> None:
    assert lint(draft) == expected


def test_without_a_place_configured_none_is_accepted() -> None:
    rules = LeafRules(exact=True)

    assert lint(GOOD, rules) == [LEAF_EXTENSIONS]
    assert lint(GOOD.drop(POINTS), rules) == []


def test_another_authority_may_name_a_place_of_its_own() -> None:
    rules = LeafRules(exact=False)

    assert lint(GOOD, rules) == []
    assert lint(GOOD.drop(POINTS), rules) == []
