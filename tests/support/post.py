"""The core with a mail server of ours behind it, and a mailer without any.

async with mail_server() as server, open_post(data_dir, server) as post:
    await post.send(await post.mint())
    assert post.ledger() == [("issued", "mail", 1)]
    [letter] = server.letters
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from certbob.config import SMTP
from certbob.delivery import MailDelivery, Sent
from certbob.errors import GrantUsed, MailProblem
from certbob.identity import Identity
from certbob.issuance import FileOptions
from certbob.ports import Origin
from tests.support.core import Core, open_core, person
from tests.support.mail_server import Received

ADA = "ada@example.org"
HOLDER = "the secret of a browser"


@dataclass(frozen=True, slots=True)
class Post:
    core: Core
    server: Received

    @property
    def mail(self) -> MailDelivery:
        found = self.core.services.mail
        assert found is not None
        return found

    async def send(self, token: str, holder: str | None = HOLDER, **options: Any) -> Sent:
        """`options` as of FileOptions."""
        return await self.mail.send_file(
            token, holder=holder, options=FileOptions(**options), origin=Origin("-", "r")
        )

    async def mint(self, identity: Identity | None = None, **grant: Any) -> str:
        """Somebody's grant, by default Ada's; `grant` as for `Core.mint`."""
        return await self.core.mint(identity or person(email=ADA), **grant)

    async def sent(self, token: str) -> Sent | None:
        """What the page says has been sent."""
        return self.mail.sent(await self.core.services.grants.inspect(token), HOLDER)

    async def is_good(self, token: str) -> bool:
        """Whether the grant can be redeemed."""
        try:
            self.core.services.grants.check_live(await self.core.services.grants.inspect(token))
        except GrantUsed:
            return False
        return True

    def ledger(self) -> list[Any]:
        return self.core.ledger("state, delivery, delivered")

    def attachments(self) -> list[bytes]:
        """The one file of every letter."""
        found = []
        for letter in self.server.letters:
            [part] = letter.message.iter_attachments()
            found.append(part.get_content())
        return found

    def secrets(self, token: str) -> dict[str, str]:
        """What a mail server must not learn of this grant."""
        passphrase = self.core.services.grants.passphrase(token)
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return {
            "passphrase": passphrase,
            "passphrase without hyphens": passphrase.replace("-", ""),
            "token": token,
            "signature of the token": token.rpartition(".")[2],
            "id of the grant": claims["jti"],
        }


@asynccontextmanager
async def open_post(
    data_dir: Path, server: Received, smtp: SMTP | None = None, /, **sections: Any
) -> AsyncIterator[Post]:
    """`sections` of the configuration, as for `settings_for`."""
    async with open_core(data_dir, smtp=smtp or server.settings(), **sections) as core:
        yield Post(core, server)


class FakeMailer:
    """Implements `ports.Mailer`; on demand it waits, or raises a problem before or at the end of a message.

    `letters`: each one with its recipient, also those that it refuses in the end.
    """

    def __init__(self) -> None:
        self.letters: list[tuple[str, EmailMessage]] = []
        self.refusal: Callable[[], MailProblem] | None = None
        self.problem: Callable[[], MailProblem] | None = None
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @asynccontextmanager
    async def envelope(self, recipient: str) -> AsyncIterator["FakeEnvelope"]:
        if self.refusal is not None:
            raise self.refusal()
        yield FakeEnvelope(self, recipient)

    async def reach(self) -> None:
        if self.refusal is not None:
            raise self.refusal()


@dataclass(frozen=True, slots=True)
class FakeEnvelope:
    mailer: FakeMailer
    recipient: str

    async def send(self, message: EmailMessage) -> None:
        self.mailer.letters.append((self.recipient, message))
        self.mailer.asked.set()
        await self.mailer.may_answer.wait()
        if self.mailer.problem is not None:
            raise self.mailer.problem()
