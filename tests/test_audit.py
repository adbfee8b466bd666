"""The audit log: complete, in order, and nobody changes it unseen."""

import asyncio
import hashlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certbob.audit import MAX_NOTE, Action, AuditLog
from certbob.errors import CARefused, CAUncertain, StorageProblem
from certbob.ports import NOWHERE, THE_SERVICE, Actor, AuditEntry, AuditFilter, Origin
from certbob.revocation import Reason
from certbob.store.audit import SqlAudit
from certbob.store.sqlite import Database
from tests.support import pki
from tests.support.clock import FakeClock
from tests.support.core import DATABASE, Core, RevokingCA, audit_log, open_core, person, raising

ADA = person("Ada Lovelace")
GRACE = Actor("local", "grace", "Grace Hopper", Origin("192.0.2.7", "8F3A-22"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / DATABASE


@pytest.fixture
async def log(path: Path) -> AsyncIterator[AuditLog]:
    database = await Database.open(path)
    yield audit_log(SqlAudit(database), FakeClock())
    await database.close()


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    clock = FakeClock(pki.NOW)
    async with open_core(tmp_path / "data", clock=clock, ca=RevokingCA(clock)) as opened:
        yield opened


async def every(log: AuditLog, wanted: AuditFilter | None = None) -> list[AuditEntry]:
    return [entry async for entry in log.every(wanted or AuditFilter())]


def write(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(sql)
        database.commit()


async def test_what_becomes_of_a_certificate_is_told(core: Core) -> None:
    issuance, log = core.services.issuance, core.services.audit
    issued = await issuance.issue(await core.mint(ADA), origin=Origin("192.0.2.1", "r-1"))
    core.ca.answers = [raising(CARefused("not that name"))]
    with pytest.raises(CARefused):
        await core.issue(await core.mint(ADA))
    core.ca.answers = [raising(CAUncertain("no answer"))]
    with pytest.raises(CAUncertain):
        await core.issue(await core.mint(ADA))
    certificate = await core.services.ledger.find_any(issued.leaf.serial_number)
    assert certificate is not None
    core.clock.advance(timedelta(hours=1))
    for _ in range(2):
        await core.services.revocation.revoke(certificate, Reason.LOST, GRACE)

    entries = await every(log)
    assert [(e.action, e.note) for e in entries] == [
        ("issued", "Work laptop, client"),
        ("failed", "Work laptop, client: not that name"),
        ("uncertain", "Work laptop, client: no answer"),
        ("revoked", "Work laptop: lost"),
    ]
    assert entries[0].actor == Actor("local", "Ada Lovelace", "Ada Lovelace", Origin("192.0.2.1", "r-1"))
    assert entries[0].serial == entries[3].serial == f"{issued.leaf.serial_number:x}"
    assert {(e.subject, e.name) for e in entries} == {(ADA.subject, "Ada Lovelace")}
    assert entries[3].actor == GRACE
    assert entries[3].at - entries[2].at == timedelta(hours=1)
    assert (await log.verify()).broken is None


async def test_an_entry_and_what_it_tells_of_are_one(core: Core) -> None:
    """Where the one cannot be written, the other is not either."""
    certificate = await core.issue(await core.mint(ADA))
    found = await core.services.ledger.find_any(certificate.leaf.serial_number)
    assert found is not None
    write(core.data_dir / DATABASE, "ALTER TABLE audit RENAME TO gone")

    with pytest.raises(StorageProblem):
        await core.services.revocation.revoke(found, Reason.LOST, GRACE)
    with pytest.raises(StorageProblem):
        await core.services.pause.pause(GRACE, "")
    with pytest.raises(CAUncertain):
        await core.issue(await core.mint(person("Bert")))
    assert core.ledger("state, revoked_at") == [("issued", None), ("intent", None)]
    assert await core.services.pause.state() is None

    write(core.data_dir / DATABASE, "ALTER TABLE gone RENAME TO audit")
    await core.services.revocation.revoke(found, Reason.LOST, GRACE)
    assert [e.action for e in await every(core.services.audit)] == ["issued", "revoked"]
    assert (await core.services.audit.verify()).entries == 2


async def test_the_hash_is_the_one_of_the_guide(log: AuditLog) -> None:
    await log.record(Action.RESUMED, THE_SERVICE)
    await log.record(Action.REVOKED, GRACE, subject="5e5510", name="Ada Lövelace", serial=0xA1, note="lost")

    first, second = await every(log)
    facts = [
        *(first.hash, 2, "2026-01-15T12:00:00+00:00", "revoked", "local", "grace", "Grace Hopper"),
        *("192.0.2.7", "8F3A-22", "5e5510", "Ada Lövelace", "a1", "lost"),
    ]
    text = json.dumps(facts, separators=(",", ":"))
    assert "L\\u00f6velace" in text
    assert second.hash == hashlib.sha256(text.encode()).hexdigest()
    who = ["service", "-", "The service itself", "-", "-"]
    facts = ["", 1, "2026-01-15T12:00:00+00:00", "resumed", *who, "", "", "", ""]
    assert first.hash == hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


COLUMNS = (
    *("at", "action", "door", "account", "actor", "address", "reference"),
    *("subject", "name", "serial", "note"),
)


@pytest.mark.parametrize("column", [*COLUMNS, "hash"])
async def test_a_changed_entry_is_found(log: AuditLog, path: Path, column: str) -> None:
    for number in range(5):
        await log.record(Action.REVOKED, GRACE, subject="s", name="n", serial=number + 1, note="lost")
    assert await log.verify() == await log.verify()
    assert (await log.verify()).entries == 5

    change = "at + 1" if column == "at" else f"{column} || 'x'"
    write(path, f"UPDATE audit SET {column} = {change} WHERE number = 3")

    found = await log.verify()
    assert (found.entries, found.broken) == (2, "entry 3 was changed")


@pytest.mark.parametrize(
    ("change", "good", "broken"),
    [
        ("DELETE FROM audit WHERE number = 1", 0, "entry 1 is missing"),
        ("DELETE FROM audit WHERE number = 3", 2, "entry 3 is missing"),
        ("DELETE FROM audit WHERE number = 5", 4, "entry 5 is missing"),
        ("DELETE FROM audit", 0, "entry 1 is missing"),
        ("UPDATE audit SET number = 9 WHERE number = 5", 4, "entry 5 is missing"),
        ("UPDATE audit_head SET hash = 'x'", 5, "entry 5 is not the last that was written"),
        ("UPDATE audit_head SET number = 4", 5, "entry 5 is not the last that was written"),
        ("UPDATE audit_head SET number = 6", 5, "entry 6 is missing"),
        ("DELETE FROM audit_head", 5, "the record of the last entry is missing"),
        ("UPDATE audit SET number = 0 WHERE number = 3", 0, "entry 0 was changed"),
        ("UPDATE audit SET number = -7 WHERE number = 5", 0, "entry -7 was changed"),
        ("UPDATE audit SET at = at + 0.7 WHERE number = 2", 1, "entry 2 was changed"),
        ("UPDATE audit SET at = 'noon' WHERE number = 2", 1, "entry 2 was changed"),
        ("UPDATE audit SET at = 1e18 WHERE number = 2", 1, "entry 2 was changed"),
        ("UPDATE audit SET note = x'ff00' WHERE number = 2", 1, "entry 2 was changed"),
        (
            "INSERT INTO audit SELECT 6, at, action, door, account, actor, address, reference, subject,"
            " name, serial, note, hash FROM audit WHERE number = 5",
            5,
            "entry 6 was changed",
        ),
    ],
)
async def test_what_is_missing_or_added_is_found(
    log: AuditLog, path: Path, change: str, good: int, broken: str
) -> None:
    for _ in range(5):
        await log.record(Action.SIGNED_IN, GRACE)

    write(path, change)

    found = await log.verify()
    assert (found.entries, found.broken) == (good, broken)


async def test_what_was_not_written_is_not_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the transaction that it is a part of, too."""
    counted: list[tuple[str, str]] = []
    database = await Database.open(path)
    log = AuditLog(SqlAudit(database), clock=FakeClock(), count=lambda *each: counted.append(each))
    caplog.set_level("INFO", "certbob.audit")
    try:
        with suppress(ZeroDivisionError):
            async with database.transaction():
                await log.record(Action.REVOKED, GRACE)
                raise ZeroDivisionError
        assert (counted, caplog.messages) == ([], [])
        async with database.transaction():
            await log.record(Action.PAUSED, GRACE)
            assert counted == []
        assert counted == [("paused", "local")]
        assert len(caplog.messages) == 1
    finally:
        await database.close()


@pytest.mark.parametrize("change", ["DELETE FROM audit_head", "UPDATE audit_head SET number = 0"])
async def test_where_the_log_cannot_go_on_nothing_is_issued(core: Core, change: str) -> None:
    await core.issue(await core.mint(ADA))
    write(core.data_dir / DATABASE, change)

    with pytest.raises(CAUncertain):
        await core.issue(await core.mint(person("Bert")))

    assert core.ledger() == ["issued", "intent"]


async def test_two_processes_write_one_chain(path: Path, log: AuditLog) -> None:
    other = await Database.open(path)
    second = audit_log(SqlAudit(other), FakeClock())
    try:
        await asyncio.gather(
            *(each.record(Action.SIGNED_IN, GRACE, note=str(n)) for n in range(50) for each in (log, second))
        )
    finally:
        await other.close()

    assert [entry.number for entry in await every(log)] == list(range(1, 101))
    found = await log.verify()
    assert (found.entries, found.broken) == (100, None)


async def test_whoever_goes_away_leaves_nothing_half_done(
    log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelled at every moment: whoever comes next is not disturbed, and what is written is told."""
    caplog.set_level("INFO", "certbob.audit")
    for number in range(200):
        steps = number % 40
        task = asyncio.create_task(log.record(Action.SIGNED_IN, GRACE, note=str(steps)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await log.record(Action.RESUMED, GRACE)

    found = await log.verify()
    assert found.broken is None
    assert 200 < found.entries <= 400
    assert [json.loads(line)[0] for line in caplog.messages] == list(range(1, found.entries + 1))


@given(st.text(), st.text(), st.text())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_people_are_called_it_is_one_line_and_one_entry(
    account: str, name: str, note: str
) -> None:
    """The line of the log is ASCII, and read as JSON it is the entry."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("certbob.audit")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    written: list[AuditEntry] = []
    log = audit_log(_Memory(written), FakeClock())
    try:
        await log.record(Action.SIGNED_IN, Actor("oidc", account, account), name=name, note=note)
    finally:
        logger.removeHandler(handler)

    (line,) = lines
    assert line.isascii()
    assert line.isprintable()
    (entry,) = written
    told = json.loads(line)
    facts = ["signed_in", "oidc", account, account, "-", "-", "", name, "", note[:MAX_NOTE]]
    assert told == [1, "2026-01-15T12:00:00+00:00", *facts, entry.hash]


class _Memory(SqlAudit):
    """Keeps what a database might refuse."""

    def __init__(self, written: list[AuditEntry]) -> None:
        self._written = written

    def transaction(self) -> "_Nothing":
        return _Nothing()

    async def next_entry(self) -> tuple[int, str]:
        return len(self._written) + 1, ""

    async def append(self, entry: AuditEntry, follower: Callable[[], None]) -> None:
        self._written.append(entry)
        follower()


class _Nothing:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


async def test_what_is_asked_for_is_found(log: AuditLog) -> None:
    clock = FakeClock()
    log = audit_log(log._store, clock)
    start = clock.now()
    for day, account in enumerate(("ada", "bert", "A_a%")):
        clock.set(start + timedelta(days=day))
        await log.record(
            Action.SIGNED_IN, Actor("local", account, account, NOWHERE), name=f"Name of {account}"
        )
        await log.record(Action.REVOKED, THE_SERVICE, serial=0xABC + day, note=f"Laptop of {account}")

    async def found(**wanted: object) -> list[int]:
        filters = AuditFilter(**wanted)  # type: ignore[arg-type]
        newest_first = [entry.number for entry in await log.entries(filters, limit=10)]
        assert sorted(newest_first) == [entry.number for entry in await every(log, filters)]
        return newest_first

    assert await found() == [6, 5, 4, 3, 2, 1]
    assert await found(words="ADA") == [2, 1]
    assert await found(words="a_a%") == [6, 5]
    assert await found(words="abd") == [4]
    assert await found(words="' OR 1=1 --") == []
    assert await found(action="revoked") == [6, 4, 2]
    assert await found(since=start + timedelta(days=1)) == [6, 5, 4, 3]
    assert await found(until=start + timedelta(days=1)) == [2, 1]
    assert await found(words="laptop", action="revoked", since=start + timedelta(days=2)) == [6]
    assert [e.number for e in await log.entries(AuditFilter(), limit=2, offset=1)] == [5, 4]


async def test_long_logs_are_read_in_pieces(log: AuditLog) -> None:
    for _ in range(1100):
        await log.record(Action.SIGNED_IN, GRACE)

    assert [entry.number for entry in await every(log)] == list(range(1, 1101))
    assert (await log.verify()).entries == 1100


def test_every_action_has_words_of_its_own() -> None:
    assert len({action.label for action in Action}) == len(Action)
