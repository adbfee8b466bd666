"""Single sign-on through a real, certified provider, with a client that takes each step by itself."""

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, urlsplit

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from certbob.config import OIDC
from certbob.secret import Secret
from tests.e2e.conftest import CHECKOUT, USERS, Running
from tests.e2e.smoke import Answer, Browser, Program
from tests.e2e.test_secrets import Hunted
from tests.support.html import Page
from tests.support.openid_provider import (
    ADA,
    BERT,
    CLIENT_ID,
    CLIENT_SECRET,
    LABEL,
    Account,
    OpenIDProviderServer,
    running_openid_provider,
)
from tests.support.served import serve
from tests.support.web import ADA as LOCAL
from tests.support.web import StillClock

pytestmark = pytest.mark.needs("oidc-provider")

CHOICES = {"platform": "linux", "device": "Laptop", "profile": "client", "validity": "90d", "old": "keep"}


@dataclass(frozen=True, slots=True)
class Installation:
    certbob: Running
    provider: OpenIDProviderServer

    def visitor(self) -> "Visitor":
        return Visitor(self.provider)


@contextmanager
def installation(
    base: Path, changes: Mapping[str, Any] | None = None, **provider: Any
) -> Iterator[Installation]:
    """CertBob as people run it, with a local account, too; `changes` to its section about the provider."""
    home, tmp = base / "home", base / "tmp"
    for folder in (home, tmp):
        folder.mkdir(mode=0o700)
    program = Program(
        [sys.executable, CHECKOUT / "app.py"],
        home=home,
        tmp=tmp,
        log=base / "log",
        settings={"LOG_LEVEL": "debug"},
    )
    with running_openid_provider(base, site=program.url, **provider) as server:
        file = home / "config.toml"
        file.touch(mode=0o600)
        entries = server.settings(**changes or {})
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())
        file.write_text(f"[oidc]\n{lines}{USERS}")
        with program.running():
            yield Installation(Running(program.url, home, base / "log"), server)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("single-sign-on"), {"allowed_groups": ["staff"]}) as running:
        yield running


@dataclass
class Visitor:
    """A browser at the CertBob of this provider, without script, and what it was given there."""

    provider: OpenIDProviderServer
    seen: list[Answer] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)  # addresses: the provider's, and those it leads back to

    def __post_init__(self) -> None:
        self.browser = Browser(self.provider.site)

    def get(self, address: str, accept: str = "text/html") -> Answer:
        self.seen.append(self.browser.get(address.removeprefix(self.provider.site), accept))
        return self.seen[-1]

    def post(self, path: str, **form: str) -> Answer:
        self.seen.append(self.browser.post(path, **form))
        return self.seen[-1]

    def go(self, *presses: str, person: Account = ADA) -> str:
        """To the provider, where these buttons are pressed: the address of ours that it leads back to."""
        started = self.get("/login/oidc")
        assert started.status == 303, started
        callback = self.provider.walk(started.location, *presses, person=person)
        self.gone += started.location, callback
        return callback

    def sign_in(self, person: Account = ADA) -> Answer:
        return self.get(self.go("login", "consent", person=person))

    def take(self) -> x509.Certificate:
        """A certificate, by way of all pages."""
        form_token = self.get("/new").page().form_token
        chosen = self.post("/new", form_token=form_token, delivery="download", **CHOICES)
        assert chosen.status == 303, chosen
        passphrase = self.get(chosen.location).page().passphrase
        return certificate_in(self.get(chosen.location, accept="*/*").body, passphrase)


def certificate_in(file: bytes, passphrase: str) -> x509.Certificate:
    found = pkcs12.load_pkcs12(file, passphrase.encode()).cert
    assert found is not None
    return found.certificate


def assert_is_about(certificate: x509.Certificate, person: Account) -> None:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in common_names] == [person.username]
    assert names.get_values_for_type(x509.RFC822Name) == [person.email]


@pytest.mark.parametrize(
    ("algorithm", "method", "id_tokens_are_lean"),
    [
        ("RS256", "client_secret_basic", True),
        ("PS256", "client_secret_post", False),
        ("ES256", "none", True),
        ("EdDSA", "client_secret_basic", False),
        ("Ed25519", "client_secret_post", True),
        ("RS256", "none", False),
    ],
)
def test_each_signature_and_client_authentication_lets_ada_in(
    tmp_path: Path, algorithm: str, method: str, id_tokens_are_lean: bool
) -> None:
    provider = {"algorithm": algorithm, "method": method, "id_tokens_are_lean": id_tokens_are_lean}
    with installation(tmp_path, {"allowed_groups": ["staff"]}, **provider) as running:
        visitor = running.visitor()

        answer = visitor.sign_in()

        assert (answer.status, answer.location) == (303, "/new"), running.certbob.log.read_text()
        (exchange,) = running.provider.exchanges()
        assert jwt.get_unverified_header(exchange["given"]["id_token"])["alg"] == algorithm
        assert_is_about(visitor.take(), ADA)
        assert "Warning:" not in running.certbob.log.read_text()  # of a library


def test_who_is_in_no_allowed_group_is_told_so(installed: Installation) -> None:
    visitor = installed.visitor()

    refused = visitor.sign_in(BERT)

    assert refused.status == 403
    page = Page(refused.body.decode())
    assert "You cannot use this service" in page.text()
    assert "staff" in page.text()
    assert visitor.get("/new").location.startswith("/login")


def test_who_cancels_is_told_so_in_our_words(installed: Installation) -> None:
    visitor = installed.visitor()
    back = visitor.go("cancel")
    assert parse_qs(urlsplit(back).query)["error_description"] == ["<b>The person</b> cancelled"]

    refused = visitor.get(back)

    assert refused.status == 400
    assert "The sign-in did not work" in Page(refused.body.decode()).text()
    assert b"The person" not in refused.body
    assert visitor.sign_in().status == 303


def test_a_wrong_client_secret_is_the_operators_to_mend(tmp_path: Path) -> None:
    wrong = "wr0ng:" + CLIENT_SECRET
    with installation(tmp_path, {"client_secret": wrong}) as running:
        visitor = running.visitor()

        refused = visitor.sign_in()

        assert refused.status == 400
        assert "Single sign-on is misconfigured" in Page(refused.body.decode()).text()
        log = running.certbob.log.read_bytes()
        assert b"invalid_client" in log
        assert hunted_in([visitor], wrong).found_in(log + refused.body) == set()


async def test_while_the_provider_is_away_nobody_inside_notices(tmp_path: Path) -> None:
    clock = StillClock(datetime.now(UTC))  # near to the provider's, which is the real one
    provider = OpenIDProviderServer(tmp_path)
    oidc = OIDC(issuer=provider.issuer, client_id=CLIENT_ID, client_secret=Secret(CLIENT_SECRET), label=LABEL)
    async with serve(tmp_path / "data", clock, oidc=oidc) as served:
        provider.site = served.site.url
        try:
            await asyncio.to_thread(go_through_an_outage, provider, clock)
        finally:
            provider.stop()


def go_through_an_outage(provider: OpenIDProviderServer, clock: StillClock) -> None:
    provider.start()
    inside = [Visitor(provider) for _ in range(10)]
    for visitor in inside:
        assert visitor.sign_in().location == "/new"

    with ThreadPoolExecutor(len(inside)) as pool:
        taking = [pool.submit(visitor.take) for visitor in inside]
        provider.stop()
    clock.advance(seconds=4)  # longer than CertBob relies on the last answer

    for taken, visitor in zip(taking, inside, strict=True):
        assert_is_about(taken.result(), ADA)
        assert_is_about(visitor.take(), ADA)
    stranger = Visitor(provider)
    told = stranger.get("/login/oidc")
    assert told.status == 503
    assert f"{LABEL} does not answer right now" in Page(told.body.decode()).text()
    checks = json.loads(stranger.get("/readyz").body)["checks"]
    assert [name for name, reason in checks.items() if reason != "ok"] == ["oidc"]
    assert stranger.get("/healthz").status == 200
    local = {"username": LOCAL.username, "password": LOCAL.password}
    assert stranger.post("/login", **local).location == "/new"

    provider.start()
    newcomer = Visitor(provider)
    give_up = clock.now() + timedelta(minutes=2)
    while newcomer.get("/login/oidc").status == 503:
        assert clock.now() < give_up
        clock.advance(seconds=1)
    assert newcomer.sign_in().location == "/new"


def test_no_secret_of_a_sign_in_is_in_the_log_or_on_a_page(tmp_path: Path) -> None:
    with installation(tmp_path, {"allowed_groups": ["staff"]}) as running:
        visitor, other = running.visitor(), running.visitor()
        callback = visitor.go("login", "consent")
        assert other.get(callback).status == 400
        assert visitor.get(callback).status == 303
        assert visitor.get(callback).status == 400
        visitor.take()
        assert other.get(other.go("login", "consent").replace("code=", "code=x")).status == 400
        assert other.get(other.go("cancel")).status == 400
        assert other.sign_in(BERT).status == 403
        for path in ("/ca", f"/{parse_qs(urlsplit(callback).query)['code'][0]}", "/login"):
            other.get(path)
        form_token = visitor.get("/new").page().form_token
        visitor.get(visitor.post("/logout", form_token=form_token).location)
        farewell = visitor.get("/login/oidc/logout").location
        id_token = parse_qs(urlsplit(farewell).query)["id_token_hint"]
        assert id_token in [[exchange["given"].get("id_token")] for exchange in running.provider.exchanges()]

        hunted = hunted_in([visitor, other])
        log = running.certbob.log.read_bytes()

    kinds = {"client secret", "state", "nonce", "code", "code verifier", "access token", "ID token"}
    assert {f"the {kind}" for kind in kinds} <= set(hunted.secrets.values())
    assert hunted.found_in(log) == set()
    for answer in visitor.seen + other.seen:
        assert hunted.found_in(answer.body) == set(), answer.status
    files = [file for file in running.certbob.folder.rglob("*") if file.is_file()]
    files.remove(running.certbob.folder / "config.toml")
    assert "certbob.sqlite3" in {file.name for file in files}
    for file in files:
        assert hunted.found_in(file.read_bytes()) == set(), file.name


def hunted_in(visitors: list[Visitor], client_secret: str = CLIENT_SECRET) -> Hunted:
    """All that these sign-ins have brought: what went through the browsers, and past them."""
    hunted = Hunted()
    basic = f"{quote_plus(CLIENT_ID)}:{quote_plus(client_secret)}"
    hunted.add("the client secret", client_secret, quote_plus(client_secret), basic)
    for visitor in visitors:
        for address in visitor.gone:
            query = parse_qs(urlsplit(address).query)
            for name in {"state", "nonce", "code"} & query.keys():
                hunted.add(f"the {name}", *query[name])
        for exchange in visitor.provider.exchanges():
            hunted.add("the code verifier", exchange["sent"]["code_verifier"])
            if "id_token" in exchange["given"]:
                hunted.add("the access token", exchange["given"]["access_token"])
                hunted.add("the ID token", *exchange["given"]["id_token"].split("."))
    return hunted
