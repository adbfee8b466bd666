"""Signing in through the identity provider, as a browser sees it."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.hostile_provider import ISSUER, HostileProvider, Reply
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on
from tests.support.web import ADA, HTTPS_URL, LOOPBACK_URL, StillClock, open_site
from tests.web.test_login import FOREIGN

CALLBACK = f"{LOOPBACK_URL}/login/oidc/callback"
PENDING = "certbob-sign-in"


@pytest.fixture
async def on(data_dir: Path, clock: StillClock) -> AsyncIterator[SingleSignOn]:
    async with open_single_sign_on(data_dir, clock) as opened:
        yield opened


def parameters(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


async def test_the_page_offers_it_first_and_local_accounts_folded(on: SingleSignOn) -> None:
    page = (await on.browser().get("/login?next=/new?device%3DPhone")).page

    link = page.one("a[@class='button']")
    assert (link.text, link.get("href")) == (
        "Continue with Single sign-on",
        "/login/oidc?next=/new%3Fdevice%3DPhone",
    )
    assert page.one("details").find(".//form[@action='/login']") is not None
    assert "open" not in page.one("details").attrib


async def test_without_local_accounts_there_is_nothing_else(data_dir: Path, clock: StillClock) -> None:
    async with open_single_sign_on(data_dir, clock, people=(), oidc={"label": "Example Accounts"}) as on:
        page = (await on.browser().get("/login")).page

    assert page.text("a[@class='button']") == "Continue with Example Accounts"
    assert page.forms("/login") == []


async def test_nothing_of_it_is_there_when_it_is_not_configured(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock) as site:
        for path in ("/login/oidc", "/login/oidc/callback", "/login/oidc/logout"):
            assert (await site.browser().get(path)).status == 404
        assert "oidc" not in (await site.browser().get("/login")).text
        assert "oidc" not in (await site.program().get("/readyz")).text


async def test_the_request_to_the_provider(on: SingleSignOn) -> None:
    browser = on.browser()

    first, second = [parameters(await on.begin(browser)) for _ in range(2)]

    assert first.keys() == {
        "response_type",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
    }
    assert first["response_type"] == ["code"]
    assert first["redirect_uri"] == [CALLBACK]
    assert first["scope"] == ["openid profile email groups"]
    assert first["code_challenge_method"] == ["S256"]
    for name in ("state", "nonce", "code_challenge"):
        assert re.fullmatch("[A-Za-z0-9_-]{43,}", first[name][0])
        assert first[name] != second[name]
    assert len({first[name][0] for name in ("state", "nonce", "code_challenge")}) == 3


async def test_scopes_that_the_provider_does_not_list_are_not_asked_for(on: SingleSignOn) -> None:
    on.provider.document["scopes_supported"] = ["profile", "offline_access"]

    assert parameters(await on.begin(on.browser()))["scope"] == ["openid profile"]


async def test_the_verifier_is_long_enough_and_never_shown_to_the_browser(on: SingleSignOn) -> None:
    browser = on.browser()
    location = await on.begin(browser)
    seen = location + "".join(browser.cookies.values())
    await on.come_back(browser, on.provider.authorize(location))

    (asked,) = on.provider.asked("token")
    verifier = asked.form["code_verifier"]
    assert re.fullmatch("[A-Za-z0-9._~-]{43,128}", verifier)
    assert verifier not in seen + "".join(browser.cookies.values())
    assert asked.form["redirect_uri"] == CALLBACK


async def test_what_somebody_else_adds_to_the_link_is_not_passed_on(on: SingleSignOn) -> None:
    """Third-party initiated login is not offered."""
    answer = await on.browser().follow(
        "/login/oidc?iss=https://evil.example&login_hint=x&target_link_uri=https://evil.example"
        "&redirect_uri=https://evil.example&scope=offline_access&prompt=none&client_id=other"
    )

    location = answer.headers["Location"]
    assert location.startswith(f"{ISSUER}/authorize?")
    assert "evil" not in location
    assert "offline_access" not in location


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8000"},
        {"Host": "[::1]:8000"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Port": "443"},
        {"Forwarded": "host=evil.example;proto=https"},
        {"X-Original-URL": "https://evil.example/", "X-Rewrite-URL": "/evil"},
    ],
    ids=str,
)
async def test_forged_headers_do_not_change_where_the_provider_sends_people(
    data_dir: Path, clock: StillClock, headers: dict[str, str]
) -> None:
    async with open_single_sign_on(data_dir, clock, trusted_proxies=("192.0.2.0/24",)) as on:
        answer = await on.browser().get("/login/oidc", headers)

        assert parameters(answer.headers["Location"])["redirect_uri"] == [CALLBACK]


async def test_a_foreign_host_does_not_even_begin(on: SingleSignOn) -> None:
    answer = await on.browser().get("/login/oidc", {"Host": "evil.example"})

    assert answer.status == 400
    assert on.provider.requests == []


async def test_the_cookie_of_a_sign_in_is_bound_to_the_host_and_to_ten_minutes(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_single_sign_on(data_dir, clock, public_url=HTTPS_URL) as on:
        answer = await on.browser().follow("/login/oidc")
        cookie = answer.cookies[f"__Host-{PENDING}"]
        location = answer.headers["Location"]

        await on.signed_in()

    assert (cookie["secure"], cookie["httponly"], cookie["samesite"], cookie["path"], cookie["domain"]) == (
        True,
        True,
        "Lax",
        "/",
        "",
    )
    assert cookie["max-age"] == "600"
    assert parameters(location)["redirect_uri"] == [f"{HTTPS_URL}/login/oidc/callback"]


async def test_the_session_has_a_new_id_after_the_sign_in(on: SingleSignOn) -> None:
    browser = await on.site.signed_in(ADA)
    before = dict(browser.cookies)
    fixed = on.browser()
    fixed.cookies["certbob"] = "chosen-by-an-attacker"

    for client, old in ((browser, before["certbob"]), (fixed, "chosen-by-an-attacker")):
        await on.sign_in(client)
        assert client.cookies["certbob"] != old
    late = on.browser()
    late.cookies = before
    assert (await late.get("/new")).status == 303


async def test_a_failed_sign_in_leaves_a_session_as_it_was(on: SingleSignOn) -> None:
    browser = await on.site.signed_in(ADA)
    on.provider.answers["token"] = Reply(500)

    assert (await on.sign_in(browser)).status == 400

    assert "Signed in as Ada Lovelace" in (await browser.get("/new")).page.text()


async def test_another_host_of_the_domain_cannot_plant_its_own_sign_in(
    data_dir: Path, clock: StillClock
) -> None:
    """It can set cookies for the whole domain, but none whose name begins with __Host-."""
    async with open_single_sign_on(data_dir, clock, public_url=HTTPS_URL) as on:
        mallory, ada = on.browser(), on.browser()
        callback = on.provider.authorize(await on.begin(mallory))
        ada.cookies["certbob-sign-in"] = mallory.cookies["__Host-certbob-sign-in"]

        assert (await on.come_back(ada, callback)).status == 400


@pytest.mark.parametrize(
    ("wanted", "leads_to"),
    [
        ("", "/new"),
        ("/new?device=Phone&platform=android", "/new?device=Phone&platform=android"),
        ("/new?device=Phone&form_token=x&next=//evil", "/new?device=Phone"),
        ("/ca", "/new"),
        ("/login/oidc/logout", "/new"),
    ],
)
async def test_a_sign_in_leads_to_where_the_person_wanted(
    on: SingleSignOn, wanted: str, leads_to: str
) -> None:
    answer = await on.sign_in(on.browser(), wanted)

    assert (answer.status, answer.headers["Location"]) == (303, leads_to)


async def test_no_known_spelling_of_an_address_leads_away(on: SingleSignOn) -> None:
    for wanted in FOREIGN:
        answer = await on.sign_in(on.browser(), wanted)
        assert answer.headers["Location"] == "/new", wanted


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one site, and a new browser each time
)
@given(
    st.text(max_size=200) | st.text(alphabet="/\\:@?#%[]&=.ne w\t\n2f5c0d9a", max_size=40).map("/new".__add__)
)
async def test_a_sign_in_leads_to_pages_of_ours_in_plain_characters(on: SingleSignOn, wanted: str) -> None:
    answer = await on.sign_in(on.browser(), wanted)

    assert answer.status == 303
    assert re.fullmatch(r"/new(\?[A-Za-z0-9&=%+._~-]+)?", answer.headers["Location"])


async def test_a_failed_sign_in_keeps_where_the_person_wanted_to_go(on: SingleSignOn) -> None:
    wanted = "/new?device=Phone"
    on.provider.claims["aud"] = "other"
    browser = on.browser()

    page = (await on.sign_in(browser, wanted)).page

    on.provider.claims.clear()
    again = await browser.follow(page.one("a[@class='button']").get("href", ""))
    answer = await on.come_back(browser, on.provider.authorize(again.headers["Location"]))
    assert answer.headers["Location"] == wanted


async def test_a_step_of_htmx_that_came_too_late_goes_on_after_the_sign_in(
    on: SingleSignOn, clock: StillClock
) -> None:
    browser = await on.signed_in()
    form = (await browser.get("/new")).page.form("/new")
    clock.advance(hours=1)

    refused = await browser.as_htmx().submit(form, device="Phone", platform="android")

    assert (refused.status, refused.body) == (401, b"")
    page = (await browser.get(refused.headers["HX-Redirect"])).page
    begun = await browser.follow(page.one("a[@class='button']").get("href", ""))
    answer = await on.come_back(browser, on.provider.authorize(begun.headers["Location"]))
    fields = (await browser.get(answer.headers["Location"])).page.form("/new").fields
    assert (fields["device"], fields["platform"]) == ("Phone", "android")


async def test_a_session_of_single_sign_on_ends_when_another_provider_is_configured(
    on: SingleSignOn, data_dir: Path, clock: StillClock
) -> None:
    browser = await on.signed_in()
    elsewhere = HostileProvider(clock, issuer="https://id.example.net")
    async with open_single_sign_on(data_dir, clock, elsewhere) as later:
        there = later.browser()
        there.cookies = browser.cookies

        assert (await there.get("/new")).status == 303


async def test_the_page_says_so_while_the_provider_is_away(on: SingleSignOn, clock: StillClock) -> None:
    on.provider.answers["discovery"] = Reply(503)
    assert (await on.browser().follow("/login/oidc")).status == 503

    page = (await on.browser().get("/login")).page

    assert "does not answer right now" in page.text()
    assert page.forms("/login") != []
