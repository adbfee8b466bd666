"""Rows that several tables have alike, and conditions on them."""

import re
from collections.abc import Sequence
from typing import Any

from certbob.devices import Platform
from certbob.identity import Door, Identity
from certbob.ports import Certificate
from certbob.store import from_epoch, from_json, to_json

IDENTITY = "subject, door, account, name, email, groups"


def identity_values(identity: Identity) -> tuple[Any, ...]:
    return (
        identity.subject,
        identity.door,
        identity.account,
        identity.name,
        identity.email,
        to_json(identity.groups),
    )


def identity(subject: str, door: str, account: str, name: str, email: str | None, groups: str) -> Identity:
    return Identity(subject, name, email, from_json(groups), Door(door), account)


CERTIFICATE = (
    "id, serial, subject, name, profile, platform, device, door, delivered, fingerprint, not_before,"
    " not_after, revoked_at, revocation_reason, revoke_at, address"
)


def certificate(
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


def contains(columns: Sequence[str], words: str) -> tuple[str, list[str]]:
    """A condition that one of them has the words in it, and its parameters."""
    literal = re.sub("([%_!])", r"!\1", words)
    matches = " OR ".join(f"lower({column}) LIKE lower(?) ESCAPE '!'" for column in columns)
    return f"({matches})", [f"%{literal}%"] * len(columns)
