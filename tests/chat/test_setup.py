"""`certbob mattermost setup` makes the slash command, or puts the one that is there in order."""

from copy import copy

import httpx2
import pytest

from certbob.chat.server import ChatServer, ServerProblem
from certbob.chat.setup import SetUp, set_up_command
from certbob.secret import Secret
from tests.support.hostile_provider import Request
from tests.support.mattermost import Mattermost
from tests.support.mattermost_api import ADMINISTRATOR, FAULTS, Command, Reply, Team, User, json_reply

URL = "https://cert.example.org/request"


@pytest.fixture
def server(chat: Mattermost) -> ChatServer:
    """As nobody: only the token of the person counts."""
    return ChatServer(chat.site_url, None, transport=httpx2.ASGITransport(app=chat))


@pytest.fixture
def team(chat: Mattermost) -> Team:
    return next(iter(chat.teams.values()))


@pytest.fixture
def token(chat: Mattermost) -> Secret:
    return Secret(chat.new_access_token(chat.add_user("root", roles=ADMINISTRATOR)))


async def set_up(
    server: ChatServer, token: Secret, *, team: str = "acme", trigger: str = "cert", new_token: bool = False
) -> SetUp:
    return await set_up_command(
        server, token, team=team, trigger=trigger, request_url=URL, new_token=new_token
    )


def only(chat: Mattermost) -> Command:
    (command,) = chat.commands.values()
    return command


async def test_one_is_made_and_works(
    server: ChatServer, chat: Mattermost, token: Secret, team: Team, alice: User
) -> None:
    done = await set_up(server, token)

    command = only(chat)
    assert done == SetUp("made /cert in team acme", team.id, Secret(command.token))
    assert (command.team_id, command.trigger, command.method, command.url) == (team.id, "cert", "P", URL)
    assert command.auto_complete
    assert command.auto_complete_hint == "[download|email|list|revoke|help]"
    assert command.token not in repr(done)

    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json={"text": "hello"})

    chat.transport = httpx2.MockTransport(answer)
    assert (await chat.run(alice, "/cert")).text == "hello"
    assert [(request.method, str(request.url)) for request in asked] == [("POST", URL)]


async def test_one_that_is_in_order_stays_as_it_is(
    server: ChatServer, chat: Mattermost, token: Secret, team: Team
) -> None:
    await set_up(server, token)
    before = copy(only(chat))

    done = await set_up(server, token)

    assert done == SetUp("/cert in team acme was in order", team.id, Secret(before.token))
    assert only(chat) == before
    assert [request.method for request in chat.requests if request.method != "GET"] == ["POST"]


@pytest.mark.parametrize(
    "facts",
    [
        {"url": URL, "method": "G"},
        {"url": "https://old.example.org/request", "method": "P"},
        {"url": "http://cert.example.org/request/", "method": "G"},
    ],
)
async def test_a_wrong_method_or_address_is_mended_and_the_token_stays(
    server: ChatServer, chat: Mattermost, token: Secret, team: Team, facts: dict[str, str]
) -> None:
    before = copy(chat.add_command(team, trigger="cert", **facts))

    done = await set_up(server, token)

    after = only(chat)
    assert done == SetUp(f"/cert in team acme leads to {URL} now", team.id, Secret(before.token))
    assert (after.id, after.token, after.method, after.url) == (before.id, before.token, "P", URL)


async def test_a_new_token_ends_the_old_one(
    server: ChatServer, chat: Mattermost, token: Secret, team: Team
) -> None:
    old = chat.add_command(team, URL).token

    done = await set_up(server, token, new_token=True)

    assert done.did == "/cert in team acme was in order, and has a new token"
    assert done.token.reveal() == only(chat).token != old


async def test_a_command_can_be_mended_and_get_a_new_token_at_once(
    server: ChatServer, chat: Mattermost, token: Secret, team: Team
) -> None:
    """As after a command of the method GET, whose token lies in logs."""
    old = chat.add_command(team, URL, method="G").token

    done = await set_up(server, token, new_token=True)

    assert done.did == f"/cert in team acme leads to {URL} now, and has a new token"
    assert (only(chat).method, only(chat).token) == ("P", done.token.reveal())
    assert old != done.token.reveal()


async def test_other_commands_and_other_teams_are_left_alone(
    server: ChatServer, chat: Mattermost, token: Secret, team: Team
) -> None:
    others = [
        chat.add_command(team, "https://elsewhere.example/", trigger="certs", method="G"),
        chat.add_command(chat.add_team("other"), "https://elsewhere.example/", trigger="cert", method="G"),
    ]
    before = [copy(command) for command in others]

    await set_up(server, token, new_token=True)

    assert others == before
    assert len(chat.commands) == 3


async def test_each_team_has_its_own(server: ChatServer, chat: Mattermost, token: Secret, team: Team) -> None:
    other = chat.add_team("other")

    done = [await set_up(server, token, team=name) for name in ("acme", "other")]

    assert [each.team_id for each in done] == [team.id, other.id]
    assert done[0].token != done[1].token


async def test_people_may_write_something_else(server: ChatServer, chat: Mattermost, token: Secret) -> None:
    done = await set_up(server, token, trigger="certificate")

    assert done.did == "made /certificate in team acme"
    assert only(chat).trigger == "certificate"


async def test_an_administrator_of_the_team_is_enough(
    server: ChatServer, chat: Mattermost, team: Team, alice: User
) -> None:
    team.administrators.add(alice.id)

    done = await set_up(server, Secret(chat.new_access_token(alice)))

    assert only(chat).creator_id == alice.id
    assert done.team_id == team.id


async def test_somebody_without_the_right_changes_nothing(
    server: ChatServer, chat: Mattermost, team: Team, alice: User
) -> None:
    before = copy(chat.add_command(team, URL, method="G"))
    token = Secret(chat.new_access_token(alice))

    with pytest.raises(ServerProblem, match="403: 'You do not have the appropriate permissions") as refused:
        await set_up(server, token, new_token=True)

    assert refused.value.status == 403
    assert token.reveal() not in str(refused.value)
    assert only(chat) == before


@pytest.mark.parametrize("token", ["x" * 26, ""], ids=["of nobody", "empty"])
async def test_a_token_of_nobody_is_told(server: ChatServer, token: str) -> None:
    with pytest.raises(ServerProblem) as refused:
        await set_up(server, Secret(token))

    assert refused.value.status == 401


async def test_a_team_that_does_not_exist_is_told(
    server: ChatServer, chat: Mattermost, token: Secret
) -> None:
    with pytest.raises(ServerProblem, match="404: 'Unable to find the existing team"):
        await set_up(server, token, team="nobody-has-it")

    assert chat.commands == {}


async def test_a_trigger_that_cannot_be_one_is_told(
    server: ChatServer, chat: Mattermost, token: Secret
) -> None:
    with pytest.raises(ServerProblem, match="400: 'Invalid trigger"):
        await set_up(server, token, trigger="a b")

    assert chat.commands == {}


async def test_a_server_that_keeps_the_old_address_is_told(
    server: ChatServer, chat: Mattermost, token: Secret, team: Team
) -> None:
    command = chat.add_command(team, "https://old.example.org/request")

    def keeping(request: Request) -> Reply:
        facts = {"id": command.id, "token": command.token, "trigger": "cert", "method": "P"}
        return json_reply({**facts, "url": command.url})

    chat.answers[f"commands/{command.id}"] = keeping

    with pytest.raises(ServerProblem, match="it keeps the command as it was"):
        await set_up(server, token, new_token=True)


@pytest.mark.parametrize("fault", ["500", "HTML", "2 MB", "redirecting", "cut"])
@pytest.mark.parametrize("path", ["teams", "commands"])
async def test_a_server_with_a_fault_is_told(
    server: ChatServer, chat: Mattermost, token: Secret, path: str, fault: str
) -> None:
    chat.answers[path] = FAULTS[fault]

    with pytest.raises(ServerProblem):
        await set_up(server, token)

    assert chat.commands == {}
