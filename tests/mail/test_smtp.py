"""Over real sockets to servers of our own: how a message gets there, in which order, what never leaves."""

import asyncio
from base64 import b64encode
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
from pathlib import Path

import pytest

import certbob.mail.smtp
from certbob.config import SMTP
from certbob.errors import MailProblem, MailRefused, MailUnavailable
from certbob.mail.smtp import SMTPMailer, tls_context
from tests.support.mail_server import (
    PASSWORD,
    SENDER,
    USERNAME,
    Act,
    Answer,
    MailPKI,
    hostile_mail_server,
    mail_server,
)

ADA = "ada@example.org"
NAME = "cert.example.org"
SECRETS = {PASSWORD.encode(), b64encode(PASSWORD.encode()), b64encode(f"\0{USERNAME}\0{PASSWORD}".encode())}


@pytest.fixture
def mail_pki(tmp_path: Path) -> MailPKI:
    return MailPKI(tmp_path)


def mailer(smtp: SMTP) -> SMTPMailer:
    assert smtp.host is not None
    return SMTPMailer(
        host=smtp.host,
        port=smtp.port,
        security=smtp.security,
        username=smtp.username,
        password=smtp.password,
        sender=SENDER.addr_spec,
        name=NAME,
        tls=tls_context(smtp.tls_ca, smtp.tls_certificate, smtp.tls_key),
    )


def letter(text: str = "Hello\n", to: str = ADA) -> EmailMessage:
    message = EmailMessage(policy=SMTPUTF8)
    message["Subject"] = "Zoë"
    message["From"] = SENDER
    message["To"] = Address("Zoë", *to.split("@"))
    message.set_content(text)
    return message


async def send(smtp: SMTP, message: EmailMessage | None = None, *, to: str = ADA) -> None:
    async with mailer(smtp).envelope(to) as envelope:
        await envelope.send(message or letter(to=to))


async def test_a_message_has_one_envelope_and_the_connection_ends_with_it() -> None:
    async with mail_server() as server:
        await send(server.settings())

    [taken] = server.letters
    assert (taken.sender, taken.recipients, taken.options) == (SENDER.addr_spec, (ADA,), ())
    assert taken.message.get_content() == "Hello\n"
    assert server.commands == [
        f"EHLO {NAME}",
        f"MAIL FROM:<{SENDER.addr_spec}>",
        f"RCPT TO:<{ADA}>",
        "DATA",
        "QUIT",
    ]


async def test_the_recipient_is_settled_before_there_is_a_message() -> None:
    async with mail_server() as server:
        smtp = server.settings()
        async with mailer(smtp).envelope(ADA):
            commands = server.commands

    assert commands[-1] == f"RCPT TO:<{ADA}>"
    assert server.commands == [*commands, "QUIT"]
    assert server.letters == []


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
@pytest.mark.parametrize("mechanism", [None, "LOGIN", "PLAIN"])
async def test_only_a_greeting_goes_in_clear_where_there_is_tls(
    mail_pki: MailPKI, implicit: bool, mechanism: str | None
) -> None:
    async with mail_server(
        tls=mail_pki.server(), implicit=implicit, password=True, mechanism=mechanism
    ) as server:
        await send(
            server.settings_with_password(
                security="tls" if implicit else "starttls", tls_ca=mail_pki.authority_file
            )
        )

    assert len(server.letters) == 1
    assert bytes(server.plain) == (b"" if implicit else f"EHLO {NAME}\r\nSTARTTLS\r\n".encode())
    assert any(secret in server.encrypted for secret in SECRETS)


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN"])
async def test_a_wrong_password_is_the_operators_affair(
    mail_pki: MailPKI, implicit: bool, mechanism: str
) -> None:
    async with mail_server(
        tls=mail_pki.server(), implicit=implicit, password=True, mechanism=mechanism
    ) as server:
        smtp = server.settings_with_password(
            security="tls" if implicit else "starttls",
            tls_ca=mail_pki.authority_file,
            username="somebody else",
        )
        with pytest.raises(MailUnavailable, match="535") as problem:
            await send(smtp)

    assert "535" not in problem.value.text
    assert not [command for command in server.commands if command.startswith("MAIL")]


async def test_a_server_that_wants_a_password_nobody_gave_refuses() -> None:
    async with mail_server(password=True) as server:
        with pytest.raises(MailRefused, match=r"^530 "):
            await send(server.settings())


STRIPPED: dict[str, Answer] = {"EHLO": b"250-mail.example.org\r\n250 AUTH PLAIN LOGIN"}
NO_TLS: dict[str, dict[str, Answer]] = {
    "stripped from the offers": STRIPPED,
    "no EHLO at all": {"EHLO": b"502 What?"},
    "refused": {"STARTTLS": b"454 TLS not available"},
    "refused for good": {"STARTTLS": b"502 What?"},
    "accepted and cut": {"TLS": Act.CUT},
    "garbage": {"TLS": Act.GARBAGE},
    "endless garbage": {"TLS": Act.ENDLESS},
    "a plain answer": {"TLS": b"250-mail.example.org\r\n250 AUTH PLAIN LOGIN"},
}


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("answers", NO_TLS.values(), ids=NO_TLS)
async def test_without_tls_no_name_and_no_password_leaves(
    mail_pki: MailPKI, answers: dict[str, Answer], security: str
) -> None:
    async with hostile_mail_server(answers) as server:
        with pytest.raises(MailUnavailable):
            await send(server.settings_with_password(security=security, tls_ca=mail_pki.authority_file))

    told = server.everything
    assert not [
        word for word in (b"AUTH", b"MAIL", ADA.encode(), USERNAME.encode(), *SECRETS) if word in told
    ]


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
@pytest.mark.parametrize("fault", ["another host", "unknown authority", "expired", "not the system's"])
async def test_nobody_else_can_stand_in_the_place_of_the_server(
    mail_pki: MailPKI, tmp_path_factory: pytest.TempPathFactory, fault: str, implicit: bool
) -> None:
    tls = mail_pki.server(
        "mail.example.org" if fault == "another host" else "localhost", expired=fault == "expired"
    )
    trusted: Path | None = mail_pki.authority_file
    if fault == "unknown authority":
        trusted = MailPKI(tmp_path_factory.mktemp("other")).authority_file
    if fault == "not the system's":
        trusted = None
    async with hostile_mail_server({}, tls=tls, implicit=implicit) as server:
        smtp = server.settings_with_password(security="tls" if implicit else "starttls", tls_ca=trusted)
        with pytest.raises(MailUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await send(smtp)

    assert server.encrypted == b""


async def test_the_systems_authorities_are_trusted(
    mail_pki: MailPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(mail_pki.authority_file))
    async with mail_server(tls=mail_pki.server()) as server:
        await send(server.settings(security="starttls"))

    assert len(server.letters) == 1


async def test_what_was_slipped_in_before_tls_is_not_believed(mail_pki: MailPKI) -> None:
    """CVE-2021-23993 and its kin: answers in clear, kept for the encrypted dialogue."""
    answers = {"STARTTLS": b"220 Go ahead\r\n250-evil.example.org\r\n250 AUTH PLAIN", "AUTH": b"535 No"}
    async with hostile_mail_server(answers, tls=mail_pki.server()) as server:
        smtp = server.settings_with_password(security="starttls", tls_ca=mail_pki.authority_file)
        with pytest.raises(MailUnavailable, match="535"):
            await send(smtp)

    assert server.encrypted.startswith(b"EHLO ")


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
async def test_a_certificate_is_shown_to_a_server_that_asks(mail_pki: MailPKI, implicit: bool) -> None:
    certificate, key = mail_pki.client_files
    async with mail_server(tls=mail_pki.server(asks_clients=True), implicit=implicit) as server:
        smtp = server.settings(
            security="tls" if implicit else "starttls",
            tls_ca=mail_pki.authority_file,
            tls_certificate=certificate,
            tls_key=key,
        )
        await send(smtp)

    assert len(server.letters) == 1


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
async def test_a_server_that_asks_in_vain_is_away(mail_pki: MailPKI, implicit: bool) -> None:
    tls = mail_pki.server(asks_clients=True)
    async with hostile_mail_server({}, tls=tls, implicit=implicit) as server:
        smtp = server.settings(security="tls" if implicit else "starttls", tls_ca=mail_pki.authority_file)
        with pytest.raises(MailUnavailable):
            await send(smtp)

    assert server.letters == []


def test_certificates_that_cannot_be_used_are_told_at_the_start(mail_pki: MailPKI, tmp_path: Path) -> None:
    certificate, _ = mail_pki.client_files
    other_key = MailPKI(tmp_path / ".").client_files[1]
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")

    for files in (
        (tmp_path / "missing.pem", None, None),
        (broken, None, None),
        (None, certificate, broken),
        (None, mail_pki.authority_file, other_key),
    ):
        with pytest.raises(OSError, match=r"."):
            tls_context(*files)


async def test_an_address_in_other_letters_needs_a_server_that_knows_them() -> None:
    recipient = "zoë@example.org"
    async with mail_server() as server:
        with pytest.raises(MailRefused, match="SMTPUTF8"):
            await send(server.settings(), to=recipient)
    assert not [command for command in server.commands if command.startswith("MAIL")]

    async with mail_server(utf8=True) as server:
        await send(server.settings(), to=recipient)

    [taken] = server.letters
    assert taken.recipients == (recipient,)
    assert set(taken.options) == {"SMTPUTF8", "BODY=8BITMIME"}
    assert f"To: Zoë <{recipient}>\r\n".encode() in taken.content


@pytest.mark.parametrize("utf8", [False, True])
async def test_for_a_plain_address_headers_are_plain(utf8: bool) -> None:
    async with mail_server(utf8=utf8) as server:
        await send(server.settings())

    [taken] = server.letters
    assert taken.options == ()
    assert taken.content.isascii()
    assert taken.message["Subject"] == "Zoë"
    assert [address.display_name for address in taken.message["To"].addresses] == ["Zoë"]


async def test_dots_and_line_ends_arrive_as_they_were() -> None:
    text = ".\n..\n.hidden\nQUIT\n\nRCPT TO:<e@v.il>\n.\n"
    async with mail_server() as server:
        await send(server.settings(), letter(text))

    [taken] = server.letters
    assert taken.message.get_content() == text
    assert taken.recipients == (ADA,)
    assert b"\n" not in taken.content.replace(b"\r\n", b"")


SMUGGLED = (
    "ada@example.org, e@v.il",
    "ada@example.org,e@v.il",
    "ada@example.org; e@v.il",
    "ada@example.org>\r\nRCPT TO:<e@v.il",
    "ada@example.org\nRCPT TO:<e@v.il>",
    "ada@example.org\0",
    "ada@example.org> <e@v.il",
    "<ada@example.org>, <e@v.il>",
    '"ada@example.org, e@v.il"@example.org',
    "Ada <ada@example.org>",
    "=?utf-8?q?e=40v.il=2C?=@example.org",
    "@v.il:ada@example.org",
    "",
    "x" * 300 + "@example.org",
)


@pytest.mark.parametrize("recipient", SMUGGLED)
async def test_no_text_makes_two_recipients(recipient: str) -> None:
    """The grammar at the doors refuses nearly all of these; the mailer does not rely on it."""
    async with mail_server() as server:
        with suppress(MailProblem):
            await send(server.settings(), letter(), to=recipient)

    assert len([command for command in server.commands if command.startswith("RCPT")]) <= 1
    assert all(len(taken.recipients) == 1 for taken in server.letters)


WORDS = {
    "one line": (b"550 5.1.1 No such user here", "550 5.1.1 No such user here"),
    "many lines": (
        b"550-5.1.1 No such user\r\n550-\tin this\r\n550 place",
        "550 5.1.1 No such user in this place",
    ),
    "none": (b"550", "550"),
    "other letters": ("550 Boîte inconnue".encode(), "550 Boîte inconnue"),
    "markup": (b"550 <b>No</b> & {{7*7}}", "550 <b>No</b> & {{7*7}}"),
}


@pytest.mark.parametrize(("answer", "words"), WORDS.values(), ids=WORDS)
async def test_people_are_told_the_servers_own_words(answer: bytes, words: str) -> None:
    async with hostile_mail_server({"RCPT": answer}) as server:
        with pytest.raises(MailRefused) as refusal:
            await send(server.settings())

    assert words in refusal.value.text
    assert refusal.value.text.startswith("Nothing was sent. ")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"550 " + b"very long " * 3000, id="long"),
        pytest.param(b"550-line\r\n" * 2000 + b"550 end", id="many lines"),
        pytest.param(b"550 \xff\xfe\xe9", id="not UTF-8"),
        pytest.param("550 \x1b[31mred \x07 \u202e\U000e0041".encode(), id="invisible"),
    ],
)
async def test_whatever_a_server_says_becomes_one_line_that_can_be_shown(answer: bytes) -> None:
    async with hostile_mail_server({"RCPT": answer}) as server:
        with pytest.raises(MailProblem) as problem:
            await send(server.settings())

    told = problem.value
    assert len(told.text) < 400
    assert told.text.isprintable()
    assert len(told.detail) < 400
    told.detail.encode()


async def test_nobody_listens() -> None:
    async with mail_server() as server:
        pass  # its port is free again

    with pytest.raises(MailUnavailable):
        await send(server.settings())


async def test_whoever_stops_waiting_leaves_no_connection_behind() -> None:
    async with hostile_mail_server({"MAIL": Act.SILENT}) as server:
        sending = asyncio.create_task(send(server.settings()))
        while not any(command.startswith("MAIL") for command in server.commands):
            await asyncio.sleep(0)

        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_letters_at_once_do_not_meet() -> None:
    people = [f"person{number}@example.org" for number in range(20)]
    async with mail_server() as server:
        await asyncio.gather(*(send(server.settings(), letter(f"To {to}\n", to), to=to) for to in people))

    assert {taken.recipients for taken in server.letters} == {(to,) for to in people}
    assert all(taken.message.get_content() == f"To {taken.recipients[0]}\n" for taken in server.letters)


def test_nobody_waits_longer_than_fifteen_seconds() -> None:
    smtp = certbob.mail.smtp
    assert smtp.OPEN_SECONDS + smtp.SEND_SECONDS + smtp.QUIT_SECONDS <= 15
