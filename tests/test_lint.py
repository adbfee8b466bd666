"""Wrong requests, leaves and chains are found: all by the exact rules, the dangerous ones by any rules.

`exact` holds for the embedded authority. The lenient rules are for an authority with a template of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from certbob.keys import new_key_and_csr, public_key_bytes
from certbob.lint import check_chain, check_leaf, check_request, notes
from certbob.ports import Chain, LeafRules, SigningRequest, Trust
from certbob.profiles import KeyType, Usage
from tests.support import der, pki
from tests.support.pki import NOW, Authority, Draft, Extension, extended_key_usage, extension, key_usage

# `cryptography` warns of these, and may refuse to read them one day.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

ROOT = pki.root(path_length=2)
ISSUING = pki.below(ROOT)
TRUST = Trust(ROOT.certificate, (ISSUING.certificate,))
REQUEST = pki.signing_request()
GOOD = pki.draft_leaf(REQUEST, ISSUING)

EXACT = LeafRules(exact=True)
LENIENT = LeafRules(exact=False, server_auth=True)

CN, O, OU = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME  # noqa: E741
ADA, ORG = (CN, pki.ADA), (O, "Example Org")
CLIENT_AUTH, SERVER_AUTH = "1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"
EMAIL_PROTECTION, CODE_SIGNING = "1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.3"
ANY_USAGE = "2.5.29.37.0"
ADAS_ADDRESS = x509.RFC822Name("ada@example.org")

KEY = "another public key"
OTHER_KIND = "another kind of key"
EXTENSIONS = "the extensions or their critical flags"
SUBJECT = "the subject is not exactly"
USAGES = "the extended key usages are not"
NAMES = "the alternative names are not"
UNREADABLE = "cannot be read"
SIGNATURE = "signature hash"
SERIAL = "serial number is not positive or longer"
START = "not valid from about now"
TOO_LONG = "valid for longer than asked"


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is wrong with a leaf, and what the exact rules say. `anywhere`: no rules let it pass."""

    change: Callable[[Draft], Draft]
    finding: str
    anywhere: bool = True


def subject(*attributes: tuple[x509.ObjectIdentifier, str], tag: int = der.UTF8) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, subject=pki.name(*attributes, tag=tag))


def usages(*oids: str) -> Callable[[Draft], Draft]:
    return lambda draft: draft.put(extended_key_usage(*oids))


def names(*alternatives: x509.GeneralName) -> Callable[[Draft], Draft]:
    return lambda draft: draft.put(x509.SubjectAlternativeName(alternatives))


def may(*allowed: str) -> Callable[[Draft], Draft]:
    return lambda draft: draft.put(key_usage(*allowed), critical=True)


def without(kind: x509.ObjectIdentifier) -> Callable[[Draft], Draft]:
    return lambda draft: draft.drop(kind)


def other_critical(kind: x509.ObjectIdentifier) -> Callable[[Draft], Draft]:
    return lambda draft: draft.flip_critical(kind)


def more(*extensions: Extension) -> Callable[[Draft], Draft]:
    return lambda draft: draft.add(*extensions)


def parts(**changes: Any) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, **changes)


def longer(by: timedelta) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, end=draft.end + by)


def moved(by: timedelta) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, start=draft.start + by, end=draft.end + by)


def signed_with(oid: str, parameters: bytes = b"") -> Callable[[Draft], Draft]:
    return parts(algorithm=der.sequence(der.oid(oid), parameters))


def authority(path_length: int | None) -> Callable[[Draft], Draft]:
    return lambda draft: draft.put(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)


NULL = der.encode(der.NULL, b"")
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
UNKNOWN = "1.3.6.1.4.1.32473.1"  # the arc for examples, RFC 5612
RSA_1024 = rsa.generate_private_key(65537, 1024).public_key()
ED25519 = ed25519.Ed25519PrivateKey.generate().public_key()
UNKNOWN_KEY = der.sequence(der.sequence(der.oid(UNKNOWN)), der.encode(der.BITS, b"\0\1"))
BAD_POINT = REQUEST.public_key[:-1] + bytes([REQUEST.public_key[-1] ^ 1])
BAD_UTF8 = der.sequence(
    der.encode(der.SET, der.sequence(der.oid("2.5.4.3"), der.encode(der.UTF8, b"\xff\xfe")))
)
TWO_IN_ONE_RDN = der.sequence(
    # DER sorts a SET by the bytes of its members: the shorter one first.
    der.encode(der.SET, b"".join(rdn[0].encoded for rdn in der.parse(pki.name(ORG, ADA)).children))
)
CRL_ELSEWHERE = x509.CRLDistributionPoints(
    [x509.DistributionPoint([x509.UniformResourceIdentifier("http://e.vil/crl")], None, None, None)]
)
CHILDREN_EVERYWHERE = x509.NameConstraints([x509.DNSName("")], None)

WRONG = {
    # key, form, signature
    "another key": Wrong(parts(public_key=pki.new_key(common_name="Bert").public_key), KEY),
    "RSA-1024": Wrong(parts(public_key=public_key_bytes(RSA_1024)), KEY),
    "Ed25519": Wrong(
        parts(public_key=ED25519.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)), OTHER_KIND
    ),
    "a key nobody knows": Wrong(parts(public_key=UNKNOWN_KEY), UNREADABLE),
    "a point that is not on the curve": Wrong(parts(public_key=BAD_POINT), UNREADABLE),
    "version 1": Wrong(parts(version=1, extensions=()), "version is not 3"),
    "SHA-1": Wrong(signed_with("1.2.840.10045.4.1"), SIGNATURE),
    "RSA with SHA-1": Wrong(signed_with("1.2.840.113549.1.1.5", NULL), SIGNATURE),
    "MD5": Wrong(signed_with("1.2.840.113549.1.1.4", NULL), SIGNATURE),
    "no hash": Wrong(signed_with("1.3.101.112"), SIGNATURE),
    "a signature nobody knows": Wrong(signed_with(UNKNOWN), UNREADABLE),
    "SHA-384": Wrong(signed_with("1.2.840.10045.4.3.3"), "not signed with SHA-256", anywhere=False),
    # serial number
    "serial zero": Wrong(parts(serial=0), SERIAL),
    "serial negative": Wrong(parts(serial=-(1 << 126)), SERIAL),
    "serial of 21 bytes": Wrong(parts(serial=1 << 159), SERIAL),
    "serial 7": Wrong(parts(serial=7), "less than 64 bits", anywhere=False),
    "serial of 63 bits": Wrong(parts(serial=(1 << 63) - 1), "less than 64 bits", anywhere=False),
    # time
    "ten years": Wrong(longer(timedelta(days=3650)), TOO_LONG),
    "an hour longer": Wrong(longer(HOUR), TOO_LONG),
    "one second longer": Wrong(longer(SECOND), "exactly the asked time", anywhere=False),
    "one second shorter": Wrong(longer(-SECOND), "exactly the asked time", anywhere=False),
    "ends before it begins": Wrong(longer(-100 * DAY), TOO_LONG),
    "not yet valid": Wrong(moved(HOUR), START),
    "valid from tomorrow": Wrong(moved(DAY), START),
    "back-dated an hour": Wrong(moved(-HOUR), START),
    "ended already": Wrong(moved(-365 * DAY), START),
    # subject
    "no subject": Wrong(subject(), SUBJECT),
    "no common name": Wrong(subject(ORG), SUBJECT),
    "somebody else": Wrong(subject((CN, "Bert"), ORG), SUBJECT),
    "other case": Wrong(subject((CN, pki.ADA.upper()), ORG), SUBJECT),
    "blank at the end": Wrong(subject((CN, f"{pki.ADA} "), ORG), SUBJECT),
    "common name doubled": Wrong(subject(ADA, ADA, ORG), SUBJECT),
    "a second common name": Wrong(subject(ADA, (CN, "root"), ORG), SUBJECT),
    "another organization": Wrong(subject(ADA, (O, "Evil Org")), SUBJECT),
    "a second organization": Wrong(subject(ADA, ORG, (O, "Evil Org")), SUBJECT),
    "an organizational unit": Wrong(subject(ADA, ORG, (OU, "Administrators")), SUBJECT),
    "an e-mail address in the subject": Wrong(
        subject(ADA, ORG, (NameOID.EMAIL_ADDRESS, "ada@example.org")), SUBJECT
    ),
    "a user id in the subject": Wrong(subject(ADA, ORG, (NameOID.USER_ID, "root")), SUBJECT),
    "a subject nobody can read": Wrong(parts(subject=BAD_UTF8), UNREADABLE),
    "organization missing": Wrong(subject(ADA), SUBJECT, anywhere=False),
    "organization first": Wrong(subject(ORG, ADA), SUBJECT, anywhere=False),
    "both in one RDN": Wrong(parts(subject=TWO_IN_ONE_RDN), SUBJECT, anywhere=False),
    "PrintableString": Wrong(subject(ADA, ORG, tag=der.PRINTABLE), SUBJECT, anywhere=False),
    # what it may be used for
    "an authority": Wrong(authority(None), "certificate of an authority"),
    "an authority of path length 0": Wrong(authority(0), "certificate of an authority"),
    "no basic constraints": Wrong(without(ExtensionOID.BASIC_CONSTRAINTS), EXTENSIONS, anywhere=False),
    "basic constraints not critical": Wrong(
        other_critical(ExtensionOID.BASIC_CONSTRAINTS), EXTENSIONS, anywhere=False
    ),
    "may sign certificates": Wrong(may("digital_signature", "key_cert_sign"), "key usage"),
    "may sign revocation lists": Wrong(may("digital_signature", "crl_sign"), "key usage"),
    "may encipher": Wrong(may("digital_signature", "key_encipherment"), "key usage", anywhere=False),
    "may not sign": Wrong(may("key_encipherment"), "key usage", anywhere=False),
    "no key usage": Wrong(without(ExtensionOID.KEY_USAGE), "key usage", anywhere=False),
    "key usage not critical": Wrong(other_critical(ExtensionOID.KEY_USAGE), EXTENSIONS, anywhere=False),
    "no extended key usage": Wrong(without(ExtensionOID.EXTENDED_KEY_USAGE), USAGES),
    "any usage": Wrong(usages(ANY_USAGE), USAGES),
    "clients and any usage": Wrong(usages(CLIENT_AUTH, ANY_USAGE), USAGES),
    "servers only": Wrong(usages(SERVER_AUTH), USAGES),
    "clients and servers": Wrong(usages(CLIENT_AUTH, SERVER_AUTH), USAGES, anywhere=False),
    "e-mail only": Wrong(usages(EMAIL_PROTECTION), USAGES),
    "clients and code": Wrong(usages(CLIENT_AUTH, CODE_SIGNING), USAGES),
    "clients twice": Wrong(usages(CLIENT_AUTH, CLIENT_AUTH), USAGES),
    "extended key usage critical": Wrong(
        other_critical(ExtensionOID.EXTENDED_KEY_USAGE), EXTENSIONS, anywhere=False
    ),
    # whom it names
    "no alternative name": Wrong(without(ExtensionOID.SUBJECT_ALTERNATIVE_NAME), NAMES),
    "somebody else's address": Wrong(names(x509.RFC822Name("bert@example.org")), NAMES),
    "address in other case": Wrong(names(x509.RFC822Name("Ada@example.org")), NAMES),
    "address doubled": Wrong(names(ADAS_ADDRESS, ADAS_ADDRESS), NAMES),
    "two addresses": Wrong(names(ADAS_ADDRESS, x509.RFC822Name("bert@example.org")), NAMES),
    "a URI instead": Wrong(names(x509.UniformResourceIdentifier(f"urn:uuid:{pki.SUBJECT}")), NAMES),
    "the address as a host": Wrong(names(x509.DNSName("ada@example.org")), NAMES),
    "a host besides": Wrong(names(ADAS_ADDRESS, x509.DNSName("www.example.org")), NAMES),
    "alternative name critical": Wrong(
        other_critical(ExtensionOID.SUBJECT_ALTERNATIVE_NAME), EXTENSIONS, anywhere=False
    ),
    # other extensions
    "no subject key identifier": Wrong(
        without(ExtensionOID.SUBJECT_KEY_IDENTIFIER), EXTENSIONS, anywhere=False
    ),
    "no authority key identifier": Wrong(
        without(ExtensionOID.AUTHORITY_KEY_IDENTIFIER), EXTENSIONS, anywhere=False
    ),
    "an unknown extension": Wrong(more(Extension(UNKNOWN, False, b"\5\0")), EXTENSIONS, anywhere=False),
    "a critical unknown extension": Wrong(
        more(Extension(UNKNOWN, True, b"\5\0")), EXTENSIONS, anywhere=False
    ),
    "a revocation list elsewhere": Wrong(more(extension(CRL_ELSEWHERE)), EXTENSIONS, anywhere=False),
    "name constraints": Wrong(
        more(extension(CHILDREN_EVERYWHERE, critical=True)), EXTENSIONS, anywhere=False
    ),
    "an extension twice": Wrong(more(GOOD.extensions[0]), UNREADABLE),
    "an extension nobody can read": Wrong(
        more(Extension(ExtensionOID.KEY_USAGE.dotted_string, True, b"\xff")), UNREADABLE
    ),
    "no extensions": Wrong(parts(extensions=()), USAGES),
}


def findings(draft: Draft, rules: LeafRules, request: SigningRequest = REQUEST) -> list[str]:
    return check_leaf(draft.signed_by(ISSUING), request, rules, now=NOW)


@pytest.mark.parametrize("rules", [EXACT, LENIENT], ids=["exact", "lenient"])
@pytest.mark.parametrize("key_type", KeyType)
def test_the_leaf_that_was_asked_for_is_right(key_type: KeyType, rules: LeafRules) -> None:
    request = pki.signing_request(key_type)
    leaf = pki.draft_leaf(request, ISSUING).signed_by(ISSUING)

    assert check_leaf(leaf, request, rules, now=NOW) == []
    assert check_chain(Chain(leaf, (ISSUING.certificate,)), TRUST, now=NOW) == []


@pytest.mark.parametrize("rules", [EXACT, LENIENT], ids=["exact", "lenient"])
@pytest.mark.parametrize(
    "changes",
    [
        {"email": None},
        {"organization": None},
        {"usages": tuple(Usage)},
        {"validity": timedelta(minutes=5)},
        {"common_name": "山田 Zoë"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_so_is_every_other_one_that_was_asked_for(changes: dict[str, Any], rules: LeafRules) -> None:
    request = pki.signing_request(**changes)

    assert findings(pki.draft_leaf(request, ISSUING), rules, request) == []


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_leaf_is_stopped(wrong: Wrong) -> None:
    found = findings(wrong.change(GOOD), EXACT)

    assert any(wrong.finding in finding for finding in found), found


@pytest.mark.parametrize(
    "wrong",
    [wrong for wrong in WRONG.values() if wrong.anywhere],
    ids=[name for name, wrong in WRONG.items() if wrong.anywhere],
)
def test_what_would_harm_people_is_stopped_whatever_the_rules(wrong: Wrong) -> None:
    assert findings(wrong.change(GOOD), LENIENT) != []


@pytest.mark.parametrize(
    "wrong",
    [wrong for wrong in WRONG.values() if not wrong.anywhere],
    ids=[name for name, wrong in WRONG.items() if not wrong.anywhere],
)
def test_an_authority_with_a_template_of_its_own_may_deviate_harmlessly(wrong: Wrong) -> None:
    assert findings(wrong.change(GOOD), LENIENT) == []


def test_servers_are_let_pass_only_where_the_rules_say_so_and_noted() -> None:
    leaf = GOOD.put(extended_key_usage(CLIENT_AUTH, SERVER_AUTH)).signed_by(ISSUING)

    assert check_leaf(leaf, REQUEST, LENIENT, now=NOW) == []
    assert check_leaf(leaf, REQUEST, LeafRules(exact=False), now=NOW) != []
    assert notes(leaf) == "serverAuth"
    assert notes(GOOD.signed_by(ISSUING)) is None


@pytest.mark.parametrize("part", [O, OU])
def test_an_authority_may_add_organizations_it_is_known_for(part: x509.ObjectIdentifier) -> None:
    rules = LeafRules(exact=False, organizations=frozenset({"Known Org"}))

    assert findings(subject(ADA, (part, "Known Org"))(GOOD), rules) == []
    assert findings(subject(ADA, (part, "Evil Org"))(GOOD), rules) != []


@pytest.mark.parametrize(
    ("ago", "right"),
    [
        (timedelta(minutes=-3), False),
        (timedelta(minutes=-1), True),
        (timedelta(minutes=1), True),
        (timedelta(minutes=10), True),
        (timedelta(minutes=11), False),
    ],
)
def test_another_clock_may_differ_by_little(ago: timedelta, right: bool) -> None:
    """step-ca back-dates by a minute, and its clock may be ahead."""
    draft = moved(timedelta(minutes=5) - ago)(GOOD)

    assert (findings(draft, LENIENT) == []) is right


@pytest.mark.parametrize(("more", "right"), [(timedelta(minutes=2), True), (timedelta(minutes=3), False)])
def test_another_authority_may_round_the_validity_up_by_little(more: timedelta, right: bool) -> None:
    assert (findings(longer(more)(GOOD), LENIENT) == []) is right


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_found_and_none_breaks_the_check(bit: int) -> None:
    leaf = GOOD.signed_by(ISSUING)
    content = leaf.public_bytes(Encoding.DER)
    # `cryptography` does not look at how many bits of the signature's last byte are unused.
    unused = len(content) - len(leaf.signature) - 1
    for place in set(range(len(content))) - {unused}:
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        try:
            other = pki.load(bytes(flipped))
        except (ValueError, x509.InvalidVersion):
            continue
        found = check_leaf(other, REQUEST, EXACT, now=NOW)
        found += check_chain(Chain(other, (ISSUING.certificate,)), TRUST, now=NOW)

        assert found != [], place


# Chains


def leaf_of(issuer: Authority) -> x509.Certificate:
    return pki.draft_leaf(REQUEST, issuer).signed_by(issuer)


def chain_of(*issuers: Authority, leaf: x509.Certificate | None = None) -> Chain:
    return Chain(leaf or leaf_of(issuers[0]), tuple(issuer.certificate for issuer in issuers))


def no_authority() -> Authority:
    """A person's certificate, whose key signs one more."""
    key = ec.generate_private_key(ec.SECP256R1())
    draft = replace(GOOD, public_key=public_key_bytes(key.public_key()))
    return Authority(draft.signed_by(ISSUING), key)


def claimant(authority: Authority) -> Authority:
    """Below an authority, under its name and with the identifier of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    draft = pki.draft_authority("Test Issuing CA", key, path_length=0, parent=authority)
    claimed = x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
    return Authority(draft.put(claimed).signed_by(authority), key)


SAME_NAMED = pki.root()
OTHER_ISSUING = pki.below(ROOT, "Another Issuing CA")
UPPER = pki.below(ROOT, "Upper CA", path_length=1)
LOWER = pki.below(UPPER, "Lower CA")
PERSON = no_authority()
CHAINS = {
    "another root": chain_of(pki.below(pki.root("Foreign Root CA"))),
    "another root of the same name": chain_of(pki.below(SAME_NAMED)),
    "another root of the same name, inside": chain_of(pki.below(SAME_NAMED), SAME_NAMED),
    "intermediate missing": Chain(leaf_of(ISSUING), ()),
    "another intermediate of the same name": chain_of(pki.below(ROOT), leaf=leaf_of(ISSUING)),
    "a spare intermediate": chain_of(ISSUING, OTHER_ISSUING),
    "a spare intermediate first": chain_of(OTHER_ISSUING, ISSUING, leaf=leaf_of(ISSUING)),
    "a spare intermediate that claims another's key": chain_of(
        claimant(ISSUING), ISSUING, leaf=leaf_of(ISSUING)
    ),
    "an intermediate twice": chain_of(ISSUING, ISSUING),
    "the root inside": chain_of(ISSUING, ROOT),
    "wrong order": chain_of(UPPER, LOWER, leaf=leaf_of(LOWER)),
    "chain cut": chain_of(LOWER),
    "path longer than allowed": chain_of(pki.below(ISSUING, "Too Low CA"), ISSUING),
    "signed by a person": chain_of(PERSON, ISSUING),
    "the leaf among the intermediates": Chain(leaf := leaf_of(ISSUING), (leaf, ISSUING.certificate)),
    "the root itself as leaf": Chain(ROOT.certificate, ()),
    "no extended key usage for clients": chain_of(ISSUING, leaf=usages(SERVER_AUTH)(GOOD).signed_by(ISSUING)),
    "a critical unknown extension": chain_of(
        ISSUING, leaf=more(Extension(UNKNOWN, True, b"\5\0"))(GOOD).signed_by(ISSUING)
    ),
    "names another key as its issuer's": chain_of(
        ISSUING,
        leaf=GOOD.put(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(OTHER_ISSUING.key.public_key())
        ).signed_by(ISSUING),
    ),
    "not signed by the key it names": chain_of(
        ISSUING, leaf=GOOD.signed(ISSUING.certificate.subject.public_bytes(), OTHER_ISSUING.key)
    ),
    "a signature nobody knows": chain_of(ISSUING, leaf=signed_with(UNKNOWN)(GOOD).signed_by(ISSUING)),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_a_wrong_chain_is_stopped(chain: Chain) -> None:
    assert check_chain(chain, TRUST, now=NOW) != []


@pytest.mark.parametrize("chain", [chain_of(ISSUING), chain_of(LOWER, UPPER), Chain(leaf_of(ROOT), ())])
def test_a_chain_in_order_is_right_however_long(chain: Chain) -> None:
    assert check_chain(chain, TRUST, now=NOW) == []


@pytest.mark.parametrize("when", [NOW - HOUR, NOW + 91 * DAY, NOW + 20 * 365 * DAY])
def test_a_chain_is_right_only_while_it_is_valid(when: Any) -> None:
    assert check_chain(chain_of(ISSUING), TRUST, now=when) != []


# Requests


@pytest.mark.parametrize("key_type", KeyType)
def test_a_right_request_is_let_pass(key_type: KeyType) -> None:
    assert check_request(pki.signing_request(key_type)) == []


def with_key(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> SigningRequest:
    """The right request for a key that is not right."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, pki.ADA)])
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, algorithm)
    public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return replace(REQUEST, csr=csr.public_bytes(Encoding.DER), public_key=public_key)


def corrupted(csr: bytes) -> bytes:
    """With one bit of the signature flipped."""
    return csr[:-1] + bytes([csr[-1] ^ 1])


@pytest.mark.parametrize(
    ("request_", "finding"),
    [
        (replace(REQUEST, csr=corrupted(REQUEST.csr)), "not signed by its own key"),
        (replace(REQUEST, csr=new_key_and_csr(KeyType.P256, pki.ADA).csr), "the CSR holds another key"),
        (replace(REQUEST, common_name="Bert"), "not exactly the common name"),
        (pki.signing_request(common_name="Zoe\u0308"), "not in its normal form"),
        (pki.signing_request(common_name="alice,O=Evil"), "The name may hold"),
        (pki.signing_request(common_name="alice\u202e"), "The name may hold"),
        (replace(REQUEST, email="a@b.c,e@v.il"), "e-mail address is not a plain one"),
        (replace(REQUEST, email="ada@bücher.example"), "e-mail address is not in its normal form"),
        (replace(REQUEST, usages=()), "clientAuth"),
        (replace(REQUEST, usages=(Usage.EAP_OVER_LAN,)), "clientAuth"),
        (replace(REQUEST, validity=timedelta(0)), "not positive"),
        (replace(REQUEST, validity=-DAY), "not positive"),
        (with_key(ed25519.Ed25519PrivateKey.generate()), "neither an elliptic-curve nor an RSA key"),
        (with_key(ec.generate_private_key(ec.SECP521R1())), "neither P-256 nor P-384"),
        (with_key(ec.generate_private_key(ec.SECP256K1())), "neither P-256 nor P-384"),
        (with_key(rsa.generate_private_key(65537, 1024)), "RSA key is not of"),
        (with_key(rsa.generate_private_key(3, 2048)), "RSA key is not of"),
    ],
)
def test_a_wrong_request_is_stopped(request_: SigningRequest, finding: str) -> None:
    found = check_request(request_)

    assert any(finding in one for one in found), found
