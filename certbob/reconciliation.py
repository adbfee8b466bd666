"""What becomes of signings whose end nobody knows: their process ended, or the authority did not answer.

The private key was only ever in the memory of the process that asked, and the file is made after the ledger
has the certificate: whatever was signed there, nobody can use it. An authority of our own keeps nothing
beyond that, so such an entry is closed by itself. Another one may have recorded a certificate. step-ca lists
none, so an administrator is told, and what to look for.
"""

from datetime import timedelta

from certbob.ledger import Ledger
from certbob.ports import THE_SERVICE, Actor, Clock, Entry

# Longer than anybody waits for an authority, a late answer included.
GIVE_UP_AFTER = timedelta(minutes=10)


class Reconciliation:
    """`is_ours`: the authority is part of this service. Every method raises StorageProblem."""

    def __init__(self, ledger: Ledger, *, clock: Clock, is_ours: bool) -> None:
        self._ledger = ledger
        self._clock = clock
        self._is_ours = is_ours

    async def reconcile(self) -> None:
        """Close what can be closed."""
        if self._is_ours:
            for entry in await self._ledger.open_entries("intent", "uncertain", older_than=GIVE_UP_AFTER):
                await self._ledger.failed(entry.number, "it did not end; nobody has the key", THE_SERVICE)
            return
        for entry in await self._ledger.open_entries("intent", older_than=GIVE_UP_AFTER):
            await self._ledger.uncertain(entry.number, "nobody has said what became of it", THE_SERVICE)
        for entry in await self.open_questions():
            if entry.created_at + entry.validity <= self._clock.now():
                await self._ledger.settled(entry.number, THE_SERVICE)

    async def open_questions(self) -> list[Entry]:
        """What an administrator should look into, the oldest first, 100 at most."""
        return await self._ledger.open_entries("uncertain")

    async def count(self) -> int:
        """How many open questions there are."""
        return await self._ledger.count_uncertain()

    async def settle(self, number: int, by: Actor) -> bool:
        """An administrator has looked into it; False when it is no open question."""
        return await self._ledger.settled(number, by)
