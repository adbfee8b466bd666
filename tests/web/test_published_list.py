"""The list of revoked certificates that step-ca makes, as pages and monitoring tell of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certbob.errors import CABadAnswer, CAUnavailable
from certbob.watch import PublishedList
from tests.support.fake_stepca import FakeStepCA, Reply, crl_reply, refusal, sign_crl
from tests.support.stepca import StepCAServer, make_pki
from tests.support.web import Site, StillClock, open_site

CRL = "/1.0/crl"
ADDRESS = "http://ca.example.org/crl"


@pytest.fixture
async def authority() -> AsyncIterator[FakeStepCA]:
    async with FakeStepCA() as authority:
        yield authority


@pytest.fixture
async def site(authority: FakeStepCA, data_dir: Path) -> AsyncIterator[Site]:
    async with open_site(data_dir, StillClock(authority.clock.now()), ca=authority.client()) as opened:
        yield opened


def published(site: Site) -> PublishedList:
    assert site.services.published_list is not None
    return site.services.published_list


def listed(
    authority: FakeStepCA, *, age: timedelta = timedelta(0), lifetime: timedelta = timedelta(days=1)
) -> Reply:
    return crl_reply(sign_crl(authority.pki, authority.clock.now() - age, ADDRESS, lifetime=lifetime))


async def ca_page(site: Site) -> tuple[str, set[str | None]]:
    """Its words and its links."""
    page = (await site.browser().get("/ca")).page
    return page.text("main"), {link.get("href") for link in page.all("main//a")}


async def revoke_page(site: Site, *, done: bool = False) -> str:
    browser = site.browser()
    form = (await browser.get(f"/issue?token={await site.mint()}")).page.form("/issue")
    assert (await browser.submit(form)).status == 200
    ada = await site.signed_in()
    path = f"/certificates/{site.ledger('serial')[-1]}/revoke"
    asked = await ada.get(path)
    if not done:
        return asked.page.text("main")
    assert (await ada.submit(asked.page.form(path), reason="lost")).status == 303
    return (await ada.get(path)).page.text("main")


async def ready(site: Site) -> tuple[int, str]:
    answer = await site.program().get("/readyz")
    return answer.status, json.loads(answer.text)["checks"]["crl"]


# Pages


async def test_before_anybody_has_seen_it_the_page_links_where_it_would_be(
    site: Site, authority: FakeStepCA
) -> None:
    words, links = await ca_page(site)

    assert f"{authority.url}{CRL}" in links
    assert "Nobody has seen this list yet" in words


async def test_a_list_is_linked_where_it_says_that_it_is(site: Site, authority: FakeStepCA) -> None:
    authority.answers[CRL] = listed(authority)
    await published(site).fetch()

    words, links = await ca_page(site)

    assert ADDRESS in links
    assert "only where it reads the authority's own list, within 1 day at the latest" in words
    assert not {"/ca/crl", "/ca/crls.pem", "/ca/root-crl"} & links


async def test_where_there_is_none_the_page_says_so(site: Site, authority: FakeStepCA) -> None:
    authority.publishes_crl = False
    await published(site).fetch()

    words, links = await ca_page(site)

    assert "This authority publishes no list: services believe a revoked certificate until it ends." in words
    assert f"{authority.url}{CRL}" not in links


@pytest.mark.parametrize("done", [False, True])
async def test_who_revokes_is_told_how_long_it_takes(site: Site, authority: FakeStepCA, done: bool) -> None:
    authority.answers[CRL] = listed(authority, lifetime=timedelta(hours=36))
    await published(site).fetch()

    words = await revoke_page(site, done=done)

    assert (
        "as soon as they have read the new list of revoked certificates, within 36 hours at the latest"
        in words
    )
    assert ("will no longer be able to connect" in words) is not done


@pytest.mark.parametrize("done", [False, True])
async def test_who_revokes_is_told_that_services_do_not_learn_of_it(
    site: Site, authority: FakeStepCA, done: bool
) -> None:
    authority.publishes_crl = False
    await published(site).fetch()

    words = await revoke_page(site, done=done)

    assert "publishes no list of revoked certificates: services believe this one until it ends, on" in words
    assert "no longer be able to connect" not in words


async def test_who_revokes_while_nobody_knows_is_told_so(site: Site) -> None:
    assert "as soon as they learn of it from the authority" in await revoke_page(site)


async def test_with_our_own_list_it_is_its_lifetime(data_dir: Path) -> None:
    async with open_site(data_dir / "other", StillClock()) as site:
        assert "within 7 days at the latest" in await revoke_page(site, done=True)


# Monitoring


async def test_ready_as_long_as_no_list_is_over(site: Site, authority: FakeStepCA) -> None:
    assert await ready(site) == (200, "ok")  # nobody has looked yet
    await published(site).fetch()
    assert await ready(site) == (200, "ok")
    authority.publishes_crl = False
    await published(site).fetch()
    assert await ready(site) == (200, "ok")


async def test_not_ready_with_a_list_that_is_over(site: Site, authority: FakeStepCA) -> None:
    authority.answers[CRL] = listed(authority, age=timedelta(days=1))
    await published(site).fetch()

    status, reason = await ready(site)

    assert status == 503
    assert "the authority's list of revoked certificates is over since" in reason


async def test_a_list_that_is_never_renewed_ends(site: Site, authority: FakeStepCA) -> None:
    await published(site).fetch()
    site.clock.advance(hours=23)
    assert await ready(site) == (200, "ok")
    site.clock.advance(hours=1)

    assert (await ready(site))[0] == 503


@pytest.mark.parametrize("kind", ["foreign", "garbage", "away", "older"])
async def test_what_cannot_be_believed_leaves_the_last_list(
    site: Site, authority: FakeStepCA, kind: str
) -> None:
    await published(site).fetch()
    known = published(site).known
    authority.answers[CRL] = {
        "foreign": crl_reply(sign_crl(make_pki("Other"), authority.clock.now())),
        "garbage": crl_reply(b"garbage"),
        "away": refusal(502, "no"),
        "older": listed(authority, age=timedelta(hours=1)),
    }[kind]

    with pytest.raises(CAUnavailable if kind == "away" else CABadAnswer):
        await published(site).fetch()

    assert published(site).known is known


async def test_monitoring_reads_its_age(site: Site, authority: FakeStepCA) -> None:
    authority.answers[CRL] = listed(authority, age=timedelta(hours=2))
    await published(site).fetch()

    text = site.services.metrics.exposition(site.services).decode()

    assert "\ncertbob_crl_age_seconds 7200.0\n" in text


async def test_nobody_waits_for_an_authority_that_is_silent(site: Site, authority: FakeStepCA) -> None:
    """Pages, readiness and metrics answer while the list is still being fetched."""
    await site.services.ca.trust()
    authority.answers[CRL] = Reply(200, after=asyncio.Event())
    fetching = asyncio.create_task(published(site).fetch())
    while not authority.asked(CRL):
        await asyncio.sleep(0)

    for path in ("/ca", "/readyz"):
        assert (await site.browser().get(path)).status == 200
    assert site.services.metrics.exposition(site.services)

    assert not fetching.done()
    fetching.cancel()


# The real one


@pytest.mark.needs("step-ca")
async def test_with_a_real_step_ca_its_address_is_linked(step_ca: StepCAServer, data_dir: Path) -> None:
    clock = StillClock(datetime.now(UTC))
    async with open_site(data_dir, clock, ca=step_ca.client(clock)) as site:
        await published(site).fetch()

        assert step_ca.crl_url in (await ca_page(site))[1]
        assert await ready(site) == (200, "ok")
        assert "within 1 day at the latest" in await revoke_page(site, done=True)
