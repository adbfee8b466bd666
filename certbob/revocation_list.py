"""The list of revoked certificates (CRL, RFC 5280 5) that services read: always there, never over.

A new one is signed at once when somebody revokes, and long before the old one ends. It is kept in memory; its
number grows over all processes and restarts.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from certbob.ports import Clock, Crl, CrlSigner, CrlStore

log = logging.getLogger(__name__)

RENEW_AFTER = timedelta(days=1)  # at the latest, and sooner where lists are short-lived
GRACE = timedelta(days=1)  # an entry stays beyond its certificate's end (RFC 5280 3.3)
BACKDATE = timedelta(minutes=5)  # for readers whose clock is a little behind


class RevocationList:
    """`lifetime`: from one list to the moment when services stop believing it."""

    def __init__(self, store: CrlStore, signer: CrlSigner, *, clock: Clock, lifetime: timedelta) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._lifetime = lifetime
        self._current: Crl | None = None
        self._root: Crl | None = None
        self._seen: tuple[int, int] | None = None
        self._building = asyncio.Lock()

    @property
    def lifetime(self) -> timedelta:
        return self._lifetime

    @property
    def known(self) -> Crl | None:
        """The last list of this process, good or over, without signing one."""
        return self._current

    async def current(self) -> Crl:
        """Raises StorageProblem and what signing raises, when there is none that is still good."""
        now = self._clock.now()
        if self._current is None or not self._current.this_update <= now < self._current.next_update:
            await self.refresh()
        assert self._current is not None  # noqa: S101 `refresh` has made one, or raised
        return self._current

    async def root(self) -> Crl | None:
        """Of the root, about its intermediates; None where its key is not here."""
        await self.current()
        return self._root

    async def refresh(self) -> None:
        """Sign a new list if there is something new, or it is time. Raises StorageProblem."""
        async with self._building:
            seen = await self._store.revocations()
            now = self._clock.now()
            if seen == self._seen and self._is_fresh(now):
                return
            # Not only one more than the last: a database that comes from a backup has forgotten some.
            number = await self._store.next_crl_number(int(now.timestamp()))
            # Later with each list: OpenSSL takes either of two that are of the same second.
            this_update = min(datetime.fromtimestamp(number, UTC), now + BACKDATE) - BACKDATE
            next_update = this_update + self._lifetime
            revoked = await self._store.revoked(now - GRACE)
            der = await self._signer.sign_crl(
                revoked, number=number, this_update=this_update, next_update=next_update
            )
            root_der = await self._signer.sign_root_crl(
                number=number, this_update=this_update, next_update=next_update
            )
            self._current = Crl(der, number, this_update, next_update)
            self._root = Crl(root_der, number, this_update, next_update) if root_der else None
            self._seen = seen
            log.info("list %d of revoked certificates: %d", number, len(revoked))
            # The number alone tells nothing: it is taken before signing, which may fail.
            await self._store.crl_signed(this_update, next_update)

    async def last_signed(self) -> tuple[datetime, datetime] | None:
        """This and next update of the last list, whichever process signed it. Raises StorageProblem."""
        return await self._store.last_crl()

    async def refresh_if_possible(self) -> None:
        """A failure is logged; the last list is served on, and `trouble` tells in time."""
        try:
            await self.refresh()
        except Exception as error:
            log.exception("the list of revoked certificates was not renewed", exc_info=error)

    def trouble(self) -> str | None:
        """None while the list is fresh; a reason for the operator from half of its lifetime on."""
        if self._current is None:
            return "there is no list of revoked certificates"
        left = self._current.next_update - self._clock.now()
        if left < self._lifetime / 2:
            end = "is over" if left <= timedelta(0) else f"ends in {left // timedelta(hours=1)} h"
            return f"the list of revoked certificates was not renewed, and {end}"
        return None

    def _is_fresh(self, now: datetime) -> bool:
        """Neither old nor, because a clock was wrong, of the future."""
        renew_after = min(RENEW_AFTER, self._lifetime / 4)
        return (
            self._current is not None
            and self._current.this_update <= now < self._current.this_update + renew_after
        )
