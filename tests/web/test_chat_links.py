"""Whose chat account it is: a link out of the chat, a sign-in, and a page that asks."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from certbob.chat.server import ChatServer
from certbob.config import SMTP, CommandToken, Limits, Mattermost
from certbob.identity import Door
from certbob.secret import Secret
from tests.support import mattermost
from tests.support.core import DATABASE, dump
from tests.support.html import Form, Page
from tests.support.mail_server import SENDER
from tests.support.mattermost import Seen
from tests.support.mattermost_api import Team, User
from tests.support.post import FakeMailer
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on
from tests.support.web import (
    ADA,
    BERT,
    HTTPS_URL,
    LOOPBACK_URL,
    VPN,
    Answer,
    Client,
    Person,
    Site,
    StillClock,
    open_site,
)
from tests.web.test_security import CSP

WARNING = "whoever has that account would get certificates in your name"
COOKIE = "certbob-chat"
HOUR_LIMIT = Limits(certificates_per_hour=100)


class Chat(mattermost.Mattermost):
    """A team with alice and alina in it, and the command that leads to us."""

    def __init__(self, clock: StillClock, url: str = LOOPBACK_URL) -> None:
        super().__init__(clock)
        self.alice, self.alina = self.add_user("alice"), self.add_user("alina")
        self.team: Team = self.add_team("acme")
        self.command = self.add_command(self.team, f"{url}/request")

    def lead_to(self, site: Site) -> None:
        self.transport = httpx2.ASGITransport(app=site.app)  # type: ignore[arg-type]

    def settings(self, **changes: Any) -> Mattermost:
        token = CommandToken(token=Secret(self.command.token))
        return Mattermost(**{"token": (token,), "identity": "link"} | changes)


@dataclass(frozen=True, slots=True)
class Linked:
    """A site whose people say which chat accounts are theirs."""

    site: Site
    chat: Chat

    async def run(self, line: str, user: User | None = None) -> Seen:
        return await self.chat.run(user or self.chat.alice, line)

    async def asked(self, user: User | None = None) -> str:
        """The link that the chat gives for it; without the site's own address."""
        [link] = (await self.run("/cert link", user)).links
        assert link.startswith(f"{self.site.url}/link?token=")
        return link.removeprefix(self.site.url)

    async def link(self, client: Client, user: User | None = None) -> None:
        page = (await client.get(await self.asked(user))).page
        assert (await client.submit(page.form("/link"))).status == 303

    def accounts(self) -> list[tuple[str, str]]:
        """Chat accounts with the web account they are linked to, read past the program."""
        found = re.findall(
            r"INSERT INTO \"chat_links\" VALUES\('([^']*)','[^']*','[^']*','[^']*','([^']*)'", self.dump()
        )
        return [(user_id, account) for user_id, account in found]

    def dump(self) -> str:
        return dump(self.site.settings.server.data_dir / DATABASE)


@asynccontextmanager
async def open_linked(
    data_dir: Path, clock: StillClock, chat: Chat | None = None, /, **site: Any
) -> AsyncIterator[Linked]:
    """`site` as for `open_site`. Each one that is opened takes over the chat."""
    chat = chat or Chat(clock)
    async with open_site(data_dir, clock, limits=HOUR_LIMIT, mattermost=chat.settings(), **site) as opened:
        chat.lead_to(opened)
        yield Linked(opened, chat)


@pytest.fixture
async def linked(data_dir: Path, clock: StillClock) -> AsyncIterator[Linked]:
    async with open_linked(data_dir, clock) as opened:
        yield opened


def token_of(link: str) -> str:
    return link.partition("token=")[2]


async def sign_in(browser: Client, answer: Answer, person: Person = ADA) -> Answer:
    """By the form of the page that `answer` leads to."""
    fields = (await browser.follow(answer.headers["Location"])).page.form("/login").fields
    return await browser.post("/login", fields | {"username": person.username, "password": person.password})


def offered(seen: Seen) -> list[str]:
    """Our own pages that a message leads to."""
    links = [link for link in seen.links if link.startswith(LOOPBACK_URL)]
    return [link.removeprefix(LOOPBACK_URL).partition("?")[0] for link in links]


def name_in(file: pkcs12.PKCS12KeyAndCertificates) -> str | bytes:
    assert file.cert is not None
    [attribute] = file.cert.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return attribute.value


def remove_form(page: Page, user: User) -> Form:
    [form] = [form for form in page.forms("/link/remove") if form.fields["user_id"] == user.id]
    return form


# Where it is


@pytest.mark.parametrize("identity", ["username", None])
async def test_without_linked_accounts_there_is_no_such_page(
    data_dir: Path, clock: StillClock, identity: str | None
) -> None:
    settings = Mattermost() if identity is None else Chat(clock).settings(identity=identity)
    async with open_site(data_dir, clock, mattermost=settings) as site:
        ada = await site.signed_in()
        form = {"form_token": await ada.form_token(), "token": "x", "user_id": "x"}
        answers = [
            await site.browser().get("/link"),
            await site.browser().get("/link?token=x"),
            await ada.get("/link"),
            await ada.post("/link", form),
            await ada.post("/link/remove", form),
        ]

        for answer in answers:
            assert answer.status == 404
            assert COOKIE not in answer.cookies
        assert "/link" not in (await ada.get("/certificates")).text


async def test_my_certificates_lead_there(linked: Linked) -> None:
    ada = await linked.site.signed_in()

    links = [link.get("href") for link in (await ada.get("/certificates")).page.all("a")]
    assert "/link" in links

    page = (await ada.get("/link")).page
    assert page.text("h1") == "Your chat accounts"
    assert "None is linked." in page.text()
    assert page.forms("/link") == []


# The way of a link


async def test_whoever_opens_a_link_signs_in_and_is_asked(linked: Linked) -> None:
    link = await linked.asked()
    browser = linked.site.browser()

    opened = await browser.get(link)
    signed_in = await sign_in(browser, opened)
    page = (await browser.follow(signed_in.headers["Location"])).page

    assert (opened.status, opened.headers["Location"]) == (303, "/login?next=/link")
    assert (signed_in.status, signed_in.headers["Location"]) == (303, "/link")
    for answer in (opened, signed_in):
        assert token_of(link) not in answer.text + answer.headers["Location"]
    assert page.text("h1") == "Is this chat account yours?"
    facts = page.text("dl")
    assert "Mattermost account alice" in facts
    assert "You are signed in as Ada Lovelace" in facts
    assert WARNING in page.text()
    assert page.form("/link").fields["token"] == token_of(link)
    assert linked.accounts() == []

    answer = await browser.submit(page.form("/link"))
    assert (answer.status, answer.headers["Location"]) == (303, "/link")
    assert COOKIE not in browser.cookies
    after = (await browser.follow("/link")).page
    assert "In Mattermost these accounts get certificates as Ada Lovelace." in after.text()
    assert after.text("section") == "alice Unlink alice"
    assert linked.accounts() == [(linked.chat.alice.id, "ada")]


async def test_the_token_waits_in_the_browser_and_nowhere_else(
    linked: Linked, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    link = await linked.asked()
    browser = linked.site.browser()

    opened = await browser.get(link)
    await sign_in(browser, opened)

    cookie = opened.cookies[COOKIE]
    assert (cookie.value, cookie["httponly"], cookie["samesite"]) == (token_of(link), True, "Lax")
    assert cookie["max-age"] == "600"
    assert token_of(link) not in linked.dump()
    assert token_of(link) not in caplog.text
    assert linked.chat.alice.id in linked.dump()


async def test_over_https_the_cookie_is_bound_to_the_host(data_dir: Path, clock: StillClock) -> None:
    async with open_linked(data_dir, clock, Chat(clock, HTTPS_URL), public_url=HTTPS_URL) as linked:
        browser = linked.site.browser()
        answer = await browser.get(await linked.asked())
        await browser.sign_in(ADA)
        page = (await browser.get("/link")).page
        done = await browser.submit(page.form("/link"))

    assert answer.cookies[f"__Host-{COOKIE}"]["secure"]
    assert done.cookies[f"__Host-{COOKIE}"]["secure"]
    assert f"__Host-{COOKIE}" not in browser.cookies


async def test_htmx_signs_in_on_a_whole_page(linked: Linked) -> None:
    link = await linked.asked()

    answer = await linked.site.browser().as_htmx().get(link)

    assert (answer.status, answer.headers["HX-Redirect"]) == (401, "/login?next=/link")
    assert answer.cookies[COOKIE].value == token_of(link)


async def test_whoever_is_signed_in_is_asked_at_once(linked: Linked) -> None:
    ada = await linked.site.signed_in()
    link = await linked.asked()

    for origin in ("none", "cross-site", "same-origin"):
        answer = await ada.get(link, {"Sec-Fetch-Site": origin})
        assert answer.status == 200
        assert answer.page.text("h1") == "Is this chat account yours?"
    assert linked.accounts() == []


@pytest.mark.parametrize("query", ["", "?token="])
async def test_signed_out_without_a_link_there_is_a_sign_in(linked: Linked, query: str) -> None:
    browser = linked.site.browser()

    answer = await browser.get(f"/link{query}")

    assert (answer.status, answer.headers["Location"]) == (303, "/login?next=/link")
    await browser.sign_in(ADA)
    assert (await browser.get("/link")).page.text("h1") == "Your chat accounts"


PEEKS: list[tuple[str, dict[str, str | None]]] = [
    ("HEAD", {}),
    ("GET", {"User-Agent": "Mattermost-Bot/1.1", "Accept": "image/*"}),
    ("GET", {"Sec-Purpose": "prefetch"}),
    ("GET", {"User-Agent": "curl/8.14.1", "Accept": "*/*"}),
]


@pytest.mark.parametrize(("method", "headers"), PEEKS, ids=str)
async def test_looking_changes_nothing(linked: Linked, method: str, headers: dict[str, str | None]) -> None:
    link = await linked.asked()
    ada = await linked.site.signed_in()
    before = linked.dump()

    assert (await linked.site.browser().send(method, link, headers)).status == 303
    assert (await ada.send(method, link, headers)).status == 200

    assert linked.dump() == before
    assert (await ada.get(link)).page.forms("/link")


async def test_the_chat_shows_no_address_that_its_server_would_fetch(linked: Linked) -> None:
    seen = await linked.run("/cert link")

    assert (seen.kind, seen.status, seen.markdown.bare) == ("ephemeral", 200, ())
    assert "alice" in seen.text
    assert "ten minutes" in seen.text
    assert linked.chat.link_metadata == {}


async def test_a_link_is_single_use(linked: Linked) -> None:
    ada, link = await linked.site.signed_in(), await linked.asked()
    form = (await ada.get(link)).page.form("/link")
    assert (await ada.submit(form)).status == 303

    for answer in (await ada.submit(form), await ada.get(link)):
        assert answer.status == 410
        assert "This link is over" in answer.page.text()
    assert linked.accounts() == [(linked.chat.alice.id, "ada")]


async def test_a_link_that_was_used_gives_somebody_else_nothing(linked: Linked) -> None:
    ada, bert, link = await linked.site.signed_in(), await linked.site.signed_in(BERT), await linked.asked()
    late, waiting = (await bert.get(link)).page.form("/link"), linked.site.browser()
    opened = await waiting.get(link)
    await ada.submit((await ada.get(link)).page.form("/link"))

    await sign_in(waiting, opened, BERT)

    for answer in (await bert.get(link), await bert.submit(late), await waiting.get(link)):
        assert answer.status == 410
        assert "alice" not in answer.text
        assert "Ada" not in answer.text
    assert linked.accounts() == [(linked.chat.alice.id, "ada")]


async def test_a_link_is_good_for_ten_minutes(linked: Linked, clock: StillClock) -> None:
    ada, link = await linked.site.signed_in(), await linked.asked()
    form = (await ada.get(link)).page.form("/link")
    clock.advance(minutes=9, seconds=59)
    assert (await ada.get(link)).page.forms("/link")

    clock.advance(seconds=1)

    for answer in (await ada.get(link), await ada.submit(form)):
        assert answer.status == 410
        assert "alice" not in answer.text
    assert linked.accounts() == []


@pytest.mark.parametrize("token", ["x", "%00", "%FF", "A" * 3000, "..%2F", "'--"])
async def test_what_the_chat_did_not_give_is_no_link(linked: Linked, token: str) -> None:
    await linked.asked()
    ada = await linked.site.signed_in()

    assert (await ada.get(f"/link?token={token}")).status == 410
    form = {"form_token": await ada.form_token(), "token": token}
    assert (await ada.post("/link", form)).status == 410
    assert (await ada.post("/link", {"form_token": form["form_token"]})).status == 410
    assert linked.accounts() == []


@pytest.mark.parametrize("form_token", [None, "", "x", "ü"])
async def test_forms_need_the_token_of_their_session(linked: Linked, form_token: str | None) -> None:
    ada, other = await linked.site.signed_in(), await linked.site.signed_in()
    await linked.link(ada, linked.chat.alina)
    link = await linked.asked()
    fields = {"token": token_of(link), "user_id": linked.chat.alina.id}
    forms = [
        fields | ({} if form_token is None else {"form_token": form_token}),
        fields | {"form_token": await other.form_token()},
    ]

    for form in forms:
        for path in ("/link", "/link/remove"):
            assert (await ada.post(path, form)).status == 403
    assert linked.accounts() == [(linked.chat.alina.id, "ada")]
    assert (await ada.get(link)).status == 200


async def test_forms_come_from_our_own_pages(linked: Linked) -> None:
    ada = await linked.site.signed_in()
    await linked.link(ada, linked.chat.alina)
    form = {
        "form_token": await ada.form_token(),
        "token": token_of(await linked.asked()),
        "user_id": linked.chat.alina.id,
    }

    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "none"}):
        for path in ("/link", "/link/remove"):
            assert (await ada.post(path, form, headers)).status == 403
    assert linked.accounts() == [(linked.chat.alina.id, "ada")]


async def test_signed_out_no_form_does_anything(linked: Linked) -> None:
    await linked.link(await linked.site.signed_in())
    link = await linked.asked(linked.chat.alina)

    for path in ("/link", "/link/remove"):
        form = {"token": token_of(link), "user_id": linked.chat.alice.id}
        assert (await linked.site.browser().post(path, form)).status == 401
    assert linked.accounts() == [(linked.chat.alice.id, "ada")]


async def test_signing_out_forgets_the_link(linked: Linked) -> None:
    browser = linked.site.browser()
    await browser.get(await linked.asked())
    await browser.sign_in(ADA)
    assert COOKIE in browser.cookies

    await browser.post("/logout", {"form_token": await browser.form_token()})

    assert COOKIE not in browser.cookies
    await browser.sign_in(BERT)
    assert (await browser.get("/link")).page.text("h1") == "Your chat accounts"


async def test_the_link_of_the_address_counts_before_the_one_that_waits(linked: Linked) -> None:
    browser = linked.site.browser()
    await browser.get(await linked.asked(linked.chat.alice))
    await browser.sign_in(ADA)

    page = (await browser.get(await linked.asked(linked.chat.alina))).page

    assert "Mattermost account alina" in page.text("dl")


async def test_no_answer_may_be_kept_or_framed(linked: Linked) -> None:
    link = await linked.asked()
    ada, bert = await linked.site.signed_in(), await linked.site.signed_in(BERT)
    answers = [
        await linked.site.browser().get(link),
        await ada.get(link),
        await ada.get("/link"),
        await ada.post("/link"),
        await ada.post("/link", {"form_token": await ada.form_token(), "token": token_of(link)}),
        await bert.get(link),
        await ada.post("/link/remove", {"form_token": await ada.form_token(), "user_id": "x"}),
    ]

    assert [answer.status for answer in answers] == [303, 200, 200, 403, 303, 410, 303]
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == CSP
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


# What is linked


async def test_an_account_is_unlinked_by_its_owner(linked: Linked) -> None:
    ada, bert = await linked.site.signed_in(), await linked.site.signed_in(BERT)
    await linked.link(ada, linked.chat.alice)
    await linked.link(bert, linked.chat.alina)
    mine = (linked.chat.alice.id, "ada")
    page = (await ada.get("/link")).page
    assert "alina" not in page.text()

    for user_id in (linked.chat.alice.id, "", "x", linked.chat.alice.id.upper()):
        answer = await bert.post("/link/remove", {"form_token": await bert.form_token(), "user_id": user_id})
        assert (answer.status, answer.headers["Location"]) == (303, "/link")
    assert mine in linked.accounts()

    assert (await ada.submit(remove_form(page, linked.chat.alice))).status == 303
    assert linked.accounts() == [(linked.chat.alina.id, "bert")]
    assert "None is linked." in (await ada.get("/link")).page.text()
    assert offered(await linked.run("/cert download")) == ["/link"]


async def test_an_account_that_changes_hands_is_linked_anew(linked: Linked) -> None:
    ada, bert = await linked.site.signed_in(), await linked.site.signed_in(BERT)
    await linked.link(ada)

    await linked.link(bert)

    assert linked.accounts() == [(linked.chat.alice.id, "bert")]
    assert "None is linked." in (await ada.get("/link")).page.text()


async def test_who_is_not_linked_gets_a_link_in_the_place_of_a_certificate(linked: Linked) -> None:
    for line in ("/cert", "/cert download", "/cert list", "/cert revoke"):
        assert offered(await linked.run(line)) == ["/link"]
    assert linked.site.ledger() == []


async def test_the_command_then_acts_as_the_account_of_the_web(linked: Linked) -> None:
    ada = await linked.site.signed_in()
    await linked.link(ada)

    file = await linked.chat.take(await linked.run("/cert download Phone"))

    assert name_in(file) == "Ada Lovelace"
    [(subject, door, account)] = linked.site.ledger("subject, door, account")
    assert subject == await linked.site.services.people.subject_for(Door.LOCAL, "ada")
    assert (door, account) == ("mattermost", linked.chat.alice.id)
    page = (await ada.get("/certificates")).page
    assert page.text("h2") == "Phone"
    assert "in the chat" in page.text("details")


async def test_what_was_made_on_the_web_is_listed_and_revoked_in_the_chat(linked: Linked) -> None:
    await linked.site.services.issuance.issue(await linked.site.mint(ADA, device="Work laptop"))
    await linked.site.services.issuance.issue(await linked.site.mint(BERT, device="Berts"))
    await linked.link(await linked.site.signed_in())

    listed, revocation = await linked.run("/cert list"), await linked.run("/cert revoke Work laptop")

    assert "Work laptop" in listed.text
    assert "Berts" not in listed.text
    page = await linked.chat.click(revocation)
    assert (await linked.chat.submit(page, reason="lost")).status_code == 200
    assert linked.site.ledger("revocation_reason") == [1, None]


async def test_another_account_of_the_chat_is_nobody(linked: Linked) -> None:
    await linked.link(await linked.site.signed_in(), linked.chat.alice)

    assert offered(await linked.run("/cert download", linked.chat.alina)) == ["/link"]


async def test_a_new_name_in_the_chat_changes_nothing(linked: Linked) -> None:
    """The id of the account is what was linked."""
    await linked.link(await linked.site.signed_in())
    linked.chat.alice.username = "bert"

    assert (await linked.chat.take(await linked.run("/cert download"))).cert is not None


async def test_a_local_account_counts_as_it_is_configured_now(data_dir: Path, clock: StillClock) -> None:
    """Without a new sign-in: the configuration is at hand."""
    chat = Chat(clock)
    async with open_linked(data_dir, clock, chat, profiles=(VPN,)) as linked:
        await linked.link(await linked.site.signed_in())
        assert (await linked.chat.take(await linked.run("/cert download"))).cert is not None

    poorer = replace(ADA, groups=(), name="Ada King")
    async with open_linked(data_dir, clock, chat, profiles=(VPN,), people=(poorer, BERT)) as linked:
        assert offered(await linked.run("/cert download")) == []
    async with open_linked(data_dir, clock, chat, people=(poorer, BERT)) as linked:
        file = await linked.chat.take(await linked.run("/cert download"))

    assert name_in(file) == "Ada King"


async def test_an_account_that_was_taken_away_is_linked_to_nobody(data_dir: Path, clock: StillClock) -> None:
    chat = Chat(clock)
    async with open_linked(data_dir, clock, chat) as linked:
        await linked.link(await linked.site.signed_in())

    async with open_linked(data_dir, clock, chat, people=(BERT,)) as linked:
        for line in ("/cert download", "/cert list", "/cert revoke"):
            seen = await linked.run(line)
            assert offered(seen) == ["/link"]
            assert "Ada" not in seen.text
    async with open_linked(data_dir, clock, chat) as linked:
        assert (await linked.chat.take(await linked.run("/cert"))).cert is not None


# Through the identity provider


@asynccontextmanager
async def open_through_provider(
    data_dir: Path, clock: StillClock, **options: Any
) -> AsyncIterator[tuple[SingleSignOn, Linked]]:
    chat = Chat(clock)
    async with open_single_sign_on(
        data_dir, clock, mattermost=chat.settings(), limits=HOUR_LIMIT, **options
    ) as on:
        chat.lead_to(on.site)
        yield on, Linked(on.site, chat)


async def test_the_way_leads_through_the_provider_without_the_token(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_through_provider(data_dir, clock) as (on, linked):
        link = await linked.asked()
        browser = on.browser()
        opened = await browser.get(link)
        assert opened.headers["Location"] == "/login?next=/link"

        location = await on.begin(browser, "/link")
        answer = await on.come_back(browser, on.provider.authorize(location))

        assert token_of(link) not in location + on.dump()
        assert (answer.status, answer.headers["Location"]) == (303, "/link")
        page = (await browser.follow("/link")).page
        assert "Mattermost account alice" in page.text("dl")
        assert (await browser.submit(page.form("/link"))).status == 303
        assert (await linked.chat.take(await linked.run("/cert"))).cert is not None


async def test_a_sign_in_refreshes_what_counts_in_the_chat(data_dir: Path, clock: StillClock) -> None:
    """What the provider says is known only then."""
    async with open_through_provider(data_dir, clock, profiles=(VPN,)) as (on, linked):
        on.provider.claims.update(groups=["others"], email="old@example.org", email_verified=True)
        await linked.link(await on.signed_in())
        assert offered(await linked.run("/cert")) == []

        on.provider.claims.update(groups=["vpn-users"], email="new@example.org")
        assert offered(await linked.run("/cert")) == []
        await on.signed_in()

        file = await linked.chat.take(await linked.run("/cert"))
        assert file.cert is not None
        assert on.site.ledger("email") == ["new@example.org"]

        on.provider.claims.update(groups=[])
        await on.signed_in()
        assert offered(await linked.run("/cert")) == []


async def test_a_provider_that_is_no_longer_asked_vouches_for_nobody(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_through_provider(data_dir, clock) as (on, linked):
        await linked.link(await on.signed_in())
        chat = linked.chat

    async with open_linked(data_dir, clock, chat) as linked:
        assert offered(await linked.run("/cert")) == ["/link"]


async def test_groups_that_are_no_longer_enough_are_not_enough_in_the_chat(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_through_provider(data_dir, clock, oidc={"allowed_groups": ("staff",)}) as (on, linked):
        on.provider.claims.update(groups=["staff"])
        await linked.link(await on.signed_in())
        assert offered(await linked.run("/cert")) == ["/issue"]

        chat = linked.chat

    async with open_single_sign_on(
        data_dir, clock, on.provider, mattermost=chat.settings(), oidc={"allowed_groups": ("admins",)}
    ) as later:
        chat.lead_to(later.site)
        assert offered(await Linked(later.site, chat).run("/cert")) == ["/link"]


# Mailed links


async def test_a_mailed_link_of_the_chat_is_redeemed_by_the_session_of_the_web(
    data_dir: Path, clock: StillClock
) -> None:
    """Whoever is linked is the same person here and there, and nobody else is."""
    mailer = FakeMailer()
    smtp = SMTP(host="mail.example.org", sender=SENDER, attach=False)
    async with open_linked(data_dir, clock, smtp=smtp, mailer=mailer) as linked:
        ada = await linked.site.signed_in()
        await linked.link(ada)
        seen = await linked.run("/cert email Tablet")
        await mailer.asked.wait()
        [(recipient, letter)] = mailer.letters
        part = letter.get_body(("plain",))
        assert part is not None
        [link] = re.findall(rf"^{LOOPBACK_URL}(/issue\?token=\S+)$", part.get_content(), re.MULTILINE)
        bert = await linked.site.signed_in(BERT)

        assert recipient == ADA.email
        assert "a link to your certificate for **Tablet** to a…@" in seen.text
        passphrase = linked.site.services.grants.passphrase(token_of(link))
        assert passphrase not in seen.text + part.get_content()
        assert (await bert.get(link)).status == 403
        assert (await bert.post("/issue", {"token": token_of(link)})).status == 403
        assert (await linked.site.browser().get(link)).headers["Location"] == "/login?next=/issue"
        page = (await ada.get(link)).page
        assert page.passphrase == passphrase
        file = await ada.submit(page.form("/issue"))

        assert file.headers["Content-Type"] == "application/x-pkcs12"
        assert linked.site.ledger("state, door, device") == [("issued", "mattermost", "Tablet")]


async def test_a_refused_sign_in_counts_in_the_chat(data_dir: Path, clock: StillClock) -> None:
    """Otherwise who has lost the group could go on there for ever."""
    async with open_through_provider(data_dir, clock, oidc={"allowed_groups": ("staff",)}) as (on, linked):
        on.provider.claims.update(groups=["staff"])
        await linked.link(await on.signed_in())
        on.provider.claims.update(groups=["guests"])
        assert (await on.sign_in(on.browser())).status == 403

        assert offered(await linked.run("/cert")) == ["/link"]


async def test_a_used_token_of_the_cookie_locks_nobody_out(linked: Linked) -> None:
    link = await linked.asked()
    waiting = linked.site.browser()
    await waiting.get(link)
    ada = await linked.site.signed_in()
    await ada.submit((await ada.get(link)).page.form("/link"))
    await waiting.sign_in(ADA)

    answer = await waiting.get("/link")

    assert answer.status == 200
    assert remove_form(answer.page, linked.chat.alice)


async def test_links_are_counted_like_other_commands(linked: Linked) -> None:
    for _ in range(100):
        await linked.run("/cert link")

    assert linked.dump().count('INSERT INTO "link_requests"') == 10


async def test_a_bot_gets_no_link(data_dir: Path, clock: StillClock) -> None:
    chat = Chat(clock)
    token = Secret(chat.new_access_token(chat.add_bot("certbob")))
    robot = chat.add_bot("robot")
    chat.team.members.add(robot.id)
    settings = chat.settings(url=chat.site_url, bot_token=token, verify_trigger="off")
    server = ChatServer(chat.site_url, token, transport=httpx2.ASGITransport(app=chat))
    async with open_site(data_dir, clock, mattermost=settings, chat_server=server) as site:
        chat.lead_to(site)

        assert offered(await chat.run(robot, "/cert link")) == []


async def test_what_cannot_be_a_token_is_not_remembered(linked: Linked) -> None:
    answer = await linked.site.browser().get(f"/link?token={'A' * 3000}")

    assert (answer.status, answer.cookies) == (303, {})
