"""A provider on a real socket: silent, slow, away, or somebody else in its place."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

import certbob.auth.provider
from certbob.keys import public_key_bytes
from tests.support import pki
from tests.support.hostile_provider import HostileProvider, Reply, Request, serve_provider
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on
from tests.support.web import ADA, StillClock

FOR_EVER = {"silent": Reply(silent=True), "dripping": Reply(dripping=True)}
GIVE_UP = 30  # seconds until a test is red; the product's patience is a fraction of one here


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(certbob.auth.provider, "ANSWER_SECONDS", 0.4)
    caplog.set_level(logging.INFO)


@asynccontextmanager
async def over_the_network(
    data_dir: Path, clock: StillClock, provider: HostileProvider
) -> AsyncIterator[SingleSignOn]:
    async with (
        asyncio.timeout(GIVE_UP),
        open_single_sign_on(data_dir, clock, provider, over_the_network=True) as on,
    ):
        yield on


@pytest.fixture
async def on(data_dir: Path, clock: StillClock) -> AsyncIterator[SingleSignOn]:
    async with serve_provider(clock) as provider, over_the_network(data_dir, clock, provider) as opened:
        yield opened


async def test_a_sign_in_over_a_socket(on: SingleSignOn) -> None:
    await on.signed_in()


@pytest.mark.parametrize("endpoint", ["token", "jwks", "userinfo"])
@pytest.mark.parametrize("fault", FOR_EVER.values(), ids=FOR_EVER)
async def test_an_answer_that_never_ends_is_given_up(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, endpoint: str, fault: Reply
) -> None:
    on.provider.answers[endpoint] = fault

    answer = await on.assert_refused(caplog)

    assert "does not answer right now" in answer.page.text()
    del on.provider.answers[endpoint]
    await on.signed_in()


@pytest.mark.parametrize("fault", FOR_EVER.values(), ids=FOR_EVER)
async def test_a_document_that_never_ends_lets_no_sign_in_begin(on: SingleSignOn, fault: Reply) -> None:
    on.provider.answers["discovery"] = fault

    browser = on.browser()

    assert (await browser.follow("/login/oidc")).status == 503
    assert (await browser.sign_in(ADA)).status == 303


@pytest.mark.parametrize("endpoint", ["token", "jwks", "userinfo"])
async def test_one_who_waits_for_the_provider_holds_up_nobody_else(on: SingleSignOn, endpoint: str) -> None:
    await on.signed_in()
    slow, answers = on.browser(), iter([Reply(silent=True)])

    def first_silent(request: Request) -> Reply:
        return next(answers, None) or on.provider.good(request)

    callback = on.provider.authorize(await on.begin(slow))
    on.provider.answers[endpoint] = first_silent
    asked = len(on.provider.asked("token"))
    waiting = asyncio.create_task(on.come_back(slow, callback))
    while len(on.provider.asked("token")) == asked:
        await asyncio.sleep(0)

    await on.signed_in()
    assert (await on.browser().sign_in(ADA)).status == 303
    assert (await on.site.program().get("/healthz")).status == 200
    assert (await waiting).status in (303, 400)


async def test_a_provider_that_is_not_there_leaves_everything_else_alone(
    data_dir: Path, clock: StillClock
) -> None:
    async with serve_provider(clock) as provider:
        pass  # its port is free again
    async with over_the_network(data_dir, clock, provider) as on:
        browser = on.browser()

        assert (await browser.follow("/login/oidc")).status == 503
        assert (await browser.get("/login")).status == 200
        assert (await on.site.program().get("/healthz")).status == 200
        assert (await browser.sign_in(ADA)).status == 303


def server_files(
    authority: pki.Authority, folder: Path, *, host: str = "localhost", expired: bool = False
) -> tuple[Path, Path]:
    """Certificate and key of a server of this name."""
    private = ec.generate_private_key(ec.SECP256R1())
    end = pki.NOW + timedelta(days=-1 if expired else 1)
    certificate = (
        pki.Draft(
            subject=pki.common_name("id"),
            public_key=public_key_bytes(private.public_key()),
            start=end - timedelta(days=30),
            end=end,
            extensions=(),
            serial=x509.random_serial_number(),
        )
        .put(
            x509.SubjectAlternativeName([x509.DNSName(host)]),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
        )
        .signed_by(authority)
    )
    chain, key = folder / "server.pem", folder / "server.key"
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, key


@pytest.mark.parametrize(
    ("certificate", "is_trusted", "status"),
    [
        pytest.param({}, True, 303, id="trusted"),
        pytest.param({}, False, 503, id="unknown authority"),
        pytest.param({"host": "id.example.org"}, True, 503, id="wrong name"),
        pytest.param({"expired": True}, True, 503, id="expired"),
    ],
)
async def test_nobody_else_can_stand_in_the_place_of_the_provider(
    data_dir: Path,
    tmp_path: Path,
    clock: StillClock,
    monkeypatch: pytest.MonkeyPatch,
    certificate: dict[str, Any],
    is_trusted: bool,
    status: int,
) -> None:
    authority = pki.root()
    trusted = authority if is_trusted else pki.root()
    bundle = tmp_path / "trusted.pem"
    bundle.write_bytes(trusted.certificate.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    files = server_files(authority, tmp_path, **certificate)
    async with (
        serve_provider(clock, host="localhost", tls=files) as provider,
        over_the_network(data_dir, clock, provider) as on,
    ):
        answer = await on.browser().follow("/login/oidc")

        assert answer.status == status
        if status == 303:
            await on.signed_in()
        else:
            assert provider.requests == []
            assert "CERTIFICATE_VERIFY_FAILED" in (await on.site.program().get("/readyz")).text
