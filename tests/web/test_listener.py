"""The listener that asks for certificates, over real TLS: what people are told, and what disturbs it."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import h2.connection
import h2.events
import pytest
from cryptography import x509

from certbob.bootstrap import SystemClock
from certbob.errors import CAUnavailable
from certbob.ports import THE_SERVICE
from certbob.revocation import Reason
from certbob.web.security import HEADERS, HTTPS_HEADERS
from certbob.words import day
from tests.support import pki
from tests.support.asking import Asking, Owned, asking, take
from tests.support.nginx import write_server_certificate
from tests.support.stepca import StepCAServer
from tests.support.web import FakeCA, StillClock

GET = b"GET /test HTTP/1.1\r\nHost: %s\r\n\r\n"


@pytest.fixture(params=["builtin", pytest.param("stepca", marks=pytest.mark.needs("step-ca"))])
async def either(request: pytest.FixtureRequest, data_dir: Path, clock: StillClock) -> AsyncIterator[Asking]:
    """Over each authority."""
    ca = None
    if request.param == "stepca":
        server: StepCAServer = request.getfixturevalue("step_ca")
        clock.moment = datetime.now(UTC)
        ca = server.client(SystemClock())
    async with asking(data_dir, clock, ca=ca) as opened:
        yield opened


@pytest.fixture
async def place(data_dir: Path, clock: StillClock) -> AsyncIterator[Asking]:
    async with asking(data_dir, clock) as opened:
        yield opened


async def revoke(place: Asking, owned: Owned, reason: Reason = Reason.LOST) -> None:
    found = await place.site.services.ledger.find_any(owned.leaf.serial_number)
    assert found is not None
    await place.site.services.revocation.revoke(found, reason, THE_SERVICE)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_good_certificate_works(either: Asking, version: ssl.TLSVersion) -> None:
    good = await take(either.site, device="Ada's phone")

    answer = await either.get(good, version=version)

    assert (answer.status, answer.heading) == (200, "It works")
    until = day(good.leaf.not_valid_after_utc)
    for words in ("Ada Lovelace", "Ada's phone", "Client certificate", until):
        assert words in answer.page.text("main")


async def test_a_revoked_certificate_is_told_so(either: Asking) -> None:
    lost, kept = await take(either.site), await take(either.site)

    await revoke(either, lost)

    answer = await either.get(lost)
    assert answer.heading == "This certificate was revoked"
    assert "Services refuse it. Get a new one" in answer.page.text("main")
    assert (await either.get(kept)).heading == "It works"


async def test_a_replaced_certificate_is_told_so(place: Asking) -> None:
    old = await take(place.site)

    await revoke(place, old, Reason.REPLACED)

    answer = await place.get(old)
    assert answer.heading == "This certificate was replaced"
    assert "Choose the newer one" in answer.page.text("main")


async def test_the_clock_decides_and_the_handshake_does_not(place: Asking, clock: StillClock) -> None:
    mine = await take(place.site)

    clock.advance(days=-1)
    early = await place.get(mine)
    clock.advance(days=92)
    late = await place.get(mine)

    assert early.heading == "This certificate is not valid yet"
    assert "It begins on 24 November 2026" in early.page.text("main")
    assert late.heading == "This certificate has expired"
    assert "It ended on 22 February 2027" in late.page.text("main")


async def test_the_handshake_bears_a_certificate_that_ended_long_ago(
    data_dir: Path, clock: StillClock
) -> None:
    clock.moment = datetime(2020, 1, 1, tzinfo=UTC)
    async with asking(data_dir, clock) as place:
        mine = await take(place.site)
        clock.moment = datetime.now(UTC)

        assert (await place.get(mine)).heading == "This certificate has expired"


async def test_a_certificate_that_the_ledger_does_not_know_is_told_so(either: Asking) -> None:
    ca = either.site.services.ca
    request = pki.signing_request(email="bert@example.org", organization=None)
    chain = await ca.sign(request)
    elsewhere = Owned.with_key(chain.leaf, pki.new_key().private_key, *chain.intermediates)

    answer = await either.get(elsewhere)

    assert answer.heading == "This certificate is not in our records"
    issuer = (await ca.trust()).intermediates[0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert str(issuer[0].value) in answer.page.text("main")


async def test_without_a_certificate_the_likely_reasons_are_told(place: Asking) -> None:
    answer = await place.get()

    assert (answer.status, answer.heading) == (200, "No certificate arrived")
    for words in ("Firefox keeps certificates of its own", "you cancelled", "close all windows"):
        assert words in answer.page.text("main")
    links = {link.get("href") for link in answer.page.all("main//a")}
    assert {"/new", "/certificates", f"https://127.0.0.1:{place.port}/test"} == links


async def test_a_foreign_certificate_ends_in_the_handshake(place: Asking) -> None:
    root = pki.root()
    leaf = pki.draft_leaf(pki.signing_request(), root).signed_by(root)

    with pytest.raises(OSError):  # noqa: PT011 by the client's timing a closed connection or an alert
        await place.get(Owned.with_key(leaf, pki.new_key().private_key))

    assert (await place.get()).status == 200


async def test_every_answer_closes_and_nothing_is_resumed(place: Asking) -> None:
    """Or a browser would not ask its person again."""
    mine = await take(place.site)
    session = None
    for _ in range(2):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", place.port, ssl=place.client_context(mine)
        )
        writer.write(GET % f"127.0.0.1:{place.port}".encode())
        answer = await asyncio.wait_for(reader.read(), 10)
        session = writer.get_extra_info("ssl_object").session
        writer.close()

        assert b"\r\nconnection: close\r\n" in answer
        assert b"It works" in answer
        assert session is None or not session.has_ticket


async def test_everything_else_is_at_the_public_address(place: Asking) -> None:
    paths = (
        "/",
        "/login",
        "/certificates",
        "/ca",
        "/testing",
        "/test/",
        "/healthz",
        "/%0D%0AX",
        "//evil.example",
    )
    for path in paths:
        answer = await place.get(path=path)

        assert (answer.status, answer.headers["Location"]) == (303, f"https://127.0.0.1:1{path}")
        assert answer.headers["Connection"] == "close"

    style = (await place.get()).page.one("link[@rel='stylesheet']").get("href")
    assert style is not None
    assert "--accent" in (await place.get(path=style)).text


async def test_the_headers_are_those_of_every_page_and_there_are_no_cookies(place: Asking) -> None:
    ada = await place.site.signed_in()
    cookie = "; ".join(f"{name}={value}" for name, value in ada.cookies.items())

    page, elsewhere = [await place.get(path=path, headers={"Cookie": cookie}) for path in ("/test", "/new")]

    assert "Signed in" not in page.text
    for answer in (page, elsewhere):
        assert {answer.headers[name] for name, _ in (*HEADERS, *HTTPS_HEADERS)} == {
            value for _, value in (*HEADERS, *HTTPS_HEADERS)
        }
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in answer.headers


async def test_its_name_is_good_there_and_only_there(place: Asking) -> None:
    assert (await place.get(headers={"Host": "127.0.0.1:1"})).status == 400
    assert (await place.get(headers={"Host": "evil.example"})).status == 400

    there = {"Host": f"127.0.0.1:{place.port}"}
    assert (await place.site.browser().get("/test", there)).status == 400
    assert (await place.site.browser().get("/test")).status == 200


async def test_it_comes_up_without_the_authority_and_asks_once_that_was_reached(
    data_dir: Path, clock: StillClock
) -> None:
    ca = FakeCA(data_dir, clock)
    ca.problem = CAUnavailable("away")
    async with asking(data_dir, clock, ca=ca) as place:
        away = await place.get()
        ca.problem = None
        mine = await take(place.site)
        back = await place.get(mine)
        asked = await place.get(mine)
        ca.problem = CAUnavailable("away again")
        cannot_tell = await place.get(mine)

    assert (away.status, away.heading) == (503, "The certificate service does not answer")
    assert back.heading == "Test my certificate"  # that handshake was too early to ask
    assert asked.heading == "It works"
    assert cannot_tell.status == 503


async def test_a_new_certificate_of_the_server_counts_here_too(place: Asking) -> None:
    before = await _server_certificate(place)
    write_server_certificate(place.folder / "server.pem", place.folder / "server.key")

    place.config.reload_certificate()

    assert await _server_certificate(place) != before
    assert (await place.get(await take(place.site))).heading == "It works"


async def _server_certificate(place: Asking) -> bytes | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=context)
    try:
        der: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return der
    finally:
        writer.close()


RUBBISH = {
    "plain HTTP": GET % b"127.0.0.1",
    "a handshake that stops": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "noise": bytes(range(256)) * 300,
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "nothing": b"",
}


async def test_rubbish_and_slow_people_disturb_nobody(
    place: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    place.config.read_timeout = 5
    writers = []
    with caplog.at_level(logging.WARNING):
        for sent in RUBBISH.values():
            for _ in range(20):
                _, writer = await asyncio.open_connection("127.0.0.1", place.port)
                writer.write(sent)
                writers.append(writer)
        _, slow = await asyncio.open_connection("127.0.0.1", place.port, ssl=place.client_context())
        slow.write(b"GET /te")  # and no more
        mine = await take(place.site)

        answers = await asyncio.gather(*(place.get(mine) for _ in range(5)))

        for writer in (*writers, slow):
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        again = await place.get(mine)

    assert [answer.heading for answer in (*answers, again)] == ["It works"] * 6
    assert complaints == []
    assert caplog.messages == []


async def test_who_insists_on_http2_gets_the_same(place: Asking) -> None:
    """It is not offered, but a program may begin with it."""
    mine = await take(place.site)
    tls = place.client_context(mine)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=tls)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    host = f"127.0.0.1:{place.port}"
    names = {":method": "GET", ":scheme": "https", ":authority": host, ":path": "/test"}
    client.send_headers(1, list(names.items()), end_stream=True)
    writer.write(client.data_to_send())
    body = b""
    ended = False
    while not ended and (data := await asyncio.wait_for(reader.read(65536), 10)):
        for event in client.receive_data(data):
            body += getattr(event, "data", b"") if isinstance(event, h2.events.DataReceived) else b""
            ended = ended or isinstance(event, h2.events.StreamEnded)
    writer.close()

    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert b"It works" in body
