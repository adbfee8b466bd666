"""What comes back from the authority, and what the adapter makes of it: never half a certificate."""

import asyncio
import gzip
import logging
import string
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certbob import lint
from certbob.ca.stepca import StepCA
from certbob.errors import CABadAnswer, CAProblem, CARefused, CAUnavailable, CAUncertain
from certbob.ports import CertificateAuthority, Revoker
from tests.support.clock import FakeClock
from tests.support.fake_stepca import (
    UNAUTHORIZED,
    FakeStepCA,
    Reply,
    Request,
    json_reply,
    refusal,
    too_long,
)
from tests.support.stepca import (
    jwk_provisioner,
    key_pem,
    make_pki,
    pem,
    signing_request,
)

PKI = make_pki("Fake")
SIGN, REVOKE, PROBE = "/1.0/sign", "/1.0/revoke", "/1.0/probe"


@pytest.fixture
async def authority() -> AsyncIterator[FakeStepCA]:
    async with FakeStepCA(PKI) as authority:
        yield authority


@pytest.fixture
async def ca(authority: FakeStepCA) -> StepCA:
    return authority.client()


def test_the_adapter_fits_its_ports(ca: StepCA) -> None:
    port: CertificateAuthority = ca

    assert isinstance(port, Revoker)
    assert (port.rules.exact, port.rules.server_auth) == (False, True)


@pytest.mark.parametrize("email", ["ada@example.org", "o'brien+vpn/a=b@xn--bcher-kva.example", None])
async def test_a_certificate_says_what_was_asked(
    authority: FakeStepCA, ca: StepCA, email: str | None
) -> None:
    request = signing_request("Jürgen 李", email=email, organization="Example")

    chain = await ca.sign(request)

    now = authority.clock.now()
    assert lint.check_leaf(chain.leaf, request, ca.rules, now=now) == []
    assert lint.check_chain(chain, await ca.trust(), now=now) == []
    assert chain.leaf.not_valid_after_utc - now <= request.validity


async def test_each_certificate_has_a_token_of_its_own(authority: FakeStepCA, ca: StepCA) -> None:
    chains = await asyncio.gather(*(ca.sign(signing_request()) for _ in range(40)))

    assert len({chain.leaf.serial_number for chain in chains}) == 40
    assert len({token["jti"] for token in authority.tokens()}) == 40


async def test_the_request_id_travels_along(authority: FakeStepCA, ca: StepCA) -> None:
    request = signing_request()
    await ca.sign(request)

    assert authority.asked(SIGN)[0].headers["x-request-id"] == request.request_id


# --- answers that are wrong ---


@pytest.mark.parametrize(
    "status_and_body",
    [
        (200, None),
        (202, None),
        (204, b""),
        (101, b""),
        (302, b""),
        (201, b""),
        (201, b"<html></html>"),
        (201, b"[]"),
        (201, b"x" * 262_145),
        (201, b'{"crt": ' * 9_999),
    ],
    ids=range(10),
)
async def test_what_is_not_a_good_answer_is_no_certificate(
    authority: FakeStepCA, ca: StepCA, status_and_body: tuple[int, bytes | None]
) -> None:
    status, body = status_and_body

    def answer(request: Request) -> Reply:
        good = authority.chain_reply(authority.certify(request))
        return replace(good, status=status, body=good.body if body is None else body)

    authority.answers[SIGN] = answer

    with pytest.raises((CABadAnswer, CAUncertain)) as caught:
        await ca.sign(signing_request())

    assert not caught.value.surely_unsigned
    assert len(authority.asked(SIGN)) == 1, "it is never asked twice"


@pytest.mark.parametrize("damage", ["another leaf first", "no chain", "six", "key", "two in one"])
async def test_a_certificate_in_a_wrong_answer_is_handed_over_for_the_ledger(
    authority: FakeStepCA, ca: StepCA, damage: str
) -> None:
    def answer(request: Request) -> Reply:
        leaf, issuer = pem(authority.certify(request)), pem(PKI.intermediate)
        chain = {
            "another leaf first": [issuer, leaf],
            "no chain": [],
            "six": [leaf, *[issuer] * 5],
            "key": [key_pem(PKI.root_key) + leaf, issuer],
            "two in one": [leaf + issuer],
        }[damage]
        return json_reply(201, {"crt": leaf, "certChain": chain})

    authority.answers[SIGN] = answer

    with pytest.raises(CABadAnswer) as caught:
        await ca.sign(signing_request())

    assert caught.value.certificate == authority.issued[0].public_bytes(Encoding.DER)


async def test_an_endless_answer_is_cut_off(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[SIGN] = Reply(201, b'{"crt": "', framed=False, endless=b"x" * 65_536)

    with pytest.raises(CABadAnswer, match="longer than 262144 bytes"):
        await ca.sign(signing_request())


async def test_nothing_is_unpacked_so_that_no_answer_can_grow(authority: FakeStepCA, ca: StepCA) -> None:
    def answer(request: Request) -> Reply:
        good = authority.good(request)
        return replace(good, body=gzip.compress(good.body), headers={"Content-Encoding": "gzip"})

    authority.answers[SIGN] = answer

    with pytest.raises(CABadAnswer):
        await ca.sign(signing_request())


async def test_a_dripping_answer_is_not_waited_for(authority: FakeStepCA) -> None:
    ca = authority.client(answer_timeout=0.3, exchange_timeout=0.5)
    authority.answers[SIGN] = Reply(201, b'{"crt": "', framed=False, endless=b"x")

    with pytest.raises(CAUncertain) as caught:
        await ca.sign(signing_request())

    assert caught.value.late is not None
    with pytest.raises(CAUncertain):
        await caught.value.late


async def test_a_good_answer_cut_at_any_byte_is_uncertain(authority: FakeStepCA, ca: StepCA) -> None:
    request = signing_request()
    chain = await ca.sign(request)
    leaf = pem(chain.leaf)
    good = json_reply(201, {"crt": leaf, "certChain": [leaf, pem(PKI.intermediate)]})

    for cut in range(len(good.wire(authority.clock.now()))):
        authority.answers[SIGN] = replace(good, cut=cut)
        with pytest.raises(CAUncertain) as caught:
            await ca.sign(request)
        assert caught.value.late is None

    authority.answers[SIGN] = good
    assert await ca.sign(request) == chain


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[x](http://evil)",
        "a\r\nSet-Cookie: b",
        "\x1b[2J\x07",
        "\u202eevil",
        "x" * 100_000,
        "x" * 1_000_000,
        "\ud800",
        "naïve 李",
    ],
    ids=range(9),
)
async def test_words_of_the_authority_are_escaped_and_cut(
    authority: FakeStepCA, ca: StepCA, text: str
) -> None:
    for reply in (refusal(403, text), Reply(403, text.encode(errors="surrogatepass"))):
        authority.answers[SIGN] = reply

        with pytest.raises(CARefused) as caught:
            await ca.sign(signing_request())

        detail = caught.value.detail
        assert len(detail) < 2_000
        assert set(detail) <= set(string.printable) - set("\r\n\t\x0b\x0c")
        assert text[:20] not in caught.value.title + caught.value.text + caught.value.mend


@pytest.mark.parametrize("path", [f"/root/{PKI.fingerprint}", "/1.0/provisioners", PROBE, SIGN, REVOKE])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(authority: FakeStepCA, ca: StepCA, path: str, status: int) -> None:
    async with FakeStepCA(PKI) as elsewhere:
        authority.answers[path] = Reply(status, headers={"Location": f"{elsewhere.url}{path}"})

        for ask in (ca.sign(signing_request()), ca.revoke(1, 0)):
            with suppress(CAProblem):
                await ask

        assert authority.asked(path)
        assert elsewhere.connections == 0


# --- refusals ---


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (refusal(400, "error decoding json"), CARefused),
        (refusal(403, 'email name "a@evil.org" not allowed'), CARefused),
        (refusal(403, "certificate request does not contain the valid common name"), CARefused),
        (refusal(403, "requested duration of 1m is less than the authorized minimum"), CARefused),
        (refusal(404, "not found"), CARefused),
        (Reply(405), CARefused),
        (refusal(413, "too large"), CARefused),
        (refusal(500, "error applying certificate template: fail"), CARefused),
        (refusal(429, "slow down"), CAUnavailable),
        (Reply(408), CAUncertain),
        (refusal(500, "The certificate authority encountered an Internal Server Error."), CAUncertain),
        (Reply(501), CAUncertain),
        (Reply(502, b"<html>error applying certificate template</html>"), CAUncertain),
        (Reply(503), CAUncertain),
        (Reply(504), CAUncertain),
        (Reply(599), CAUncertain),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
async def test_each_status_has_its_meaning(
    authority: FakeStepCA, ca: StepCA, reply: Reply, problem: type[CAProblem]
) -> None:
    authority.answers[SIGN] = reply
    request = signing_request()

    with pytest.raises(problem) as caught:
        await ca.sign(request)

    assert type(caught.value) is problem
    assert f"answered {reply.status} to request {request.request_id}" in caught.value.detail
    if isinstance(caught.value, CARefused):
        assert caught.value.status == reply.status


async def test_a_refusal_for_one_person_does_not_stop_the_next(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[SIGN] = [refusal(500, "oops"), refusal(403, "no"), authority.good]

    for problem in (CAUncertain, CARefused):
        with pytest.raises(problem):
            await ca.sign(signing_request())

    assert await ca.sign(signing_request())


async def test_a_refused_token_is_replaced_once(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[SIGN] = [refusal(401, UNAUTHORIZED), authority.good]

    assert await ca.sign(signing_request())

    first, second = authority.tokens()
    assert first["jti"] != second["jti"]


async def test_a_replaced_provisioner_key_is_found(authority: FakeStepCA, ca: StepCA) -> None:
    await ca.sign(signing_request())
    authority.provisioner = jwk_provisioner("certbob")

    chains = await asyncio.gather(*(ca.sign(signing_request()) for _ in range(5)))

    assert len(chains) == 5
    assert len(authority.asked("/1.0/provisioners")) == 2


async def test_tokens_refused_for_good_make_it_red_without_a_storm(
    authority: FakeStepCA, ca: StepCA, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "certbob")
    await ca.trust()
    authority.answers[SIGN] = refusal(401, UNAUTHORIZED)
    request = signing_request()

    for _ in range(20):
        with pytest.raises(CARefused) as caught:
            await ca.sign(request)
        assert caught.value.status == 401
    words = f"token refused: see the authority's log for request {request.request_id}"
    assert await ca.health() == words
    assert len(authority.asked(SIGN)) == 2
    assert [record.getMessage() for record in caplog.records] == [f"step-ca: {words}"]

    authority.answers[PROBE] = refusal(401, UNAUTHORIZED)
    authority.clock.advance(timedelta(minutes=1))
    assert "token refused" in (await ca.health() or "")
    assert len(authority.asked(SIGN)) == 2

    authority.answers.clear()
    authority.clock.advance(timedelta(minutes=1))
    assert await ca.health() is None
    assert await ca.sign(request)


@pytest.mark.parametrize(("skew", "words"), [(300, "; clocks differ by 300 s"), (-50, ""), (-3600, "3600 s")])
async def test_clocks_that_differ_are_said_to(authority: FakeStepCA, skew: int, words: str) -> None:
    ca = authority.client(clock=FakeClock(authority.clock.now() + timedelta(seconds=skew)))
    authority.answers[PROBE] = refusal(401, UNAUTHORIZED)

    health = await ca.health()

    assert health is not None
    assert words in health
    assert ("clocks" in health) == bool(words)


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Tue, 99 Nov 2026 12:00:00 GMT", "Tue, 24 Nov 99999 12:00:00 GMT"]
)
async def test_a_date_that_is_none_says_nothing_about_clocks(
    authority: FakeStepCA, ca: StepCA, date: str
) -> None:
    authority.answers[PROBE] = refusal(401, UNAUTHORIZED, headers={"Date": date})

    assert "clocks" not in (await ca.health() or "clocks")


async def test_a_validity_beyond_the_limit_is_not_even_asked_for(authority: FakeStepCA, ca: StepCA) -> None:
    chain = await ca.sign(signing_request(validity=timedelta(days=30)))

    assert chain.leaf.not_valid_after_utc - chain.leaf.not_valid_before_utc == timedelta(hours=24, minutes=1)
    assert len(authority.asked(SIGN)) == 1


async def test_a_limit_that_was_lowered_is_learned_from_the_refusal(
    authority: FakeStepCA, ca: StepCA
) -> None:
    assert await ca.longest_validity() == timedelta(hours=24)
    authority.limit = timedelta(hours=8)

    chain = await ca.sign(signing_request(validity=timedelta(hours=12)))

    assert chain.leaf.not_valid_after_utc - chain.leaf.not_valid_before_utc == timedelta(hours=8, minutes=1)
    first, second = authority.tokens()
    assert first["jti"] != second["jti"]
    assert await ca.longest_validity() == timedelta(hours=8)


@pytest.mark.parametrize(
    "limit",
    [timedelta(0), timedelta(hours=12), timedelta(days=9_000)],
    ids=["nothing", "what was asked", "more"],
)
async def test_a_refusal_of_the_validity_that_makes_no_sense_is_a_refusal(
    authority: FakeStepCA, ca: StepCA, limit: timedelta
) -> None:
    authority.answers[SIGN] = too_long(timedelta(hours=12), limit)

    with pytest.raises(CARefused):
        await ca.sign(signing_request(validity=timedelta(hours=12)))

    assert len(authority.asked(SIGN)) == 1


async def test_a_validity_is_shortened_only_once(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[SIGN] = too_long(timedelta(hours=12), timedelta(hours=11))

    with pytest.raises(CARefused):
        await ca.sign(signing_request(validity=timedelta(hours=12)))

    assert len(authority.asked(SIGN)) == 2


# --- an authority that is away or slow ---


async def test_what_surely_did_not_arrive_is_tried_twice_more_with_new_tokens(
    authority: FakeStepCA, ca: StepCA
) -> None:
    authority.answers[SIGN] = [Reply(429), Reply(429), authority.good]

    assert await ca.sign(signing_request())
    assert len({token["jti"] for token in authority.tokens()}) == 3


async def test_after_three_tries_the_authority_is_left_alone_for_a_while(
    authority: FakeStepCA, ca: StepCA, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "certbob")
    authority.answers[SIGN] = Reply(429)

    for _ in range(20):
        with pytest.raises(CAUnavailable) as caught:
            await ca.sign(signing_request())
        assert caught.value.surely_unsigned

    assert len(authority.asked(SIGN)) == 3
    assert len(caplog.records) == 1


async def test_a_connection_that_never_came_about_is_tried_again(authority: FakeStepCA) -> None:
    tries = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    ca = authority.client()
    await ca.trust()
    await authority.stop()
    port = int(authority.url.rpartition(":")[2])
    async with await asyncio.start_server(hang_up, "127.0.0.1", port):
        with pytest.raises(CAUnavailable):
            await ca.sign(signing_request())

    assert tries == 3


async def test_a_restart_of_the_authority_goes_unnoticed(authority: FakeStepCA, ca: StepCA) -> None:
    await ca.sign(signing_request())
    await authority.stop()
    await authority.start()

    assert await ca.sign(signing_request())


async def test_a_late_certificate_is_handed_over(authority: FakeStepCA) -> None:
    ca = authority.client(answer_timeout=0.3)
    await ca.trust()
    answered = asyncio.Event()
    authority.answers[SIGN] = lambda request: replace(authority.good(request), after=answered)

    with pytest.raises(CAUncertain) as caught:
        await ca.sign(signing_request())
    answered.set()

    assert caught.value.late is not None
    chain = await caught.value.late
    assert chain.leaf == authority.issued[0]
    assert len(authority.asked(SIGN)) == 1
    await ca.revoke(chain.leaf.serial_number, 5)


async def test_a_late_refusal_is_handed_over(authority: FakeStepCA) -> None:
    ca = authority.client(answer_timeout=0.3)
    await ca.trust()
    answered = asyncio.Event()
    authority.answers[SIGN] = replace(refusal(403, "no"), after=answered)

    with pytest.raises(CAUncertain) as caught:
        await ca.sign(signing_request())
    answered.set()

    assert caught.value.late is not None
    with pytest.raises(CARefused):
        await caught.value.late


async def test_a_late_answer_has_an_end_too(authority: FakeStepCA) -> None:
    ca = authority.client(answer_timeout=0.3, exchange_timeout=0.4)
    await ca.trust()
    authority.answers[SIGN] = Reply(after=asyncio.Event())

    with pytest.raises(CAUncertain) as caught:
        await ca.sign(signing_request())

    assert caught.value.late is not None
    with pytest.raises(CAUncertain):
        await caught.value.late


async def test_a_silent_authority_spends_no_more_grants(authority: FakeStepCA) -> None:
    ca = authority.client(answer_timeout=0.3)
    await ca.trust()
    authority.answers[SIGN] = Reply(after=asyncio.Event())
    with pytest.raises(CAUncertain):
        await ca.sign(signing_request())

    with pytest.raises(CAUnavailable) as caught:
        await ca.sign(signing_request())

    assert caught.value.surely_unsigned
    assert len(authority.asked(SIGN)) == 1


async def test_closing_ends_what_goes_on_in_the_background(authority: FakeStepCA) -> None:
    ca = authority.client(answer_timeout=0.3)
    await ca.trust()
    authority.answers[SIGN] = Reply(after=asyncio.Event())
    with pytest.raises(CAUncertain) as caught:
        await ca.sign(signing_request())

    await ca.close()

    assert caught.value.late is not None
    assert caught.value.late.cancelled()


# --- revocation ---


async def test_revoking_twice_is_no_mistake(authority: FakeStepCA, ca: StepCA) -> None:
    chain = await ca.sign(signing_request())

    for _ in range(2):
        await ca.revoke(chain.leaf.serial_number, 5)

    body = authority.asked(REVOKE)[0].json
    assert body.pop("ott")
    assert body == {"serial": str(chain.leaf.serial_number), "passive": True, "reasonCode": 5}


@pytest.mark.parametrize("reason_code", [2, 6, 7, 8, 10, -1])
async def test_a_reason_that_harms_is_never_sent(authority: FakeStepCA, ca: StepCA, reason_code: int) -> None:
    with pytest.raises(CARefused):
        await ca.revoke(1, reason_code)

    assert authority.requests == []


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (json_reply(200, {"status": "error"}), CABadAnswer),
        (json_reply(200, {}), CABadAnswer),
        (json_reply(200, ["ok"]), CABadAnswer),
        (Reply(200, b"<html>ok</html>"), CABadAnswer),
        (json_reply(201, {"status": "ok"}), CABadAnswer),
        (Reply(204), CABadAnswer),
        (refusal(400, "missing ott"), CARefused),
        (refusal(403, "no"), CARefused),
        (refusal(501, "non-passive revocation not implemented"), CARefused),
        (Reply(502), CAUncertain),
        (Reply(200, b'{"status": "ok"}', cut=80), CAUncertain),
        (Reply(after=asyncio.Event()), CAUncertain),
    ],
    ids=range(12),
)
async def test_only_ok_means_revoked(authority: FakeStepCA, reply: Reply, problem: type[CAProblem]) -> None:
    ca = authority.client(answer_timeout=0.3)
    await ca.trust()
    authority.answers[REVOKE] = reply

    with pytest.raises(problem):
        await ca.revoke(1, 0)

    authority.answers.clear()
    authority.clock.advance(timedelta(minutes=1))
    await ca.revoke(1, 0)
