"""What was last seen of authority, database and lists, so that neither pages nor monitoring wait for them."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from certbob.errors import CABadAnswer, CAProblem, StorageProblem
from certbob.pause import Pause
from certbob.ports import CertificateAuthority, Clock, CrlSource, PublishedCrl, Trust
from certbob.words import day_and_time

log = logging.getLogger(__name__)


class Watch:
    """Jobs look; everybody else reads what they saw. None: nobody has looked yet.

    `authority_up`, `storage_up`: certificates can be signed, rows be written. `trust`: once the authority was
    reached. `is_paused`: issuing is stopped.
    """

    def __init__(
        self, ca: CertificateAuthority, pause: Pause, storage_health: Callable[[], Awaitable[str | None]]
    ) -> None:
        self._ca = ca
        self._pause = pause
        self._storage_health = storage_health
        self.authority_up: bool | None = None
        self.storage_up: bool | None = None
        self.is_paused: bool | None = None
        self.trust: Trust | None = None

    async def look(self) -> None:
        self.storage_up = await self._storage_health() is None
        self.authority_up = await self._ca.health() is None
        with suppress(CAProblem):
            self.trust = await self._ca.trust()
        with suppress(StorageProblem):
            self.is_paused = await self._pause.state() is not None


class PublishedList:
    """The list of revoked certificates that the authority makes itself, as it was when last fetched.

    `is_off`: it publishes none.
    """

    def __init__(self, source: CrlSource, *, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self.known: PublishedCrl | None = None
        self.is_off = False

    @property
    def address(self) -> str:
        """Where services read it; where it would be, as long as nobody has seen it."""
        return self.known.address if self.known else self._source.crl_address

    async def fetch(self) -> None:
        """What cannot be believed leaves the last list as it is. Raises CAUnavailable, CABadAnswer."""
        found = await self._source.fetch_crl()
        if found and self.known and found.this_update < self.known.this_update:
            raise CABadAnswer("the list of revoked certificates is older than the one before")
        if found is None and not self.is_off:
            log.warning(
                "the authority publishes no list: services believe revoked certificates until they end"
            )
        self.known, self.is_off = found, found is None

    def trouble(self) -> str | None:
        """A reason for the operator when there is a list, but one that services no longer believe."""
        if self.known is None or self._clock.now() < self.known.next_update:
            return None
        end = day_and_time(self.known.next_update)
        return f"the authority's list of revoked certificates is over since {end}"
