"""A new certificate in the place of an old one, which is revoked once the new one was taken."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certbob.config import DEFAULT_PROFILE
from certbob.errors import CAUnavailable, StorageProblem
from certbob.ports import THE_SERVICE
from certbob.revocation import Reason
from certbob.store.ledger import SqlLedger
from tests.support.web import ADA, BERT, Answer, Client, FakeCA, Site, StillClock, open_site

LIMITED = replace(DEFAULT_PROFILE, max_active=2, renewal_window=timedelta(days=30))


async def ask(client: Client, device: str = "Work laptop", **fields: str) -> Answer:
    form = (await client.get("/new")).page.form("/new")
    return await client.submit(form, device=device, platform="linux", **fields)


async def take(client: Client, answer: Answer) -> None:
    """The file behind the link, and the page's own cookie, so that it counts as taken."""
    assert answer.status == 303, answer.text
    page = (await client.follow(answer.headers["Location"])).page
    assert (await client.submit(page.form("/issue"))).status == 200


async def have(client: Client, device: str = "Work laptop", **fields: str) -> None:
    await take(client, await ask(client, device, **fields))


async def statuses(client: Client) -> list[str]:
    page = (await client.get("/certificates")).page
    return [" ".join("".join(each.itertext()).split()) for each in page.all("article/dl/dd[1]")]


async def run_jobs(site: Site) -> None:
    await site.services.revocation.revoke_replaced()


@pytest.fixture
async def limited(data_dir: Path, clock: StillClock) -> AsyncIterator[Site]:
    async with open_site(data_dir, clock, profiles=(LIMITED,)) as opened:
        yield opened


async def test_a_second_one_for_the_same_device_is_asked_about(site: Site) -> None:
    ada = await site.signed_in()
    await have(ada)

    for device in ("Work laptop", " work  LAPTOP"):
        answer = await ask(ada, device)

        assert answer.status == 200
        assert "You already have one for ‘Work laptop’" in answer.page.text("main")
        fields = answer.page.form("/new").fields
        assert fields["old"] == "revoke"
        assert fields["device"] == device.strip() or fields["device"] == device
    assert len(site.ledger()) == 1


async def test_nobody_is_asked_about_other_devices_people_and_profiles(site: Site) -> None:
    ada, bert = await site.signed_in(ADA), await site.signed_in(BERT)
    await have(ada)

    await have(ada, "Phone")
    await have(ada, profile="vpn", validity="30d")
    await have(bert)


@pytest.mark.parametrize(("old", "days"), [("revoke", 0), ("later", 7)])
async def test_the_old_one_is_revoked_once_the_new_one_was_taken(
    site: Site, clock: StillClock, old: str, days: int
) -> None:
    ada = await site.signed_in()
    await have(ada)
    question = (await ask(ada)).page.form("/new")

    answer = await ada.submit(question, old=old)
    await run_jobs(site)
    assert await statuses(ada) == ["Active"]  # there is only a link as yet

    await take(ada, answer)
    clock.advance(days=days, seconds=-1)
    if days:
        ada = await site.signed_in()
        await run_jobs(site)
        assert await statuses(ada) == ["Active", "Replaced, works until 1 December 2026"]
    clock.advance(seconds=1)
    await run_jobs(site)

    assert await statuses(ada) == ["Active", "Replaced"]
    assert site.ledger("revoked_at IS NOT NULL, revocation_reason") == [(1, 4), (0, None)]


async def test_both_can_be_kept(site: Site, clock: StillClock) -> None:
    ada = await site.signed_in()
    await have(ada)

    await take(ada, await ada.submit((await ask(ada)).page.form("/new"), old="keep"))
    clock.advance(minutes=1)
    await run_jobs(site)

    assert await statuses(ada) == ["Active", "Active"]


async def test_a_new_one_that_never_got_to_its_person_revokes_nothing(site: Site, clock: StillClock) -> None:
    ada = await site.signed_in()
    await have(ada)
    await take(ada, await ada.submit((await ask(ada)).page.form("/new"), old="revoke"))
    await site.services.ledger.delivered(2, False)

    clock.advance(minutes=1)
    await run_jobs(site)

    assert await statuses(ada) == ["Not collected", "Active"]
    assert site.ledger("revoked_at") == [None, None]


async def test_an_authority_that_is_away_leaves_the_old_one_for_the_next_time(
    data_dir: Path, clock: StillClock
) -> None:
    class Revoking(FakeCA):
        async def revoke(self, serial: int, reason_code: int) -> None:
            if self.problem is not None:
                raise self.problem

    ca = Revoking(data_dir, clock)
    async with open_site(data_dir, clock, ca=ca) as site:
        ada = await site.signed_in()
        await have(ada)
        await take(ada, await ada.submit((await ask(ada)).page.form("/new"), old="revoke"))
        ca.problem = CAUnavailable("away")

        await run_jobs(site)
        assert site.ledger("revoked_at IS NULL") == [1, 1]

        ca.problem = None
        clock.advance(minutes=59)
        await run_jobs(site)
        assert site.ledger("revoked_at IS NULL") == [1, 1]
        clock.advance(minutes=1)
        await run_jobs(site)
        assert site.ledger("revoked_at IS NULL") == [0, 1]


async def test_replace_leads_to_the_form_filled_in_as_the_old_one_is(site: Site) -> None:
    ada = await site.signed_in()
    await have(ada, "Phone")
    (link,) = [
        link.get("href", "")
        for link in (await ada.get("/certificates")).page.all("a")
        if "replace" in link.get("href", "")
    ]

    page = (await ada.get((await ada.get(link)).headers["Location"])).page

    assert page.form("/new").fields["device"] == "Phone"
    assert page.form("/new").fields["platform"] == "linux"
    await take(ada, await ada.submit(page.form("/new"), device="New phone"))
    await run_jobs(site)
    assert await statuses(ada) == ["Active", "Replaced"]


@pytest.mark.parametrize("serial", ["1", "xyz", ""])
async def test_somebody_elses_or_no_certificate_cannot_be_replaced(site: Site, serial: str) -> None:
    ada, bert = await site.signed_in(ADA), await site.signed_in(BERT)
    await have(ada)
    hers = site.ledger("serial")[0]

    assert (await bert.get(f"/certificates/{hers}/replace")).status == 404
    assert (await bert.get(f"/certificates/{serial}/replace")).status == 404
    await have(bert, replaces=hers, old="revoke")
    await run_jobs(site)

    assert site.ledger("revoke_at") == [None, None]


async def test_one_person_can_have_so_many_of_a_profile(limited: Site) -> None:
    ada, bert = await limited.signed_in(ADA), await limited.signed_in(BERT)
    await have(ada, "Laptop")
    await have(ada, "Phone")

    answer = await ask(ada, "Tablet")

    assert answer.status == 409
    assert "One person can have 2 of" in answer.page.text("main")
    assert [link.get("href") for link in answer.page.all("main//a")][:1] == ["/certificates"]
    await have(bert, "Tablet")


async def test_what_ends_soon_was_revoked_or_never_taken_does_not_count(
    limited: Site, clock: StillClock
) -> None:
    async def can_have_another() -> bool:
        ada = await limited.signed_in()
        return (await ask(ada, "Tablet")).status == 303

    ada = await limited.signed_in()
    await have(ada, "Laptop")
    await have(ada, "Phone")
    assert not await can_have_another()

    await limited.services.ledger.delivered(1, False)
    assert await can_have_another()
    await limited.services.ledger.delivered(1, True)
    assert not await can_have_another()

    clock.advance(days=60, seconds=-600)
    assert not await can_have_another()
    clock.advance(seconds=600)
    assert await can_have_another()


async def test_a_full_quota_lets_one_be_replaced(limited: Site) -> None:
    ada = await limited.signed_in()
    await have(ada, "Laptop")
    await have(ada, "Phone")

    await take(ada, await ada.submit((await ask(ada, "Laptop")).page.form("/new"), old="later"))

    assert (await ask(ada, "Tablet")).status == 409


async def test_links_that_were_made_before_the_quota_was_full_are_refused(limited: Site) -> None:
    """Over all processes: the database itself counts when the intent is written."""
    ada = await limited.signed_in()
    links = [(await ask(ada, device)).headers["Location"] for device in ("Laptop", "Phone", "Tablet")]

    answers = [await limited.program().get(link) for link in links]

    assert [answer.status for answer in answers] == [200, 200, 409]
    assert limited.ledger() == ["issued", "issued"]


@pytest.mark.parametrize("old", ["", "nonsense", "REVOKE"])
async def test_another_answer_is_no_answer(site: Site, old: str) -> None:
    ada = await site.signed_in()
    await have(ada)
    fields: dict[str, Any] = (await ask(ada)).page.form("/new").fields

    assert (await ada.post("/new", fields | {"old": old})).status == 200


async def test_of_two_clicks_the_one_that_goes_away_takes_nothing_from_the_other(
    data_dir: Path, clock: StillClock
) -> None:
    """Otherwise a file that somebody has would not count, and would replace nothing."""
    ca = FakeCA(data_dir, clock)
    async with open_site(data_dir, clock, ca=ca, profiles=(LIMITED,)) as site:
        ada = await site.signed_in()
        page = (await ada.follow((await ask(ada)).headers["Location"])).page
        token, holder = page.form("/issue").fields["token"], ada.cookies["certbob-take"]
        ca.may_answer.clear()
        first = asyncio.create_task(site.services.issuance.issue(token, holder=holder))
        await ca.asked.wait()
        second = asyncio.create_task(site.services.issuance.issue(token, holder=holder))
        await asyncio.sleep(0)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        ca.may_answer.set()

        assert (await second).content
        await site.services.issuance.drain(5)

        assert site.ledger("state, delivered") == [("issued", 1)]


async def test_a_replacement_that_cannot_be_noted_costs_nobody_the_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await site.signed_in()
    await have(ada)
    answer = await ada.submit((await ask(ada)).page.form("/new"), old="revoke")

    async def full(*_: object, **__: object) -> None:
        raise StorageProblem("full")

    monkeypatch.setattr(SqlLedger, "set_replaced", full)
    await take(ada, answer)
    await run_jobs(site)

    assert await statuses(ada) == ["Active", "Active"]


async def test_nothing_is_revoked_before_somebody_says_that_the_new_one_was_taken(site: Site) -> None:
    """As after a kill between signing and the answer."""
    ada = await site.signed_in()
    await have(ada)
    answer = await ada.submit((await ask(ada)).page.form("/new"), old="revoke")
    await take(ada, answer)
    with closing(sqlite3.connect(site.settings.server.data_dir / "certbob.sqlite3")) as database, database:
        database.execute("UPDATE certificates SET delivered = NULL WHERE id = 2")

    await run_jobs(site)
    assert site.ledger("revoked_at") == [None, None]

    await site.services.ledger.delivered(2, True)
    await run_jobs(site)
    assert site.ledger("revoked_at IS NULL") == [0, 1]


async def test_short_ones_count_until_their_last_third(limited: Site, clock: StillClock) -> None:
    ada = await limited.signed_in()
    for device in ("Laptop", "Phone"):
        await have(ada, device, validity="30d")
    assert (await ask(ada, "Tablet")).status == 409

    clock.advance(days=20)
    ada = await limited.signed_in()

    assert (await ask(ada, "Tablet")).status == 303


async def test_there_is_never_more_than_one_that_waits_to_be_revoked(
    limited: Site, clock: StillClock
) -> None:
    ada = await limited.signed_in()
    await have(ada)
    for _ in range(3):
        clock.advance(seconds=1)
        await take(ada, await ada.submit((await ask(ada)).page.form("/new"), old="later"))
        await run_jobs(limited)

    shown = await statuses(ada)
    assert sorted(shown) == ["Active", "Replaced", "Replaced", "Replaced, works until 1 December 2026"]


async def test_apostrophes_of_phones_are_the_same_device(site: Site) -> None:
    ada = await site.signed_in()
    await have(ada, "Ada's phone")

    assert "You already have one" in (await ask(ada, "Ada’s phone")).page.text("main")


async def test_what_was_lost_meanwhile_is_not_called_replaced(site: Site) -> None:
    ada = await site.signed_in()
    await have(ada)
    await take(ada, await ada.submit((await ask(ada)).page.form("/new"), old="later"))
    link = f"/certificates/{site.ledger('serial')[0]}/revoke"

    await ada.submit((await ada.get(link)).page.form(link), reason="lost")

    assert sorted(await statuses(ada)) == ["Active", "Revoked"]


async def test_a_successor_that_was_revoked_leaves_the_old_one_alone(site: Site, clock: StillClock) -> None:
    ada = await site.signed_in()
    await have(ada)
    await take(ada, await ada.submit((await ask(ada)).page.form("/new"), old="later"))
    link = f"/certificates/{site.ledger('serial')[1]}/revoke"
    await ada.submit((await ada.get(link)).page.form(link), reason="lost")
    assert sorted(await statuses(ada)) == ["Active", "Revoked"]
    assert site.ledger("revoke_at")[0] is None  # so that there are reminders again
    clock.advance(days=8)

    await run_jobs(site)

    assert site.ledger("revoked_at IS NULL") == [1, 0]


async def test_a_revocation_goes_on_when_its_browser_goes_away(data_dir: Path, clock: StillClock) -> None:
    class Slow(FakeCA):
        async def revoke(self, serial: int, reason_code: int) -> None:
            self.asked.set()
            await self.may_answer.wait()

    ca = Slow(data_dir, clock)
    async with open_site(data_dir, clock, ca=ca) as site:
        ada = await site.signed_in()
        await have(ada)
        subject = site.ledger("subject")[0]
        [certificate] = await site.services.ledger.active_of(subject)
        ca.may_answer.clear()
        ca.asked.clear()
        revoking = asyncio.create_task(site.services.revocation.revoke(certificate, Reason.LOST, THE_SERVICE))
        await ca.asked.wait()
        revoking.cancel()
        with suppress(asyncio.CancelledError):
            await revoking
        ca.may_answer.set()

        await site.services.revocation.drain(5)

        assert site.ledger("revoked_at IS NULL") == [0]


async def test_an_old_link_to_replace_asks_about_the_newer_one(site: Site, clock: StillClock) -> None:
    """Out of an old mail: what it names is revoked, and another one is there for the device."""
    ada = await site.signed_in()
    await have(ada)
    old = site.ledger("serial")[0]
    await take(ada, await ada.submit((await ask(ada)).page.form("/new"), old="revoke"))
    await run_jobs(site)
    page = (await ada.get((await ada.get(f"/certificates/{old}/replace")).headers["Location"])).page

    answer = await ada.submit(page.form("/new"))

    assert "You already have one for" in answer.text
    assert len(site.ledger()) == 2
