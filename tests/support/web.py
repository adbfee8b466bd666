"""The web front door over real services, and clients that see it from the outside.

    async with open_site(data_dir, clock) as site:
        ada = await site.signed_in(ADA)
        page = (await ada.get("/new")).page
        answer = await ada.submit(page.form("/new"), device="Work laptop")

Keys and signatures are made in this process, everything else is what production wires.
"""

import asyncio
import functools
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from types import CodeType
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlencode

import jinja2
from quart import Quart
from quart.testing.utils import sentinel
from werkzeug.datastructures import Headers

from certbob import web
from certbob.auth.local import hash_password
from certbob.auth.provider import OpenIDProvider
from certbob.bootstrap import build_services, prepare_data_dir
from certbob.ca.builtin import BuiltinCA, open_authority
from certbob.chat.server import ChatServer
from certbob.config import (
    DEFAULT_PROFILE,
    OIDC,
    PKCS12,
    SMTP,
    Issue,
    Limits,
    Local,
    LocalUser,
    Mattermost,
    Server,
    Settings,
)
from certbob.devices import Device, Encoding, Platform
from certbob.identity import Door, Identity
from certbob.ports import CertificateAuthority, Chain, Mailer, SigningRequest, Trust
from certbob.profiles import KeyType, Profile, Usage
from certbob.secret import Secret
from certbob.server import new_app
from certbob.services import Services
from tests.support.html import Form, Page

P = ParamSpec("P")
T = TypeVar("T")


class Compiled(jinja2.BytecodeCache):
    """What another site of these tests has compiled: that takes most of the time of opening one."""

    def __init__(self) -> None:
        self._code: dict[str, CodeType] = {}

    def load_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        bucket.code = self._code.get(f"{bucket.key} {bucket.checksum}")

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        if bucket.code is not None:
            self._code[f"{bucket.key} {bucket.checksum}"] = bucket.code


Quart.jinja_options = {**Quart.jinja_options, "bytecode_cache": Compiled()}

LOOPBACK_URL = "http://127.0.0.1:8000"
HTTPS_URL = "https://cert.example.org"
ORGANIZATION = "Example Org"
CONTACT = "help@example.org"

VPN = Profile(
    id="vpn",
    label="VPN",
    usages=(Usage.CLIENT_AUTH,),
    validity=timedelta(days=30),
    max_validity=timedelta(days=30),
    key_types=(KeyType.P256,),
    groups=("vpn-users",),
)


@dataclass(frozen=True, slots=True)
class Person:
    username: str
    password: str
    name: str
    email: str | None = None
    groups: tuple[str, ...] = ()


ADA = Person("ada", "correct horse battery staple", "Ada Lovelace", "ada@example.org", ("vpn-users",))
BERT = Person("bert", "a colleague without groups", "Bert Becker")


@functools.cache
def _password_hash(password: str) -> str:
    return hash_password(password)


@dataclass(slots=True)
class StillClock:
    """Implements `ports.Clock`: time passes only when a test says so."""

    moment: datetime = datetime(2026, 11, 24, 14, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def advance(self, **length: float) -> None:
        self.moment += timedelta(**length)


class InlineSigners:
    """Implements `ports.Signers` in this very process."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)


def settings_for(
    data_dir: Path,
    *,
    public_url: str = LOOPBACK_URL,
    trusted_proxies: tuple[str, ...] = (),
    metrics_token: Secret | None = None,
    people: tuple[Person, ...] = (ADA, BERT),
    profiles: tuple[Profile, ...] = (DEFAULT_PROFILE, VPN),
    issue: Issue = Issue(),  # noqa: B008 frozen
    pkcs12: PKCS12 = PKCS12(),  # noqa: B008
    limits: Limits = Limits(),  # noqa: B008
    oidc: OIDC = OIDC(),  # noqa: B008
    smtp: SMTP = SMTP(),  # noqa: B008
    mattermost: Mattermost = Mattermost(),  # noqa: B008
    **server: Any,
) -> Settings:
    """`server`: more keys of that section."""
    users = (
        LocalUser(
            username=person.username,
            password_hash=Secret(_password_hash(person.password)),
            name=person.name,
            email=person.email,
            groups=person.groups,
        )
        for person in people
    )
    return Settings(
        server=Server(
            data_dir=data_dir,
            public_url=public_url,
            trusted_proxies=trusted_proxies,
            metrics_token=metrics_token,
            organization=ORGANIZATION,
            contact=CONTACT,
            **server,
        ),
        local=Local(users=tuple(users)),
        issue=issue,
        pkcs12=pkcs12,
        limits=limits,
        oidc=oidc,
        smtp=smtp,
        mattermost=mattermost,
        profiles=profiles,
    )


@asynccontextmanager
async def open_site(
    data_dir: Path,
    clock: StillClock,
    *,
    ca: CertificateAuthority | None = None,
    provider: OpenIDProvider | None = None,
    mailer: Mailer | None = None,
    chat_server: ChatServer | None = None,
    **settings: Any,
) -> AsyncIterator["Site"]:
    """A process of CertBob; several may share a data folder. `settings` as in `settings_for`."""
    configured = settings_for(data_dir, **settings)
    services = await build_services(
        configured,
        clock=clock,
        ca=ca,
        signers=InlineSigners(),
        provider=provider,
        mailer=mailer,
        chat_server=chat_server,
    )
    app = new_app(configured)
    web.attach(app, services)
    if services.revocation_list is not None:
        await services.revocation_list.refresh()
    try:
        yield Site(app, services, clock, configured)
    finally:
        await services.close()


@dataclass(frozen=True, slots=True)
class Site:
    app: Quart
    services: Services
    clock: StillClock
    settings: Settings

    @property
    def url(self) -> str:
        return self.settings.server.public_url

    def browser(self, **headers: str) -> "Client":
        return Client(self, BROWSER | _as_names(headers), is_browser=True)

    def program(self, **headers: str) -> "Client":
        return Client(self, PROGRAM | _as_names(headers), is_browser=False)

    async def signed_in(self, person: Person = ADA) -> "Client":
        client = self.browser()
        answer = await client.sign_in(person)
        assert answer.status == 303, answer.text
        return client

    async def mint(
        self,
        person: Person = ADA,
        *,
        door: Door = Door.LOCAL,
        platform: Platform = Platform.LINUX,
        device: str = "Work laptop",
        older: bool = False,
        profile: Profile = DEFAULT_PROFILE,
    ) -> str:
        """The token of a fresh grant, as if the person had filled in the form."""
        subject = await self.services.people.subject_for(door, person.username)
        identity = Identity(subject, person.name, person.email, person.groups, door, person.username)
        wanted = Device(platform, device, older)
        return await self.services.grants.mint(identity, profile.id, wanted, profile.validity)

    def ledger(self, columns: str = "state") -> list[Any]:
        """What the ledger says, read past the program: one value or tuple for each signing."""
        with closing(sqlite3.connect(self.settings.server.data_dir / "certbob.sqlite3")) as database:
            rows = database.execute(f"SELECT {columns} FROM certificates ORDER BY id").fetchall()
        return [row[0] if len(row) == 1 else row for row in rows]


BROWSER: dict[str, str | None] = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
}
PROGRAM: dict[str, str | None] = {"Accept": "*/*", "User-Agent": "curl/8.14.1"}
HTMX: dict[str, str | None] = {"HX-Request": "true", "Accept": "text/html, */*"}


def _as_names(keywords: Mapping[str, str]) -> dict[str, str]:
    return {keyword.replace("_", "-"): value for keyword, value in keywords.items()}


HeaderChanges = Mapping[str, str | None]  # None takes a header away


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Headers
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def page(self) -> Page:
        assert self.headers["Content-Type"] == "text/html; charset=utf-8"
        return Page(self.text)

    @property
    def cookies(self) -> dict[str, "Morsel[str]"]:
        jar: SimpleCookie = SimpleCookie()
        for line in self.headers.getlist("Set-Cookie"):
            jar.load(line)
        return dict(jar)


class Client:
    """Somebody's browser or program. It keeps cookies and follows nothing."""

    def __init__(self, site: Site, headers: HeaderChanges, *, is_browser: bool) -> None:
        self.site = site
        self.headers = dict(headers)
        self.is_browser = is_browser
        self.cookies: dict[str, str] = {}
        self.address = "192.0.2.7"

    def as_htmx(self) -> "Client":
        """The same browser, through htmx."""
        client = Client(self.site, self.headers | HTMX, is_browser=True)
        client.cookies = self.cookies
        return client

    async def get(self, path: str, headers: HeaderChanges | None = None) -> Answer:
        return await self.send("GET", path, headers)

    async def follow(self, link: str) -> Answer:
        """As after a click on a page of ours, or a redirect of its form."""
        return await self.get(link, {"Sec-Fetch-Site": "same-origin"})

    async def head(self, path: str, headers: HeaderChanges | None = None) -> Answer:
        return await self.send("HEAD", path, headers)

    async def post(
        self,
        path: str,
        form: Mapping[str, str] | list[tuple[str, str]] | bytes = b"",
        headers: HeaderChanges | None = None,
    ) -> Answer:
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        sent: dict[str, str | None] = {"Content-Type": "application/x-www-form-urlencoded"}
        if self.is_browser:
            sent |= {"Origin": self.site.url, "Sec-Fetch-Site": "same-origin"}
        return await self.send("POST", path, sent | dict(headers or {}), body)

    async def submit(self, form: Form, **changes: str) -> Answer:
        assert form.method == "post"
        return await self.post(form.action, form.fields | changes)

    async def send(
        self, method: str, path: str, headers: HeaderChanges | None = None, body: bytes = b""
    ) -> Answer:
        merged = {"Host": self.site.url.partition("://")[2], **self.headers, **(headers or {})}
        if self.cookies:
            merged.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        response = await self.site.app.test_client(use_cookies=False).open(
            path,
            method=method,
            headers=Headers([(name, value) for name, value in merged.items() if value is not None]),
            data=body,
            scheme=self.site.url.partition("://")[0],
            json=sentinel,  # the type of `open` demands it
            scope_base={"client": (self.address, 40000)},
        )
        answer = Answer(response.status_code, response.headers, await response.get_data(as_text=False))
        self._keep(answer)
        return answer

    async def sign_in(self, person: Person, **fields: str) -> Answer:
        form = {"username": person.username, "password": person.password}
        return await self.post("/login", form | fields)

    async def form_token(self) -> str:
        return (await self.get("/new")).page.form("/new").fields["form_token"]

    def _keep(self, answer: Answer) -> None:
        for name, cookie in answer.cookies.items():
            if cookie["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = cookie.value


def routes(app: Quart, method: str) -> Iterator[str]:
    """The addresses that take this method."""
    for rule in app.url_map.iter_rules():
        if method in (rule.methods or ()):
            yield rule.rule.replace("<name>", "certbob.css")


def encoding_of(pfx: bytes) -> Encoding:
    """By the object identifiers in it: PBES2, or pbeWithSHAAnd3-KeyTripleDES-CBC."""
    modern = bytes.fromhex("2a864886f70d01050d") in pfx
    compatible = bytes.fromhex("2a864886f70d010c0103") in pfx
    assert modern != compatible
    return Encoding.MODERN if modern else Encoding.COMPATIBLE


class FakeCA:
    """The embedded authority, which on demand waits, or raises a problem in the place of an answer."""

    rules = BuiltinCA.rules

    def __init__(self, data_dir: Path, clock: StillClock) -> None:
        authority = open_authority(
            prepare_data_dir(data_dir) / "ca",
            name="CertBob",
            organization=ORGANIZATION,
            key_type=KeyType.P256,
            passphrase=None,
            now=clock.now(),
        )
        self._real = BuiltinCA(authority, signers=InlineSigners(), clock=clock)
        self.problem: Exception | None = None
        self.signing_problem: Exception | None = None
        self.broken: str | None = None  # for the operator
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def sign(self, request: SigningRequest) -> Chain:
        self.asked.set()
        await self.may_answer.wait()
        if (problem := self.signing_problem or self.problem) is not None:
            raise problem
        return await self._real.sign(request)

    async def trust(self) -> Trust:
        if self.problem is not None:
            raise self.problem
        return await self._real.trust()

    async def longest_validity(self) -> timedelta | None:
        return await self._real.longest_validity()

    async def health(self) -> str | None:
        return self.broken

    async def close(self) -> None:
        """Nothing to close."""
