"""Gives a message to a mail server over SMTP (RFC 5321), to one recipient, in time.

The server is asked everything it could refuse before there is a message: connection, TLS, password, sender
and recipient. So a certificate is made only for somebody whom the server takes mail for.
"""

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP as WIRE
from email.policy import SMTPUTF8 as WIRE_UTF8
from pathlib import Path
from typing import Literal, TypeVar

import aiosmtplib
import truststore

from certbob.errors import MailRefused, MailUnavailable, MailUncertain
from certbob.secret import Secret

T = TypeVar("T")

Security = Literal["starttls", "tls", "none"]
PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}
OPEN_SECONDS = 7  # from the connection to the recipient
SEND_SECONDS = 6  # from DATA to its answer; together they stay below what a person waits
QUIT_SECONDS = 1
MAX_WORDS = 200

log = logging.getLogger(__name__)


def tls_context(authority: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Trusts the system's authorities, or only the given one; shows the certificate. Raises OSError."""
    if authority is None:
        # Not the standard library's default: the executable may run where certificates lie elsewhere.
        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = ssl.create_default_context(cafile=authority)
    if certificate is not None:
        # An encrypted key fails like a wrong one: nobody is there to be asked for its password.
        context.load_cert_chain(certificate, key, password=lambda: "")
    return context


class SMTPMailer:
    """Implements `ports.Mailer`. `name`: host name or IP address that CertBob says it is (EHLO)."""

    def __init__(
        self,
        *,
        host: str,
        port: int | None,
        security: Security,
        username: str | None,
        password: Secret | None,
        sender: str,
        name: str,
        tls: ssl.SSLContext,
    ) -> None:
        self._host = host
        self._port = port or PORTS[security]
        self._security = security
        self._username = username
        self._password = password
        self._sender = sender
        self._name = _address_literal(name)
        self._tls = tls

    @asynccontextmanager
    async def envelope(self, recipient: str) -> AsyncIterator["SMTPEnvelope"]:
        """Raises MailUnavailable, MailRefused."""
        async with self._connection() as smtp:
            with self._unavailable():
                async with asyncio.timeout(OPEN_SECONDS):
                    await self._sign_in(smtp)
                    international = await self._address(smtp, recipient)
            yield SMTPEnvelope(smtp, international=international)

    async def reach(self) -> None:
        """Raises MailUnavailable."""
        async with self._connection() as smtp:
            with self._unavailable():
                async with asyncio.timeout(OPEN_SECONDS):
                    await self._sign_in(smtp)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiosmtplib.SMTP]:
        """Not yet connected; closed politely in the end."""
        # The library upgrades silently or not at all when it is left to decide; so it never is.
        smtp = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            local_hostname=self._name,
            timeout=OPEN_SECONDS,
            use_tls=self._security == "tls",
            start_tls=False,
            tls_context=self._tls if self._security != "none" else None,
        )
        try:
            yield smtp
        finally:
            with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
                async with asyncio.timeout(QUIT_SECONDS):
                    await smtp.quit()
            smtp.close()

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        """What the server and the library say, as a MailProblem."""
        try:
            yield
        except (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPRecipientRefused) as error:
            raise _refused(error) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            raise MailUnavailable(f"{self._host}:{self._port}: {_reason(error)}") from error

    async def _sign_in(self, smtp: aiosmtplib.SMTP) -> None:
        await smtp.connect()
        if self._security == "starttls":
            await smtp.starttls()
        if self._username is not None:
            await smtp.login(self._username, self._password.reveal() if self._password else "")

    async def _address(self, smtp: aiosmtplib.SMTP, recipient: str) -> bool:
        """Up to the recipient's acceptance; whether the message may have headers in UTF-8."""
        international = not recipient.isascii()
        if international:
            await smtp.ehlo()
            if not smtp.supports_extension("smtputf8"):
                raise MailRefused("the server does not offer SMTPUTF8", "It cannot write to this address.")
        encoding = "utf-8" if international else "ascii"
        options = ["SMTPUTF8", "BODY=8BITMIME"] if international else []
        await smtp.mail(self._sender, options=options, encoding=encoding)
        await smtp.rcpt(recipient, encoding=encoding)
        return international


class SMTPEnvelope:
    """Implements `ports.Envelope`."""

    def __init__(self, smtp: aiosmtplib.SMTP, *, international: bool) -> None:
        self._smtp = smtp
        self._policy = WIRE_UTF8 if international else WIRE

    async def send(self, message: EmailMessage) -> None:
        """Raises MailRefused, MailUncertain."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._smtp.data(message.as_bytes(policy=self._policy))
        except aiosmtplib.SMTPDataError as error:
            if 400 <= error.code < 600:
                raise _refused(error) from error
            # No server should, and the library does not tell whether it had asked for the message before.
            raise MailUncertain(f"it answers {error.code}") from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise MailUncertain(_reason(error)) from error


def _address_literal(name: str) -> str:
    """RFC 5321 4.1.3: in place of a name an address stands in brackets."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def _refused(error: aiosmtplib.SMTPResponseException) -> MailRefused:
    words = _one_line(str(error.message))
    return MailRefused(f"{error.code} {words}", f"It says: ‘{error.code} {words}’.")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return _one_line(f"{error.code} {error.message}")
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    """A stranger's text without what would garble a page or a log: control characters, undecoded bytes."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * MAX_WORDS])
    return " ".join(printable.split())[:MAX_WORDS]
