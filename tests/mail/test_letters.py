"""What people find in their mailbox, as it comes over the wire."""

import html
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP as WIRE
from pathlib import Path
from typing import Any

import icalendar
import pytest
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certbob import grammars
from certbob.config import PKCS12, Server
from certbob.devices import Device, Encoding, Platform
from certbob.errors import UnfitName
from certbob.identity import Door, Identity, fit_device_name, fit_email, fit_name
from certbob.mail.letters import Letters
from certbob.paths import resource_root
from certbob.ports import Delivery, Grant, Issued, Reminder, Step, Way
from certbob.secret import Secret
from tests.support import bundle, pki
from tests.support.clock import FakeClock
from tests.support.core import SECRET, person
from tests.support.html import Page
from tests.support.mail_server import SENDER, Letter, mail_server
from tests.support.post import ADA, HOLDER, open_post
from tests.support.preview import CERTIFICATE as SAMPLE

NOW = datetime(2026, 11, 24, 14, 12, tzinfo=UTC)
SITE = "https://cert.example.org"
CONTACT = "it@example.org"
ORGANIZATION = "Example Org"
LINK = f"{SITE}/issue?token=eyJhbGciOiJIUzI1NiJ9.{'x' * 400}.{'y' * 43}"
TEMPLATES = resource_root() / "partials" / "mail"
HEADERS = [
    "Subject",
    "From",
    "To",
    "Reply-To",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "X-Auto-Response-Suppress",
    "MIME-Version",
    "Content-Type",
]
PARTS = {"Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "MIME-Version"}
GRANT = Grant(
    id_hash="0" * 64,
    identity=Identity(pki.SUBJECT, "Ada Lovelace", ADA, (), Door.LOCAL, "ada"),
    profile_id="client",
    validity=timedelta(days=90),
    device=Device(Platform.LINUX, "Work laptop", older=False),
    delivery=Delivery.MAIL,
    created_at=NOW,
    expires_at=NOW + timedelta(hours=1),
)
ISSUED = Issued(bundle.pfx(Encoding.MODERN), "application/x-pkcs12", "user_cert.pfx", bundle.leaf(), 1)

Write = Callable[[Letters, Grant], EmailMessage]
KINDS: dict[str, Write] = {
    "file": lambda letters, grant: letters.with_file(grant, ISSUED),
    "link": lambda letters, grant: letters.with_link(grant, LINK),
    "reminder": lambda letters, grant: letters.reminder(reminder(grant)),
}
CERTIFICATE = replace(SAMPLE, serial=0xF00D, not_after=datetime(2026, 12, 7, 9, 30, tzinfo=UTC))
REPLACE = f"{SITE}/certificates/{CERTIFICATE.serial:x}/replace"
each = pytest.mark.parametrize("write", KINDS.values(), ids=KINDS)


def letters(**changes: Any) -> Letters:
    known = {"sender": SENDER, "site": SITE, "contact": CONTACT, "organization": ORGANIZATION}
    return Letters(TEMPLATES, **{**known, "clock": FakeClock(NOW), **changes})


def grant(name: str = "Ada Lovelace", email: str = ADA, device: str = "Work laptop", **changes: Any) -> Grant:
    identity = replace(GRANT.identity, name=name, email=email)
    return replace(GRANT, identity=identity, device=replace(GRANT.device, name=device), **changes)


def reminder(grant: Grant = GRANT, *, days: int = 14, **changes: Any) -> Reminder:
    """To the person of a grant, and of its device."""
    facts = {"name": grant.identity.name, "device": grant.device.name, **changes}
    recipient = grant.identity.email or ""
    certificate, step = replace(CERTIFICATE, **facts), Step(days, 0)
    return Reminder(certificate, step, Way.MAIL, recipient, grant.identity.door, grant.identity.account)


def arrived(message: EmailMessage) -> Letter:
    """After the way over a server without SMTPUTF8; what the server sees is tested in `test_smtp`."""
    return Letter("", (), (), message.as_bytes(policy=WIRE))


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    content: str = part.get_content()
    return content


def name_in(message: EmailMessage, header: str) -> str:
    """Blanks left out: where a long name was folded the standard library reads or writes one too many."""
    name: str = message[header].addresses[0].display_name
    return name.replace(" ", "")


def assert_one_recipient(message: EmailMessage, address: str) -> None:
    """And no header, address or part that nobody put there."""
    assert message.keys() == HEADERS
    assert [found.addr_spec for found in message["To"].addresses] == [address]
    assert len(message["From"].addresses) == 1
    assert message.defects == []
    assert all(message[name].defects == () for name in ("Subject", "Reply-To", "Date", "Message-ID"))
    for part in message.walk():
        assert part is message or set(part.keys()) <= PARTS


@each
def test_a_letter_has_the_headers_of_an_automatic_one(write: Write) -> None:
    message = arrived(write(letters(), GRANT)).message

    assert message["From"] == "CertBob <certbob@example.org>"
    assert message["To"] == "Ada Lovelace <ada@example.org>"
    assert message["Reply-To"] == CONTACT
    assert message["Date"].datetime == NOW
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Auto-Response-Suppress"] == "All"
    assert message["MIME-Version"] == "1.0"
    assert_one_recipient(message, ADA)


@pytest.mark.parametrize("write", [KINDS["file"], KINDS["link"]])
def test_each_letter_has_an_id_in_the_senders_domain(write: Write) -> None:
    found = {str(write(letters(), GRANT)["Message-ID"]) for _ in range(20)}

    assert len(found) == 20
    assert all(re.fullmatch(r"<[^@<> ]+@example\.org>", identifier) for identifier in found)


@each
@pytest.mark.parametrize("contact", [None, "https://help.example.org/mail"])
def test_without_an_address_to_answer_to_there_is_no_reply_to(write: Write, contact: str | None) -> None:
    message = write(letters(contact=contact), GRANT)

    assert "Reply-To" not in message
    for kind in ("plain", "html"):
        assert (contact or "the people who run this service") in body(message, kind)


@each
def test_a_help_page_may_have_an_at_in_its_address(write: Write) -> None:
    contact = grammars.contact("https://social.example.org/@help")

    assert "Reply-To" not in write(letters(contact=contact), GRANT)


@each
@pytest.mark.parametrize("device", ["Work laptop", "x" * 40, "ноутбук" * 5, "さくらのパソコン" * 5])
def test_a_subject_is_short_and_names_the_device(write: Write, device: str) -> None:
    message = arrived(write(letters(), grant(device=device))).message

    subject = str(message["Subject"])
    assert len(subject) <= 60
    assert device[:14] in subject
    assert device[:30] in subject or subject.endswith(" expires on 7 December")


def test_a_file_comes_with_text_and_html() -> None:
    message = arrived(letters().with_file(GRANT, ISSUED)).message

    assert message.get_content_type() == "multipart/mixed"
    alternatives, attachment = message.iter_parts()
    assert alternatives.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in alternatives.iter_parts()] == ["text/plain", "text/html"]
    assert attachment.get_content_type() == "application/x-pkcs12"
    assert attachment["Content-Transfer-Encoding"] == "base64"
    assert attachment["Content-Disposition"] == 'attachment; filename="user_cert.pfx"'
    assert attachment.get_content() == ISSUED.content


def test_a_link_comes_with_text_and_html_and_nothing_attached() -> None:
    message = arrived(letters().with_link(GRANT, LINK)).message

    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert list(message.iter_attachments()) == []


def test_a_link_stands_on_a_line_of_its_own() -> None:
    message = arrived(letters().with_link(GRANT, LINK)).message

    lines = body(message, "plain").splitlines()
    assert lines.count(LINK) == 1
    assert "15:12 UTC" in " ".join(lines)
    page = Page(body(message, "html"))
    assert [link.get("href") for link in page.all("a[@class='button']")] == [LINK]
    assert LINK in page.text("body").split()


def test_both_forms_of_a_letter_say_the_same() -> None:
    message = arrived(letters().with_file(GRANT, ISSUED)).message

    for text in (" ".join(body(message, "plain").split()), Page(body(message, "html")).text("body")):
        assert text.startswith("Hello Ada Lovelace,")
        for words in ("Work laptop", "user_cert.pfx", "The passphrase is never sent by mail.", CONTACT, SITE):
            assert words in text
        assert f"valid until {bundle.leaf().not_valid_after_utc:%-d %B %Y}" in text


IN_CHAT = replace(GRANT, identity=replace(GRANT.identity, door=Door.MATTERMOST))


def said(message: EmailMessage) -> list[str]:
    """Both forms of it, in one line each."""
    markup = Page(body(message, "html")).text("body")
    return [" ".join(body(message, "plain").split()), re.sub(" (?=[.,:])", "", markup)]


def test_whoever_lost_the_passphrase_or_did_not_ask_is_told_where_to_go() -> None:
    page = f"{SITE}/certificates"

    text, markup = said(arrived(letters().with_file(GRANT, ISSUED)).message)
    assert f"Lost it? Replace the certificate here: {page}" in text
    assert f"Was this not you? Revoke it at the address above, or tell {CONTACT}." in text
    assert "Lost it? Replace the certificate." in markup
    assert f"Was this not you? Revoke it, or tell {CONTACT}." in markup

    for words in said(arrived(letters().with_file(IN_CHAT, ISSUED)).message):
        assert "Lost it? Run /cert in the chat again." in words
        assert f"Was this not you? Run /cert revoke in the chat, or tell {CONTACT}." in words
        assert page not in words


def test_a_reminder_says_what_ends_when_and_what_to_do() -> None:
    message = arrived(letters().reminder(reminder())).message

    assert message["Subject"] == "Your certificate for Work laptop expires on 7 December"
    for words in said(message):
        assert words.startswith("Hello Ada Lovelace,")
        assert re.search('certificate for "?Work laptop"? expires on 7 December 2026', words)
        assert "You will be asked to sign in" in words
        assert "Then there is nothing to do." in words
        assert f"Questions? Ask {CONTACT}." in words
        assert "No more reminders? Turn them off" in words
    assert body(message, "plain").splitlines().count(REPLACE) == 1
    assert f"Turn them off at {SITE}/certificates\n" in body(message, "plain")
    page = Page(body(message, "html"))
    assert [link.get("href") for link in page.all("a[@class='button']")] == [REPLACE]


def test_who_has_a_chat_alone_is_sent_to_no_page() -> None:
    message = arrived(letters().reminder(reminder(IN_CHAT))).message

    for words in said(message):
        assert "To get a new one, run this in the chat" in words
        assert "/cert download Work laptop" in words
        assert "Run /cert reminders off in the chat." in words
        assert "/certificates" not in words
    [entry] = message.iter_attachments()
    assert "/certificates" not in entry.get_content()


def test_a_reminder_brings_the_day_for_the_calendar() -> None:
    message = arrived(letters().reminder(reminder())).message

    assert message.get_content_type() == "multipart/mixed"
    _, part = message.iter_parts()
    assert (part.get_content_type(), part.get_filename()) == ("text/calendar", "certificate.ics")
    assert part.get_content_charset() == "utf-8"
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    [event] = icalendar.Calendar.from_ical(content).events
    assert event.start == date(2026, 12, 7)
    assert event["SUMMARY"] == "Certificate for Work laptop expires"
    assert event["URL"] == REPLACE


def test_the_same_reminder_always_has_the_same_id_and_no_other_one() -> None:
    reminders = [reminder(days=14), reminder(days=3), reminder(serial=7)]

    first, again = ([str(letters().reminder(one)["Message-ID"]) for one in reminders] for _ in range(2))

    assert first == again
    assert len(set(first)) == 3
    assert all(re.fullmatch(r"<[a-z0-9.]+@example\.org>", identifier) for identifier in first)


@pytest.mark.parametrize("platform", Platform)
def test_the_steps_of_the_device_are_in_both_forms(platform: Platform) -> None:
    device = Device(platform, "Some device", older=False)
    message = arrived(letters().with_file(replace(GRANT, device=device), ISSUED)).message
    steps = (TEMPLATES / "install" / f"{platform}.txt").read_text().splitlines()

    assert 2 <= len(steps) <= 5
    lines = body(message, "plain").splitlines()
    assert [line for line in lines if re.match(r"\d\. ", line)] == [
        f"{number}. {step}" for number, step in enumerate(steps, start=1)
    ]
    page = Page(body(message, "html"))
    assert ["".join(item.itertext()) for item in page.all("ol/li")] == steps


@each
def test_html_is_small_and_fetches_nothing(write: Write) -> None:
    longest = grant(name="W" * 64, email="a" * 64 + "@" + "b" * 60 + ".example.org", device="W" * 40)
    message = arrived(write(letters(organization="Ö" * 64), longest)).message

    text = body(message, "html")
    assert len(text.encode()) < 10_000
    page = Page(text)
    assert page.one("html").get("lang") == "en"
    assert page.one("meta[@name='color-scheme']").get("content") == "light dark"
    assert page.title.startswith(str(message["Subject"]).partition("…")[0])
    for element in page.root.iter():
        assert element.tag not in ("img", "script", "link", "iframe", "object", "video", "form", "base")
        assert not {"src", "srcset", "background", "style", "data"} & element.attrib.keys()
        assert not [name for name in element.attrib if name.startswith("on")]
        if "href" in element.attrib:
            assert element.tag == "a"
            assert element.attrib["href"] in (
                SITE,
                f"{SITE}/certificates",
                LINK,
                REPLACE,
                f"mailto:{CONTACT}",
            )
    assert not re.search(r"url\(|@import|@font-face", text)


NAMES = ("Zoë Müller", "Иван Петров", "山田さくら", "김철수", "Νίκος", "e\u0301" * 20, "ö" * 32)


@each
@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_the_world_arrive_over_seven_bits(write: Write, name: str) -> None:
    letter = arrived(write(letters(organization="Örg"), grant(name=fit_name(name), device=name[:20])))

    assert letter.content.isascii()
    assert max(map(len, letter.content.split(b"\r\n"))) <= 998
    assert b"8bit" not in letter.content
    assert_one_recipient(letter.message, ADA)
    assert name_in(letter.message, "To") == fit_name(name).replace(" ", "")
    assert f"Hello {fit_name(name)}," in body(letter.message, "plain")
    assert f"Hello {fit_name(name)}," in body(letter.message, "html")


@each
def test_no_field_is_a_template(write: Write) -> None:
    """Nor markup. The doors refuse all but the organization; the letters do not rely on it."""
    canary = "{{7*7}}{% raw %}${7*7}<b>&amp;"
    message = write(
        letters(organization=canary, contact=f"https://example.org/{canary}"),
        grant(name=canary, device=canary),
    )

    text, markup = body(message, "plain"), body(message, "html")
    assert text.count(canary) == 4
    assert "49" not in text + str(message["Subject"])
    assert Page(markup).text("main").count(canary) == 4
    assert html.escape(canary, quote=False) in markup
    assert canary not in markup


async def test_the_attached_file_opens_with_the_passphrase_of_its_grant(data_dir: Path) -> None:
    async with mail_server() as server:
        names = PKCS12(filename="{user}_{device}.pfx")
        async with open_post(data_dir, server, pkcs12=names) as post:
            token = await post.mint(person("Zoë Müller", email=ADA))
            await post.send(token)

            [content] = post.attachments()
            opened = pkcs12.load_pkcs12(content, post.core.services.grants.passphrase(token).encode())
            assert opened.cert is not None
            assert [opened.cert.certificate] == post.core.ca.signed
            [part] = server.letters[0].message.iter_attachments()
            filename = part.get_filename() or ""
            assert re.fullmatch(r"[a-z0-9_-]+\.pfx", filename)
            assert filename in body(server.letters[0].message, "plain")
            assert content == (await post.core.issue(token, HOLDER)).content


# Whatever somebody is called

ENCODED_WORDS = (  # RFC 2047: what they decode to is somebody else's address, or a header
    "=?utf-8?q?e=40v.il=2C?=",
    "=?utf-8?b?DQpCY2M6IGVAdi5pbA==?=",
    "=?utf-8?q?=0D=0ABcc=3A_e=40v.il?=@example.org",
)
HOSTILE = (
    "a@b.c, e@v.il",
    "Lovelace, Ada",
    "Ada\r\nBcc: e@v.il",
    "Ada\nBcc: e@v.il\n\nHello",
    "Ada\rBcc: e@v.il",
    'Ada "Countess" Lovelace',
    'Ada" <e@v.il>, "',
    "Ada <e@v.il>",
    "<x>",
    "ada@example.org\0",
    "\0",
    "\u202eada",
    "Ada\u2028Bcc: e@v.il",
    *ENCODED_WORDS,
    "x" * 300,
    "x" * 290 + "@v.il",
    "Müller, Zertifikate & Söhne der ganzen Welt, e@v.il",
    "Ada (e@v.il)",
    "group: e@v.il, f@v.il;",
    "e@v.il",
    "{{7*7}}",
    "Ada; e@v.il",
    ",",
    "@",
    "",
    " ",
)
FIELDS: dict[str, Callable[[str], Any]] = {
    "name": fit_name,
    "email": fit_email,
    "device": fit_device_name,
    "organization": grammars.label,
    "contact": grammars.contact,
    "sender": lambda text: grammars.sender(f"{text} <cert@example.org>"),
}
CASES = [(field, text) for field in FIELDS for text in HOSTILE]


@pytest.mark.parametrize(("field", "text"), CASES)
async def test_hostile_words_are_refused_at_the_door_or_make_no_header(
    data_dir: Path, field: str, text: str
) -> None:
    try:
        value = FIELDS[field](text)
    except (UnfitName, ValueError):
        return
    known: dict[str, Any] = {"name": "Ada", "email": ADA, "device": "Work laptop", "sender": SENDER}
    known |= {"contact": CONTACT, "organization": ORGANIZATION, field: value}
    server_section = Server(
        data_dir=data_dir,
        public_url=SITE,
        secret=Secret(SECRET),
        organization=known["organization"],
        contact=known["contact"],
    )
    async with mail_server() as server:
        smtp = server.settings(sender=known["sender"])
        async with open_post(data_dir, server, smtp, server=server_section) as post:
            ada = person(known["name"], email=known["email"])
            token = await post.mint(ada, device=replace(GRANT.device, name=known["device"]))
            await post.send(token)
            await post.mail.send_link(token)

    assert [command for command in server.commands if command.startswith("RCPT")] == [
        f"RCPT TO:<{known['email']}>"
    ] * 2
    for letter in server.letters:
        assert letter.recipients == (known["email"],)
        assert letter.sender == known["sender"].addr_spec
        assert_one_recipient(letter.message, known["email"])
        assert letter.message["From"].addresses[0].addr_spec == known["sender"].addr_spec
        assert name_in(letter.message, "From") == known["sender"].display_name.replace(" ", "")


# Without the question mark: encoded words have tests of their own.
ALPHABET = "aZ09ëя山 ,;:<>@\"'()[]\\\r\n\0\t.-_={}%&\u202e\u200b\u0301"
LIKE_ADDRESSES = st.builds(
    "{}@{}".format,
    st.text(alphabet="aZ0!#$%&'*+/=^_`{|}~.-\",<> ", min_size=1, max_size=70),
    st.sampled_from(["example.org", "bücher.example", "v.il, e@v.il", "[127.0.0.1]", "x" * 63 + ".example"]),
)


def fitting(grammar: Callable[[str], str], text: str, default: str) -> str:
    with suppress(UnfitName):
        return grammar(text)
    return default


@settings(deadline=None, max_examples=100)
@given(
    name=st.text("AdaZoëÅß -._'@07", max_size=40) | st.text(ALPHABET, max_size=30) | st.text(max_size=70),
    device=st.text(ALPHABET, max_size=45) | st.text(max_size=45),
    email=LIKE_ADDRESSES | st.text(ALPHABET, max_size=40),
)
@example(name="W" * 64, device="W" * 40, email="a" * 64 + "@example.org")
def test_whatever_the_doors_let_in_makes_one_recipient_and_no_header(
    name: str, device: str, email: str
) -> None:
    who = grant(
        fitting(fit_name, name, "Ada"),
        fitting(fit_email, email, ADA),
        fitting(fit_device_name, device, "Phone"),
    )

    for write in KINDS.values():
        letter = arrived(write(letters(), who))
        assert letter.content.isascii()
        assert_one_recipient(letter.message, who.identity.email or "")
        assert name_in(letter.message, "To") == who.identity.name.replace(" ", "")


@settings(deadline=None, max_examples=100)
@given(
    name=st.text(ALPHABET, max_size=80) | st.text('aZëö ,.@"&', min_size=30, max_size=60),
    organization=st.text(ALPHABET, max_size=70),
)
def test_no_name_of_the_service_makes_an_address_or_a_header(name: str, organization: str) -> None:
    sender, label = SENDER, ORGANIZATION
    with suppress(ValueError):
        sender = grammars.sender(f"{name} <cert@example.org>")
    with suppress(ValueError):
        label = grammars.label(organization)

    message = arrived(letters(sender=sender, organization=label).with_file(GRANT, ISSUED)).message

    assert_one_recipient(message, ADA)
    assert message["From"].addresses[0].addr_spec == sender.addr_spec
    assert name_in(message, "From") == sender.display_name.replace(" ", "")
