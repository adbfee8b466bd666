"""Which reminders are due, and who sends them."""

from datetime import datetime, timedelta
from typing import Any

from certbob.identity import Door
from certbob.ports import Reminder, Result, Step, Way
from certbob.store import to_epoch
from certbob.store.rows import CERTIFICATE, certificate
from certbob.store.sqlite import SqlStore

REMINDER_LEASE, DAY = timedelta(minutes=10), timedelta(days=1)


class SqlReminders(SqlStore):
    """Implements `ports.ReminderStore`."""

    async def due_reminders(self, way: Way, step: Step, *, left: int, now: datetime) -> list[Reminder]:
        rows = await self._database.rows(
            f"SELECT holder.door, holder.account, {_RECIPIENTS[way]}, {_COLUMNS} FROM {_due(way)}"
            " ORDER BY c.not_after",
            *_due_values(way, step, now, left=(left - 1, left)),
        )
        return [
            Reminder(certificate(*row), step, way, recipient, Door(door), account)
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


_COLUMNS = ", ".join(f"c.{column}" for column in CERTIFICATE.split(", "))
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
