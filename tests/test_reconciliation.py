"""After a crash or an uncertain answer every signing is closed, or shown with what to do."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from certbob.bootstrap import build_services
from certbob.config import DEFAULT_PROFILE
from certbob.errors import CAUncertain, GrantUsed, TooManyActive
from certbob.ports import Actor, Chain, Delivery, SigningRequest
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
GRACE = Actor("local", "grace")
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
        assert question.note == "the process ended meanwhile"
        assert core.ledger() == ["uncertain"]

        assert not await reconciliation.settle(question.number + 1, GRACE)
        assert await reconciliation.settle(question.number, GRACE)
        assert not await reconciliation.settle(question.number, GRACE)
        assert core.ledger() == ["settled"]
        assert await reconciliation.open_questions() == []
        rows = core.rows("SELECT action, account FROM audit ORDER BY number")
        assert rows == [("uncertain", "-"), ("settled", "grace")]


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
        (newest, *_) = await core.services.reconciliation.open_questions()
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
