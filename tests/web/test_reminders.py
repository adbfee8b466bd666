"""Reminders as people meet them: links, the switch on the page and in the chat, the calendar."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import icalendar
import pytest

from certbob.identity import Door
from certbob.reminders import Reminders
from tests.support.chat import World, open_chat
from tests.support.html import Page
from tests.support.mattermost import read_markdown
from tests.support.post import FakeMailer
from tests.support.web import ADA, BERT, HTTPS_URL, Answer, Client, Person, Site, StillClock, open_site
from tests.test_reminders import SMTP_SETTINGS

SWITCH = "/certificates/reminders"
NO_MAILBOX = Person("eve", "a password without a mailbox", "Eve Adams")


@pytest.fixture
def mailer() -> FakeMailer:
    return FakeMailer()


@pytest.fixture
async def mailing(data_dir: Path, clock: StillClock, mailer: FakeMailer) -> AsyncIterator[Site]:
    async with open_site(
        data_dir, clock, mailer=mailer, smtp=SMTP_SETTINGS, people=(ADA, BERT, NO_MAILBOX)
    ) as opened:
        yield opened


async def issued(site: Site, person: Person = ADA, device: str = "Work laptop") -> str:
    """The serial number, as it stands in addresses."""
    issued = await site.services.issuance.issue(await site.mint(person, device=device))
    return f"{issued.leaf.serial_number:x}"


def reminders(site: Site) -> Reminders:
    found = site.services.reminders
    assert found is not None
    return found


async def page(client: Client) -> Page:
    return (await client.get("/certificates")).page


async def turn(client: Client, remind: str) -> Answer:
    return await client.submit((await page(client)).form(SWITCH), remind=remind)


def plain(mailer: FakeMailer) -> str:
    """The text of the only mail."""
    [(_, letter)] = mailer.letters
    body = letter.get_body(("plain",))
    assert body is not None
    text: str = body.get_content()
    return text


# The link


async def test_the_link_of_a_mail_leads_over_the_sign_in_to_the_form_for_a_new_one(
    mailing: Site, clock: StillClock, mailer: FakeMailer
) -> None:
    serial = await issued(mailing)
    clock.advance(days=80)
    await reminders(mailing).remind()
    [link] = re.findall(rf"^{mailing.url}(/certificates/\S+)$", plain(mailer), re.MULTILINE)
    browser = mailing.browser()

    asked = await browser.get(link)
    assert (asked.status, asked.headers["Location"]) == (303, f"/login?next={link}")
    form = (await browser.get(asked.headers["Location"])).page.form("/login")
    answer = await browser.submit(form, username=ADA.username, password=ADA.password)
    assert answer.headers["Location"] == link
    answer = await browser.follow(answer.headers["Location"])
    form = (await browser.follow(answer.headers["Location"])).page.form("/new")

    assert (form.fields["device"], form.fields["replaces"]) == ("Work laptop", serial)


async def test_the_link_is_of_no_use_to_others(mailing: Site) -> None:
    serial = await issued(mailing)

    assert (await (await mailing.signed_in(BERT)).get(f"/certificates/{serial}/replace")).status == 404


# The switch on the page


async def test_reminders_are_on_until_somebody_turns_them_off(
    mailing: Site, clock: StillClock, mailer: FakeMailer
) -> None:
    await issued(mailing)
    ada = await mailing.signed_in()
    before = await page(ada)
    assert "Reminders are on: you get one 30, 14 and 3 days before" in before.text("main")
    assert "Turn reminders off" in before.text("main")

    answer = await ada.submit(before.form(SWITCH))
    assert (answer.status, answer.headers["Location"]) == (303, "/certificates#reminders")
    assert "Reminders are off: nobody tells you" in (await page(ada)).text("main")
    clock.advance(days=60)
    await reminders(mailing).remind()
    assert mailer.letters == []

    ada = await mailing.signed_in()
    await ada.submit((await page(ada)).form(SWITCH))
    assert "Reminders are on" in (await page(ada)).text("main")
    await reminders(mailing).remind()
    assert len(mailer.letters) == 1


async def test_the_switch_is_of_one_person_alone(mailing: Site) -> None:
    other = Person("grace", "another password", "Grace Hopper", "grace@example.org")
    ada = await mailing.signed_in()
    await turn(ada, "no")

    subject = await mailing.services.people.subject_for(Door.LOCAL, other.username)
    assert await reminders(mailing)._store.wants_reminders(subject)


async def test_who_cannot_be_reached_sees_no_switch(mailing: Site) -> None:
    assert (await page(await mailing.signed_in(NO_MAILBOX))).forms(SWITCH) == []


async def test_without_reminders_there_is_no_switch(site: Site) -> None:
    ada = await site.signed_in()

    assert (await page(ada)).forms(SWITCH) == []
    assert (await ada.post(SWITCH, {"remind": "no", "form_token": await ada.form_token()})).status == 404


@pytest.mark.parametrize("fields", [{}, {"remind": ""}, {"remind": "maybe"}], ids=str)
async def test_anything_but_yes_and_no_changes_nothing(mailing: Site, fields: dict[str, str]) -> None:
    ada = await mailing.signed_in()

    assert (await ada.post(SWITCH, {"form_token": await ada.form_token(), **fields})).status == 400
    assert "Reminders are on" in (await page(ada)).text("main")


async def test_only_a_form_of_the_own_session_turns_it(mailing: Site) -> None:
    ada = await mailing.signed_in()

    assert (await ada.post(SWITCH, {"remind": "no"})).status == 403
    assert (await mailing.browser().post(SWITCH, {"remind": "no"})).status == 401
    assert "Reminders are on" in (await page(ada)).text("main")


# The day for a calendar


async def test_the_end_is_there_for_a_calendar(site: Site, clock: StillClock) -> None:
    serial = await issued(site, device="Tom's laptop")
    ada = await site.signed_in()
    [link] = [each for each in (await page(ada)).all("main//a") if "calendar" in each.get("href", "")]
    assert "".join(link.itertext()) == "Add to calendar: the end of the certificate for Tom's laptop"

    answer = await ada.get(link.get("href", ""))

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/calendar; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="certificate.ics"'
    assert answer.headers["Cache-Control"] == "no-store"
    [event] = icalendar.Calendar.from_ical(answer.body).events
    assert event["SUMMARY"] == "Certificate for Tom's laptop expires"
    assert event["URL"] == f"{site.url}/certificates/{serial}/replace"
    assert (event.start - clock.now().date()).days == 90


@pytest.mark.parametrize("what", ["somebody else's", "of nobody", "no number"])
async def test_there_is_none_of(site: Site, what: str) -> None:
    serial = {"somebody else's": await issued(site), "of nobody": "ff", "no number": "xyz"}[what]
    bert = await site.signed_in(BERT)

    assert (await bert.get(f"/certificates/{serial}/calendar.ics")).status == 404


async def test_it_needs_a_sign_in(site: Site) -> None:
    answer = await site.browser().get(f"/certificates/{await issued(site)}/calendar.ics")

    assert answer.status == 303
    assert answer.headers["Location"].startswith("/login")


# The chat


def words(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


@pytest.fixture
async def world(data_dir: Path, clock: StillClock) -> AsyncIterator[World]:
    async with open_chat(data_dir, clock, known=True, bot=True) as opened:
        yield opened


def direct_messages(world: World) -> list[tuple[str, str]]:
    return [(user.username, text) for user, text in world.chat.direct_messages]


async def test_the_bot_reminds_who_has_the_chat_alone(world: World, clock: StillClock) -> None:
    await world.site.services.issuance.issue(await minted(world, "/cert download Phone"))
    clock.advance(days=80)

    for _ in range(2):
        await reminders(world.site).remind()

    [(name, text)] = direct_messages(world)
    assert name == "alice"
    assert "Your certificate for **Phone** expires on 22 February 2027" in text
    assert read_markdown(text).links == ()
    assert "/cert download Phone" in read_markdown(text).code


async def minted(world: World, line: str) -> str:
    """The token of a command's link."""
    seen = await world.told(line)
    return seen.goto_location.partition("token=")[2]


async def test_the_chat_has_the_switch_too(world: World, clock: StillClock) -> None:
    await world.site.services.issuance.issue(await minted(world, "/cert download Phone"))

    assert "Reminders are on: you get one 30, 14 and 3 days" in words(
        (await world.told("/cert reminders")).text
    )
    for line in (
        "/cert reminders off",
        "/cert reminders OFF please",
        "/cert reminders",
        "/cert reminders maybe",
    ):
        assert "Reminders are off: nobody tells you" in words((await world.told(line)).text)
    clock.advance(days=80)
    await reminders(world.site).remind()
    assert direct_messages(world) == []

    assert "Reminders are on" in words((await world.told("/cert reminders on")).text)
    await reminders(world.site).remind()
    assert len(direct_messages(world)) == 1


async def test_one_persons_switch_is_not_anothers(world: World) -> None:
    await world.told("/cert reminders off")

    assert "Reminders are on" in words((await world.told("/cert reminders", world.bob)).text)


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ({"known": True, "bot": True}, True),
        ({"known": True}, False),
        ({"mailer": FakeMailer(), "email_domain": "example.org"}, True),
        ({"mailer": FakeMailer()}, False),
    ],
    ids=str,
)
async def test_help_tells_of_them_where_somebody_can_be_reminded(
    data_dir: Path, clock: StillClock, options: dict[str, Any], listed: bool
) -> None:
    async with open_chat(data_dir, clock, **options) as world:
        assert ("/cert reminders off" in (await world.told("/cert help")).code) is listed
        told = words((await world.told("/cert reminders")).text)
        assert ("Reminders are on" in told) is listed
        assert ("There are no reminders here." in told) is not listed


async def test_a_linked_account_gets_a_link_and_so_does_the_mailbox(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    async with open_chat(data_dir, clock, known=True, bot=True, mailer=mailer, identity="link") as world:
        site = world.site
        subject = await site.services.people.subject_for(Door.LOCAL, ADA.username)
        identity = (await site.services.grants.inspect(await site.mint())).identity
        assert identity.subject == subject
        token = await site.services.chat_links.request(world.alice.id, "alice")
        await site.services.chat_links.accept(token, identity)
        of_the_page, of_the_chat = await issued(site), await minted(world, "/cert download Phone")
        phone = await site.services.issuance.issue(of_the_chat)
        clock.advance(days=80)

        await reminders(site).remind()

        links = {
            f"{HTTPS_URL}/certificates/{serial}/replace"
            for serial in (of_the_page, f"{phone.leaf.serial_number:x}")
        }
        assert {name for name, _ in direct_messages(world)} == {"alice"}
        assert {read_markdown(text).links[0] for _, text in direct_messages(world)} == links
        texts = [body.get_content() for _, letter in mailer.letters if (body := letter.get_body(("plain",)))]
        assert len(texts) == 2
        assert all(any(link in text for text in texts) for link in links)
        assert await reminders(site).wanted_by(identity) is True
