"""The certificate that a browser has presented, and what services will say to it."""

import base64
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from certbob.ledger import Ledger
from certbob.ports import SUPERSEDED, Certificate, Trust

MAX_CHARACTERS = 16384
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class State(StrEnum):
    """The first that is true. UNKNOWN: signed by the authority, but not through CertBob."""

    FOREIGN = "foreign"
    REVOKED = "revoked"
    REPLACED = "replaced"
    EXPIRED = "expired"
    EARLY = "early"
    UNKNOWN = "unknown"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Presented:
    """`name` and `issuer` as the certificate says them. `known`: as the ledger has it; None: it has not.

    Times are aware, UTC.
    """

    state: State
    name: str
    issuer: str
    not_before: datetime
    not_after: datetime
    known: Certificate | None


def is_empty(text: str) -> bool:
    """Without a certificate HAProxy writes empty quotes, and Caddy what stands in its configuration."""
    return not text.strip('" ') or text.startswith("{")


def read(text: str) -> x509.Certificate:
    """The first certificate in a header of a proxy. Raises ValueError.

    PEM, URL-escaped (nginx) or bare; base64 of DER, alone (Caddy), in double quotes (HAProxy), in colons
    (RFC 9440), or the first of several with commas between them (Traefik).
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError("too long")
    first = unquote(text).removeprefix(_BEGIN).partition(_END)[0].partition(",")[0]
    der = base64.b64decode("".join(first.split()).strip('":'), validate=True)
    try:
        return x509.load_der_x509_certificate(der)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from error


async def examine(certificate: x509.Certificate, trust: Trust, ledger: Ledger, now: datetime) -> Presented:
    """Whoever presents it has its key. Raises ValueError when it cannot be read, StorageProblem."""
    known = await ledger.find_any(certificate.serial_number)
    if known is not None and known.fingerprint != certificate.fingerprint(hashes.SHA256()).hex():
        known = None  # another authority may use the same numbers
    return Presented(
        _state(certificate, known, trust, now),
        _name(certificate.subject),
        _name(certificate.issuer),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        known,
    )


def _state(certificate: x509.Certificate, known: Certificate | None, trust: Trust, now: datetime) -> State:
    if not any(_is_signed_by(certificate, issuer) for issuer in (*trust.intermediates, trust.root)):
        return State.FOREIGN
    if known is not None and known.revoked_at is not None:
        return State.REPLACED if known.revocation_reason == SUPERSEDED else State.REVOKED
    if now > certificate.not_valid_after_utc:
        return State.EXPIRED
    if now < certificate.not_valid_before_utc:
        return State.EARLY
    return State.UNKNOWN if known is None else State.GOOD


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    with suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        certificate.verify_directly_issued_by(issuer)
        return True
    return False


def _name(name: x509.Name) -> str:
    """The common name; without one, everything."""
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()
