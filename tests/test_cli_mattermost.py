"""`certbob mattermost`: setting up the slash command, and what an operator says about keys and accounts."""

import asyncio
import hashlib
import json
import sqlite3
import subprocess
import tomllib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certbob.bootstrap import SystemClock
from certbob.config import load
from tests.support.commands import certbob, found_installation
from tests.support.core import DATABASE
from tests.support.mattermost import Mattermost, serve_mattermost
from tests.support.mattermost_api import ADMINISTRATOR, FAULTS, Team, json_reply, new_id

CLIENT_CONFIG = "config/client"
PUBLIC_URL = "https://cert.example.org"
REQUEST_URL = f"{PUBLIC_URL}/request"


@dataclass(frozen=True, slots=True)
class Desk:
    """An operator beside a Mattermost with a team; `admin_token` is of an administrator there."""

    folder: Path
    chat: Mattermost
    team: Team
    admin_token: str

    async def run(
        self, *arguments: str, stdin: str = "", expect: int = 0, **settings: str
    ) -> "subprocess.CompletedProcess[str]":
        """`certbob mattermost ...`, with the chat's address in the configuration."""
        given: dict[str, Any] = {"SERVER_PUBLIC_URL": PUBLIC_URL, "MATTERMOST_URL": self.chat.site_url}
        given |= settings | {"stdin": stdin.encode()}
        told = await asyncio.to_thread(certbob, self.folder, "mattermost", *arguments, **given)
        assert told.returncode == expect, told.stderr
        assert self.admin_token not in told.stdout + told.stderr
        return told

    async def set_up(self, *options: str, **changes: Any) -> "subprocess.CompletedProcess[str]":
        given = {"stdin": f"{self.admin_token}\n"} | changes
        return await self.run("setup", "--team", self.team.name, *options, **given)

    async def token(self) -> str:
        """What the configuration is to have, by now."""
        [entry] = tomllib.loads((await self.set_up()).stdout)["token"]
        assert entry["team"] == self.team.id
        return str(entry["token"])

    def rows(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "data" / DATABASE)) as database, database:
            return database.execute(sql).fetchall()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with serve_mattermost(SystemClock()) as chat:
        root = chat.add_user("root", roles=ADMINISTRATOR)
        team = chat.add_team("acme")
        folder = tmp_path / "work"
        folder.mkdir()
        await found_installation(folder / "data")
        yield Desk(folder, chat, team, chat.new_access_token(root))


# setup


async def test_the_command_is_made_and_what_to_configure_is_printed(desk: Desk) -> None:
    told = await desk.set_up()

    [command] = desk.chat.commands.values()
    assert (command.team_id, command.trigger, command.method) == (desk.team.id, "cert", "P")
    assert command.url == REQUEST_URL
    assert command.auto_complete
    assert command.auto_complete_hint == "[download|email|list|revoke|help]"
    assert tomllib.loads(told.stdout) == {"token": [{"team": desk.team.id, "token": command.token}]}
    assert "Made /cert in team acme" in told.stderr
    assert command.token not in told.stderr


async def test_what_is_printed_is_a_configuration(desk: Desk) -> None:
    file = desk.folder / "config.toml"
    file.write_text("[mattermost]\n" + (await desk.set_up()).stdout)
    file.chmod(0o600)

    settings = load(file, {"MATTERMOST_URL": desk.chat.site_url})

    [entry] = settings.mattermost.token
    [command] = desk.chat.commands.values()
    assert (entry.team, entry.token.reveal()) == (desk.team.id, command.token)


async def test_programs_get_json(desk: Desk) -> None:
    told = await desk.set_up("--json")

    [command] = desk.chat.commands.values()
    assert json.loads(told.stdout) == {"team": desk.team.id, "token": command.token}
    assert told.stderr == ""


async def test_setting_up_leaves_no_files(desk: Desk) -> None:
    await desk.set_up()

    assert [path.name for path in desk.folder.iterdir()] == ["data"]


async def test_a_command_that_is_in_order_stays_as_it_is(desk: Desk) -> None:
    first = await desk.token()
    before = [*desk.chat.commands.values()]
    desk.chat.requests.clear()

    assert await desk.token() == first

    assert [*desk.chat.commands.values()] == before
    assert {request.method for request in desk.chat.requests} == {"GET"}
    assert "was in order" in (await desk.set_up()).stderr


@pytest.mark.parametrize("facts", [{"method": "G"}, {"url": "https://old.example.org/request"}], ids=str)
async def test_a_command_that_is_not_in_order_is_mended_and_keeps_its_token(
    desk: Desk, facts: dict[str, str]
) -> None:
    """GET would write the token into logs on its way."""
    command = desk.chat.add_command(desk.team, **{"url": REQUEST_URL} | facts)
    token = command.token

    told = await desk.set_up()

    assert (command.url, command.method, command.token) == (REQUEST_URL, "P", token)
    assert token in told.stdout
    assert f"leads to {REQUEST_URL} now" in told.stderr
    assert len(desk.chat.commands) == 1


async def test_a_new_token_ends_the_old_one(desk: Desk) -> None:
    first = await desk.token()

    told = await desk.set_up("--new-token")

    [command] = desk.chat.commands.values()
    assert command.token != first
    assert command.token in told.stdout
    assert first not in told.stdout
    assert "has a new token" in told.stderr


async def test_other_commands_and_teams_are_left_alone(desk: Desk) -> None:
    elsewhere = desk.chat.add_command(desk.chat.add_team("other"), "https://other.example.org/cert")
    neighbour = desk.chat.add_command(desk.team, "https://other.example.org/x", trigger="certify")
    before = [elsewhere.url, neighbour.url, elsewhere.token, neighbour.token]

    await desk.set_up()

    assert [elsewhere.url, neighbour.url, elsewhere.token, neighbour.token] == before
    assert len(desk.chat.commands) == 3


async def test_the_word_after_the_slash_can_be_chosen(desk: Desk) -> None:
    await desk.set_up("--trigger", "vpn")

    assert [command.trigger for command in desk.chat.commands.values()] == ["vpn"]


async def test_the_line_end_of_the_token_does_not_matter(desk: Desk) -> None:
    for end in ("", "\n", "\r\n"):
        await desk.set_up(stdin=f"{desk.admin_token}{end}")


async def test_whoever_manages_the_team_may_do_it(desk: Desk) -> None:
    manager = desk.chat.add_user("manager")
    desk.team.members.add(manager.id)
    desk.team.administrators.add(manager.id)

    await desk.set_up(stdin=desk.chat.new_access_token(manager))

    assert [command.creator_id for command in desk.chat.commands.values()] == [manager.id]


async def test_whoever_may_not_is_told_and_nothing_is_made(desk: Desk) -> None:
    member = desk.chat.add_user("member")
    desk.team.members.add(member.id)
    outsider = desk.chat.add_user("outsider")
    tokens = [desk.chat.new_access_token(member), desk.chat.new_access_token(outsider), new_id()]

    for token, status in zip(tokens, (403, 403, 401), strict=True):
        told = await desk.set_up(stdin=token, expect=1)
        assert told.stderr.startswith("certbob: the slash command was not set up: ")
        assert f"answered {status}" in told.stderr
        assert told.stdout == ""
        assert token not in told.stderr
    assert desk.chat.commands == {}


async def test_a_team_that_is_not_there_is_told(desk: Desk) -> None:
    told = await desk.run("setup", "--team", "acne", stdin=desk.admin_token, expect=1)

    assert "answered 404: 'Unable to find the existing team.'" in told.stderr


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"silent"}))
async def test_a_server_that_does_not_do_it_is_told(desk: Desk, fault: str) -> None:
    desk.chat.answers["commands"] = FAULTS[fault]

    told = await desk.set_up(expect=1)

    assert told.stderr.startswith("certbob: the slash command was not set up: ")
    assert told.stdout == ""


async def test_a_server_that_keeps_the_command_as_it_was_is_told(desk: Desk) -> None:
    command = desk.chat.add_command(desk.team, "https://old.example.org/request")
    facts = {"id": command.id, "token": command.token, "trigger": "cert", "url": command.url, "method": "P"}
    desk.chat.answers[f"commands/{command.id}"] = json_reply(facts)

    told = await desk.set_up(expect=1)

    assert "it keeps the command as it was" in told.stderr
    assert command.token not in told.stdout + told.stderr


async def test_nobody_listens(desk: Desk) -> None:
    told = await desk.set_up(expect=1, MATTERMOST_URL="http://127.0.0.1:9")

    assert "http://127.0.0.1:9" in told.stderr


async def test_without_an_address_of_the_chat_nothing_is_asked(desk: Desk) -> None:
    told = await desk.set_up(expect=2, MATTERMOST_URL="")

    assert "[mattermost] url is not set" in told.stderr
    assert desk.chat.requests == []


async def test_the_token_of_an_administrator_is_no_option(desk: Desk) -> None:
    """Options are in the list of processes and in the shell's history."""
    told = await asyncio.to_thread(certbob, desk.folder, "mattermost", "setup", "--help")

    assert "--token" not in told.stdout.split()
    assert "--team" in told.stdout.split()


# accept-key


def fingerprint(chat: Mattermost) -> str:
    return hashlib.sha256(b64decode(chat.public_key)).hexdigest()


async def accept_key(desk: Desk, **options: Any) -> "subprocess.CompletedProcess[str]":
    return await desk.run("accept-key", **{"MATTERMOST_TOKEN": new_id()} | options)


async def test_the_key_that_the_server_has_now_is_believed(desk: Desk) -> None:
    assert (await accept_key(desk)).stdout.strip() == fingerprint(desk.chat)
    desk.chat.rotate_key()

    assert (await accept_key(desk)).stdout.strip() == fingerprint(desk.chat)

    assert desk.rows("SELECT * FROM chat_keys") == [(desk.chat.site_url, desk.chat.public_key)]


def _rsa_key() -> str:
    public = rsa.generate_private_key(65537, 2048).public_key()
    return b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"AsymmetricSigningPublicKey": ""},
        {"AsymmetricSigningPublicKey": "x"},
        {"AsymmetricSigningPublicKey": 1},
    ],
    ids=str,
)
async def test_what_is_no_key_is_not_believed(desk: Desk, config: dict[str, Any]) -> None:
    await accept_key(desk)
    desk.chat.answers[CLIENT_CONFIG] = json_reply(config)

    told = await accept_key(desk, expect=1)

    assert told.stderr.startswith("certbob: The key of Mattermost is not known. ")
    assert told.stdout == ""
    assert desk.rows("SELECT public_key FROM chat_keys") == [(desk.chat.public_key,)]


async def test_a_key_of_another_kind_is_not_believed(desk: Desk) -> None:
    desk.chat.answers[CLIENT_CONFIG] = json_reply({"AsymmetricSigningPublicKey": _rsa_key()})

    assert "not a P-256 key" in (await accept_key(desk, expect=1)).stderr
    assert desk.rows("SELECT * FROM chat_keys") == []


async def test_a_server_that_is_away_leaves_the_key_as_it_was(desk: Desk) -> None:
    await accept_key(desk)
    desk.chat.answers[CLIENT_CONFIG] = FAULTS["500"]

    told = await accept_key(desk, expect=1)

    assert "answered 500" in told.stderr
    assert told.stderr.startswith("certbob: The key of Mattermost is not known. ")
    assert desk.rows("SELECT public_key FROM chat_keys") == [(desk.chat.public_key,)]


@pytest.mark.parametrize("settings", [{"MATTERMOST_VERIFY_TRIGGER": "off"}, {"MATTERMOST_URL": ""}], ids=str)
async def test_where_signatures_are_not_looked_at_there_is_no_key(
    desk: Desk, settings: dict[str, str]
) -> None:
    told = await accept_key(desk, expect=1, **settings)

    assert "no signature is looked at" in told.stderr
    assert desk.chat.requests == []


# forget


async def test_an_account_is_forgotten_with_all_that_is_known_of_it(desk: Desk) -> None:
    await accept_key(desk)
    for user_id in ("a" * 26, "b" * 26):
        desk.rows(f"INSERT INTO chat_accounts VALUES ('{user_id}', 'name', 'ada of {user_id}')")
        desk.rows(f"INSERT INTO chat_links VALUES ('{user_id}', 'ada', 's', 'local', 'ada', 'A', NULL, '[]')")
        desk.rows(f"INSERT INTO link_requests VALUES ('{user_id}', '{user_id}', 'ada', 1)")
        desk.rows(f"INSERT INTO subjects VALUES ('s{user_id}', 'mattermost', '{user_id}')")
        desk.rows(f"INSERT INTO names VALUES ('name of {user_id}', 's{user_id}')")

    told = await desk.run("forget", "a" * 26, MATTERMOST_TOKEN=new_id())

    assert told.stdout + told.stderr == ""
    for table in ("chat_accounts", "chat_links", "link_requests"):
        assert desk.rows(f"SELECT user_id FROM {table}") == [("b" * 26,)]
    assert desk.rows("SELECT name_key FROM names") == [(f"name of {'b' * 26}",)]


async def test_an_account_that_nobody_knows_is_told(desk: Desk) -> None:
    for user_id in ("c" * 26, "ada", "", "'--", "%"):
        told = await desk.run("forget", user_id, expect=1, MATTERMOST_TOKEN=new_id())
        assert told.stderr == f"certbob: nothing is known of the chat account {user_id}.\n"


@pytest.mark.parametrize("arguments", [("accept-key",), ("forget", "a" * 26)], ids=" ".join)
async def test_without_a_command_there_is_no_chat(desk: Desk, arguments: tuple[str, ...]) -> None:
    told = await desk.run(*arguments, expect=2)

    assert told.stderr == "certbob: [mattermost] token is not set, so there is no chat.\n"
    assert desk.chat.requests == []


@pytest.mark.parametrize("end", [" x", "\nsecond\n", "\r\rx", "\0"])
async def test_a_token_that_cannot_be_one_is_not_shown(desk: Desk, end: str) -> None:
    told = await desk.set_up(stdin=f"{desk.admin_token}{end}", expect=2)

    assert told.stdout == ""
    assert desk.admin_token not in told.stderr


@pytest.mark.parametrize("stdin", ["canary-token-1234é", "\ufeffcanary-token-1234"])
async def test_a_token_that_is_not_ascii_is_told(desk: Desk, stdin: str) -> None:
    told = await desk.set_up(stdin=stdin, expect=2)

    assert "canary" not in told.stderr


async def test_capitals_in_the_trigger_do_not_matter(desk: Desk) -> None:
    for _ in range(2):
        await desk.set_up("--trigger", "CERT")

    assert len(desk.chat.commands) == 1


@pytest.mark.parametrize("team", ["acme?x=1", "acme#x", "../users/me", "a\nb"])
async def test_a_name_of_a_team_is_no_part_of_an_address(desk: Desk, team: str) -> None:
    await desk.set_up("--team", team, expect=1)

    assert desk.chat.commands == {}
