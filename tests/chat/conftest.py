"""A Mattermost with alice, its bot, and a database; the clock stands still."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from certbob.chat.server import ChatServer
from certbob.secret import Secret
from certbob.store.chats import SqlChats
from certbob.store.sqlite import Database
from tests.support.mattermost import Mattermost
from tests.support.mattermost_api import User
from tests.support.web import StillClock


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def chat(clock: StillClock) -> Mattermost:
    chat = Mattermost(clock)
    chat.add_user("alice")
    chat.add_team("acme")
    return chat


@pytest.fixture
def alice(chat: Mattermost) -> User:
    return next(iter(chat.users.values()))


@pytest.fixture
def bot_token(chat: Mattermost) -> Secret:
    return Secret(chat.new_access_token(chat.add_bot("certbob")))


@pytest.fixture
async def server(chat: Mattermost, bot_token: Secret) -> AsyncIterator[ChatServer]:
    """As the bot."""
    server = ChatServer(chat.site_url, bot_token, transport=httpx2.ASGITransport(app=chat))
    yield server
    await server.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlChats]:
    database = await Database.open(tmp_path / "certbob.sqlite3")
    yield SqlChats(database)
    await database.close()
