"""Certificates by mail: one letter, to one person, and nothing in it that opens the file."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certbob.delivery import MAILS_PER_HOUR
from certbob.errors import (
    CARefused,
    CAUncertain,
    GrantExpired,
    GrantUsed,
    MailProblem,
    MailRefused,
    NoMailbox,
    TooManyMails,
)
from certbob.mail.smtp import SMTPEnvelope
from certbob.ports import Delivery
from tests.support.core import DATABASE, person, raising
from tests.support.mail_server import (
    PASSWORD,
    Act,
    Answer,
    Letter,
    MailPKI,
    hostile_mail_server,
    mail_server,
)
from tests.support.post import ADA, HOLDER, Post, open_post

SECOND = timedelta(seconds=1)
GIVE_UP = 30  # seconds until a test is red


@pytest.fixture
async def post(data_dir: Path) -> AsyncIterator[Post]:
    async with mail_server() as server, open_post(data_dir, server) as opened:
        yield opened


# Once, and again


async def test_two_clicks_send_one_mail_and_make_one_certificate(post: Post) -> None:
    token = await post.mint()

    first, second = await asyncio.gather(post.send(token), post.send(token))
    third = await post.send(token)

    assert first == second == third
    assert len(post.server.letters) == 1
    assert post.ledger() == [("issued", "mail", 1)]


async def test_after_a_minute_the_same_file_can_be_sent_again(post: Post) -> None:
    token = await post.mint()
    first = await post.send(token)

    post.core.clock.advance(59 * SECOND)
    assert await post.send(token) == first
    post.core.clock.advance(SECOND)
    second = await post.send(token)

    assert second.at == first.again_at
    assert len(set(post.attachments())) == 1
    assert len(post.server.letters) == 2
    assert len(post.core.ca.signed) == 1


async def test_after_two_minutes_the_file_is_gone(post: Post) -> None:
    token = await post.mint()
    await post.send(token)
    post.core.clock.advance(120 * SECOND)

    with pytest.raises(GrantUsed):
        await post.send(token)

    assert len(post.server.letters) == 1


async def test_a_refused_message_can_be_tried_again_at_once(data_dir: Path) -> None:
    async with mail_server(answer="451 4.3.0 Queue is full") as server, open_post(data_dir, server) as post:
        token = await post.mint()

        for _ in range(2):
            with pytest.raises(MailRefused):
                await post.send(token)

        assert len(set(post.attachments())) == 1
        assert len(post.server.letters) == 2
        assert post.ledger() == [("issued", "mail", 0)]


async def test_another_browser_has_nothing_sent(post: Post) -> None:
    token = await post.mint()
    await post.send(token)

    for holder in ("another browser", None):
        with pytest.raises(GrantUsed):
            await post.send(token, holder)

    assert len(post.server.letters) == 1


async def test_a_file_that_was_fetched_after_its_mail_failed_counts_as_delivered(data_dir: Path) -> None:
    async with mail_server(answer="554 5.7.1 No attachments") as server, open_post(data_dir, server) as post:
        token = await post.mint()
        with pytest.raises(MailRefused):
            await post.send(token)

        await post.core.issue(token, HOLDER)

        assert post.ledger() == [("issued", "download", 1)]


async def test_what_nobody_foresaw_leaves_the_ledger_in_doubt(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        assert post.ledger() == [("issued", "mail", None)]  # as a crash here would leave it
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(SMTPEnvelope, "send", broken)
    token = await post.mint()
    with pytest.raises(RuntimeError):
        await post.send(token)

    assert post.ledger() == [("issued", "mail", None)]
    await post.core.issue(token, HOLDER)
    assert post.ledger() == [("issued", "download", 1)]


async def test_mail_gets_to_addresses_outside_ascii(data_dir: Path) -> None:
    async with mail_server(utf8=True) as server, open_post(data_dir, server) as post:
        sent = await post.send(await post.mint(person("Zoë", email="zoë@example.org")))

        assert sent.recipient == "zoë@example.org"
        assert post.ledger() == [("issued", "mail", 1)]
        [letter] = post.server.letters
        assert letter.recipients == ("zoë@example.org",)


async def test_nobody_asks_a_mail_server_for_a_dead_link(post: Post) -> None:
    expired, used = await post.mint(), await post.mint()
    await post.core.issue(used)
    post.core.clock.advance(301 * SECOND)

    with pytest.raises(GrantExpired):
        await post.send(expired)
    with pytest.raises(GrantUsed):
        await post.send(used)

    assert post.server.commands == []
    assert post.core.rows("SELECT * FROM tries WHERE bucket LIKE 'mail:%'") == []


@pytest.mark.parametrize("first", [Delivery.DOWNLOAD, Delivery.MAIL])
async def test_what_somebody_has_stays_delivered_when_a_later_mail_is_refused(
    data_dir: Path, first: Delivery
) -> None:
    answers: dict[str, Answer] = {}
    async with hostile_mail_server(answers) as server, open_post(data_dir, server) as post:
        token = await post.mint()
        if first is Delivery.MAIL:
            await post.send(token)
            post.core.clock.advance(60 * SECOND)
        else:
            await post.core.issue(token, HOLDER)

        answers["."] = b"554 5.7.1 No attachments"
        with pytest.raises(MailRefused):
            await post.send(token)

        assert post.ledger() == [("issued", first, 1)]


async def test_an_older_device_gets_the_older_file(post: Post) -> None:
    token = await post.mint()
    await post.send(token, older=True)

    assert post.attachments() == [(await post.core.issue(token, HOLDER)).content]
    assert post.core.ledger("encoding") == ["compatible"]


# Limits


async def test_nobody_writes_to_somebody_without_an_address(post: Post) -> None:
    token = await post.mint(person())

    with pytest.raises(NoMailbox):
        await post.send(token)
    with pytest.raises(NoMailbox):
        await post.mail.send_link(token)

    assert post.server.everything == b""
    assert await post.is_good(token)


async def test_one_person_gets_forty_mails_an_hour_and_others_still_theirs(post: Post) -> None:
    ada, bert = person(email=ADA), person("Bert", email="bert@example.org")
    for number in range(MAILS_PER_HOUR):
        if number % 2:
            await post.send(await post.mint(ada))
        else:
            await post.mail.send_link(await post.mint(ada, delivery=Delivery.LINK))
    token = await post.mint(ada)

    with pytest.raises(TooManyMails) as refusal:
        await post.send(token)

    assert refusal.value.until == post.core.clock.now() + timedelta(hours=1)
    assert await post.is_good(token)
    assert len(post.server.letters) == MAILS_PER_HOUR == 40
    await post.send(await post.mint(bert))
    post.core.clock.advance(timedelta(hours=1))
    await post.send(await post.mint(ada))


# Whoever does not wait


async def test_a_browser_that_goes_away_does_not_stop_the_mail(post: Post) -> None:
    gate = asyncio.Event()
    post.core.ca.answers = [post.core.ca.held(gate)]
    token = await post.mint()
    waiting = asyncio.create_task(post.send(token))
    while not post.core.ca.asked:
        await asyncio.sleep(0)

    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    gate.set()
    await post.mail.drain(GIVE_UP)

    assert len(post.server.letters) == 1
    assert post.ledger() == [("issued", "mail", 1)]
    assert (await post.send(token)).recipient == ADA
    assert len(post.server.letters) == 1


async def test_a_stop_waits_for_the_mail_on_its_way(data_dir: Path) -> None:
    async with mail_server() as server, open_post(data_dir, server) as post:
        server.may_answer.clear()
        sending = asyncio.create_task(post.send(await post.mint()))
        await server.asked.wait()

        stopping = asyncio.ensure_future(post.core.services.close())
        for _ in range(10):
            await asyncio.sleep(0)
        server.may_answer.set()
        await stopping

        assert (await sending).recipient == ADA
        assert post.ledger() == [("issued", "mail", 1)]


@pytest.mark.parametrize("answer", ["250 OK", "554 5.7.1 No attachments"])
async def test_a_ledger_that_cannot_be_written_changes_nothing_of_what_became_of_the_mail(
    data_dir: Path, answer: str
) -> None:
    async with mail_server(answer=answer) as server, open_post(data_dir, server) as post:
        with closing(sqlite3.connect(data_dir / DATABASE)) as database:
            database.execute(
                "CREATE TRIGGER broken BEFORE UPDATE OF delivered ON certificates"
                " BEGIN SELECT RAISE(FAIL, 'disk full'); END"
            )
        token = await post.mint()

        if answer.startswith("250"):
            assert (await post.send(token)).recipient == ADA
        else:
            with pytest.raises(MailRefused):
                await post.send(token)


@pytest.mark.parametrize(("problem", "is_good"), [(CARefused("no"), True), (CAUncertain("silent"), False)])
async def test_what_was_not_signed_is_not_sent(
    post: Post, problem: CARefused | CAUncertain, is_good: bool
) -> None:
    post.core.ca.answers = [raising(problem)]
    token = await post.mint()

    with pytest.raises(type(problem)):
        await post.send(token)

    assert post.server.commands[-2:] == [f"RCPT TO:<{ADA}>", "QUIT"]
    assert await post.is_good(token) is is_good


# What nobody else may know


def unpacked(letter: Letter) -> str:
    """As it came, and every part with its transfer encoding undone."""
    parts = [letter.content]
    for part in letter.message.walk():
        content = part.get_payload(decode=True)
        parts.append(content if isinstance(content, bytes) else b"")
    return b"\n".join(parts).decode(errors="replace")


async def test_a_mail_with_a_file_tells_no_secret(
    data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    mail_pki = MailPKI(tmp_path)
    async with mail_server(tls=mail_pki.server(), password=True) as server:
        smtp = server.settings_with_password(security="starttls", tls_ca=mail_pki.authority_file)
        async with open_post(data_dir, server, smtp) as post:
            token = await post.mint()
            await post.send(token)

            [letter] = server.letters
            told = server.everything.decode() + unpacked(letter) + caplog.text
            assert [name for name, secret in post.secrets(token).items() if secret in told] == []
            assert PASSWORD not in caplog.text
            assert 'certificate for "Work laptop"' in told  # so the right thing was searched


async def test_a_mail_with_a_link_tells_it_in_its_text_alone(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = await post.mint(delivery=Delivery.LINK)
    await post.mail.send_link(token)

    [letter] = post.server.letters
    headers = letter.content.partition(b"\r\n\r\n")[0].decode()
    ours = "\n".join(
        record.getMessage() for record in caplog.records if record.name != "mail.log"
    )  # the server's
    outside = headers + "\n".join(post.server.commands) + ours
    assert [name for name, secret in post.secrets(token).items() if secret in outside] == []
    told = {name for name, secret in post.secrets(token).items() if secret in unpacked(letter)}
    assert told == {"token", "signature of the token"}
    assert await post.is_good(token)
    assert post.ledger() == []


@pytest.mark.parametrize("answers", [{"RCPT": b"550 No"}, {".": b"550 No"}, {".": Act.CUT}])
async def test_a_failure_tells_no_secret_either(
    data_dir: Path, caplog: pytest.LogCaptureFixture, answers: dict[str, Answer]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with hostile_mail_server(answers) as server, open_post(data_dir, server) as post:
        token = await post.mint()
        with pytest.raises(MailProblem) as problem:
            await post.send(token)

        told = server.everything.decode() + caplog.text + problem.value.text + problem.value.detail
        assert [name for name, secret in post.secrets(token).items() if secret in told] == []
