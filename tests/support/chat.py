"""A site of CertBob with its Mattermost, in one process.

async with open_chat(data_dir, clock, known=True) as world:
    seen = await world.told("/cert download Phone")
"""

import asyncio
import itertools
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from certbob import config
from certbob.chat.server import ChatServer
from certbob.config import SMTP, CommandToken
from certbob.secret import Secret
from certbob.services import Chat
from tests.support.mail_server import SENDER
from tests.support.mattermost import Mattermost, Seen
from tests.support.mattermost_api import Command, Team, User
from tests.support.post import FakeMailer
from tests.support.web import (
    CONTACT,
    HTTPS_URL,
    Answer,
    Site,
    StillClock,
    open_site,
)

SMTP_SETTINGS = SMTP(host="mail.example.org", sender=SENDER)
PASSPHRASE = re.compile(r"[a-z2-9]{4}(?:-[a-z2-9]{4}){4}")


@dataclass(frozen=True, slots=True)
class World:
    """CertBob, and the Mattermost of Acme: Alice and Bob are in its only team, which has the command."""

    site: Site
    chat: Mattermost
    team: Team
    command: Command
    alice: User
    bob: User

    @property
    def door(self) -> Chat:
        found = self.site.services.chat
        assert found is not None
        return found

    async def run(self, line: str = "/cert", user: User | None = None, **forged: Any) -> Seen:
        """What `user`, or Alice, sees. `forged` as in `Mattermost.run`."""
        return await self.chat.run(user or self.alice, line, **forged)

    async def told(self, line: str = "/cert", user: User | None = None, **forged: Any) -> Seen:
        """The same, of an answer that is for people, which every one but refusals is."""
        seen = await self.run(line, user, **forged)
        assert_for_people(seen)
        assert self.chat.link_metadata == {}
        return seen

    def form(self, **changes: str) -> dict[str, str]:
        """The fields that matter, for clients that are not Mattermost."""
        fields = {"token": self.command.token, "user_id": self.alice.id, "user_name": self.alice.username}
        return fields | {"team_id": self.team.id, "command": "/cert", "text": "download"} | changes

    def state(self) -> list[str]:
        """All that the database holds but the counts of tries."""
        with closing(sqlite3.connect(self.site.settings.server.data_dir / "certbob.sqlite3")) as database:
            return [line for line in database.iterdump() if not line.startswith('INSERT INTO "tries"')]


@asynccontextmanager
async def open_chat(
    data_dir: Path,
    clock: StillClock,
    *,
    chat: Mattermost | None = None,
    known: bool = False,
    bot: bool = False,
    mailer: FakeMailer | None = None,
    site: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    """`options` are of `[mattermost]`. `known`: CertBob knows the server and its key; `bot`: also by a bot.

    `chat`: of another process, to open a second one. `site` as of `open_site`.
    """
    if chat is None:
        chat = Mattermost(clock)
        people = [chat.add_user("alice"), chat.add_user("bob")]
        chat.add_command(chat.add_team("acme", members=people), f"{HTTPS_URL}/request")
    [command], [team] = chat.commands.values(), chat.teams.values()
    alice, bob = itertools.islice(chat.users.values(), 2)
    bot_token = Secret(chat.new_access_token(chat.add_bot("certbob"))) if bot else None
    server = None
    if known or bot or "url" in options:
        options = {"url": chat.site_url, "bot_token": bot_token} | options
        server = ChatServer(chat.site_url, bot_token, transport=httpx2.ASGITransport(app=chat))
    options.setdefault("token", (token(command.token),))
    site = {"mailer": mailer, "smtp": SMTP_SETTINGS if mailer else SMTP()} | dict(site or {})
    async with open_site(
        data_dir,
        clock,
        public_url=HTTPS_URL,
        mattermost=config.Mattermost(**options),
        chat_server=server,
        **site,
    ) as opened:
        chat.transport = process(opened)
        world = World(opened, chat, team, command, alice, bob)
        if known:
            await world.door.accept_key()
        yield world


def process(site: Site) -> httpx2.ASGITransport:
    app: Any = site.app
    return httpx2.ASGITransport(app=app)


def token(text: str, team: str | None = None) -> CommandToken:
    return CommandToken(token=Secret(text), team=team)


class InTurn(httpx2.AsyncBaseTransport):
    """Several processes behind one address."""

    def __init__(self, *worlds: World) -> None:
        self._next = itertools.cycle([process(world.site) for world in worlds])

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await next(self._next).handle_async_request(request)


async def background() -> None:
    """Until all that was begun has ended."""
    async with asyncio.timeout(5):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


def assert_for_people(seen: Seen) -> None:
    """`seen` is an answer as every one of them has to be."""
    assert seen.kind == "ephemeral", seen
    assert seen.answer is not None
    assert_closed(seen.answer.headers)
    assert seen.answer.headers["Content-Type"] == "application/json"
    content = json.loads(seen.answer.content)
    assert content.keys() - {"goto_location"} == {"response_type", "text", "skip_slack_parsing"}
    assert content["skip_slack_parsing"] is True
    assert 0 < len(seen.text.strip()) <= len(seen.text) <= 4000
    markdown = seen.markdown
    assert (markdown.bare, markdown.images) == ((), ())
    assert all(link.startswith(f"{HTTPS_URL}/") or link == f"mailto:{CONTACT}" for link in markdown.links)
    assert seen.goto_location in ("", *markdown.links)
    words = re.sub(r"\]\([^)\s]*\)", "]", re.sub(r"`[^`\n]*`", "", seen.text))
    assert not re.search(r"://|@\w|(?<!\\)[~<`]", words), seen.text
    assert "\0" not in seen.text


def assert_closed(headers: httpx2.Headers) -> None:
    assert headers["Cache-Control"] == "no-store"
    assert headers["Connection"] == "close"
    assert "Set-Cookie" not in headers
    assert "Location" not in headers


def without_reference(text: str) -> str:
    return re.sub(r"Reference \S+", "", text)


async def redeemed(world: World, seen: Seen) -> Answer:
    """The file of a link, as a program gets it."""
    answer = await world.site.program().get(seen.goto_location.removeprefix(HTTPS_URL))
    assert answer.status == 200, answer.text
    return answer
