"""The fake Mattermost behaves as a real one was measured: what it sends, shows, fetches, signs, answers."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_der_public_key
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from tests.support.clock import FakeClock
from tests.support.hostile_provider import Message, Receive, Send
from tests.support.mattermost import BROKEN_TRIGGER_IDS, Mattermost, read_markdown, serve_mattermost
from tests.support.mattermost_api import ADMINISTRATOR, FAULTS, GUEST, Reply, User, new_id

URL = "https://certbob.example.org/request"
LINK = "https://certbob.example.org/issue?token=a.b"
FAILED = "Command with a trigger of 'cert' failed."


@dataclass(slots=True)
class Heard:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: str

    @property
    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body, keep_blank_values=True)


@dataclass(slots=True)
class App:
    """Answers on /request with `answer`, on /go with `file`, and with a page of one button elsewhere."""

    answer: Reply = field(default_factory=Reply)
    file: bytes = b""
    heard: list[Heard] = field(default_factory=list)

    def says(self, value: Any, **options: Any) -> None:
        self.answer = Reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, **options)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        target = scope["path"] + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        self.heard.append(Heard(scope["method"], target, headers, (body + message["body"]).decode()))
        others = {"/request": self.answer, "/go": Reply(200, self.file)}
        reply = others.get(scope["path"], Reply(200, b"<form method='post' action='/go'></form>"))
        if reply.silent:
            await asyncio.Event().wait()
        lines = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": lines})
        await send({"type": "http.response.body", "body": reply.body})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def chat(clock: FakeClock, app: App) -> Mattermost:
    chat = Mattermost(clock, transport=httpx2.ASGITransport(app=app))
    chat.add_user("alice")
    chat.add_command(chat.add_team("acme"), URL)
    return chat


@pytest.fixture
def alice(chat: Mattermost) -> User:
    return next(iter(chat.users.values()))


@pytest.fixture
async def api(chat: Mattermost) -> AsyncIterator[httpx2.AsyncClient]:
    """As an administrator."""
    token = chat.new_access_token(chat.add_user("root", roles=ADMINISTRATOR))
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=chat),
        base_url="https://chat.example.org/api/v4",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


async def test_the_request_is_the_measured_one(chat: Mattermost, app: App, alice: User) -> None:
    bob, team = chat.add_user("bob"), next(iter(chat.teams.values()))
    team.members.add(bob.id)

    await chat.run(alice, "/CERT   Revoke @bob, @nobody ~town-square é~ ", root_id="")

    command = next(iter(chat.commands.values()))
    (heard,) = app.heard
    assert (heard.method, heard.path) == ("POST", "/request")
    assert heard.headers == [
        ("host", "certbob.example.org"),
        ("user-agent", "Mattermost-Bot/1.1"),
        ("content-length", str(len(heard.body))),
        ("accept", "application/json"),
        ("authorization", f"Token {command.token}"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("accept-encoding", "gzip"),
    ]
    assert "&text=++Revoke+%40bob%2C+%40nobody+~town-square+%C3%A9~+&" in heard.body
    assert list(heard.form) == sorted(heard.form)
    assert heard.form["command"] == ["/cert"]
    assert heard.form["user_id"] == [alice.id]
    assert heard.form["root_id"] == [""]
    assert heard.form["user_mentions_ids"] == [bob.id]
    assert heard.form["channel_mentions"] == ["town-square"]
    assert heard.form["response_url"][0].startswith("https://chat.example.org/hooks/commands/")


async def test_modes_of_the_request(chat: Mattermost, app: App, alice: User) -> None:
    next(iter(chat.commands.values())).method = "G"
    chat.oauth_token = "abc"

    await chat.run(alice, "/cert", host="evil.example", fields={"token": None, "user_id": "mallory"})

    (heard,) = app.heard
    sent = parse_qs(heard.path.partition("?")[2])
    assert (heard.method, heard.body) == ("GET", "")
    assert dict(heard.headers)["authorization"] == "Bearer abc"
    assert "content-type" not in dict(heard.headers)
    assert sent["user_id"] == ["mallory"]
    assert "token" not in sent
    assert sent["response_url"][0].startswith("http://evil.example/hooks/commands/")


@pytest.mark.parametrize(
    ("content_type", "body", "kind", "text"),
    [
        ("application/json", b'{"text": "hi", "response_type": "ephemeral"}', "ephemeral", "hi"),
        ("application/json; charset=utf-8", b'{"Text": "hi"}', "ephemeral", "hi"),
        ("application/json", b'{"text": "hi", "response_type": "in_channel"}', "in_channel", "hi"),
        ("application/json", b'{"text": "hi", "response_type": "private"}', "nothing", ""),
        ("application/json", b"{}", "nothing", ""),
        ("application/json", b"null", "nothing", ""),
        ("application/json", b"", "error", FAILED),
        ("application/json", b'{"text": "hi"', "error", FAILED),
        ("application/json", b'{"text": 1}', "error", FAILED),
        ("application/json", b"[]", "error", FAILED),
        ("application/json", b'{"text": "' + b"x" * (1 << 20) + b'"}', "error", FAILED),
        ("text/plain", b'{"text": "hi"}', "ephemeral", '{"text": "hi"}'),
        ("", b"hi", "ephemeral", "hi"),
        ("text/plain", b"", "nothing", ""),
    ],
)
async def test_how_an_answer_is_judged(
    chat: Mattermost, app: App, alice: User, content_type: str, body: bytes, kind: str, text: str
) -> None:
    app.answer = Reply(200, body, {"Content-Type": content_type} if content_type else {})

    seen = await chat.run(alice, "/cert")

    assert (seen.kind, seen.text, seen.status) == (kind, text, 200)


async def test_only_200_is_shown(chat: Mattermost, app: App, alice: User) -> None:
    app.answer = Reply(403, b"secret")

    seen = await chat.run(alice, "/cert")

    assert (seen.kind, seen.status, seen.log) == ("error", 403, "secret")
    assert seen.text == "Command with a trigger of 'cert' returned response 403 Forbidden."


async def test_nothing_is_tried_twice(chat: Mattermost, app: App, alice: User) -> None:
    app.answer = Reply(silent=True)
    chat.command_seconds = 0.01

    seen = await chat.run(alice, "/cert")

    assert (seen.kind, seen.text, seen.answer, len(app.heard)) == ("error", FAILED, None, 1)


async def test_refusals_of_its_own_send_nothing(chat: Mattermost, app: App, alice: User) -> None:
    chat.internal["certbob.example.org"] = "10.0.0.7"
    blocked = await chat.run(alice, "/cert")
    for setting in ("other.example.org, certbob.example.org", "10.0.0.0/8"):
        chat.allowed_internal_connections = setting
        assert (await chat.run(alice, "/cert")).kind == "nothing"
    chat.trusts_tls = False
    untrusted = await chat.run(alice, "/cert")

    assert blocked.text == untrusted.text == FAILED
    assert "address forbidden" in blocked.log
    assert "unknown authority" in untrusted.log
    assert len(app.heard) == 2


@pytest.mark.parametrize(("status", "methods"), [(302, ["POST", "GET"]), (307, ["POST", "POST"])])
async def test_redirects(chat: Mattermost, app: App, alice: User, status: int, methods: list[str]) -> None:
    app.answer = Reply(status, headers={"Location": "https://other.example.org/elsewhere"})

    await chat.run(alice, "/cert")

    first, second = app.heard
    assert [first.method, second.method] == methods
    assert second.body == (first.body if status == 307 else "")
    assert dict(second.headers)["referer"] == URL
    assert "authorization" not in dict(second.headers)


async def test_redirects_end(chat: Mattermost, app: App, alice: User) -> None:
    app.answer = Reply(308, headers={"Location": "/request"})

    seen = await chat.run(alice, "/cert")

    assert (seen.text, len(app.heard)) == (FAILED, 10)


async def test_slack_forms_are_rewritten(chat: Mattermost, app: App, alice: User) -> None:
    text = f"<!channel> <@{alice.id}> <{LINK}|words>"
    app.says({"text": text})
    rewritten = await chat.run(alice, "/cert")
    assert chat.link_metadata == {}
    app.says({"text": text, "skip_slack_parsing": True})
    left = await chat.run(alice, "/cert")

    assert rewritten.text == f"@channel @alice [words]({LINK})"
    assert rewritten.links == (LINK,)
    assert left.text == text
    assert list(chat.link_metadata) == [f"{LINK}|words>"]


FETCHED = {
    f"see {LINK}.": LINK,
    f"({LINK})": LINK,
    f"<{LINK}>": f"{LINK}>",
    f"![x]({LINK})": LINK,
    f"[![x]({LINK})](https://other.example.org)": LINK,
    f"\\[words]({LINK})": LINK,
    f"[words] ({LINK})": LINK,
    f"`open {LINK}": LINK,
    "www.example.org": "http://www.example.org",
}
NOT_FETCHED = [
    f"[words]({LINK})",
    f"[{LINK}]({LINK})",
    f"[a `]` \\] [b] c]({LINK} 'title')",
    f"`{LINK}`",
    f"``a ` {LINK}``",
    f"```\n{LINK}\n```",
    "https\\://certbob.example.org/",
    "certbob.example.org",
    "",
]


@pytest.mark.parametrize("text", [*FETCHED, *NOT_FETCHED])
async def test_what_is_previewed(chat: Mattermost, app: App, alice: User, text: str) -> None:
    app.says({"text": text, "skip_slack_parsing": True, "goto_location": LINK})

    seen = await chat.run(alice, "/cert")

    assert list(chat.link_metadata) == ([FETCHED[text]] if text in FETCHED else [])
    assert (seen.text, seen.goto_location) == (text, LINK)
    for fetch in app.heard[1:]:
        assert (fetch.method, fetch.body) == ("GET", "")
        assert fetch.headers[1:] == [
            ("user-agent", "Mattermost-Bot/1.1"),
            ("accept", "image/*"),
            ("accept", "text/html;q=0.8"),
            ("accept-encoding", "gzip"),
        ]


async def test_more_that_is_previewed_and_what_turns_it_off(chat: Mattermost, app: App, alice: User) -> None:
    app.says({"text": "a", "extra_responses": [{"text": f"{LINK}1 {LINK}2"}]})
    seen = await chat.run(alice, "/cert")
    app.says({"text": f"{LINK}3", "attachments": [{"image_url": f"{LINK}4", "title_link": f"{LINK}5"}]})
    await chat.run(alice, "/cert")
    app.says({"text": f"{LINK}6", "props": {"unsafe_links": "true"}})
    await chat.run(alice, "/cert")
    chat.old = True
    await chat.run(alice, "/cert")
    chat.link_previews = False
    app.says({"text": f"{LINK}7 ![x]({LINK}8)"})
    await chat.run(alice, "/cert")

    assert [further.kind for further in seen.extra] == ["ephemeral"]
    assert list(chat.link_metadata) == [LINK + number for number in "1468"]


@pytest.mark.parametrize("location", ["javascript:alert(1)", "java%0Ascript:x", " DATA:text/html,x"])
async def test_clients_open_no_scripts(chat: Mattermost, app: App, alice: User, location: str) -> None:
    app.says({"text": "a", "goto_location": location})

    assert (await chat.run(alice, "/cert")).goto_location == ""


def test_what_a_message_holds() -> None:
    found = read_markdown(f"[a]({LINK}&amp;b=\\_) ![i](/x.png =10x10) `pass-word` {LINK}_(1))")

    assert found.links == (f"{LINK}&b=_",)
    assert found.images == ("/x.png",)
    assert found.code == ("pass-word",)
    assert found.bare == (f"{LINK}_(1)",)


async def test_the_person_takes_the_file(chat: Mattermost, app: App, alice: User) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    app.file = serialize_key_and_certificates(None, key, None, None, BestAvailableEncryption(b"pass-word"))
    app.says({"text": f"`/cert` gave [words]({LINK}), with `pass-word`"})
    seen = await chat.run(alice, "/cert")

    taken = await chat.take(seen)

    assert isinstance(taken.key, ec.EllipticCurvePrivateKey)
    assert taken.key.private_numbers() == key.private_numbers()
    _, click, submission = app.heard
    assert dict(click.headers)["accept"].startswith("text/html,")
    assert (submission.method, submission.path) == ("POST", "/go")
    assert dict(submission.headers)["origin"] == "https://certbob.example.org"
    app.file = serialize_key_and_certificates(None, key, None, None, BestAvailableEncryption(b"other"))
    with pytest.raises(AssertionError, match="nothing in the message opens"):
        await chat.take(seen)
    with pytest.raises(AssertionError, match="page of its own"):
        await chat.click("https://chat.example.org:8443/issue")


def verified(chat: Mattermost, user: User, trigger_id: str) -> list[str]:
    """The parts of a good one, by nothing but its description. Raises ValueError, InvalidSignature."""
    key = load_der_public_key(base64.b64decode(chat.public_key))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    if len(trigger_id) > 1024:
        raise ValueError("too long")
    content = base64.b64decode(trigger_id, validate=True).decode()
    client, user_id, milliseconds, signature = content.split(":")
    if user_id != user.id or not milliseconds.isdecimal():
        raise ValueError("of somebody else, or no time")
    if abs(int(milliseconds) - chat.milliseconds()) > 60_000:
        raise ValueError("too old or too new")
    data = content[: -len(signature)].encode()
    key.verify(base64.b64decode(signature, validate=True), data, ec.ECDSA(hashes.SHA256()))
    return [client, user_id, milliseconds]


def test_trigger_ids_verify(chat: Mattermost, alice: User) -> None:
    trigger_id = chat.trigger_id(alice)
    assert len(verified(chat, alice, trigger_id)[0]) == 26

    chat.rotate_key()
    with pytest.raises(InvalidSignature):
        verified(chat, alice, trigger_id)
    chat.skew = timedelta(seconds=61)
    verified(chat, alice, chat.trigger_id(alice))


@pytest.mark.parametrize("broken", BROKEN_TRIGGER_IDS)
def test_broken_trigger_ids_do_not(chat: Mattermost, alice: User, broken: str) -> None:
    with pytest.raises((ValueError, InvalidSignature)):
        verified(chat, alice, BROKEN_TRIGGER_IDS[broken](chat, alice))


async def test_the_trigger_key_is_published(chat: Mattermost, api: httpx2.AsyncClient) -> None:
    del api.headers["Authorization"]
    assert (await api.get("config/client")).status_code == 200
    chat.old = True
    assert (await api.get("config/client")).status_code == 501
    answer = await api.get("config/client?format=old")

    assert answer.json()["AsymmetricSigningPublicKey"] == chat.public_key
    assert answer.json()["SiteURL"] == "https://chat.example.org"
    assert answer.headers["X-Version-Id"].startswith("11.6.0.11.6.0.")
    assert (await api.get("system/ping")).json()["status"] == "OK"


async def test_what_a_bot_learns(chat: Mattermost, api: httpx2.AsyncClient, alice: User) -> None:
    bot = chat.add_bot("certbob")
    api.headers["Authorization"] = f"Bearer {chat.new_access_token(bot)}"
    guest = chat.add_user("gina", roles=GUEST)
    me, person, nobody = [(await api.get(f"users/{i}")) for i in ("me", alice.id, new_id())]
    assert (me.json()["id"], me.json()["is_bot"]) == (bot.id, True)
    assert person.json()["email"] == "alice@example.org"
    assert {"is_bot", "email_verified"}.isdisjoint(person.json())
    assert (await api.get(f"users/{guest.id}")).json()["roles"] == "system_guest"
    assert nobody.status_code == 404

    alice.username, alice.email = "the.ceo", "ceo@example.org"
    chat.deactivate(alice)
    chat.show_email_address = False
    changed = (await api.get(f"users/{alice.id}")).json()
    assert (changed["username"], changed["email"]) == ("the.ceo", "")
    assert changed["delete_at"] > 0
    chat.deactivate(bot)
    refused = await api.get("users/me")
    assert refused.status_code == 401
    assert refused.json()["id"] == "api.context.session_expired.app_error"
    assert refused.json()["request_id"] == refused.headers["X-Request-Id"]


async def test_direct_messages(chat: Mattermost, app: App, api: httpx2.AsyncClient, alice: User) -> None:
    bot = chat.add_bot("certbob")
    api.headers["Authorization"] = f"Bearer {chat.new_access_token(bot)}"
    channel = (await api.post("channels/direct", json=[bot.id, alice.id])).json()
    posted = await api.post("posts", json={"channel_id": channel["id"], "message": f"see {LINK}"})

    assert channel["name"] == "__".join(sorted([bot.id, alice.id]))
    assert posted.status_code == 201
    assert chat.direct_messages == [(alice, f"see {LINK}")]
    assert list(chat.link_metadata) == [LINK]
    assert (await api.post("channels/direct", json=[alice.id, alice.id])).status_code == 403
    assert (await api.post("posts", json={"channel_id": new_id(), "message": "x"})).status_code == 403
    assert (await api.post("posts/ephemeral", json={})).status_code == 403


async def test_commands(chat: Mattermost, app: App, api: httpx2.AsyncClient, alice: User) -> None:
    chat.add_team("other", members=[alice])
    found = [team["name"] for team in (await api.get("teams")).json()]
    team = (await api.get("teams/name/other")).json()
    wanted = {"team_id": team["id"], "trigger": "cert", "method": "P", "url": URL}
    created = await api.post("commands", json=wanted)
    command = created.json()
    duplicate = await api.post("commands", json=wanted)
    assert (found, created.status_code, duplicate.status_code) == (["acme", "other"], 201, 400)
    assert duplicate.json()["id"] == "api.command.duplicate_trigger.app_error"
    assert (await api.post("commands", json={**wanted, "trigger": "a b"})).status_code == 400
    assert (await api.get("teams/name/none")).status_code == 404

    path = f"commands/{command['id']}"
    updated = (await api.put(path, json={**command, "token": "x", "description": "new"})).json()
    assert (updated["token"], updated["description"]) == (command["token"], "new")
    assert (await api.put(path, json={**command, "id": ""})).status_code == 400
    regenerated = (await api.put(f"{path}/regen_token")).json()
    assert regenerated["token"] != command["token"]
    listed = (await api.get("commands", params={"team_id": team["id"], "custom_only": "true"})).json()
    assert [one["token"] for one in listed] == [regenerated["token"]]
    await chat.run(alice, "/cert", team=chat.teams[team["id"]])
    assert app.heard[-1].form["token"] == [regenerated["token"]]

    api.headers["Authorization"] = f"Bearer {chat.new_access_token(alice)}"
    assert (await api.post("commands", json={**wanted, "trigger": "other"})).status_code == 403
    assert (await api.put(f"{path}/regen_token")).status_code == 404
    assert (await api.get("teams")).json() == []
    assert [one["name"] for one in (await api.get("users/me/teams")).json()] == ["acme", "other"]
    chat.teams[team["id"]].administrators.add(alice.id)
    assert (await api.put(f"{path}/regen_token")).status_code == 200


async def test_response_urls(
    chat: Mattermost, app: App, api: httpx2.AsyncClient, alice: User, clock: FakeClock
) -> None:
    await chat.run(alice, "/cert")
    (url,) = app.heard[0].form["response_url"]
    answers = [await api.post(url, json={"text": "late"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [400]
    assert (answers[0].text, answers[5].json()["message"]) == ("ok", "Invalid webhook.")
    assert len(chat.response_url_uses) == 6

    await chat.run(alice, "/cert")
    clock.advance(timedelta(minutes=30))
    assert (await api.post(app.heard[1].form["response_url"][0])).status_code == 404


async def test_faults(chat: Mattermost, api: httpx2.AsyncClient, alice: User) -> None:
    chat.answers["users"] = FAULTS["429"]
    chat.answers["users/me"] = FAULTS["cut"]
    assert (await api.get(f"users/{alice.id}")).status_code == 429
    with pytest.raises(httpx2.RemoteProtocolError):
        await api.get("users/me")
    assert (await api.get("teams")).status_code == 200
    chat.answers[""] = FAULTS["2 MB"]
    assert len((await api.get("teams")).content) > 2_000_000
    assert len(chat.asked("teams")) == 2


async def test_on_sockets(clock: FakeClock) -> None:
    hits: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hits.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with serve_mattermost(clock) as chat, httpx2.AsyncClient(base_url=chat.site_url) as api:
        ping = await api.get("api/v4/system/ping")
        chat.answers[""] = FAULTS["cut"]
        with pytest.raises(httpx2.RemoteProtocolError):
            await api.get("api/v4/system/ping")
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        alice = chat.add_user("alice")
        chat.add_command(chat.add_team("acme"), f"http://127.0.0.1:{port}/request")
        seen = await chat.run(alice, "/cert")
        server.close()
        await server.wait_closed()
        refused = await chat.run(alice, "/cert")

    assert ping.headers.get_list("Date") == [ping.headers["Date"]]
    assert seen.text == refused.text == FAILED
    assert len(hits) == 1
    lines = hits[0].decode().split("\r\n")
    assert lines[0] == "POST /request HTTP/1.1"
    assert [line.partition(":")[0] for line in lines[1:-2]] == [
        "Host",
        "User-Agent",
        "Content-Length",
        "Accept",
        "Authorization",
        "Content-Type",
        "Accept-Encoding",
    ]
