"""A small PKI for the tests: good and foreign authorities, and leaves as wrong as a test wants them.

`cryptography` refuses to build many a wrong certificate, so drafts are encoded here.
"""

import secrets
import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from certbob.keys import NewKey, new_key_and_csr, public_key_bytes
from certbob.ports import SigningRequest
from certbob.profiles import KeyType, Usage
from tests.support import der

NOW = datetime.now(UTC).replace(microsecond=0)
ADA = "Ada Lovelace"
SUBJECT = "7a1c1b54-8a0c-4f0e-9a55-5b8b7f0f6d10"
DAYS_90 = timedelta(days=90)

ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))


@dataclass(frozen=True, slots=True)
class Extension:
    oid: str
    critical: bool
    value: bytes  # DER

    @property
    def encoded(self) -> bytes:
        critical = der.encode(der.BOOLEAN, b"\xff") if self.critical else b""
        return der.sequence(der.oid(self.oid), critical, der.encode(der.OCTETS, self.value))


def extension(value: x509.ExtensionType, *, critical: bool = False) -> Extension:
    return Extension(value.oid.dotted_string, critical, value.public_bytes())


@dataclass(frozen=True, slots=True)
class Draft:
    """A certificate before its signature, every part open to change. Names and keys are DER."""

    subject: bytes
    public_key: bytes
    start: datetime
    end: datetime
    extensions: tuple[Extension, ...]
    serial: int
    version: int = 3
    algorithm: bytes = ECDSA_SHA256

    def put(self, *values: x509.ExtensionType, critical: bool = False) -> "Draft":
        """With these extensions, in the place of those of the same kind."""
        new = {value.oid.dotted_string: extension(value, critical=critical) for value in values}
        kept = (old for old in self.extensions if old.oid not in new)
        return replace(self, extensions=(*kept, *new.values()))

    def add(self, *more: Extension) -> "Draft":
        return replace(self, extensions=(*self.extensions, *more))

    def drop(self, kind: x509.ObjectIdentifier) -> "Draft":
        kept = (old for old in self.extensions if old.oid != kind.dotted_string)
        return replace(self, extensions=tuple(kept))

    def flip_critical(self, kind: x509.ObjectIdentifier) -> "Draft":
        changed = (
            replace(old, critical=not old.critical) if old.oid == kind.dotted_string else old
            for old in self.extensions
        )
        return replace(self, extensions=tuple(changed))

    def signed(self, issuer: bytes, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """Always signed with ECDSA and SHA-256, whatever `algorithm` says."""
        version = der.tagged(0, der.integer(self.version - 1)) if self.version > 1 else b""
        listed = b"".join(entry.encoded for entry in self.extensions)
        extensions = der.tagged(3, der.sequence(listed)) if self.extensions else b""
        to_be_signed = der.sequence(
            version,
            der.integer(self.serial),
            self.algorithm,
            issuer,
            der.sequence(der.time(self.start), der.time(self.end)),
            self.subject,
            self.public_key,
            extensions,
        )
        signature = der.encode(der.BITS, b"\0" + key.sign(to_be_signed, ec.ECDSA(hashes.SHA256())))
        return load(der.sequence(to_be_signed, self.algorithm, signature))

    def signed_by(self, authority: "Authority") -> x509.Certificate:
        return self.signed(authority.certificate.subject.public_bytes(), authority.key)


@dataclass(frozen=True, slots=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def key_der(self) -> bytes:
        return self.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def load(content: bytes) -> x509.Certificate:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of serial numbers that are wrong on purpose
        return x509.load_der_x509_certificate(content)


def name(*attributes: tuple[x509.ObjectIdentifier, str], tag: int = der.UTF8) -> bytes:
    """A Name with one attribute in each RDN, all of them the same kind of string."""
    return der.sequence(
        *(
            der.encode(der.SET, der.sequence(der.oid(kind.dotted_string), der.encode(tag, value.encode())))
            for kind, value in attributes
        )
    )


def common_name(value: str) -> bytes:
    return name((NameOID.COMMON_NAME, value))


def root(title: str = "Test Root CA", *, path_length: int = 1) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    draft = draft_authority(title, key, path_length=path_length)
    return Authority(draft.signed(draft.subject, key), key)


def below(parent: Authority, title: str = "Test Issuing CA", *, path_length: int | None = 0) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(
        draft_authority(title, key, path_length=path_length, parent=parent).signed_by(parent), key
    )


def draft_authority(
    title: str, key: ec.EllipticCurvePrivateKey, *, path_length: int | None, parent: Authority | None = None
) -> Draft:
    usage = key_usage("key_cert_sign", "crl_sign")
    draft = Draft(
        subject=common_name(title),
        public_key=public_key_bytes(key.public_key()),
        start=NOW - timedelta(days=1),
        end=NOW + timedelta(days=3650),
        extensions=(
            extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True),
            extension(usage, critical=True),
            extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key())),
        ),
        serial=_serial(),
    )
    return draft if parent is None else draft.put(_authority_key_identifier(parent))


# Made once for the whole run: RSA takes its time.
_new_key = cache(new_key_and_csr)


def new_key(key_type: KeyType = KeyType.P256, common_name: str = ADA) -> NewKey:
    return _new_key(key_type, common_name)


def signing_request(key_type: KeyType = KeyType.P256, **changes: Any) -> SigningRequest:
    key = new_key(key_type, changes.get("common_name", ADA))
    request = SigningRequest(
        csr=key.csr,
        public_key=key.public_key,
        common_name=ADA,
        organization="Example Org",
        email="ada@example.org",
        subject=SUBJECT,
        usages=(Usage.CLIENT_AUTH,),
        validity=DAYS_90,
        request_id="test",
    )
    return replace(request, **changes)


def draft_leaf(request: SigningRequest, issuer: Authority, *, now: datetime = NOW) -> Draft:
    """Exactly the leaf that was asked for."""
    subject = [(NameOID.COMMON_NAME, request.common_name)]
    if request.organization is not None:
        subject.append((NameOID.ORGANIZATION_NAME, request.organization))
    alternative: x509.GeneralName = x509.UniformResourceIdentifier(f"urn:uuid:{request.subject}")
    if request.email is not None:
        alternative = x509.RFC822Name(request.email)
    public_key = x509.load_der_x509_csr(request.csr).public_key()
    start = now - timedelta(minutes=5)
    return Draft(
        subject=name(*subject),
        public_key=request.public_key,
        start=start,
        end=start + request.validity - timedelta(seconds=1),
        extensions=(
            extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
            extension(key_usage("digital_signature"), critical=True),
            extension(extended_key_usage(*(usage.oid for usage in request.usages))),
            extension(x509.SubjectAlternativeName([alternative])),
            extension(x509.SubjectKeyIdentifier.from_public_key(public_key)),
            extension(_authority_key_identifier(issuer)),
        ),
        serial=_serial(),
    )


_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def key_usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in allowed for usage in _KEY_USAGES})


def extended_key_usage(*oids: str) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, oids))


def _authority_key_identifier(issuer: Authority) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _serial() -> int:
    return 1 << 127 | secrets.randbits(127)
