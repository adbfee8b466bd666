"""What a browser comes back with from the identity provider: it counts in that browser, in time, and once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.support.hostile_provider import ISSUER, HostileProvider
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on, refusals, with_query
from tests.support.web import LOOPBACK_URL, Client, StillClock


@pytest.fixture
async def on(data_dir: Path, clock: StillClock) -> AsyncIterator[SingleSignOn]:
    async with open_single_sign_on(data_dir, clock) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def begun(on: SingleSignOn) -> tuple[Client, str]:
    """A browser that agreed at the provider, and where it is sent back to."""
    browser = on.browser()
    return browser, on.provider.authorize(await on.begin(browser))


def parameters(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


# Each changes the address that a browser comes back with.
BAD_CALLBACKS: dict[str, Callable[[str], str]] = {
    "no state": lambda url: with_query(url, without=("state",)),
    "an empty state": lambda url: with_query(url, state=""),
    "another state": lambda url: with_query(url, state="A" * 43),
    "the state in upper case": lambda url: with_query(url, state=parameters(url)["state"][0].swapcase()),
    "the state twice": lambda url: f"{url}&state={parameters(url)['state'][0]}",
    "a second state": lambda url: f"{url}&state=A",
    "no code": lambda url: with_query(url, without=("code",)),
    "an empty code": lambda url: with_query(url, code=""),
    "the code twice": lambda url: f"{url}&code={parameters(url)['code'][0]}",
    "a second code": lambda url: f"{url}&code=A",
    "another code": lambda url: with_query(url, code="A" * 22),
    "a code of 3 kB": lambda url: with_query(url, code="A" * 3000),
    "a code with a line break": lambda url: with_query(url, code="A\r\nB: c"),
    "a code that is not UTF-8": lambda url: with_query(url, without=("code",)) + "&code=%ff",
    "another issuer": lambda url: with_query(url, iss="https://id.example.net"),
    "an issuer with a slash at its end": lambda url: with_query(url, iss=f"{ISSUER}/"),
    "an empty issuer": lambda url: with_query(url, iss=""),
    "two issuers": lambda url: f"{with_query(url, iss=ISSUER)}&iss={quote('https://id.example.net')}",
    "a fragment's answer": lambda url: with_query(url, without=("code",), id_token="a.b.c", access_token="x"),
    "code and error": lambda url: with_query(url, error="access_denied"),
}
TOLD_TO_THE_PROVIDER = {"another code", "a code with a line break", "a code that is not UTF-8"}
PENDING_STAYS = {
    "no state",
    "an empty state",
    "another state",
    "the state in upper case",
    "the state twice",
    "a second state",
}


@pytest.mark.parametrize("case", BAD_CALLBACKS)
async def test_a_wrong_answer_of_the_browser_lets_nobody_in(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    browser, callback = await begun(on)

    answer = await on.come_back(browser, BAD_CALLBACKS[case](callback))

    assert answer.status == 400
    assert "certbob" not in browser.cookies
    assert len(refusals(caplog)) == 1
    assert len(on.provider.asked("token")) == (case in TOLD_TO_THE_PROVIDER)
    assert answer.page.one("a[@class='button']") is not None
    # A state that is not one of this browser's must not spend that of an honest sign-in.
    assert (await on.come_back(browser, callback)).status == (303 if case in PENDING_STAYS else 400)


async def test_the_issuer_in_the_answer_is_held_against_the_configured_one(on: SingleSignOn) -> None:
    on.provider.document["authorization_response_iss_parameter_supported"] = True
    browser, callback = await begun(on)
    assert parameters(callback)["iss"] == [ISSUER]
    assert (await on.come_back(browser, callback)).status == 303

    browser, callback = await begun(on)
    assert (await on.come_back(browser, with_query(callback, without=("iss",)))).status == 400


async def test_a_callback_without_the_cookie_lets_nobody_in(on: SingleSignOn) -> None:
    _, callback = await begun(on)

    assert (await on.come_back(on.browser(), callback)).status == 400
    assert on.provider.asked("token") == []


async def test_nobody_is_signed_in_by_the_link_of_somebody_else(on: SingleSignOn) -> None:
    """Login CSRF: Mallory sends Ada the end of a sign-in of her own."""
    _, callback = await begun(on)
    ada, own = await begun(on)

    answer = await on.come_back(ada, callback)

    assert answer.status == 400
    assert "certbob" not in ada.cookies
    assert on.provider.asked("token") == []
    assert (await on.come_back(ada, own)).status == 303


async def test_a_code_of_somebody_else_is_of_no_use(on: SingleSignOn) -> None:
    """Code injection: PKCE and nonce bind a code to the sign-in that it was asked for in."""
    _, stolen = await begun(on)
    mallory, own = await begun(on)

    answer = await on.come_back(mallory, with_query(own, code=parameters(stolen)["code"][0]))

    assert answer.status == 400
    assert "certbob" not in mallory.cookies


async def test_an_answer_never_goes_to_a_provider_that_was_not_asked(
    on: SingleSignOn, data_dir: Path, clock: StillClock
) -> None:
    browser, callback = await begun(on)
    other = HostileProvider(clock, issuer="https://id.example.net")
    async with open_single_sign_on(data_dir, clock, other) as later:
        there = later.browser()
        there.cookies = browser.cookies

        assert (await later.come_back(there, callback)).status == 400
        assert other.asked("token") == []


async def test_a_sign_in_is_finished_once(on: SingleSignOn) -> None:
    browser, callback = await begun(on)
    assert (await on.come_back(browser, callback)).status == 303

    assert (await on.come_back(browser, callback)).status == 400
    assert (await browser.get("/new")).status == 200
    assert len(on.provider.asked("token")) == 1


async def test_of_two_that_finish_it_at_the_same_moment_one_does(on: SingleSignOn) -> None:
    browser, callback = await begun(on)

    answers = await asyncio.gather(*(on.come_back(browser, callback) for _ in range(5)))

    assert sorted(answer.status for answer in answers) == [303, 400, 400, 400, 400]


async def test_a_code_that_was_used_is_of_no_use_again(on: SingleSignOn) -> None:
    browser, first = await begun(on)
    await on.come_back(browser, first)
    browser, second = await begun(on)

    answer = await on.come_back(browser, with_query(second, code=parameters(first)["code"][0]))

    assert answer.status == 400


@pytest.mark.parametrize(("minutes", "status"), [(9, 303), (11, 400)])
async def test_a_sign_in_has_ten_minutes(
    on: SingleSignOn, clock: StillClock, minutes: int, status: int
) -> None:
    browser = on.browser()
    location = await on.begin(browser)
    clock.advance(minutes=minutes)

    answer = await on.come_back(browser, on.provider.authorize(location))

    assert answer.status == status


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_the_provider_cannot_post_its_answer(on: SingleSignOn, method: str) -> None:
    browser, callback = await begun(on)
    path, _, query = callback.removeprefix(LOOPBACK_URL).partition("?")
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": ISSUER}

    answer = await browser.send(method, path, headers, query.encode())

    assert answer.status == (405 if method == "POST" else 400)
    assert "certbob" not in browser.cookies
    assert on.provider.asked("token") == []


ERRORS = {
    "access_denied": "cancelled it",
    "login_required": "sign in there",
    "temporarily_unavailable": "too busy",
    "server_error": "a fault",
    "unauthorized_client": "misconfigured",
    "<script>alert(1)</script>": "misconfigured",
    "": "",
}


@pytest.mark.parametrize(("error", "words"), ERRORS.items())
@pytest.mark.parametrize(
    "description",
    [
        "<script>alert(1)</script>",
        "x" * 2500,
        "a\r\nSet-Cookie: certbob=x",
        "Call 555-0100 now",
        "\x1b[31m\0",
    ],
    ids=ascii,
)
async def test_what_the_provider_says_about_an_error_is_never_shown(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, error: str, words: str, description: str
) -> None:
    browser, callback = await begun(on)
    refusal = with_query(
        callback,
        without=("code",),
        error=error,
        error_description=description,
        error_uri="https://evil.example",
    )

    answer = await on.come_back(browser, refusal)

    assert answer.status == 400
    assert words in answer.page.text()
    shown = answer.text + str(answer.headers)
    assert [
        text for text in ("alert(1)", "x" * 50, "certbob=x", "555-0100", "\x1b", "evil") if text in shown
    ] == []
    (line,) = refusals(caplog)
    assert line.isprintable()
    assert len(line) < 700
    assert on.provider.asked("token") == []
    assert (await on.come_back(browser, callback)).status == 400


async def test_two_tabs_can_both_finish(on: SingleSignOn) -> None:
    browser = on.browser()
    first, second = [on.provider.authorize(await on.begin(browser)) for _ in range(2)]

    assert (await on.come_back(browser, second)).status == 303
    assert (await on.come_back(browser, first)).status == 303
    assert (await browser.get("/new")).status == 200
    for callback in (first, second):
        assert (await on.come_back(browser, callback)).status == 400


@pytest.mark.parametrize("pause", [0, 1])
async def test_of_six_begun_sign_ins_the_oldest_is_forgotten(
    on: SingleSignOn, clock: StillClock, pause: int
) -> None:
    browser = on.browser()
    callbacks = []
    for _ in range(6):
        callbacks.append(on.provider.authorize(await on.begin(browser)))
        clock.advance(seconds=pause)

    statuses = [(await on.come_back(browser, callback)).status for callback in callbacks]

    assert statuses == [400, 303, 303, 303, 303, 303]


async def test_one_browser_does_not_push_out_the_sign_ins_of_others(on: SingleSignOn) -> None:
    patient, callback = await begun(on)
    for _ in range(20):
        await begun(on)

    assert (await on.come_back(patient, callback)).status == 303


async def test_a_sign_in_begun_at_one_process_is_finished_at_another(
    on: SingleSignOn, data_dir: Path, clock: StillClock
) -> None:
    browser, callback = await begun(on)
    async with open_single_sign_on(data_dir, clock, on.provider) as other:
        there = other.browser()
        there.cookies = browser.cookies

        assert (await other.come_back(there, callback)).status == 303
    assert (await on.come_back(browser, callback)).status == 400
