"""What a provider may say about itself, and that a sign-in does not begin where it is no good."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hostile_provider import ISSUER, MISSING, HostileProvider, Reply, json_reply
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on, refusals
from tests.support.web import ADA, StillClock

Change = Callable[[HostileProvider], object]

ADDRESSES = (
    "authorization_endpoint",
    "token_endpoint",
    "jwks_uri",
    "userinfo_endpoint",
    "end_session_endpoint",
)


def saying(**changes: object) -> Change:
    def change(provider: HostileProvider) -> None:
        provider.document.update(changes)
        for name in [name for name, value in changes.items() if value is MISSING]:
            del provider.document[name]

    return change


def answering(reply: Reply) -> Change:
    return lambda provider: provider.answers.update(discovery=reply)


def answering_text(edit: Callable[[str], str]) -> Change:
    def change(provider: HostileProvider) -> None:
        text = edit(json.dumps(provider.document))
        provider.answers["discovery"] = Reply(200, text.encode(), {"Content-Type": "application/json"})

    return change


USABLE: dict[str, Change] = {
    "of exactly 1 MB": answering_text(lambda text: text.ljust(1024 * 1024)),
    "with members that nobody knows": saying(colour="red", response_types_supported=["code", "id_token"]),
    "without a list of algorithms": saying(id_token_signing_alg_values_supported=MISSING),
    "without a list of PKCE methods": saying(code_challenge_methods_supported=MISSING),
    "without userinfo and end of session": saying(userinfo_endpoint=MISSING, end_session_endpoint=MISSING),
    "with an address that has a query": saying(authorization_endpoint=f"{ISSUER}/authorize?policy=b"),
    "as text/plain": answering_text(lambda text: text),
}

USELESS: dict[str, tuple[Change, str]] = {
    "without an issuer": (saying(issuer=MISSING), "issuer"),
    "of another issuer": (saying(issuer="https://id.example.net"), "https://id.example.net"),
    "of another tenant": (saying(issuer=f"{ISSUER}/tenant"), f"{ISSUER}/tenant"),
    "of the issuer with a slash at its end": (saying(issuer=f"{ISSUER}/"), "slash"),
    "of the issuer in upper case": (saying(issuer=ISSUER.upper()), "issuer"),
    "of a list of issuers": (saying(issuer=[ISSUER]), "issuer"),
    "without an authorization endpoint": (saying(authorization_endpoint=MISSING), "authorization_endpoint"),
    "without a token endpoint": (saying(token_endpoint=MISSING), "token_endpoint"),
    "without keys": (saying(jwks_uri=MISSING), "jwks_uri"),
    "with a number for an address": (saying(token_endpoint=1), "token_endpoint"),
    **{
        f"with an insecure {name}": (saying(**{name: f"http://id.example.org/{name}"}), name)
        for name in ADDRESSES
    },
    **{
        f"with {address!r} for an address": (saying(jwks_uri=address), "jwks_uri")
        for address in (
            "",
            "/jwks",
            "//id.example.org/jwks",
            "file:///etc/passwd",
            "https://",
            "https://[::1/jwks",
            "https://id.example.org:99999/jwks",
            "https://id.example.org:x/jwks",
            "https://id example.org/jwks",
            "https://999.1.1.1/jwks",
            "https://id.example.org/jwks\r\nX-Header: y",
            "javascript:alert(1)",
        )
    },
    "with a line break in an address of the browser": (
        saying(authorization_endpoint=f"{ISSUER}/authorize\r\nSet-Cookie: certbob=x"),
        "authorization_endpoint",
    ),
    "without response types": (saying(response_types_supported=MISSING), "code"),
    "without the code flow": (saying(response_types_supported=["id_token", "code token"]), "code"),
    "with algorithms that are not ours": (
        saying(id_token_signing_alg_values_supported=["none", "HS256", "RS1"]),
        "RS256",
    ),
    "with no algorithms": (saying(id_token_signing_alg_values_supported=[]), "RS256"),
    "with algorithms of a wrong kind": (saying(id_token_signing_alg_values_supported={"a": 1}), "RS256"),
    "that is HTML": (answering(Reply(200, b"<html>Sign in first</html>", {"Content-Type": "text/html"})), ""),
    "that is empty": (answering(Reply(200)), ""),
    "that is a list": (answering(json_reply([])), ""),
    "that is null": (answering(json_reply(None)), ""),
    "that is cut off": (answering_text(lambda text: text[:-9]), ""),
    "that has a name twice": (answering_text(lambda text: text[:-1] + f', "issuer": "{ISSUER}"}}'), ""),
    "that is not UTF-8": (answering(Reply(200, b'{"issuer": "\xff"}')), ""),
    "that is nested 100 000 deep": (answering(Reply(200, b"[" * 100_000)), ""),
    "of 1 MB and a byte": (answering_text(lambda text: text.ljust(1024 * 1024 + 1)), ""),
    "with status 204": (answering(Reply(204)), "204"),
    "with status 404": (answering(Reply(404, b"{}")), "404"),
    "with status 500": (answering(Reply(500, b"{}")), "500"),
    "with status 302": (answering(Reply(302, headers={"Location": f"{ISSUER}/listener"})), "302"),
    "with status 308": (answering(Reply(308, headers={"Location": f"{ISSUER}/listener"})), "308"),
}


@pytest.mark.parametrize("change", USABLE.values(), ids=USABLE)
async def test_a_usable_document(on: SingleSignOn, change: Change) -> None:
    change(on.provider)

    await on.signed_in()


@pytest.mark.parametrize(("change", "reason"), USELESS.values(), ids=USELESS)
async def test_a_useless_document_lets_no_sign_in_begin(
    on: SingleSignOn, change: Change, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    change(on.provider)
    browser = on.browser()

    answer = await browser.follow("/login/oidc")

    assert answer.status == 503
    assert "does not answer right now" in answer.page.text()
    assert "Location" not in answer.headers
    assert len(refusals(caplog)) == 1
    assert {request.path for request in on.provider.requests} == {"/.well-known/openid-configuration"}
    ready = await on.site.program().get("/readyz")
    assert ready.status == 503
    told = json.loads(ready.text)["checks"]
    assert told["ca"] == told["storage"] == "ok"
    assert told["oidc"] != "ok"
    assert reason in told["oidc"]
    assert (await on.site.program().get("/healthz")).status == 200
    assert (await browser.sign_in(ADA)).status == 303


async def test_a_list_of_pkce_methods_without_s256_is_only_told(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture
) -> None:
    on.provider.document["code_challenge_methods_supported"] = ["plain"]

    await on.signed_in()

    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "S256" in warning.getMessage()


async def test_keys_on_another_host_are_told_and_used(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture
) -> None:
    on.provider.document["jwks_uri"] = "https://keys.example.org/jwks"

    await on.signed_in()

    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "keys.example.org" in warning.getMessage()


@pytest.mark.parametrize("issuer", ["https://id.example.org/", "https://id.example.org/tenant/a", ISSUER])
async def test_the_document_is_asked_for_below_the_issuer(
    tmp_path: Path, clock: StillClock, issuer: str
) -> None:
    provider = HostileProvider(clock, issuer=issuer)
    async with open_single_sign_on(tmp_path / "data", clock, provider) as on:
        await on.signed_in()

    (asked,) = provider.asked("discovery")
    assert asked.path == issuer.removeprefix(ISSUER).rstrip("/") + "/.well-known/openid-configuration"


async def test_the_query_of_an_address_is_kept(on: SingleSignOn) -> None:
    on.provider.document["authorization_endpoint"] = f"{ISSUER}/authorize?policy=b"

    location = await on.begin(on.browser())

    assert location.startswith(f"{ISSUER}/authorize?policy=b&")


async def test_the_last_good_document_stays_in_use_while_the_new_one_is_bad(
    on: SingleSignOn, clock: StillClock
) -> None:
    await on.signed_in()
    on.provider.answers["discovery"] = json_reply({"issuer": "https://evil.example"})
    clock.advance(minutes=2)

    await on.signed_in()

    assert len(on.provider.asked("discovery")) > 1


async def test_a_provider_that_was_away_is_asked_again_but_not_by_every_click(
    on: SingleSignOn, clock: StillClock
) -> None:
    on.provider.answers["discovery"] = Reply(503)
    browser = on.browser()
    for _ in range(20):
        assert (await browser.follow("/login/oidc")).status == 503
    assert len(on.provider.asked("discovery")) == 1
    for _ in range(300):
        clock.advance(seconds=1)
        await browser.follow("/login/oidc")
    assert 8 <= len(on.provider.asked("discovery")) <= 12  # after 1, 2, 4, 8, 16, 32, then every 60 s

    del on.provider.answers["discovery"]
    clock.advance(minutes=1, seconds=10)

    await on.signed_in()
    assert json.loads((await on.site.program().get("/readyz")).text)["checks"]["oidc"] == "ok"


async def test_nobody_has_to_sign_in_for_monitoring_to_see_that_the_provider_is_away(
    on: SingleSignOn, clock: StillClock
) -> None:
    on.provider.answers["discovery"] = Reply(503)
    monitoring = on.site.program()
    await monitoring.get("/readyz")
    clock.advance(seconds=30)

    ready = await monitoring.get("/readyz")

    assert ready.status == 503
    assert "503" in json.loads(ready.text)["checks"]["oidc"]
