"""`/issue`: who gets a page, who gets the file, and that nothing gives out a second certificate."""

import asyncio
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

from certbob.config import Issue, Limits
from certbob.devices import Encoding
from certbob.errors import (
    CABadAnswer,
    CAProblem,
    CARefused,
    CAUnavailable,
    CAUncertain,
)
from certbob.issuance import MAX_RUNNING
from tests.support.served import serve
from tests.support.web import BERT, VPN, FakeCA, Site, StillClock, encoding_of, open_site

OLD_IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/16.6 Mobile/15E148 Safari/604.1"
)
PREVIEWS = (
    "mattermost-bot/1.1",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "Twitterbot/1.0",
    "facebookexternalhit/1.1",
    "LinkedInBot/1.0",
    "Discordbot/2.0",
    "TelegramBot (like TwitterBot)",
    "WhatsApp/2.23",
    "SkypeUriPreview Preview/0.5",
    "Googlebot/2.1",
)


async def test_a_program_gets_the_file_with_one_get(site: Site) -> None:
    token = await site.mint()

    answer = await site.program().get(f"/issue?token={token}")

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-pkcs12"
    assert answer.headers["Content-Disposition"] == "attachment; filename=user_cert.pfx"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert encoding_of(answer.body) is Encoding.MODERN


async def test_a_client_that_accepts_nothing_in_particular_gets_the_file_too(site: Site) -> None:
    token = await site.mint()

    answer = await site.program().get(f"/issue?token={token}", {"Accept": None})

    assert answer.headers["Content-Type"] == "application/x-pkcs12"


async def test_older_asks_for_the_compatible_encoding(site: Site) -> None:
    answer = await site.program().get(f"/issue?token={await site.mint()}&older=1")

    assert encoding_of(answer.body) is Encoding.COMPATIBLE


async def test_pem_can_be_asked_for(site: Site) -> None:
    answer = await site.program().get(f"/issue?token={await site.mint()}&format=pem")

    assert answer.headers["Content-Disposition"] == "attachment; filename=user_cert.pem"
    assert answer.body.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert answer.body.count(b"-----BEGIN CERTIFICATE-----") == 2


async def test_a_second_redeem_is_told_so_and_makes_nothing(site: Site) -> None:
    token = await site.mint()
    await site.program().get(f"/issue?token={token}")

    for client in (site.program(), site.browser()):
        answer = await client.get(f"/issue?token={token}")
        assert answer.status == 409
        assert "already used" in answer.text
        assert "24 November 2026" in answer.text
    assert (await site.program().post("/issue", {"token": token})).status == 409
    assert site.ledger() == ["issued"]


async def test_whatever_looks_at_a_link_does_not_spend_it(site: Site) -> None:
    token = await site.mint()
    link = f"/issue?token={token}"

    for _ in range(20):
        assert (await site.browser().get(link)).status == 200
    for agent in PREVIEWS:
        answer = await site.program(User_Agent=agent).get(link)
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for name in ("Sec-Purpose", "Purpose", "X-Moz"):
        await site.program().get(link, {name: "prefetch"})
    await site.program().get(link, {"Sec-Purpose": "prefetch;prerender"})
    await site.program().head(link)
    await site.browser().head(link)

    assert site.ledger() == []
    assert (await site.program().get(link)).status == 200


async def test_direct_download_can_be_turned_off(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock, issue=Issue(direct_download=False)) as site:
        answer = await site.program().get(f"/issue?token={await site.mint()}")

        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert site.ledger() == []


async def test_a_browser_sees_the_passphrase_before_it_posts(site: Site) -> None:
    token = await site.mint()
    browser = site.browser()

    page = (await browser.get(f"/issue?token={token}")).page

    assert page.text("h1") == "Your certificate for Work laptop"
    assert page.passphrase == site.services.grants.passphrase(token)
    answer = await browser.submit(page.form("/issue"))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-pkcs12")


async def test_the_same_browser_gets_the_same_bytes_three_times_within_two_minutes(
    site: Site, clock: StillClock
) -> None:
    token = await site.mint()
    browser = site.browser()
    form = (await browser.get(f"/issue?token={token}")).page.form("/issue")
    first = await browser.submit(form)

    repeats = [await browser.submit(form) for _ in range(3)]

    assert {repeat.body for repeat in repeats} == {first.body}
    assert (await browser.submit(form)).status == 409
    assert site.ledger() == ["issued"]


async def test_a_double_click_makes_one_certificate(data_dir: Path, clock: StillClock) -> None:
    ca = FakeCA(data_dir, clock)
    ca.may_answer.clear()
    async with open_site(data_dir, clock, ca=ca) as site:
        token = await site.mint()
        browser = site.browser()
        form = (await browser.get(f"/issue?token={token}")).page.form("/issue")

        clicks = [asyncio.create_task(browser.submit(form)) for _ in range(2)]
        await ca.asked.wait()
        ca.may_answer.set()
        first, second = await asyncio.gather(*clicks)

        assert first.status == second.status == 200
        assert first.body == second.body
        assert site.ledger() == ["issued"]


async def test_whoever_chose_the_wrong_encoding_gets_the_other_with_the_same_key(site: Site) -> None:
    token = await site.mint()
    browser = site.browser()
    page = (await browser.get(f"/issue?token={token}")).page
    passphrase = page.passphrase
    assert passphrase is not None
    modern = await browser.submit(page.form("/issue"))

    older = await browser.post("/issue", {"token": token, "older": "1"})
    pem = await browser.post("/issue", {"token": token, "format": "pem"})

    assert encoding_of(modern.body) is Encoding.MODERN
    assert encoding_of(older.body) is Encoding.COMPATIBLE
    keys = [
        pkcs12.load_pkcs12(modern.body, passphrase.encode()).key,
        pkcs12.load_pkcs12(older.body, passphrase.encode()).key,
        load_pem_private_key(pem.body, passphrase.encode()),
    ]
    assert all(isinstance(key, ec.EllipticCurvePrivateKey) for key in keys)
    assert len({key.private_numbers() for key in keys if isinstance(key, ec.EllipticCurvePrivateKey)}) == 1
    assert site.ledger() == ["issued"]


async def test_while_the_file_is_made_a_reload_does_not_start_anew(data_dir: Path, clock: StillClock) -> None:
    ca = FakeCA(data_dir, clock)
    ca.may_answer.clear()
    async with open_site(data_dir, clock, ca=ca) as site:
        link = f"/issue?token={await site.mint()}"
        browser = site.browser()
        click = asyncio.create_task(browser.submit((await browser.follow(link)).page.form("/issue")))
        await ca.asked.wait()

        for path in (link, "/issue"):
            page = (await browser.follow(path)).page
            assert page.passphrase
            assert "data-autostart" not in page.form("/issue").attributes
        ca.may_answer.set()
        assert (await click).status == 200
        assert site.ledger() == ["issued"]


async def test_a_browser_that_goes_away_finds_its_file_when_it_comes_back(
    data_dir: Path, clock: StillClock
) -> None:
    ca = FakeCA(data_dir, clock)
    ca.may_answer.clear()
    async with serve(data_dir, clock, ca=ca) as served:
        site = served.site
        browser = site.browser()
        form = (await browser.get(f"/issue?token={await site.mint()}")).page.form("/issue")
        body = urlencode(form.fields).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"POST /issue HTTP/1.1\r\nHost: %s\r\nCookie: certbob-take=%s\r\nContent-Length: %d\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n%s"
            % (served.host, browser.cookies["certbob-take"].encode(), len(body), body)
        )
        await ca.asked.wait()

        writer.close()
        await writer.wait_closed()
        await served.is_alive()  # a round trip: by then the server has seen that nobody waits any more
        ca.may_answer.set()
        await site.services.issuance.drain(5)

        assert site.ledger("state, delivered") == [("issued", 0)]
        answer = await browser.submit(form)
        assert answer.headers["Content-Type"] == "application/x-pkcs12"
        assert site.ledger("state, delivered") == [("issued", 1)]


async def test_after_two_minutes_the_file_is_gone(site: Site, clock: StillClock) -> None:
    token = await site.mint()
    browser = site.browser()
    form = (await browser.get(f"/issue?token={token}")).page.form("/issue")
    await browser.submit(form)
    clock.advance(seconds=121)

    answer = await browser.submit(form)

    assert answer.status == 409
    assert answer.page.passphrase is None
    assert (await browser.get("/issue")).status == 410


async def test_a_reload_shows_what_can_be_had_again(site: Site) -> None:
    token = await site.mint()
    browser = site.browser()
    form = (await browser.get(f"/issue?token={token}")).page.form("/issue")
    first = await browser.submit(form)

    for path in ("/issue", f"/issue?token={token}"):
        page = (await browser.get(path)).page
        assert page.passphrase == site.services.grants.passphrase(token)
        assert "data-autostart" not in page.form("/issue").attributes
    assert (await browser.submit(page.form("/issue"))).body == first.body


async def test_another_browser_gets_nothing(site: Site) -> None:
    token = await site.mint()
    browser, other = site.browser(), site.browser()
    form = (await browser.get(f"/issue?token={token}")).page.form("/issue")
    await other.get(f"/issue?token={await site.mint()}")
    await browser.submit(form)

    answer = await other.submit(form)

    assert answer.status == 409
    assert answer.page.passphrase is None
    assert site.services.grants.passphrase(token) not in answer.text


async def test_at_another_process_the_holder_keeps_the_passphrase(
    site: Site, data_dir: Path, clock: StillClock
) -> None:
    token = await site.mint()
    browser = site.browser()
    form = (await browser.get(f"/issue?token={token}")).page.form("/issue")
    await browser.submit(form)
    async with open_site(data_dir, clock) as other_process:
        there = other_process.browser()
        there.cookies = browser.cookies

        answer = await there.submit(form)

        assert answer.status == 409
        assert answer.page.passphrase == site.services.grants.passphrase(token)
        assert "first download" in answer.text


async def test_a_strange_cookie_is_just_another_browser(site: Site) -> None:
    token = await site.mint()
    browser = site.browser()
    await browser.submit((await browser.get(f"/issue?token={token}")).page.form("/issue"))
    other = site.browser()
    other.cookies["certbob-take"] = "\u00fc\u00df"

    assert (await other.post("/issue", {"token": token})).status == 409


@pytest.mark.parametrize(
    ("agent", "older", "starts"), [(None, False, True), (OLD_IPHONE, False, False), (OLD_IPHONE, True, True)]
)
async def test_a_click_starts_by_itself_unless_the_device_looks_older_than_said(
    site: Site, agent: str | None, older: bool, starts: bool
) -> None:
    browser = site.browser(**({"User_Agent": agent} if agent else {}))

    form = (await browser.follow(f"/issue?token={await site.mint(older=older)}")).page.form("/issue")

    assert ("data-autostart" in form.attributes) is starts
    assert form.fields["older"] == ("1" if agent else "0")


@pytest.mark.parametrize("origin", ["none", "cross-site", "same-site"])
async def test_a_link_that_was_pasted_or_sent_does_not_start_by_itself(site: Site, origin: str) -> None:
    answer = await site.browser().get(f"/issue?token={await site.mint()}", {"Sec-Fetch-Site": origin})

    assert "data-autostart" not in answer.page.form("/issue").attributes


@pytest.mark.parametrize("origin", ["same-origin", "cross-site", "same-site"])
async def test_a_picture_on_some_page_spends_nothing(site: Site, origin: str) -> None:
    link = f"/issue?token={await site.mint()}"

    answer = await site.browser().get(link, {"Accept": "image/avif,*/*", "Sec-Fetch-Site": origin})

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert site.ledger() == []


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("", 400),
        ("x", 400),
        ("a.b", 400),
        ("a.b.c.d", 400),
        ("a" * 2049, 400),
        ("ä.b.c", 400),
        ("a.b.c", 401),
    ],
)
async def test_a_broken_link_is_told_from_a_forged_one(site: Site, token: str, status: int) -> None:
    for client in (site.browser(), site.program()):
        assert (await client.get(f"/issue?{urlencode({'token': token})}")).status == status
    assert (await site.program().post("/issue", {"token": token})).status == status


async def test_every_forgery_gets_the_same_words(site: Site) -> None:
    token = await site.mint()
    header, payload, signature = token.split(".")
    forgeries = (
        f"{header}.{payload}.{signature[:-8]}AAAAAAA0",
        f"{header}.{payload[:-4]}AAAA.{signature}",
        f"{header}.{payload}.",
    )

    answers = [await site.program().post("/issue", {"token": forgery}) for forgery in forgeries]

    assert {answer.status for answer in answers} == {401}
    assert len({answer.text.partition("Reference")[0] for answer in answers}) == 1


async def test_an_expired_link_says_so(site: Site, clock: StillClock) -> None:
    token = await site.mint()
    clock.advance(minutes=5)

    assert (await site.browser().get(f"/issue?token={token}")).status == 410
    assert (await site.program().get(f"/issue?token={token}")).status == 410
    assert site.ledger() == []


async def test_whoever_lost_the_group_loses_the_grant(site: Site) -> None:
    token = await site.mint(BERT, profile=VPN)

    answer = await site.program().get(f"/issue?token={token}")

    assert answer.status == 403
    assert "vpn-users" in answer.text
    assert site.ledger() == []


async def test_beyond_the_hourly_limit_people_are_told_when(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock, limits=Limits(certificates_per_hour=1)) as site:
        await site.program().get(f"/issue?token={await site.mint()}")

        answer = await site.program().get(f"/issue?token={await site.mint()}")

        assert answer.status == 429
        assert answer.headers["Retry-After"] == "3600"


@pytest.mark.parametrize(
    ("problem", "status", "given_back"),
    [
        (CARefused("policy", status=403), 502, True),
        (CAUnavailable("no route"), 503, True),
        (CAUncertain("timeout"), 504, False),
        (CABadAnswer("another key"), 502, False),
        (RuntimeError("a fault of ours"), 504, False),
    ],
)
async def test_when_the_authority_fails_the_page_says_whether_the_link_still_works(
    data_dir: Path, clock: StillClock, problem: CAProblem, status: int, given_back: bool
) -> None:
    ca = FakeCA(data_dir, clock)
    async with open_site(data_dir, clock, ca=ca) as site:
        token = await site.mint()
        browser = site.browser()
        form = (await browser.get(f"/issue?token={token}")).page.form("/issue")
        ca.signing_problem = problem

        answer = await browser.submit(form)

        assert answer.status == status
        assert "policy" not in answer.text
        assert "fault of ours" not in answer.text
        assert bool(answer.page.forms("/issue")) is given_back
        ca.signing_problem = None
        assert (await browser.submit(form)).status == (200 if given_back else 409)


async def test_beyond_what_the_machine_can_do_people_wait_and_keep_their_link(
    data_dir: Path, clock: StillClock
) -> None:
    ca = FakeCA(data_dir, clock)
    ca.may_answer.clear()
    async with open_site(data_dir, clock, ca=ca, limits=Limits(certificates_per_hour=1000)) as site:
        links = [f"/issue?token={await site.mint()}" for _ in range(MAX_RUNNING + 1)]
        *crowd, late = links
        waiting = [asyncio.create_task(site.program().get(link)) for link in crowd]
        while len(site.ledger()) < MAX_RUNNING:
            await asyncio.sleep(0)

        refused = await asyncio.wait_for(site.program().get(late), 10)
        ca.may_answer.set()
        statuses = {answer.status for answer in await asyncio.gather(*waiting)}

        assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
        assert statuses == {200}
        assert (await site.program().get(late)).status == 200


async def test_a_post_from_another_site_is_refused(site: Site) -> None:
    token = await site.mint()

    for value in ("cross-site", "same-site"):
        answer = await site.browser().post("/issue", {"token": token}, {"Sec-Fetch-Site": value})
        assert answer.status == 403
    assert site.ledger() == []


async def test_options_that_do_not_exist_are_refused(site: Site) -> None:
    token = await site.mint()

    assert (await site.program().get(f"/issue?token={token}&older=yes")).status == 400
    assert (await site.program().get(f"/issue?token={token}&format=exe")).status == 400
    assert site.ledger() == []


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT"])
async def test_other_methods_never_redeem(site: Site, method: str) -> None:
    token = await site.mint()

    answer = await site.program().send(method, f"/issue?token={token}")

    assert answer.headers["Content-Type"].startswith("text/")
    assert site.ledger() == []


async def test_a_program_that_posts_gets_the_file_once(site: Site) -> None:
    token = await site.mint()

    first = await site.program().post("/issue", {"token": token})
    second = await site.program().post("/issue", {"token": token})

    assert (first.status, first.headers["Content-Type"]) == (200, "application/x-pkcs12")
    assert (second.status, second.headers["Content-Type"]) == (409, "text/plain; charset=utf-8")
    assert "<" not in second.text
