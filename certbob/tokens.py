"""The signed tokens in links: a JWT that says for what, for whom and until when, and nothing about a person.

Each purpose has a key and an audience of its own, so a token of one is nothing to another.
"""

import binascii
import json
import re
from datetime import datetime, timedelta
from typing import Any

import jwt
from jwt.utils import base64url_decode, base64url_encode

from certbob.errors import GrantInvalid, GrantMalformed
from certbob.keys import derive_key
from certbob.ports import Clock
from certbob.strict_json import json_object

MAX_TOKEN_LENGTH = 2048
LEEWAY = timedelta(seconds=60)  # for clocks of replicas; never applied to the expiry

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
_CLAIMS = {"iss", "aud", "sub", "jti", "iat", "nbf", "exp"}


class Tokens:
    """`secret` is the server's, `purpose` an ASCII word; `issuer` the address of this service."""

    def __init__(self, secret: str, purpose: str, audience: str, *, issuer: str, clock: Clock) -> None:
        self._key = derive_key(secret, purpose)
        self._type = f"certbob-{purpose}+jwt"
        self._audience = audience
        self._issuer = issuer
        self._clock = clock
        self._jws = jwt.PyJWS(algorithms=["HS256"], options={"enforce_minimum_key_length": True})

    def sign(self, subject: str, token_id: str, *, expires_at: datetime) -> str:
        """A token whose `sub` and `jti` are these; both ASCII."""
        issued = int(self._clock.now().timestamp())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "jti": token_id,
            "iat": issued,
            "nbf": issued,
            "exp": int(expires_at.timestamp()),
        }
        return self._jws.encode(
            json.dumps(claims).encode(), self._key, algorithm="HS256", headers={"typ": self._type}
        )

    def verify(self, untrusted_token: str) -> dict[str, Any]:
        """The claims of a token of ours. Whether it has expired is the caller's question.

        Raises GrantMalformed, GrantInvalid.
        """
        if len(untrusted_token) > MAX_TOKEN_LENGTH or not _SHAPE.fullmatch(untrusted_token):
            raise GrantMalformed("not a compact JWS")
        try:
            _require_canonical(untrusted_token)
            decoded = self._jws.decode_complete(untrusted_token, self._key, algorithms=["HS256"])
            claims = json_object(decoded["payload"])
            if decoded["header"] != {"alg": "HS256", "typ": self._type}:
                raise ValueError("unexpected header")
            self._check(claims)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise GrantInvalid(str(error)) from error
        return claims

    def _check(self, claims: dict[str, Any]) -> None:
        if claims.keys() != _CLAIMS:
            raise ValueError("unexpected claims")
        if claims["iss"] != self._issuer or claims["aud"] != self._audience:
            raise ValueError("for another service")
        ids = claims["sub"], claims["jti"]
        if not all(isinstance(value, str) and value and value.isascii() for value in ids):
            raise ValueError("subject or id is not an ASCII text")
        if any(type(claims[name]) is not int or claims[name] < 0 for name in ("iat", "nbf", "exp")):
            raise ValueError("a time is not a whole number")
        if max(claims["iat"], claims["nbf"]) > (self._clock.now() + LEEWAY).timestamp():
            raise ValueError("from the future")


def _require_canonical(token: str) -> None:
    """Base64 has several spellings for the same bytes; one token must have one spelling."""
    for part in token.split("."):
        try:
            if base64url_encode(base64url_decode(part)) != part.encode():
                raise ValueError("not canonical base64")
        except binascii.Error as error:
            raise ValueError("not base64") from error
