"""The audit log: who did what, when, from where and through which door; nothing secret.

Each entry's hash covers the entry before, so what is changed, put in or left out later shows
(`certbob audit verify`). An entry is written in the transaction of what it tells of.
"""

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from certbob.ports import Actor, AuditEntry, AuditFilter, AuditStore, Clock

log = logging.getLogger(__name__)

MAX_NOTE = 300
BATCH = 500
BEFORE_ALL = -(2**63)


class Action(StrEnum):
    SIGNED_IN = "signed_in"
    ISSUED = "issued"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    REJECTED = "rejected"
    SETTLED = "settled"
    REVOKED = "revoked"
    PAUSED = "paused"
    RESUMED = "resumed"
    LINKED = "linked"
    UNLINKED = "unlinked"
    FORGOTTEN = "forgotten"
    KEY_ACCEPTED = "key_accepted"
    EXPORTED = "exported"

    @property
    def label(self) -> str:
        return {
            Action.SIGNED_IN: "Signed in",
            Action.ISSUED: "Certificate issued",
            Action.FAILED: "Certificate not issued",
            Action.UNCERTAIN: "Not known whether it was signed",
            Action.REJECTED: "Answer of the authority rejected",
            Action.SETTLED: "Open question settled",
            Action.REVOKED: "Certificate revoked",
            Action.PAUSED: "Issuing stopped",
            Action.RESUMED: "Issuing resumed",
            Action.LINKED: "Chat account linked",
            Action.UNLINKED: "Chat account unlinked",
            Action.FORGOTTEN: "Chat account forgotten",
            Action.KEY_ACCEPTED: "Key of the chat accepted",
            Action.EXPORTED: "Audit log exported",
        }[self]


@dataclass(frozen=True, slots=True)
class Verification:
    """`entries` are right, and the last of them has `last_hash`; `broken`: what is wrong with the next."""

    entries: int
    last_hash: str
    broken: str | None = None


class AuditLog:
    """`count(action, door)` is called for each entry. Methods raise StorageProblem."""

    def __init__(self, store: AuditStore, *, clock: Clock, count: Callable[[str, str], None]) -> None:
        self._store = store
        self._clock = clock
        self._count = count

    async def record(
        self,
        action: Action,
        actor: Actor,
        *,
        subject: str | None = None,
        name: str | None = None,
        serial: int | None = None,
        note: str = "",
    ) -> None:
        """`subject` and `name`: whom it concerns; `serial`: of which certificate; `note`: never a secret."""
        async with self._store.transaction():
            number, previous = await self._store.next_entry()
            entry = AuditEntry(
                number=number,
                at=self._clock.now().replace(microsecond=0),
                action=action,
                actor=actor,
                subject=subject,
                name=name,
                serial=None if serial is None else f"{serial:x}",
                note=note[:MAX_NOTE],
                hash="",
            )
            entry = replace(entry, hash=chained(previous, entry))
            await self._store.append(entry, lambda: self._tell(entry))

    def _tell(self, entry: AuditEntry) -> None:
        log.info("%s", to_line(entry))
        self._count(entry.action, entry.actor.door)

    async def entries(self, wanted: AuditFilter, *, limit: int, offset: int = 0) -> list[AuditEntry]:
        """The newest first."""
        return await self._store.entries(wanted, limit=limit, offset=offset)

    async def every(self, wanted: AuditFilter, *, after: int = BEFORE_ALL) -> AsyncIterator[AuditEntry]:
        """The oldest first, read in pieces."""
        while batch := await self._store.entries_after(after, wanted, limit=BATCH):
            for entry in batch:
                yield entry
            after = batch[-1].number

    async def verify(self) -> Verification:
        """Compute every hash anew."""
        done, previous, last = 0, "", None
        while last is None or last[0] > done:
            before = done
            async for entry in self.every(AuditFilter(), after=done or BEFORE_ALL):
                if entry.number > done + 1:
                    return Verification(done, previous, f"entry {done + 1} is missing")
                if entry.number != done + 1 or not _fits(previous, entry):
                    return Verification(done, previous, f"entry {entry.number} was changed")
                done, previous = entry.number, entry.hash
            # Asked for afterwards: meanwhile there may be more entries, but never fewer.
            if last is not None and before == done:
                return Verification(done, previous, f"entry {done + 1} is missing")
            last = await self._store.head()
            if last is None:
                return Verification(done, previous, "the record of the last entry is missing")
        if last != (done, previous):
            return Verification(done, previous, f"entry {done} is not the last that was written")
        return Verification(done, previous)


def _fits(previous: str, entry: AuditEntry) -> bool:
    try:
        return entry.hash == chained(previous, entry)
    except (TypeError, ValueError):  # not even text
        return False


def chained(previous: str, entry: AuditEntry) -> str:
    """SHA-256, hex, of the JSON list that `docs/operating.md` shows; `previous` is the hash before."""
    facts = [previous, entry.number, entry.at.isoformat(), *_facts(entry)]
    text = json.dumps(facts, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def to_line(entry: AuditEntry) -> str:
    """As JSON on one line, in which nothing of a stranger can look like another entry."""
    return json.dumps([entry.number, entry.at.isoformat(), *_facts(entry), entry.hash], ensure_ascii=True)


def _facts(entry: AuditEntry) -> list[str]:
    actor = entry.actor
    return [
        entry.action,
        actor.door,
        actor.account,
        actor.name,
        actor.origin.address,
        actor.origin.reference,
        entry.subject or "",
        entry.name or "",
        entry.serial or "",
        entry.note,
    ]
