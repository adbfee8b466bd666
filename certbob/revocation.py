"""Taking a certificate back: the authority first, then the ledger and the list; all can be repeated."""

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from certbob.errors import CAProblem, GrantExpired, GrantInvalid, NotRevoked
from certbob.grants import Grants
from certbob.ledger import Ledger
from certbob.ports import THE_SERVICE, Actor, Certificate, CertificateAuthority, Clock, Revoker
from certbob.revocation_list import RevocationList
from certbob.tasks import Tasks
from certbob.tokens import Tokens

log = logging.getLogger(__name__)

LINK_LIFETIME = timedelta(minutes=10)
TRY_AGAIN_AFTER = timedelta(hours=1)


class Reason(StrEnum):
    """Why, as people say it."""

    LOST = "lost"
    RETIRED = "retired"
    REPLACED = "replaced"
    OTHER = "other"

    @property
    def label(self) -> str:
        return {
            Reason.LOST: "The device or the file was lost or stolen",
            Reason.RETIRED: "The device is no longer used",
            Reason.REPLACED: "I have a new certificate",
            Reason.OTHER: "Something else",
        }[self]

    @property
    def code(self) -> int:
        """The CRL reason code (RFC 5280 5.3.1)."""
        return {Reason.LOST: 1, Reason.RETIRED: 5, Reason.REPLACED: 4, Reason.OTHER: 0}[self]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of revoking all that somebody has: how many were revoked, and how many could not be."""

    revoked: int
    failed: int


class Revocation:
    """`tokens`: for links that let somebody in a chat revoke one certificate of theirs.

    `revocation_list`: None where the authority makes its own.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        grants: Grants,
        ca: CertificateAuthority,
        revocation_list: RevocationList | None,
        tokens: Tokens,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._grants = grants
        self._ca = ca
        self._revocation_list = revocation_list
        self._tokens = tokens
        self._clock = clock
        self._tasks = Tasks()

    def link_token(self, certificate: Certificate) -> str:
        """Good for ten minutes and for this certificate alone. Whoever has it may revoke it."""
        expires_at = self._clock.now() + LINK_LIFETIME
        return self._tokens.sign(certificate.subject, f"{certificate.serial:x}", expires_at=expires_at)

    def subject_of(self, untrusted_token: str, serial: int) -> str:
        """Whose certificate the link is for. Raises GrantMalformed, GrantInvalid, GrantExpired."""
        claims = self._tokens.verify(untrusted_token)
        if claims["jti"] != f"{serial:x}":
            raise GrantInvalid("for another certificate")
        if claims["exp"] <= self._clock.now().timestamp():
            raise GrantExpired
        return str(claims["sub"])

    async def revoke_replaced(self) -> None:
        """Those whose successors have been taken, once their time is over. Raises StorageProblem."""
        due = await self._ledger.due_for_revocation()
        for certificate in due:
            try:
                await self._revoke(certificate, Reason.REPLACED, THE_SERVICE)
            except NotRevoked as problem:
                log.warning("replaced, but not revoked yet: %d: %s", certificate.entry, problem.detail)
                # So that an authority that cannot do it at all stands in nobody's way.
                await self._ledger.postpone_revocation(certificate.entry, TRY_AGAIN_AFTER)
        if due:
            await self._renew_list()

    async def revoke_all(self, subject: str, reason: Reason, by: Actor) -> Outcome:
        """Everything that a person could still use, open links too; what fails stops no other.

        Raises StorageProblem.
        """
        return await asyncio.shield(self._tasks.start(self._revoke_all(subject, reason, by)))

    async def revoke(self, certificate: Certificate, reason: Reason, by: Actor) -> None:
        """Raises NotRevoked, StorageProblem; can be repeated."""
        await asyncio.shield(self._tasks.start(self._revoke_and_renew(certificate, reason, by)))

    async def drain(self, seconds: float) -> None:
        """Let what was begun end, for so long at most; called at shutdown."""
        await self._tasks.drain(seconds)

    async def _revoke_all(self, subject: str, reason: Reason, by: Actor) -> Outcome:
        outcome = Outcome(0, 0)
        await self._grants.end_all(subject)
        for certificate in await self._ledger.active_of(subject):
            try:
                await self._revoke(certificate, reason, by)
                outcome = replace(outcome, revoked=outcome.revoked + 1)
            except NotRevoked as problem:
                log.error("%d was not revoked: %s", certificate.entry, problem.detail)
                outcome = replace(outcome, failed=outcome.failed + 1)
        await self._renew_list()
        return outcome

    async def _revoke_and_renew(self, certificate: Certificate, reason: Reason, by: Actor) -> None:
        await self._revoke(certificate, reason, by)
        await self._renew_list()

    async def _revoke(self, certificate: Certificate, reason: Reason, by: Actor) -> None:
        if not certificate.is_active(self._clock.now()):
            return
        if isinstance(self._ca, Revoker):
            try:
                await self._ca.revoke(certificate.serial, reason.code)
            except CAProblem as problem:
                raise NotRevoked(problem.detail) from problem
        await self._ledger.revoked(certificate, reason.code, by, f"{certificate.device}: {reason.value}")

    async def _renew_list(self) -> None:
        if self._revocation_list is not None:
            await self._revocation_list.refresh_if_possible()
