"""A provider that answers wrongly, late or not at all: a clean page, and nobody else notices."""

import gzip
import json
import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile_provider import (
    ISSUER,
    MISSING,
    HostileProvider,
    Reply,
    Request,
    json_reply,
)
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on
from tests.support.web import ADA, StillClock

MB = 1024 * 1024
ENDPOINTS = ("token", "jwks", "userinfo")


def to_listener(status: int) -> Reply:
    return Reply(status, headers={"Location": f"{ISSUER}/listener"})


FAULTS: dict[str, Reply] = {
    "status 500": Reply(500, b"{}"),
    "status 502 with a page": Reply(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
    "status 401": Reply(401, b"{}", {"WWW-Authenticate": 'Bearer error="invalid_token"'}),
    "status 204": Reply(204),
    "a page": Reply(200, b"<html>Sign in first</html>", {"Content-Type": "text/html"}),
    "nothing": Reply(200),
    "a list": json_reply([]),
    "null": json_reply(None),
    "an empty object": json_reply({}),
    "JSON that is cut off": Reply(200, b'{"keys": [{"kty": "RS'),
    "a name twice": Reply(200, b'{"sub": "a", "sub": "a"}'),
    "not UTF-8": Reply(200, b'{"sub": "\xff"}'),
    "JSON nested 100 000 deep": Reply(200, b'{"keys": ' + b"[" * 100_000),
    "more than 1 MB": Reply(200, b"{" + b" " * MB + b"}"),
    "a redirect": to_listener(302),
    "a redirect that keeps the method": to_listener(307),
    "a redirect for ever": to_listener(308),
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_wrong_answer_lets_nobody_in(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, endpoint: str, fault: Reply
) -> None:
    on.provider.answers[endpoint] = fault

    await on.assert_refused(caplog)

    assert on.provider.asked("listener") == []
    assert (await on.browser().sign_in(ADA)).status == 303
    del on.provider.answers[endpoint]
    await on.signed_in()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_an_answer_is_read_up_to_1_mb(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, endpoint: str
) -> None:
    def padded(request: Request, size: int = MB) -> Reply:
        good = on.provider.good(request)
        return replace(good, body=good.body.ljust(size))

    on.provider.answers[endpoint] = lambda request: padded(request, MB + 1)
    await on.assert_refused(caplog)

    on.provider.answers[endpoint] = padded
    await on.signed_in()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_nothing_is_unpacked(on: SingleSignOn, caplog: pytest.LogCaptureFixture, endpoint: str) -> None:
    """Whatever comes compressed was not asked for, and 20 MB fit into 20 kB of it."""

    def packed(request: Request) -> Reply:
        good = on.provider.good(request)
        headers = {**good.headers, "Content-Encoding": "gzip"}
        return replace(good, body=gzip.compress(good.body.ljust(20 * MB)), headers=headers)

    on.provider.answers[endpoint] = packed

    await on.assert_refused(caplog)

    assert on.provider.asked(endpoint)[0].headers.get("accept-encoding", "identity") == "identity"


TOKEN_ANSWERS: dict[str, dict[str, Any]] = {
    "no ID token": {"id_token": MISSING},
    "ID token null": {"id_token": None},
    "no access token": {"access_token": MISSING},
    "an access token that is a number": {"access_token": 1},
    "an empty access token": {"access_token": ""},
    "an access token with a line break": {"access_token": "a\r\nX-Header: b"},
    "no token type": {"token_type": MISSING},
    "token type mac": {"token_type": "mac"},
    "a list of token types": {"token_type": ["Bearer"]},
    "an error beside tokens": {"error": "server_error"},
    "tokens for ever and a day": {"expires_in": float("inf")},
}


@pytest.mark.parametrize("changes", TOKEN_ANSWERS.values(), ids=TOKEN_ANSWERS)
async def test_a_wrong_token_answer_lets_nobody_in(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    on.provider.granted = changes

    await on.assert_refused(caplog)


async def test_a_token_answer_that_can_be_read_in_two_ways_is_refused(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture
) -> None:
    def twice(request: Request) -> Reply:
        good = on.provider.good(request)
        return replace(good, body=good.body.replace(b"{", b'{"id_token": "a.b.c", ', 1))

    on.provider.answers["token"] = twice

    await on.assert_refused(caplog)


async def test_token_type_is_read_in_any_case_and_what_was_not_asked_for_is_dropped(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"refresh_token": "refresh-me-not", "expires_in": "300", "scope": None}
    on.provider.granted = {"token_type": "bEARER", **extra}

    await on.signed_in()

    assert "offline_access" not in await on.begin(on.browser())
    assert "refresh-me-not" not in on.dump() + caplog.text
    assert [token for token in on.provider.access_tokens if token in on.dump()] == []


USERINFO: dict[str, dict[str, Any]] = {
    "of somebody else": {"sub": "somebody else"},
    "without sub": {"sub": MISSING},
    "with a sub that is a list": {"sub": ["248289761001"]},
}


@pytest.mark.parametrize("changes", USERINFO.values(), ids=USERINFO)
async def test_userinfo_must_be_about_the_same_person(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    on.provider.userinfo = changes

    await on.assert_refused(caplog)


async def test_signed_userinfo_is_refused(on: SingleSignOn, caplog: pytest.LogCaptureFixture) -> None:
    token = on.provider.id_token("nonce", "access")
    on.provider.answers["userinfo"] = Reply(200, token.encode(), {"Content-Type": "application/jwt"})

    await on.assert_refused(caplog)


async def test_the_access_token_travels_in_the_header_and_the_secret_to_the_token_endpoint_only(
    on: SingleSignOn,
) -> None:
    await on.signed_in()

    (userinfo,), (token,) = on.provider.asked("userinfo"), on.provider.asked("token")
    assert userinfo.headers["authorization"].startswith("Bearer ")
    assert (userinfo.query, userinfo.body) == ({}, b"")
    assert token.headers["authorization"].startswith("Basic ")
    assert token.query == {}
    assert "client_secret" not in token.form
    assert [r.path for r in on.provider.requests if "authorization" in r.headers] == ["/token", "/userinfo"]


@pytest.mark.parametrize(
    ("offered", "method"),
    [
        (["client_secret_post"], "post"),
        (["private_key_jwt", "client_secret_post"], "post"),
        (["client_secret_post", "client_secret_basic"], "basic"),
        (None, "basic"),
    ],
)
async def test_the_secret_goes_the_way_that_the_provider_takes(
    on: SingleSignOn, offered: list[str] | None, method: str
) -> None:
    on.provider.document["token_endpoint_auth_methods_supported"] = offered
    if offered is None:
        del on.provider.document["token_endpoint_auth_methods_supported"]

    await on.signed_in()

    (asked,) = on.provider.asked("token")
    assert ("authorization" in asked.headers, "client_secret" in asked.form) == (
        method == "basic",
        method == "post",
    )


async def test_without_a_secret_none_is_sent(tmp_path: Path, clock: StillClock) -> None:
    provider = HostileProvider(clock, client_secret=None)
    provider.document["token_endpoint_auth_methods_supported"] = ["none"]
    async with open_single_sign_on(tmp_path / "data", clock, provider) as on:
        await on.signed_in()


async def test_a_wrong_secret_is_told_as_ours_on_the_page_and_to_monitoring(
    on: SingleSignOn, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    right, on.provider.client_secret = on.provider.client_secret, "another one"

    for _ in range(3):
        answer = await on.sign_in(on.browser())
        assert answer.status == 400
        assert "misconfigured" in answer.page.text()
    ready = await on.site.program().get("/readyz")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ready.status == 503
    assert "invalid_client" in json.loads(ready.text)["checks"]["oidc"]
    assert len(warnings) == 1
    clock.advance(seconds=61)
    await on.sign_in(on.browser())
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2

    on.provider.client_secret = right
    await on.signed_in()
    assert (await on.site.program().get("/readyz")).status == 200
    assert str(right) not in caplog.text


async def test_a_code_that_the_provider_refuses_is_no_misconfiguration(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = {"error": "invalid_grant", "error_description": "<b>expired</b>"}
    on.provider.answers["token"] = json_reply(refusal, 400)

    answer = await on.assert_refused(caplog)

    assert "misconfigured" not in answer.text
    assert "expired" not in answer.text
    assert (await on.site.program().get("/readyz")).status == 200


@pytest.mark.parametrize(
    ("ahead", "words"), [(5, "5 minutes ahead"), (-12, "12 minutes behind"), (1500, "1500 minutes ahead")]
)
async def test_a_provider_whose_clock_differs_is_told_by_how_much(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, ahead: int, words: str
) -> None:
    on.provider.ahead = timedelta(minutes=ahead)

    answer = await on.assert_refused(caplog)

    assert words in answer.page.text()


@pytest.mark.parametrize(("claim", "later"), [("nbf", 60), ("exp", -10)])
async def test_times_that_no_clock_explains_are_not_blamed_on_one(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, claim: str, later: int
) -> None:
    on.provider.claims[claim] = on.provider.now(minutes=later)

    answer = await on.assert_refused(caplog)

    assert "clock" not in answer.page.text()
