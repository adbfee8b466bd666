"""What CertBob asks of a Mattermost server, what it sends along, and what it makes of every wrong answer."""

import gzip
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import httpx2
import pytest

from certbob.chat.server import USER_ID, ChatCommand, ChatServer, ChatUser, ServerProblem
from certbob.outgoing import MAX_ANSWER
from certbob.secret import Secret
from tests.support.clock import FakeClock
from tests.support.mattermost import Mattermost, serve_mattermost
from tests.support.mattermost_api import (
    ADMINISTRATOR,
    FAULTS,
    GUEST,
    AppError,
    Reply,
    User,
    json_reply,
    new_id,
)
from tests.support.web import StillClock

ADMIN_TOKEN = Secret(new_id())
URL = "https://cert.example.org/request"
FACTS = {"team_id": "t", "trigger": "cert", "method": "P", "url": URL}
NOBODY = "a" * 26

COMMAND = ChatCommand("c", Secret("token"), "cert", "https://cert.example.org/request", "P", {"id": "c"})

# All that is ever asked, each once.
CALLS: dict[str, Callable[[ChatServer], Awaitable[object]]] = {
    "trigger_key": lambda server: server.trigger_key(),
    "client_config": lambda server: server.client_config(),
    "facts": lambda server: server.facts(),
    "user": lambda server: server.user(NOBODY),
    "me": lambda server: server.me(),
    "me of somebody": lambda server: server.me(ADMIN_TOKEN),
    "send_direct": lambda server: server.send_direct(NOBODY, "hello"),
    "team_id": lambda server: server.team_id("acme", ADMIN_TOKEN),
    "commands": lambda server: server.commands("t", ADMIN_TOKEN),
    "create_command": lambda server: server.create_command(FACTS, ADMIN_TOKEN),
    "update_command": lambda server: server.update_command(COMMAND, FACTS, ADMIN_TOKEN),
    "new_token": lambda server: server.new_token("c", ADMIN_TOKEN),
}
WITHOUT_TOKEN = ("trigger_key", "client_config", "facts")
OF_THE_BOT = ("user", "me", "send_direct")


@pytest.fixture
def admin(chat: Mattermost) -> User:
    root = chat.add_user("root", roles=ADMINISTRATOR)
    chat.access_tokens[ADMIN_TOKEN.reveal()] = root.id
    return root


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (ChatServer._object, ChatServer._call, ChatServer.user):
        defaults = method.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "seconds", 0.05)


async def problem_of(call: Awaitable[object]) -> ServerProblem:
    with pytest.raises(ServerProblem) as refused:
        await call
    return refused.value


def told(problem: BaseException) -> str:
    """All that a log could say of it, with what it came from."""
    return "".join(traceback.format_exception(problem)) + str(problem) + repr(problem)


class TestFaults:
    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    @pytest.mark.parametrize("fault", ["401", "404", "429", "500", "redirecting"])
    async def test_another_status_is_a_problem_that_names_it(
        self,
        server: ChatServer,
        chat: Mattermost,
        bot_token: Secret,
        call: Callable[[ChatServer], Awaitable[object]],
        fault: str,
    ) -> None:
        chat.answers[""] = FAULTS[fault]

        problem = await problem_of(call(server))

        assert problem.status == FAULTS[fault].status
        assert str(problem).startswith(f"{chat.site_url} answered {FAULTS[fault].status}")
        assert bot_token.reveal() not in told(problem)
        assert ADMIN_TOKEN.reveal() not in told(problem)
        assert len(chat.requests) == 1  # neither followed nor tried again

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("2 MB", f"it answers with more than {MAX_ANSWER} bytes"),
            ("cut", "peer closed connection"),
            ("silent", "it does not answer in time"),
        ],
    )
    @pytest.mark.usefixtures("_impatient")
    async def test_an_answer_that_is_none_is_a_problem(
        self,
        server: ChatServer,
        chat: Mattermost,
        bot_token: Secret,
        call: Callable[[ChatServer], Awaitable[object]],
        fault: str,
        words: str,
    ) -> None:
        chat.answers[""] = FAULTS[fault]

        problem = await problem_of(call(server))

        assert problem.status is None
        assert str(problem).startswith(f"{chat.site_url}: {words}")
        assert bot_token.reveal() not in told(problem)
        assert ADMIN_TOKEN.reveal() not in told(problem)

    @pytest.mark.parametrize("call", [each for each in CALLS if each != "facts"])
    @pytest.mark.parametrize(
        "answer",
        [
            FAULTS["HTML"],
            Reply(),
            json_reply(None),
            json_reply("id"),
            Reply(200, b'{"id": "a", "id": "b"}'),
            Reply(200, b'{"id": "\xff"}'),
            Reply(200, b"[" * 100_000),
        ],
        ids=["HTML", "nothing", "null", "a text", "a name twice", "no UTF-8", "deep"],
    )
    async def test_another_answer_is_a_problem(
        self, server: ChatServer, chat: Mattermost, call: str, answer: Reply
    ) -> None:
        chat.answers[""] = answer

        problem = await problem_of(CALLS[call](server))

        assert problem.status is None
        assert "JSON" in str(problem) or "list of commands" in str(problem)

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_nothing_is_unpacked(
        self, server: ChatServer, chat: Mattermost, call: Callable[[ChatServer], Awaitable[object]]
    ) -> None:
        body = gzip.compress(b'{"id": "x"}'.ljust(20_000_000))
        chat.answers[""] = Reply(200, body, {"Content-Encoding": "gzip"})

        problem = await problem_of(call(server))

        assert "it answers compressed" in str(problem)
        assert {request.headers["accept-encoding"] for request in chat.requests} == {"identity"}

    async def test_a_whole_mebibyte_is_read(self, server: ChatServer, chat: Mattermost) -> None:
        good = b'{"AsymmetricSigningPublicKey": "key"}'
        chat.answers["config"] = Reply(200, good.ljust(MAX_ANSWER))
        assert await server.trigger_key() == "key"

        chat.answers["config"] = Reply(200, good.ljust(MAX_ANSWER + 1))
        await problem_of(server.trigger_key())

    async def test_after_a_fault_all_is_as_before(
        self, server: ChatServer, chat: Mattermost, alice: User
    ) -> None:
        for fault in sorted(set(FAULTS) - {"silent"}):
            chat.answers[""] = FAULTS[fault]
            await problem_of(server.user(alice.id))
            del chat.answers[""]

            assert (await server.user(alice.id)).username == "alice"

    async def test_what_the_server_says_of_an_error_is_one_bounded_line(
        self, server: ChatServer, chat: Mattermost
    ) -> None:
        chat.answers[""] = AppError(403, "x", "no\n\x1b[2J\u202e" + "!" * 10_000).reply("1")

        text = str(await problem_of(server.me()))

        assert r"answered 403: 'no\n\x1b[2J\u202e!!!" in text
        assert text.isprintable()
        assert len(text) < 300

    @pytest.mark.parametrize("message", [None, 5, ["a"], {"a": "b"}])
    async def test_an_error_without_words_is_still_one(
        self, server: ChatServer, chat: Mattermost, message: object
    ) -> None:
        chat.answers[""] = json_reply({"message": message}, 500)

        assert (await problem_of(server.me())).status == 500

    async def test_nobody_there(self, bot_token: Secret) -> None:
        async with serve_mattermost(FakeClock()) as chat:
            pass  # its port is free again
        server = ChatServer(chat.site_url, bot_token)

        problem = await problem_of(server.user(NOBODY, seconds=30))

        assert str(problem).startswith(f"{chat.site_url}: ")
        assert bot_token.reveal() not in told(problem)
        await server.close()


class TestOverTheNetwork:
    @pytest.fixture
    async def network(self, clock: StillClock) -> AsyncIterator[Mattermost]:
        async with serve_mattermost(clock) as chat:
            yield chat

    async def test_all_works_over_a_socket(self, network: Mattermost) -> None:
        alice, bot = network.add_user("alice"), network.add_bot("certbob")
        server = ChatServer(network.site_url, Secret(network.new_access_token(bot)))

        await server.send_direct(alice.id, "hello")
        assert (await server.user(alice.id, seconds=30)).username == "alice"
        assert await server.trigger_key() == network.public_key
        assert network.direct_messages == [(alice, "hello")]
        await server.close()

    async def test_a_silent_one_is_given_up(self, network: Mattermost) -> None:
        network.answers[""] = FAULTS["silent"]
        server = ChatServer(network.site_url, Secret(new_id()))

        problem = await problem_of(server.user(NOBODY, seconds=0.2))

        assert "does not answer in time" in str(problem)
        await server.close()

    @pytest.mark.parametrize("end", ["\n", "\0", "\r\nX-Other: a", "é", "–"])
    async def test_a_token_that_fits_into_no_header_is_not_told(self, network: Mattermost, end: str) -> None:
        token = new_id()
        server = ChatServer(network.site_url, Secret(f"{token}{end}{token}"))

        problem = await problem_of(server.me())

        assert str(problem) == f"{network.site_url} cannot be asked like that: is the token one?"
        assert token not in told(problem)
        assert network.requests == []
        await server.close()


class TestUsers:
    async def test_an_account_is_as_the_server_tells_it(
        self, server: ChatServer, chat: Mattermost, alice: User
    ) -> None:
        assert await server.user(alice.id) == ChatUser(
            alice.id, "alice", "alice@example.org", is_bot=False, is_guest=False, is_deactivated=False
        )

    async def test_bots_guests_and_deactivated_ones_are_told_apart(
        self, server: ChatServer, chat: Mattermost
    ) -> None:
        bot, guest = chat.add_bot("builder"), chat.add_user("gert", roles=GUEST)
        gone = chat.add_user("gone", roles="system_user not_system_guest_at_all")
        chat.deactivate(gone)

        seen = [await server.user(user.id) for user in (bot, guest, gone)]

        assert [(user.is_bot, user.is_guest, user.is_deactivated) for user in seen] == [
            (True, False, False),
            (False, True, False),
            (False, False, True),
        ]

    async def test_hidden_addresses_are_empty(
        self, server: ChatServer, chat: Mattermost, alice: User
    ) -> None:
        chat.show_email_address = False

        assert (await server.user(alice.id)).email == ""
        assert (await server.me()).email == "certbob@localhost"  # one's own is shown

    @pytest.mark.parametrize(
        "told",
        [
            {},
            {"id": "x"},
            {"id": "", "username": "alice"},
            {"id": 5, "username": "alice"},
            {"id": "x", "username": None},
            {"id": "x", "username": ["alice"]},
        ],
    )
    async def test_one_without_id_or_name_is_none(
        self, server: ChatServer, chat: Mattermost, alice: User, told: object
    ) -> None:
        chat.answers["users"] = json_reply(told)

        problem = await problem_of(server.user(alice.id))

        assert str(problem) in ("its answer has no id", "its answer has no username")

    @pytest.mark.parametrize("email", [None, 5, ["a@example.org"], {}])
    async def test_an_address_that_is_no_text_is_none(
        self, server: ChatServer, chat: Mattermost, alice: User, email: object
    ) -> None:
        chat.answers["users"] = json_reply({"id": alice.id, "username": "alice", "email": email})

        assert (await server.user(alice.id)).email == ""

    @pytest.mark.parametrize(
        "user_id",
        ["", "../teams", "a/b", "me?x=1", "a#b", "a%2fb", "a b", "a\n", "é", "\u0661", "a" * 65, "..", "a;b"],
    )
    async def test_an_id_that_does_not_fit_never_reaches_a_path(
        self, server: ChatServer, chat: Mattermost, user_id: str
    ) -> None:
        assert USER_ID.fullmatch(user_id) is None

        problem = await problem_of(server.user(user_id))

        assert str(problem) == "not the id of an account"
        assert chat.requests == []

    @pytest.mark.parametrize("user_id", ["a", "a" * 64, "A-Z_0"])
    async def test_other_ids_stand_in_it_as_they_are(
        self, server: ChatServer, chat: Mattermost, user_id: str
    ) -> None:
        await problem_of(server.user(user_id))

        assert [request.path for request in chat.requests] == [f"/api/v4/users/{user_id}"]


class TestTokens:
    @pytest.mark.usefixtures("admin")
    @pytest.mark.parametrize("call", CALLS)
    async def test_each_call_carries_the_one_token_that_it_needs(
        self, server: ChatServer, chat: Mattermost, bot_token: Secret, call: str
    ) -> None:
        chat.answers[""] = lambda request: json_reply({"id": "x", "username": "x"})
        with suppress(ServerProblem):
            await CALLS[call](server)

        sent = {request.headers.get("authorization") for request in chat.requests}
        if call in WITHOUT_TOKEN:
            assert sent == {None}
        else:
            token = bot_token if call in OF_THE_BOT else ADMIN_TOKEN
            assert sent == {f"Bearer {token.reveal()}"}
        assert not any(
            secret in f"{request.path}{request.query}{request.body!r}"
            for request in chat.requests
            for secret in (bot_token.reveal(), ADMIN_TOKEN.reveal())
        )

    async def test_without_a_bot_nothing_is_sent(self, chat: Mattermost, alice: User) -> None:
        server = ChatServer(chat.site_url, None, transport=httpx2.ASGITransport(app=chat))

        assert not server.has_bot
        for call in (server.user(alice.id), server.me(), server.send_direct(alice.id, "hello")):
            assert (await problem_of(call)).status == 401
        assert all("authorization" not in request.headers for request in chat.requests)
        await server.close()

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_takes_no_token_along(
        self, server: ChatServer, chat: Mattermost, alice: User, status: int
    ) -> None:
        chat.answers[""] = Reply(status, headers={"Location": "https://evil.example/"})

        assert (await problem_of(server.user(alice.id))).status == status
        assert [request.headers["host"] for request in chat.requests] == ["chat.example.org"]

    async def test_proxies_of_the_environment_are_not_asked(
        self, chat: Mattermost, bot_token: Secret, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://evil.example:3128")
        server = ChatServer(chat.site_url, bot_token, transport=httpx2.ASGITransport(app=chat))

        assert (await server.user(alice.id)).username == "alice"
        await server.close()

    async def test_me_is_whose_token_it_is(self, server: ChatServer, admin: User) -> None:
        assert (await server.me()).username == "certbob"
        assert (await server.me(ADMIN_TOKEN)).id == admin.id


class TestDirectMessages:
    async def test_one_arrives_and_the_bot_is_looked_up_once(
        self, server: ChatServer, chat: Mattermost, alice: User
    ) -> None:
        await server.send_direct(alice.id, "one")
        await server.send_direct(alice.id, "two")

        assert chat.direct_messages == [(alice, "one"), (alice, "two")]
        assert len(chat.asked("users/me")) == 1

    async def test_nobody_else_gets_it(self, server: ChatServer, chat: Mattermost) -> None:
        assert (await problem_of(server.send_direct(NOBODY, "hello"))).status == 404
        assert chat.direct_messages == []

    @pytest.mark.parametrize("step", ["users/me", "channels/direct", "posts"])
    async def test_a_step_that_fails_is_a_problem_and_can_be_repeated(
        self, server: ChatServer, chat: Mattermost, alice: User, step: str
    ) -> None:
        chat.answers[step] = FAULTS["500"]
        assert (await problem_of(server.send_direct(alice.id, "hello"))).status == 500
        del chat.answers[step]

        await server.send_direct(alice.id, "hello")

        assert chat.direct_messages == [(alice, "hello")]


class TestFacts:
    @pytest.mark.parametrize(
        "date", ["Thu, 15 Jan 2026 12:00:00 -0000", "Thu, 15 Jan 99999999999999 12:00:00 GMT", "x", ""]
    )
    async def test_an_odd_date_is_survived(self, server: ChatServer, chat: Mattermost, date: str) -> None:
        chat.answers["system"] = Reply(headers={"Date": date})

        assert (await server.facts()).date is None

    async def test_version_and_clock(self, server: ChatServer, chat: Mattermost, clock: StillClock) -> None:
        chat.skew = timedelta(seconds=90)

        facts = await server.facts()

        assert facts.version == "11.6.0"
        assert facts.date == clock.now() + timedelta(seconds=90)

    @pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Jan 2026 99:99:99 GMT"])
    async def test_a_date_that_is_none_is_not_told(
        self, server: ChatServer, chat: Mattermost, date: str
    ) -> None:
        chat.answers["system"] = replace(json_reply({}), headers={"Date": date})

        assert (await server.facts()).date is None

    async def test_a_server_may_keep_its_version_to_itself(
        self, server: ChatServer, chat: Mattermost
    ) -> None:
        chat.answers["system"] = Reply(headers={"X-Version-Id": ""})

        assert (await server.facts()).version == ""

    @pytest.mark.parametrize("key", [None, "", 5, ["key"]])
    async def test_a_server_may_publish_no_key(
        self, server: ChatServer, chat: Mattermost, key: object
    ) -> None:
        chat.answers["config/client"] = json_reply({"AsymmetricSigningPublicKey": key})

        assert "it publishes no key" in str(await problem_of(server.trigger_key()))

    async def test_a_bot_is_told_more_than_others(self, server: ChatServer) -> None:
        public, mine = await server.client_config(), await server.client_config(as_bot=True)

        assert mine.items() > public.items()
        assert mine["ShowEmailAddress"] == "true"

    async def test_older_servers_tell_their_key_too(self, server: ChatServer, chat: Mattermost) -> None:
        chat.old = True

        assert await server.trigger_key() == chat.public_key


@pytest.mark.usefixtures("admin")
class TestCommands:
    async def test_they_are_those_of_the_team_with_their_tokens(
        self, server: ChatServer, chat: Mattermost
    ) -> None:
        acme, other = next(iter(chat.teams.values())), chat.add_team("other")
        mine = chat.add_command(acme, URL, trigger="cert", method="G")
        chat.add_command(other, URL)

        assert await server.team_id("acme", ADMIN_TOKEN) == acme.id
        (found,) = await server.commands(acme.id, ADMIN_TOKEN)
        assert (found.id, found.trigger, found.url, found.method) == (mine.id, "cert", URL, "G")
        assert found.token.reveal() == mine.token
        assert mine.token not in repr(found)

    @pytest.mark.parametrize("name", ["../../users/me", "acme?x=1", "acme#x", "a b", "acme/", "acme%2f"])
    async def test_the_name_of_a_team_is_one_step_of_a_path(
        self, server: ChatServer, chat: Mattermost, name: str
    ) -> None:
        assert (await problem_of(server.team_id(name, ADMIN_TOKEN))).status == 404
        assert all(request.path.startswith("/api/v4/teams/name/") for request in chat.requests)

    async def test_one_is_made_changed_and_gets_a_new_token(
        self, server: ChatServer, chat: Mattermost
    ) -> None:
        facts = {**FACTS, "team_id": next(iter(chat.teams))}
        made = await server.create_command(facts, ADMIN_TOKEN)
        assert (await problem_of(server.create_command(facts, ADMIN_TOKEN))).status == 400

        changed = await server.update_command(made, {**facts, "url": f"{URL}/2"}, ADMIN_TOKEN)
        token = await server.new_token(made.id, ADMIN_TOKEN)

        assert (made.url, changed.url) == (URL, f"{URL}/2")
        assert {**changed.told, "url": URL, "update_at": 0} == {**made.told, "update_at": 0}
        assert made.token == changed.token != token
        assert chat.commands[made.id].token == token.reveal()

    @pytest.mark.parametrize("told", [[5], [None], ["a"], {"a": 1}, [{}], [{"id": "x"}], [[]]])
    async def test_a_list_of_something_else_is_a_problem(
        self, server: ChatServer, chat: Mattermost, told: object
    ) -> None:
        chat.answers["commands"] = json_reply(told)

        await problem_of(server.commands("t", ADMIN_TOKEN))

    @pytest.mark.parametrize("token", [None, "", 5])
    async def test_a_new_token_that_is_none_is_a_problem(
        self, server: ChatServer, chat: Mattermost, token: object
    ) -> None:
        chat.answers["commands"] = Reply(200, json.dumps({"token": token}).encode())

        assert str(await problem_of(server.new_token("c", ADMIN_TOKEN))) == "its answer has no token"
