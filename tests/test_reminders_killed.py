"""Two real processes over one database and one mail server, and one of them is killed in the middle."""

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_bytes
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import aiosmtpd.smtp
import pytest

from certbob.bootstrap import build_services
from certbob.config import SMTP, Local, LocalUser, Server, Settings
from certbob.identity import Door
from certbob.secret import Secret
from tests.support.clock import FakeClock
from tests.support.core import DATABASE, SECRET, InlineSigners
from tests.support.ledger import add_certificate, change, holder
from tests.support.mail_server import HOST, SENDER
from tests.support.pki import NOW

CERTIFICATES = 60
VICTIM, OTHER = "victim.example", "other.example"  # what each process says that it is called
FIFTH = 5
HASH = f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}"  # of no password
DAY, TURN = timedelta(days=1), timedelta(minutes=10)


def settings(data_dir: Path, port: int, name: str) -> Settings:
    return Settings(
        server=Server(data_dir=data_dir, public_url=f"https://{name}", secret=Secret(SECRET)),
        local=Local(users=(LocalUser(username="ada", password_hash=Secret(HASH)),)),
        smtp=SMTP(host=HOST, port=port, security="none", sender=SENDER),
    )


def work(data_dir: Path, port: int, name: str, now: datetime, start: Barrier) -> None:
    """One look at what is due, in a process of its own."""

    async def remind() -> None:
        services = await build_services(
            settings(data_dir, port, name), clock=FakeClock(now), signers=InlineSigners()
        )
        assert services.reminders is not None
        start.wait(60)
        await services.reminders.remind()
        await services.close()

    asyncio.run(remind())


@dataclass(slots=True)
class Post:
    """A mail server that keeps what it took. It kills the victim at a `stage` of its fifth message.

    Until then the other process gets rid of a part only.
    """

    stage: str
    port: int = 0
    victim: SpawnProcess | None = None
    start: Barrier | None = None
    messages: list[str] = field(default_factory=list)  # their ids
    _seen: Counter[str] = field(default_factory=Counter)
    _killed: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle_EHLO(  # noqa: N802 aiosmtpd's name, as below
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self._seen[hostname] += 1
        if hostname == OTHER and self._seen[OTHER] > CERTIFICATES // 2:
            await self._killed.wait()
        self._perhaps_kill("EHLO", session)
        return responses

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        self._perhaps_kill("RCPT", session)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.messages.append(str(message_from_bytes(envelope.content)["Message-ID"]))
        self._perhaps_kill("DATA", session)
        return "250 OK"

    def _perhaps_kill(self, stage: str, session: Any) -> None:
        is_fifth = session.host_name == VICTIM and self._seen[VICTIM] == FIFTH
        if stage == self.stage and is_fifth and self.victim is not None and self.victim.pid is not None:
            os.kill(self.victim.pid, signal.SIGKILL)
            self._killed.set()


@asynccontextmanager
async def open_post(stage: str) -> AsyncIterator[Post]:
    post = Post(stage)
    server = await asyncio.get_running_loop().create_server(
        lambda: aiosmtpd.smtp.SMTP(post, hostname="mail.example.org"), "127.0.0.1", 0
    )
    post.port = server.sockets[0].getsockname()[1]
    try:
        yield post
    finally:
        server.close()


def started(data_dir: Path, post: Post, *names: str, now: datetime = NOW) -> list[SpawnProcess]:
    """All begin at once."""
    spawn = multiprocessing.get_context("spawn")
    post.start = spawn.Barrier(len(names))  # kept: a barrier that nobody has here is gone there, too
    processes = [
        spawn.Process(target=work, args=(data_dir, post.port, name, now, post.start)) for name in names
    ]
    for process in processes:
        process.start()
    return processes


async def ended(process: SpawnProcess) -> int | None:
    await asyncio.to_thread(process.join, 60)
    code = process.exitcode
    process.close()
    return code


async def alone(data_dir: Path, post: Post, now: datetime) -> list[str]:
    """What one more process sends, later."""
    before = len(post.messages)
    [process] = started(data_dir, post, OTHER, now=now)
    assert await ended(process) == 0
    return post.messages[before:]


async def with_certificates(data_dir: Path, post: Post) -> None:
    services = await build_services(settings(data_dir, post.port, OTHER), signers=InlineSigners())
    subject = await services.people.subject_for(Door.LOCAL, "ada")
    await services.close()
    ada = holder("ada")
    change(data_dir / DATABASE, "UPDATE subjects SET id = ? WHERE id = ?", ada.subject, subject)
    for number in range(CERTIFICATES):
        add_certificate(data_dir / DATABASE, ada, f"Device {number}", end=NOW + timedelta(days=20))


async def until_one_is_killed(data_dir: Path, post: Post) -> None:
    await with_certificates(data_dir, post)
    post.victim, other = started(data_dir, post, VICTIM, OTHER)
    assert await ended(other) == 0
    assert await ended(post.victim) == -signal.SIGKILL
    post.victim = None


@pytest.mark.parametrize("stage", ["EHLO", "RCPT"])
async def test_each_reminder_comes_once_when_a_process_is_killed_before_its_message(
    data_dir: Path, stage: str
) -> None:
    async with open_post(stage) as post:
        await until_one_is_killed(data_dir, post)
        assert len(set(post.messages)) == len(post.messages) == CERTIFICATES - 1

        assert len(await alone(data_dir, post, NOW + TURN)) == 1

        assert len(set(post.messages)) == len(post.messages) == CERTIFICATES
        assert await alone(data_dir, post, NOW + 2 * DAY) == []


async def test_one_that_arrived_while_its_process_was_killed_comes_again_after_a_day_at_the_earliest(
    data_dir: Path,
) -> None:
    async with open_post("DATA") as post:
        await until_one_is_killed(data_dir, post)
        assert len(set(post.messages)) == len(post.messages) == CERTIFICATES

        for later in (TURN, DAY - timedelta(seconds=1)):
            assert await alone(data_dir, post, NOW + later) == []
        [again] = await alone(data_dir, post, NOW + DAY)

        assert post.messages.count(again) == 2
        assert await alone(data_dir, post, NOW + 3 * DAY) == []
