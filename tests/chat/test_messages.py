"""Whatever people are called, a message has our links alone, mentions nobody and is not too long."""

import re
import uuid
from collections.abc import Iterator, Set
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import jinja2
import jinja2.meta
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbob import words
from certbob.chat.messages import Markdown, Messages, code, escape, link
from certbob.devices import Platform
from certbob.errors import Problem
from certbob.identity import MAX_DEVICE_NAME, Door, fit_device_name, fit_email, fit_name
from certbob.keys import passphrase_for
from certbob.paths import resource_root
from certbob.ports import Certificate
from certbob.tokens import Tokens
from tests.support.mattermost import read_markdown
from tests.support.web import StillClock

FOLDER = resource_root() / "partials" / "chat"
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.md"))
MAX_MESSAGE = 4000  # characters
SITE = "https://cert.example.org"
NOW = datetime(2026, 11, 24, 14, 12, tzinfo=UTC)
SECRET = "a secret of the tests, long enough"
PASSPHRASE = "aaaa-bbbb-cccc-dddd-eeee"
GRANT = f"{SITE}/issue?token=e30.e30.AAAA_-"
REVOKE = f"{SITE}/certificates/ff/revoke?token=e30.e30.AAAA_-"
LINK = f"{SITE}/link?token=AAAA_-"
REPLACE = f"{SITE}/certificates/ff/replace"
OURS = {GRANT, REVOKE, REPLACE, LINK, f"{SITE}/certificates", "mailto:help@example.org"}

HOSTILE = (
    "https://evil.example/",
    "see http://evil.example.",
    "HTTPS://evil.example",
    "ftp://evil.example mailto://a@b tel://1",
    "www.evil.example",
    "www1.evil.example",
    "[click](https://evil.example)",
    "](https://evil.example)",
    "![x](https://evil.example/x.png)",
    "[![x](https://evil.example/x.png)](https://evil.example)",
    "<https://evil.example>",
    "<https://evil.example|click>",
    "<!channel>",
    "@channel",
    "@all @here @alice",
    "a@channel",
    "alice@example.org",
    "~town-square",
    "`code` ``more``",
    "```\nblock\n```",
    "~~~\nblock\n~~~",
    "**bold** __bold__ _it_ ~~gone~~",
    "# heading",
    "#hashtag",
    "> quote",
    "| a | b |\n|---|---|",
    "- item\n- item\n1. item",
    "\\",
    "\\[x\\](https://evil.example)",
    "\\\\](https://evil.example)",
    "\r\nhttps://evil.example\r\n",
    "\n\n    block\n",
    "a\0b\x1b[2J\u202e\u200b\u2028\u2029\u0085\ufeff",
    "<b>x</b>&lt;&#64;channel &commat;all",
    "{{ 7 * 7 }}{% raw %}",
    "\U0001f600 :smile:",
    "$\\frac{1}{2}$",
    "<ftp://evil.example>",
    "http\\://evil.example",
    "[x]: https://evil.example",
    "[x][y]",
    "https:\u2060//evil.example",
)

# Most of it is of what Markdown is made of.
hostile = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(),
    st.lists(
        st.sampled_from([*"\\`*_{}[]()#+-.!|<>~@:/&\n \t'\"a1", "http", "://", "www.", "](", "\u200b", "é"])
    ).map("".join),
)


@pytest.fixture
def messages() -> Messages:
    return writer()


@cache
def writer(contact: str | None = "help@example.org", site: str = SITE) -> Messages:
    return Messages(FOLDER, site=site, contact=contact)


def outside_code(text: str) -> str:
    """Nothing in a span is a mention; a backslash in front of a backtick makes it an ordinary one."""
    return re.sub(r"\\[\\`]|(`+)(?!`).+?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)


def without_links(text: str) -> str:
    return re.sub(r"\]\([^()\s]*\)", "]", text)


def assert_harmless(text: str, *, code: Set[str] = frozenset()) -> None:
    """Our links and code alone, and no mention of people, groups or channels."""
    seen = read_markdown(text)
    assert set(seen.links) <= OURS
    assert seen.images == ()
    assert seen.bare == ()
    assert set(seen.code) <= code
    plain = without_links(outside_code(text))
    assert not re.search(r"@[^\u200b]", plain), plain
    assert not re.search(r"@\Z", plain), plain
    assert not re.search(r"(?<!\\)[~#<>|]", plain), plain
    assert "://" not in plain


class TestEscaping:
    @given(hostile)
    def test_no_text_is_anything_but_text(self, text: str) -> None:
        assert_harmless(escape(text))

    @given(hostile)
    def test_nothing_around_it_is_taken_along(self, text: str) -> None:
        mine = f"**{escape(text)}** · {link('Get the file', GRANT)} {code(PASSPHRASE)} [{escape(text)}]"

        assert_harmless(mine, code={PASSPHRASE})
        assert read_markdown(mine).links == (GRANT,)
        assert read_markdown(mine).code == (PASSPHRASE,)

    @given(hostile)
    def test_people_read_what_was_written(self, text: str) -> None:
        read = re.sub(r"\\([\\`*_{}\[\]()#+\-.!|>~])", r"\1", escape(text)).replace("\u200b", "")

        assert read == words.visible(text).replace("<", "‹")

    @given(hostile)
    def test_it_stays_on_its_line(self, text: str) -> None:
        assert escape(text).splitlines() in ([], [str(escape(text))])
        assert escape(text).replace("\u200b", "").isprintable()

    @given(hostile)
    def test_a_link_leads_where_it_shall_whatever_its_words_are(self, text: str) -> None:
        assert_harmless(link(text, GRANT))
        assert read_markdown(link(text, GRANT)).links == (GRANT,)

    def test_code_is_one_span(self) -> None:
        for text in (
            passphrase_for(bytes(32), "an id"),
            "/cert revoke [device]",
            "8F3A-22",
            "/" + "a_./-" * 20,
        ):
            assert read_markdown(code(text)).code == (text,)
            assert isinstance(code(text), Markdown)

    @pytest.mark.parametrize(
        ("text", "escaped"),
        [
            ("Ada Lovelace", "Ada Lovelace"),
            ("ada's i-phone", r"ada's i\-phone"),
            ("a_b.c", r"a\_b\.c"),
            ("ada@example.org", "ada@\u200bexample\\.org"),
            ("https://x", "https:\u200b//x"),
            ("<a>", "‹a\\>"),
            ("a\nb", "a\ufffdb"),
            ("Zoë 李", "Zoë 李"),
        ],
    )
    def test_how_it_reads(self, text: str, escaped: str) -> None:
        assert escape(text) == escaped


def certificate(device: str, *, serial: int = 0xFF, **changes: Any) -> Certificate:
    facts: dict[str, Any] = {
        "entry": 1,
        "serial": serial,
        "subject": str(uuid.UUID(int=1)),
        "name": device,
        "profile_id": "client",
        "platform": Platform.OTHER,
        "device": device,
        "door": Door.MATTERMOST,
        "delivered": True,
        "fingerprint": "ab" * 32,
        "not_before": NOW,
        "not_after": NOW + timedelta(days=90),
        "revoked_at": None,
    }
    return Certificate(**facts | changes)


def problem(text: str) -> Problem:
    found = Problem(text)
    found.title = found.text = found.mend = text
    return found


def samples(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every template with every kind of facts; wherever others have a say, `text`."""
    command = {"command": "/cert"}
    yield (
        "download",
        {
            **command,
            "name": text,
            "device": text,
            "profile": text,
            "url": GRANT,
            "until": NOW,
            "valid_until": NOW,
            "passphrase": PASSPHRASE,
        },
    )
    for passphrase in (PASSPHRASE, None):
        yield (
            "email",
            {
                **command,
                "device": text,
                "recipient": f"{text}@{text}",
                "passphrase": passphrase,
                "valid_until": NOW,
            },
        )
    for known in (True, False):
        for flag in (True, False):
            yield "help", {**command, "known": known, "mail": flag, "reminders": flag, "links": flag}
    yield "link", {**command, "name": text, "url": LINK}
    ended = [
        certificate(text),
        certificate(text, revoked_at=NOW),
        certificate(text, not_after=NOW),
        certificate(text, delivered=False),
        certificate(text, not_after=NOW + timedelta(days=3)),
    ]
    for found in ([], ended):
        for flag in (True, False):
            yield "list", {**command, "certificates": found, "more": flag, "pages": not flag, "now": NOW}
            links = [(each, REVOKE) for each in found]
            yield "revoke", {**command, "links": links, "asked": flag, "more": flag}
    yield "mail-failed", {**command, "title": text, "words": text}
    for reference in ("8F3A-22", None):
        yield "problem", {**command, "problem": problem(text), "reference": reference}
    for url in (REPLACE, None):
        yield "reminder", {"device": text, "end": NOW, "url": url}
    for days, wanted in ((None, False), ("30, 14 and 3 days", False), ("30, 14 and 3 days", True)):
        yield "reminders", {**command, "days": days, "wanted": wanted}
    for plain in ("mail-needs-sign-in", "no-links", "no-mail"):
        yield plain, command


COMMANDS = {"/cert", "/cert list", "/cert link", "/cert help", "/cert revoke", "/cert download"}
CODE = {
    *COMMANDS,
    "/cert revoke [device]",
    "/cert download [device]",
    "/cert email [device]",
    "/cert reminders off",
    "/cert reminders on",
    "on",
    PASSPHRASE,
    "8F3A-22",
}


def code_with(device: str) -> set[str]:
    return CODE | {f"/cert download {words.visible(device)}".replace("`", "'").rstrip()}


class TestTemplates:
    def test_each_has_its_samples(self) -> None:
        assert sorted({name for name, _ in samples("x")}) == TEMPLATES

    @pytest.mark.parametrize("text", HOSTILE)
    def test_none_is_led_astray(self, messages: Messages, text: str) -> None:
        for name, facts in samples(text):
            message = messages.write(name, **facts)

            assert message, name
            assert_harmless(message, code=code_with(text))

    @given(hostile)
    def test_nor_by_anything_else(self, text: str) -> None:
        for name, facts in samples(text):
            assert_harmless(writer().write(name, **facts), code=code_with(text))

    @pytest.mark.parametrize("text", HOSTILE)
    def test_what_others_say_adds_no_line(self, messages: Messages, text: str) -> None:
        """So nothing of theirs begins a block, in which its characters would mean something else."""
        for (name, facts), (_, plain) in zip(samples(text), samples("x"), strict=True):
            message, expected = messages.write(name, **facts), messages.write(name, **plain)

            assert len(message.splitlines()) == len(expected.splitlines()), message

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_a_fact_that_is_missing_is_a_mistake(self, messages: Messages, name: str) -> None:
        source = (FOLDER / f"{name}.md").read_text()
        used = jinja2.meta.find_undeclared_variables(messages._templates.parse(source))
        facts = dict(samples("x"))[name]
        for fact in used - messages._templates.globals.keys():
            assert fact in facts, fact
            with pytest.raises(jinja2.UndefinedError, match=fact):
                self.all_ways(messages, name, without=fact)

    def all_ways(self, messages: Messages, name: str, *, without: str) -> None:
        for other, facts in samples("x"):
            if other == name:
                messages.write(name, **{key: value for key, value in facts.items() if key != without})

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_no_template_has_an_address_of_its_own(self, name: str) -> None:
        source = (FOLDER / f"{name}.md").read_text()

        assert not re.search(r"://|www\.|\]\(|@", source)

    def test_without_a_contact_there_is_no_line_of_it(self) -> None:
        facts = {"command": "/cert", "problem": problem("x"), "reference": None}

        assert "Help" not in writer(contact=None).write("problem", **facts)
        assert "Questions" not in writer(contact=None).write(
            "help", known=True, mail=1, reminders=1, links=1, **facts
        )

    @pytest.mark.parametrize(
        ("contact", "url"),
        [
            ("help@example.org", "mailto:help@example.org"),
            ("https://example.org/help", "https://example.org/help"),
        ],
    )
    def test_the_contact_is_a_link(self, contact: str, url: str) -> None:
        text = writer(contact=contact).write("problem", problem=problem("x"), reference=None)

        assert read_markdown(text).links == (url,)
        assert read_markdown(text).bare == ()

    def test_every_problem_can_be_told(self, messages: Messages) -> None:
        for kind in kinds(Problem):
            message = messages.write("problem", command="/cert", problem=kind, reference="8F3A-22")

            assert kind.title.split()[0] in message
            assert_harmless(message, code=CODE)


def kinds(kind: type[Problem]) -> Iterator[Problem]:
    """One of each, as they are without facts of their own."""
    for each in kind.__subclasses__():
        found = each.__new__(each)
        Problem.__init__(found)
        yield found
        yield from kinds(each)


def signed(site: str, jti: str) -> str:
    tokens = Tokens(SECRET, "revocation", "certbob:revoke", issuer=site, clock=StillClock())
    return tokens.sign(str(uuid.uuid4()), jti, expires_at=NOW)


class TestLength:
    """With the longest values that may come, and every character of theirs escaped."""

    LONGEST_SITE = "https://" + ".".join(["a" * 61] * 3 + ["example", "org"]) + ":65535"
    LONG_SITE = "https://" + "a" * 60  # five links to revoke have it ten times
    SERIAL = 2**159 - 1  # RFC 5280 4.1.2.2

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_the_longest_message_is_shown_as_a_whole(self, name: str) -> None:
        site = self.LONG_SITE if name == "revoke" else self.LONGEST_SITE
        longest = self.longest(site)
        messages = writer(f"https://example.org/{'a' * 200}", site)
        for other, facts in samples(longest["device"]):
            if other == name:
                facts |= {key: value for key, value in longest.items() if facts.get(key)}
                if name == "help":
                    facts["links"] = True
                text = messages.write(name, **facts)

                assert len(text) <= MAX_MESSAGE

    def longest(self, site: str) -> dict[str, Any]:
        device = fit_device_name("a" + "@" * (MAX_DEVICE_NAME - 1))
        held = certificate(device, serial=self.SERIAL, not_after=NOW + timedelta(days=13, hours=23))
        token = signed(site, f"{self.SERIAL:x}")
        return {
            "command": "/" + "a" * 128,
            "name": fit_name("a" + "-" * 63),
            "device": device,
            "profile": "a" + "-" * 63,
            "recipient": fit_email("a" * 64 + "@" + ".".join(["a" * 61] * 3)),
            "url": f"{site}/issue?token={signed(site, 'a' * 43)}",
            "certificates": [held] * 10,
            "links": [(held, f"{site}/certificates/{self.SERIAL:x}/revoke?token={token}")] * 5,
            "problem": problem("a-" * 250),
            "title": "a-" * 250,
            "words": "a-" * 250,
        }
