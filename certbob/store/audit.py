"""The audit log, and the switch that stops issuing."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from certbob.errors import Duplicate, StorageProblem
from certbob.ports import Actor, AuditEntry, AuditFilter, Origin, Paused
from certbob.store import from_epoch, to_epoch
from certbob.store.rows import contains
from certbob.store.sqlite import SqlStore


class SqlAudit(SqlStore):
    """Implements `ports.AuditStore`."""

    async def next_entry(self) -> tuple[int, str]:
        # The changed row is locked until the transaction ends.
        row = await self._database.row(
            "UPDATE audit_head SET number = number + 1 WHERE id = 1 RETURNING number, hash"
        )
        if row is None:
            raise StorageProblem("the audit log has lost the record of its last entry")
        return row[0], row[1]

    async def append(self, entry: AuditEntry, follower: Callable[[], None]) -> None:
        actor = entry.actor
        try:
            await self._database.rows(
                f"INSERT INTO audit ({_AUDIT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                entry.number,
                to_epoch(entry.at),
                entry.action,
                actor.door,
                actor.account,
                actor.name,
                actor.origin.address,
                actor.origin.reference,
                entry.subject,
                entry.name,
                entry.serial,
                entry.note,
                entry.hash,
            )
        except Duplicate as problem:
            raise StorageProblem(f"the audit log has an entry {entry.number} already") from problem
        await self._database.rows("UPDATE audit_head SET hash = ? WHERE id = 1", entry.hash)
        self._database.after_commit(follower)

    async def head(self) -> tuple[int, str] | None:
        row = await self._database.row("SELECT number, hash FROM audit_head WHERE id = 1")
        return None if row is None else (row[0], row[1])

    async def entries(self, wanted: AuditFilter, *, limit: int, offset: int) -> list[AuditEntry]:
        condition, values = _fits(wanted)
        rows = await self._database.rows(
            f"SELECT {_AUDIT} FROM audit WHERE {condition} ORDER BY number DESC LIMIT ? OFFSET ?",
            *values,
            limit,
            offset,
        )
        return [_audit_entry(*row) for row in rows]

    async def entries_after(self, number: int, wanted: AuditFilter, *, limit: int) -> list[AuditEntry]:
        condition, values = _fits(wanted)
        rows = await self._database.rows(
            f"SELECT {_AUDIT} FROM audit WHERE {condition} AND number > ? ORDER BY number LIMIT ?",
            *values,
            number,
            limit,
        )
        return [_audit_entry(*row) for row in rows]


_AUDIT = "number, at, action, door, account, actor, address, reference, subject, name, serial, note, hash"


def _fits(wanted: AuditFilter) -> tuple[str, list[Any]]:
    """A condition, and its parameters."""
    conditions = ["1 = 1"]
    values: list[Any] = []
    if wanted.action is not None:
        conditions.append("action = ?")
        values.append(wanted.action)
    if wanted.since is not None:
        conditions.append("at >= ?")
        values.append(to_epoch(wanted.since))
    if wanted.until is not None:
        conditions.append("at < ?")
        values.append(to_epoch(wanted.until))
    if wanted.words:
        condition, found = contains(
            ("account", "actor", "coalesce(name, '')", "address", "coalesce(serial, '')", "note"),
            wanted.words,
        )
        conditions.append(condition)
        values.extend(found)
    return " AND ".join(conditions), values


def _audit_entry(
    number: int,
    at: int,
    action: str,
    door: str,
    account: str,
    actor: str,
    address: str,
    reference: str,
    subject: str | None,
    name: str | None,
    serial: str | None,
    note: str,
    hash_: str,
) -> AuditEntry:
    try:
        moment = from_epoch(at)
    except (TypeError, ValueError, OverflowError, OSError):
        moment = datetime.min.replace(tzinfo=UTC)  # nobody of ours wrote that: its hash does not fit
    who = Actor(door, account, actor, Origin(address, reference))
    return AuditEntry(number, moment, action, who, subject, name, serial, note, hash_)


class SqlPause(SqlStore):
    """Implements `ports.PauseStore`."""

    async def paused(self) -> Paused | None:
        row = await self._database.row("SELECT since, who, note FROM pause")
        return None if row is None else Paused(from_epoch(row[0]), row[1], row[2])

    async def set_paused(self, paused: Paused) -> bool:
        row = await self._database.row(
            "INSERT INTO pause (id, since, who, note) VALUES (1, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1",
            to_epoch(paused.since),
            paused.who,
            paused.note,
        )
        return row is not None

    async def end_pause(self) -> bool:
        return await self._database.row("DELETE FROM pause RETURNING 1") is not None
