"""Key and certificates become the file a person takes away.

A file is wholly `modern` or wholly `compatible`, cipher and MAC: systems that cannot read one of the two
report a wrong password, and mixed forms are read by fewer systems than either. Every option is set
explicitly because library defaults have changed. 2048 rounds: `cryptography` fixes the MAC at that, so more
for the bags would cost us time and an attacker nothing; the 99 bits of the passphrase protect the file.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import pkcs12

from certbob.devices import Encoding, Platform

MAX_FRIENDLY_NAME = 64
_ROUNDS = 2048


class Format(StrEnum):
    PFX = "pfx"
    PEM = "pem"

    @property
    def media_type(self) -> str:
        # Mail scanners score application/octet-stream for a .pfx as a type mismatch.
        return "application/x-pkcs12" if self is Format.PFX else "application/x-pem-file"


@dataclass(frozen=True, slots=True)
class FileNames:
    """`[pkcs12] filename`: a pattern that may hold {user}, {device} and {ext}."""

    pattern: str = "user_cert.pfx"

    def name(self, *, user: str, device: str, platform: Platform, form: Format) -> str:
        """The file's name: ASCII, safe in a header without quoting. {ext} is p12 where manuals ask for it."""
        wants_p12 = platform in (Platform.MAC, Platform.IOS, Platform.ANDROID, Platform.LINUX)
        name = self.pattern.format(user=_slug(user), device=_slug(device), ext="p12" if wants_p12 else "pfx")
        return f"{name.rpartition('.')[0]}.pem" if form is Format.PEM else name


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:30].strip("-") or "user"


def friendly_name(person: str, device: str, organization: str | None, expiry: datetime) -> str:
    """What certificate choosers show: `Ada Lovelace - Work laptop (Example Org) 2027-02`.

    At most 64 characters: the organization goes first, then the person is cut; device and month stay.
    """
    tail = f" - {device}", f" {expiry:%Y-%m}"
    middle = f" ({organization})" if organization else ""
    if len(person) + len(middle) + sum(map(len, tail)) > MAX_FRIENDLY_NAME:
        middle = ""
    person = person[: MAX_FRIENDLY_NAME - len(middle) - sum(map(len, tail))].rstrip()
    return f"{person}{tail[0]}{middle}{tail[1]}"


def to_pkcs12(
    private_key: bytes,
    leaf: bytes,
    authorities: tuple[bytes, ...],
    *,
    name: str,
    passphrase: str,
    encoding: Encoding,
) -> bytes:
    """PKCS #12 (RFC 7292) from DER parts; `authorities` in chain order. CPU-heavy: run it in a signer."""
    return _serialize(
        serialization.load_der_private_key(private_key, password=None),
        x509.load_der_x509_certificate(leaf),
        [x509.load_der_x509_certificate(der) for der in authorities],
        name.encode(),
        passphrase,
        encoding,
    )


def reencode(content: bytes, *, passphrase: str, encoding: Encoding, form: Format) -> bytes:
    """The same key and certificates in another encoding or format, from a PKCS #12 file of ours."""
    bundle = pkcs12.load_pkcs12(content, passphrase.encode("ascii"))
    if bundle.key is None or bundle.cert is None:
        raise ValueError("a bundle of ours holds a key and a certificate")
    authorities = [extra.certificate for extra in bundle.additional_certs]
    leaf, name = bundle.cert.certificate, bundle.cert.friendly_name or b""
    if form is Format.PFX:
        return _serialize(bundle.key, leaf, authorities, name, passphrase, encoding)
    key = bundle.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode("ascii")),
    )
    return key + b"".join(
        certificate.public_bytes(serialization.Encoding.PEM) for certificate in (leaf, *authorities)
    )


def _serialize(
    key: PrivateKeyTypes,
    leaf: x509.Certificate,
    authorities: list[x509.Certificate],
    name: bytes,
    passphrase: str,
    encoding: Encoding,
) -> bytes:
    builder = serialization.PrivateFormat.PKCS12.encryption_builder().kdf_rounds(_ROUNDS)
    if encoding is Encoding.MODERN:
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(hashes.SHA256())
    else:
        builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(
            hashes.SHA1()  # noqa: S303 what older systems read
        )
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise TypeError(f"{type(key).__name__} is not a key for people")
    encryption = builder.build(passphrase.encode("ascii"))
    return pkcs12.serialize_key_and_certificates(name, key, leaf, authorities, encryption)
