"""Reminders as direct messages of the bot: what they say, to whom, and what becomes of them when it fails."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import httpx2
import pytest

from certbob.chat.messages import Messages
from certbob.chat.reminders import ChatMessenger
from certbob.chat.server import ChatServer
from certbob.identity import Door, Identity
from certbob.paths import resource_root
from certbob.ports import Outcome, Reminder, Result, Step, Way
from certbob.secret import Secret
from certbob.store.chats import SqlChats
from tests.support.mattermost import Mattermost, read_markdown
from tests.support.mattermost_api import User
from tests.support.preview import CERTIFICATE

SITE = "https://cert.example.org"
REPLACE = f"{SITE}/certificates/{CERTIFICATE.serial:x}/replace"
NO = b'{"message": "No."}'
END = datetime(2026, 12, 7, 9, 30, tzinfo=UTC)


class Faulty(httpx2.AsyncBaseTransport):
    """The server, but for one of its addresses."""

    def __init__(self, chat: Mattermost) -> None:
        self._server = httpx2.ASGITransport(app=chat)
        self.path = ""
        self.answer: tuple[int, bytes] | Exception | None = None
        self.passes_on = False  # it does what it was asked to, but nobody hears of it

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.answer is not None and request.url.path.endswith(self.path):
            if self.passes_on:
                await self._server.handle_async_request(request)
            if isinstance(self.answer, Exception):
                raise self.answer
            status, content = self.answer
            return httpx2.Response(status, stream=httpx2.ByteStream(content))
        return await self._server.handle_async_request(request)


@dataclass(slots=True)
class Desk:
    messenger: ChatMessenger
    chat: Mattermost
    wire: Faulty
    person: User
    begun: int = 0

    async def begin(self) -> None:
        assert self.posts() == []
        self.begun += 1

    async def send(self, door: Door = Door.LOCAL) -> Outcome:
        return await self.messenger.send(self.reminder(door), self.begin)

    def reminder(self, door: Door = Door.LOCAL) -> Reminder:
        certificate = replace(CERTIFICATE, not_after=END)
        return Reminder(certificate, Step(14, 3), Way.CHAT, self.person.id, door, "ada")

    def posts(self) -> list[str]:
        return [text for user, text in self.chat.direct_messages if user is self.person]


@pytest.fixture
async def desk(chat: Mattermost, bot_token: Secret, alice: User, store: SqlChats) -> AsyncIterator[Desk]:
    wire = Faulty(chat)
    server = ChatServer(chat.site_url, bot_token, transport=wire)
    messages = Messages(resource_root() / "partials" / "chat", site=SITE, contact=None)
    yield Desk(ChatMessenger(server, store, messages, site=SITE), chat, wire, alice)
    await server.close()


async def test_it_names_the_device_and_leads_to_its_page(desk: Desk) -> None:
    assert await desk.send() == Outcome(Result.SENT)

    [message] = desk.posts()
    assert "certificate for **Work laptop** expires on 7 December 2026" in message
    seen = read_markdown(message)
    assert (seen.links, seen.bare, seen.code) == ((REPLACE,), (), ("/cert reminders off",))
    assert desk.begun == 1


async def test_who_has_the_chat_alone_reads_a_command(desk: Desk) -> None:
    assert await desk.send(Door.MATTERMOST) == Outcome(Result.SENT)

    seen = read_markdown(desk.posts()[0])
    assert (seen.links, seen.code) == ((), ("/cert download Work laptop", "/cert reminders off"))


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (400, Result.REFUSED),
        (403, Result.REFUSED),
        (404, Result.REFUSED),
        (401, Result.AWAY),
        (429, Result.AWAY),
        (500, Result.AWAY),
        (502, Result.AWAY),
    ],
)
async def test_before_there_is_a_channel_nothing_was_sent(desk: Desk, status: int, result: Result) -> None:
    desk.wire.path, desk.wire.answer = "/channels/direct", (status, NO)

    outcome = await desk.send()

    assert outcome.result is result
    assert f"answered {status}: 'No.'" in outcome.detail
    assert (desk.begun, desk.posts()) == (0, [])


async def test_a_server_that_does_not_answer_is_away(desk: Desk) -> None:
    desk.wire.answer = httpx2.ConnectError("refused")

    assert (await desk.send()).result is Result.AWAY
    assert desk.begun == 0


@pytest.mark.parametrize(
    ("status", "result"),
    [(403, Result.REFUSED), (401, Result.AWAY), (429, Result.AWAY)],
)
async def test_a_post_that_is_refused_was_not_sent(desk: Desk, status: int, result: Result) -> None:
    desk.wire.path, desk.wire.answer = "/posts", (status, NO)

    assert (await desk.send()).result is result
    assert (desk.begun, desk.posts()) == (1, [])


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.ReadError("cut"),
        httpx2.ReadTimeout("too slow"),
        (502, b"<html>"),
        (201, b"<html>"),
    ],
    ids=repr,
)
async def test_after_the_post_nobody_knows(desk: Desk, answer: tuple[int, bytes] | Exception) -> None:
    desk.wire.path, desk.wire.answer, desk.wire.passes_on = "/posts", answer, True

    assert (await desk.send()).result is Result.UNKNOWN
    assert len(desk.posts()) == 1


async def test_who_may_not_begin_posts_nothing(desk: Desk) -> None:
    class TakenOver(Exception):
        pass

    async def begin() -> None:
        raise TakenOver

    with pytest.raises(TakenOver):
        await desk.messenger.send(desk.reminder(), begin)

    assert desk.posts() == []


async def test_it_reaches_accounts_of_the_chat_and_those_that_people_have_linked(
    desk: Desk, store: SqlChats
) -> None:
    ada = Identity("3f1c", "Ada Lovelace", None, (), Door.LOCAL, "ada")
    assert await desk.messenger.reaches(replace(ada, door=Door.MATTERMOST, account=desk.person.id))
    assert not await desk.messenger.reaches(ada)

    await store.link(desk.person.id, "alice", ada)

    assert await desk.messenger.reaches(ada)
