"""Who is reminded of what, when, and how often, whatever happens on the way."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certbob import jobs
from certbob.auth.local import hash_password
from certbob.config import SMTP, Local, LocalUser
from certbob.config import Reminders as Section
from certbob.devices import Device, Platform
from certbob.errors import MailProblem, MailRefused, MailUnavailable, MailUncertain, Problem, StorageProblem
from certbob.identity import Door
from certbob.ports import Replacement, Step, Way
from certbob.reminders import Reminders
from certbob.secret import Secret
from certbob.store.reminders import SqlReminders
from certbob.store.sqlite import Database
from certbob.words import day_and_month
from tests.support import pki
from tests.support.clock import FakeClock
from tests.support.core import DATABASE, Core, open_core
from tests.support.ledger import add_certificate, add_people, change, holder
from tests.support.mail_server import SENDER
from tests.support.post import FakeEnvelope, FakeMailer

ADA, BERT = holder("ada"), holder("bert", email="bert@example.org")
GONE = holder("gone", email="gone@example.org")
PASSWORD = Secret(hash_password("a password of the tests"))
LOCAL = Local(users=tuple(LocalUser(username=name, password_hash=PASSWORD) for name in ("ada", "bert")))
SMTP_SETTINGS = SMTP(host="mail.example.org", sender=SENDER)
BAD = "bad@example.org"
DAY, TURN = timedelta(days=1), timedelta(minutes=10)
START = pki.NOW


@dataclass(frozen=True, slots=True)
class World:
    core: Core
    mailer: FakeMailer
    clock: FakeClock

    @property
    def database(self) -> Path:
        return self.core.data_dir / DATABASE

    @property
    def reminders(self) -> Reminders:
        found = self.core.services.reminders
        assert found is not None
        return found

    def add(self, device: str = "Work laptop", *, days: float = 90, of: Any = ADA, **changes: Any) -> int:
        """A fresh certificate's entry; it ends in so many days."""
        length = timedelta(days=days)
        return add_certificate(
            self.database, of, device, end=self.clock.now() + length, validity=length, **changes
        )

    async def remind(self) -> list[str]:
        """The devices of the mails that went out now."""
        before = len(self.mailer.letters)
        await self.reminders.remind()
        return [device_in(str(letter["Subject"])) for _, letter in self.mailer.letters[before:]]

    async def remind_at(self, *, left: float, of: float = 90) -> list[str]:
        """... so many days before the end of what was made at the start for `of` days."""
        self.clock.set(START + timedelta(days=of - left))
        return await self.remind()

    def states(self) -> list[tuple[int, int, str]]:
        return self.core.rows("SELECT entry, step, state FROM reminders ORDER BY entry, step")


def device_in(subject: str) -> str:
    return subject.removeprefix("Your certificate for ").partition(" expires on ")[0]


@asynccontextmanager
async def open_world(
    data_dir: Path, clock: FakeClock | None = None, mailer: FakeMailer | None = None, **sections: Any
) -> AsyncIterator[World]:
    """A process; several may share a folder."""
    clock, mailer = clock or FakeClock(START), mailer or FakeMailer()
    known = {"local": LOCAL, "smtp": SMTP_SETTINGS, **sections}
    is_new = not (data_dir / DATABASE).exists()
    async with open_core(data_dir, clock=clock, mailer=mailer, **known) as core:
        if is_new:
            people = [core.services.people.subject_for(Door.LOCAL, name) for name in ("ada", "bert")]
            await asyncio.gather(*people)
            change(data_dir / DATABASE, "UPDATE subjects SET id = 'the subject of ' || account")
        yield World(core, mailer, clock)


@pytest.fixture
async def world(data_dir: Path) -> AsyncIterator[World]:
    async with open_world(data_dir) as opened:
        yield opened


# When


async def days_of_reminders(world: World, length: int) -> list[float]:
    """How many days before the end they come, looking four times a day and a little after."""
    found = []
    for quarter in range(4 * length + 1):
        left = length - quarter / 4
        world.clock.set(START + timedelta(days=quarter / 4, seconds=1))
        found += [left for _ in await world.remind()]
    return found


@pytest.mark.parametrize(
    ("length", "days"),
    [
        (90, [30, 14, 3]),
        (60, [30, 14, 3]),
        (59, [14, 3]),
        (28, [14, 3]),
        (7, [3]),
        (6, [3]),
        (5, []),
        (1, []),
    ],
)
async def test_once_for_each_day_but_not_before_half_of_the_time_is_over(
    world: World, length: int, days: list[float]
) -> None:
    world.add(days=length)

    assert await days_of_reminders(world, length) == days


async def test_the_days_are_those_of_the_configuration_in_any_order(data_dir: Path) -> None:
    async with open_world(data_dir, reminders=Section(days=(1, 45, 7))) as world:
        world.add()

        assert await days_of_reminders(world, 90) == [45, 7, 1]
        assert world.reminders.days_in_words == "45, 7 and 1 days"


@pytest.mark.parametrize("section", [Section(days=()), Section(by=()), Section(by=(Way.CHAT,))], ids=repr)
async def test_without_days_or_ways_there_are_none(data_dir: Path, section: Section) -> None:
    async with open_core(data_dir, smtp=SMTP_SETTINGS, mailer=FakeMailer(), reminders=section) as core:
        assert core.services.reminders is None


async def test_without_a_mail_server_there_are_none(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        assert core.services.reminders is None


async def test_it_is_time_to_the_second(world: World) -> None:
    world.add()

    assert await world.remind_at(left=30 + 1 / 86400) == []
    assert await world.remind_at(left=30) == ["Work laptop"]
    assert await world.remind_at(left=1 / 86400) == ["Work laptop"]
    assert await world.remind_at(left=0) == []


async def test_after_a_pause_only_the_one_that_is_due_comes(world: World) -> None:
    world.add()

    assert await world.remind_at(left=10) == ["Work laptop"]
    assert await world.remind_at(left=4) == []
    assert await world.remind_at(left=3) == ["Work laptop"]
    assert [step for _, step, _ in world.states()] == [3, 14]


async def test_what_ends_first_comes_first(world: World) -> None:
    for device, days in (("Third", 80), ("First", 61), ("Second", 65)):
        world.add(device, days=days)

    assert await world.remind_at(left=2, of=61) == ["First", "Second", "Third"]


async def test_no_two_within_a_day_even_if_one_is_late(data_dir: Path) -> None:
    async with open_world(data_dir, reminders=Section(days=(3, 2, 1))) as world:
        world.add()

        assert await world.remind_at(left=2.1) == ["Work laptop"]
        assert await world.remind_at(left=2) == []
        assert await world.remind_at(left=1.11) == []
        assert await world.remind_at(left=1.1) == ["Work laptop"]
        assert await world.remind_at(left=0.11) == []
        assert await world.remind_at(left=0.1) == ["Work laptop"]


async def test_the_job_looks_at_the_start(world: World) -> None:
    world.add()
    world.clock.set(START + 70 * DAY)
    running = asyncio.create_task(jobs.run(world.core.services))

    await asyncio.wait_for(world.mailer.asked.wait(), 5)

    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert len(world.mailer.letters) == 1


# Who


async def test_it_goes_to_the_person_of_the_certificate_and_names_the_device(world: World) -> None:
    world.add("Work laptop", of=ADA)
    world.add("Phone", of=BERT)

    await world.remind_at(left=30)

    end = day_and_month(START + 90 * DAY)
    assert sorted((to, letter["Subject"]) for to, letter in world.mailer.letters) == [
        ("ada@example.org", f"Your certificate for Work laptop expires on {end}"),
        ("bert@example.org", f"Your certificate for Phone expires on {end}"),
    ]


async def test_what_was_really_issued_is_reminded_of(world: World) -> None:
    identity = replace(ADA, name="Ada Lovelace")
    issued = await world.core.issue(await world.core.mint(identity))

    assert await world.remind_at(left=30) == ["Work laptop"]
    [(_, letter)] = world.mailer.letters
    body = letter.get_body(("plain",))
    assert body is not None
    assert f"/certificates/{issued.leaf.serial_number:x}/replace\n" in body.get_content()


SILENT: dict[str, dict[str, Any]] = {
    "revoked": {"revoked_at": 1},
    "replaced": {"replaced_by": 77, "revoke_at": 1},
    "replaced but kept a while": {"revoke_at": 2**33},
    "never collected": {"delivered": 0},
    "perhaps never made": {"state": "uncertain"},
    "thrown away": {"state": "rejected"},
    "without an address": {"email": None},
    "of an account that is gone": {"of": GONE},
    "made at the terminal": {"of": holder("at the terminal", door=Door.TERMINAL)},
    "of nobody we know": {"of": holder("stranger")},
}


@pytest.mark.parametrize("changes", SILENT.values(), ids=SILENT)
async def test_nobody_hears_of_one_that_is(world: World, changes: dict[str, Any]) -> None:
    add_people(world.database, GONE, holder("at the terminal", door=Door.TERMINAL))
    world.add("Silent", **changes)
    world.add("Told")

    assert await world.remind_at(left=30) == ["Told"]


async def test_one_whose_fate_nobody_knows_is_reminded_of(world: World) -> None:
    world.add(delivered=None)

    assert await world.remind_at(left=30) == ["Work laptop"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ["New"]),
        ({"device": "work LAPTOP"}, ["New"]),
        ({"device": "Phone"}, ["Old", "New"]),
        ({"profile": "vpn"}, ["Old", "New"]),
        ({"of": BERT}, ["Old", "New"]),
        ({"revoked_at": 1}, ["Old"]),
        ({"state": "intent"}, ["Old"]),
        ({"delivered": 0}, ["Old"]),
        ({"delivered": None}, ["Old", "New"]),
        ({"days": 85}, ["Old", "New"]),
    ],
    ids=str,
)
async def test_one_that_has_a_successor_is_silent(
    world: World, changes: dict[str, Any], told: list[str]
) -> None:
    old = world.add(days=90)
    world.clock.advance(timedelta(hours=1))
    new = world.add(**{"device": "Work laptop", "days": 91, **changes})
    world.clock.set(START + 80 * DAY)

    await world.remind()

    assert [{old: "Old", new: "New"}[entry] for entry, *_ in world.states()] == told


async def test_replacing_one_ends_its_reminders(world: World) -> None:
    identity = replace(ADA, name="Ada Lovelace")
    await world.core.issue(await world.core.mint(identity))
    assert await world.remind_at(left=30) == ["Work laptop"]

    token = await world.core.services.grants.mint(
        identity,
        "client",
        Device(Platform.LINUX, "New laptop", older=False),
        90 * DAY,
        replaces=Replacement(1, overlap=60 * DAY),
    )
    await world.core.issue(token)
    await world.core.services.ledger.delivered(2, True)

    assert await world.remind_at(left=14) == []
    assert await world.remind_at(left=3) == []
    assert await world.remind_at(left=-31) == ["New laptop"]


async def test_who_wants_none_gets_none_until_they_want_them_again(world: World) -> None:
    world.add("Adas", of=ADA)
    world.add("Berts", of=BERT)

    assert await world.reminders.wanted_by(ADA) is True
    for _ in range(2):
        await world.reminders.set_wanted(ADA, False)
    assert await world.reminders.wanted_by(ADA) is False
    assert await world.reminders.wanted_by(BERT) is True
    assert await world.remind_at(left=30) == ["Berts"]
    for _ in range(2):
        await world.reminders.set_wanted(ADA, True)
    assert await world.remind_at(left=29) == ["Adas"]


async def test_who_has_no_address_is_not_asked(world: World) -> None:
    assert await world.reminders.wanted_by(replace(ADA, email=None)) is None


# How often, whatever happens


def refused() -> MailProblem:
    return MailRefused("550 5.1.1 <ADA@example.org>: User unknown", "It says: no.")


async def test_a_server_that_is_away_is_soon_left_alone_and_asked_again_at_the_next_turn(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(9):
        world.add(f"Device {number}")
    asked = 0

    def away() -> MailProblem:
        nonlocal asked
        asked += 1
        return MailUnavailable("mail.example.org:25: it does not answer in time")

    world.mailer.refusal = away

    with pytest.raises(Problem, match="nobody can be reached by mail"):  # so that monitoring hears of it
        await world.remind_at(left=30)
    assert asked == 3
    assert world.states() == []
    assert "30 days, by mail: away: mail.example.org:25: it does not answer in time" in caplog.text
    world.mailer.refusal = None
    world.clock.advance(TURN)
    assert len(await world.remind()) == 9
    assert await world.remind() == []


class BreakingMailer(FakeMailer):
    """Breaks off at one recipient."""

    @asynccontextmanager
    async def envelope(self, recipient: str) -> AsyncIterator[FakeEnvelope]:
        if recipient == BAD:
            raise MailUnavailable("421 Service not available")
        async with super().envelope(recipient) as opened:
            yield opened


async def test_one_recipient_with_whom_the_server_breaks_off_stops_no_other(data_dir: Path) -> None:
    async with open_world(data_dir, mailer=BreakingMailer()) as world:
        world.add("Bad", days=89.9, email=BAD)
        world.add("Good")

        assert await world.remind_at(left=30) == ["Good"]
        assert world.states() == [(2, 30, "sent")]


@pytest.mark.parametrize("at_the_end", [True, False])
async def test_what_is_refused_stops_no_other_and_is_tried_again_after_a_day(
    world: World, at_the_end: bool
) -> None:
    for number in range(3):
        world.add(f"Device {number}")
    if at_the_end:
        world.mailer.problem = refused
    else:
        world.mailer.refusal = refused

    tried = await world.remind_at(left=30)
    assert len(tried) == (3 if at_the_end else 0)
    assert {state for _, _, state in world.states()} == {"refused"}

    world.mailer.problem = world.mailer.refusal = None
    world.clock.advance(DAY - timedelta(seconds=1))
    assert await world.remind() == []
    world.clock.advance(timedelta(seconds=1))
    assert len(await world.remind()) == 3


async def test_what_may_have_arrived_is_sent_again_after_a_day_and_can_be_told(world: World) -> None:
    world.add("First")
    world.add("Second", days=90.005)
    world.mailer.problem = lambda: MailUncertain("it does not answer in time")

    assert await world.remind_at(left=30) == ["First"]
    world.mailer.problem = None
    world.clock.advance(TURN)
    assert await world.remind() == ["Second"]
    world.clock.advance(DAY - TURN - timedelta(seconds=1))
    assert await world.remind() == []
    world.clock.advance(timedelta(seconds=1))
    assert await world.remind() == ["First"]

    first, second, again = (letter["Message-ID"] for _, letter in world.mailer.letters)
    assert first == again != second
    assert await world.remind_at(left=14.5) == []


async def test_a_step_that_is_over_is_not_sent_again(data_dir: Path) -> None:
    async with open_world(data_dir, reminders=Section(days=(2, 1))) as world:
        world.add()
        world.mailer.problem = lambda: MailUncertain("it does not answer in time")
        assert await world.remind_at(left=1.5) == ["Work laptop"]
        world.mailer.problem = None

        assert await world.remind_at(left=0.6) == []
        assert await world.remind_at(left=0.5) == ["Work laptop"]
        assert world.states() == [(1, 1, "sent"), (1, 2, "sending")]


async def test_a_mistake_of_ours_with_one_stops_no_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.add("Bad", email="ada\n@example.org", days=89.99)
    world.add("Good")

    assert await world.remind_at(left=30) == ["Good"]
    assert "reminder of 1, 30 days, by mail failed" in caplog.text
    assert await world.remind() == []


async def test_the_log_names_entries_and_no_addresses(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.add()
    await world.remind_at(left=30)
    world.mailer.refusal = refused
    await world.remind_at(left=14)

    assert "reminder of 1, 30 days, by mail: sent" in caplog.messages
    assert "reminder of 1, 14 days, by mail: refused: 550 5.1.1 <…>: User unknown" in caplog.messages
    assert "@example" not in caplog.text


async def test_a_run_that_is_cut_off_ends_what_it_began(world: World) -> None:
    for number in range(3):
        world.add(f"Device {number}")
    world.mailer.may_answer.clear()
    world.clock.set(START + 60 * DAY)
    running = asyncio.create_task(world.reminders.remind())
    await world.mailer.asked.wait()

    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    draining = asyncio.create_task(world.reminders.drain(5))
    world.mailer.may_answer.set()
    await draining

    assert world.states() == [(1, 30, "sent")]


async def test_without_a_record_nothing_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add()

    async def full(*arguments: object, **options: object) -> bool:
        raise StorageProblem("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(SqlReminders, "begin_reminder", full)
        with pytest.raises(StorageProblem):
            await world.remind_at(left=30)
    assert world.mailer.letters == []
    assert world.states() == [(1, 30, "claimed")]
    world.clock.advance(TURN)
    assert await world.remind() == ["Work laptop"]


class SlowMailer(FakeMailer):
    """Accepts recipients only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.connected = asyncio.Event()
        self.may_accept = asyncio.Event()

    @asynccontextmanager
    async def envelope(self, recipient: str) -> AsyncIterator[FakeEnvelope]:
        self.connected.set()
        await self.may_accept.wait()
        async with super().envelope(recipient) as opened:
            yield opened


async def test_one_that_was_taken_for_dead_sends_nothing_when_it_wakes_up(data_dir: Path) -> None:
    slow = SlowMailer()
    async with open_world(data_dir, mailer=slow) as sleeper, open_world(data_dir) as other:
        sleeper.add()
        for each in (sleeper, other):
            each.clock.set(START + 60 * DAY)
        running = asyncio.create_task(sleeper.remind())
        await slow.connected.wait()

        other.clock.advance(TURN - timedelta(seconds=1))
        assert await other.remind() == []
        other.clock.advance(timedelta(seconds=1))
        assert await other.remind() == ["Work laptop"]
        slow.may_accept.set()

        assert await running == []
        assert other.states() == [(1, 30, "sent")]


async def test_many_processes_at_once_send_each_once(data_dir: Path) -> None:
    mailer, clock = FakeMailer(), FakeClock(START)
    async with (
        open_world(data_dir, clock, mailer) as one,
        open_world(data_dir, clock, mailer) as two,
        open_world(data_dir, clock, mailer) as three,
    ):
        for number in range(40):
            one.add(f"Device {number}")
        clock.set(START + 60 * DAY)

        await asyncio.gather(*(each.reminders.remind() for each in (one, two, three)))

        devices = [device_in(str(letter["Subject"])) for _, letter in mailer.letters]
        assert sorted(devices) == sorted(f"Device {number}" for number in range(40))


async def test_a_restart_reminds_nobody_twice(data_dir: Path) -> None:
    async with open_world(data_dir) as world:
        world.add()
        assert await world.remind_at(left=30) == ["Work laptop"]
    async with open_world(data_dir) as world:
        assert await world.remind_at(left=29) == []
        assert await world.remind_at(left=14) == ["Work laptop"]


async def test_what_was_sent_is_forgotten_after_the_end(world: World) -> None:
    world.add()
    await world.remind_at(left=3)

    world.clock.set(START + 90 * DAY)
    await world.core.services.prune()
    assert len(world.states()) == 1
    world.clock.advance(timedelta(seconds=1))
    await world.core.services.prune()
    assert world.states() == []


@pytest.mark.parametrize("way", Way)
async def test_what_is_due_is_found_by_an_index(tmp_path: Path, way: Way) -> None:
    asked: list[tuple[str, tuple[Any, ...]]] = []

    class Watched(Database):
        async def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
            asked.append((sql, parameters))
            return await super().rows(sql, *parameters)

    database = await Watched.open(tmp_path / DATABASE)
    await SqlReminders(database).due_reminders(way, Step(30, 14), left=20, now=START)
    [(sql, parameters)] = asked
    plan = [row[3] for row in await database.rows(f"EXPLAIN QUERY PLAN {sql}", *parameters)]
    await database.close()

    assert "SEARCH c USING INDEX certificates_by_end (not_after>? AND not_after<?)" in plan
    assert [line for line in plan if line.startswith("SCAN")] == []
