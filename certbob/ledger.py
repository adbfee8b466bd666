"""Our own record of every signing: the intent before it, the result after it.

States: `intent` -> `issued` | `failed` (surely not signed) | `uncertain` (nobody knows) | `rejected`
(signed, but not what was asked for, or too late; nobody got it). After any crash an entry that is still an
`intent` names a certificate that may exist; what becomes of it, see `certbob.reconciliation`. `settled`: an
administrator has looked into it.
"""

from datetime import datetime, timedelta

from cryptography import x509

from certbob.audit import Action, AuditLog
from certbob.devices import Encoding
from certbob.errors import TooManyActive, TooManyCertificates
from certbob.identity import Identity
from certbob.pause import Pause
from certbob.ports import (
    EXPIRES_SOON,
    SUPERSEDED,
    Actor,
    Certificate,
    Clock,
    Delivery,
    Entry,
    Intent,
    LedgerStore,
    Numbers,
    Quota,
    Replacement,
)
from certbob.profiles import Profile

HOUR = timedelta(hours=1)
MONTH = timedelta(days=30)
MAX_OPEN = 100
# Which state an entry may leave for each; of two that close one the slower changes nothing.
_LEAVING = {
    Action.ISSUED: ("intent", "uncertain"),
    Action.FAILED: ("intent", "uncertain"),
    Action.UNCERTAIN: ("intent",),
    Action.REJECTED: ("intent", "uncertain", "settled", "failed"),
    Action.SETTLED: ("uncertain",),
}


class Ledger:
    """Every method raises StorageProblem when the record cannot be written."""

    def __init__(
        self, store: LedgerStore, *, audit: AuditLog, pause: Pause, clock: Clock, hourly_limit: int
    ) -> None:
        self._store = store
        self._audit = audit
        self._pause = pause
        self._clock = clock
        self._hourly_limit = hourly_limit

    async def check_limit(self, identity: Identity) -> None:
        """Raises TooManyCertificates when this person had as many in the last hour as one may."""
        recent = await self._store.entries_since(identity.subject, self._clock.now() - HOUR)
        if len(recent) >= self._hourly_limit:
            raise TooManyCertificates(self._hourly_limit, until=self._free_again(recent))

    def _free_again(self, recent: list[datetime]) -> datetime:
        return recent[-self._hourly_limit] + HOUR

    def quota(self, profile: Profile, replaces: Replacement | None) -> Quota | None:
        """How many of the profile one person may have now; None: any number."""
        if profile.max_active is None:
            return None
        return Quota(
            profile.id,
            profile.label,
            profile.max_active,
            now=self._clock.now(),
            window=profile.renewal_window,
            replaced=None if replaces is None else replaces.entry,
        )

    async def check_quota(self, identity: Identity, quota: Quota | None) -> None:
        """Raises TooManyActive when it is used up."""
        if quota is not None and await self._store.count_active(identity.subject, quota) >= quota.limit:
            raise TooManyActive(quota.label, quota.limit)

    async def intend(self, intent: Intent) -> int:
        """The entry's number, to close it with.

        Raises IssuingPaused, TooManyCertificates, TooManyActive, Duplicate.
        """
        now = self._clock.now()
        entry = await self._store.add_entry(intent, now=now, since=now - HOUR, limit=self._hourly_limit)
        if entry is None:
            await self._pause.check()
            await self.check_quota(intent.identity, intent.quota)
            await self.check_limit(intent.identity)
            raise TooManyCertificates(self._hourly_limit, until=now)
        return entry

    async def issued(self, entry: int, certificate: x509.Certificate, note: str | None) -> bool:
        """False, here and below: it was closed otherwise meanwhile, and stays so.

        Raises Duplicate when the authority used the serial number before.
        """
        return await self._close(entry, Action.ISSUED, note, certificate)

    async def failed(self, entry: int, reason: str, by: Actor | None = None) -> bool:
        """`by`: here and below, who says so; None: the person who asked for it, by trying."""
        return await self._close(entry, Action.FAILED, reason, by=by)

    async def uncertain(self, entry: int, reason: str, by: Actor | None = None) -> bool:
        return await self._close(entry, Action.UNCERTAIN, reason, by=by)

    async def rejected(self, entry: int, reason: str, certificate: x509.Certificate | None) -> bool:
        return await self._close(entry, Action.REJECTED, reason, certificate)

    async def settled(self, entry: int, by: Actor) -> bool:
        return await self._close(entry, Action.SETTLED, None, by=by)

    async def open_entries(self, *states: str, older_than: timedelta = timedelta(0)) -> list[Entry]:
        """Those of `intent` and `uncertain`, the oldest first, 100 at most."""
        before = self._clock.now() - older_than
        return await self._store.open_entries(states, before=before, limit=MAX_OPEN)

    async def count_uncertain(self) -> int:
        return await self._store.count_uncertain()

    async def _close(
        self,
        number: int,
        action: Action,
        note: str | None,
        certificate: x509.Certificate | None = None,
        *,
        by: Actor | None = None,
    ) -> bool:
        now = self._clock.now()
        async with self._store.transaction():
            entry = await self._store.close_entry(
                number, action, now=now, leaving=_LEAVING[action], certificate=certificate, note=note
            )
            if entry is None:
                return False
            await self._audit.record(
                action,
                by or entry.actor,
                subject=entry.subject,
                name=entry.name,
                serial=None if certificate is None else certificate.serial_number,
                note=f"{entry.device}, {entry.profile_id}" + (f": {note}" if note else ""),
            )
        return True

    async def delivered(
        self, entry: int, delivered: bool | None, delivery: Delivery = Delivery.DOWNLOAD
    ) -> None:
        """`delivered` None: nobody knows. Once it is True, what it replaces waits for its revocation."""
        async with self._store.transaction():
            await self._store.set_delivered(entry, delivered, delivery)
            if delivered:
                await self._store.set_replaced(entry, now=self._clock.now())
            elif delivered is False:
                await self._store.forget_replacement(entry)

    async def encoded_as(self, entry: int, encoding: Encoding) -> None:
        await self._store.set_encoding(entry, encoding)

    async def postpone_revocation(self, entry: int, length: timedelta) -> None:
        await self._store.postpone_revocation(entry, self._clock.now() + length)

    async def due_for_revocation(self) -> list[Certificate]:
        """Replaced ones whose time is over, and whose successors have got to their people."""
        return await self._store.due_for_revocation(self._clock.now())

    async def revoked(self, certificate: Certificate, reason_code: int, by: Actor, note: str) -> None:
        """`reason_code`: RFC 5280 5.3.1."""
        async with self._store.transaction():
            if await self._store.set_revoked(certificate.entry, reason_code, now=self._clock.now()):
                if reason_code != SUPERSEDED:
                    # Nobody is left without one: what it was to replace counts again.
                    await self._store.forget_replacement(certificate.entry)
                await self._audit.record(
                    Action.REVOKED,
                    by,
                    subject=certificate.subject,
                    name=certificate.name,
                    serial=certificate.serial,
                    note=note,
                )

    async def certificates_of(self, subject: str, *, limit: int, offset: int = 0) -> list[Certificate]:
        """The active ones first, the one that ends soonest on top; then the others, the newest on top."""
        now = self._clock.now()
        return await self._store.certificates_of(subject, now=now, limit=limit, offset=offset)

    async def find(self, serial: int, subject: str) -> Certificate | None:
        """None as well when it is somebody else's."""
        found = await self.find_any(serial)
        return found if found is not None and found.subject == subject else None

    async def find_any(self, serial: int) -> Certificate | None:
        """Whosever it is."""
        return await self._store.find_certificate(serial)

    async def search(self, words: str, *, limit: int, offset: int = 0) -> list[Certificate]:
        """Of everybody; name, address, device or serial number (hex) has `words` in it. The newest first."""
        return await self._store.search(words, limit=limit, offset=offset)

    async def active_of(self, subject: str) -> list[Certificate]:
        """All that a person could still use; what ends soonest on top."""
        return await self._store.active_of(subject, now=self._clock.now())

    async def expiring(self, *, limit: int, offset: int = 0) -> list[Certificate]:
        """Of everybody, what ends within 14 days, the soonest first; without those that have a successor."""
        now = self._clock.now()
        return await self._store.expiring(now=now, until=now + EXPIRES_SOON, limit=limit, offset=offset)

    async def numbers(self) -> Numbers:
        now = self._clock.now()
        return await self._store.numbers(now=now, soon=now + EXPIRES_SOON, since=now - MONTH)
