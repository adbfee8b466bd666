"""Grants: permission for one person to get one certificate, as a short-lived single-use token.

The token is a JWT with an internal subject id and a random `jti`, and says nothing about the person. What
is granted stands in the database under the hash of the `jti`.
"""

import hmac
import secrets
from datetime import timedelta

from certbob.devices import Device
from certbob.errors import GrantExpired, GrantInvalid, GrantReplaced, GrantUsed
from certbob.identity import Door, Identity
from certbob.keys import derive_key, digest, passphrase_for
from certbob.ports import Clock, Delivery, Grant, GrantStore, Replacement
from certbob.tokens import Tokens

LINK_LIFETIME = timedelta(hours=1)


class Grants:
    """Mint, inspect, redeem, release. `secret` is the server's; each purpose gets a key of its own."""

    def __init__(
        self, store: GrantStore, *, clock: Clock, secret: str, issuer: str, lifetime: timedelta
    ) -> None:
        self._store = store
        self._clock = clock
        self._lifetime = lifetime
        self._tokens = Tokens(secret, "grant", "certbob:issue", issuer=issuer, clock=clock)
        self._passphrase_key = derive_key(secret, "passphrase")

    async def mint(
        self,
        identity: Identity,
        profile_id: str,
        device: Device,
        validity: timedelta,
        delivery: Delivery = Delivery.DOWNLOAD,
        replaces: Replacement | None = None,
    ) -> str:
        """A new grant's token. Whether the person is entitled is the caller's question (`Issuance.admit`).

        In a chat old messages stay in sight, so there a new grant takes the place of an older link.
        """
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
                replaces=replaces,
                created_at=now,
                expires_at=expires_at,
            )
        )
        if identity.door is Door.MATTERMOST:
            await self._store.set_latest_link(identity.subject, digest(grant_id))
        return self._tokens.sign(identity.subject, grant_id, expires_at=expires_at)

    async def inspect(self, untrusted_token: str) -> Grant:
        """What is granted; spends nothing and shows used and expired grants, too.

        Raises GrantMalformed, GrantInvalid, and GrantExpired once its row was pruned.
        """
        claims = self._tokens.verify(untrusted_token)
        grant = await self._store.find_grant(digest(claims["jti"]))
        if grant is None and claims["exp"] <= self._clock.now().timestamp():
            raise GrantExpired
        if grant is None or grant.identity.subject != claims["sub"]:
            raise GrantInvalid("no such grant")
        if int(grant.expires_at.timestamp()) != claims["exp"]:
            raise GrantInvalid("expires at another time than its grant")
        return grant

    def check_live(self, grant: Grant, holder: str | None = None) -> None:
        """Raises GrantUsed, GrantExpired, GrantReplaced."""
        if grant.claimed_at is not None:
            by_holder = bool(holder and grant.holder_hash) and hmac.compare_digest(
                digest(holder or ""), grant.holder_hash or ""
            )
            raise GrantUsed(grant.claimed_at, by_holder=by_holder)
        if grant.expires_at <= self._clock.now():
            raise GrantExpired
        if grant.is_replaced:
            raise GrantReplaced

    async def redeem(self, untrusted_token: str, holder: str | None = None) -> Grant:
        """Spend the grant, once over all processes. `holder`: the secret of the browser that does it.

        Raises GrantMalformed, GrantInvalid, GrantUsed, GrantExpired, GrantReplaced.
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

    async def end_all(self, subject: str) -> None:
        """Links that somebody has not used yet are links no more."""
        await self._store.end_grants(subject)

    def passphrase(self, untrusted_token: str) -> str:
        """The passphrase of the grant's file. Raises GrantMalformed, GrantInvalid."""
        return passphrase_for(self._passphrase_key, self._tokens.verify(untrusted_token)["jti"])
