"""Signing out here, and then at the identity provider."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.hostile_provider import CLIENT_ID, ISSUER, Reply
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on
from tests.support.web import ADA, HTTPS_URL, LOOPBACK_URL, Answer, Client, StillClock

END_SESSION = f"{ISSUER}/end_session"


@pytest.fixture
async def on(data_dir: Path, clock: StillClock) -> AsyncIterator[SingleSignOn]:
    async with open_single_sign_on(data_dir, clock, oidc={"label": "Example Accounts"}) as opened:
        yield opened


async def sign_out(browser: Client) -> Answer:
    return await browser.post("/logout", {"form_token": await browser.form_token()})


async def end_there(browser: Client) -> tuple[str, dict[str, list[str]]]:
    """Where the link on the page leads after signing out, and with which parameters."""
    page = (await browser.follow((await sign_out(browser)).headers["Location"])).page
    (link,) = [a.get("href", "") for a in page.all("a") if a.text == "Sign out of Example Accounts, too"]
    answer = await browser.follow(link)
    assert answer.status == 303
    address, _, query = answer.headers["Location"].partition("?")
    return address, parse_qs(query)


async def test_signing_out_ends_the_session_here_and_offers_to_end_it_there(on: SingleSignOn) -> None:
    browser = await on.signed_in()
    kept = dict(browser.cookies)

    address, parameters = await end_there(browser)

    assert address == END_SESSION
    assert parameters.keys() == {"id_token_hint", "client_id", "post_logout_redirect_uri", "state"}
    assert parameters["id_token_hint"] == on.provider.id_tokens
    assert parameters["client_id"] == [CLIENT_ID]
    assert parameters["post_logout_redirect_uri"] == [f"{LOOPBACK_URL}/login"]
    assert len(parameters["state"][0]) >= 16
    assert "certbob" not in browser.cookies
    browser.cookies = kept
    assert (await browser.get("/new")).status == 303


@pytest.mark.parametrize("is_over", [True, False], ids=["signed out here", "still signed in here"])
async def test_a_link_on_another_site_signs_nobody_out(on: SingleSignOn, is_over: bool) -> None:
    """Without a hint the provider asks the person first."""
    browser = await on.signed_in()
    site = "cross-site" if is_over else "same-origin"
    if is_over:
        await sign_out(browser)

    answer = await browser.get("/login/oidc/logout", {"Sec-Fetch-Site": site})

    assert answer.headers["Location"].startswith(END_SESSION)
    assert "id_token_hint" not in answer.headers["Location"]


async def test_the_hint_leaves_the_browser_with_the_sign_out(on: SingleSignOn) -> None:
    browser = await on.signed_in()
    await end_there(browser)

    (token,) = on.provider.id_tokens
    assert [value for value in browser.cookies.values() if token in value] == []
    assert "id_token_hint" not in (await browser.follow("/login/oidc/logout")).headers["Location"]


@pytest.mark.parametrize("fields", [{}, {"form_token": ""}, {"form_token": "0" * 64}])
async def test_signing_out_takes_the_form_of_our_own_page(on: SingleSignOn, fields: dict[str, str]) -> None:
    browser = await on.signed_in()

    assert (await browser.post("/logout", fields)).status == 403
    assert (await browser.get("/new")).status == 200


async def test_the_session_ends_here_while_the_provider_is_away(on: SingleSignOn, clock: StillClock) -> None:
    browser = await on.signed_in()
    for endpoint in ("discovery", "jwks", "token", "userinfo", "end_session"):
        on.provider.answers[endpoint] = Reply(503)
    clock.advance(minutes=2)
    asked = len(on.provider.requests)

    answer = await sign_out(browser)

    assert answer.status == 303
    assert len(on.provider.requests) == asked
    assert "certbob" not in browser.cookies
    assert (await browser.get("/new")).status == 303


async def test_without_an_end_of_session_there_is_nothing_to_offer(on: SingleSignOn) -> None:
    del on.provider.document["end_session_endpoint"]
    browser = await on.signed_in()

    assert (await sign_out(browser)).headers["Location"] == "/login"
    assert "Sign out of" not in (await browser.get("/login")).page.text()


async def test_a_local_account_has_nothing_to_end_elsewhere(on: SingleSignOn) -> None:
    await on.signed_in()
    browser = await on.site.signed_in(ADA)

    assert (await sign_out(browser)).headers["Location"] == "/login"


async def test_a_long_hint_is_left_out(on: SingleSignOn) -> None:
    on.provider.claims["filling"] = "x" * 2000
    browser = await on.signed_in()

    _, parameters = await end_there(browser)

    assert parameters.keys() == {"client_id", "post_logout_redirect_uri", "state"}


async def test_the_query_of_the_end_of_session_is_kept(on: SingleSignOn) -> None:
    on.provider.document["end_session_endpoint"] = f"{END_SESSION}?policy=b"

    _, parameters = await end_there(await on.signed_in())

    assert parameters["policy"] == ["b"]
    assert parameters["client_id"] == [CLIENT_ID]


async def test_the_way_back_is_the_public_address(data_dir: Path, clock: StillClock) -> None:
    label = {"label": "Example Accounts"}
    async with open_single_sign_on(data_dir, clock, oidc=label, public_url=HTTPS_URL) as on:
        browser = await on.signed_in()
        form = (await browser.get("/new")).page.form("/logout")
        await browser.submit(form)
        location = (await browser.get("/login/oidc/logout", {"X-Forwarded-Host": "evil.example"})).headers[
            "Location"
        ]

    assert parse_qs(urlsplit(location).query)["post_logout_redirect_uri"] == [f"{HTTPS_URL}/login"]


@pytest.mark.parametrize(
    "query", ["", "?state=unknown", "?state=", "?state=a&state=b", "?error=server_error"]
)
async def test_whatever_the_provider_sends_back_shows_the_sign_in_page(on: SingleSignOn, query: str) -> None:
    waiting = on.browser()
    callback = on.provider.authorize(await on.begin(waiting))
    browser = await on.signed_in()
    await end_there(browser)

    answer = await on.come_back(browser, f"{LOOPBACK_URL}/login{query}")

    assert answer.status == 200
    assert answer.page.text("h1") == "Sign in to get your certificate"
    assert (await on.come_back(waiting, callback)).status == 303


@pytest.mark.parametrize(
    "path",
    [
        "/login/oidc/backchannel-logout",
        "/login/oidc/frontchannel-logout",
        "/backchannel-logout",
        "/logout/oidc",
    ],
)
async def test_the_provider_cannot_end_sessions_by_itself(on: SingleSignOn, path: str) -> None:
    browser = await on.signed_in()
    (token,) = on.provider.id_tokens

    for method in ("GET", "POST"):
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await on.site.program().send(method, path, headers, f"logout_token={token}".encode())
        assert answer.status == 404
    assert (await browser.get("/new")).status == 200
