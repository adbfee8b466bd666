"""The core as production wires it, over a real database, with an authority that does as it is told.

async with open_core(data_dir) as core:
    core.ca.answers = [raising(CARefused("no"))]  # to the next request; after that it signs again
    issued = await core.issue(await core.mint())
    assert core.ledger("state, delivered") == [("issued", 1)]
"""

import asyncio
import copy
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cryptography import x509

from certbob.audit import AuditLog
from certbob.bootstrap import build_services
from certbob.config import DEFAULT_PROFILE, Limits, Server, Settings
from certbob.devices import Device, Platform
from certbob.errors import CAUncertain
from certbob.identity import Door, Identity
from certbob.issuance import FileOptions
from certbob.ports import (
    AuditStore,
    Chain,
    Clock,
    Delivery,
    Issued,
    LeafRules,
    Mailer,
    Signers,
    SigningRequest,
    Trust,
)
from certbob.secret import Secret
from certbob.services import Services
from tests.support import pki
from tests.support.clock import FakeClock
from tests.support.pki import Draft

P = ParamSpec("P")
T = TypeVar("T")
Answer = Callable[[SigningRequest], Awaitable[Chain]]

SECRET = "a secret of the tests, long enough"
ISSUER = "http://127.0.0.1:8000"
LAPTOP = Device(Platform.LINUX, "Work laptop", older=False)
DATABASE = "certbob.sqlite3"


def person(name: str = pki.ADA, *, email: str | None = None, groups: tuple[str, ...] = ()) -> Identity:
    """Somebody new."""
    return Identity(str(uuid.uuid4()), name, email, groups, Door.LOCAL, name)


class InlineSigners:
    """Implements `ports.Signers` in this very process."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)


class FakeCA:
    """Implements `ports.CertificateAuthority` with a throwaway PKI. `signed`: every leaf it ever made."""

    rules = LeafRules(exact=True)

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        root = pki.root()
        self.issuing = pki.below(root)
        self.trusted = Trust(root.certificate, (self.issuing.certificate,))
        self.answers: list[Answer] = []  # one for each request; when they are used up it just signs
        self.asked: list[SigningRequest] = []
        self.signed: list[x509.Certificate] = []
        self.late: asyncio.Future[Chain] | None = None

    async def sign(self, request: SigningRequest) -> Chain:
        self.asked.append(request)
        return await (self.answers.pop(0) if self.answers else self.good)(request)

    async def trust(self) -> Trust:
        return self.trusted

    async def longest_validity(self) -> timedelta | None:
        return None

    async def health(self) -> str | None:
        return None

    async def close(self) -> None:
        """Nothing to close."""

    def certify(self, request: SigningRequest, change: Callable[[Draft], Draft] | None = None) -> Chain:
        draft = pki.draft_leaf(request, self.issuing, now=self._clock.now())
        leaf = (change(draft) if change else draft).signed_by(self.issuing)
        self.signed.append(leaf)
        return Chain(leaf, self.trusted.intermediates)

    async def good(self, request: SigningRequest) -> Chain:
        return self.certify(request)

    def wrong(self, change: Callable[[Draft], Draft]) -> Answer:
        """Signs something else than was asked for."""

        async def answer(request: SigningRequest) -> Chain:
            return self.certify(request, change)

        return answer

    def held(self, gate: asyncio.Event, then: Answer | None = None) -> Answer:
        """Answers only when the gate is opened."""

        async def answer(request: SigningRequest) -> Chain:
            await gate.wait()
            return await (then or self.good)(request)

        return answer

    async def too_late(self, request: SigningRequest) -> Chain:
        """Gives up while the exchange goes on; a test decides what becomes of `late`."""
        self.late = asyncio.get_running_loop().create_future()
        raise CAUncertain("no answer in time", self.late)


class RevokingCA(FakeCA):
    """Implements `ports.Revoker`, too."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.revoked: list[int] = []
        self.revocation_problem: Exception | None = None

    async def revoke(self, serial: int, reason_code: int) -> None:
        self.revoked.append(serial)
        if self.revocation_problem is not None:
            raise self.revocation_problem


def raising(problem: Exception) -> Answer:
    async def answer(request: SigningRequest) -> Chain:
        raise copy.copy(problem)  # a kept one would keep its traceback's frames in memory

    return answer


def settings_for(data_dir: Path, **sections: Any) -> Settings:
    """The defaults with a known secret, and room for many certificates; `sections` replace sections."""
    server = Server(data_dir=data_dir, public_url=ISSUER, secret=Secret(SECRET))
    limits = Limits(certificates_per_hour=1000)
    return Settings(**{"server": server, "limits": limits} | sections)


@dataclass(frozen=True, slots=True)
class Core:
    services: Services
    ca: FakeCA
    clock: FakeClock
    data_dir: Path

    async def mint(
        self,
        identity: Identity | None = None,
        *,
        profile: str = DEFAULT_PROFILE.id,
        device: Device = LAPTOP,
        validity: timedelta = DEFAULT_PROFILE.validity,
        delivery: Delivery = Delivery.DOWNLOAD,
    ) -> str:
        return await self.services.grants.mint(identity or person(), profile, device, validity, delivery)

    async def issue(self, token: str, holder: str | None = None, **options: Any) -> Issued:
        """`options` as of FileOptions."""
        return await self.services.issuance.issue(token, holder=holder, options=FileOptions(**options))

    def ledger(self, columns: str = "state") -> list[Any]:
        """What the ledger says, read past the program: one value or tuple for each signing."""
        rows = self.rows(f"SELECT {columns} FROM certificates ORDER BY id")
        return [row[0] if len(row) == 1 else row for row in rows]

    def rows(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self.data_dir / DATABASE)) as database:
            return database.execute(sql).fetchall()

    def dump(self) -> str:
        """Every row of every table."""
        return dump(self.data_dir / DATABASE)


def audit_log(store: AuditStore, clock: Clock) -> AuditLog:
    """One whose entries nobody counts."""
    return AuditLog(store, clock=clock, count=lambda _action, _door: None)


def dump(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        return "\n".join(database.iterdump())


@asynccontextmanager
async def open_core(
    data_dir: Path,
    *,
    ca: FakeCA | None = None,
    clock: FakeClock | None = None,
    signers: Signers | None = None,
    mailer: Mailer | None = None,
    **sections: Any,
) -> AsyncIterator[Core]:
    """A process of CertBob without its web; several may share a data folder. `sections`: `settings_for`."""
    clock = clock or FakeClock(pki.NOW)
    ca = ca or FakeCA(clock)
    settings = settings_for(data_dir, **sections)
    services = await build_services(
        settings, clock=clock, ca=ca, signers=signers or InlineSigners(), mailer=mailer
    )
    try:
        yield Core(services, ca, clock, data_dir)
    finally:
        await services.close()
