"""`POST /request`: what passes for a slash command, whose it is, and the form of every answer.

The door alone; what the commands do is in `test_mattermost_commands`.
"""

import asyncio
import hmac
import itertools
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from certbob.chat.mattermost import COMMANDS_PER_MINUTE, REFUSALS
from certbob.chat.trigger import fingerprint
from certbob.config import Issue
from certbob.errors import CAUnavailable, MailUnavailable, StorageProblem
from certbob.store.chats import SqlChats
from certbob.store.sqlite import Database
from tests.support.chat import (
    PASSPHRASE,
    InTurn,
    World,
    assert_closed,
    assert_for_people,
    background,
    open_chat,
    redeemed,
    token,
    without_reference,
)
from tests.support.mattermost import BROKEN_TRIGGER_IDS, Mattermost, Seen
from tests.support.mattermost_api import FAULTS, GUEST, User, new_id
from tests.support.post import FakeMailer
from tests.support.web import (
    ADA,
    CONTACT,
    HTTPS_URL,
    Client,
    FakeCA,
    HeaderChanges,
    Person,
    Site,
    StillClock,
)

LINES = (
    "/cert",
    "/cert download Phone",
    "/cert email",
    "/cert list",
    "/cert status",
    "/cert revoke",
    "/cert revoke Phone",
    "/cert link",
    "/cert help",
    "/cert bake me a cake",
)
NASTY = {
    "blanks": "   ",
    "tabs and lines": "\t \n x \r\n y \v",
    "no-break blanks": "\u00a0\u2003x\u3000",
    "emoji": "🎉 :tada: 👩‍👩‍👧",
    "16 kB": "x" * 16_384,
    "16 kB of words": "x " * 8_192,
    "16 kB of emoji": "🎉" * 3_000,
    "Markdown": "**bold** _x_ ~~y~~ `code` # h > q | t | - l 1. n ![i](x) <b>h</b> \\",
    "a code block": "```\nx\n```",
    "mentions": "@channel @all @here @alice x@channel ~town-square",
    "Slack's mentions": "<!channel> <!here> <@alice> <#town-square>",
    "the end of a link": "](https://evil.example)",
    "a link": "[x](https://evil.example/a) <https://evil.example/b|x> <https://evil.example/c>",
    "an image": "![x](https://evil.example/i.png =500x500)",
    "bare addresses": "https://evil.example/d www.evil.example mailto://e@evil.example",
    "names that grammars let pass": "www.evil.example a@evil.example - x' @here _y_",
    "NUL": "\0 a\0b",
    "what turns around or hides": "\u202ex \u200b\u2066 \ufeff",
    "half of a template": "{{ 7*7 }} {% raw %} ${7*7} %s",
    "JSON": '", "response_type": "in_channel", "x": "',
}


@pytest.fixture
async def world(data_dir: Path, clock: StillClock) -> AsyncIterator[World]:
    """By the token alone."""
    async with open_chat(data_dir, clock) as opened:
        yield opened


@pytest.fixture
async def signed(data_dir: Path, clock: StillClock) -> AsyncIterator[World]:
    """The key of the server is known, so every command must be signed with it."""
    async with open_chat(data_dir, clock, known=True) as opened:
        yield opened


# 1. The request


async def test_without_a_token_in_the_configuration_there_is_no_such_door(site: Site) -> None:
    program = site.program()

    for method in ("GET", "HEAD", "POST"):
        assert (await program.send(method, "/request")).status == 404


async def test_a_command_of_the_method_get_is_refused_and_the_operator_is_told_how_to_mend_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world.command.method = "G"
    before = world.state()

    seen = await world.run("/cert download")

    assert (seen.kind, seen.status) == ("error", 405)
    assert seen.answer is not None
    assert seen.answer.headers["Allow"] == "POST"
    assert_closed(seen.answer.headers)
    assert world.state() == before
    [hint] = [
        record for record in caplog.records if record.levelname == "WARNING" and "GET" in record.getMessage()
    ]
    assert "set its method to POST" in hint.getMessage()
    assert "regenerate its token" in hint.getMessage()
    assert world.command.token not in caplog.text


async def test_head_is_no_command(world: World) -> None:
    answer = await world.site.program().head(f"/request?{urlencode(world.form())}")

    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"


async def test_no_other_address_is_the_door_and_none_leads_to_it(world: World) -> None:
    program = world.site.program()

    for path in ("/request/", "/Request", "/request/x", "/request;x", "/request%20"):
        answer = await program.post(path, world.form())
        assert answer.status == 404
        assert "Location" not in answer.headers


async def test_a_proxy_that_speaks_plain_http_to_us_gets_no_redirect(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_chat(data_dir, clock) as world:
        answer = await world.site.app.test_client().post(
            "/request",
            form=world.form(),
            headers={"Host": "cert.example.org", "Accept": "application/json"},
            scheme="http",
        )

    assert answer.status_code == 200


@pytest.mark.parametrize(("length", "status"), [(65_536, 200), (65_537, 413), (1_000_000, 413)])
async def test_a_body_has_64_kilobytes_at_most(world: World, length: int, status: int) -> None:
    body = urlencode(world.form(filling="")).encode()
    before = world.state()

    answer = await world.site.program().post("/request", body + b"x" * (length - len(body)))

    assert answer.status == status
    assert (world.state() == before) == (status != 200)
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/x-www-form-urlencoded", 200),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", 200),
        ("application/json", 400),
        ("multipart/form-data; boundary=x", 400),
        ("text/plain", 400),
        ("", 400),
        (None, 400),
    ],
)
async def test_only_a_form_is_read(world: World, content_type: str | None, status: int) -> None:
    answer = await world.site.program().post("/request", world.form(), {"Content-Type": content_type})

    assert answer.status == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 401, id="nothing"),
        pytest.param(b"&" * 49, 401, id="50 fields"),
        pytest.param(b"a=&" * 50 + b"a=", 400, id="51 fields"),
        pytest.param(b"text=%ff%fe", 400, id="not UTF-8"),
        pytest.param(b"text=%ed%a0%80", 400, id="half of a pair"),
        pytest.param("text=é".encode(), 400, id="not encoded"),
        pytest.param(b'{"token": "x"}', 401, id="JSON under a false name"),
    ],
)
async def test_what_is_no_form_is_refused_whoever_sends_it(world: World, body: bytes, status: int) -> None:
    before = world.state()

    assert (await world.site.program().post("/request", body)).status == status
    assert world.state() == before


async def test_of_fifty_fields_none_is_too_many(world: World) -> None:
    form = list(world.form().items())
    filled = form + [(f"field_{number}", "") for number in range(50 - len(form))]
    program = world.site.program()

    assert (await program.post("/request", filled)).status == 200
    assert (await program.post("/request", [*filled, ("one_more", "")])).status == 400


async def test_of_repeated_fields_the_first_one_counts(world: World) -> None:
    program = world.site.program()
    form = list(world.form().items())

    good_first = await program.post("/request", [*form, ("token", "x"), ("user_name", "mallory")])
    bad_first = await program.post("/request", [("token", "x"), *form])

    assert "Certificate for alice" in json.loads(good_first.body)["text"]
    assert bad_first.status == 401


async def test_mentions_come_as_repeated_fields(world: World) -> None:
    seen = await world.told("/cert help @alice @bob ~town-square ~off-topic", root_id=new_id())

    assert "I know:" in seen.text


# 2. The token

Forged = Callable[[World], dict[str, Any]]
WRONG_TOKENS: Mapping[str, Forged] = {
    "missing": lambda world: {"fields": {"token": None}},
    "missing everywhere": lambda world: {"fields": {"token": None}, "authorization": ""},
    "empty": lambda world: {"fields": {"token": ""}, "authorization": "Token "},
    "first byte off": lambda world: _token("0" + world.command.token[1:]),
    "last byte off": lambda world: _token(world.command.token[:-1] + "0"),
    "one byte short": lambda world: _token(world.command.token[:-1]),
    "one byte more": lambda world: _token(world.command.token + "0"),
    "capitals": lambda world: _token(world.command.token.upper()),
    "a blank around": lambda world: {"fields": {"token": f" {world.command.token} "}},
    "a line after": lambda world: {"fields": {"token": f"{world.command.token}\n"}},
    "NUL after": lambda world: {"fields": {"token": f"{world.command.token}\0"}},
    "not ASCII": lambda world: {"fields": {"token": "é" * 26}},
    "60 kB": lambda world: {"fields": {"token": world.command.token * 2_300}},
    "of somebody's own team": lambda world: _token(new_id()) | {"team": world.chat.add_team("mallory")},
    "a list": lambda world: {"fields": {"token": f"['{world.command.token}']"}},
    "another header": lambda world: {"authorization": f"Token {new_id()}"},
    "an empty header": lambda world: {"authorization": "Token"},
    "header alone": lambda world: {"fields": {"token": None}},
    "Bearer alone": lambda world: {
        "fields": {"token": None},
        "authorization": f"Bearer {world.command.token}",
    },
}


def _token(text: str) -> dict[str, Any]:
    """As Mattermost would send another one."""
    return {"fields": {"token": text}, "authorization": f"Token {text}"}


@pytest.mark.parametrize("forged", WRONG_TOKENS.values(), ids=WRONG_TOKENS)
async def test_a_wrong_token_gets_nothing_and_changes_nothing(world: World, forged: Forged) -> None:
    options = forged(world)
    if "team" in options:  # whose owner made a command of their own with our address
        world.chat.add_command(options["team"], world.command.url)
    before = world.state()

    seen = await world.run("/cert download", **options)

    assert (seen.kind, seen.status) == ("error", 401)
    assert seen.text == "Command with a trigger of 'cert' returned response 401 Unauthorized."
    assert seen.answer is not None
    assert_closed(seen.answer.headers)
    assert world.state() == before


async def test_a_token_of_a_megabyte_is_too_much(world: World) -> None:
    before = world.state()

    seen = await world.run("/cert", fields={"token": "x" * 1_000_000})

    assert (seen.kind, seen.status) == ("error", 413)
    assert world.state() == before


async def test_every_refusal_reads_the_same_whatever_the_reason(signed: World) -> None:
    reasons: list[dict[str, Any]] = [forged(signed) for forged in WRONG_TOKENS.values()][:8]
    reasons += [{"trigger_id": make(signed.chat, signed.alice)} for make in BROKEN_TRIGGER_IDS.values()][:8]

    bodies = {without_reference((await signed.run("/cert", **reason)).log) for reason in reasons}

    assert len(bodies) == 1
    assert "token or its signature" in bodies.pop()


async def test_every_configured_token_is_compared_whichever_it_is(
    data_dir: Path, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare_digest(a: Any, b: Any, /) -> bool:
        compared.append(a)
        return real(a, b)

    tokens = [new_id() for _ in range(4)]
    async with open_chat(data_dir, clock, token=tuple(map(token, tokens))) as world:
        monkeypatch.setattr(hmac, "compare_digest", compare_digest)
        for sent in (tokens[0], tokens[-1], new_id(), ""):
            compared.clear()
            await world.run("/cert help", **_token(sent))
            assert set(map(str.encode, tokens)) <= set(compared)


async def test_of_a_token_that_is_being_changed_both_work(data_dir: Path, clock: StillClock) -> None:
    old, new = new_id(), new_id()
    async with open_chat(data_dir, clock, token=(token(old), token(new))) as world:
        for each in (old, new):
            world.command.token = each
            assert "Certificate for alice" in (await world.told("/cert")).text
        world.command.token = new_id()
        assert (await world.run("/cert")).status == 401


async def test_a_token_bound_to_a_team_is_good_there_only(data_dir: Path, clock: StillClock) -> None:
    chat = Mattermost(clock)
    people = [chat.add_user("alice"), chat.add_user("bob")]
    acme = chat.add_team("acme", members=people)
    first = chat.add_command(acme, f"{HTTPS_URL}/request")
    tokens = (token(first.token, acme.id), token(other := new_id()))
    async with open_chat(data_dir, clock, chat=chat, token=tokens) as world:
        umbrella = chat.add_team("umbrella", members=people)
        second = chat.add_command(umbrella, first.url, token=other)

        assert "Certificate for alice" in (await world.told("/cert", team=acme)).text
        assert "Certificate for alice" in (await world.told("/cert", team=umbrella)).text
        second.token = first.token
        assert (await world.run("/cert", team=umbrella)).status == 401
        for team_id in (None, "", acme.id.upper(), f"{acme.id} ", "é"):
            assert (await world.run("/cert", team=acme, fields={"team_id": team_id})).status == 401


async def test_in_a_direct_message_the_command_is_the_same(world: World) -> None:
    channel = world.chat.direct_channel(world.alice, world.bob)

    assert "Certificate for alice" in (await world.told("/cert", channel=channel)).text


async def test_the_token_is_looked_at_before_anything_else(signed: World) -> None:
    """A good trigger id that came with a bad token is not used up by that."""
    trigger_id = signed.chat.trigger_id(signed.alice)

    assert (await signed.run("/cert", trigger_id=trigger_id, **_token(new_id()))).status == 401
    unfit = {"user_id": "?", "token": "x"}
    assert (await signed.run("/cert", trigger_id=trigger_id, fields=unfit)).status == 401
    await signed.told("/cert", trigger_id=trigger_id)


async def test_many_refusals_from_one_address_are_limited_and_good_commands_still_pass(
    world: World, clock: StillClock
) -> None:
    wrong = _token(new_id())
    statuses = [(await world.run("/cert", **wrong)).status for _ in range(REFUSALS + 2)]

    blocked = await world.run("/cert", **wrong)
    other = world.site.program()
    other.address = "198.51.100.9"

    assert statuses == [401] * REFUSALS + [429] * 2
    assert blocked.answer is not None
    assert blocked.answer.headers["Retry-After"] == "60"
    assert_closed(blocked.answer.headers)
    await world.told("/cert")
    assert (await other.post("/request", world.form(token="x"))).status == 401
    clock.advance(minutes=1)
    assert (await world.run("/cert", **wrong)).status == 401


async def test_refusals_are_in_the_log_with_their_reason_and_a_reference(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    seen = await world.run("/cert", **_token("x" * 26))

    [line] = [record.getMessage() for record in caplog.records if "not_from_chat" in record.getMessage()]
    assert "token" in line
    assert line.split()[0] in seen.log
    assert "x" * 26 not in caplog.text


# 3. The header


async def test_the_header_of_an_oauth_connection_says_nothing(world: World) -> None:
    world.chat.oauth_token = "x"

    await world.told("/cert")


@pytest.mark.parametrize("authorization", ["", "Bearer x", "Basic eDp4", "Bearer", "Tokens x"])
async def test_headers_of_other_schemes_are_ignored(world: World, authorization: str) -> None:
    await world.told("/cert", authorization=authorization)


@pytest.mark.parametrize("scheme", ["Token", "token", "TOKEN", "Token  "])
async def test_a_header_of_the_scheme_token_must_agree(world: World, scheme: str) -> None:
    await world.told("/cert", authorization=f"{scheme} {world.command.token}")
    assert (await world.run("/cert", authorization=f"{scheme} {new_id()}")).status == 401


async def test_a_header_that_is_not_ascii_is_read_like_any_other(world: World) -> None:
    program = world.site.program()

    assert (await program.post("/request", world.form(), {"Authorization": "Token ÿ"})).status == 401
    assert (await program.post("/request", world.form(), {"Authorization": "ÿ x"})).status == 200


# 4. The signed trigger id


async def test_a_signed_command_passes(signed: World) -> None:
    seen = await signed.told("/cert")

    assert "Certificate for alice" in seen.text


@pytest.mark.parametrize("broken", BROKEN_TRIGGER_IDS.values(), ids=BROKEN_TRIGGER_IDS)
async def test_a_trigger_id_that_proves_nothing_is_refused(
    signed: World, broken: Callable[[Mattermost, User], str]
) -> None:
    before = signed.state()

    seen = await signed.run("/cert", trigger_id=broken(signed.chat, signed.alice))

    assert (seen.kind, seen.status) == ("error", 401)
    assert seen.answer is not None
    assert_closed(seen.answer.headers)
    assert signed.state() == before


async def test_a_missing_trigger_id_is_refused(signed: World) -> None:
    assert (await signed.run("/cert", fields={"trigger_id": None})).status == 401


async def test_whoever_knows_the_token_cannot_be_somebody_else(signed: World) -> None:
    """Mallory may edit the command, so she knows its token, and her own trigger ids are real."""
    before = signed.state()

    seen = await signed.run("/cert", signed.bob, fields={"user_id": signed.alice.id, "user_name": "alice"})

    assert seen.status == 401
    assert signed.state() == before


@pytest.mark.parametrize("seconds", [-60, -1, 0, 60])
async def test_clocks_may_differ_by_a_minute(signed: World, clock: StillClock, seconds: int) -> None:
    trigger_id = signed.chat.trigger_id(signed.alice, at=clock.now() + timedelta(seconds=seconds))

    await signed.told("/cert", trigger_id=trigger_id)


async def test_a_server_whose_clock_is_off_is_not_believed(signed: World) -> None:
    signed.chat.skew = timedelta(minutes=2)

    assert (await signed.run("/cert")).status == 401


async def test_a_trigger_id_works_once(signed: World, clock: StillClock) -> None:
    trigger_id = signed.chat.trigger_id(signed.alice)
    await signed.told("/cert", trigger_id=trigger_id)

    for _ in range(4):  # and is too old by the time its first use is forgotten
        assert (await signed.run("/cert list", trigger_id=trigger_id)).status == 401
        clock.advance(seconds=59)
        await signed.site.services.prune()


async def test_a_trigger_id_from_the_future_is_remembered_until_it_is_too_old(
    signed: World, clock: StillClock
) -> None:
    trigger_id = signed.chat.trigger_id(signed.alice, at=clock.now() + timedelta(minutes=1))
    await signed.told("/cert", trigger_id=trigger_id)

    clock.advance(minutes=2)
    await signed.site.services.prune()

    assert (await signed.run("/cert", trigger_id=trigger_id)).status == 401


async def test_of_two_processes_one_takes_a_trigger_id(data_dir: Path, clock: StillClock) -> None:
    async with (
        open_chat(data_dir, clock, known=True) as first,
        open_chat(data_dir, clock, known=True, chat=first.chat) as second,
    ):
        first.chat.transport = InTurn(first, second)
        trigger_id = first.chat.trigger_id(first.alice)

        seen = await asyncio.gather(*(first.run("/cert", trigger_id=trigger_id) for _ in range(6)))

    assert sorted(each.status or 0 for each in seen) == [200] + [401] * 5


async def test_once_the_key_was_seen_commands_must_be_signed(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, url="https://chat.example.org") as world:
        # Nobody waits for the key.
        await world.told("/cert", trigger_id="")

        await background()

        assert (await world.run("/cert", trigger_id="")).status == 401
        await world.told("/cert")
    async with open_chat(data_dir, clock, url="https://chat.example.org", chat=world.chat) as world:
        assert (await world.run("/cert", trigger_id="")).status == 401


async def test_the_key_is_asked_for_at_the_start(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, url="https://chat.example.org") as world:
        world.door.look()
        await background()

        assert (await world.run("/cert", trigger_id="")).status == 401


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"silent"}))
async def test_while_the_key_cannot_be_had_auto_lets_commands_pass_and_require_does_not(
    data_dir: Path, clock: StillClock, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    for mode, status in (("auto", 200), ("require", 401)):
        async with open_chat(data_dir, clock, url="https://chat.example.org", verify_trigger=mode) as world:
            world.chat.answers[""] = FAULTS[fault]
            world.door.look()
            await background()

            assert (await world.run("/cert")).status == status
            assert (await world.run("/cert", trigger_id="")).status == status
    assert "the key of https://chat.example.org for slash commands is not known" in caplog.text


async def test_require_works_once_the_key_is_known(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, url="https://chat.example.org", verify_trigger="require") as world:
        assert (await world.run("/cert")).status == 401
        assert not any("chat_accounts" in line and world.alice.id in line for line in world.state())

        await background()

        await world.told("/cert")
        assert (await world.run("/cert", trigger_id="")).status == 401


@pytest.mark.parametrize("options", [{}, {"known": False, "url": "https://chat.example.org"}])
async def test_off_looks_at_no_trigger_id(
    data_dir: Path, clock: StillClock, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_chat(data_dir, clock, verify_trigger="off", **options) as world:
        world.door.look()
        for make in BROKEN_TRIGGER_IDS.values():
            await world.told("/cert help", trigger_id=make(world.chat, world.alice))

        assert world.chat.asked("config/client") == []
    assert "believed by their token alone" in caplog.text


async def test_without_a_url_the_token_is_enough_and_the_log_says_so(
    data_dir: Path, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_chat(data_dir, clock) as world:
        for trigger_id in ("", "nothing", world.chat.trigger_id(world.bob)):
            await world.told("/cert", trigger_id=trigger_id)

    assert "believed by their token alone, because [mattermost] url is not set" in caplog.text


async def test_a_key_that_is_none_is_not_kept(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, url="https://chat.example.org") as world:
        world.chat.signing_key = ec.generate_private_key(ec.SECP384R1())
        world.door.look()
        await background()

        await world.told("/cert", trigger_id="")


async def test_the_key_is_asked_for_once_a_minute_at_most(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, url="https://chat.example.org") as world:
        world.chat.answers["config"] = FAULTS["500"]
        for _ in range(5):
            await world.told("/cert help")
            await background()
        assert len(world.chat.asked("config/client")) == 1

        clock.advance(minutes=1)
        await world.told("/cert help")
        await background()

        assert len(world.chat.asked("config/client")) == 2


async def test_another_key_is_not_believed_until_the_operator_says_so(
    signed: World, caplog: pytest.LogCaptureFixture
) -> None:
    old = fingerprint(signed.chat.public_key)
    signed.chat.signing_key = ec.generate_private_key(ec.SECP256R1())

    for _ in range(2):
        assert (await signed.run("/cert")).status == 401
        await background()

    [record] = [each for each in caplog.records if "has another key now" in each.getMessage()]
    assert old in record.getMessage()
    assert fingerprint(signed.chat.public_key) in record.getMessage()
    assert "certbob mattermost accept-key" in record.getMessage()
    await signed.door.accept_key()
    await signed.told("/cert")


async def test_a_known_key_serves_while_the_server_is_away(signed: World) -> None:
    signed.chat.answers[""] = FAULTS["500"]

    await signed.told("/cert")
    assert (await signed.run("/cert", trigger_id="")).status == 401


# 5. Who it is


@pytest.mark.parametrize(
    "user_id", [None, "", "a" * 65, "../users/me", "a b", "a/b", "é", "a\0", "abc\n", "a%2fb", "a.b", "@a"]
)
async def test_an_id_that_can_be_none_is_refused(
    data_dir: Path, clock: StillClock, user_id: str | None
) -> None:
    async with open_chat(data_dir, clock, bot=True, verify_trigger="off") as world:
        before = world.state()

        seen = await world.run("/cert", fields={"user_id": user_id})

        assert (seen.kind, seen.status) == ("error", 400)
        assert world.state() == before
        assert world.chat.requests == []


@pytest.mark.parametrize("user_id", ["a", "A" * 64, "-_-"])
async def test_ids_of_other_makes_are_taken(world: World, user_id: str) -> None:
    await world.told("/cert", fields={"user_id": user_id})


async def test_whoever_changes_their_name_gets_nothing_until_it_is_as_before(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.told("/cert")
    world.alice.username = "the.ceo"

    for line in ("/cert", "/cert list", "/cert revoke"):
        seen = await world.told(line)
        assert "Your name in this chat has changed" in seen.text
        assert seen.goto_location == ""
    assert f"certbob mattermost forget {world.alice.id}" in caplog.text
    world.alice.username = "alice"
    assert "Certificate for alice" in (await world.told("/cert")).text


async def test_the_operator_may_take_a_changed_name(world: World) -> None:
    await world.told("/cert")
    world.alice.username = "alice.miller"
    await world.told("/cert")

    assert await world.door.forget(world.alice.id)

    assert r"Certificate for alice\.miller" in (await world.told("/cert")).text


async def test_a_name_that_the_operator_freed_is_for_others(world: World) -> None:
    await world.told("/cert")
    fields = {"user_name": "alice"}
    assert "belongs to somebody else" in (await world.told("/cert", world.bob, fields=fields)).text

    await world.door.forget(world.alice.id)

    assert "Certificate for alice" in (await world.told("/cert", world.bob, fields=fields)).text
    assert "belongs to somebody else" in (await world.told("/cert")).text


@pytest.mark.parametrize("refused", ["x" * 65, "", "alice", "@bob"])
async def test_a_name_that_was_refused_may_be_put_right(world: World, refused: str) -> None:
    await world.told("/cert")
    seen = await world.told("/cert", world.bob, fields={"user_name": refused})
    assert "Certificate" not in seen.text.partition("\n")[0]

    assert "Certificate for bob" in (await world.told("/cert", world.bob)).text


async def test_capitals_are_no_change(world: World) -> None:
    await world.told("/cert")

    assert "Certificate for ALICE" in (await world.told("/cert", fields={"user_name": "ALICE"})).text


@pytest.mark.parametrize("name", ["alice", "Alice", "ALICE", " alice "])
async def test_a_name_that_somebody_else_has_is_refused(world: World, name: str) -> None:
    await world.told("/cert")

    for line in ("/cert", "/cert list", "/cert revoke"):
        seen = await world.told(line, world.bob, fields={"user_name": name})
        assert "This name belongs to somebody else here" in seen.text
    assert "Certificate for alice" in (await world.told("/cert")).text


@pytest.mark.parametrize("name", ["carol", "Carol", "CAROL"])
async def test_a_name_of_somebody_who_signs_in_here_is_refused(
    data_dir: Path, clock: StillClock, name: str
) -> None:
    carol = Person("c", "some password", "Carol")
    async with open_chat(data_dir, clock, site={"people": (carol,)}) as world:
        seen = await world.told("/cert", fields={"user_name": name})

    assert "This name belongs to somebody else here" in seen.text


async def test_of_two_names_at_first_sight_one_is_bound(data_dir: Path, clock: StillClock) -> None:
    async with (
        open_chat(data_dir, clock) as first,
        open_chat(data_dir, clock, chat=first.chat) as second,
    ):
        first.chat.transport = InTurn(first, second)
        names = ["alice", "the.ceo"] * 2

        seen = await asyncio.gather(*(first.told("/cert", fields={"user_name": name}) for name in names))

    refused = [name for name, each in zip(names, seen, strict=True) if "has changed" in each.text]
    assert refused in (["alice"] * 2, ["the.ceo"] * 2)


async def test_of_two_people_with_one_name_at_first_sight_one_has_it(
    data_dir: Path, clock: StillClock
) -> None:
    async with (
        open_chat(data_dir, clock) as first,
        open_chat(data_dir, clock, chat=first.chat) as second,
    ):
        first.chat.transport = InTurn(first, second)

        seen = await asyncio.gather(
            *(first.told("/cert", user, fields={"user_name": "sam"}) for user in (first.alice, first.bob))
        )

    assert sorted("belongs to somebody else" in each.text for each in seen) == [False, True]
    assert sorted("Certificate for sam" in each.text for each in seen) == [False, True]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "The name is empty"),
        ("", "The name is empty"),
        ("x" * 65, "longer than 64 bytes"),
        ("@channel", "must begin with a letter or a digit"),
        ("al\0ice", "U+0000"),
        ("al\nice", "U+000A"),
        ("\u202eecila", "U+202E"),
        ("a[x](https://evil.example)", "‘[’"),
        ("<!channel>", "‘‹’"),
        ("аlice", "different scripts"),
        ("`alice`", "‘`’"),
        ("alice" * 3_000, "longer than 64 bytes"),
    ],
)
async def test_a_name_that_fits_no_certificate_is_refused_with_the_reason(
    world: World, name: str | None, reason: str
) -> None:
    seen = await world.told("/cert", fields={"user_name": name})

    assert "This name cannot stand in a certificate" in seen.text
    assert reason in re.sub(r"\\(.)", r"\1", seen.text)
    assert seen.goto_location == ""


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
async def test_a_name_in_an_answer_is_plain_text(data_dir: Path, clock: StillClock, name: str) -> None:
    async with open_chat(data_dir, clock) as world:
        await world.told("/cert", fields={"user_name": name[:900]})
    async with open_chat(data_dir, clock, identity="link") as world:
        seen = await world.told("/cert", fields={"user_name": name[:900]})
        assert len(seen.links) == 1


# 5. With a bot


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"is_bot": True}, "It is a bot."),
        ({"delete_at": 1}, "It was deactivated."),
        ({"roles": GUEST}, "It is a guest's."),
        ({"roles": f"system_user {GUEST}"}, "It is a guest's."),
    ],
)
async def test_bots_and_guests_and_those_who_left_get_nothing(
    data_dir: Path, clock: StillClock, facts: dict[str, Any], reason: str
) -> None:
    async with open_chat(data_dir, clock, bot=True) as world:
        unfit = world.chat.add_user("unfit", **facts)

        seen = await world.told("/cert", unfit)

        assert "This account cannot get certificates" in seen.text
        assert reason.replace(".", "\\.") in seen.text
        assert "Certificate for alice" in (await world.told("/cert")).text


async def test_an_account_is_looked_up_once_a_minute(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, bot=True) as world:
        path = f"users/{world.alice.id}"
        for _ in range(3):
            await world.told("/cert list")
        assert len(world.chat.asked(path)) == 1
        world.chat.deactivate(world.alice)

        clock.advance(seconds=60)

        assert "deactivated" in (await world.told("/cert")).text
        assert len(world.chat.asked(path)) == 2


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"silent", "404"}))
async def test_while_accounts_cannot_be_looked_up_names_count(
    data_dir: Path, clock: StillClock, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_chat(data_dir, clock, known=True, bot=True) as world:
        world.chat.answers["users"] = FAULTS[fault]

        assert "Certificate for alice" in (await world.told("/cert")).text
    assert "a chat account could not be looked up" in caplog.text


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"silent", "404"}))
async def test_an_address_that_cannot_be_looked_up_is_never_guessed(
    data_dir: Path, clock: StillClock, fault: str
) -> None:
    async with open_chat(data_dir, clock, bot=True, identity="email", email_domain="example.org") as world:
        world.chat.answers["users"] = FAULTS[fault]

        seen = await world.told("/cert")

    assert "Mattermost did not say who you are" in seen.text
    assert "Try again in a minute" in seen.text
    assert "Reference" in seen.text
    assert seen.goto_location == ""


async def test_a_changed_address_is_refused(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, bot=True, identity="email") as world:
        assert "Certificate for alice" in (await world.told("/cert")).text
        world.alice.email = "ceo@example.org"
        clock.advance(minutes=1)

        assert "Your address in this chat has changed" in (await world.told("/cert")).text
        world.alice.email = "Alice@example.org"
        clock.advance(minutes=1)
        assert "Certificate for alice" in (await world.told("/cert")).text


@pytest.mark.parametrize(
    ("email", "reason"),
    [
        ("", "does not tell your e-mail address"),
        ("alice@evil.example", "Certificates are for addresses of example.org"),
        ("alice@example.org.evil.example", "Certificates are for addresses of example.org"),
        ("alice@sub.example.org", "Certificates are for addresses of example.org"),
        ("alice@evil.example,a@example.org", "not a plain one"),
        ("alice\n@example.org", "not a plain one"),
    ],
)
async def test_an_address_outside_the_domain_is_refused(
    data_dir: Path, clock: StillClock, email: str, reason: str
) -> None:
    async with open_chat(data_dir, clock, bot=True, identity="email", email_domain="example.org") as world:
        world.alice.email = email

        seen = await world.told("/cert")

    assert reason in re.sub(r"\\(.)", r"\1", seen.text)


async def test_a_server_that_shows_no_addresses_vouches_for_nobody(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock, bot=True, identity="email") as world:
        world.chat.show_email_address = False

        assert "does not tell your e" in (await world.told("/cert")).text


# 6. What people write


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
async def test_whatever_people_write_the_answer_is_ours(data_dir: Path, clock: StillClock, text: str) -> None:
    async with open_chat(data_dir, clock, mailer=FakeMailer(), email_domain="example.org") as world:
        for word in ("", "download", "email", "list", "revoke", "help", "what"):
            seen = await world.told(f"/cert {word} {text}")

            assert "evil" not in "".join(seen.links)
            assert "49" not in seen.text or "{{" not in text
        await background()


@pytest.mark.parametrize("line", ["/cert  HELP ", "/CERT\thelp", "/cert \n help x", "/cert Help"])
async def test_words_may_have_capitals_and_blanks_around(world: World, line: str) -> None:
    assert (await world.told(line)).text.startswith("I know:")


async def test_the_command_is_called_as_people_call_it(data_dir: Path, clock: StillClock) -> None:
    async with open_chat(data_dir, clock) as world:
        world.command.trigger = "zertifikat"

        seen = await world.told("/zertifikat help")

    assert "/zertifikat download [device]" in seen.code
    assert "/cert" not in seen.text


@pytest.mark.parametrize(
    "name", ["", "cert", "/`x`", "/](https://evil.example)", "/a b", "/x\n", "/" + "x" * 129]
)
async def test_a_name_of_the_command_that_is_none_is_not_repeated(world: World, name: str) -> None:
    assert "/cert help" in (await world.told("/cert help", fields={"command": name})).code


# 7. Every answer


@pytest.mark.parametrize("mode", ["username", "email", "link"])
async def test_every_answer_is_a_message_for_one_person(data_dir: Path, clock: StillClock, mode: str) -> None:
    async with open_chat(data_dir, clock, bot=True, mailer=FakeMailer(), identity=mode) as world:
        for line in LINES:
            await world.told(line)
        await background()


async def test_every_answer_is_one_with_the_least_configured_too(world: World) -> None:
    for line in LINES:
        await world.told(line)


async def test_long_names_make_no_message_too_long(data_dir: Path, clock: StillClock) -> None:
    name = "a.-_'@" * 6 + "1234"  # each but the letters is escaped
    async with open_chat(data_dir, clock) as world:
        for _ in range(COMMANDS_PER_MINUTE):
            seen = await world.told(f"/cert download {name}")
            await redeemed(world, seen)
        clock.advance(minutes=1)

        assert len((await world.told("/cert list")).text.splitlines()) >= 10
        assert len((await world.told("/cert revoke")).links) == 5


# 8. Where links lead


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Proto": "http"},
        {"X-Forwarded-Port": "8443", "X-Forwarded-Prefix": "/evil"},
        {"Forwarded": "host=evil.example;proto=http"},
        {"X-Original-URL": "https://evil.example/", "X-Rewrite-URL": "/evil"},
        {"Origin": "https://evil.example", "Referer": "https://evil.example/"},
    ],
)
async def test_links_lead_where_the_configuration_says(
    data_dir: Path, clock: StillClock, headers: HeaderChanges
) -> None:
    async with open_chat(data_dir, clock, site={"trusted_proxies": ("192.0.2.0/24",)}) as world:
        answer = await world.site.program().post("/request", world.form(), headers)

    content = json.loads(answer.body)
    assert content["goto_location"].startswith(f"{HTTPS_URL}/issue?token=")
    assert "evil" not in content["text"]
    assert f"]({HTTPS_URL}/issue?token=" in content["text"]


async def test_under_another_name_there_is_no_door(world: World) -> None:
    answer = await world.site.program().post("/request", world.form(), {"Host": "evil.example"})

    assert answer.status == 400
    assert b"evil" not in answer.body


async def test_no_response_url_is_ever_called(data_dir: Path, clock: StillClock) -> None:
    calls: list[object] = []

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(reader)
        writer.close()

    mailer = FakeMailer()
    mailer.refusal = lambda: MailUnavailable("no route")  # something would have to be told later
    listener = await asyncio.start_server(called, "127.0.0.1", 0)
    async with (
        listener,
        open_chat(data_dir, clock, mailer=mailer, email_domain="example.org") as world,
    ):
        port = listener.sockets[0].getsockname()[1]
        for line in LINES:
            url = f"http://127.0.0.1:{port}/hooks/commands/{new_id()}"
            await world.told(line, fields={"response_url": url})
            await world.told(line, world.bob, host=f"127.0.0.1:{port}")
            clock.advance(minutes=1)
        await background()

    assert calls == []
    assert world.chat.response_url_uses == []


# 9. Whatever else is broken


class HangingCA(FakeCA):
    """It answers nothing at all."""

    async def trust(self) -> Any:
        await self.may_answer.wait()
        return await super().trust()

    async def longest_validity(self) -> timedelta | None:
        await self.may_answer.wait()
        return await super().longest_validity()

    async def health(self) -> str | None:
        await self.may_answer.wait()
        return await super().health()


async def test_the_answer_waits_for_no_authority_and_no_mail_server(
    data_dir: Path, clock: StillClock
) -> None:
    ca, mailer = HangingCA(data_dir, clock), FakeMailer()
    ca.may_answer.clear()
    mailer.may_answer.clear()
    async with open_chat(
        data_dir, clock, bot=True, mailer=mailer, site={"ca": ca}, email_domain="example.org"
    ) as world:
        try:
            async with asyncio.timeout(10):
                for line in LINES:
                    await world.told(line)
        finally:
            ca.may_answer.set()
            mailer.may_answer.set()
        await background()


async def test_the_answer_waits_for_a_silent_mattermost_no_longer_than_people_do(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_chat(data_dir, clock, known=True, bot=True) as world:
        world.chat.answers[""] = FAULTS["silent"]

        async with asyncio.timeout(10):
            assert "Certificate for alice" in (await world.told("/cert")).text


async def test_a_command_works_while_the_authority_is_away(data_dir: Path, clock: StillClock) -> None:
    ca = FakeCA(data_dir, clock)
    ca.problem = CAUnavailable("closed")
    async with open_chat(data_dir, clock, site={"ca": ca}) as world:
        seen = await world.told("/cert")
        path = seen.goto_location.removeprefix(HTTPS_URL)
        assert (await world.site.program().get(path)).status == 503
        ca.problem = None

        await redeemed(world, seen)


def fail(*arguments: object, **options: object) -> Any:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize(
    ("service", "name", "line"),
    [
        ("chat", "identity", "/cert"),
        ("chat", "identity", "/cert email"),
        ("chat", "identity", "/cert list"),
        ("chat", "identity", "/cert revoke"),
        ("issuance", "admit", "/cert"),
        ("issuance", "admit", "/cert email"),
        ("ca", "longest_validity", "/cert"),
        ("grants", "mint", "/cert"),
        ("grants", "mint", "/cert email"),
        ("grants", "inspect", "/cert"),
        ("grants", "inspect", "/cert email"),
        ("grants", "passphrase", "/cert"),
        ("ledger", "certificates_of", "/cert list"),
        ("ledger", "active_of", "/cert revoke x"),
        ("revocation", "link_token", "/cert revoke"),
        ("chat_links", "request", "/cert link"),
    ],
)
async def test_a_fault_of_ours_is_told_with_a_reference(
    data_dir: Path,
    clock: StillClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    service: str,
    name: str,
    line: str,
) -> None:
    mode = "link" if service == "chat_links" else "username"
    domain = None if mode == "link" else "example.org"
    async with open_chat(
        data_dir,
        clock,
        mailer=FakeMailer(),
        identity=mode,
        email_domain=domain,
    ) as world:
        if mode != "link":
            await redeemed(world, await world.told("/cert"))
        monkeypatch.setattr(getattr(world.site.services, service), name, fail)

        seen = await world.told(line)
        await background()

    assert "Something went wrong here" in seen.text
    assert "fault of ours" not in seen.text
    assert reference_of(seen) in caplog.text
    assert "a fault of ours" in caplog.text


def reference_of(seen: Seen) -> str:
    [found] = [span for span in seen.code if re.fullmatch(r"[0-9A-F]{4}-[0-9A-F]{2}", span)]
    return found


@pytest.mark.parametrize(
    "fault", [RuntimeError("a fault of ours"), StorageProblem("disk full")], ids=["fault", "storage"]
)
@pytest.mark.parametrize(
    ("line", "least"), [("/cert", 7), ("/cert email", 7), ("/cert list", 5), ("/cert revoke", 5)]
)
async def test_a_database_that_fails_at_any_statement_is_told_with_a_reference(
    data_dir: Path,
    clock: StillClock,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    least: int,
    fault: Exception,
) -> None:
    working = Database.rows
    left = 0

    async def rows(self: Database, sql: str, *parameters: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise fault
        return await working(self, sql, *parameters)

    async with open_chat(data_dir, clock, mailer=FakeMailer(), email_domain="example.org") as world:
        for steps in itertools.count():  # pragma: no branch
            clock.advance(minutes=1)
            left = steps
            with monkeypatch.context() as patched:
                patched.setattr(Database, "rows", rows)
                seen = await world.told(line)
            await background()
            if "Reference" not in seen.text:
                break
            assert reference_of(seen)
            assert not PASSPHRASE.search(seen.text)

    assert steps >= least


# 10. What stays secret, and how much is too much


async def test_nothing_secret_is_in_any_log(
    data_dir: Path, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    """In the records themselves, before any formatter takes out what slipped in."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "certbob.access")
    ca, mailer = FakeCA(data_dir, clock), FakeMailer()
    async with open_chat(
        data_dir, clock, known=True, bot=True, mailer=mailer, site={"ca": ca}, email_domain="example.org"
    ) as world:
        secrets = {world.command.token}

        async def command(line: str, *, trigger_id: str | None = None, **fields: str) -> Seen:
            trigger_id = trigger_id or world.chat.trigger_id(world.alice)
            secrets.update((trigger_id, hook := new_id()))
            fields["response_url"] = f"{world.chat.site_url}/hooks/commands/{hook}"
            seen = await world.run(line, trigger_id=trigger_id, fields=fields)
            secrets.update(link.partition("token=")[2] for link in seen.links if "token=" in link)
            secrets.update(PASSPHRASE.findall(seen.text))
            return seen

        seen = await command("/cert download", trigger_id=(used := world.chat.trigger_id(world.alice)))
        await command("/cert list", trigger_id=used)
        await redeemed(world, seen)
        await command("/cert email")
        await background()
        mailer.refusal = lambda: MailUnavailable("no route")
        await command("/cert email")
        await background()
        ca.signing_problem = CAUnavailable("closed")
        failing = await command("/cert")
        await world.site.browser().get(failing.goto_location.removeprefix(HTTPS_URL))
        await world.site.program().get(failing.goto_location.removeprefix(HTTPS_URL))
        revoke = await command("/cert revoke")
        await world.site.browser().get(revoke.links[0].removeprefix(HTTPS_URL))
        wrong = new_id()
        secrets.add(wrong)
        await command("/cert", token=wrong)
        await command("/cert", trigger_id=BROKEN_TRIGGER_IDS["another key"](world.chat, world.alice))
        await background()
        world.command.method = "G"
        await command("/cert")

    secrets |= {part for secret in secrets for part in secret.split(".") if len(part) > 60}
    lines = [
        f"{record.getMessage()} {record.exc_text or ''} {record.exc_info or ''}" for record in caplog.records
    ]
    assert len(secrets) >= 24
    assert any(record.name == "certbob.access" for record in caplog.records)
    assert any("mail_unavailable" in line for line in lines)
    assert not [(secret, line) for secret in secrets for line in lines if secret in line]


async def test_a_hundred_commands_in_a_second_leave_one_link(world: World, clock: StillClock) -> None:
    seen = await asyncio.gather(*(world.told("/cert") for _ in range(100)))

    links = [each.goto_location for each in seen if each.goto_location]
    refused = [each for each in seen if not each.goto_location]
    assert len(links) == COMMANDS_PER_MINUTE
    assert all("Try again at " in each.text and not each.code for each in refused)
    assert "Certificate for bob" in (await world.told("/cert", world.bob)).text
    program = world.site.program()
    statuses = [(await program.get(link.removeprefix(HTTPS_URL))).status for link in links]
    assert sorted(statuses) == [200] + [410] * (COMMANDS_PER_MINUTE - 1)
    clock.advance(minutes=1)
    await world.told("/cert")


@pytest.mark.parametrize("line", ["/cert", "/cert list", "/cert revoke", "/cert email"])
async def test_every_command_that_looks_somebody_up_is_limited(
    data_dir: Path, clock: StillClock, line: str
) -> None:
    async with open_chat(data_dir, clock, mailer=FakeMailer(), email_domain="example.org") as world:
        for _ in range(COMMANDS_PER_MINUTE):
            assert "Try again at" not in (await world.told(line)).text
        seen = await world.told(line)
        await background()

    assert "Try again at" in seen.text
    assert "Nothing was changed by this one" in seen.text


# 11. Neither session nor cookie nor redirect


async def test_a_session_has_nothing_to_do_with_it(world: World, clock: StillClock) -> None:
    ada = await world.site.signed_in(ADA)
    cookies = dict(ada.cookies)

    answer = await ada.post("/request", world.form(), {"Origin": "null", "Sec-Fetch-Site": "cross-site"})

    assert answer.status == 200
    assert "Set-Cookie" not in answer.headers
    assert "Certificate for alice" in json.loads(answer.body)["text"]
    assert ada.cookies == cookies
    assert (await ada.post("/request", world.form(token="x"))).status == 401


async def test_everything_that_is_refused_is_closed_and_not_kept_either(world: World) -> None:
    program = world.site.program()
    answers = [
        await program.post("/request", world.form(), {"Content-Type": "text/plain"}),
        await program.post("/request", world.form(token="x")),
        await program.post("/request", b"x" * 65_537),
        await program.post("/request", world.form(user_id="?")),
        await program.post("/request", world.form(), {"Host": "evil.example"}),
        await program.get("/request"),
        await program.head("/request"),
    ]

    assert [answer.status for answer in answers] == [400, 401, 413, 400, 400, 405, 405]
    for answer in answers:
        assert_closed(httpx2.Headers(list(answer.headers)))


# The fewest steps


@pytest.mark.parametrize("direct", [True, False])
async def test_three_words_of_curl_are_enough_for_a_file(
    data_dir: Path, clock: StillClock, direct: bool
) -> None:
    """The sequence of the original product: POST with the token, GET of the link, user_cert.pfx."""
    async with open_chat(data_dir, clock, site={"issue": Issue(direct_download=direct)}) as world:
        curl: Client = world.site.program()
        form = {"token": world.command.token, "user_id": "u1", "user_name": "alice"}
        content = json.loads((await curl.post("/request", form)).body)

        answer = await curl.get(content["goto_location"].removeprefix(HTTPS_URL))

    assert answer.status == 200
    assert (answer.headers["Content-Type"] == "application/x-pkcs12") == direct
    if direct:
        assert answer.headers["Content-Disposition"] == "attachment; filename=user_cert.pfx"


@pytest.mark.parametrize("fault", [StorageProblem("full"), RuntimeError("x")], ids=["known", "unknown"])
@pytest.mark.parametrize("method", ["key_of", "see_once"])
async def test_a_fault_while_the_signature_is_checked_is_told_in_words(
    data_dir: Path, clock: StillClock, monkeypatch: pytest.MonkeyPatch, fault: Exception, method: str
) -> None:
    async with open_chat(data_dir, clock, known=True) as world:

        async def broken(*_: object, **__: object) -> None:
            raise fault

        monkeypatch.setattr(SqlChats, method, broken)

        assert_for_people(await world.run("/cert"))


async def test_a_fault_while_somebody_is_told_to_link_is_told_in_words(
    data_dir: Path, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat(data_dir, clock, identity="link") as world:
        monkeypatch.setattr(world.site.services.chat_links, "request", fail)

        assert_for_people(await world.run("/cert"))


@pytest.mark.parametrize("identity", ["username", "email", "link"])
async def test_an_account_that_the_server_does_not_know_gets_nothing(
    data_dir: Path, clock: StillClock, identity: str
) -> None:
    async with open_chat(data_dir, clock, bot=True, identity=identity, verify_trigger="off") as world:
        seen = await world.told("/cert", User("stranger"))

    assert "Mattermost does not know it" in seen.text
    assert seen.links == (f"mailto:{CONTACT}",)
