"""What was granted; implements the port of `certbob.grants`."""

from datetime import datetime, timedelta

from certbob.devices import Device, Platform
from certbob.ports import Delivery, Grant, Replacement
from certbob.store import from_epoch, to_epoch
from certbob.store.rows import IDENTITY, identity, identity_values
from certbob.store.sqlite import SqlStore

CLAIM_LEASE = timedelta(minutes=1)
_SURELY_UNSIGNED = (
    "NOT EXISTS (SELECT 1 FROM certificates WHERE grant_hash = grants.id_hash AND state <> 'failed')"
)
# A condition on `grants`.
_REPLACED = (
    "(door = 'mattermost' AND delivery = 'download' AND id_hash <>"
    " (SELECT latest.id_hash FROM latest_links AS latest WHERE latest.subject = grants.subject))"
)


class SqlGrants(SqlStore):
    """Implements `ports.GrantStore`."""

    async def add_grant(self, grant: Grant) -> None:
        await self._database.rows(
            f"INSERT INTO grants (id_hash, {IDENTITY}, profile, validity, platform, device, older, delivery,"
            " replaces, overlap, created_at, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            grant.id_hash,
            *identity_values(grant.identity),
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
            f"SELECT {IDENTITY}, profile, validity, platform, device, older, delivery, replaces, overlap,"
            f" created_at, expires_at, claimed_at, holder_hash, {_REPLACED} FROM grants WHERE id_hash = ?",
            id_hash,
        )
        if row is None:
            return None
        profile, validity, platform, device, older, delivery, replaces, overlap = row[6:14]
        created_at, expires_at, claimed_at, holder_hash, is_replaced = row[14:]
        return Grant(
            id_hash=id_hash,
            identity=identity(*row[:6]),
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

    async def end_grants(self, subject: str) -> None:
        await self._database.rows(
            f"DELETE FROM grants WHERE subject = ? AND (claimed_at IS NULL OR {_SURELY_UNSIGNED})", subject
        )

    async def release_grant(self, id_hash: str) -> None:
        await self._database.rows(
            "UPDATE grants SET claimed_at = NULL, holder_hash = NULL"
            f" WHERE id_hash = ? AND {_SURELY_UNSIGNED}",
            id_hash,
        )

    async def prune_grants(self, before: datetime) -> None:
        """Forget grants that expired before then; the ledger keeps what came of them."""
        await self._database.rows("DELETE FROM grants WHERE expires_at < ?", to_epoch(before))
