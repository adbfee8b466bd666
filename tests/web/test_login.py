"""Signing in and out, and what a session is."""

import random
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbob.web.login import destination
from tests.support.web import ADA, BERT, Person, Site, StillClock, open_site

HTTPS = "https://cert.example.org"


async def test_whoever_is_known_gets_to_the_options(site: Site) -> None:
    browser = site.browser()
    assert (await browser.get("/")).headers["Location"] == "/login"

    answer = await browser.sign_in(ADA)

    assert (answer.status, answer.headers["Location"]) == (303, "/new")
    assert (await browser.get("/")).headers["Location"] == "/new"
    assert "Signed in as Ada Lovelace" in (await browser.get("/new")).page.text()


async def test_htmx_is_sent_to_a_whole_page(site: Site) -> None:
    answer = await site.browser().as_htmx().sign_in(ADA)

    assert answer.headers["HX-Redirect"] == "/new"
    assert answer.body == b""


async def test_unknown_name_and_wrong_password_get_the_same_answer(site: Site) -> None:
    answers = [await site.browser().sign_in(Person(name, "wrong", "")) for name in (ADA.username, "nobody")]

    known, unknown = [answer.text.replace(ADA.username, "nobody") for answer in answers]
    assert known == unknown
    assert {answer.status for answer in answers} == {422}
    assert len({tuple(answer.headers.keys()) for answer in answers}) == 1
    assert answers[0].page.form("/login").fields["username"] == ADA.username


async def test_too_many_tries_are_told_until_when(site: Site, clock: StillClock) -> None:
    for _ in range(3):
        await site.browser().sign_in(Person(ADA.username, "wrong", ""))

    answer = await site.browser().sign_in(ADA)

    assert answer.status == 429
    assert answer.headers["Retry-After"] == "300"
    assert "Try again at" in answer.text
    clock.advance(minutes=5, seconds=1)
    assert (await site.browser().sign_in(ADA)).status == 303


async def test_spellings_of_one_name_are_counted_together(site: Site) -> None:
    spellings = ("ada", "ADA", "Ada ", " ada", "\uff41\uff44\uff41", "\uff21da", "aDa", "adA")

    statuses = [(await site.browser().sign_in(Person(name, "wrong", ""))).status for name in spellings]

    assert statuses == [422] * 3 + [429] * 5


async def test_a_session_gets_a_new_id_at_every_sign_in(site: Site) -> None:
    browser = await site.signed_in()
    first = dict(browser.cookies)
    await browser.sign_in(ADA)
    old = site.browser()
    old.cookies.update(first)

    assert browser.cookies != first
    assert (await old.get("/new")).headers["Location"].startswith("/login")


async def test_signing_out_ends_the_session_at_the_server(site: Site) -> None:
    browser = await site.signed_in()
    kept = dict(browser.cookies)

    answer = await browser.post("/logout", {"form_token": await browser.form_token()})

    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert "certbob" not in browser.cookies
    browser.cookies = kept
    assert (await browser.get("/new")).status == 303


@pytest.mark.parametrize(("pause", "alive"), [(14, True), (16, False)])
async def test_a_session_ends_after_a_quarter_of_an_hour_without_a_click(
    site: Site, clock: StillClock, pause: int, alive: bool
) -> None:
    browser = await site.signed_in()
    for _ in range(2):
        clock.advance(minutes=pause)
        answer = await browser.get("/new")

    assert (answer.status == 200) is alive


async def test_a_session_ends_after_eight_hours_in_any_case(site: Site, clock: StillClock) -> None:
    browser = await site.signed_in()
    for _ in range(8 * 6):
        clock.advance(minutes=10)
        assert (await browser.get("/new")).status == 200
    clock.advance(minutes=10)

    assert (await browser.get("/new")).status == 303


async def test_whoever_is_taken_out_of_the_configuration_is_signed_out(site: Site) -> None:
    browser = await site.signed_in()
    async with open_site(site.settings.server.data_dir, site.clock, people=(BERT,)) as later:
        there = later.browser()
        there.cookies = browser.cookies

        assert (await there.get("/new")).status == 303


async def test_over_https_the_cookies_are_bound_to_the_host(
    site: Site, data_dir: Path, clock: StillClock
) -> None:
    async with open_site(site.settings.server.data_dir, clock, public_url=HTTPS) as secure:
        browser = secure.browser()
        session = (await browser.sign_in(ADA)).cookies["__Host-certbob"]
        take = (await browser.get(f"/issue?token={await secure.mint()}")).cookies["__Host-certbob-take"]

    for cookie in (session, take):
        assert (cookie["secure"], cookie["httponly"], cookie["samesite"], cookie["path"]) == (
            True,
            True,
            "Lax",
            "/",
        )
        assert cookie["domain"] == ""


async def test_on_loopback_the_cookie_works_without_tls(site: Site) -> None:
    cookie = (await site.browser().sign_in(ADA)).cookies["certbob"]

    assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == ("", True, "Lax")


FOREIGN = (
    "//evil.example",
    "/\\evil.example",
    "/%09/evil.example",
    "/%2f%2fevil.example",
    "https://evil.example/new",
    "http:/new",
    "//new",
    "/new@evil.example",
    "/new/../evil",
    "javascript:alert(1)",
    "/new#//evil",
    "\t//evil.example",
    "/\x00/evil",
    "",
    "new",
    "／new",
    "/new\r\nX: y",
    "///evil.example/new",
    "http:///new",
)


@pytest.mark.parametrize("wanted", FOREIGN)
async def test_a_sign_in_leads_to_pages_of_ours_only(site: Site, wanted: str) -> None:
    answer = await site.browser().sign_in(ADA, next=wanted)

    assert answer.headers["Location"] == "/new"


async def test_a_sign_in_may_lead_to_a_link_but_never_carries_it(site: Site) -> None:
    answer = await site.browser().sign_in(ADA, next="/issue?token=x")

    assert answer.headers["Location"] == "/issue"


SLASHES = (
    "/",
    "//",
    "///",
    "\\",
    "/\\",
    "\\/",
    "\\\\",
    "/%09/",
    "/%2f",
    "%2f%2f",
    "/\t/",
    "/ /",
    "/./",
    "/../",
    "／／",
)
HOSTS = (
    "evil.example",
    "evil.example:443",
    "127.0.0.1:8000@evil.example",
    "[::1]",
    "[",
    "１２７.1",
    "evil。example",
    "",
)
SCHEMES = (
    "",
    "https:",
    "http:",
    "javascript:",
    "data:",
    "\x00https:",
    " https:",
    "file:",
    "//127.0.0.1:8000@",
)
TAILS = ("", "/new", "?/new", "#/new", "/new?device=x", "\r\nLocation: https://evil.example")


async def test_no_spelling_of_an_address_leads_away(site: Site) -> None:
    """What stands in the form is what the sign-in goes to (tested above)."""
    browser = site.browser()
    wanted = [
        scheme + slash + host + tail
        for scheme in SCHEMES
        for slash in SLASHES
        for host in HOSTS
        for tail in TAILS
    ]

    for spelling in random.Random(7).sample(wanted, 500):
        page = (await browser.get(f"/login?next={quote(spelling)}")).page
        leads_to = page.form("/login").fields["next"]
        assert re.fullmatch(r"/new(\?device=x)?", leads_to), spelling


@given(st.text() | st.text(alphabet="/\\:@?#%[]&=.ne w\t\n2f5c0d9a", max_size=40).map("/new".__add__))
def test_a_destination_is_a_page_of_ours_in_plain_characters(wanted: str) -> None:
    assert re.fullmatch(r"/new(\?[A-Za-z0-9&=%+._~-]+)?", destination(wanted))


async def test_what_was_typed_survives_a_session_that_ended(site: Site, clock: StillClock) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new")
    clock.advance(hours=1)

    refused = await browser.submit(form, device="Grandma's iPad", platform="ios")

    assert refused.status == 401
    assert "Nothing was lost" in refused.text
    wanted = refused.page.form("/login").fields["next"]
    answer = await browser.sign_in(ADA, next=wanted)
    again = (await browser.get(answer.headers["Location"])).page.form("/new")
    assert (again.fields["device"], again.fields["platform"]) == ("Grandma's iPad", "ios")


async def test_htmx_without_a_session_gets_no_form_into_its_fragment(site: Site, clock: StillClock) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new")
    clock.advance(hours=1)

    answer = await browser.as_htmx().submit(form, device="Phone")

    assert answer.status == 401
    assert answer.body == b""
    assert answer.headers["HX-Redirect"].startswith("/login?next=/new")
    assert "form_token" not in answer.headers["HX-Redirect"]
