"""What never reaches the framework. `test_raw_http` shows it over sockets."""

import logging
from pathlib import Path
from typing import Any

import pytest

from certbob.auth.local import ADDRESS_LIMIT
from certbob.web.guard import PRESENTED, Guard
from tests.support.web import ADA, Person, Site, StillClock, open_site


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 303),
        ("localhost:8000", 303),
        ("LOCALHOST:8000", 303),
        ("evil.example", 400),
        ("127.0.0.1:8000.evil.example", 400),
        ("127.0.0.1", 400),
        ("127.0.0.1:8001", 400),
        (None, 400),
    ],
)
async def test_only_the_configured_name_is_answered(site: Site, host: str | None, status: int) -> None:
    answer = await site.browser().get("/", {"Host": host, "X-Forwarded-Host": "evil.example"})

    assert answer.status == status
    assert "evil.example" not in answer.headers.get("Location", "")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_behind_a_proxy_a_probe_on_the_machine_is_answered(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock, public_url="https://cert.example.org") as site:
        local = {"Host": "127.0.0.1:8000"}

        assert (await site.program().get("/healthz", local)).status == 200
        assert (await site.program().get("/readyz", local)).status == 200
        assert (await site.program().get("/login", local)).status == 400


async def test_oversized_targets_headers_and_strange_methods_are_refused(site: Site) -> None:
    browser = site.browser()

    assert (await browser.get("/login?x=" + "a" * 4096)).status == 400
    assert (await browser.get("/login", {"X-Big": "a" * 16384})).status == 400
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT"):
        assert (await browser.send(method, "/login")).status == 400


SPELLINGS = (
    ("203.0.113.9", "203.0.113.9"),
    (" 203.0.113.9 ", "203.0.113.9"),
    ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
    ("203.0.113.9, 10.0.0.7", "203.0.113.9"),
    ("203.0.113.9, 10.0.0.7, 10.0.0.8", "203.0.113.9"),
    ("evil, 203.0.113.9", "203.0.113.9"),
    ("203.0.113.9, evil", "10.0.0.1"),
    ("203.0.113.9:443", "10.0.0.1"),
    ("2001:db8::7", "2001:db8::7"),
    ("10.0.0.9", "10.0.0.9"),
    ("", "10.0.0.1"),
    (",,", "10.0.0.1"),
)


@pytest.mark.parametrize(("forwarded", "seen"), SPELLINGS)
async def test_a_trusted_proxy_tells_the_address(forwarded: str, seen: str) -> None:
    assert await _seen("10.0.0.1", [(b"x-forwarded-for", forwarded.encode())]) == seen
    assert await _seen("::ffff:10.0.0.1", [(b"x-forwarded-for", forwarded.encode())]) in (
        seen,
        "::ffff:10.0.0.1",
    )


@pytest.mark.parametrize(("forwarded", "_seen_then"), SPELLINGS)
async def test_nobody_else_does(forwarded: str, _seen_then: str) -> None:
    assert await _seen("192.0.2.1", [(b"x-forwarded-for", forwarded.encode())]) == "192.0.2.1"


async def test_a_header_with_an_underscore_is_not_the_proxys() -> None:
    scope = await _behind_the_guard("10.0.0.1", [(b"x_forwarded_for", b"203.0.113.9")])

    assert scope is not None
    assert scope["client"] == ("10.0.0.1", 1)
    assert [name for name, _ in scope["headers"]] == [b"host"]


async def test_whoever_is_not_trusted_cannot_choose_the_address_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    spoofed = ("Remote-Addr", "X-Forwarded-For", "X_Forwarded_For", "Forwarded", "X-Real-IP", "Client-IP")
    with caplog.at_level(logging.INFO, "certbob.access"):
        await site.program().get("/healthz", dict.fromkeys(spoofed, "203.0.113.9"))

    assert caplog.messages[-1].startswith("192.0.2.7 GET /healthz 200 ")


async def test_behind_a_trusted_proxy_tries_are_counted_for_the_person(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_site(data_dir, clock, trusted_proxies=("192.0.2.0/24",)) as site:
        for number in range(ADDRESS_LIMIT):
            browser = site.browser(X_Forwarded_For=f"10.9.9.{number}, 203.0.113.9")
            await browser.sign_in(Person(f"nobody{number}", "wrong", ""))

        assert (await site.browser(X_Forwarded_For="203.0.113.9").sign_in(ADA)).status == 429
        assert (await site.browser(X_Forwarded_For="203.0.113.10").sign_in(ADA)).status == 303


CERTIFICATE = (b"client-cert", b"MII")


@pytest.mark.parametrize(
    ("peer", "headers", "presented"),
    [
        ("10.0.0.1", [CERTIFICATE], "MII"),
        ("::ffff:10.0.0.1", [CERTIFICATE], "MII"),
        ("10.0.0.1", [CERTIFICATE, (b"x-forwarded-for", b"203.0.113.9")], "MII"),
        ("10.0.0.1", [], ""),
        ("10.0.0.1", [(b"client_cert", b"forged")], ""),
        ("10.0.0.1", [CERTIFICATE, (b"client-cert", b"forged")], ""),
        ("10.0.0.1", [(b"client-cert", b"forged"), CERTIFICATE], ""),
        ("203.0.113.9", [CERTIFICATE], None),
        ("203.0.113.9", [CERTIFICATE, (b"x-forwarded-for", b"10.0.0.1")], None),
        ("203.0.113.9", [], None),
    ],
)
async def test_a_certificate_is_believed_from_a_trusted_proxy_alone(
    peer: str, headers: list[tuple[bytes, bytes]], presented: str | None
) -> None:
    scope = await _behind_the_guard(peer, headers, certificate_header="client-cert")

    assert scope is not None
    assert scope.get(PRESENTED) == presented
    assert b"cert" not in b"".join(name for name, _ in scope["headers"])


async def test_no_header_tells_a_certificate_unless_it_is_configured() -> None:
    scope = await _behind_the_guard("10.0.0.1", [CERTIFICATE])

    assert scope is not None
    assert PRESENTED not in scope


@pytest.mark.parametrize("name", [b"host", b":authority"])
@pytest.mark.parametrize("value", [b"a.example", b"evil.example"])
async def test_a_name_told_twice_is_refused(name: bytes, value: bytes) -> None:
    assert await _behind_the_guard("192.0.2.1", [(name, value)]) is None


async def _seen(peer: str, headers: list[tuple[bytes, bytes]]) -> str:
    """The address that an application behind the guard sees."""
    scope = await _behind_the_guard(peer, headers)
    assert scope is not None
    return str(scope["client"][0])


async def _behind_the_guard(
    peer: str, headers: list[tuple[bytes, bytes]], certificate_header: str | None = None
) -> dict[str, Any] | None:
    """What arrives at the application; None when the guard has refused."""
    arrived = []

    async def application(scope: dict[str, Any], receive: object, send: object) -> None:
        arrived.append(scope)

    async def send(message: object) -> None:
        assert not arrived

    guard = Guard(
        application,
        public_url="https://a.example",
        trusted_proxies=["10.0.0.0/8"],
        headers=(),
        certificate_header=certificate_header,
    )
    scope = {
        "type": "http",
        "method": "GET",
        "http_version": "1.1",
        "scheme": "https",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"a.example"), *headers],
        "client": (peer, 1),
    }
    await guard(scope, None, send)
    return arrived[0] if arrived else None
