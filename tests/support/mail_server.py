"""Mail servers on loopback: a good one (aiosmtpd), and one as wrong as a test wants.

    async with mail_server() as server, open_core(data_dir, smtp=server.settings()) as core:
        ...
    [letter] = server.letters

    async with hostile_mail_server({"RCPT": b"451 4.7.1 Greylisted", "QUIT": Act.SILENT}) as server:
        ...

Both keep every byte that a client gave them, decrypted. No client may leave a connection behind.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTPUTF8
from enum import Enum, auto
from functools import cached_property
from pathlib import Path
from typing import Any

import aiosmtpd.smtp
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from certbob.config import SMTP
from certbob.keys import public_key_bytes
from certbob.secret import Secret
from tests.support import pki

HOST = "localhost"  # in the certificates, too
SENDER = Address("CertBob", addr_spec="certbob@example.org")
USERNAME, PASSWORD = "certbob", "canary of the mail password é"
GIVE_UP = 5  # seconds until a connection that the client left behind makes a test red

_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


class MailPKI:
    """An authority, and what servers and clients of it show. `folder`: where its files are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = pki.root("Test Mail CA")
        self.authority_file = folder / "mail-ca.pem"
        self.authority_file.write_bytes(self._authority.certificate.public_bytes(Encoding.PEM))

    def server(
        self, host: str = HOST, *, expired: bool = False, asks_clients: bool = False
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._files(host, _SERVER, expired=expired))
        if asks_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.authority_file)
        return context

    @cached_property
    def client_files(self) -> tuple[Path, Path]:
        """Certificate and key."""
        return self._files("cert.example.org", _CLIENT)

    def _files(self, host: str, usage: x509.ObjectIdentifier, *, expired: bool = False) -> tuple[Path, Path]:
        private = ec.generate_private_key(ec.SECP256R1())
        end = pki.NOW + timedelta(days=-1 if expired else 1)
        issuer_key = self._authority.key.public_key()
        certificate = (
            pki.Draft(
                subject=pki.common_name(host),
                public_key=public_key_bytes(private.public_key()),
                start=end - timedelta(days=30),
                end=end,
                extensions=(),
                serial=x509.random_serial_number(),
            )
            .put(
                x509.SubjectAlternativeName([x509.DNSName(host)]),
                x509.ExtendedKeyUsage([usage]),
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key),
            )
            .signed_by(self._authority)
        )
        chain, key = self._folder / f"{host}.pem", self._folder / f"{host}.key"
        chain.write_bytes(certificate.public_bytes(Encoding.PEM))
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, key


@dataclass(frozen=True, slots=True)
class Letter:
    """What a server took, as it came over the wire."""

    sender: str
    options: tuple[str, ...]
    recipients: tuple[str, ...]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        parsed = BytesParser(policy=SMTPUTF8).parsebytes(self.content.replace(b"\r\n", b"\n"))
        assert isinstance(parsed, EmailMessage)
        return parsed


@dataclass(slots=True)
class Received:
    """`letters`: those whose end it has seen, whatever it says then. A good server waits for `may_answer`."""

    port: int = 0
    letters: list[Letter] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # set at the first letter
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    plain: bytearray = field(default_factory=bytearray)  # what came in clear
    encrypted: bytearray = field(default_factory=bytearray)  # what came through TLS

    @property
    def everything(self) -> bytes:
        return bytes(self.plain + self.encrypted)

    @property
    def commands(self) -> list[str]:
        """Without the messages. A password is among them."""
        lines, in_message = [], False
        for line in self.everything.split(b"\r\n"):
            if not in_message and line:
                lines.append(line.decode())
            in_message = line != b"." if in_message else line == b"DATA"
        return lines

    def settings(self, **changes: Any) -> SMTP:
        """How CertBob finds it; without TLS unless the changes say so."""
        settings: dict[str, Any] = {"host": HOST, "port": self.port, "security": "none", "sender": SENDER}
        return SMTP(**settings | changes)

    def settings_with_password(self, **changes: Any) -> SMTP:
        return self.settings(**{"username": USERNAME, "password": Secret(PASSWORD)} | changes)


class _Handler:
    """The hooks of aiosmtpd."""

    def __init__(self, received: Received, answer: str, *, needs_password: bool) -> None:
        self._received = received
        self._answer = answer
        self._needs_password = needs_password

    def authenticate(self, *arguments: Any) -> AuthResult:
        right = arguments[-1] == LoginPassword(USERNAME.encode(), PASSWORD.encode())
        return AuthResult(success=right, handled=False)  # handled: somebody else would have answered

    async def handle_MAIL(  # noqa: N802 its name
        self, server: Any, session: Any, envelope: aiosmtpd.smtp.Envelope, address: str, options: list[str]
    ) -> str:
        if self._needs_password and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: Any, session: Any, envelope: aiosmtpd.smtp.Envelope
    ) -> str:
        assert isinstance(envelope.content, bytes)
        self._received.letters.append(
            Letter(
                envelope.mail_from or "",
                tuple(envelope.mail_options),
                tuple(envelope.rcpt_tos),
                envelope.content,
            )
        )
        self._received.asked.set()
        await self._received.may_answer.wait()
        return self._answer


class _Protocol(aiosmtpd.smtp.SMTP):
    """Keeps what comes in."""

    def __init__(self, received: Received, opened: set["_Protocol"], handler: _Handler, **options: Any):
        self._received = received
        self._opened = opened
        super().__init__(handler, hostname="mail.example.org", ident="ESMTP", **options)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._opened.add(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        is_encrypted = self.transport.get_extra_info("sslcontext") is not None
        (self._received.encrypted if is_encrypted else self._received.plain).extend(data)
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._opened.discard(self)
        super().connection_lost(error)


@asynccontextmanager
async def mail_server(
    *,
    tls: ssl.SSLContext | None = None,
    implicit: bool = False,
    password: bool = False,
    mechanism: str | None = None,
    utf8: bool = False,
    answer: str = "250 OK",
) -> AsyncIterator[Received]:
    """`implicit`: TLS from the first byte on instead of STARTTLS; `password`: it wants the right one, by one
    `mechanism` or any; `answer`: to every message.
    """
    received, opened = Received(), set[_Protocol]()
    received.may_answer.set()
    handler = _Handler(received, answer, needs_password=password)

    def protocol() -> _Protocol:
        return _Protocol(
            received,
            opened,
            handler,
            enable_SMTPUTF8=utf8,
            tls_context=None if implicit else tls,
            require_starttls=tls is not None and not implicit,
            auth_require_tls=not implicit,
            auth_exclude_mechanism={"LOGIN", "PLAIN"} - {mechanism} if mechanism else None,
            authenticator=handler.authenticate,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=tls if implicit else None)
    received.port = server.sockets[0].getsockname()[1]
    try:
        yield received
    finally:
        server.close()
        async with asyncio.timeout(GIVE_UP):
            while opened:
                await asyncio.sleep(0)


class Act(Enum):
    """What comes in the place of an answer."""

    SILENT = auto()  # nothing, while the connection stays
    CUT = auto()  # the end of the connection
    DRIPPING = auto()  # an answer that is never complete, a byte at a time
    ENDLESS = auto()  # lines that say that more follow, as fast as they are taken
    GARBAGE = auto()  # bytes that are no answer


Answer = bytes | Act
GOOD: Mapping[str, Answer] = {
    "banner": b"220 mail.example.org ESMTP",
    "EHLO": b"250-mail.example.org\r\n250-STARTTLS\r\n250 AUTH PLAIN",
    "HELO": b"250 mail.example.org",
    "STARTTLS": b"220 Go ahead",
    "AUTH": b"235 Welcome",
    "MAIL": b"250 OK",
    "RCPT": b"250 OK",
    "DATA": b"354 Go on",
    ".": b"250 Queued",
    "QUIT": b"221 Bye",
}


class _Dialogue:
    """One connection to a hostile server. An act ends it; so does the client."""

    def __init__(
        self,
        received: Received,
        answers: Mapping[str, Answer],
        tls: ssl.SSLContext | None,
        pause: float,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._received = received
        self._answers = answers
        self._tls = tls
        self._pause = pause
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            goes_on = await self._answer("banner")
            while goes_on and (line := await self._read_line()):
                verb = line.partition(b" ")[0].strip().decode(errors="replace").upper()
                goes_on = await self._answer(verb) and await self._after(verb)
        self._writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self._writer.wait_closed()

    async def _after(self, verb: str) -> bool:
        """What follows an answer that was bytes."""
        answer = self._answers.get(verb, b"")
        assert isinstance(answer, bytes)
        if f"after {verb}" in self._answers:
            return await self._answer(f"after {verb}")
        if verb == "STARTTLS" and answer.startswith(b"220"):
            return await self._start_tls()
        if verb == "DATA" and answer.startswith(b"354"):
            content = bytearray()
            while (content_line := await self._read_line()) != b".\r\n":
                content += content_line.removeprefix(b".")
            self._received.letters.append(Letter("", (), (), bytes(content)))
            return await self._answer(".")
        return verb != "QUIT"

    async def _start_tls(self) -> bool:
        if self._tls is None:
            await self._reader.read(1)  # the client has said hello
            return await self._answer("TLS")
        await self._writer.start_tls(self._tls)
        return True

    async def _read_line(self) -> bytes:
        line = await self._reader.readuntil(b"\n")
        is_encrypted = self._writer.get_extra_info("sslcontext") is not None
        (self._received.encrypted if is_encrypted else self._received.plain).extend(line)
        return line

    async def _answer(self, stage: str) -> bool:
        """Whether the dialogue goes on."""
        answer = self._answers.get(stage, b"500 What?")
        await asyncio.sleep(self._pause)
        if isinstance(answer, bytes):
            await self._write(answer + b"\r\n")
            return True
        while answer is Act.DRIPPING:
            await self._write(b"2")
            await asyncio.sleep(0.02)
        while answer is Act.ENDLESS:
            await self._write(b"250-and so on\r\n" * 50)
        if answer is Act.GARBAGE:
            await self._write(b"\xff\xfe\0\x80 no answer at all\r\n")
        if answer is Act.SILENT:
            await self._reader.read()  # until the client goes
        return False

    async def _write(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()


@asynccontextmanager
async def hostile_mail_server(
    answers: Mapping[str, Answer],
    *,
    tls: ssl.SSLContext | None = None,
    implicit: bool = False,
    pause: float = 0,
) -> AsyncIterator[Received]:
    """`answers`: those that are not good, by command; also "banner", "TLS" in the place of the handshake,
    "." at the end of a message, "after RCPT" and the like for what comes unasked.

    Answers may change between connections. `tls`: after STARTTLS, or from the first byte on (`implicit`).
    `pause`: seconds before every answer.
    """
    received, talks = Received(), set[asyncio.Task[Any]]()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        await _Dialogue(received, {**GOOD, **answers}, tls, pause, reader, writer).run()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls if implicit else None)
    received.port = server.sockets[0].getsockname()[1]
    try:
        yield received
    finally:
        server.close()
        if talks:
            _, left = await asyncio.wait(talks, timeout=GIVE_UP)
            assert not left
