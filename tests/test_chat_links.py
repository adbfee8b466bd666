"""Whose a chat account is, as people say themselves: once, for ten minutes, and for one person."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from certbob.chat_links import LIFETIME, ChatLinks
from certbob.errors import LinkOver
from certbob.ports import LinkRequest
from certbob.store.chats import SqlChats
from certbob.store.sqlite import Database
from tests.support import pki
from tests.support.clock import FakeClock
from tests.support.core import DATABASE, Core, open_core, person

ADA = person(email="ada@example.org", groups=("vpn-users",))
BERT = person("Bert Becker")
ALICE = "a" * 26  # ids of chat accounts
ALINA = "b" * 26
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(pki.NOW)


@pytest.fixture
async def core(data_dir: Path, clock: FakeClock) -> AsyncIterator[Core]:
    async with open_core(data_dir, clock=clock) as opened:
        yield opened


@pytest.fixture
def links(core: Core) -> ChatLinks:
    return core.services.chat_links


def linked(core: Core) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = core.rows("SELECT user_id, subject FROM chat_links ORDER BY user_id")
    return rows


async def test_a_link_tells_for_whom_it_is_and_changes_nothing(
    core: Core, links: ChatLinks, clock: FakeClock
) -> None:
    token = await links.request(ALICE, "alice")
    before = core.dump()

    for _ in range(2):
        assert await links.find(token) == LinkRequest(ALICE, "alice", clock.now() + LIFETIME)
    assert core.dump() == before
    assert timedelta(minutes=10) == LIFETIME


async def test_the_token_is_not_in_the_database(core: Core, links: ChatLinks) -> None:
    token = await links.request(ALICE, "alice")

    assert len(token) >= 43
    assert ALICE in core.dump()
    assert token not in core.dump()


async def test_it_works_once(core: Core, links: ChatLinks) -> None:
    token = await links.request(ALICE, "alice")
    assert (await links.accept(token, ADA)).user_id == ALICE
    assert linked(core) == [(ALICE, ADA.subject)]

    for identity in (ADA, BERT):
        with pytest.raises(LinkOver):
            await links.accept(token, identity)
    with pytest.raises(LinkOver):
        await links.find(token)
    assert linked(core) == [(ALICE, ADA.subject)]


async def test_of_many_at_once_one_gets_it(core: Core, links: ChatLinks) -> None:
    token = await links.request(ALICE, "alice")
    people = [person(f"Person {number}") for number in range(20)]

    told = await asyncio.gather(*(links.accept(token, each) for each in people), return_exceptions=True)

    assert sum(isinstance(each, LinkRequest) for each in told) == 1
    assert sum(isinstance(each, LinkOver) for each in told) == 19
    [winner] = [each for each, answer in zip(people, told, strict=True) if isinstance(answer, LinkRequest)]
    assert linked(core) == [(ALICE, winner.subject)]


async def test_it_is_over_after_ten_minutes(core: Core, links: ChatLinks, clock: FakeClock) -> None:
    early, late = await links.request(ALICE, "alice"), await links.request(ALINA, "alina")
    clock.advance(LIFETIME - SECOND)
    await links.accept(early, ADA)

    clock.advance(SECOND)
    with pytest.raises(LinkOver):
        await links.find(late)
    with pytest.raises(LinkOver):
        await links.accept(late, ADA)
    assert linked(core) == [(ALICE, ADA.subject)]


@pytest.mark.parametrize("token", ["", "x", "é", "a" * 10_000, "' OR 1=1 --"])
async def test_what_nobody_asked_for_is_no_link(links: ChatLinks, token: str) -> None:
    await links.request(ALICE, "alice")

    with pytest.raises(LinkOver):
        await links.find(token)
    with pytest.raises(LinkOver):
        await links.accept(token, ADA)


async def test_somebody_may_have_several_accounts_and_sees_only_the_own_ones(links: ChatLinks) -> None:
    for user_id, name, identity in ((ALICE, "alice", ADA), (ALINA, "alina", ADA), ("c" * 26, "bert", BERT)):
        await links.accept(await links.request(user_id, name), identity)

    assert await links.of(ADA) == {ALICE: "alice", ALINA: "alina"}
    assert await links.of(BERT) == {"c" * 26: "bert"}


async def test_nobody_removes_what_is_somebody_elses(core: Core, links: ChatLinks) -> None:
    await links.accept(await links.request(ALICE, "alice"), ADA)

    for user_id in (ALICE, "", "x"):
        await links.remove(user_id, BERT)
    assert linked(core) == [(ALICE, ADA.subject)]

    await links.remove(ALICE, ADA)
    assert linked(core) == []


async def test_the_newest_owner_of_an_account_counts(core: Core, links: ChatLinks) -> None:
    """The account has changed hands, or was linked by mistake."""
    await links.accept(await links.request(ALICE, "alice"), BERT)
    await links.accept(await links.request(ALICE, "alice.l"), ADA)

    assert await links.of(BERT) == {}
    assert await links.of(ADA) == {ALICE: "alice.l"}


async def test_what_is_over_is_forgotten(core: Core, links: ChatLinks, clock: FakeClock) -> None:
    await links.request(ALICE, "alice")
    clock.advance(LIFETIME)
    await core.services.prune()
    assert len(core.rows("SELECT * FROM link_requests")) == 1

    clock.advance(SECOND)
    await core.services.prune()
    assert core.rows("SELECT * FROM link_requests") == []


async def test_an_operator_forgets_an_account_with_all_that_hangs_on_it(core: Core, links: ChatLinks) -> None:
    """Requests, too: whoever asked for one could link the account again."""
    await links.accept(await links.request(ALICE, "alice"), ADA)
    await links.accept(await links.request(ALINA, "alina"), ADA)
    waiting = await links.request(ALICE, "alice")
    database = await Database.open(core.data_dir / DATABASE)
    chats = SqlChats(database)
    await chats.bind(ALICE, "name", "alice")

    assert await chats.forget(ALICE)
    assert not await chats.forget(ALICE)

    await database.close()
    assert await links.of(ADA) == {ALINA: "alina"}
    with pytest.raises(LinkOver):
        await links.find(waiting)
    assert core.rows("SELECT * FROM chat_accounts") == []
