"""The ledger, and the numbers of the lists that are made of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding as Serialization

from certbob.devices import Encoding
from certbob.ports import Actor, Certificate, Delivery, Entry, Intent, Numbers, Origin, Quota, Revoked
from certbob.store import from_epoch, to_epoch
from certbob.store.rows import CERTIFICATE, certificate, contains
from certbob.store.sqlite import SqlStore


class SqlLedger(SqlStore):
    """Implements `ports.LedgerStore`."""

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
            f"SELECT {CERTIFICATE} FROM certificates WHERE revoke_at <= ? AND revoked_at IS NULL"
            " AND not_after > ?"
            " AND EXISTS (SELECT 1 FROM certificates AS new WHERE new.id = certificates.replaced_by"
            " AND new.delivered = 1) ORDER BY revoke_at LIMIT 100",
            to_epoch(now),
            to_epoch(now),
        )
        return [certificate(*row) for row in rows]

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
            f"SELECT count(*) FROM certificates WHERE {_OPEN} AND state = 'uncertain'"
        )
        return int(row[0])

    async def open_entries(self, states: Sequence[str], *, before: datetime, limit: int) -> list[Entry]:
        rows = await self._database.rows(
            f"SELECT {_ENTRY} FROM certificates WHERE {_OPEN}"
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
            f"SELECT {CERTIFICATE} FROM certificates WHERE subject = ? AND state = 'issued'"
            " ORDER BY CASE WHEN revoked_at IS NULL AND not_after > ? THEN not_after END ASC NULLS LAST,"
            " not_after DESC, id DESC LIMIT ? OFFSET ?",
            subject,
            to_epoch(now),
            limit,
            offset,
        )
        return [certificate(*row) for row in rows]

    async def find_certificate(self, serial: int) -> Certificate | None:
        row = await self._database.row(
            f"SELECT {CERTIFICATE} FROM certificates WHERE serial = ? AND state = 'issued'", f"{serial:x}"
        )
        return None if row is None else certificate(*row)

    async def search(self, words: str, *, limit: int, offset: int) -> list[Certificate]:
        matches, values = contains(("name", "coalesce(email, '')", "device", "serial"), words)
        rows = await self._database.rows(
            f"SELECT {CERTIFICATE} FROM certificates WHERE state = 'issued' AND {matches}"
            " ORDER BY id DESC LIMIT ? OFFSET ?",
            *values,
            limit,
            offset,
        )
        return [certificate(*row) for row in rows]

    async def active_of(self, subject: str, *, now: datetime) -> list[Certificate]:
        rows = await self._database.rows(
            f"SELECT {CERTIFICATE} FROM certificates WHERE subject = ? AND {_WORKING}"
            " ORDER BY not_after, id DESC",
            subject,
            to_epoch(now),
        )
        return [certificate(*row) for row in rows]

    async def expiring(self, *, now: datetime, until: datetime, limit: int, offset: int) -> list[Certificate]:
        rows = await self._database.rows(
            f"SELECT {CERTIFICATE} FROM certificates WHERE {_EXPIRING}"
            " ORDER BY not_after, id LIMIT ? OFFSET ?",
            to_epoch(now),
            to_epoch(until),
            limit,
            offset,
        )
        return [certificate(*row) for row in rows]

    async def numbers(self, *, now: datetime, soon: datetime, since: datetime) -> Numbers:
        (active,) = await self._database.one(
            f"SELECT count(*) FROM certificates WHERE {_WORKING}", to_epoch(now)
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
_OPEN = "(state = 'intent' OR state = 'uncertain')"  # as the index has it
_WORKING = "state = 'issued' AND revoked_at IS NULL AND not_after > ?"
_EXPIRING = f"{_WORKING} AND not_after <= ? AND revoke_at IS NULL"
_ENTRY = (
    "id, subject, name, door, account, actor, address, request_id, profile, device, created_at, validity,"
    " csr_sha256, note"
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
