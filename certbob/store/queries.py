"""Every SQL statement of the program, one class for each port."""

import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding as Serialization

from certbob.devices import Device, Encoding, Platform
from certbob.errors import Duplicate, StorageProblem
from certbob.identity import Door, Identity
from certbob.ports import (
    Actor,
    AuditEntry,
    AuditFilter,
    Certificate,
    Delivery,
    Entry,
    Grant,
    Intent,
    LinkRequest,
    Numbers,
    Origin,
    Paused,
    PendingSignIn,
    Quota,
    Reminder,
    Replacement,
    Result,
    Revoked,
    Session,
    Step,
    Tries,
    Way,
)
from certbob.store import from_epoch, from_json, to_epoch, to_json
from certbob.store.sqlite import Database

CLAIM_LEASE = timedelta(minutes=1)
REMINDER_LEASE, DAY = timedelta(minutes=10), timedelta(days=1)
_SURELY_UNSIGNED = (
    "NOT EXISTS (SELECT 1 FROM certificates WHERE grant_hash = grants.id_hash AND state <> 'failed')"
)
# A condition on `grants`.
_REPLACED = (
    "(door = 'mattermost' AND delivery = 'download' AND id_hash <>"
    " (SELECT latest.id_hash FROM latest_links AS latest WHERE latest.subject = grants.subject))"
)
_IDENTITY = "subject, door, account, name, email, groups"


def _identity_values(identity: Identity) -> tuple[Any, ...]:
    return (
        identity.subject,
        identity.door,
        identity.account,
        identity.name,
        identity.email,
        to_json(identity.groups),
    )


def _identity(subject: str, door: str, account: str, name: str, email: str | None, groups: str) -> Identity:
    return Identity(subject, name, email, from_json(groups), Door(door), account)


class SqlGrants:
    """Implements `ports.GrantStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_grant(self, grant: Grant) -> None:
        await self._database.rows(
            f"INSERT INTO grants (id_hash, {_IDENTITY}, profile, validity, platform, device, older, delivery,"
            " replaces, overlap, created_at, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            grant.id_hash,
            *_identity_values(grant.identity),
            grant.profile_id,
            int(grant.validity.total_seconds()),
            grant.device.platform,
            grant.device.name,
            int(grant.device.older),
            grant.delivery,
            grant.replaces.entry if grant.replaces else None,
            int(grant.replaces.overlap.total_seconds()) if grant.replaces else None,
            to_epoch(grant.created_at),
            to_epoch(grant.expires_at),
        )

    async def find_grant(self, id_hash: str) -> Grant | None:
        row = await self._database.row(
            f"SELECT {_IDENTITY}, profile, validity, platform, device, older, delivery, replaces, overlap,"
            f" created_at, expires_at, claimed_at, holder_hash, {_REPLACED} FROM grants WHERE id_hash = ?",
            id_hash,
        )
        if row is None:
            return None
        profile, validity, platform, device, older, delivery, replaces, overlap = row[6:14]
        created_at, expires_at, claimed_at, holder_hash, is_replaced = row[14:]
        return Grant(
            id_hash=id_hash,
            identity=_identity(*row[:6]),
            profile_id=profile,
            validity=timedelta(seconds=validity),
            device=Device(Platform(platform), device, bool(older)),
            delivery=Delivery(delivery),
            replaces=None if replaces is None else Replacement(replaces, timedelta(seconds=overlap)),
            created_at=from_epoch(created_at),
            expires_at=from_epoch(expires_at),
            claimed_at=None if claimed_at is None else from_epoch(claimed_at),
            holder_hash=holder_hash,
            is_replaced=bool(is_replaced),
        )

    async def set_latest_link(self, subject: str, id_hash: str) -> None:
        await self._database.rows(
            "INSERT INTO latest_links (subject, id_hash) VALUES (?, ?)"
            " ON CONFLICT (subject) DO UPDATE SET id_hash = excluded.id_hash",
            subject,
            id_hash,
        )

    async def claim_grant(self, id_hash: str, holder_hash: str | None, *, now: datetime) -> bool:
        row = await self._database.row(
            "UPDATE grants SET claimed_at = ?, holder_hash = ? WHERE id_hash = ? AND expires_at > ?"
            f" AND {_REPLACED} IS NOT TRUE"
            f" AND (claimed_at IS NULL OR (claimed_at <= ? AND {_SURELY_UNSIGNED})) RETURNING 1",
            to_epoch(now),
            holder_hash,
            id_hash,
            to_epoch(now),
            to_epoch(now - CLAIM_LEASE),
        )
        return row is not None

    async def release_grant(self, id_hash: str) -> None:
        await self._database.rows(
            "UPDATE grants SET claimed_at = NULL, holder_hash = NULL"
            f" WHERE id_hash = ? AND {_SURELY_UNSIGNED}",
            id_hash,
        )

    async def prune_grants(self, before: datetime) -> None:
        """Forget grants that expired before then; the ledger keeps what came of them."""
        await self._database.rows("DELETE FROM grants WHERE expires_at < ?", to_epoch(before))


class SqlLedger:
    """Implements `ports.LedgerStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[None]:
        return self._database.transaction()

    async def add_entry(self, intent: Intent, *, now: datetime, since: datetime, limit: int) -> int | None:
        identity = intent.identity
        within, values = _within(identity.subject, intent.quota)
        row = await self._database.row(
            "INSERT INTO certificates (grant_hash, state, subject, door, account, actor, name, email,"
            " profile, platform, device, encoding, key_type, validity, csr_sha256, request_id, address,"
            " created_at, delivered, replaces, overlap)"
            " SELECT ?, 'intent', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
            " WHERE (SELECT count(*) FROM certificates"
            " WHERE subject = ? AND created_at > ? AND state <> 'failed') < ?"
            f" AND {within} AND NOT EXISTS (SELECT 1 FROM pause) RETURNING id",
            intent.grant_hash,
            identity.subject,
            intent.actor.door,
            intent.actor.account,
            intent.actor.name,
            identity.name,
            identity.email,
            intent.profile_id,
            intent.device.platform,
            intent.device.name,
            intent.encoding,
            intent.key_type,
            int(intent.validity.total_seconds()),
            intent.csr_sha256,
            intent.actor.origin.reference,
            intent.actor.origin.address,
            to_epoch(now),
            None if intent.delivered is None else int(intent.delivered),
            intent.replaces.entry if intent.replaces else None,
            int(intent.replaces.overlap.total_seconds()) if intent.replaces else None,
            identity.subject,
            to_epoch(since),
            limit,
            *values,
        )
        return None if row is None else int(row[0])

    async def count_active(self, subject: str, quota: Quota) -> int:
        row = await self._database.one(f"SELECT ({_ACTIVE})", *_active_values(subject, quota))
        return int(row[0])

    async def set_replaced(self, by: int, *, now: datetime) -> None:
        row = await self._database.row(
            "SELECT replaces, overlap FROM certificates WHERE id = ? AND replaces IS NOT NULL", by
        )
        if row is None:
            return
        entry, overlap = row
        await self._database.rows(
            "UPDATE certificates SET replaced_by = ?, revoke_at = ?"
            " WHERE id = ? AND revoked_at IS NULL AND revoke_at IS NULL",
            by,
            to_epoch(now) + overlap,
            entry,
        )
        await self._database.rows(
            "UPDATE certificates SET revoke_at = ? WHERE replaced_by = ? AND revoked_at IS NULL",
            to_epoch(now),
            entry,
        )

    async def postpone_revocation(self, entry: int, until: datetime) -> None:
        await self._database.rows(
            "UPDATE certificates SET revoke_at = ? WHERE id = ? AND revoked_at IS NULL",
            to_epoch(until),
            entry,
        )

    async def forget_replacement(self, by: int) -> None:
        await self._database.rows(
            "UPDATE certificates SET replaced_by = NULL, revoke_at = NULL"
            " WHERE replaced_by = ? AND revoked_at IS NULL",
            by,
        )

    async def due_for_revocation(self, now: datetime) -> list[Certificate]:
        rows = await self._database.rows(
            f"SELECT {_CERTIFICATE} FROM certificates WHERE revoke_at <= ? AND revoked_at IS NULL"
            " AND not_after > ?"
            " AND EXISTS (SELECT 1 FROM certificates AS new WHERE new.id = certificates.replaced_by"
            " AND new.delivered = 1) ORDER BY revoke_at LIMIT 100",
            to_epoch(now),
            to_epoch(now),
        )
        return [_certificate(*row) for row in rows]

    async def close_entry(
        self,
        entry: int,
        state: str,
        *,
        now: datetime,
        leaving: Sequence[str],
        certificate: x509.Certificate | None = None,
        note: str | None = None,
    ) -> Entry | None:
        facts: tuple[Any, ...] = (None,) * 5
        if certificate is not None:
            facts = (
                f"{certificate.serial_number:x}",
                to_epoch(certificate.not_valid_before_utc),
                to_epoch(certificate.not_valid_after_utc),
                certificate.fingerprint(hashes.SHA256()).hex(),
                certificate.public_bytes(Serialization.DER),
            )
        row = await self._database.row(
            "UPDATE certificates SET state = ?, closed_at = ?, serial = ?, not_before = ?, not_after = ?,"
            " fingerprint = ?, certificate = ?, note = ? WHERE id = ?"
            f" AND state IN ({', '.join('?' * len(leaving))}) RETURNING {_ENTRY}",
            state,
            to_epoch(now),
            *facts,
            note,
            entry,
            *leaving,
        )
        return None if row is None else _entry(*row)

    async def count_uncertain(self) -> int:
        row = await self._database.one(
            # The first half as the index has it.
            "SELECT count(*) FROM certificates WHERE (state = 'intent' OR state = 'uncertain')"
            " AND state = 'uncertain'"
        )
        return int(row[0])

    async def open_entries(self, states: Sequence[str], *, before: datetime, limit: int) -> list[Entry]:
        rows = await self._database.rows(
            f"SELECT {_ENTRY} FROM certificates WHERE (state = 'intent' OR state = 'uncertain')"
            f" AND state IN ({', '.join('?' * len(states))}) AND created_at <= ? ORDER BY id LIMIT ?",
            *states,
            to_epoch(before),
            limit,
        )
        return [_entry(*row) for row in rows]

    async def set_delivered(self, entry: int, delivered: bool | None, delivery: Delivery) -> None:
        await self._database.rows(
            "UPDATE certificates SET delivered = ?, delivery = ? WHERE id = ?",
            None if delivered is None else int(delivered),
            delivery,
            entry,
        )

    async def set_encoding(self, entry: int, encoding: Encoding) -> None:
        await self._database.rows("UPDATE certificates SET encoding = ? WHERE id = ?", encoding, entry)

    async def set_revoked(self, entry: int, reason_code: int, *, now: datetime) -> bool:
        row = await self._database.row(
            "UPDATE certificates SET revoked_at = ?, revocation_reason = ?"
            " WHERE id = ? AND revoked_at IS NULL RETURNING 1",
            to_epoch(now),
            reason_code,
            entry,
        )
        return row is not None

    async def certificates_of(
        self, subject: str, *, now: datetime, limit: int, offset: int
    ) -> list[Certificate]:
        rows = await self._database.rows(
            f"SELECT {_CERTIFICATE} FROM certificates WHERE subject = ? AND state = 'issued'"
            " ORDER BY CASE WHEN revoked_at IS NULL AND not_after > ? THEN not_after END ASC NULLS LAST,"
            " not_after DESC, id DESC LIMIT ? OFFSET ?",
            subject,
            to_epoch(now),
            limit,
            offset,
        )
        return [_certificate(*row) for row in rows]

    async def find_certificate(self, serial: int) -> Certificate | None:
        row = await self._database.row(
            f"SELECT {_CERTIFICATE} FROM certificates WHERE serial = ? AND state = 'issued'", f"{serial:x}"
        )
        return None if row is None else _certificate(*row)

    async def search(self, words: str, *, limit: int, offset: int) -> list[Certificate]:
        matches, values = _contains(("name", "coalesce(email, '')", "device", "serial"), words)
        rows = await self._database.rows(
            f"SELECT {_CERTIFICATE} FROM certificates WHERE state = 'issued' AND {matches}"
            " ORDER BY id DESC LIMIT ? OFFSET ?",
            *values,
            limit,
            offset,
        )
        return [_certificate(*row) for row in rows]

    async def active_of(self, subject: str, *, now: datetime) -> list[Certificate]:
        rows = await self._database.rows(
            f"SELECT {_CERTIFICATE} FROM certificates WHERE subject = ? AND state = 'issued'"
            " AND revoked_at IS NULL AND not_after > ? ORDER BY not_after, id DESC",
            subject,
            to_epoch(now),
        )
        return [_certificate(*row) for row in rows]

    async def expiring(self, *, now: datetime, until: datetime, limit: int, offset: int) -> list[Certificate]:
        rows = await self._database.rows(
            f"SELECT {_CERTIFICATE} FROM certificates WHERE {_EXPIRING}"
            " ORDER BY not_after, id LIMIT ? OFFSET ?",
            to_epoch(now),
            to_epoch(until),
            limit,
            offset,
        )
        return [_certificate(*row) for row in rows]

    async def numbers(self, *, now: datetime, soon: datetime, since: datetime) -> Numbers:
        (active,) = await self._database.one(
            "SELECT count(*) FROM certificates"
            " WHERE state = 'issued' AND revoked_at IS NULL AND not_after > ?",
            to_epoch(now),
        )
        (expiring,) = await self._database.one(
            f"SELECT count(*) FROM certificates WHERE {_EXPIRING}", to_epoch(now), to_epoch(soon)
        )
        by_door = await self._database.rows(
            "SELECT door, count(*) FROM certificates WHERE state = 'issued' AND created_at > ?"
            " GROUP BY door ORDER BY door",
            to_epoch(since),
        )
        return Numbers(active, expiring, dict(by_door))

    async def revocations(self) -> tuple[int, int]:
        row = await self._database.one(
            f"SELECT count(*), coalesce(max({_TAKEN_BACK_AT}), 0) FROM certificates WHERE {_TAKEN_BACK}"
        )
        return row[0], row[1]

    async def revoked(self, ended_after: datetime) -> list[Revoked]:
        rows = await self._database.rows(
            f"SELECT serial, {_TAKEN_BACK_AT}, coalesce(revocation_reason, 0) FROM certificates"
            f" WHERE {_TAKEN_BACK} AND not_after > ? ORDER BY id",
            to_epoch(ended_after),
        )
        return [Revoked(int(serial, 16), from_epoch(at), reason) for serial, at, reason in rows]

    async def next_crl_number(self, at_least: int) -> int:
        row = await self._database.one(
            "INSERT INTO crl_numbers (id, number) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET number ="
            " CASE WHEN crl_numbers.number < excluded.number THEN excluded.number"
            " ELSE crl_numbers.number + 1 END RETURNING number",
            at_least,
        )
        return int(row[0])

    async def crl_signed(self, this_update: datetime, next_update: datetime) -> None:
        await self._database.rows(
            "UPDATE crl_numbers SET this_update = ?, next_update = ? WHERE id = 1",
            to_epoch(this_update),
            to_epoch(next_update),
        )

    async def last_crl(self) -> tuple[datetime, datetime] | None:
        row = await self._database.one(
            "SELECT max(this_update), max(next_update) FROM crl_numbers WHERE id = 1"
        )
        return None if row[0] is None else (from_epoch(row[0]), from_epoch(row[1]))

    async def entries_since(self, subject: str, since: datetime) -> list[datetime]:
        rows = await self._database.rows(
            "SELECT created_at FROM certificates WHERE subject = ? AND created_at > ? AND state <> 'failed'"
            " ORDER BY created_at",
            subject,
            to_epoch(since),
        )
        return [from_epoch(created_at) for (created_at,) in rows]


# What nobody should believe: revoked by somebody, or thrown away when the authority had answered wrongly.
# SQLite uses the index for it only where the serial number is part of an expression.
_TAKEN_BACK = "(revoked_at IS NOT NULL OR state = 'rejected') AND length(serial) > 0"
_TAKEN_BACK_AT = "coalesce(revoked_at, closed_at)"
_EXPIRING = (
    "state = 'issued' AND revoked_at IS NULL AND not_after > ? AND not_after <= ? AND revoke_at IS NULL"
)
_ENTRY = (
    "id, subject, name, door, account, actor, address, request_id, profile, device, created_at, validity,"
    " csr_sha256, note"
)
_CERTIFICATE = (
    "id, serial, subject, name, profile, platform, device, door, delivered, fingerprint, not_before,"
    " not_after, revoked_at, revocation_reason, revoke_at, address"
)
# What counts for a quota: also what nobody knows the fate of, but not what never got to its person.
_ACTIVE = (
    "SELECT count(*) FROM certificates WHERE subject = ? AND profile = ? AND id <> ?"
    " AND state IN ('intent', 'issued', 'uncertain') AND revoked_at IS NULL AND revoke_at IS NULL"
    " AND coalesce(not_after, created_at + validity)"
    " - CASE WHEN coalesce(not_after - not_before, validity) / 3 < ?"
    " THEN coalesce(not_after - not_before, validity) / 3 ELSE ? END > ? AND coalesce(delivered, 1) = 1"
)


def _active_values(subject: str, quota: Quota) -> tuple[Any, ...]:
    window = int(quota.window.total_seconds())
    return subject, quota.profile_id, quota.replaced or 0, window, window, to_epoch(quota.now)


def _within(subject: str, quota: Quota | None) -> tuple[str, tuple[Any, ...]]:
    """A condition, and its parameters."""
    if quota is None:
        return "1 = 1", ()
    return f"({_ACTIVE}) < ?", (*_active_values(subject, quota), quota.limit)


def _certificate(
    entry: int,
    serial: str,
    subject: str,
    name: str,
    profile: str,
    platform: str,
    device: str,
    door: str,
    delivered: int | None,
    fingerprint: str,
    not_before: int,
    not_after: int,
    revoked_at: int | None,
    revocation_reason: int | None,
    revoke_at: int | None,
    address: str,
) -> Certificate:
    return Certificate(
        entry=entry,
        serial=int(serial, 16),
        subject=subject,
        name=name,
        profile_id=profile,
        platform=Platform(platform),
        device=device,
        door=Door(door),
        delivered=None if delivered is None else bool(delivered),
        fingerprint=fingerprint,
        not_before=from_epoch(not_before),
        not_after=from_epoch(not_after),
        revoked_at=None if revoked_at is None else from_epoch(revoked_at),
        revocation_reason=revocation_reason,
        revoke_at=None if revoke_at is None else from_epoch(revoke_at),
        address=address,
    )


def _entry(
    number: int,
    subject: str,
    name: str,
    door: str,
    account: str,
    actor: str,
    address: str,
    request_id: str,
    profile: str,
    device: str,
    created_at: int,
    validity: int,
    csr_sha256: str,
    note: str | None,
) -> Entry:
    return Entry(
        number=number,
        subject=subject,
        name=name,
        actor=Actor(door, account, actor, Origin(address, request_id)),
        profile_id=profile,
        device=device,
        created_at=from_epoch(created_at),
        validity=timedelta(seconds=validity),
        csr_sha256=csr_sha256,
        note=note,
    )


class SqlAudit:
    """Implements `ports.AuditStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[None]:
        return self._database.transaction()

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
        condition, found = _contains(
            ("account", "actor", "coalesce(name, '')", "address", "coalesce(serial, '')", "note"),
            wanted.words,
        )
        conditions.append(condition)
        values.extend(found)
    return " AND ".join(conditions), values


def _contains(columns: Sequence[str], words: str) -> tuple[str, list[str]]:
    """A condition that one of them has the words in it, and its parameters."""
    literal = re.sub("([%_!])", r"!\1", words)
    matches = " OR ".join(f"lower({column}) LIKE lower(?) ESCAPE '!'" for column in columns)
    return f"({matches})", [f"%{literal}%"] * len(columns)


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


class SqlPause:
    """Implements `ports.PauseStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[None]:
        return self._database.transaction()

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


class SqlReminders:
    """Implements `ports.ReminderStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due_reminders(self, way: Way, step: Step, *, left: int, now: datetime) -> list[Reminder]:
        rows = await self._database.rows(
            f"SELECT holder.door, holder.account, {_RECIPIENTS[way]}, {_CERTIFICATE_C} FROM {_due(way)}"
            " ORDER BY c.not_after",
            *_due_values(way, step, now, left=(left - 1, left)),
        )
        return [
            Reminder(_certificate(*row), step, way, recipient, Door(door), account)
            for door, account, recipient, *row in rows
        ]

    async def claim_reminder(self, reminder: Reminder, *, now: datetime) -> bool:
        row = await self._database.row(
            "INSERT INTO reminders (entry, step, way, state, at, until)"
            f" SELECT c.id, ?, ?, 'claimed', ?, c.not_after FROM {_due(reminder.way)} AND c.id = ?"
            " ON CONFLICT (entry, step, way) DO UPDATE SET state = excluded.state, at = excluded.at"
            f" WHERE reminders.state <> 'sent' AND NOT ({_RECENT}) RETURNING 1",
            reminder.step.days,
            reminder.way,
            to_epoch(now),
            *_due_values(reminder.way, reminder.step, now, left=(reminder.step.until, reminder.step.days)),
            reminder.certificate.entry,
            *_recent_values(now),
        )
        return row is not None

    async def begin_reminder(self, reminder: Reminder, *, claimed_at: datetime, now: datetime) -> bool:
        row = await self._database.row(
            "UPDATE reminders SET state = 'sending', at = ?"
            " WHERE entry = ? AND step = ? AND way = ? AND state = 'claimed' AND at = ? RETURNING 1",
            to_epoch(now),
            *_key(reminder),
            to_epoch(claimed_at),
        )
        return row is not None

    async def end_reminder(
        self, reminder: Reminder, result: Result, *, claimed_at: datetime, now: datetime
    ) -> None:
        where = "WHERE entry = ? AND step = ? AND way = ? AND at = ?"
        key = *_key(reminder), to_epoch(claimed_at)
        match result:
            case Result.AWAY:
                await self._database.rows(f"DELETE FROM reminders {where}", *key)
            case Result.SENT | Result.REFUSED:
                await self._database.rows(
                    f"UPDATE reminders SET state = ?, at = ? {where}", result, to_epoch(now), *key
                )
            case Result.UNKNOWN:
                pass  # so it stands there

    async def wants_reminders(self, subject: str) -> bool:
        row = await self._database.row("SELECT 1 FROM reminders_off WHERE subject = ?", subject)
        return row is None

    async def set_wants_reminders(self, subject: str, wanted: bool) -> None:
        await self._database.rows(
            "DELETE FROM reminders_off WHERE subject = ?"
            if wanted
            else "INSERT INTO reminders_off (subject) VALUES (?) ON CONFLICT DO NOTHING",
            subject,
        )

    async def prune_reminders(self, now: datetime) -> None:
        await self._database.rows("DELETE FROM reminders WHERE until < ?", to_epoch(now))


_CERTIFICATE_C = ", ".join(f"c.{column}" for column in _CERTIFICATE.split(", "))
_RECIPIENTS = {
    Way.MAIL: "c.email",
    Way.CHAT: (
        "CASE holder.door WHEN 'mattermost' THEN holder.account"
        " ELSE (SELECT min(user_id) FROM chat_links WHERE subject = c.subject) END"
    ),
}
# Somebody has it; or it was begun, and whatever became of it, no other goes that way within a day.
_RECENT = "reminders.at > CASE reminders.state WHEN 'claimed' THEN ? ELSE ? END"
_NEWER = (
    "SELECT 1 FROM certificates AS new WHERE new.subject = c.subject AND new.profile = c.profile"
    " AND lower(new.device) = lower(c.device) AND new.state = 'issued' AND new.revoked_at IS NULL"
    " AND new.delivered = 1 AND new.created_at >= c.created_at AND new.not_after > c.not_after"
)


def _recent_values(now: datetime) -> tuple[int, int]:
    return to_epoch(now - REMINDER_LEASE), to_epoch(now - DAY)


def _due(way: Way) -> str:
    """Certificates `c` and their holders."""
    return (
        "certificates AS c JOIN subjects AS holder ON holder.id = c.subject"
        " WHERE c.state = 'issued' AND c.revoked_at IS NULL AND c.replaced_by IS NULL AND c.revoke_at IS NULL"
        " AND c.not_after > ? AND c.not_after <= ? AND c.not_after - c.not_before >= ?"
        f" AND coalesce(c.delivered, 1) = 1 AND {_RECIPIENTS[way]} IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM reminders WHERE entry = c.id AND way = ?"
        f" AND (state = 'sent' AND step = ? OR {_RECENT}))"
        " AND NOT EXISTS (SELECT 1 FROM reminders_off WHERE subject = c.subject)"
        f" AND NOT EXISTS ({_NEWER})"
    )


def _due_values(way: Way, step: Step, now: datetime, *, left: tuple[int, int]) -> tuple[Any, ...]:
    """`left`: how many days more and how many at most. Before half of its time is over nothing is due."""
    more, at_most = left
    return (
        to_epoch(now + more * DAY),
        to_epoch(now + at_most * DAY),
        int((2 * step.days * DAY).total_seconds()),
        way,
        step.days,
        *_recent_values(now),
    )


def _key(reminder: Reminder) -> tuple[int, int, Way]:
    return reminder.certificate.entry, reminder.step.days, reminder.way


class SqlPeople:
    """Implements `ports.People`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def subject_for(self, door: Door, account: str) -> str:
        row = await self._database.one(
            "INSERT INTO subjects (id, door, account) VALUES (?, ?, ?)"
            # An update that changes nothing, because only a touched row is returned.
            " ON CONFLICT (door, account) DO UPDATE SET account = excluded.account RETURNING id",
            str(uuid.uuid4()),
            door,
            account,
        )
        return str(row[0])

    async def account_of(self, subject: str) -> tuple[Door, str] | None:
        row = await self._database.row("SELECT door, account FROM subjects WHERE id = ?", subject)
        return None if row is None else (Door(row[0]), row[1])

    async def claim_name(self, name_key: str, subject: str) -> str:
        row = await self._database.one(
            "INSERT INTO names (name_key, subject) VALUES (?, ?)"
            " ON CONFLICT (name_key) DO UPDATE SET name_key = excluded.name_key RETURNING subject",
            name_key,
            subject,
        )
        return str(row[0])

    async def pass_name(self, name_key: str, owner: str, subject: str) -> bool:
        row = await self._database.row(
            "UPDATE names SET subject = ? WHERE name_key = ? AND subject = ? RETURNING 1",
            subject,
            name_key,
            owner,
        )
        return row is not None

    async def release_names(self, door: Door, account: str) -> bool:
        rows = await self._database.rows(
            "DELETE FROM names WHERE subject IN (SELECT id FROM subjects WHERE door = ? AND account = ?)"
            " RETURNING 1",
            door,
            account,
        )
        return bool(rows)

    async def add_account(self, username: str, password_hash: str) -> bool:
        row = await self._database.row(
            "INSERT INTO accounts (username, password_hash) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING 1",
            username,
            password_hash,
        )
        return row is not None

    async def accounts(self) -> dict[str, str]:
        rows = await self._database.rows("SELECT username, password_hash FROM accounts")
        return dict(rows)


class SqlSessions:
    """Implements `ports.SessionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[None]:
        return self._database.transaction()

    async def add_session(self, session: Session) -> None:
        await self._database.rows(
            f"INSERT INTO sessions (id_hash, {_IDENTITY}, is_admin, created_at, seen_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            session.id_hash,
            *_identity_values(session.identity),
            int(session.is_admin),
            to_epoch(session.created_at),
            to_epoch(session.seen_at),
        )

    async def find_session(self, id_hash: str) -> Session | None:
        row = await self._database.row(
            f"SELECT {_IDENTITY}, is_admin, created_at, seen_at FROM sessions WHERE id_hash = ?", id_hash
        )
        if row is None:
            return None
        is_admin, created_at, seen_at = row[6:]
        return Session(
            id_hash, _identity(*row[:6]), bool(is_admin), from_epoch(created_at), from_epoch(seen_at)
        )

    async def touch_session(self, id_hash: str, *, now: datetime) -> None:
        await self._database.rows("UPDATE sessions SET seen_at = ? WHERE id_hash = ?", to_epoch(now), id_hash)

    async def end_session(self, id_hash: str) -> None:
        await self._database.rows("DELETE FROM sessions WHERE id_hash = ?", id_hash)

    async def prune_sessions(self, before: datetime) -> None:
        await self._database.rows("DELETE FROM sessions WHERE created_at < ?", to_epoch(before))


class SqlSignIns:
    """Implements `ports.SignInStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_sign_in(self, pending: PendingSignIn, *, limit: int) -> None:
        await self._database.rows(
            "INSERT INTO sign_ins (key, browser_hash, wanted, started_at) VALUES (?, ?, ?, ?)",
            pending.key,
            pending.browser_hash,
            pending.wanted,
            to_epoch(pending.started_at),
        )
        await self._database.rows(
            "DELETE FROM sign_ins WHERE browser_hash = ? AND key NOT IN"
            " (SELECT key FROM sign_ins WHERE browser_hash = ? ORDER BY started_at DESC LIMIT ?)",
            pending.browser_hash,
            pending.browser_hash,
            limit,
        )

    async def take_sign_in(self, key: str, browser_hash: str) -> PendingSignIn | None:
        row = await self._database.row(
            "DELETE FROM sign_ins WHERE key = ? AND browser_hash = ? RETURNING wanted, started_at",
            key,
            browser_hash,
        )
        return None if row is None else PendingSignIn(key, browser_hash, row[0], from_epoch(row[1]))

    async def prune_sign_ins(self, before: datetime) -> None:
        await self._database.rows("DELETE FROM sign_ins WHERE started_at < ?", to_epoch(before))


class SqlChats:
    """Implements `ports.ChatStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[None]:
        return self._database.transaction()

    async def bound(self, user_id: str) -> dict[str, str]:
        rows = await self._database.rows("SELECT kind, value FROM chat_accounts WHERE user_id = ?", user_id)
        return dict(rows)

    async def bind(self, user_id: str, kind: str, value: str) -> str:
        row = await self._database.one(
            "INSERT INTO chat_accounts (user_id, kind, value) VALUES (?, ?, ?)"
            " ON CONFLICT (user_id, kind) DO UPDATE SET kind = excluded.kind RETURNING value",
            user_id,
            kind,
            value,
        )
        return str(row[0])

    async def add_link_request(self, id_hash: str, request: LinkRequest) -> None:
        await self._database.rows(
            "INSERT INTO link_requests (id_hash, user_id, user_name, until) VALUES (?, ?, ?, ?)",
            id_hash,
            request.user_id,
            request.user_name,
            to_epoch(request.until),
        )

    async def find_link_request(self, id_hash: str) -> LinkRequest | None:
        row = await self._database.row(
            "SELECT user_id, user_name, until FROM link_requests WHERE id_hash = ?", id_hash
        )
        return None if row is None else LinkRequest(row[0], row[1], from_epoch(row[2]))

    async def take_link_request(self, id_hash: str) -> bool:
        row = await self._database.row("DELETE FROM link_requests WHERE id_hash = ? RETURNING 1", id_hash)
        return row is not None

    async def link(self, user_id: str, user_name: str, identity: Identity) -> None:
        await self._database.rows(
            f"INSERT INTO chat_links (user_id, user_name, {_IDENTITY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (user_id) DO UPDATE SET user_name = excluded.user_name, subject = excluded.subject,"
            " door = excluded.door, account = excluded.account, name = excluded.name,"
            " email = excluded.email, groups = excluded.groups",
            user_id,
            user_name,
            *_identity_values(identity),
        )

    async def linked_identity(self, user_id: str) -> Identity | None:
        row = await self._database.row(f"SELECT {_IDENTITY} FROM chat_links WHERE user_id = ?", user_id)
        return None if row is None else _identity(*row)

    async def refresh_links(
        self, door: Door, account: str, *, name: str, email: str | None, groups: tuple[str, ...]
    ) -> None:
        await self._database.rows(
            "UPDATE chat_links SET name = ?, email = ?, groups = ? WHERE door = ? AND account = ?",
            name,
            email,
            to_json(groups),
            door,
            account,
        )

    async def links_of(self, subject: str) -> dict[str, str]:
        rows = await self._database.rows(
            "SELECT user_id, user_name FROM chat_links WHERE subject = ? ORDER BY user_name", subject
        )
        return dict(rows)

    async def unlink(self, user_id: str, subject: str) -> bool:
        row = await self._database.row(
            "DELETE FROM chat_links WHERE user_id = ? AND subject = ? RETURNING 1", user_id, subject
        )
        return row is not None

    async def forget(self, user_id: str) -> bool:
        forgotten = [
            await self._database.rows(f"DELETE FROM {table} WHERE user_id = ? RETURNING 1", user_id)
            for table in ("chat_accounts", "chat_links", "link_requests")
        ]
        return any(forgotten)

    async def see_once(self, id_hash: str, until: datetime) -> bool:
        row = await self._database.row(
            "INSERT INTO seen_messages (id_hash, until) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING 1",
            id_hash,
            to_epoch(until),
        )
        return row is not None

    async def key_of(self, server: str) -> str | None:
        row = await self._database.row("SELECT public_key FROM chat_keys WHERE server = ?", server)
        return None if row is None else str(row[0])

    async def pin_key(self, server: str, public_key: str) -> None:
        await self._database.rows(
            "INSERT INTO chat_keys (server, public_key) VALUES (?, ?) ON CONFLICT DO NOTHING",
            server,
            public_key,
        )

    async def replace_key(self, server: str, public_key: str) -> None:
        await self._database.rows(
            "INSERT INTO chat_keys (server, public_key) VALUES (?, ?)"
            " ON CONFLICT (server) DO UPDATE SET public_key = excluded.public_key",
            server,
            public_key,
        )

    async def prune_chats(self, now: datetime) -> None:
        for table in ("seen_messages", "link_requests"):
            await self._database.rows(f"DELETE FROM {table} WHERE until < ?", to_epoch(now))


class SqlTries:
    """Implements `ports.TryStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_try(
        self, bucket: str, *, now: datetime, limit: int, window: timedelta, ban: timedelta
    ) -> Tries:
        moment = to_epoch(now)
        row = await self._database.one(
            "INSERT INTO tries (bucket, count, until) VALUES (?, 1, ?)"
            " ON CONFLICT (bucket) DO UPDATE SET"
            " count = CASE WHEN tries.until <= ? THEN 1 ELSE tries.count + 1 END,"
            " until = CASE WHEN tries.until <= ? THEN excluded.until"
            " WHEN tries.count + 1 = ? THEN ? ELSE tries.until END"
            " RETURNING count, until",
            bucket,
            to_epoch(now + window),
            moment,
            moment,
            limit,
            to_epoch(now + ban),
        )
        return Tries(row[0], from_epoch(row[1]))

    async def tries(self, bucket: str, *, now: datetime) -> Tries | None:
        row = await self._database.row(
            "SELECT count, until FROM tries WHERE bucket = ? AND until > ?", bucket, to_epoch(now)
        )
        return None if row is None else Tries(row[0], from_epoch(row[1]))

    async def forget_tries(self, bucket: str) -> None:
        await self._database.rows("DELETE FROM tries WHERE bucket = ?", bucket)

    async def prune_tries(self, before: datetime) -> None:
        await self._database.rows("DELETE FROM tries WHERE until < ?", to_epoch(before))
