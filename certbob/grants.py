"""Grants: permission for one person to get one certificate, as a short-lived single-use token.

The token is a JWT with an internal subject id and a random `jti`, and says nothing about the person. What
is granted stands in the database under the hash of the `jti`.
"""

import binascii
import hmac
import json
import re
import secrets
from datetime import timedelta
from typing import Any

import jwt
from jwt.utils import base64url_decode, base64url_encode

from certbob.devices import Device
from certbob.errors import GrantExpired, GrantInvalid, GrantMalformed, GrantUsed
from certbob.identity import Identity
from certbob.keys import derive_key, digest, passphrase_for
from certbob.ports import Clock, Delivery, Grant, GrantStore
from certbob.strict_json import json_object

AUDIENCE = "certbob:issue"
TOKEN_TYPE = "certbob-grant+jwt"  # noqa: S105 a media type
MAX_TOKEN_LENGTH = 2048
LINK_LIFETIME = timedelta(hours=1)
LEEWAY = timedelta(seconds=60)  # for clocks of replicas; never applied to the expiry

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
_HEADER = {"alg": "HS256", "typ": TOKEN_TYPE}
_CLAIMS = {"iss", "aud", "sub", "jti", "iat", "nbf", "exp"}


class Grants:
    """Mint, inspect, redeem, release. `secret` is the server's; each purpose gets a key of its own."""

    def __init__(
        self, store: GrantStore, *, clock: Clock, secret: str, issuer: str, lifetime: timedelta
    ) -> None:
        self._store = store
        self._clock = clock
        self._issuer = issuer
        self._lifetime = lifetime
        self._signing_key = derive_key(secret, "grant")
        self._passphrase_key = derive_key(secret, "passphrase")
        self._jws = jwt.PyJWS(algorithms=["HS256"], options={"enforce_minimum_key_length": True})

    async def mint(
        self,
        identity: Identity,
        profile_id: str,
        device: Device,
        validity: timedelta,
        delivery: Delivery = Delivery.DOWNLOAD,
    ) -> str:
        """A new grant's token. Whether the person is entitled is the caller's question (`Issuance.admit`)."""
        now = self._clock.now()
        grant_id = secrets.token_urlsafe(32)
        # Mail takes its time, and whoever redeems a mailed link has to sign in.
        expires_at = now + (LINK_LIFETIME if delivery is Delivery.LINK else self._lifetime)
        await self._store.add_grant(
            Grant(
                id_hash=digest(grant_id),
                identity=identity,
                profile_id=profile_id,
                validity=validity,
                device=device,
                delivery=delivery,
                created_at=now,
                expires_at=expires_at,
            )
        )
        issued = int(now.timestamp())
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": identity.subject,
            "jti": grant_id,
            "iat": issued,
            "nbf": issued,
            "exp": int(expires_at.timestamp()),
        }
        return self._jws.encode(
            json.dumps(claims).encode(), self._signing_key, algorithm="HS256", headers={"typ": TOKEN_TYPE}
        )

    async def inspect(self, untrusted_token: str) -> Grant:
        """What is granted; spends nothing and shows used and expired grants, too.

        Raises GrantMalformed, GrantInvalid, and GrantExpired once its row was pruned.
        """
        claims = self._verify(untrusted_token)
        grant = await self._store.find_grant(digest(claims["jti"]))
        if grant is None and claims["exp"] <= self._clock.now().timestamp():
            raise GrantExpired
        if grant is None or grant.identity.subject != claims["sub"]:
            raise GrantInvalid("no such grant")
        if int(grant.expires_at.timestamp()) != claims["exp"]:
            raise GrantInvalid("expires at another time than its grant")
        return grant

    def check_live(self, grant: Grant, holder: str | None = None) -> None:
        """Raises GrantUsed, GrantExpired."""
        if grant.claimed_at is not None:
            by_holder = bool(holder and grant.holder_hash) and hmac.compare_digest(
                digest(holder or ""), grant.holder_hash or ""
            )
            raise GrantUsed(grant.claimed_at, by_holder=by_holder)
        if grant.expires_at <= self._clock.now():
            raise GrantExpired

    async def redeem(self, untrusted_token: str, holder: str | None = None) -> Grant:
        """Spend the grant, once over all processes. `holder`: the secret of the browser that does it.

        Raises GrantMalformed, GrantInvalid, GrantUsed, GrantExpired.
        """
        grant = await self.inspect(untrusted_token)
        holder_hash = digest(holder) if holder else None
        if await self._store.claim_grant(grant.id_hash, holder_hash, now=self._clock.now()):
            return grant
        grant = await self.inspect(untrusted_token)
        self.check_live(grant, holder)
        raise GrantExpired

    async def release(self, grant: Grant) -> None:
        """Make a redeemed grant redeemable again. Only when surely nothing was signed."""
        await self._store.release_grant(grant.id_hash)

    def passphrase(self, untrusted_token: str) -> str:
        """The passphrase of the grant's file. Raises GrantMalformed, GrantInvalid."""
        return passphrase_for(self._passphrase_key, self._verify(untrusted_token)["jti"])

    def _verify(self, untrusted_token: str) -> dict[str, Any]:
        """The claims of a token of ours. Whether it has expired is left to the grant's row."""
        if len(untrusted_token) > MAX_TOKEN_LENGTH or not _SHAPE.fullmatch(untrusted_token):
            raise GrantMalformed("not a compact JWS")
        try:
            _require_canonical(untrusted_token)
            decoded = self._jws.decode_complete(untrusted_token, self._signing_key, algorithms=["HS256"])
            claims = json_object(decoded["payload"])
            if decoded["header"] != _HEADER:
                raise ValueError("unexpected header")
            self._check(claims)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise GrantInvalid(str(error)) from error
        return claims

    def _check(self, claims: dict[str, Any]) -> None:
        if claims.keys() != _CLAIMS:
            raise ValueError("unexpected claims")
        if claims["iss"] != self._issuer or claims["aud"] != AUDIENCE:
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
