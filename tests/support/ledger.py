"""Rows of the ledger as an issuing leaves them, without keys and signatures.

add_people(data_dir / DATABASE, ADA)
entry = add_certificate(data_dir / DATABASE, ADA, "Work laptop", end=NOW + timedelta(days=20))
"""

import itertools
import secrets
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from certbob.identity import Door, Identity
from certbob.store import to_epoch

_numbers = itertools.count(1)


def holder(
    name: str = "ada", *, email: str | None = "ada@example.org", door: Door = Door.LOCAL, account: str = ""
) -> Identity:
    return Identity(f"the subject of {name}", name, email, (), door, account or name)


def add_people(database: Path, *people: Identity) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        rows = [(each.subject, each.door, each.account) for each in people]
        connection.executemany("INSERT INTO subjects (id, door, account) VALUES (?, ?, ?)", rows)


def add_certificate(
    database: Path,
    identity: Identity,
    device: str,
    *,
    end: datetime,
    validity: timedelta = timedelta(days=90),
    **changes: Any,
) -> int:
    """Its entry. `changes`: of the columns."""
    number = next(_numbers)
    start = to_epoch(end - validity)
    row: dict[str, Any] = {
        "grant_hash": f"{number:064x}",
        "state": "issued",
        "subject": identity.subject,
        "door": identity.door,
        "account": identity.account,
        "actor": identity.account,
        "address": "192.0.2.7",
        "name": identity.name,
        "email": identity.email,
        "profile": "client",
        "platform": "linux",
        "device": device,
        "encoding": "modern",
        "key_type": "p256",
        "validity": to_epoch(end) - start,
        "csr_sha256": "0" * 64,
        "request_id": "-",
        "created_at": start,
        "serial": f"{number:x}{secrets.token_hex(8)}",
        "not_before": start,
        "not_after": to_epoch(end),
        "fingerprint": "0" * 64,
        **changes,
    }
    with closing(sqlite3.connect(database)) as connection, connection:
        columns = ", ".join(row)
        marks = ", ".join("?" * len(row))
        done = connection.execute(
            f"INSERT INTO certificates ({columns}) VALUES ({marks})", tuple(row.values())
        )
    assert done.lastrowid is not None
    return done.lastrowid


def change(database: Path, sql: str, *parameters: Any) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(sql, parameters)
