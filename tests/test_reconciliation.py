"""After a crash or an uncertain answer every signing is closed, or shown with what to do."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certbob.bootstrap import build_services
from certbob.config import DEFAULT_PROFILE
from certbob.errors import CABadAnswer, CAUncertain, GrantUsed, TooManyActive
from certbob.ledger import Ledger
from certbob.ports import Actor, Chain, Delivery, Entry, SigningRequest
from certbob.reconciliation import GIVE_UP_AFTER, Reconciliation
from certbob.services import Services
from tests.support import pki
from tests.support.clock import FakeClock
from tests.support.core import (
    Core,
    InlineSigners,
    RevokingCA,
    open_core,
    person,
    raising,
    settings_for,
)

ADA = person("Ada Lovelace")
GRACE = Actor("local", "grace", "grace")
SECOND = timedelta(seconds=1)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def die(core: Core, token: str | None = None) -> None:
    """A process asked the authority, and was never seen again."""
    asked = asyncio.Event()

    async def answer(request: SigningRequest) -> Chain:
        asked.set()
        return await core.ca.held(asyncio.Event())(request)

    core.ca.answers = [answer]
    task = asyncio.create_task(core.issue(token or await core.mint(ADA)))
    await asked.wait()
    for running in list(core.services.issuance._tasks._running):
        running.cancel()
    await asyncio.wait([task])
    assert core.ledger()[-1] == "intent"


def ours(core: Core) -> Reconciliation:
    return Reconciliation(core.services.ledger, clock=core.clock, is_ours=True)


async def test_with_our_own_authority_it_is_closed_by_itself(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        await die(core)
        core.clock.advance(GIVE_UP_AFTER - SECOND)
        await ours(core).reconcile()
        assert core.ledger() == ["intent"]  # it could still be running

        core.clock.advance(SECOND)
        await ours(core).reconcile()

        assert core.ledger() == ["failed"]
        assert await ours(core).open_questions() == []
        rows = core.rows("SELECT action, door, name FROM audit")
        assert rows == [("failed", "service", "Ada Lovelace")]


async def test_an_uncertain_one_of_our_own_is_closed_too(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        core.ca.answers = [raising(CAUncertain("disk full"))]
        with pytest.raises(CAUncertain):
            await core.issue(await core.mint(ADA))
        core.clock.advance(GIVE_UP_AFTER + SECOND)
        await ours(core).reconcile()

        assert core.ledger("state, note") == [("failed", "it did not end; nobody has the key")]


async def test_with_another_authority_an_administrator_is_told(data_dir: Path) -> None:
    clock = FakeClock(pki.NOW)
    async with open_core(data_dir, clock=clock, ca=RevokingCA(clock)) as core:
        reconciliation = core.services.reconciliation
        await die(core)
        clock.advance(GIVE_UP_AFTER + SECOND)
        for _ in range(2):
            await reconciliation.reconcile()

        (question,) = await reconciliation.open_questions()
        assert (question.name, question.device) == ("Ada Lovelace", "Work laptop")
        assert question.note == "nobody has said what became of it"
        assert core.ledger() == ["uncertain"]

        assert not await reconciliation.settle(question.number + 1, GRACE)
        assert await reconciliation.settle(question.number, GRACE)
        assert not await reconciliation.settle(question.number, GRACE)
        assert core.ledger() == ["settled"]
        assert await reconciliation.open_questions() == []
        rows = core.rows("SELECT action, account FROM audit ORDER BY number")
        assert rows == [("uncertain", "-"), ("settled", "grace")]


@pytest.mark.parametrize("is_ours", [True, False])
async def test_what_ends_meanwhile_stays_as_it_ended(data_dir: Path, is_ours: bool) -> None:
    """Between the look and the closing: the person has the file, so the ledger must keep it."""
    async with open_core(data_dir) as core:
        ledger = QuickerLedger(core.services.ledger)
        gate = asyncio.Event()
        core.ca.answers = [core.ca.held(gate)]
        task = asyncio.create_task(core.issue(await core.mint(ADA)))
        while core.ledger() != ["intent"]:
            await asyncio.sleep(0)
        core.clock.advance(GIVE_UP_AFTER)

        async def end() -> None:
            core.clock.advance(-GIVE_UP_AFTER)
            gate.set()
            await task

        ledger.meanwhile = end
        await Reconciliation(ledger, clock=core.clock, is_ours=is_ours).reconcile()  # type: ignore[arg-type]

        leaf = task.result().leaf
        assert core.ledger() == ["issued"]
        assert await core.services.ledger.find_any(leaf.serial_number) is not None
        assert core.rows("SELECT action FROM audit") == [("issued",)]


class QuickerLedger:
    """While a list of it is read, something ends."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def open_entries(self, *states: str, **options: timedelta) -> list[Entry]:
        found = await self._ledger.open_entries(*states, **options)
        if self.meanwhile is not None and found:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


async def test_what_is_signed_after_it_was_given_up_is_given_to_nobody(data_dir: Path) -> None:
    clock = FakeClock(pki.NOW)
    ca = RevokingCA(clock)
    async with open_core(data_dir, clock=clock, ca=ca) as core:
        gate = asyncio.Event()
        ca.answers = [ca.held(gate)]
        task = asyncio.create_task(core.issue(await core.mint(ADA)))
        while core.ledger() != ["intent"]:
            await asyncio.sleep(0)
        clock.advance(GIVE_UP_AFTER)
        await ours(core).reconcile()
        assert core.ledger() == ["failed"]
        clock.advance(-GIVE_UP_AFTER)
        gate.set()

        with pytest.raises(CABadAnswer):
            await task

        (leaf,) = ca.signed
        assert core.ledger("state, serial") == [("rejected", f"{leaf.serial_number:x}")]
        assert ca.revoked == [leaf.serial_number]


async def test_of_several_that_settle_one_does(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        core.ca.answers = [raising(CAUncertain("no answer"))]
        with pytest.raises(CAUncertain):
            await core.issue(await core.mint(ADA))
        settled = await asyncio.gather(*(core.services.reconciliation.settle(1, GRACE) for _ in range(5)))

        assert sorted(settled) == [False] * 4 + [True]
        assert core.rows("SELECT action FROM audit ORDER BY number") == [("uncertain",), ("settled",)]


async def test_more_than_a_page_of_questions_hides_none(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        reconciliation = core.services.reconciliation
        for _ in range(130):
            core.ca.answers = [raising(CAUncertain("no answer"))]
            with pytest.raises(CAUncertain):
                await core.issue(await core.mint(person()))
        assert await reconciliation.count() == 130
        assert [entry.number for entry in await reconciliation.open_questions()] == list(range(1, 101))
        assert await reconciliation.settle(130, GRACE)

        core.clock.advance(DEFAULT_PROFILE.validity)
        for _ in range(2):
            await reconciliation.reconcile()
        assert await reconciliation.count() == 0


async def test_what_is_open_counts_until_it_is_settled_or_would_have_ended(data_dir: Path) -> None:
    only_one = replace(DEFAULT_PROFILE, max_active=1)
    clock = FakeClock(pki.NOW)
    async with open_core(data_dir, clock=clock, ca=RevokingCA(clock), profiles=(only_one,)) as core:
        for _ in range(2):
            core.ca.answers = [raising(CAUncertain("no answer"))]
            with pytest.raises(CAUncertain):
                await core.issue(await core.mint(ADA))
            with pytest.raises(TooManyActive):
                await core.issue(await core.mint(ADA))
            clock.advance(DEFAULT_PROFILE.validity)
        core.ca.answers = [raising(CAUncertain("no answer"))]
        with pytest.raises(CAUncertain):
            await core.issue(await core.mint(ADA))
        *_, newest = await core.services.reconciliation.open_questions()
        await core.services.reconciliation.settle(newest.number, GRACE)
        await core.issue(await core.mint(ADA))

        await core.services.reconciliation.reconcile()  # the others would have ended
        assert core.ledger() == ["settled"] * 3 + ["issued"]


async def test_a_link_that_is_still_good_after_the_crash_works_again(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        token = await core.mint(ADA, delivery=Delivery.LINK)  # the only kind that lives longer
        await die(core, token)
        core.clock.advance(GIVE_UP_AFTER + SECOND)
        with pytest.raises(GrantUsed):
            await core.issue(token)
        await ours(core).reconcile()

        await core.issue(token)
        assert core.ledger() == ["failed", "issued"]


async def test_production_knows_whose_the_authority_is(data_dir: Path) -> None:
    services: Services = await build_services(settings_for(data_dir), signers=InlineSigners())
    try:
        assert services.reconciliation._is_ours
    finally:
        await services.close()
    async with open_core(data_dir) as core:
        assert not core.services.reconciliation._is_ours
