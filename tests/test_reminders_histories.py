"""Random histories of a ledger and its reminders, held against a model that is as plain as the promise."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from certbob.errors import Problem
from certbob.identity import Identity
from certbob.ports import Outcome, Reminder, Result, Way
from certbob.reminders import Reminders
from certbob.store.reminders import SqlReminders
from certbob.store.sqlite import Database
from tests.support.clock import FakeClock
from tests.support.core import DATABASE
from tests.support.ledger import add_certificate, add_people, change, holder
from tests.support.pki import NOW

ADA, BERT = holder("ada"), holder("bert")
PEOPLE = (ADA, BERT)
DAYS = (30, 14, 3, 2)
DAY, LEASE = timedelta(days=1), timedelta(minutes=10)


class Killed(BaseException):
    """The process is no more."""


class Fault(str):
    """What happens to one reminder; those after it are well again."""


SENT, REFUSED, AWAY = Fault("sent"), Fault("refused"), Fault("away")
UNKNOWN, KILLED_BEFORE, KILLED_AFTER = Fault("unknown"), Fault("killed before"), Fault("killed after")
KILLED = {KILLED_BEFORE, KILLED_AFTER}
RESULTS = {SENT: Result.SENT, REFUSED: Result.REFUSED, AWAY: Result.AWAY, UNKNOWN: Result.UNKNOWN}


class Scripted:
    """Implements `ports.Messenger`. `went`: what may have got to somebody."""

    way = Way.MAIL

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.went: list[tuple[int, int]] = []

    async def reaches(self, identity: Identity) -> bool:
        return True

    async def send(self, reminder: Reminder, begin: Callable[[], Awaitable[None]]) -> Outcome:
        fault = self.faults.pop(0) if self.faults else SENT
        if fault is KILLED_BEFORE:
            raise Killed
        if fault is not AWAY:
            await begin()
        if fault in (SENT, UNKNOWN, KILLED_AFTER):
            self.went.append((reminder.certificate.entry, reminder.step.days))
        if fault is KILLED_AFTER:
            raise Killed
        return Outcome(RESULTS[fault])


@dataclass(slots=True)
class Known:
    """A certificate as the model has it. `tried`: by step, what became of the last try, and when."""

    entry: int
    person: Identity
    device: str
    start: datetime
    end: datetime
    revoked: bool = False
    replaced: bool = False
    collected: bool = True
    tried: dict[int, tuple[Fault, datetime]] = field(default_factory=dict)


@dataclass(slots=True)
class Model:
    now: datetime = NOW
    held: list[Known] = field(default_factory=list)
    off: set[str] = field(default_factory=set)

    def step(self, one: Known) -> int | None:
        left = one.end - self.now
        fitting = [day for day in DAYS if left <= day * DAY]
        if left <= timedelta(0) or not fitting or 2 * min(fitting) * DAY > one.end - one.start:
            return None
        return min(fitting)

    def is_silent(self, one: Known) -> bool:
        return (
            one.revoked
            or one.replaced
            or not one.collected
            or one.person.subject in self.off
            or any(self.succeeds(other, one) for other in self.held)
        )

    def succeeds(self, new: Known, old: Known) -> bool:
        same = (new.person, new.device) == (old.person, old.device)
        return same and new.start >= old.start and new.end > old.end and not new.revoked and new.collected

    def rests(self, one: Known, step: int) -> bool:
        return one.tried.get(step, (None, None))[0] is SENT or any(
            self.now - at < (LEASE if fault is KILLED_BEFORE else DAY) for fault, at in one.tried.values()
        )

    def remind(self, faults: list[Fault]) -> list[tuple[int, int]]:
        """What may go to somebody now."""
        went, troubles = [], 0
        for one in sorted(self.held, key=lambda each: each.end):
            step = self.step(one)
            if step is None or self.is_silent(one) or self.rests(one, step):
                continue
            fault = faults.pop(0) if faults else SENT
            if fault is AWAY:
                one.tried.pop(step, None)
            else:
                one.tried[step] = fault, self.now
            if fault in (SENT, UNKNOWN, KILLED_AFTER):
                went.append((one.entry, step))
            troubles += fault in (AWAY, UNKNOWN)
            if fault in KILLED or troubles == 3:
                break
        return went


@dataclass(frozen=True, slots=True)
class Turn:
    """Something happens, time goes on, and everybody who is due is reminded."""

    event: tuple[str, Any]
    days: float
    faults: list[Fault]


lengths = st.sampled_from([4, 5, 6, 7, 10, 28, 40, 62])
events = st.one_of(
    st.tuples(st.just("issue"), st.tuples(st.integers(0, 1), st.sampled_from("ab"), lengths)),
    st.tuples(st.just("issue"), st.tuples(st.integers(0, 1), st.sampled_from("cdefgh"), lengths)),
    st.tuples(st.sampled_from(["revoke", "replace", "lose"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["off", "on", "on"]), st.integers(0, 1)),
    st.tuples(st.sampled_from(["restart", "prune", "nothing"]), st.none()),
)
turns = st.builds(
    Turn,
    events,
    st.sampled_from([0, 0.003, 0.004, 0.3, 0.6, 0.99, 1, 1, 2, 5, 12]),
    st.one_of(
        st.just([]),
        st.lists(st.sampled_from([SENT, REFUSED, AWAY, UNKNOWN, KILLED_BEFORE, KILLED_AFTER]), min_size=1),
    ),
)


class World:
    """The real thing, in the same history as its model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = Model()
        self.clock = FakeClock(NOW)
        self.messenger = Scripted()
        self.arrived: dict[int, list[datetime]] = {}

    async def open(self) -> None:
        self.database = await Database.open(self.path)
        self.store = SqlReminders(self.database)
        self.reminders = Reminders(
            self.store, [self.messenger], days=DAYS, exists=lambda door, account: True, clock=self.clock
        )

    async def go(self, turn: Turn) -> None:
        await self.happen(*turn.event)
        self.model.now += timedelta(seconds=int(turn.days * 86400))
        self.clock.set(self.model.now)
        await self.remind(turn.faults)

    async def happen(self, what: str, how: Any) -> None:
        model, held = self.model, self.model.held
        match what:
            case "issue":
                person, device, length = PEOPLE[how[0]], how[1], how[2] * DAY
                end = model.now + length + timedelta(seconds=len(held))  # no two end at once
                entry = add_certificate(self.path, person, device, end=end, validity=end - model.now)
                held.append(Known(entry, person, device, model.now, end))
            case "off" | "on":
                subject = PEOPLE[how].subject
                (model.off.add if what == "off" else model.off.discard)(subject)
                await self.reminders.set_wanted(PEOPLE[how], what == "on")
            case "restart":
                await self.database.close()
                await self.open()
            case "prune":
                await self.store.prune_reminders(model.now)
            case "nothing":
                pass
            case _ if how < len(held):
                self.change(what, held[how])

    def change(self, what: str, one: Known) -> None:
        column, value = {"revoke": ("revoked_at", 1), "replace": ("revoke_at", 1), "lose": ("delivered", 0)}[
            what
        ]
        change(self.path, f"UPDATE certificates SET {column} = ? WHERE id = ?", value, one.entry)
        one.revoked |= what == "revoke"
        one.replaced |= what == "replace"
        one.collected &= what != "lose"

    async def remind(self, faults: list[Fault]) -> None:
        expected = self.model.remind(list(faults))
        self.messenger.faults, self.messenger.went = list(faults), []
        try:
            with suppress(Problem):  # said once the server has been in trouble too often
                await self.reminders.remind()
        except Killed:
            await self.happen("restart", None)
        assert self.messenger.went == expected
        for entry, _ in expected:
            times = self.arrived.setdefault(entry, [])
            assert all(self.model.now - at >= DAY for at in times), "twice a day"
            times.append(self.model.now)


@settings(deadline=None, max_examples=60)
@given(st.lists(turns, min_size=20, max_size=80))
def test_people_get_exactly_what_they_were_promised(history: list[Turn]) -> None:
    async def live() -> None:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder) / DATABASE)
            await world.open()
            add_people(world.path, *PEOPLE)
            try:
                for turn in history:
                    await world.go(turn)
            finally:
                await world.database.close()

    asyncio.run(live())
