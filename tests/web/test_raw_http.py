"""Bytes that no browser sends, over sockets against the real server: refused or cut off, and nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.served import Served, serve
from tests.support.web import StillClock


@pytest.fixture
async def served(data_dir: Path, clock: StillClock) -> AsyncIterator[Served]:
    async with serve(data_dir, clock) as opened:
        yield opened


def get(*headers: bytes, target: bytes = b"/login", host: bytes = b"HOST") -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: " + host, *headers, b"", b""])


def post(*headers: bytes, body: bytes = b"") -> bytes:
    lines = (b"POST /login HTTP/1.1", b"Host: HOST", b"Origin: http://HOST", FORM, *headers, b"", body)
    return b"\r\n".join(lines)


FORM = b"Content-Type: application/x-www-form-urlencoded"
CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = get(target=b"/healthz")
CLOSED = 0  # without an answer

# What is sent, HOST being the server's name, and the status of the one answer. 501: RFC 9112 6.1.
CORPUS: dict[str, tuple[bytes, int]] = {
    "length and chunks": (post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks twice": (post(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n" + SMUGGLED), 501),
    "unknown coding": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + SMUGGLED), 501),
    "two lengths": (post(b"Content-Length: 5", b"Content-Length: 6", body=b"a=1&b" + SMUGGLED), 400),
    "signed length": (post(b"Content-Length: +5", body=b"a=1&b"), 400),
    "hexadecimal length": (post(b"Content-Length: 0x5", body=b"a=1&b"), 400),
    "negative length": (post(b"Content-Length: -5", body=b"a=1&b"), 400),
    "bad chunk size": (post(CHUNKED, body=b"zz\r\n\r\n"), 400),
    "bad chunk end": (post(CHUNKED, body=b"3\r\na=1XX0\r\n\r\n"), 400),
    "endless chunk extension": (post(CHUNKED, body=b"3;" + b"x" * 65536), 431),
    "folded header": (get(b"X: a\r\n b", b"Connection: close"), 200),  # h11 unfolds it, RFC 9112 5.2
    "blank before colon": (get(b"X : a"), 400),
    "no colon": (get(b"nothing"), 400),
    "NUL in header": (get(b"X: a\x00b"), 400),
    "no host": (b"GET /login HTTP/1.1\r\n\r\n", 400),
    "two hosts": (get(b"Host: evil.example"), 400),
    "foreign host": (get(host=b"evil.example"), 400),
    "foreign absolute target": (get(target=b"http://evil.example/login"), 400),
    "our absolute target, foreign host": (get(target=b"http://HOST/login", host=b"evil.example"), 400),
    "broken absolute target": (get(target=b"http://[/login"), 400),
    "target without a path": (get(target=b"?x"), 400),
    "asterisk": (get(target=b"*"), 400),
    "double slash": (get(b"Connection: close", target=b"//evil.example/login"), 404),
    "encoded dots": (get(b"Connection: close", target=b"/static/%2e%2e/%2e%2e/config.toml"), 404),
    "encoded slash": (get(b"Connection: close", target=b"/static/..%2fpyproject.toml"), 404),
    "encoded NUL": (get(b"Connection: close", target=b"/log%00in"), 404),
    "encoded rubbish": (get(b"Connection: close", target=b"/%ff%fe%zz"), 404),
    "NUL in target": (get(target=b"/log\x00in"), 400),
    "bytes in target": (get(target=b"/\xff"), 400),
    "20 kB target": (get(target=b"/" + b"a" * 20_000), 400),
    "120 kB header": (get(b"X: " + b"a" * 120_000), 431),
    "10 000 headers": (get(*(b"X%d: a" % number for number in range(10_000))), 431),
    "HTTP/0.9": (b"GET /login\r\n\r\n", 400),
    "HTTP/3.0": (get().replace(b"HTTP/1.1", b"HTTP/3.0"), 400),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 400),
    "TRACE": (get().replace(b"GET", b"TRACE"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "half a head": (b"GET /login HTTP/1.1\r\nHost: HO", CLOSED),
    "nothing": (b"", CLOSED),
    "compressed body": (post(b"Content-Encoding: gzip", b"Content-Length: 3", body=b"\x1f\x8b\x08"), 400),
    "body for GET": (get(b"Content-Length: 5", b"Connection: close") + b"hello", 200),
    "WebSocket": (
        get(
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        403,
    ),
}


async def test_what_is_malformed_gets_one_refusal_and_the_server_lives(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [request.replace(b"HOST", served.host) for request, _ in CORPUS.values()]

    with caplog.at_level(logging.WARNING):
        answers = await asyncio.gather(*map(served.exchange, requests))

    found = {name: int(answer[9:12] or b"0") for name, answer in zip(CORPUS, answers, strict=True)}
    assert found == {name: status for name, (_, status) in CORPUS.items()}
    for name, answer in zip(CORPUS, answers, strict=True):
        assert answer.count(b"HTTP/1.1 ") <= 1, f"{name}: a second answer"
        assert b"ok\n" not in answer, f"{name}: smuggled through"
        assert b"\r\nserver:" not in answer.lower(), name
    assert "Traceback" not in caplog.text
    assert await served.is_alive()


async def test_http2_without_tls_is_refused(data_dir: Path, clock: StillClock) -> None:
    upgrade = get(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"
    )
    async with serve(data_dir, clock, read_seconds=1) as served:
        refused, silent = await asyncio.gather(
            served.exchange(upgrade.replace(b"HOST", served.host)),
            served.exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        )

        assert b"HTTP/2 over TLS only" in refused
        assert b"<h1" not in refused
        assert silent.startswith(b"\x00\x00")  # a frame of settings, and then the end
        assert await served.is_alive()


async def test_a_bare_line_feed_is_at_most_another_spelling(served: Served) -> None:
    """h11 reads a bare LF as the end of a line (RFC 9112 2.2 allows it), so nothing may hide behind one."""
    answer = await served.exchange(
        b"GET /login HTTP/1.1\nHost: " + served.host + b"\nX: a\r\nHost: evil.example\r\n\r\n"
    )

    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("framing", [b"Content-Length: 17000000", CHUNKED])
async def test_a_huge_body_is_refused_before_it_is_read(served: Served, framing: bytes) -> None:
    piece = b"x" * 1_000_000
    if framing == CHUNKED:
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)

    answer = await served.exchange(post(framing).replace(b"HOST", served.host), *[piece] * 17)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert await served.is_alive()


async def test_whoever_is_slow_is_cut_off(served: Served) -> None:
    head = post(b"Content-Length: 50").replace(b"HOST", served.host)
    waits = head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    drops = [bytes([byte]) for byte in head]

    slow_head, slow_body, slow_drops, waiting = await asyncio.gather(
        served.exchange(*drops, pause=0.02),
        served.exchange(head, b"user"),
        served.exchange(head, *[b"x"] * 50, pause=0.02),
        served.exchange(waits),
    )

    assert slow_head == b""
    assert slow_body.startswith(b"HTTP/1.1 400 ")
    assert slow_drops.startswith(b"HTTP/1.1 400 ")
    assert waiting.startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 400 " in waiting
    assert await served.is_alive()


async def test_five_hundred_idle_connections_keep_nobody_out(data_dir: Path, clock: StillClock) -> None:
    async with serve(data_dir, clock, idle_seconds=30) as served, AsyncExitStack() as idle:
        for _ in range(500):
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            idle.callback(writer.close)

        assert await served.is_alive()
