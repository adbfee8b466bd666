"""What `/cert` does for somebody: certificates, mails, lists, revocation, and what their links lead to."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12
from werkzeug.datastructures import Headers

from certbob.chat.messages import escape
from certbob.config import SMTP, Limits
from certbob.errors import CAUnavailable, MailProblem, MailRefused, MailUnavailable, StorageProblem
from certbob.store.sqlite import Database
from certbob.words import at_time, day
from tests.support.chat import (
    PASSPHRASE,
    InTurn,
    World,
    background,
    open_chat,
    redeemed,
)
from tests.support.html import Page
from tests.support.mail_server import SENDER
from tests.support.mattermost import Seen
from tests.support.mattermost_api import FAULTS
from tests.support.post import FakeMailer
from tests.support.web import ADA, HTTPS_URL, VPN, Answer, Client, FakeCA, StillClock

PLATFORMS = {
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0": "Windows",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605 Version/26.0 Safari/605": "Mac",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) Version/26.0 Mobile/15E148": "iPhone or iPad",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/140.0.0.0 Mobile Safari/537.36": "Android",
    "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 Chrome/140.0.0.0": "ChromeOS",
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0": (
        "Linux, or Firefox on any system"
    ),
    "Lynx/2.9": "Something else",
}
OLD_IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) Version/16.6 Mobile/15E148 Safari/604.1"


@pytest.fixture
async def world(data_dir: Path, clock: StillClock) -> AsyncIterator[World]:
    async with open_chat(data_dir, clock) as opened:
        yield opened


@pytest.fixture
def mailer() -> FakeMailer:
    return FakeMailer()


@pytest.fixture
async def mailing(data_dir: Path, clock: StillClock, mailer: FakeMailer) -> AsyncIterator[World]:
    """With a mail server, and a bot that can tell what went wrong."""
    async with open_chat(
        data_dir, clock, known=True, bot=True, mailer=mailer, email_domain="example.org"
    ) as opened:
        yield opened


def path_of(seen: Seen) -> str:
    """Of the one link in a message, without the site's own address."""
    [link] = [link for link in seen.links if not link.startswith("mailto:")]
    return link.removeprefix(HTTPS_URL)


def passphrase_of(seen: Seen) -> str:
    [found] = filter(PASSPHRASE.fullmatch, seen.code)
    return found


def plain(seen: Seen) -> str:
    """Its words, without the backslashes of Markdown."""
    return re.sub(r"\\(.)", r"\1", seen.text)


def opens(pfx: bytes, passphrase: str) -> bool:
    try:
        return pkcs12.load_pkcs12(pfx, passphrase.encode()).cert is not None
    except ValueError:
        return False


def tells(page: Answer, passphrase: str) -> bool:
    return any(form in page.text for form in (passphrase, passphrase.replace("-", ""), passphrase[-9:]))


async def made(world: World, *devices: str) -> None:
    """Alice has a certificate for each device."""
    for device in devices:
        await redeemed(world, await world.told(f"/cert download {device}"))
        world.site.clock.advance(minutes=1)


# Download


@pytest.mark.parametrize("line", ["/cert", "/cert download", "/cert DownLoad"])
async def test_a_link_a_passphrase_and_how_long_both_are_good(
    world: World, clock: StillClock, line: str
) -> None:
    seen = await world.told(line)

    token = path_of(seen).partition("token=")[2]
    grant = await world.site.services.grants.inspect(token)
    assert "Certificate for alice" in seen.text
    assert f"[Get the file]({HTTPS_URL}/issue?token={token})" in seen.text
    assert f"works once, until {escape(at_time(grant.expires_at))}" in seen.text
    assert f"`{passphrase_of(seen)}`" in seen.text
    assert f"valid until {day(clock.now() + grant.validity)}" in seen.text
    assert seen.code[-1] == "/cert"
    assert (grant.identity.name, grant.identity.account) == ("alice", world.alice.id)
    assert (grant.expires_at - grant.created_at).total_seconds() == 300
    assert world.site.ledger() == []


async def test_the_file_opens_with_the_passphrase_of_the_message(world: World) -> None:
    seen = await world.told("/cert download Work laptop")

    taken = await world.chat.take(seen)

    assert taken.cert is not None
    assert "CN=alice" in taken.cert.certificate.subject.rfc4514_string()
    assert world.site.ledger("state, door, device, email") == [("issued", "mattermost", "Work laptop", None)]


async def test_a_certificate_has_the_address_of_the_domain_that_the_operator_vouches_for(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_chat(data_dir, clock, email_domain="example.org") as world:
        await redeemed(world, await world.told("/cert"))

        assert world.site.ledger("email") == ["alice@example.org"]


async def test_the_client_is_told_to_open_the_link(world: World) -> None:
    seen = await world.told("/cert download")

    assert seen.goto_location == f"{HTTPS_URL}{path_of(seen)}"


async def test_the_client_opens_nothing_where_the_operator_wants_that(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_chat(data_dir, clock, open=False) as world:
        seen = await world.told("/cert download")

        assert seen.answer is not None
        assert "goto_location" not in seen.answer.json()
        await world.chat.take(seen)


@pytest.mark.parametrize("line", ["/cert email", "/cert list", "/cert revoke", "/cert link", "/cert help"])
async def test_nothing_but_a_download_opens_by_itself(mailing: World, line: str) -> None:
    seen = await mailing.told(line)
    await background()

    assert seen.answer is not None
    assert "goto_location" not in seen.answer.json()


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("Work laptop", "Work laptop"),
        ("  Work \t laptop ", "Work laptop"),
        ("Ada’s phone", "Ada's phone"),
        ("Büro-PC 2", "Büro-PC 2"),
        ("手机", "手机"),
        ("x" * 40, "x" * 40),
        ("www.evil.example", "www.evil.example"),
        ("x @channel @bob", "x @channel @bob"),
        ("1. a_b_c -d- ' @e", "1. a_b_c -d- ' @e"),
        ("", "alice's device"),
    ],
)
async def test_a_device_is_called_as_people_say_and_named_as_plain_text(
    world: World, text: str, device: str
) -> None:
    seen = await world.told(f"/cert download {text}")
    await redeemed(world, seen)

    assert device in plain(seen).replace("\N{ZERO WIDTH SPACE}", "")
    assert world.site.ledger("device") == [device]
    for line in ("/cert list", "/cert revoke"):
        told = await world.told(line)
        assert device in plain(told).replace("\N{ZERO WIDTH SPACE}", "")
        assert "evil" not in "".join(told.links)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("x" * 41, "longer than 40 characters"),
        ("a](https://evil.example)", "but not ‘]’"),
        ("`x`", "but not ‘`’"),
        ("x 🎉", "but not ‘🎉’"),
        ("x\u202ey", "but not U+202E"),
        ("x <!channel>", "but not ‘‹’"),
        ("@channel", "must begin with a letter or a digit"),
        ("раypal", "different scripts"),
    ],
)
@pytest.mark.parametrize("word", ["download", "email"])
async def test_an_unfit_device_name_is_refused_with_the_reason(
    mailing: World, mailer: FakeMailer, word: str, device: str, reason: str
) -> None:
    seen = await mailing.told(f"/cert {word} {device}")
    await background()

    assert "Please check what you entered" in seen.text
    assert reason in plain(seen)
    assert (seen.goto_location, seen.code, mailer.letters) == ("", (), [])


# One link at a time


async def test_a_new_command_takes_the_place_of_an_older_link(world: World) -> None:
    older = await world.told("/cert")
    newer = await world.told("/cert")

    for client in (world.site.browser(), world.site.program()):
        answer = await client.get(path_of(older))
        assert answer.status == 410
        assert "A newer link has taken the place of this one" in answer.text
        assert not tells(answer, passphrase_of(older))
    posted = await world.site.program().post("/issue", {"token": path_of(older).partition("=")[2]})
    assert posted.status == 410
    assert passphrase_of(older) != passphrase_of(newer)
    assert opens((await redeemed(world, newer)).body, passphrase_of(newer))
    assert world.site.ledger() == ["issued"]


async def test_a_page_that_was_open_before_a_new_command_makes_nothing_any_more(world: World) -> None:
    older = await world.told("/cert")
    page = await world.chat.click(older)
    await world.told("/cert")

    answer = await world.chat.submit(page)

    assert answer.status_code == 410
    assert world.site.ledger() == []


async def test_one_persons_command_leaves_links_of_others_alone(world: World) -> None:
    bobs = await world.told("/cert", world.bob)
    await world.told("/cert")

    await redeemed(world, bobs)


async def test_a_mail_takes_the_place_of_an_older_link_too(mailing: World) -> None:
    older = await mailing.told("/cert")
    await mailing.told("/cert email")
    await background()

    assert (await mailing.site.program().get(path_of(older))).status == 410
    assert mailing.site.ledger("state, delivery") == [("issued", "mail")]


async def test_a_mail_on_its_way_is_not_stopped_by_a_new_command(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    ca = FakeCA(data_dir, clock)
    ca.may_answer.clear()
    async with open_chat(
        data_dir, clock, mailer=mailer, email_domain="example.org", site={"ca": ca}
    ) as world:
        await world.told("/cert email")
        newer = await world.told("/cert")
        ca.may_answer.set()
        await background()

        assert len(mailer.letters) == 1
        await redeemed(world, newer)


async def test_of_two_commands_at_once_on_two_processes_one_link_works(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_chat(data_dir, clock) as first, open_chat(data_dir, clock, chat=first.chat) as second:
        for _ in range(4):
            first.chat.transport = InTurn(first, second)
            seen = await asyncio.gather(first.told("/cert"), first.told("/cert"))
            programs = [world.site.program() for world in (first, second)]

            statuses = [
                (await program.get(path_of(each))).status
                for each, program in zip(seen, programs, strict=True)
            ]

            assert sorted(statuses) == [200, 410]


async def test_what_was_taken_can_be_had_again_whatever_comes_after(world: World, clock: StillClock) -> None:
    older = await world.told("/cert")
    browser = world.site.browser()
    form = (await browser.get(path_of(older))).page.forms("/issue")[0]
    file = await browser.submit(form)
    await world.told("/cert")

    again = await browser.submit(form)
    clock.advance(minutes=2, seconds=1)

    assert (again.status, again.body) == (200, file.body)
    assert (await browser.submit(form)).status == 409
    assert world.site.ledger() == ["issued"]


async def test_what_is_being_made_while_a_new_command_comes_is_finished(
    data_dir: Path, clock: StillClock
) -> None:
    ca = FakeCA(data_dir, clock)
    async with open_chat(data_dir, clock, site={"ca": ca}) as world:
        seen = await world.told("/cert")
        ca.may_answer.clear()
        taking = asyncio.create_task(world.site.program().get(path_of(seen)))
        await ca.asked.wait()
        newer = await world.told("/cert")
        ca.may_answer.set()

        assert opens((await taking).body, passphrase_of(seen))
        await redeemed(world, newer)


async def test_what_could_not_be_made_before_a_new_command_is_over(data_dir: Path, clock: StillClock) -> None:
    ca = FakeCA(data_dir, clock)
    async with open_chat(data_dir, clock, site={"ca": ca}) as world:
        older = await world.told("/cert")
        ca.signing_problem = CAUnavailable("closed")
        assert (await world.site.program().get(path_of(older))).status == 503
        newer = await world.told("/cert")
        ca.signing_problem = None

        assert (await world.site.program().get(path_of(older))).status == 410
        await redeemed(world, newer)


async def test_links_of_the_web_stay_as_they_are(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, identity="link") as world:
        ada = await linked(world)
        form = (await ada.get("/new")).page.form("/new")
        link = (await ada.submit(form, device="Work laptop")).headers["Location"]

        await world.told("/cert")

        assert (await ada.follow(link)).status == 200
        assert (await world.site.program().get(link)).status == 200


async def test_a_link_dies_after_five_minutes(world: World, clock: StillClock) -> None:
    seen = await world.told("/cert")
    clock.advance(minutes=5)

    answer = await world.site.browser().get(path_of(seen))

    assert answer.status == 410
    assert not tells(answer, passphrase_of(seen))


# Who fetches a link before its person clicks


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"User_Agent": "Mattermost-Bot/1.1"}, id="Mattermost"),
        pytest.param({"User_Agent": "Mattermost-Bot/1.1", "Accept": "image/*"}, id="Mattermost's first line"),
        pytest.param({"User_Agent": "Slackbot-LinkExpanding 1.0"}, id="Slack"),
        pytest.param({"Accept": "text/html"}, id="html"),
        pytest.param({"Sec_Purpose": "prefetch"}, id="Sec-Purpose"),
        pytest.param({"Sec_Purpose": "prefetch;prerender"}, id="prerender"),
        pytest.param({"Purpose": "prefetch"}, id="Purpose"),
        pytest.param({"X_Moz": "prefetch"}, id="X-Moz"),
        pytest.param({"Sec_Fetch_Site": "cross-site"}, id="a picture of another page"),
    ],
)
async def test_whoever_looks_before_the_click_spends_nothing(world: World, headers: dict[str, str]) -> None:
    seen = await world.told("/cert")
    before = world.state()

    for method in ("GET", "HEAD", "GET"):
        answer = await world.site.program(**headers).send(method, path_of(seen))
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert not tells(answer, passphrase_of(seen))

    assert world.state() == before
    await world.chat.take(seen)
    assert world.site.ledger() == ["issued"]


async def test_head_of_a_program_spends_nothing(world: World) -> None:
    seen = await world.told("/cert")

    assert (await world.site.program().head(path_of(seen))).status == 200
    assert (await world.site.program().head(path_of(seen), {"Accept": None})).status == 200

    await redeemed(world, seen)


async def test_mattermost_fetches_none_of_our_links_and_if_it_did_spends_nothing(mailing: World) -> None:
    seen = await mailing.told("/cert")
    assert mailing.chat.link_metadata == {}
    link = seen.links[0]

    await mailing.chat.preview(f"look: {link}")
    await mailing.chat.preview("", attachments=[{"image_url": link}])
    await mailing.chat.preview(f"<{link}>")

    fetched = mailing.chat.link_metadata
    assert link in fetched
    for page in fetched.values():
        assert page is not None
        assert "application/x-pkcs12" not in page.headers["Content-Type"]
        assert passphrase_of(seen) not in page.text
        assert "og:" not in page.text
    assert mailing.site.ledger() == []
    await mailing.chat.take(seen)


# The page behind the link


@pytest.mark.parametrize("fetch_site", ["cross-site", "none", "same-site", "same-origin", None])
async def test_the_page_begins_by_itself_and_does_not_tell_the_passphrase(
    world: World, fetch_site: str | None
) -> None:
    seen = await world.told("/cert download Work laptop")
    browser = world.site.browser()

    answer = await browser.get(path_of(seen), {"Sec-Fetch-Site": fetch_site})

    assert answer.status == 200
    [form, *others] = answer.page.forms("/issue")
    assert "data-autostart" in form.attributes
    assert all("data-autostart" not in other.attributes for other in others)
    assert "Your certificate for Work laptop" in answer.page.text("h1")
    assert "The passphrase is in the message that brought you here." in answer.page.text()
    assert answer.page.passphrase is None
    assert not tells(answer, passphrase_of(seen))
    assert "@" not in answer.page.text("h1")
    assert world.site.ledger() == []
    file = await browser.submit(form)
    assert file.headers["Content-Disposition"] == "attachment; filename=user_cert.pfx"
    assert opens(file.body, passphrase_of(seen))


async def test_after_the_file_came_the_page_neither_begins_again_nor_tells_the_passphrase(
    world: World,
) -> None:
    seen = await world.told("/cert")
    browser = world.site.browser()
    await browser.submit((await browser.get(path_of(seen))).page.forms("/issue")[0])

    for path in (path_of(seen), "/issue"):
        for client in (browser, browser.as_htmx()):
            answer = await client.get(path, {"Sec-Fetch-Site": "cross-site"})
            assert answer.status == 200
            assert "data-autostart" not in answer.text
            assert not tells(answer, passphrase_of(seen))


async def test_a_used_link_tells_nobody_the_passphrase(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock) as first, open_chat(data_dir, clock, chat=first.chat) as second:
        seen = await second.told("/cert")
        browser = first.site.browser()
        form = (await browser.get(path_of(seen))).page.forms("/issue")[0]
        assert (await browser.submit(form)).status == 200
        elsewhere = second.site.browser()  # the same browser, at the other process
        elsewhere.cookies = browser.cookies
        stranger, program = first.site.browser(), first.site.program()
        answers = [
            await client.send(method, path, body=body, headers={"Sec-Fetch-Site": "none", **headers})
            for client in (elsewhere, elsewhere.as_htmx(), stranger, program)
            for method, path, body, headers in (
                ("GET", path_of(seen), b"", {}),
                (
                    "POST",
                    "/issue",
                    f"token={form.fields['token']}".encode(),
                    {"Content-Type": "application/x-www-form-urlencoded"},
                ),
            )
        ]
        clock.advance(minutes=2, seconds=1)
        answers += [await browser.get(path_of(seen)), await browser.submit(form)]

    assert {answer.status for answer in answers} == {409}
    assert not [answer.text for answer in answers if tells(answer, passphrase_of(seen))]


@pytest.mark.parametrize(("user_agent", "label"), PLATFORMS.items(), ids=PLATFORMS.values())
async def test_the_guide_for_the_browsers_own_platform_is_open(
    world: World, user_agent: str, label: str
) -> None:
    seen = await world.told("/cert")

    page = (await world.site.browser(User_Agent=user_agent).get(path_of(seen))).page

    guides = page.all("details[@class='guide']")
    [opened] = [guide for guide in guides if "open" in guide.attrib]
    assert label == " ".join("".join(opened.find("summary").itertext()).split())  # type: ignore[union-attr]
    assert guides[0] is opened


async def test_an_older_device_is_asked_before_its_file_is_made(world: World) -> None:
    seen = await world.told("/cert")

    page = (await world.site.browser(User_Agent=OLD_IPHONE).get(path_of(seen))).page

    form = page.forms("/issue")[0]
    assert "data-autostart" not in form.attributes
    assert form.fields["older"] == "1"


async def test_the_link_says_nothing_about_its_person(mailing: World) -> None:
    seen = await mailing.told("/cert")

    answer = await mailing.site.browser().get(path_of(seen))

    assert "@" not in "".join(answer.page.text("main").split())
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"


# Mail


async def test_the_file_goes_by_mail_and_the_passphrase_by_chat(mailing: World, mailer: FakeMailer) -> None:
    seen = await mailing.told("/cert email Work laptop")
    await background()

    [(recipient, letter)] = mailer.letters
    [file] = [part.get_content() for part in letter.iter_attachments()]
    assert recipient == "alice@example.org"
    assert "a…@\N{ZERO WIDTH SPACE}example.org" in plain(seen)
    assert "alice@" not in seen.text
    assert "Work laptop" in seen.text
    assert "/cert download" in seen.code
    assert seen.links == ()
    assert opens(file, passphrase_of(seen))
    assert passphrase_of(seen) not in letter.as_string()
    assert mailing.site.ledger("state, door, device, delivery, delivered") == [
        ("issued", "mattermost", "Work laptop", "mail", 1)
    ]
    assert mailing.chat.direct_messages == []


async def test_mail_is_another_word_for_email(mailing: World, mailer: FakeMailer) -> None:
    assert passphrase_of(await mailing.told("/cert MAIL"))
    await background()

    assert len(mailer.letters) == 1


async def test_the_address_is_the_servers_where_the_bot_is_asked(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    async with open_chat(data_dir, clock, bot=True, mailer=mailer, identity="email") as world:
        world.alice.email = "miller@corp.example.org"
        await world.told("/cert email", fields={"user_name": "alice", "email": "e@v.il"})
        await background()

    assert [recipient for recipient, _ in mailer.letters] == ["miller@corp.example.org"]


async def test_without_an_address_nothing_is_made(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    async with open_chat(data_dir, clock, mailer=mailer) as world:
        older = await world.told("/cert")
        seen = await world.told("/cert email")
        await background()

        assert "No mailbox of yours is known here" in seen.text
        assert "Download the file instead" in seen.text
        assert not PASSPHRASE.search(seen.text)
        assert (mailer.letters, world.site.ledger()) == ([], [])
        await redeemed(world, older)


async def test_without_a_mail_server_people_are_led_to_the_download(world: World) -> None:
    seen = await world.told("/cert email")

    assert "Mail is not set up here" in seen.text
    assert seen.code == ("/cert download",)
    assert not any("INSERT" in line and '"grants"' in line for line in world.state())


async def test_where_mails_hold_links_people_without_a_sign_in_are_led_to_the_download(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    smtp = SMTP(host="mail.example.org", sender=SENDER, attach=False)
    site = {"smtp": smtp}
    async with open_chat(data_dir, clock, mailer=mailer, site=site, email_domain="example.org") as world:
        seen = await world.told("/cert email")
        await background()

    assert "Mail needs a web sign-in here" in seen.text
    assert seen.code == ("/cert download",)
    assert mailer.letters == []


async def test_where_accounts_are_linked_a_link_goes_by_mail_and_no_passphrase_by_chat(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    smtp = SMTP(host="mail.example.org", sender=SENDER, attach=False)
    async with open_chat(data_dir, clock, mailer=mailer, site={"smtp": smtp}, identity="link") as world:
        ada = await linked(world)
        chat_link = await world.told("/cert download")
        seen = await world.told("/cert email Work laptop")
        newer = await world.told("/cert download")
        await background()

        [(recipient, letter)] = mailer.letters
        body = letter.get_body(("plain",))
        assert body is not None
        [path] = re.findall(rf"{HTTPS_URL}(/issue\?token=\S+)", body.get_content())
        assert recipient == ADA.email
        assert "asks you to sign in, and shows the passphrase" in plain(seen)
        assert not PASSPHRASE.search(seen.text)
        stranger = await world.site.browser().get(path)
        assert stranger.headers["Location"] == "/login?next=/issue"
        page = (await ada.get(path)).page
        assert page.passphrase is not None
        assert "data-autostart" not in page.forms("/issue")[0].attributes
        file = await ada.submit(page.forms("/issue")[0])
        assert opens(file.body, page.passphrase)
        assert (await world.site.program().get(path_of(chat_link))).status == 410
        await redeemed(world, newer)


def away() -> MailProblem:
    return MailUnavailable("no route to smtp.internal")


def refused() -> MailProblem:
    return MailRefused("550 No", "It says: 550 No <b>such</b> https://evil.example @channel")


def at_first(mailer: FakeMailer, problem: Callable[[], MailProblem]) -> None:
    mailer.refusal = problem


def at_last(mailer: FakeMailer, problem: Callable[[], MailProblem]) -> None:
    mailer.problem = problem


@pytest.mark.parametrize("when", [at_first, at_last])
@pytest.mark.parametrize("problem", [away, refused])
async def test_a_mail_that_failed_is_told_in_a_direct_message_without_secrets(
    mailing: World,
    mailer: FakeMailer,
    problem: Callable[[], MailProblem],
    when: Callable[[FakeMailer, Callable[[], MailProblem]], None],
) -> None:
    when(mailer, problem)

    seen = await mailing.told("/cert email")
    await background()

    [(person, text)] = mailing.chat.direct_messages
    message = Seen("direct", text)
    assert person is mailing.alice
    assert "The mail with your certificate could not be sent" in text
    assert problem().title in plain(message)
    assert message.code == ("/cert download",)
    assert not PASSPHRASE.search(text)
    assert (message.links, message.markdown.bare, message.markdown.images) == ((), (), ())
    assert not re.search(r"token=|@\w|internal", text)
    assert mailing.chat.link_metadata == {}
    assert passphrase_of(seen) not in text


async def test_a_file_that_was_not_delivered_is_so_in_the_list(mailing: World, mailer: FakeMailer) -> None:
    mailer.problem = refused
    await mailing.told("/cert email Work laptop")
    await background()

    assert "**Work laptop** · Not collected" in (await mailing.told("/cert list")).text


async def test_a_certificate_that_could_not_be_made_is_told_too(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    ca = FakeCA(data_dir, clock)
    async with open_chat(
        data_dir, clock, bot=True, mailer=mailer, email_domain="example.org", site={"ca": ca}
    ) as world:
        for problem in (CAUnavailable("closed"), RuntimeError("a fault of ours")):
            ca.signing_problem = problem
            await world.told("/cert email")
            await background()

        [first, second] = [text for _, text in world.chat.direct_messages]
    assert "The certificate service does not answer" in first
    assert "We do not know whether the certificate was made" in second
    assert "fault of ours" not in second
    assert mailer.letters == []


async def test_a_fault_in_the_background_is_told_and_logged(
    mailing: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def send_file(*arguments: object, **options: object) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(mailing.site.services.mail, "send_file", send_file)
    await mailing.told("/cert email")
    await background()

    [(_, text)] = mailing.chat.direct_messages
    assert "Something went wrong here" in text
    assert "fault of ours" not in text
    assert "a fault of ours" in caplog.text


async def test_without_a_bot_the_log_alone_knows(
    data_dir: Path, clock: StillClock, mailer: FakeMailer, caplog: pytest.LogCaptureFixture
) -> None:
    mailer.refusal = away
    async with open_chat(data_dir, clock, known=True, mailer=mailer, email_domain="example.org") as world:
        await world.told("/cert email")
        await background()

        assert world.chat.direct_messages == []
        assert not [request for request in world.chat.requests if request.method == "POST"]
    assert "mail_unavailable after a slash command: no route to smtp.internal" in caplog.text


@pytest.mark.parametrize("path", ["users/me", "channels", "posts"])
@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"silent"}))
async def test_a_message_that_cannot_be_sent_either_is_logged(
    mailing: World, mailer: FakeMailer, caplog: pytest.LogCaptureFixture, path: str, fault: str
) -> None:
    mailer.refusal = away
    mailing.chat.answers[path] = FAULTS[fault]

    await mailing.told("/cert email")
    await background()

    assert mailing.chat.direct_messages == []
    assert "nor could it be told" in caplog.text
    assert "Certificate for alice" in (await mailing.told("/cert")).text


# List


async def test_whoever_has_none_is_told_how_to_get_one(world: World) -> None:
    seen = await world.told("/cert list")

    assert "No certificates yet" in seen.text
    assert seen.code == ("/cert download",)


@pytest.mark.parametrize("word", ["list", "status", "LIST"])
async def test_the_list_has_ones_own_certificates_with_their_state(world: World, word: str) -> None:
    await made(world, "Work laptop", "Phone")
    await redeemed(world, await world.told("/cert download Secret box", world.bob))

    seen = await world.told(f"/cert {word}")

    [laptop, phone, hint] = seen.text.splitlines()
    assert laptop.startswith("- **Work laptop** · Active · until ")
    assert phone.startswith("- **Phone** · Active · until ")
    assert "/cert revoke" in hint
    assert "Secret box" not in seen.text


async def test_the_list_says_what_is_over(world: World, clock: StillClock) -> None:
    await made(world, "Old phone")
    clock.advance(days=100)
    await made(world, "New phone")

    seen = await world.told("/cert list")

    [new, old, _] = seen.text.splitlines()
    assert new.startswith("- **New phone** · Active · until ")
    assert old == "- **Old phone** · Expired"


async def test_the_list_has_ten_lines_at_most(world: World) -> None:
    await made(world, *(f"Device {number}" for number in range(10)))
    ten = await world.told("/cert list")
    await made(world, "Device 10")
    eleven = await world.told("/cert list")

    assert ten.text.count("- **Device") == eleven.text.count("- **Device") == 10
    assert "There are more" not in ten.text
    assert "There are more" in eleven.text


async def test_where_people_sign_in_too_the_list_leads_to_all_of_them(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_chat(data_dir, clock, identity="link") as world:
        ada = await linked(world)
        await made(world, "Work laptop")

        seen = await world.told("/cert list")

        assert path_of(seen) == "/certificates"
        assert "Work laptop" in (await ada.get("/certificates")).page.text()


# Revoke


async def revocation_page(client: Client, path: str) -> Page:
    answer = await client.get(path)
    assert answer.status == 200, answer.text
    return answer.page


def revoked(world: World) -> list[Any]:
    return world.site.ledger("device, revocation_reason")


async def test_the_command_revokes_nothing_and_the_page_does(world: World) -> None:
    await made(world, "Work laptop", "Phone")
    before = world.state()

    seen = await world.told("/cert revoke work LAPTOP")
    browser = world.site.browser()
    page = await revocation_page(browser, path_of(seen))
    await browser.head(path_of(seen))
    await world.site.program(User_Agent="Mattermost-Bot/1.1").get(path_of(seen))
    await world.site.program().get(path_of(seen))
    assert world.state() == before
    assert seen.goto_location == ""
    assert "Revoke the certificate for Work laptop?" in page.text("h1")
    [form] = [form for form in page.forms(path_of(seen).partition("?")[0]) if form.method == "post"]
    answer = await browser.submit(form, reason="lost")

    assert answer.status == 303
    assert "Set-Cookie" not in answer.headers
    assert revoked(world) == [("Work laptop", 1), ("Phone", None)]
    done = await revocation_page(browser, answer.headers["Location"])
    assert "Revoked: Work laptop" in done.text("h1")
    assert "**Work laptop** · Revoked" in (await world.told("/cert list")).text
    assert "no active certificate for a device of that name" in plain(
        await world.told("/cert revoke Work laptop")
    )


async def test_without_a_name_there_is_a_link_for_each_and_five_at_most(world: World) -> None:
    assert "You have no active certificate" in (await world.told("/cert revoke")).text
    await made(world, *(f"Device {number}" for number in range(5)))

    five = await world.told("/cert revoke")
    await made(world, "Device 5")
    more = await world.told("/cert revoke")

    assert len(five.links) == len(set(five.links)) == len(more.links) == 5
    assert "There are more" not in five.text
    assert "There are more" in more.text
    assert "/cert revoke [device]" in more.code
    assert "Device 5" in (await world.told("/cert revoke Device 5")).text


async def test_what_is_over_cannot_be_revoked(world: World, clock: StillClock) -> None:
    await made(world, "Old phone")
    clock.advance(days=91)

    assert (await world.told("/cert revoke Old phone")).links == ()


async def test_nobody_can_revoke_what_is_somebody_elses(world: World) -> None:
    await made(world, "Work laptop")
    await redeemed(world, await world.told("/cert download Phone", world.bob))
    alices, bobs = await world.told("/cert revoke"), await world.told("/cert revoke", world.bob)
    token = path_of(bobs).partition("token=")[2]
    of_alices = path_of(alices).partition("?")[0]
    client = world.site.browser()

    assert "no active" in (await world.told("/cert revoke Work laptop", world.bob)).text
    assert (await client.get(f"{of_alices}?token={token}")).status == 401
    assert (await client.post(of_alices, {"token": token, "reason": "lost"})).status == 401
    assert (await client.post(of_alices, {"reason": "lost"})).status == 401
    grant = path_of(await world.told("/cert")).partition("token=")[2]
    assert (await client.post(of_alices, {"token": grant, "reason": "lost"})).status == 401
    assert revoked(world) == [("Work laptop", None), ("Phone", None)]


async def test_a_link_to_revoke_works_ten_minutes_and_from_its_own_page_only(
    world: World, clock: StillClock
) -> None:
    await made(world, "Work laptop")
    path = path_of(await world.told("/cert revoke"))
    browser = world.site.browser()
    fields = {"token": path.partition("token=")[2], "reason": "lost"}
    action = path.partition("?")[0]

    assert (await browser.post(action, fields | {"reason": ""})).status == 422
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert (await browser.post(action, fields, foreign)).status == 403
    clock.advance(minutes=10)
    assert (await browser.get(path)).status == 410
    assert (await browser.post(action, fields)).status == 410
    assert revoked(world) == [("Work laptop", None)]


# Help


@pytest.mark.parametrize("line", ["/cert help", "/cert HELP me"])
async def test_help_names_what_there_is(world: World, line: str) -> None:
    seen = await world.told(line)

    assert seen.text.startswith("I know:")
    assert [span for span in seen.code if "email" in span or "link" in span] == []
    assert {"/cert download [device]", "/cert list", "/cert revoke [device]", "/cert help"} <= set(seen.code)


@pytest.mark.parametrize("line", ["/cert bake", "/cert downlaod Phone", "/cert /cert", "/cert -h", "/cert ?"])
async def test_an_unknown_word_is_answered_with_help_and_not_repeated(mailing: World, line: str) -> None:
    seen = await mailing.told(line)

    assert seen.text.startswith("I do not know that command")
    assert "/cert email [device]" in seen.code
    assert "bake" not in seen.text
    assert "downlaod" not in seen.text
    assert mailing.site.ledger() == []


# Who may have what


async def test_a_profile_for_groups_is_for_nobody_who_is_known_by_chat_alone(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    async with open_chat(
        data_dir, clock, mailer=mailer, email_domain="example.org", site={"profiles": (VPN,)}
    ) as world:
        for line in ("/cert", "/cert email"):
            seen = await world.told(line)
            await background()
            assert "You cannot get this certificate" in seen.text
            assert "‘VPN’ is for members of vpn-users" in plain(seen)
            assert not PASSPHRASE.search(seen.text)
            assert seen.goto_location == ""
        assert (mailer.letters, world.site.ledger()) == ([], [])


async def test_the_first_profile_that_the_person_may_have_is_taken(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, identity="link", site={"profiles": (VPN,)}) as world:
        await linked(world)

        assert "VPN, valid until" in (await world.told("/cert")).text


async def test_beyond_the_hours_limit_people_are_told_when_to_come_again(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    limits = Limits(certificates_per_hour=2)
    async with open_chat(
        data_dir, clock, mailer=mailer, email_domain="example.org", site={"limits": limits}
    ) as world:
        waiting = await world.told("/cert")
        await made(world, "Work laptop", "Phone")

        for line in ("/cert", "/cert email"):
            seen = await world.told(line)
            await background()
            assert "One person can make 2 in an hour. Try again at " in plain(seen)
            assert seen.goto_location == ""
        assert waiting.goto_location
        assert mailer.letters == []
        assert "Certificate for bob" in (await world.told("/cert", world.bob)).text
        clock.advance(hours=1)
        await redeemed(world, await world.told("/cert"))


# Linked accounts


async def linked(world: World) -> Client:
    """Ada's browser, after she said that Alice's chat account is hers."""
    seen = await world.told("/cert")
    assert "Link your account" in seen.text
    assert seen.goto_location == ""
    ada = await world.site.signed_in(ADA)
    page = (await ada.get(path_of(seen))).page
    assert (await ada.submit(page.form("/link"))).status == 303
    return ada


async def test_a_linked_account_gets_certificates_as_its_person(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, identity="link") as world:
        await linked(world)
        world.alice.username = "the.ceo"  # a rename does not matter: the link is the binding

        seen = await world.told("/cert download Work laptop")
        await redeemed(world, seen)

        assert "Certificate for Ada Lovelace" in seen.text
        assert world.site.ledger("name, email, device") == [("Ada Lovelace", ADA.email, "Work laptop")]
        assert "Link your account" in (await world.told("/cert list", world.bob)).text


async def test_a_linked_account_is_over_with_its_person(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, identity="link") as world:
        await linked(world)
    async with open_chat(data_dir, clock, chat=world.chat, identity="link", site={"people": ()}) as world:
        for line in ("/cert", "/cert list", "/cert revoke"):
            assert "Link your account" in (await world.told(line)).text


async def test_where_accounts_are_not_linked_the_command_says_so(world: World) -> None:
    seen = await world.told("/cert link")

    assert "Accounts are not linked here" in plain(seen)
    assert (seen.links, seen.code) == ((), ("/cert download",))


async def test_no_mail_goes_out_whose_passphrase_nobody_was_told(
    data_dir: Path, clock: StillClock, monkeypatch: pytest.MonkeyPatch, mailer: FakeMailer
) -> None:
    """Whichever statement of the database fails."""
    async with open_chat(data_dir, clock, mailer=mailer, email_domain="example.org") as world:
        working = Database.rows
        for steps in range(30):
            clock.advance(minutes=1)
            mailer.letters.clear()
            left = steps

            async def rows(self: Database, sql: str, *parameters: Any) -> Any:
                nonlocal left
                left -= 1
                if left == -1:
                    raise StorageProblem("full")
                return await working(self, sql, *parameters)

            with monkeypatch.context() as patched:
                patched.setattr(Database, "rows", rows)
                seen = await world.told("/cert email")
            await background()

            assert not mailer.letters or PASSPHRASE.search(seen.text)
        assert mailer.letters


async def test_apostrophes_of_phones_name_the_same_device(world: World) -> None:
    await made(world, "Alice's device")

    seen = await world.told("/cert revoke Alice’s device")

    assert "Alice's device" in seen.text


async def test_the_page_for_linking_names_the_account_as_its_server_does(
    data_dir: Path, clock: StillClock
) -> None:
    """The name in a command is not signed, so it could be somebody else's, or very long."""
    async with open_chat(data_dir, clock, bot=True, identity="link", verify_trigger="off") as world:
        seen = await world.told("/cert link", fields={"user_name": "alice" * 6_000})
        ada = await world.site.signed_in()
        page = (await ada.get(path_of(seen))).page

    assert "Are you alice there" in page.text("main")


async def test_two_accept_lines_count_together(world: World) -> None:
    """The first of those that Mattermost's previews send names no page (measured on 6.7)."""
    link = path_of(await world.told("/cert"))
    headers = Headers([("Host", "cert.example.org"), ("User-Agent", "New-Bot/1")])
    for accepted in ("image/*", "text/html;q=0.8"):
        headers.add("Accept", accepted)

    answer = await world.site.app.test_client().get(link, headers=headers, scheme="https")

    assert answer.content_type == "text/html; charset=utf-8"
    assert world.site.ledger() == []
