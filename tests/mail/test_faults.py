"""What mail servers do wrong: the problem people are told, what the ledger says, and the grant's fate."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import certbob.mail.smtp
from certbob.errors import GrantUsed, MailProblem, MailRefused, MailUnavailable, MailUncertain
from tests.support.mail_server import Act, Answer, MailPKI, hostile_mail_server, mail_server
from tests.support.post import ADA, HOLDER, Post, open_post

GIVE_UP = 30  # seconds until a test is red


@asynccontextmanager
async def ticking() -> AsyncIterator[list[int]]:
    """How often the event loop was free for somebody else."""
    ticks = [0]

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.01)
            ticks[0] += 1

    ticker = asyncio.create_task(tick())
    try:
        yield ticks
    finally:
        ticker.cancel()


@dataclass(frozen=True, slots=True)
class Row:
    """`security`: as we set it, with a password unless it is "none". `certificate`: of the server, if any."""

    problem: type[MailProblem] | None
    answers: dict[str, Answer]
    security: str = "none"
    certificate: dict[str, Any] | None = None
    is_trusted: bool = True
    delivered: int | None = 1

    @property
    def waits(self) -> str | None:
        """Where the server lets us wait for ever."""
        for stage, answer in self.answers.items():
            if answer in (Act.SILENT, Act.DRIPPING):
                return stage
        return None


LONG = b"250 " + b"x" * 100_000
NOT_UTF8 = b"250-caf\xe9\r\n250 \xff\xfe"

NOTHING_SIGNED = {
    "silent from the start": Row(MailUnavailable, {"banner": Act.SILENT}),
    "dripping banner": Row(MailUnavailable, {"banner": Act.DRIPPING}),
    "cut at the start": Row(MailUnavailable, {"banner": Act.CUT}),
    "no banner but garbage": Row(MailUnavailable, {"banner": Act.GARBAGE}),
    "banner without end": Row(MailUnavailable, {"banner": Act.ENDLESS}),
    "banner of 100 kB": Row(MailUnavailable, {"banner": b"2" + LONG[1:]}),
    "busy at the start": Row(MailUnavailable, {"banner": b"421 4.3.2 Too many connections"}),
    "no service": Row(MailUnavailable, {"banner": b"554 5.3.2 No mail here"}),
    "silent at EHLO": Row(MailUnavailable, {"EHLO": Act.SILENT}),
    "cut at EHLO": Row(MailUnavailable, {"EHLO": Act.CUT}),
    "EHLO without end": Row(MailUnavailable, {"EHLO": Act.ENDLESS}),
    "EHLO of 100 kB": Row(MailUnavailable, {"EHLO": LONG}),
    "busy at EHLO": Row(MailUnavailable, {"EHLO": b"421 4.3.2 Going down"}),
    "EHLO and HELO refused": Row(MailUnavailable, {"EHLO": b"550 No", "HELO": b"550 No"}),
    "silent at MAIL": Row(MailUnavailable, {"MAIL": Act.SILENT}),
    "cut at MAIL": Row(MailUnavailable, {"MAIL": Act.CUT}),
    "later, says MAIL": Row(MailRefused, {"MAIL": b"451 4.3.0 Try again later"}),
    "sender refused": Row(MailRefused, {"MAIL": b"553 5.7.1 Not your address"}),
    "silent at RCPT": Row(MailUnavailable, {"RCPT": Act.SILENT}),
    "dripping at RCPT": Row(MailUnavailable, {"RCPT": Act.DRIPPING}),
    "cut at RCPT": Row(MailUnavailable, {"RCPT": Act.CUT}),
    "greylisted": Row(MailRefused, {"RCPT": b"451 4.7.1 Greylisted, try again in 5 minutes"}),
    "busy at RCPT": Row(MailRefused, {"RCPT": b"421 4.3.2 Going down"}),
    "recipient refused": Row(MailRefused, {"RCPT": b"550-5.1.1 No such\r\n550 5.1.1 user here"}),
    "recipient refused in other letters": Row(MailRefused, {"RCPT": b"550 Bo\xeete inconnue"}),
    "recipient neither taken nor refused": Row(MailRefused, {"RCPT": b"252 Cannot verify"}),
    "RCPT of 100 kB": Row(MailUnavailable, {"RCPT": LONG}),
    "garbage at RCPT": Row(MailUnavailable, {"RCPT": Act.GARBAGE}),
    "STARTTLS stripped": Row(MailUnavailable, {"EHLO": b"250-x\r\n250 AUTH PLAIN"}, "starttls"),
    "STARTTLS refused": Row(MailUnavailable, {"STARTTLS": b"454 4.7.0 TLS not available"}, "starttls"),
    "garbage after STARTTLS": Row(MailUnavailable, {"TLS": Act.GARBAGE}, "starttls"),
    "silent after STARTTLS": Row(MailUnavailable, {"TLS": Act.SILENT}, "starttls"),
    "cut after STARTTLS": Row(MailUnavailable, {"TLS": Act.CUT}, "starttls"),
    "plain where TLS is due": Row(MailUnavailable, {}, "tls"),
    "silent where TLS is due": Row(MailUnavailable, {"banner": Act.SILENT}, "tls"),
    "another host": Row(MailUnavailable, {}, "starttls", {"host": "mail.example.org"}),
    "unknown authority": Row(MailUnavailable, {}, "starttls", {}, is_trusted=False),
    "expired": Row(MailUnavailable, {}, "tls", {"expired": True}),
    "password refused": Row(MailUnavailable, {"AUTH": b"535 5.7.8 No"}, "starttls", {}),
    "password refused for now": Row(MailUnavailable, {"AUTH": b"454 4.7.0 Later"}, "tls", {}),
    "no password wanted": Row(MailUnavailable, {"EHLO": b"250-x\r\n250 STARTTLS"}, "starttls", {}),
    "silent at AUTH": Row(MailUnavailable, {"AUTH": Act.SILENT}, "starttls", {}),
    "cut at AUTH": Row(MailUnavailable, {"AUTH": Act.CUT}, "tls", {}),
}
NOT_SENT = {
    "later, says DATA": Row(MailRefused, {"DATA": b"451 4.3.0 Try again later"}, delivered=0),
    "DATA refused": Row(MailRefused, {"DATA": b"554 5.5.1 No valid recipients"}, delivered=0),
    "later, says the end": Row(MailRefused, {".": b"451 4.3.0 Queue is full"}, delivered=0),
    "message refused": Row(MailRefused, {".": b"554-5.7.1 Attachments\r\n554 are not welcome"}, delivered=0),
    "refused in other letters": Row(MailRefused, {".": b"554 Refus\xe9"}, delivered=0),
    "busy at the end": Row(MailRefused, {".": b"421 4.3.2 Going down"}, delivered=0),
    "silent at DATA": Row(MailUncertain, {"DATA": Act.SILENT}, delivered=None),
    "cut at DATA": Row(MailUncertain, {"DATA": Act.CUT}, delivered=None),
    "cut before DATA": Row(MailUncertain, {"after RCPT": Act.CUT}, delivered=None),
    "silent at the end": Row(MailUncertain, {".": Act.SILENT}, delivered=None),
    "dripping at the end": Row(MailUncertain, {".": Act.DRIPPING}, delivered=None),
    "cut at the end": Row(MailUncertain, {".": Act.CUT}, delivered=None),
    "garbage at the end": Row(MailUncertain, {".": Act.GARBAGE}, delivered=None),
    "an end without end": Row(MailUncertain, {".": Act.ENDLESS}, delivered=None),
    "an end of 100 kB": Row(MailUncertain, {".": LONG}, delivered=None),
}
SENT = {
    "as it should be": Row(None, {}),
    "TLS as it should be": Row(None, {}, "starttls", {}),
    "TLS from the start": Row(None, {}, "tls", {}),
    "of the last century": Row(None, {"EHLO": b"502 5.5.1 What?"}),
    "answers of many lines": Row(
        None, {"banner": b"220-Hello\r\n220-\r\n220 ESMTP", ".": b"250-2.0.0\r\n250 OK"}
    ),
    "answers without words": Row(None, {"MAIL": b"250", "RCPT": b"250", ".": b"250"}),
    "answers in other letters": Row(
        None, {"EHLO": NOT_UTF8, "MAIL": NOT_UTF8, "RCPT": NOT_UTF8, ".": NOT_UTF8}
    ),
    "forwarded elsewhere": Row(None, {"RCPT": b"251 User not local; will forward"}),
    "silent at QUIT": Row(None, {"QUIT": Act.SILENT}),
    "cut at QUIT": Row(None, {"QUIT": Act.CUT}),
    "QUIT refused": Row(None, {"QUIT": b"500 No"}),
}


@asynccontextmanager
async def post_of(
    row: Row, data_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Post]:
    if row.waits is not None:
        # Only there, so that no slow machine is taken for a silent server.
        name = {"DATA": "SEND_SECONDS", ".": "SEND_SECONDS"}.get(row.waits, "OPEN_SECONDS")
        monkeypatch.setattr(certbob.mail.smtp, name, 0.3)
        monkeypatch.setattr(certbob.mail.smtp, "QUIT_SECONDS", 0.1)
    mail_pki = MailPKI(folder)
    trusted = mail_pki if row.is_trusted else MailPKI(folder.parent)
    tls: ssl.SSLContext | None = None
    if row.certificate is not None:
        tls = mail_pki.server(**row.certificate)
    async with hostile_mail_server(row.answers, tls=tls, implicit=row.security == "tls") as server:
        smtp = server.settings()
        if row.security != "none":
            smtp = server.settings_with_password(security=row.security, tls_ca=trusted.authority_file)
        async with open_post(data_dir, server, smtp) as post:
            yield post


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mail").mkdir()
    return tmp_path / "mail"


@pytest.mark.parametrize("row", NOTHING_SIGNED.values(), ids=NOTHING_SIGNED)
async def test_what_goes_wrong_before_the_message_costs_nothing(
    data_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, row: Row
) -> None:
    assert row.problem is not None
    async with asyncio.timeout(GIVE_UP), post_of(row, data_dir, folder, monkeypatch) as post:
        token = await post.mint()
        async with ticking() as ticks:
            with pytest.raises(row.problem) as problem:
                await post.send(token)
            free = ticks[0]

        assert type(problem.value) is row.problem
        assert row.waits is None or free > 2
        assert post.ledger() == []
        assert post.server.letters == []
        assert post.core.ca.asked == []
        assert await post.is_good(token)
        assert await post.sent(token) is None
        await post.core.issue(token, HOLDER)
        assert post.ledger() == [("issued", "download", 1)]


@pytest.mark.parametrize("row", NOT_SENT.values(), ids=NOT_SENT)
async def test_what_goes_wrong_with_the_message_leaves_the_file_to_its_holder(
    data_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, row: Row
) -> None:
    assert row.problem is not None
    async with asyncio.timeout(GIVE_UP), post_of(row, data_dir, folder, monkeypatch) as post:
        token = await post.mint()
        async with ticking() as ticks:
            with pytest.raises(row.problem) as problem:
                await post.send(token)
            free = ticks[0]

        assert type(problem.value) is row.problem
        assert row.waits is None or free > 2
        assert post.ledger() == [("issued", "mail", row.delivered)]
        assert not await post.is_good(token)
        assert await post.sent(token) is None
        issued = await post.core.issue(token, HOLDER)
        assert [issued.content] * len(post.server.letters) == post.attachments()
        with pytest.raises(GrantUsed):
            await post.core.issue(token, "another browser")
        assert len(post.core.ca.signed) == 1


@pytest.mark.parametrize(
    ("seconds", "problem", "ledger"),
    [
        ("OPEN_SECONDS", MailUnavailable, []),
        ("SEND_SECONDS", MailUncertain, [("issued", "mail", None)]),
    ],
)
async def test_a_server_that_is_slow_at_every_step_is_given_up_in_time(
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: str,
    problem: type[MailProblem],
    ledger: list[Any],
) -> None:
    """No single answer comes too late; all of them together do."""
    monkeypatch.setattr(certbob.mail.smtp, seconds, 0.5)
    async with hostile_mail_server({}, pause=0.3) as server, open_post(data_dir, server) as post:
        with pytest.raises(problem):
            await post.send(await post.mint())

        assert post.ledger() == ledger


@pytest.mark.parametrize("row", SENT.values(), ids=SENT)
async def test_servers_have_their_ways_and_mail_gets_there(
    data_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, row: Row
) -> None:
    async with asyncio.timeout(GIVE_UP), post_of(row, data_dir, folder, monkeypatch) as post:
        token = await post.mint()

        sent = await post.send(token)

        assert sent.recipient == ADA
        assert await post.sent(token) == sent
        assert post.ledger() == [("issued", "mail", 1)]
        assert len(post.server.letters) == 1


@pytest.mark.parametrize("answer", [b"251 Will forward", b"200 Fine", b"354 Go on", b"100 Hm", b"999 What"])
async def test_a_code_that_neither_takes_nor_refuses_leaves_it_open(data_dir: Path, answer: bytes) -> None:
    async with hostile_mail_server({".": answer}) as server, open_post(data_dir, server) as post:
        with pytest.raises(MailUncertain):
            await post.send(await post.mint())

        assert post.ledger() == [("issued", "mail", None)]


async def test_nobody_listens(data_dir: Path) -> None:
    async with mail_server() as server:
        pass  # its port is free again
    async with open_post(data_dir, server) as post:
        token = await post.mint()

        with pytest.raises(MailUnavailable):
            await post.send(token)

        assert post.ledger() == []
        assert await post.is_good(token)
