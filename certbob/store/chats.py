"""Chat accounts."""

from datetime import datetime

from certbob.identity import Door, Identity
from certbob.ports import LinkRequest
from certbob.store import from_epoch, to_epoch, to_json
from certbob.store.rows import IDENTITY, identity, identity_values
from certbob.store.sqlite import SqlStore


class SqlChats(SqlStore):
    """Implements `ports.ChatStore`."""

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
            f"INSERT INTO chat_links (user_id, user_name, {IDENTITY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (user_id) DO UPDATE SET user_name = excluded.user_name, subject = excluded.subject,"
            " door = excluded.door, account = excluded.account, name = excluded.name,"
            " email = excluded.email, groups = excluded.groups",
            user_id,
            user_name,
            *identity_values(identity),
        )

    async def linked_identity(self, user_id: str) -> Identity | None:
        row = await self._database.row(f"SELECT {IDENTITY} FROM chat_links WHERE user_id = ?", user_id)
        return None if row is None else identity(*row)

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
