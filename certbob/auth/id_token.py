"""Which ID tokens are accepted (OpenID Connect Core 3.1.3.7).

The signature is the library's work. The rules for claims stand here: those of Authlib and joserfc let more
pass than a sign-in needs, and say less about what was wrong.
"""

import hashlib
import hmac
import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import Key
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode, urlsafe_b64encode

from certbob.strict_json import json_object

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")
MAX_LENGTH = 16 * 1024
LEEWAY = timedelta(seconds=60)
MAX_AGE = timedelta(minutes=10)  # it was made a moment ago, for the code that was exchanged for it
MAX_SUBJECT_LENGTH = 255  # OpenID Connect Core 2

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)


class NotAccepted(Exception):
    """The message says why, for the operator's log. It holds nothing of the token."""


class ClockDiffers(NotAccepted):
    """The token was not made just now. `ahead`: by how much the provider's clock runs before ours."""

    def __init__(self, message: str, ahead: timedelta) -> None:
        super().__init__(message)
        self.ahead = ahead


def read_header(untrusted_token: str, algorithms: Sequence[str]) -> dict[str, Any]:
    """The header of a token that may be looked at further. Raises NotAccepted."""
    if len(untrusted_token) > MAX_LENGTH or not _SHAPE.fullmatch(untrusted_token):
        raise NotAccepted(f"the ID token is not a signed one of at most {MAX_LENGTH} characters")
    header = _json_part(untrusted_token, 0)
    if header.get("alg") not in algorithms:
        raise NotAccepted(f"the ID token is not signed with one of {', '.join(algorithms)}")
    if str(header.get("typ", "JWT")).upper() != "JWT":
        raise NotAccepted("the ID token's header says that it is another kind of token")
    if "crit" in header:
        raise NotAccepted("the ID token's header asks for an extension")
    return header


def verified_claims(
    untrusted_token: str,
    header: Mapping[str, Any],
    key: Key,
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str,
    now: datetime,
) -> dict[str, Any]:
    """The claims of a token with this `header`, signed with `key`. Raises ClockDiffers, NotAccepted."""
    if not _is_signed(untrusted_token, key, header["alg"]):
        raise NotAccepted("the ID token's signature is wrong")
    claims = _json_part(untrusted_token, 1)
    check_claims(claims, issuer=issuer, client_id=client_id, nonce=nonce, now=now)
    if "at_hash" in claims and claims["at_hash"] != _half_hash(access_token, header["alg"]):
        raise NotAccepted("the ID token belongs to another access token (at_hash)")
    return claims


def _is_signed(untrusted_token: str, key: Key, algorithm: str) -> bool:
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    try:
        with warnings.catch_warnings():
            # RFC 9864 gives EdDSA the name of its curve; providers go on with the old one.
            warnings.simplefilter("ignore", SecurityWarning)
            token = jws.extract_compact(untrusted_token.encode(), registry=registry)
            return jws.validate_compact(token, key, registry=registry)
    except (JoseError, ValueError) as error:
        raise NotAccepted(f"the ID token's signature cannot be verified: {error}") from error


def _half_hash(access_token: str, algorithm: str) -> str:
    """OpenID Connect Core 3.1.3.6: of the hash that belongs to the signature's algorithm."""
    name = "sha512" if algorithm in ("EdDSA", "Ed25519") else "sha256"
    whole = hashlib.new(name, access_token.encode()).digest()
    return urlsafe_b64encode(whole[: len(whole) // 2]).decode()


def check_claims(
    claims: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str, now: datetime
) -> None:
    """Raises ClockDiffers, NotAccepted."""
    if claims.get("iss") != issuer:
        raise NotAccepted("the ID token is of another issuer")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not (
        1 <= len(subject) <= MAX_SUBJECT_LENGTH and subject.isascii() and subject.isprintable()
    ):
        raise NotAccepted(f"the ID token's sub is not 1 to {MAX_SUBJECT_LENGTH} ASCII characters")
    _check_audience(claims, client_id)
    told = claims.get("nonce")
    if not nonce or not isinstance(told, str) or not hmac.compare_digest(told.encode(), nonce.encode()):
        raise NotAccepted("the ID token's nonce is not the one of this sign-in")
    if "events" in claims:
        raise NotAccepted("the ID token is a logout or event token")
    _check_times(claims, now)


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    audience, authorized = claims.get("aud"), claims.get("azp")
    audiences = audience if isinstance(audience, list) else [audience]
    if client_id not in audiences or not all(isinstance(name, str) for name in audiences):
        raise NotAccepted("the ID token is for another client (aud)")
    if (len(audiences) > 1 or "azp" in claims) and authorized != client_id:
        raise NotAccepted("the ID token was given to another client (azp)")


def _check_times(claims: Mapping[str, Any], now: datetime) -> None:
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    valid_from = _time(claims, "nbf") if "nbf" in claims else issued
    moment, leeway = now.timestamp(), LEEWAY.total_seconds()
    if (
        expires + leeway <= moment
        or max(issued, valid_from) > moment + leeway
        or issued < moment - MAX_AGE.total_seconds()
    ):
        message = (
            f"the ID token's times do not fit (iat {issued - moment:+.0f} s, exp {expires - moment:+.0f} s)"
        )
        if abs(issued - moment) > leeway:
            raise ClockDiffers(message, ahead=timedelta(seconds=round(issued - moment)))
        raise NotAccepted(message)


def _time(claims: Mapping[str, Any], name: str) -> float:
    """Seconds since 1970 (RFC 7519 section 2, NumericDate), below the year 5000."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise NotAccepted(f"the ID token's {name} is no time")
    return float(value)


def _json_part(untrusted_token: str, part: int) -> dict[str, Any]:
    try:
        return json_object(urlsafe_b64decode(untrusted_token.split(".")[part].encode()))
    except (ValueError, TypeError) as error:
        raise NotAccepted(f"the ID token cannot be read: {error}") from error
