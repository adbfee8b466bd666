"""Whom the adapter believes, and how it finds its key: root, TLS, provisioners, and a start that fails."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from certbob.ca.stepca import StepCA
from certbob.errors import BadProvisionerPassword, CARefused, CAUnavailable, CAUntrusted
from certbob.secret import Secret
from tests.support.fake_stepca import (
    UNAUTHORIZED,
    FakeStepCA,
    Reply,
    Request,
    json_reply,
    refusal,
    sign_leaf,
    tls_context,
)
from tests.support.pki import draft_leaf, root
from tests.support.stepca import (
    PASSWORD,
    encrypt_jwk,
    jwk_provisioner,
    key_pem,
    make_pki,
    pem,
    private_jwk,
    public_jwk,
    signing_request,
)

PKI = make_pki("Fake")
OTHER_PKI = make_pki("Fake")
LEAF = sign_leaf(
    PKI,
    x509.load_der_x509_csr(signing_request().csr),
    {"sub": "Ada", "sans": ["ada@example.org"]},
    timedelta(hours=1),
)
ROOT_PATH = f"/root/{PKI.fingerprint}"
PROVISIONERS = "/1.0/provisioners"


@pytest.fixture
async def authority() -> AsyncIterator[FakeStepCA]:
    async with FakeStepCA(PKI) as authority:
        yield authority


@pytest.fixture
async def ca(authority: FakeStepCA) -> StepCA:
    return authority.client()


def provisioners(*entries: object, cursor: object = "") -> Reply:
    return json_reply(200, {"provisioners": list(entries), "nextCursor": cursor})


# --- the root ---


@pytest.mark.parametrize("separator", ["", ":", "-"])
@pytest.mark.parametrize("change", [str.lower, str.upper])
async def test_the_root_is_found_by_its_fingerprint_however_it_is_written(
    authority: FakeStepCA, separator: str, change: Any
) -> None:
    pairs = [PKI.fingerprint[start : start + 2] for start in range(0, 64, 2)]

    trust = await authority.client(root=change(separator.join(pairs))).trust()

    assert (trust.root, trust.intermediates) == (PKI.root, (PKI.intermediate,))


async def test_a_root_in_a_file_is_not_asked_for(authority: FakeStepCA, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    file.write_text(pem(PKI.root))

    trust = await authority.client(root=str(file)).trust()

    assert trust.root == PKI.root
    assert authority.asked(ROOT_PATH) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        pem(PKI.root, OTHER_PKI.root).encode(),
        key_pem(PKI.root_key).encode(),
        pem(LEAF).encode(),
    ],
    ids=["empty", "binary", "two roots", "a key", "a leaf"],
)
async def test_a_root_file_with_anything_else_is_not_trusted(
    authority: FakeStepCA, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "root.pem"
    file.write_bytes(content)

    with pytest.raises(CAUntrusted):
        await authority.client(root=str(file)).trust()

    assert authority.requests == []


async def test_a_missing_root_file_is_named(authority: FakeStepCA, tmp_path: Path) -> None:
    health = await authority.client(root=str(tmp_path / "root.pem")).health()

    assert health == f"the root {tmp_path}/root.pem cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "reply",
    [
        json_reply(200, {"ca": pem(OTHER_PKI.root)}),
        json_reply(200, {"ca": pem(PKI.root, PKI.root)}),
        json_reply(200, {"ca": key_pem(PKI.root_key) + pem(PKI.root)}),
        json_reply(200, {"ca": None}),
        json_reply(200, {}),
        refusal(404, "not found"),
    ],
    ids=["another", "two", "a key as well", "null", "none", "unknown"],
)
async def test_only_the_pinned_root_is_believed(authority: FakeStepCA, ca: StepCA, reply: Reply) -> None:
    authority.answers[ROOT_PATH] = reply

    with pytest.raises(CAUntrusted):
        await ca.sign(signing_request())

    assert [request.path for request in authority.requests] == [ROOT_PATH]


@pytest.mark.parametrize(
    "pinned", [LEAF, draft_leaf(signing_request(), root()).signed_by(root())], ids=["not said", "said"]
)
async def test_a_pinned_certificate_must_be_an_authority(
    authority: FakeStepCA, pinned: x509.Certificate
) -> None:
    fingerprint = pinned.fingerprint(hashes.SHA256()).hex()
    authority.answers[f"/root/{fingerprint}"] = json_reply(200, {"ca": pem(pinned)})

    with pytest.raises(CAUntrusted, match=f"the root from {authority.url}"):
        await authority.client(root=fingerprint).trust()


async def test_an_impostor_with_a_whole_pki_of_its_own_gets_no_token() -> None:
    async with FakeStepCA(OTHER_PKI) as impostor:
        impostor.answers[ROOT_PATH] = json_reply(200, {"ca": pem(OTHER_PKI.root)})

        with pytest.raises(CAUntrusted):
            await impostor.client(root=PKI.fingerprint).sign(signing_request())

        assert [request.path for request in impostor.requests] == [ROOT_PATH]


@pytest.mark.parametrize(
    "tls",
    [tls_context(OTHER_PKI), tls_context(PKI, expired=True), tls_context(PKI, "127.0.0.2")],
    ids=["another authority", "expired", "another host"],
)
async def test_no_token_leaves_before_the_authority_has_proved_itself(tls: Any) -> None:
    impostor = FakeStepCA(PKI)
    impostor.tls = tls
    async with impostor:
        ca = impostor.client()

        with pytest.raises(CAUntrusted):
            await ca.sign(signing_request())

        assert "does not prove to be the pinned authority" in (await ca.health() or "")
        assert [request.path for request in impostor.requests] == [ROOT_PATH]


async def test_an_impostor_in_the_place_of_a_known_authority_gets_no_token(
    authority: FakeStepCA, ca: StepCA
) -> None:
    hellos: list[object] = []
    await ca.sign(signing_request())
    await authority.stop()
    authority.tls = tls_context(OTHER_PKI)
    authority.tls.sni_callback = lambda *hello: hellos.append(hello)
    await authority.start()
    authority.requests.clear()

    with pytest.raises(CAUntrusted):
        await ca.sign(signing_request())

    assert authority.requests == []
    assert len(hellos) == 1


async def test_intermediates_of_another_root_are_not_trusted(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers["/1.0/intermediates"] = json_reply(201, {"crts": [pem(OTHER_PKI.intermediate)]})

    with pytest.raises(CAUntrusted):
        await ca.trust()


async def test_an_authority_too_old_to_show_its_intermediates_is_used(
    authority: FakeStepCA, ca: StepCA
) -> None:
    authority.answers["/1.0/intermediates"] = Reply(404, b"404 page not found\n")

    assert (await ca.trust()).intermediates == ()
    assert (await ca.sign(signing_request())).intermediates == (PKI.intermediate,)


async def test_the_settings_of_the_environment_change_nothing(
    ca: StepCA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))

    assert await ca.sign(signing_request())


# --- the provisioner ---


async def test_the_provisioner_is_found_on_a_later_page(authority: FakeStepCA, ca: StepCA) -> None:
    def pages(request: Request) -> Reply:
        page = int(request.query.get("cursor", ["0"])[0])
        if page == 7:
            return provisioners(authority.provisioner)
        return provisioners({"type": "ACME", "name": f"acme{page}"}, "junk", None, cursor=str(page + 1))

    authority.answers[PROVISIONERS] = pages

    assert await ca.sign(signing_request())
    assert len(authority.asked(PROVISIONERS)) == 8


async def test_a_list_of_provisioners_without_end_is_given_up(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[PROVISIONERS] = lambda _: provisioners(cursor=f"c{len(authority.requests)}")

    with pytest.raises(CAUnavailable, match="does not end"):
        await ca.trust()

    assert len(authority.asked(PROVISIONERS)) == 100


@pytest.mark.parametrize("cursor", ["same", 5, ["x"]], ids=str)
async def test_a_cursor_that_repeats_or_is_no_text_is_given_up(
    authority: FakeStepCA, ca: StepCA, cursor: object
) -> None:
    authority.answers[PROVISIONERS] = provisioners(cursor=cursor)

    with pytest.raises(CAUnavailable, match="does not end"):
        await ca.trust()

    assert len(authority.asked(PROVISIONERS)) <= 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            json_reply(200, {"provisioners": None, "nextCursor": ""}),
            "no provisioner with the configured name",
        ),
        (json_reply(200, {"provisioners": 5}), "no list of provisioners"),
        (json_reply(200, {"provisioners": {"name": "certbob"}}), "no list of provisioners"),
        (json_reply(200, []), "not an object"),
        (provisioners({"type": "JWK", "name": "Certbob"}), "no provisioner with the configured name"),
        (provisioners({"type": "ACME", "name": "certbob"}), "not of type JWK"),
        (provisioners({"name": "certbob"}), "not of type JWK"),
        (provisioners({"type": "JWK", "name": "certbob"}, {"type": "OIDC", "name": "certbob"}), "several"),
        (provisioners({"type": "JWK", "name": "certbob", "key": {}}), "set provisioner_key"),
        (
            provisioners({"type": "JWK", "name": "certbob", "key": {}, "encryptedKey": ""}),
            "set provisioner_key",
        ),
        (
            provisioners({"type": "JWK", "name": "certbob", "encryptedKey": "a.b.c.d.e"}),
            "set provisioner_key",
        ),
        (provisioners({"type": "JWK", "name": "certbob", "key": {}, "encryptedKey": "a.b.c"}), "compact JWE"),
        (Reply(200, b"x" * 10_000_000), "longer than"),
        (Reply(200, b"<html>"), "GET /1.0/provisioners"),
        (Reply(403, b"<html>hidden</html>"), "answered 403: <html>hidden</html>"),
    ],
)
async def test_each_mistake_in_the_provisioner_is_told(
    authority: FakeStepCA, ca: StepCA, reply: Reply, words: str
) -> None:
    authority.answers[PROVISIONERS] = reply

    with pytest.raises(CAUnavailable, match=words):
        await ca.trust()

    assert words in (await ca.health() or "")


async def test_the_encrypted_key_must_belong_to_the_published_one(authority: FakeStepCA, ca: StepCA) -> None:
    stranger = jwk_provisioner("certbob")
    authority.provisioner = {**authority.provisioner, "encryptedKey": stranger["encryptedKey"]}

    with pytest.raises(CAUnavailable, match="another public key"):
        await ca.trust()


@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_key_that_is_given_is_not_asked_for(authority: FakeStepCA, encrypted: bool) -> None:
    jwk = private_jwk(ec.generate_private_key(ec.SECP256R1()))
    authority.provisioner = {"type": "JWK", "name": "certbob", "key": public_jwk(jwk)}
    text = encrypt_jwk(jwk, PASSWORD, rounds=1_000) if encrypted else json.dumps(jwk)
    password = Secret(PASSWORD) if encrypted else None

    await authority.client(key=Secret(text), password=password).sign(signing_request())

    assert authority.asked(PROVISIONERS) == []


# --- a start that fails ---


async def test_a_wrong_password_is_asked_about_and_logged_once_a_minute(
    authority: FakeStepCA, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "certbob")
    ca = authority.client(password=Secret("wrong"))

    for _ in range(20):
        for ask in (ca.trust(), ca.sign(signing_request())):
            with pytest.raises(BadProvisionerPassword):
                await ask
        assert await ca.health() == "the provisioner password is wrong"
        assert await ca.longest_validity() is None
    assert len(authority.asked(PROVISIONERS)) == len(caplog.records) == 1

    authority.clock.advance(timedelta(minutes=1))
    await ca.health()
    assert len(authority.asked(PROVISIONERS)) == len(caplog.records) == 2


async def test_tokens_that_are_refused_from_the_start_make_it_red(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers["/1.0/probe"] = refusal(401, UNAUTHORIZED)

    with pytest.raises(CAUnavailable, match="token refused: see the authority's log for request "):
        await ca.trust()
    with pytest.raises(CARefused) as caught:
        await ca.sign(signing_request())

    assert caught.value.status == 401
    assert "token refused" in (await ca.health() or "")
    assert len(authority.asked("/1.0/probe")) == 1


async def test_an_authority_that_comes_up_later_is_found(authority: FakeStepCA, ca: StepCA) -> None:
    await authority.stop()
    with pytest.raises(CAUnavailable):
        await ca.trust()
    assert "cannot be reached" in (await ca.health() or "")
    await authority.start()

    assert "cannot be reached" in (await ca.health() or ""), "it is left alone for a while"
    authority.clock.advance(timedelta(seconds=5))
    assert await ca.health() is None
    assert await ca.sign(signing_request())


async def test_the_pauses_grow_to_half_a_minute_and_a_clock_set_back_ends_them(
    authority: FakeStepCA, ca: StepCA
) -> None:
    authority.answers[PROVISIONERS] = Reply(503)
    await ca.health()

    for number, seconds in enumerate((5, 10, 20, 30, 30), start=1):
        authority.clock.advance(timedelta(seconds=seconds - 1))
        await ca.health()
        assert len(authority.asked(PROVISIONERS)) == number
        authority.clock.advance(timedelta(seconds=1))
        await ca.health()
        assert len(authority.asked(PROVISIONERS)) == number + 1

    authority.clock.advance(-timedelta(hours=1))
    await ca.health()
    assert len(authority.asked(PROVISIONERS)) == 7


async def test_many_callers_share_one_look(authority: FakeStepCA, ca: StepCA) -> None:
    await asyncio.gather(*(ca.trust() for _ in range(20)), *(ca.sign(signing_request()) for _ in range(20)))

    assert len(authority.asked(ROOT_PATH)) == len(authority.asked("/1.0/probe")) == 1


async def test_a_silent_authority_keeps_nobody_waiting(authority: FakeStepCA) -> None:
    ca = authority.client(connect_timeout=0.05, answer_timeout=0.2)
    authority.answers[PROVISIONERS] = Reply(after=asyncio.Event())

    assert await ca.longest_validity() is None
    assert "has not answered" in (await ca.health() or "")
    with pytest.raises(CAUnavailable):
        await ca.sign(signing_request())
    assert "does not answer" in (await ca.health() or "")


async def test_what_was_learned_stays_known_while_the_authority_is_away(
    authority: FakeStepCA, ca: StepCA
) -> None:
    assert await ca.health() is None
    await authority.stop()

    with pytest.raises(CAUnavailable):
        await ca.sign(signing_request())

    assert "cannot be reached" in (await ca.health() or "")
    assert (await ca.trust()).root == PKI.root
    assert await ca.longest_validity() == timedelta(hours=24)


# --- the longest validity ---


async def test_the_longest_validity_is_the_provisioners(authority: FakeStepCA, ca: StepCA) -> None:
    authority.limit = timedelta(hours=8760)

    assert await ca.longest_validity() == timedelta(days=365)
    assert authority.issued == []


async def test_nothing_is_promised_beyond_the_authoritys_own_end(authority: FakeStepCA, ca: StepCA) -> None:
    end = PKI.intermediate.not_valid_after_utc
    authority.clock.set(end - timedelta(hours=2))

    longest = await ca.longest_validity()
    chain = await ca.sign(signing_request(validity=timedelta(hours=12)))

    assert longest == timedelta(hours=2)
    assert chain.leaf.not_valid_after_utc == end


@pytest.mark.parametrize(
    "reply",
    [
        refusal(403, 'cn name "certbob-probe" not allowed'),
        refusal(403, "9999999h99m is more than the authorized maximum certificate duration of 1h"),
        refusal(403, "1h0m0s is more than the authorized maximum certificate duration of 9999999h0m0s"),
        refusal(403, "9999999h0m0s is more than the authorized maximum certificate duration of 0s"),
        refusal(500, "error applying certificate template"),
        Reply(502, b"<html>"),
        json_reply(201, {}),
        Reply(200, cut=10),
    ],
    ids=range(8),
)
async def test_a_probe_without_an_answer_leaves_the_limit_open(
    authority: FakeStepCA, ca: StepCA, reply: Reply
) -> None:
    authority.answers["/1.0/probe"] = reply

    longest = await ca.longest_validity()

    assert longest is not None
    assert abs(longest - (PKI.intermediate.not_valid_after_utc - authority.clock.now())) < timedelta(
        minutes=1
    )
    assert await ca.sign(signing_request())


async def test_the_limit_is_looked_up_again_after_an_hour_without_a_wait(
    authority: FakeStepCA, ca: StepCA
) -> None:
    assert await ca.longest_validity() == timedelta(hours=24)
    authority.limit = timedelta(hours=48)
    authority.clock.advance(timedelta(minutes=59))
    assert await ca.longest_validity() == timedelta(hours=24)
    assert len(authority.asked("/1.0/probe")) == 1

    authority.clock.advance(timedelta(minutes=1))
    async with asyncio.timeout(10):
        while await ca.longest_validity() == timedelta(hours=24):
            await asyncio.sleep(0.01)

    assert await ca.longest_validity() == timedelta(hours=48)
    assert len(authority.asked("/1.0/probe")) == 2
