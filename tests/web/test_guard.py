"""What never reaches the framework; most of it over a real socket against the real server."""

from pathlib import Path

import pytest

from certbob.web.guard import Guard
from tests.support.served import Served, serve
from tests.support.web import Site, StillClock, open_site


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
    assert await _seen("10.0.0.1", [(b"x_forwarded_for", b"203.0.113.9")]) == "10.0.0.1"


async def _seen(peer: str, headers: list[tuple[bytes, bytes]]) -> str:
    """The address that an application behind the guard sees."""
    found = []

    async def application(scope: dict[str, tuple[str, int]], receive: object, send: object) -> None:
        found.append(scope["client"][0])

    guard = Guard(application, public_url="https://a.example", trusted_proxies=["10.0.0.0/8"], headers=())
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
    await guard(scope, None, None)
    return found[0]


def _request(served: Served, *lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"GET /login HTTP/1.1", b"Host: " + served.host, *lines, b"", b""]) + body


async def test_malformed_requests_are_refused_and_the_server_lives(data_dir: Path, clock: StillClock) -> None:
    async with serve(data_dir, clock) as served:
        host = b"Host: " + served.host
        post = b"POST /login HTTP/1.1\r\n" + host + b"\r\n"
        smuggled = b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n\r\n"
        corpus = (
            post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
            post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + b"hello",
            post + b"Content-Length: +5\r\n\r\nhello",
            post + b"Content-Length: 0x5\r\n\r\nhello",
            post + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            b"GET /login HTTP/1.1\r\n\r\n",
            b"GET /login HTTP/1.1\r\n" + host + b"\r\n" + host + b"\r\n\r\n",
            b"GET http://evil.example/login HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"GET /login HTTP/3.0\r\n" + host + b"\r\n\r\n",
            b"GET /login\r\n\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
            b"TRACE / HTTP/1.1\r\n" + host + b"\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /login HTTP/1.1\r\n" + host + b"\r\nX : y\r\n\r\n",
            b"GET /login HTTP/1.1\r\n" + host + b"\r\nX: a\r\n b\r\n\r\n",
            b"GET /lo\x00gin HTTP/1.1\r\n" + host + b"\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n" + host + b"\r\n\r\n",
            b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + host + b"\r\n\r\n",
            b"GET /login HTTP/1.1\r\n" + host + b"\r\nX: " + b"a" * 120000 + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /login HTTP/1.1\r\nHost: ",
            b"GET /login HTTP/1.1\r\n" + host + b"\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            b"GET /login HTTP/1.1\r\n" + host + b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )

        for request in corpus:
            answer = await served.exchange(request)
            status = answer[9:10]
            assert not answer or status == b"4" or b"HTTP/1.1 200" in answer, request[:80]
            assert b"ok\n" not in answer, f"smuggled through: {request[:80]!r}"
            assert b"Traceback" not in answer
        assert await served.is_alive()


async def test_slow_requests_are_cut_off_while_others_are_served(data_dir: Path, clock: StillClock) -> None:
    async with serve(data_dir, clock) as served:
        head = b"POST /login HTTP/1.1\r\nHost: " + served.host + b"\r\nContent-Length: 50\r\n"
        head += b"Content-Type: application/x-www-form-urlencoded\r\nOrigin: http://" + served.host + b"\r\n"

        slow_body = await served.exchange(head + b"\r\n", b"user")
        slow_head = await served.exchange(head)

        assert slow_body.startswith(b"HTTP/1.1 4")
        assert slow_head == b""
        assert await served.is_alive()


async def test_the_server_does_not_tell_what_it_is(data_dir: Path, clock: StillClock) -> None:
    async with serve(data_dir, clock) as served:
        answer = await served.exchange(_request(served, b"Connection: close"))

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nserver:" not in answer.lower()
