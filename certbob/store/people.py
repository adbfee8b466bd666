"""Who is known, who is signed in or about to be, and who tries too often."""

import uuid
from datetime import datetime, timedelta

from certbob.identity import Door
from certbob.ports import PendingSignIn, Session, Tries
from certbob.store import from_epoch, to_epoch
from certbob.store.rows import IDENTITY, identity, identity_values
from certbob.store.sqlite import SqlStore


class SqlPeople(SqlStore):
    """Implements `ports.People`."""

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


class SqlSessions(SqlStore):
    """Implements `ports.SessionStore`."""

    async def add_session(self, session: Session) -> None:
        await self._database.rows(
            f"INSERT INTO sessions (id_hash, {IDENTITY}, is_admin, created_at, seen_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            session.id_hash,
            *identity_values(session.identity),
            int(session.is_admin),
            to_epoch(session.created_at),
            to_epoch(session.seen_at),
        )

    async def find_session(self, id_hash: str) -> Session | None:
        row = await self._database.row(
            f"SELECT {IDENTITY}, is_admin, created_at, seen_at FROM sessions WHERE id_hash = ?", id_hash
        )
        if row is None:
            return None
        is_admin, created_at, seen_at = row[6:]
        return Session(
            id_hash, identity(*row[:6]), bool(is_admin), from_epoch(created_at), from_epoch(seen_at)
        )

    async def touch_session(self, id_hash: str, *, now: datetime) -> None:
        await self._database.rows("UPDATE sessions SET seen_at = ? WHERE id_hash = ?", to_epoch(now), id_hash)

    async def end_session(self, id_hash: str) -> None:
        await self._database.rows("DELETE FROM sessions WHERE id_hash = ?", id_hash)

    async def prune_sessions(self, before: datetime) -> None:
        await self._database.rows("DELETE FROM sessions WHERE created_at < ?", to_epoch(before))


class SqlSignIns(SqlStore):
    """Implements `ports.SignInStore`."""

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


class SqlTries(SqlStore):
    """Implements `ports.TryStore`."""

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
