import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding as Serialization

from certbob.devices import Encoding
from certbob.errors import Duplicate, TooManyCertificates
from certbob.identity import Identity
from certbob.ledger import Ledger
from certbob.pause import Pause
from certbob.ports import Actor, Intent, Origin
from certbob.profiles import KeyType
from certbob.store.audit import SqlAudit, SqlPause
from certbob.store.ledger import SqlLedger
from certbob.store.sqlite import Database
from tests.support import bundle, pki
from tests.support.clock import FakeClock
from tests.support.core import LAPTOP, audit_log, person

ADA = person(email="ada@example.org")
BERT = person("Bert Becker")
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(pki.NOW)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with database_at(tmp_path / "certbob.sqlite3") as opened:
        yield opened


@asynccontextmanager
async def database_at(path: Path) -> AsyncIterator[Database]:
    database = await Database.open(path)
    yield database
    await database.close()


def ledger_of(database: Database, clock: FakeClock, *, limit: int) -> Ledger:
    audit = audit_log(SqlAudit(database), clock)
    pause = Pause(SqlPause(database), audit=audit, clock=clock)
    return Ledger(SqlLedger(database), audit=audit, pause=pause, clock=clock, hourly_limit=limit)


@pytest.fixture
def ledger(database: Database, clock: FakeClock) -> Ledger:
    return ledger_of(database, clock, limit=3)


_counter = iter(range(10**6))


def intent(identity: Identity = ADA, **changes: Any) -> Intent:
    """Of a grant of its own."""
    fresh = Intent(
        grant_hash=f"grant {next(_counter)}",
        identity=identity,
        profile_id="client",
        device=LAPTOP,
        key_type=KeyType.P256,
        encoding=Encoding.MODERN,
        validity=pki.DAYS_90,
        csr_sha256="00" * 32,
        actor=Actor.of(identity, Origin("192.0.2.1", "r-1")),
    )
    return replace(fresh, **changes)


async def row(database: Database, columns: str, entry: int) -> tuple[Any, ...]:
    return await database.one(f"SELECT {columns} FROM certificates WHERE id = ?", entry)


async def test_an_intent_is_open_until_it_is_closed(
    ledger: Ledger, database: Database, clock: FakeClock
) -> None:
    entry = await ledger.intend(intent())
    assert await row(database, "state, closed_at, serial, certificate, delivered", entry) == (
        "intent",
        None,
        None,
        None,
        1,
    )


@pytest.mark.parametrize(
    ("close", "state", "note"),
    [
        (lambda ledger, entry: ledger.issued(entry, bundle.leaf(), "serverAuth"), "issued", "serverAuth"),
        (lambda ledger, entry: ledger.rejected(entry, "too late", bundle.leaf()), "rejected", "too late"),
        (lambda ledger, entry: ledger.rejected(entry, "HTML", None), "rejected", "HTML"),
        (lambda ledger, entry: ledger.failed(entry, "policy"), "failed", "policy"),
        (lambda ledger, entry: ledger.uncertain(entry, "cut off"), "uncertain", "cut off"),
    ],
    ids=["issued", "rejected", "rejected without a certificate", "failed", "uncertain"],
)
async def test_every_end_is_written_down_with_its_reason_and_time(
    ledger: Ledger,
    database: Database,
    clock: FakeClock,
    close: Callable[[Ledger, int], Any],
    state: str,
    note: str,
) -> None:
    entry = await ledger.intend(intent())
    clock.advance(SECOND)
    await close(ledger, entry)

    closed_at = int(pki.NOW.timestamp()) + 1
    assert await row(database, "state, closed_at, note", entry) == (state, closed_at, note)
    [certificate] = await row(database, "certificate", entry)
    has_certificate = state == "issued" or note == "too late"
    assert certificate == (bundle.leaf().public_bytes(Serialization.DER) if has_certificate else None)


async def test_a_serial_number_stands_in_the_ledger_once(ledger: Ledger, database: Database) -> None:
    first, second = await ledger.intend(intent()), await ledger.intend(intent())
    await ledger.issued(first, bundle.leaf(), None)

    with pytest.raises(Duplicate):
        await ledger.issued(second, bundle.leaf(), None)
    with pytest.raises(Duplicate):
        await ledger.rejected(second, "wrong", bundle.leaf())
    assert await row(database, "state", second) == ("intent",)


@pytest.mark.parametrize("state", ["intent", "issued", "rejected", "uncertain"])
async def test_a_grant_that_may_have_led_to_a_certificate_gets_no_second_entry(
    ledger: Ledger, state: str
) -> None:
    first = intent()
    entry = await ledger.intend(first)
    if state == "issued":
        await ledger.issued(entry, bundle.leaf(), None)
    elif state == "rejected":
        await ledger.rejected(entry, "wrong", None)
    elif state == "uncertain":
        await ledger.uncertain(entry, "?")

    with pytest.raises(Duplicate):
        await ledger.intend(first)


async def test_a_grant_whose_signing_failed_may_be_tried_again_and_again(ledger: Ledger) -> None:
    again = intent()
    for _ in range(5):
        await ledger.failed(await ledger.intend(again), "policy")
    await ledger.intend(again)


async def test_delivery_and_encoding_can_be_corrected(ledger: Ledger, database: Database) -> None:
    entry, other = await ledger.intend(intent()), await ledger.intend(intent())
    await ledger.delivered(entry, False)
    await ledger.encoded_as(entry, Encoding.COMPATIBLE)
    assert await row(database, "delivered, encoding", entry) == (0, "compatible")
    assert await row(database, "delivered, encoding", other) == (1, "modern")

    await ledger.delivered(entry, True)
    assert await row(database, "delivered", entry) == (1,)


async def test_the_limit_is_each_persons_own(ledger: Ledger) -> None:
    for _ in range(3):
        await ledger.intend(intent())
    with pytest.raises(TooManyCertificates):
        await ledger.check_limit(ADA)
    await ledger.check_limit(BERT)
    await ledger.intend(intent(BERT))


async def test_the_limit_ends_an_hour_after_the_oldest_that_counts(ledger: Ledger, clock: FakeClock) -> None:
    for _ in range(3):
        await ledger.intend(intent())
        clock.advance(MINUTE)
    for use in (lambda: ledger.check_limit(ADA), lambda: ledger.intend(intent())):
        with pytest.raises(TooManyCertificates) as problem:
            await use()
        assert problem.value.until == pki.NOW + HOUR

    clock.set(pki.NOW + HOUR - SECOND)
    with pytest.raises(TooManyCertificates):
        await ledger.intend(intent())
    clock.advance(SECOND)
    await ledger.intend(intent())
    with pytest.raises(TooManyCertificates) as problem:
        await ledger.check_limit(ADA)
    assert problem.value.until == pki.NOW + HOUR + MINUTE


async def test_a_lowered_limit_names_the_time_when_there_is_room_again(
    database: Database, clock: FakeClock
) -> None:
    generous = ledger_of(database, clock, limit=10)
    strict = ledger_of(database, clock, limit=2)
    for _ in range(4):
        await generous.intend(intent())
        clock.advance(MINUTE)

    with pytest.raises(TooManyCertificates) as problem:
        await strict.check_limit(ADA)
    assert problem.value.until == pki.NOW + 2 * MINUTE + HOUR
    clock.set(problem.value.until)
    await strict.check_limit(ADA)


async def test_what_surely_was_not_signed_does_not_count(ledger: Ledger) -> None:
    for _ in range(3):
        await ledger.failed(await ledger.intend(intent()), "policy")
    await ledger.check_limit(ADA)
    for close in (ledger.uncertain, ledger.uncertain):
        await close(await ledger.intend(intent()), "?")
    await ledger.rejected(await ledger.intend(intent()), "!", None)
    with pytest.raises(TooManyCertificates):
        await ledger.check_limit(ADA)


async def test_two_processes_together_keep_the_limit(
    ledger: Ledger, clock: FakeClock, tmp_path: Path
) -> None:
    async with database_at(tmp_path / "certbob.sqlite3") as second:
        other = ledger_of(second, clock, limit=3)
        results = await asyncio.gather(
            *(each.intend(intent()) for each in (ledger, other) * 5), return_exceptions=True
        )
    assert sum(isinstance(result, int) for result in results) == 3
    assert sum(isinstance(result, TooManyCertificates) for result in results) == 7
