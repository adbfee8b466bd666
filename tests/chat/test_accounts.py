"""Who the person behind a command is, by each of the ways that can be configured, wired as in production."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import httpx2
import pytest

from certbob.chat.accounts import MAX_LOOKUPS
from certbob.chat.server import ChatServer
from certbob.config import CommandToken
from certbob.config import Mattermost as MattermostSettings
from certbob.errors import (
    ChatAccountRefused,
    ChatNameChanged,
    ChatUnavailable,
    LinkOver,
    NameTaken,
    NotLinked,
    Problem,
    UnfitName,
)
from certbob.identity import Door, Identity
from certbob.secret import Secret
from certbob.services import Chat, SlashCommand
from tests.support.mattermost import Mattermost
from tests.support.mattermost_api import FAULTS, GUEST, User, new_id
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on
from tests.support.web import ADA, BERT, Client, Person, Site, StillClock, open_site

MODES = ("username", "email", "link")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


class Open(Protocol):
    """Starts a process of CertBob: `bot` False, without a bot; `keys` of `[mattermost]`; `site` of a site."""

    def __call__(
        self, identity: str = "username", *, bot: bool = True, keys: dict[str, Any] = ..., **site: Any
    ) -> AbstractAsyncContextManager[Site]: ...


@pytest.fixture
def opened(data_dir: Path, clock: StillClock, chat: Mattermost, bot_token: Secret) -> Open:
    @asynccontextmanager
    async def start(
        identity: str = "username", *, bot: bool = True, keys: dict[str, Any] | None = None, **site: Any
    ) -> AsyncIterator[Site]:
        token = bot_token if bot else None
        settings = MattermostSettings(
            token=(CommandToken(token=Secret(new_id())),),
            url=chat.site_url,
            bot_token=token,
            identity=identity,  # type: ignore[arg-type]
            **keys or {},
        )
        server = ChatServer(chat.site_url, token, transport=httpx2.ASGITransport(app=chat))
        async with open_site(data_dir, clock, mattermost=settings, chat_server=server, **site) as found:
            yield found

    return start


@pytest.fixture
async def named(opened: Open) -> AsyncIterator[Site]:
    """`identity = "username"`, without a bot."""
    async with opened(bot=False) as site:
        yield site


@pytest.fixture
async def known(opened: Open) -> AsyncIterator[Site]:
    """`identity = "username"`, with a bot."""
    async with opened() as site:
        yield site


@pytest.fixture
async def mailed(opened: Open) -> AsyncIterator[Site]:
    """`identity = "email"`."""
    async with opened("email") as site:
        yield site


@pytest.fixture
async def linked(opened: Open) -> AsyncIterator[Site]:
    """`identity = "link"`, without a bot."""
    async with opened("link", bot=False) as site:
        yield site


def chat_of(site: Site) -> Chat:
    assert site.services.chat is not None
    return site.services.chat


async def identity(site: Site, user: User, user_name: str | None = None) -> Identity:
    """Whose a command of this account is; `user_name` in the place of its name."""
    name = user.username if user_name is None else user_name
    return await chat_of(site).identity(SlashCommand("/cert", user.id, name, ()))


async def refusal(site: Site, user: User, user_name: str | None = None) -> str:
    """In words."""
    with pytest.raises(ChatAccountRefused) as refused:
        await identity(site, user, user_name)
    return refused.value.text


async def attempt(site: Site, user: User, user_name: str | None = None) -> Identity | Problem:
    try:
        return await identity(site, user, user_name)
    except Problem as problem:
        return problem


class TestNames:
    """Rules 1 to 4."""

    async def test_an_account_is_somebody_of_its_own_and_stays_it(self, named: Site, alice: User) -> None:
        first, again = await identity(named, alice), await identity(named, alice)

        assert first == again
        assert first == Identity(first.subject, "alice", None, (), Door.MATTERMOST, alice.id)

    async def test_another_account_is_somebody_else(self, named: Site, chat: Mattermost, alice: User) -> None:
        first, second = await identity(named, alice), await identity(named, chat.add_user("bob"))

        assert first.subject != second.subject

    async def test_somebody_who_is_called_otherwise_now_is_refused(
        self, named: Site, alice: User, caplog: pytest.LogCaptureFixture
    ) -> None:
        await identity(named, alice)
        alice.username = "the.ceo"

        with pytest.raises(ChatNameChanged) as refused:
            await identity(named, alice)

        assert refused.value.title == "Your name in this chat has changed"
        assert f"the name of chat account {alice.id} ('the.ceo') is not the one" in caplog.text
        assert f"certbob mattermost forget {alice.id}" in caplog.text
        alice.username = "alice"
        assert (await identity(named, alice)).name == "alice"

    async def test_a_name_that_is_refused_stays_free_for_others(
        self, named: Site, chat: Mattermost, alice: User
    ) -> None:
        await identity(named, alice)
        with pytest.raises(ChatNameChanged):
            await identity(named, alice, "the.ceo")

        assert (await identity(named, chat.add_user("the.ceo"))).name == "the.ceo"

    async def test_capitals_change_no_name(self, named: Site, alice: User) -> None:
        first = await identity(named, alice)

        assert (await identity(named, alice, "Alice")).subject == first.subject

    async def test_the_first_name_is_kept_over_a_restart(self, opened: Open, alice: User) -> None:
        async with opened() as site:
            first = await identity(site, alice)
        async with opened() as site:
            assert await identity(site, alice) == first
        alice.username = "alicia"
        async with opened() as site:
            with pytest.raises(ChatNameChanged):
                await identity(site, alice)

    @pytest.mark.parametrize("twin", ["fiona", "FIONA", "Fiona", "\ufb01ona"])
    async def test_a_name_in_another_spelling_is_the_same_name(
        self, named: Site, chat: Mattermost, twin: str
    ) -> None:
        await identity(named, chat.add_user("fiona"))

        with pytest.raises(NameTaken):
            await identity(named, chat.add_user(twin))

    async def test_a_name_of_another_chat_account_is_refused_even_when_that_one_gave_it_up(
        self, named: Site, chat: Mattermost, alice: User
    ) -> None:
        await identity(named, alice)
        alice.username = "alice2"
        mallory = chat.add_user("alice")

        with pytest.raises(NameTaken, match="alice"):
            await identity(named, mallory)

    @pytest.mark.parametrize(
        ("name", "user_name"),
        [
            ("carol", "carol"),
            ("Carol", "carol"),
            ("CAROL", "carol"),
            ("Stra\u00dfe", "strasse"),
            ("\ufb01ona", "fiona"),
        ],
    )
    async def test_a_name_of_a_local_account_is_refused(
        self, opened: Open, chat: Mattermost, name: str, user_name: str
    ) -> None:
        """Whoever is configured here need not have come first."""
        async with opened(people=(replace(ADA, name=name),)) as site:
            with pytest.raises(NameTaken):
                await identity(site, chat.add_user(user_name))

    async def test_a_local_account_that_comes_later_gets_nothing_under_a_name_that_is_taken(
        self, opened: Open, alice: User, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with opened() as site:
            first = await identity(site, alice)
        async with opened(people=(replace(ADA, name="Alice"),)) as site:
            assert await identity(site, alice) == first
        assert "the name 'Alice' of account ada belongs to another account" in caplog.text

    async def test_the_name_of_a_local_account_that_was_taken_away_is_free(
        self, opened: Open, alice: User
    ) -> None:
        async with opened(people=(replace(ADA, name="alice"),)) as site:
            with pytest.raises(NameTaken):
                await identity(site, alice)
        async with opened(people=(BERT,)) as site:
            assert (await identity(site, alice)).name == "alice"

    async def test_a_name_of_somebody_of_single_sign_on_is_refused(
        self, data_dir: Path, clock: StillClock, chat: Mattermost
    ) -> None:
        """From their first certificate on."""
        async with open_on(data_dir, clock, chat, "username") as on:
            browser = await on.signed_in()  # as ada
            await browser.submit((await browser.get("/new")).page.form("/new"), device="Work laptop")

            with pytest.raises(NameTaken, match="ada"):
                await identity(on.site, chat.add_user("ada"))

    async def test_a_name_that_is_refused_is_bound_to_nothing(
        self, named: Site, chat: Mattermost, alice: User
    ) -> None:
        await identity(named, alice)
        other = chat.add_user("alice")
        with pytest.raises(NameTaken):
            await identity(named, other)
        with pytest.raises(UnfitName):
            await identity(named, other, "a;b")
        other.username = "alicia"

        assert (await identity(named, other)).name == "alicia"

    @pytest.mark.parametrize(
        "user_name", ["", " ", "-a", "a;b", "a\nb", "a\u202eb", "\u0430dmin", "a" * 65, "a\0"]
    )
    async def test_a_name_that_fits_into_no_certificate_is_refused(
        self, named: Site, alice: User, user_name: str
    ) -> None:
        with pytest.raises(UnfitName):
            await identity(named, alice, user_name)


class TestAddresses:
    """`identity = "username"`."""

    async def test_the_domain_makes_an_address_of_the_name(self, opened: Open, alice: User) -> None:
        async with opened(keys={"email_domain": "corp.example"}) as site:
            assert (await identity(site, alice)).email == "alice@corp.example"

    async def test_the_address_that_the_chat_has_is_nobodys_word(self, known: Site, alice: User) -> None:
        alice.email = "ceo@corp.example"

        assert (await identity(known, alice)).email is None

    @pytest.mark.parametrize("user_name", ["a..b", "a.", "a@evil.example,b", "a@b"])
    async def test_a_name_that_makes_no_address_is_refused(
        self, opened: Open, alice: User, user_name: str
    ) -> None:
        alice.username = user_name
        async with opened(keys={"email_domain": "corp.example"}) as site:
            with pytest.raises(UnfitName):
                await identity(site, alice, user_name)


class TestLookUps:
    """Rule 5."""

    @pytest.mark.parametrize("mode", MODES)
    async def test_bots_guests_and_deactivated_accounts_are_refused(
        self, opened: Open, chat: Mattermost, mode: str
    ) -> None:
        bot, guest, gone = chat.add_bot("robot"), chat.add_user("gert", roles=GUEST), chat.add_user("gone")
        chat.deactivate(gone)
        async with opened(mode) as site:
            assert await refusal(site, bot) == "It is a bot."
            assert await refusal(site, guest) == "It is a guest's."
            assert await refusal(site, gone) == "It was deactivated."

    @pytest.mark.parametrize("mode", MODES)
    async def test_an_account_that_the_server_does_not_know_is_refused(self, opened: Open, mode: str) -> None:
        async with opened(mode) as site:
            assert await refusal(site, User("ghost")) == "Mattermost does not know it."

    async def test_who_is_refused_is_bound_to_nothing(
        self, known: Site, chat: Mattermost, clock: StillClock
    ) -> None:
        gert = chat.add_user("gert", roles=GUEST)
        await refusal(known, gert)
        gert.roles, gert.username = "system_user", "gertrude"
        clock.advance(minutes=1)

        assert (await identity(known, gert)).name == "gertrude"

    async def test_without_a_bot_nobody_is_looked_up(self, named: Site, chat: Mattermost) -> None:
        assert (await identity(named, chat.add_user("gert", roles=GUEST))).name == "gert"
        assert chat.requests == []

    @pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"404"}))  # which is an answer
    @pytest.mark.usefixtures("_impatient")
    async def test_by_name_a_server_that_is_away_stops_nobody(
        self, known: Site, chat: Mattermost, alice: User, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        chat.answers["users"] = FAULTS[fault]

        assert (await identity(known, alice)).name == "alice"

        assert "a chat account could not be looked up: " in caplog.text

    @pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"404"}))
    @pytest.mark.usefixtures("_impatient")
    async def test_by_address_it_stops_everybody_and_nothing_stands_in(
        self, opened: Open, chat: Mattermost, alice: User, fault: str
    ) -> None:
        chat.answers["users"] = FAULTS[fault]
        async with opened("email", keys={"email_domain": "example.org"}) as site:
            with pytest.raises(ChatUnavailable):
                await identity(site, alice)

            del chat.answers["users"]
            assert (await identity(site, alice)).email == "alice@example.org"

    async def test_a_look_up_counts_for_a_minute(
        self, known: Site, chat: Mattermost, alice: User, clock: StillClock
    ) -> None:
        await identity(known, alice)
        chat.deactivate(alice)
        clock.advance(seconds=59.999)
        await identity(known, alice)
        assert len(chat.asked(f"users/{alice.id}")) == 1

        clock.advance(seconds=0.001)
        assert await refusal(known, alice) == "It was deactivated."
        assert len(chat.asked(f"users/{alice.id}")) == 2

    async def test_a_clock_that_is_set_back_makes_no_look_up_last(
        self, known: Site, chat: Mattermost, alice: User, clock: StillClock
    ) -> None:
        await identity(known, alice)
        chat.deactivate(alice)
        clock.advance(days=-1)

        assert await refusal(known, alice) == "It was deactivated."

    async def test_a_refusal_counts_for_a_minute_too(
        self, known: Site, chat: Mattermost, clock: StillClock
    ) -> None:
        gert = chat.add_user("gert", roles=GUEST)
        for _ in range(5):
            await refusal(known, gert)

        assert len(chat.asked(f"users/{gert.id}")) == 1

    async def test_each_account_has_its_own(self, known: Site, chat: Mattermost, alice: User) -> None:
        await identity(known, alice)

        assert await refusal(known, chat.add_user("gert", roles=GUEST)) == "It is a guest's."

    async def test_a_failed_one_is_tried_again_at_once(
        self, known: Site, chat: Mattermost, alice: User
    ) -> None:
        chat.answers["users"] = FAULTS["500"]
        await identity(known, alice)
        del chat.answers["users"]
        chat.deactivate(alice)

        assert await refusal(known, alice) == "It was deactivated."

    async def test_not_all_of_a_large_company_are_kept(
        self, known: Site, chat: Mattermost, alice: User
    ) -> None:
        """The oldest one goes first."""
        guests = [chat.add_user(f"guest{n}", roles=GUEST) for n in range(MAX_LOOKUPS)]
        await identity(known, alice)
        for guest in guests:
            await refusal(known, guest)
        await refusal(known, guests[-1])
        await identity(known, alice)

        assert len(chat.asked(f"users/{guests[-1].id}")) == 1
        assert len(chat.asked(f"users/{alice.id}")) == 2


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = ChatServer.user.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "seconds", 0.05)


class TestEmail:
    """`identity = "email"`."""

    async def test_the_address_is_the_one_that_the_server_has(self, mailed: Site, alice: User) -> None:
        alice.email = "Alice.L@Example.org"

        found = await identity(mailed, alice)

        assert (found.name, found.email) == ("alice", "Alice.L@Example.org")

    async def test_an_address_of_another_account_is_refused(
        self, mailed: Site, chat: Mattermost, alice: User
    ) -> None:
        await identity(mailed, alice)
        alice.email = "old@example.org"

        with pytest.raises(NameTaken):
            await identity(mailed, chat.add_user("mallory", email="alice@example.org"))

    async def test_a_changed_address_is_refused(
        self, mailed: Site, alice: User, clock: StillClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        await identity(mailed, alice)
        alice.email = "ceo@example.org"
        clock.advance(minutes=1)

        with pytest.raises(ChatNameChanged) as refused:
            await identity(mailed, alice)

        assert refused.value.title == "Your address in this chat has changed"
        assert f"the address of chat account {alice.id}" in caplog.text

    async def test_capitals_change_no_address(self, mailed: Site, alice: User, clock: StillClock) -> None:
        await identity(mailed, alice)
        alice.email = "ALICE@example.ORG"
        clock.advance(minutes=1)

        assert (await identity(mailed, alice)).email == "ALICE@example.ORG"

    async def test_a_changed_name_is_refused_as_well(
        self, mailed: Site, alice: User, clock: StillClock
    ) -> None:
        await identity(mailed, alice)
        alice.username = "the.ceo"
        clock.advance(minutes=1)

        with pytest.raises(ChatNameChanged):
            await identity(mailed, alice)

    async def test_a_server_that_hides_addresses_is_of_no_use(
        self, mailed: Site, chat: Mattermost, alice: User, clock: StillClock
    ) -> None:
        chat.show_email_address = False
        assert await refusal(mailed, alice) == "Mattermost does not tell your e-mail address."

        chat.show_email_address = True
        clock.advance(minutes=1)
        assert (await identity(mailed, alice)).email == "alice@example.org"

    @pytest.mark.parametrize(
        ("email", "passes"),
        [
            ("alice@example.org", True),
            ("alice@EXAMPLE.org", True),
            ("alice@sub.example.org", False),
            ("alice@evil-example.org", False),
            ("alice@example.org.evil.example", False),
            ("alice@example.com", False),
        ],
    )
    async def test_only_addresses_of_the_domain_count(
        self, opened: Open, alice: User, email: str, passes: bool
    ) -> None:
        alice.email = email
        async with opened("email", keys={"email_domain": "Example.org"}) as site:
            if passes:
                assert (await identity(site, alice)).email == email
            else:
                assert await refusal(site, alice) == "Certificates are for addresses of Example.org."

    @pytest.mark.parametrize(
        "email", ["alice", "a@b.c,e@v.il", "a b@example.org", "a@example.org\n", "=?utf-8?q?a?=@example.org"]
    )
    async def test_an_address_that_is_no_plain_one_is_refused(
        self, mailed: Site, alice: User, email: str
    ) -> None:
        alice.email = email

        assert "e-mail address" in await refusal(mailed, alice)

    async def test_an_address_that_is_refused_is_bound_to_nothing(
        self, opened: Open, alice: User, clock: StillClock
    ) -> None:
        alice.email = "alice@gmail.example"
        async with opened("email", keys={"email_domain": "example.org"}) as site:
            await refusal(site, alice)
            alice.email = "alice@example.org"
            clock.advance(minutes=1)

            assert (await identity(site, alice)).email == "alice@example.org"


async def link_up(site: Site, user: User, person: Person) -> None:
    """As the person does: the link out of the chat, a sign-in, the button."""
    token = await site.services.chat_links.request(user.id, user.username)
    await accept(await site.signed_in(person), token)


async def accept(browser: Client, token: str) -> None:
    page = (await browser.get(f"/link?token={token}")).page
    answer = await browser.submit(page.form("/link"))
    assert answer.status == 303, answer.text


class TestLinks:
    """Rule 6."""

    async def test_nobody_has_said_whose_account_it_is(self, linked: Site, alice: User) -> None:
        with pytest.raises(NotLinked):
            await identity(linked, alice)

    async def test_a_request_alone_says_nothing(self, linked: Site, alice: User) -> None:
        await linked.services.chat_links.request(alice.id, "alice")

        with pytest.raises(NotLinked):
            await identity(linked, alice)

    async def test_a_linked_account_is_the_person_it_was_linked_to(
        self, linked: Site, alice: User, chat: Mattermost
    ) -> None:
        await link_up(linked, alice, ADA)

        found = await identity(linked, alice)

        subject = await linked.services.people.subject_for(Door.LOCAL, "ada")
        assert found == Identity(subject, ADA.name, ADA.email, ADA.groups, Door.MATTERMOST, alice.id)
        with pytest.raises(NotLinked):
            await identity(linked, chat.add_user("bob"))

    async def test_a_rename_does_not_matter(self, linked: Site, alice: User) -> None:
        await link_up(linked, alice, ADA)

        assert await identity(linked, alice, "the.ceo") == await identity(linked, alice)

    async def test_a_local_account_counts_as_it_is_configured_now(self, opened: Open, alice: User) -> None:
        async with opened("link") as site:
            await link_up(site, alice, ADA)
            subject = (await identity(site, alice)).subject
        other = replace(ADA, name="Ada King", email="king@example.org", groups=())
        async with opened("link", people=(other,)) as site:
            found = await identity(site, alice)

        assert found == Identity(subject, "Ada King", "king@example.org", (), Door.MATTERMOST, alice.id)

    async def test_a_local_account_that_was_taken_away_is_nobody(self, opened: Open, alice: User) -> None:
        async with opened("link") as site:
            await link_up(site, alice, ADA)
        async with opened("link", people=(BERT,)) as site:
            with pytest.raises(NotLinked):
                await identity(site, alice)

    async def test_who_links_it_last_has_it(self, linked: Site, alice: User) -> None:
        await link_up(linked, alice, ADA)
        await link_up(linked, alice, BERT)

        assert (await identity(linked, alice)).name == BERT.name

    async def test_somebody_of_single_sign_on_counts_as_at_the_last_sign_in(
        self, data_dir: Path, clock: StillClock, chat: Mattermost, alice: User
    ) -> None:
        async with open_on(data_dir, clock, chat, "link") as on:
            on.provider.claims.update(groups=["staff"])
            token = await on.site.services.chat_links.request(alice.id, "alice")
            await accept(await on.signed_in(), token)
            first = await identity(on.site, alice)
            assert (first.name, first.groups, first.door) == ("ada", ("staff",), Door.MATTERMOST)

            on.provider.claims.update(groups=["staff", "vpn-users"])
            assert await identity(on.site, alice) == first
            await on.signed_in()
            assert (await identity(on.site, alice)).groups == ("staff", "vpn-users")

    async def test_somebody_who_may_no_longer_sign_in_is_nobody(
        self, data_dir: Path, clock: StillClock, chat: Mattermost, alice: User, opened: Open
    ) -> None:
        async with open_on(data_dir, clock, chat, "link") as on:
            on.provider.claims.update(groups=["staff"])
            token = await on.site.services.chat_links.request(alice.id, "alice")
            await accept(await on.signed_in(), token)
        async with open_on(data_dir, clock, chat, "link", oidc={"allowed_groups": ("other",)}) as on:
            with pytest.raises(NotLinked):
                await identity(on.site, alice)
        async with opened("link") as site:  # without single sign-on
            with pytest.raises(NotLinked):
                await identity(site, alice)


@asynccontextmanager
async def open_on(
    data_dir: Path, clock: StillClock, chat: Mattermost, mode: str, **options: Any
) -> AsyncIterator[SingleSignOn]:
    settings = MattermostSettings(
        token=(CommandToken(token=Secret(new_id())),),
        identity=mode,  # type: ignore[arg-type]
    )
    server = ChatServer(chat.site_url, None, transport=httpx2.ASGITransport(app=chat))
    async with open_single_sign_on(data_dir, clock, mattermost=settings, chat_server=server, **options) as on:
        yield on


class TestAtOnce:
    """Two processes of one database, and the same moment."""

    @pytest.fixture
    async def replicas(self, opened: Open) -> AsyncIterator[list[Site]]:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(opened(bot=False)) for _ in "12"]

    async def test_one_account_has_one_subject(self, replicas: list[Site], chat: Mattermost) -> None:
        for n in range(10):
            user = chat.add_user(f"user{n}")

            first, second = await asyncio.gather(*(identity(site, user) for site in replicas))

            assert first == second

    async def test_of_two_names_one_is_bound(self, replicas: list[Site], chat: Mattermost) -> None:
        for n in range(10):
            user = chat.add_user(f"user{n}")
            names = (f"one{n}", f"two{n}")

            results = await asyncio.gather(
                *(attempt(site, user, name) for site, name in zip(replicas, names, strict=True))
            )

            assert sorted(type(result).__name__ for result in results) == ["ChatNameChanged", "Identity"]

    async def test_of_two_accounts_one_has_the_name(self, replicas: list[Site], chat: Mattermost) -> None:
        for n in range(10):
            users = (chat.add_user(f"user{n}"), chat.add_user(f"user{n}"))

            results = await asyncio.gather(
                *(attempt(site, user) for site, user in zip(replicas, users, strict=True))
            )

            assert sorted(type(result).__name__ for result in results) == ["Identity", "NameTaken"]


class TestForgetting:
    async def test_a_new_name_counts_and_it_is_still_the_same_person(self, named: Site, alice: User) -> None:
        first = await identity(named, alice)
        alice.username = "alice.l"

        assert await chat_of(named).forget(alice.id)

        assert await identity(named, alice) == replace(first, name="alice.l")

    async def test_a_new_address_counts(self, mailed: Site, alice: User, clock: StillClock) -> None:
        await identity(mailed, alice)
        alice.email = "alice.l@example.org"
        clock.advance(minutes=1)

        assert await chat_of(mailed).forget(alice.id)

        assert (await identity(mailed, alice)).email == "alice.l@example.org"

    async def test_links_and_open_requests_are_forgotten(self, linked: Site, alice: User) -> None:
        await link_up(linked, alice, ADA)
        token = await linked.services.chat_links.request(alice.id, "alice")

        assert await chat_of(linked).forget(alice.id)

        with pytest.raises(NotLinked):
            await identity(linked, alice)
        with pytest.raises(LinkOver):
            await linked.services.chat_links.find(token)

    async def test_the_name_is_nobodys_again(self, named: Site, chat: Mattermost, alice: User) -> None:
        """As when somebody left, and another one of that name came."""
        await identity(named, alice)
        other = chat.add_user("alice")
        with pytest.raises(NameTaken):
            await identity(named, other)

        assert await chat_of(named).forget(alice.id)

        assert (await identity(named, other)).account == other.id
        with pytest.raises(NameTaken):
            await identity(named, alice)

    async def test_nobody_else_is_forgotten(self, named: Site, chat: Mattermost, alice: User) -> None:
        bob = chat.add_user("bob")
        await identity(named, alice)
        await identity(named, bob)
        await chat_of(named).forget(alice.id)

        with pytest.raises(ChatNameChanged):
            await identity(named, bob, "bobby")

    async def test_of_somebody_unknown_there_is_nothing(self, named: Site) -> None:
        assert not await chat_of(named).forget(new_id())
