"""The list of revoked certificates: it names what was taken back, its numbers only grow, it is never over."""

import asyncio
import multiprocessing
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from certbob.bootstrap import build_services
from certbob.ca.builtin import sign_crl, sign_leaf
from certbob.config import DEFAULT_PROFILE, Builtin
from certbob.devices import Encoding
from certbob.errors import CABadAnswer, StorageProblem
from certbob.issuance import FileOptions
from certbob.ports import NOWHERE, THE_SERVICE, Actor, Certificate, Crl, Intent, Replacement
from certbob.profiles import KeyType
from certbob.revocation import Reason
from certbob.revocation_list import RevocationList
from certbob.services import Services
from certbob.signers import SignerPool
from tests.support import pki
from tests.support.clock import FakeClock
from tests.support.core import DATABASE, LAPTOP, InlineSigners, person, settings_for

T = TypeVar("T")

ADA = person()
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)


class Signers(InlineSigners):
    """`problem` is raised in the place of a list; `gate` keeps one back; `longer` is given to each leaf."""

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self.signed = 0
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.longer = timedelta(0)

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        if function is sign_crl:
            self.begun.set()
            await self.gate.wait()
            if self.problem is not None:
                raise self.problem
            self.signed += 1
        if function is sign_leaf and self.longer:
            request, *others = args
            return function(replace(request, validity=request.validity + self.longer), *others, **kwargs)
        return function(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Process:
    """A CertBob that runs with the embedded authority, wired as in production."""

    services: Services
    signers: Signers

    @property
    def list(self) -> RevocationList:
        assert self.services.revocation_list is not None
        return self.services.revocation_list

    async def issue(
        self,
        validity: timedelta = pki.DAYS_90,
        *,
        reject: bool = False,
        replaces: Replacement | None = None,
    ) -> int:
        """The serial number of Ada's new certificate."""
        request = pki.signing_request(validity=validity, subject=ADA.subject)
        leaf = (await self.services.ca.sign(request)).leaf
        intent = Intent(
            grant_hash=f"{leaf.serial_number:x}",
            identity=ADA,
            profile_id=DEFAULT_PROFILE.id,
            device=LAPTOP,
            key_type=KeyType.P256,
            encoding=Encoding.MODERN,
            validity=validity,
            csr_sha256="00" * 32,
            actor=Actor.of(ADA, NOWHERE),
            replaces=replaces,
        )
        entry = await self.services.ledger.intend(intent)
        if reject:
            await self.services.ledger.rejected(entry, "wrong", leaf)
        else:
            await self.services.ledger.issued(entry, leaf, None)
            await self.services.ledger.delivered(entry, True)
        return leaf.serial_number

    async def certificate(self, serial: int) -> Certificate:
        found = await self.services.ledger.find(serial, ADA.subject)
        assert found is not None
        return found

    async def revoke(self, serial: int, reason: Reason = Reason.LOST) -> None:
        await self.services.revocation.revoke(await self.certificate(serial), reason, THE_SERVICE)


async def started(data_dir: Path, clock: FakeClock, lifetime: timedelta = WEEK) -> Process:
    signers = Signers()
    configured = settings_for(data_dir, builtin=Builtin(crl_lifetime=lifetime))
    return Process(await build_services(configured, clock=clock, signers=signers), signers)


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(data_dir: Path, clock: FakeClock) -> AsyncIterator[Start]:
    """Starts processes over the same data; they are ended after the test."""
    async with AsyncExitStack() as stack:

        async def start(lifetime: timedelta = WEEK) -> Process:
            process = await started(data_dir, clock, lifetime)
            stack.push_async_callback(process.services.close)
            return process

        yield start


@asynccontextmanager
async def running(data_dir: Path, clock: FakeClock) -> AsyncIterator[Process]:
    """A process that ends before the test does."""
    process = await started(data_dir, clock)
    try:
        yield process
    finally:
        await process.services.close()


def parsed(crl: Crl) -> x509.CertificateRevocationList:
    """As a reader sees it, which must be what the program says of it."""
    read = x509.load_der_x509_crl(crl.der)
    number = read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert (number, read.last_update_utc, read.next_update_utc) == (
        crl.number,
        crl.this_update,
        crl.next_update,
    )
    return read


def named(crl: Crl) -> set[int]:
    return {entry.serial_number for entry in parsed(crl)}


def reasons(crl: Crl) -> dict[int, x509.ReasonFlags | None]:
    found: dict[int, x509.ReasonFlags | None] = {}
    for entry in parsed(crl):
        given = [extension.value for extension in entry.extensions]
        found[entry.serial_number] = given[0].reason if given else None
    return found


def back_up(data_dir: Path, target: Path) -> None:
    with closing(sqlite3.connect(data_dir / DATABASE)) as database, closing(sqlite3.connect(target)) as copy:
        database.backup(copy)


def restore(data_dir: Path, source: Path) -> None:
    for suffix in ("-wal", "-shm"):
        (data_dir / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    shutil.copy(source, data_dir / DATABASE)


# What it says


async def test_a_new_authority_has_an_empty_list(start: Start, clock: FakeClock) -> None:
    process = await start()
    crl = await process.list.current()
    trust = await process.services.ca.trust()
    key = trust.intermediates[0].public_key()

    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert parsed(crl).is_signature_valid(key)
    assert named(crl) == set()
    assert (crl.this_update, crl.next_update) == (
        clock.now() - 5 * MINUTE,
        clock.now() - 5 * MINUTE + WEEK,
    )


async def test_it_names_what_was_revoked_with_time_and_reason(start: Start, clock: FakeClock) -> None:
    process = await start()
    serials = {reason: await process.issue() for reason in Reason}
    kept = await process.issue()
    when = {}
    for reason, serial in serials.items():
        clock.advance(HOUR)
        await process.revoke(serial, reason)
        when[serial] = clock.now()
    crl = await process.list.current()

    assert kept not in named(crl)
    assert {entry.serial_number: entry.revocation_date_utc for entry in parsed(crl)} == when
    assert reasons(crl) == {
        serials[Reason.LOST]: x509.ReasonFlags.key_compromise,
        serials[Reason.RETIRED]: x509.ReasonFlags.cessation_of_operation,
        serials[Reason.REPLACED]: x509.ReasonFlags.superseded,
        serials[Reason.OTHER]: None,
    }


async def test_a_certificate_that_was_thrown_away_stands_in_it(start: Start) -> None:
    """The authority has signed it, so it may be anywhere, though nobody was given it."""
    process = await start()
    await process.list.current()
    process.signers.longer = DAY
    token = await process.services.grants.mint(ADA, DEFAULT_PROFILE.id, LAPTOP, timedelta(days=30))
    with pytest.raises(CABadAnswer) as wrong:
        await process.services.issuance.issue(token, holder=None, options=FileOptions())
    assert wrong.value.certificate is not None
    leaf = x509.load_der_x509_certificate(wrong.value.certificate)

    await process.list.refresh()

    assert reasons(await process.list.current()) == {leaf.serial_number: None}


@pytest.mark.parametrize("reject", [False, True])
async def test_an_entry_stays_for_a_day_beyond_the_end_of_its_certificate(
    start: Start, clock: FakeClock, reject: bool
) -> None:
    """RFC 5280 3.3: it has to stand in a list that was made after the certificate's end."""
    process = await start()
    serial = await process.issue(10 * DAY, reject=reject)
    if not reject:
        await process.revoke(serial)
    end = clock.now() - 5 * MINUTE + 10 * DAY - SECOND

    clock.set(end + DAY - SECOND)
    await process.list.refresh()
    assert named(await process.list.current()) == {serial}

    clock.set(end + DAY)
    other = await process.issue()
    await process.revoke(other)
    assert named(await process.list.current()) == {other}


async def test_the_roots_list_is_empty_and_comes_with_the_other(start: Start) -> None:
    process = await start()
    await process.revoke(await process.issue())
    crl, of_root = await process.list.current(), await process.list.root()
    trust = await process.services.ca.trust()
    key = trust.root.public_key()

    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert of_root is not None
    assert parsed(of_root).is_signature_valid(key)
    assert named(of_root) == set()
    assert (of_root.number, of_root.next_update) == (crl.number, crl.next_update)


async def test_the_root_has_no_list_where_its_key_is_not(start: Start, data_dir: Path) -> None:
    await start()
    (data_dir / "ca" / "root.key").unlink()
    process = await start()

    assert await process.list.root() is None
    assert named(await process.list.current()) == set()


# Its numbers


async def test_numbers_grow_though_the_clock_stands_still(start: Start) -> None:
    process = await start()
    numbers = [(await process.list.current()).number]
    for _ in range(5):
        await process.revoke(await process.issue())
        numbers.append((await process.list.current()).number)

    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    "step", [timedelta(0), HOUR, -DAY], ids=["at once", "later", "with the clock set back"]
)
async def test_numbers_grow_over_restarts(data_dir: Path, clock: FakeClock, step: timedelta) -> None:
    numbers = []
    for _ in range(4):
        async with running(data_dir, clock) as process:
            numbers.append((await process.list.current()).number)
        clock.advance(step)

    assert numbers == sorted(set(numbers))


async def test_numbers_grow_over_two_processes(start: Start) -> None:
    one, other = await start(), await start()
    numbers = []
    for process in (one, other, one, one, other, other, one):
        await process.revoke(await process.issue())
        numbers.append((await process.list.current()).number)

    assert numbers == sorted(set(numbers))


async def test_two_processes_at_once_never_use_a_number_twice(start: Start) -> None:
    processes = [await start() for _ in range(3)]
    serials = [await processes[0].issue() for _ in range(10)]
    numbers = []

    async def revoke_all(process: Process) -> None:
        for serial in serials:
            await process.revoke(serial)
            numbers.append((await process.list.current()).number)

    await asyncio.gather(*map(revoke_all, processes))

    assert len(set(numbers)) >= len(processes)
    for process in processes:
        await process.list.refresh()
        assert named(await process.list.current()) == set(serials)
    last = [(await process.list.current()).number for process in processes]
    assert len(set(last)) == len(processes)


@pytest.mark.parametrize("what", ["an old copy", "nothing"])
async def test_numbers_grow_beyond_a_database_that_came_from_a_backup(
    data_dir: Path, clock: FakeClock, tmp_path: Path, what: str
) -> None:
    copy = tmp_path / "copy"
    async with running(data_dir, clock) as process:
        await process.list.current()
        back_up(data_dir, copy)
        for _ in range(20):
            await process.revoke(await process.issue())
        before = await process.list.current()
    (data_dir / DATABASE).unlink()
    if what == "an old copy":
        restore(data_dir, copy)
    clock.advance(MINUTE)

    async with running(data_dir, clock) as process:
        after = await process.list.current()

    assert after.number > before.number
    assert named(after) == set()


# When it is made anew


async def test_who_revokes_has_the_new_list_at_once(start: Start) -> None:
    process = await start()
    before = await process.list.current()
    serial = await process.issue()
    assert await process.list.current() is before

    await process.revoke(serial)

    after = await process.list.current()
    assert after.number > before.number
    assert named(after) == {serial}


async def test_another_process_has_it_when_it_looks(start: Start) -> None:
    here, there = await start(), await start()
    before = await there.list.current()
    serial = await here.issue()
    await here.revoke(serial)
    assert await there.list.current() is before

    await there.list.refresh()

    assert named(await there.list.current()) == {serial}


async def test_without_news_the_same_bytes_are_served(start: Start, clock: FakeClock) -> None:
    process, other = await start(), await start()
    revoked, serial = await process.issue(), await process.issue()
    await process.revoke(revoked)
    before = await process.list.current()
    for _ in range(20):
        clock.advance(HOUR)
        await other.issue()
        await process.revoke(revoked)  # it is already
        await process.list.refresh()

    assert await process.list.current() is before
    assert process.signers.signed == 2  # the root's, too
    assert serial not in named(before)


@pytest.mark.parametrize(
    ("lifetime", "after"),
    [(timedelta(days=10), DAY), (WEEK, DAY), (4 * DAY, DAY), (2 * DAY, 12 * HOUR), (DAY, 6 * HOUR)],
    ids=lambda length: f"{length / DAY:g}d",
)
async def test_it_is_renewed_after_a_day_or_a_quarter_of_its_life(
    start: Start, clock: FakeClock, lifetime: timedelta, after: timedelta
) -> None:
    process = await start(lifetime)
    first = await process.list.current()
    clock.set(first.this_update + after - SECOND)
    await process.list.refresh()
    assert await process.list.current() is first

    clock.advance(SECOND)
    await process.list.refresh()

    second = await process.list.current()
    assert second.number > first.number
    assert second.this_update == clock.now() - 5 * MINUTE
    assert second.next_update - second.this_update == lifetime


async def test_to_revoke_what_has_ended_is_no_news(start: Start, clock: FakeClock) -> None:
    process = await start()
    serial = await process.issue(DAY)
    clock.advance(DAY)
    before = await process.list.current()

    await process.revoke(serial)
    await process.list.refresh()

    assert await process.list.current() is before


async def test_many_who_ask_at_once_wait_for_one_list(start: Start) -> None:
    process = await start()

    lists = await asyncio.gather(*(process.list.current() for _ in range(20)))

    assert {crl.number for crl in lists} == {lists[0].number}
    assert process.signers.signed == 2


async def test_many_who_revoke_at_once_are_all_in_the_list(start: Start) -> None:
    process = await start()
    serials = [await process.issue() for _ in range(20)]

    await asyncio.gather(*map(process.revoke, serials))

    assert named(await process.list.current()) == set(serials)


async def test_what_is_revoked_while_a_list_is_signed_is_in_the_next(start: Start) -> None:
    here, there = await start(), await start()
    serial = await here.issue()
    here.signers.gate.clear()
    signing = asyncio.create_task(here.list.refresh())
    await here.signers.begun.wait()
    await there.revoke(serial)
    here.signers.gate.set()
    await signing
    assert named(await here.list.current()) == set()

    await here.list.refresh()

    assert named(await here.list.current()) == {serial}


async def test_who_gives_up_while_it_is_signed_stops_nobody_else(start: Start) -> None:
    process = await start()
    serial = await process.issue()
    process.signers.gate.clear()
    revoking = asyncio.create_task(process.revoke(serial))
    await process.signers.begun.wait()
    revoking.cancel()
    process.signers.gate.set()

    await process.list.refresh()

    assert named(await process.list.current()) == {serial}


# It is never over


async def test_whoever_asks_gets_one_that_is_not_over(start: Start, clock: FakeClock) -> None:
    """Though nothing but their questions moves it: the job that renews it does not run here."""
    process = await start(DAY)
    for _ in range(200):
        crl = await process.list.current()
        assert crl.this_update < clock.now() < crl.next_update
        clock.advance(HOUR + 7 * MINUTE)


async def test_it_is_renewed_at_the_very_moment_it_ends(start: Start, clock: FakeClock) -> None:
    process = await start()
    first = await process.list.current()
    clock.set(first.next_update - SECOND)
    assert await process.list.current() is first

    clock.set(first.next_update)

    assert (await process.list.current()).this_update == clock.now() - 5 * MINUTE


async def test_after_a_stop_for_longer_than_its_life_it_is_fresh(data_dir: Path, clock: FakeClock) -> None:
    async with running(data_dir, clock) as process:
        serial = await process.issue()
        await process.revoke(serial)
        before = await process.list.current()
    clock.advance(timedelta(days=30))

    async with running(data_dir, clock) as process:
        assert process.list.trouble() == "there is no list of revoked certificates"
        after = await process.list.current()

        assert process.list.trouble() is None
    assert after.number > before.number
    assert named(after) == {serial}
    assert after.this_update < clock.now() < after.next_update


async def test_after_a_sleep_for_longer_than_its_life_it_is_fresh(start: Start, clock: FakeClock) -> None:
    """The machine was suspended, the process was not ended."""
    process = await start()
    await process.list.current()
    await process.list.root()
    clock.advance(timedelta(days=30))

    of_root = await process.list.root()

    assert of_root is not None
    assert of_root.next_update > clock.now()
    assert (await process.list.current()).next_update > clock.now()
    assert process.list.trouble() is None


# When it cannot be made


async def test_without_signatures_the_last_one_is_served_and_in_time_there_is_trouble(
    start: Start, clock: FakeClock
) -> None:
    process = await start()
    last = await process.list.current()
    process.signers.problem = CABadAnswer("canary")
    half = last.next_update - WEEK / 2
    trouble = "the list of revoked certificates was not renewed, and {}"
    for moment, told in (
        (half, None),
        (half + SECOND, trouble.format("ends in 83 h")),
        (last.next_update - SECOND, trouble.format("ends in 0 h")),
    ):
        clock.set(moment)
        await process.list.refresh_if_possible()
        assert process.list.trouble() == told
        assert await process.list.current() is last

    clock.advance(HOUR)
    with pytest.raises(CABadAnswer, match="canary"):
        await process.list.current()
    assert process.list.trouble() is not None

    process.signers.problem = None
    assert (await process.list.current()).number > last.number
    assert process.list.trouble() is None


async def test_what_was_revoked_meanwhile_is_in_the_first_that_can_be_made(start: Start) -> None:
    process = await start()
    last = await process.list.current()
    serial = await process.issue()
    process.signers.problem = CABadAnswer("canary")

    await process.revoke(serial)

    assert await process.list.current() is last
    assert (await process.certificate(serial)).revoked_at is not None
    process.signers.problem = None
    await process.list.refresh()
    assert named(await process.list.current()) == {serial}


async def test_what_cannot_be_made_at_the_start_is_made_when_it_can(start: Start) -> None:
    process = await start()
    process.signers.problem = CABadAnswer("canary")
    await process.list.refresh_if_possible()
    with pytest.raises(CABadAnswer):
        await process.list.root()
    assert process.list.trouble() == "there is no list of revoked certificates"

    process.signers.problem = None

    assert named(await process.list.current()) == set()


async def test_without_the_database_the_last_one_is_served_until_it_is_over(
    start: Start, clock: FakeClock
) -> None:
    process = await start()
    last = await process.list.current()
    await process.services.close()
    clock.advance(6 * DAY)
    await process.list.refresh_if_possible()

    assert await process.list.current() is last
    assert process.list.trouble() is not None
    clock.advance(DAY)
    with pytest.raises(StorageProblem):
        await process.list.current()


# A whole life, against a model


@dataclass(frozen=True, slots=True)
class Known:
    end: datetime
    is_taken_back: bool = False


@dataclass(slots=True)
class Seen:
    """A process, the list it had last, and how many were taken back when that was made."""

    process: Process
    crl: Crl | None = None
    news: int = -1


@dataclass(frozen=True, slots=True)
class Backup:
    path: Path
    known: dict[int, Known]


ANY = st.integers(0, 10**6)
WHICH = st.integers(0, 1)
VALIDITIES = st.sampled_from([HOUR, DAY, 2 * DAY, 30 * DAY, 90 * DAY])


class Life(RuleBasedStateMachine):
    """Two processes over one database. They are started again, fail and sleep; each step takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.data_dir = Path(self.folder.name) / "data"
        self.clock = FakeClock()
        self.known: dict[int, Known] = {}
        self.news = 0
        self.highest = 0
        self.seen: list[Seen] = []
        self.backup: Backup | None = None

    @initialize(days=st.sampled_from([1, 2, 7, 10]))
    def begin(self, days: int) -> None:
        self.lifetime = timedelta(days=days)
        self.seen = [Seen(self.start()), Seen(self.start())]
        self.check(*self.seen)

    @rule(which=WHICH, validity=VALIDITIES, reject=st.sampled_from([False] * 5 + [True]))
    def issue(self, which: int, validity: timedelta, reject: bool) -> None:
        end = self.now() - 5 * MINUTE + validity - SECOND
        serial = self.run(self.seen[which].process.issue(validity, reject=reject))
        self.known[serial] = Known(end, reject)
        self.news += reject

    @precondition(lambda self: self.known)
    @rule(which=WHICH, choice=ANY, reason=st.sampled_from(Reason))
    def revoke(self, which: int, choice: int, reason: Reason) -> None:
        self.now()
        self.take_back(self.seen[which], choice, reason)

    @precondition(lambda self: self.known)
    @rule(which=WHICH, choice=ANY, validity=VALIDITIES)
    def replace(self, which: int, choice: int, validity: timedelta) -> None:
        self.take_back(self.seen[which], choice, Reason.REPLACED)
        self.issue(which, validity, reject=False)

    @rule(which=WHICH)
    def look(self, which: int) -> None:
        self.now()
        self.check(self.seen[which])

    @rule(which=WHICH)
    def ask(self, which: int) -> None:
        """Without a look before: nothing is new unless the list was over."""
        now, seen = self.now(), self.seen[which]
        if seen.crl is None or seen.crl.next_update <= now:
            self.check(seen)
        else:
            assert self.run(seen.process.list.current()) is seen.crl

    @rule(which=WHICH)
    def fail(self, which: int) -> None:
        now, seen = self.now(), self.seen[which]
        seen.process.signers.problem = CABadAnswer("canary")
        self.run(seen.process.list.refresh_if_possible())
        if seen.crl is not None and seen.crl.next_update > now:
            assert self.run(seen.process.list.current()) is seen.crl
        else:
            assert seen.process.list.trouble() is not None
        seen.process.signers.problem = None

    @rule(length=st.sampled_from([20 * SECOND, HOUR, 5 * HOUR, DAY, 2 * DAY, 9 * DAY, 40 * DAY]))
    def wait(self, length: timedelta) -> None:
        self.clock.advance(length)

    @rule(which=WHICH, early=st.booleans())
    def wait_for_renewal(self, which: int, early: bool) -> None:
        """To the second when it is to be renewed, or the one before."""
        crl = self.seen[which].crl
        assert crl is not None
        moment = self.renewal(crl) - early * SECOND
        if moment > self.clock.now():
            self.clock.set(moment)
            self.check(self.seen[which])

    @rule(which=WHICH)
    def start_again(self, which: int) -> None:
        self.now()
        self.run(self.seen[which].process.services.close())
        self.seen[which] = Seen(self.start())
        self.check(self.seen[which])

    @rule()
    def back_up(self) -> None:
        path = Path(self.folder.name) / "copy"
        path.unlink(missing_ok=True)
        back_up(self.data_dir, path)
        self.backup = Backup(path, dict(self.known))

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore(self) -> None:
        assert self.backup is not None
        self.end()
        restore(self.data_dir, self.backup.path)
        self.known, self.backup = self.backup.known, None
        self.clock.advance(10 * MINUTE)
        self.seen = [Seen(self.start()), Seen(self.start())]
        self.check(*self.seen)

    def teardown(self) -> None:
        self.end()
        self.runner.close()
        self.folder.cleanup()

    def now(self) -> datetime:
        self.clock.advance(SECOND)
        return self.clock.now()

    def run(self, work: Awaitable[T]) -> T:
        return self.runner.get_loop().run_until_complete(work)

    def start(self) -> Process:
        return self.run(started(self.data_dir, self.clock, self.lifetime))

    def end(self) -> None:
        for seen in self.seen:
            self.run(seen.process.services.close())

    def take_back(self, seen: Seen, choice: int, reason: Reason) -> None:
        serial = sorted(self.known)[choice % len(self.known)]
        if self.known[serial].is_taken_back or self.known[serial].end <= self.clock.now():
            return  # nothing happens then, as other tests show
        self.known[serial] = replace(self.known[serial], is_taken_back=True)
        self.news += 1
        self.run(seen.process.revoke(serial, reason))
        self.check(seen, look=False)

    def check(self, *all_seen: Seen, look: bool = True) -> None:
        """What it has after a look is new exactly when there was something new, or it was time."""
        now = self.clock.now()
        for seen in all_seen:
            if look:
                self.run(seen.process.list.refresh())
            crl = self.run(seen.process.list.current())
            if seen.crl is not None and seen.news == self.news and now < self.renewal(seen.crl):
                assert crl is seen.crl
            else:
                assert crl.number > self.highest
                assert named(crl) == self.expected(now)
                seen.crl, seen.news, self.highest = crl, self.news, crl.number
            assert crl.this_update < now < crl.next_update
            assert seen.process.list.trouble() is None

    def renewal(self, crl: Crl) -> datetime:
        return crl.this_update + min(DAY, self.lifetime / 4)

    def expected(self, now: datetime) -> set[int]:
        return {
            serial
            for serial, certificate in self.known.items()
            if certificate.is_taken_back and certificate.end > now - DAY
        }


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=40,
    stateful_step_count=100,
    deadline=None,
    phases=(Phase.reuse, Phase.generate),  # to look for a shorter story takes longer than one test may
)


async def test_a_signer_that_dies_does_not_fail_the_revocation(data_dir: Path, clock: FakeClock) -> None:
    pool = SignerPool(1)
    services = await build_services(settings_for(data_dir), clock=clock, signers=pool)
    process = Process(services, Signers())
    serial = await process.issue()
    await process.list.current()
    certificate = await process.certificate(serial)
    for child in multiprocessing.active_children():
        child.kill()
    try:
        await services.revocation.revoke(certificate, Reason.LOST, THE_SERVICE)
    finally:
        await services.close()
        pool.close()

    assert process.list.trouble() is None


async def test_replaced_ones_that_ended_do_not_stand_in_the_way(start: Start, clock: FakeClock) -> None:
    process = await start()

    async def replace_one(validity: timedelta, overlap: timedelta) -> int:
        old = await process.issue(validity)
        await process.issue(replaces=Replacement((await process.certificate(old)).entry, overlap))
        return old

    for _ in range(100):
        await replace_one(7 * DAY, 14 * DAY)
    clock.advance(15 * DAY)
    await process.services.revocation.revoke_replaced()
    old = await replace_one(90 * DAY, DAY)
    clock.advance(2 * DAY)

    await process.services.revocation.revoke_replaced()

    assert (await process.certificate(old)).revoked_at is not None
