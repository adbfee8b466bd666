"""The accounts, commands and REST API of the fake Mattermost; `tests.support.mattermost` makes it chat.

    chat.answers["users"] = FAULTS["500"]       # for every path below /api/v4/users; "" is for everything
    chat.answers["users/me"] = Reply(silent=True)

Paths, permissions and errors are those of Mattermost 11; where versions differ, `old` takes the earlier way.
"""

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.hostile_provider import Clock, Message, Receive, Request, Send

SITE_URL = "https://chat.example.org"
ADMINISTRATOR = "system_user system_admin"
GUEST = "system_guest"
HOOK_USES, HOOK_LIFE = 5, timedelta(minutes=30)


def new_id() -> str:
    """26 of [a-z0-9], about 130 bit: identifiers and tokens."""
    return "".join(secrets.choice("ybndrfg8ejkmcpqxot1uwisza345h769") for _ in range(26))


@dataclass(slots=True)
class User:
    """People may change their `username` and `email` by themselves at any time: assign to them."""

    username: str
    email: str = ""
    roles: str = "system_user"
    is_bot: bool = False
    auth_service: str = ""
    delete_at: int = 0  # milliseconds; 0: not deactivated
    id: str = field(default_factory=new_id)

    @property
    def is_administrator(self) -> bool:
        return "system_admin" in self.roles.split()


@dataclass(frozen=True, slots=True)
class Channel:
    """`members`: identifiers, of direct messages only."""

    name: str
    members: frozenset[str] = frozenset()
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class Team:
    """`members` and `administrators` are identifiers of users."""

    name: str
    members: set[str]
    administrators: set[str] = field(default_factory=set)
    channels: dict[str, Channel] = field(
        default_factory=lambda: {name: Channel(name) for name in ("town-square", "off-topic")}
    )
    id: str = field(default_factory=new_id)


@dataclass(slots=True)
class Command:
    """`method`: P for POST, G for GET."""

    team_id: str
    url: str
    trigger: str = "cert"
    method: str = "P"
    display_name: str = ""
    description: str = ""
    auto_complete: bool = False
    auto_complete_desc: str = ""
    auto_complete_hint: str = ""
    username: str = ""
    icon_url: str = ""
    creator_id: str = ""
    create_at: int = 0
    update_at: int = 0
    delete_at: int = 0
    id: str = field(default_factory=new_id)
    token: str = field(default_factory=new_id)


SERVER_SIDE = ("id", "token", "create_at", "update_at", "delete_at", "creator_id", "team_id")


@dataclass(slots=True)
class Hook:
    """What a `response_url` leads to."""

    expires: datetime
    uses: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """`after`: what is waited for first. `silent`: it never comes. `cut`: the connection ends in the body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: asyncio.Event | None = None
    silent: bool = False
    cut: bool = False


class AppError(Exception):
    """The one form in which Mattermost says no."""

    def __init__(self, status: int, identifier: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.identifier = identifier

    def reply(self, request_id: str) -> Reply:
        error = {
            "id": self.identifier,
            "message": str(self),
            "detailed_error": "",
            "request_id": request_id,
            "status_code": self.status,
        }
        return json_reply(error, self.status)


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def forbidden() -> AppError:
    return AppError(403, "api.context.permissions.app_error", "You do not have the appropriate permissions.")


def session_expired() -> AppError:
    identifier = "api.context.session_expired.app_error"
    return AppError(401, identifier, "Invalid or expired session, please login again.")


def not_found() -> AppError:
    return AppError(404, "api.context.404.app_error", "Sorry, we could not find the page.")


def no_such_user() -> AppError:
    return AppError(404, "app.user.missing_account.const", "Unable to find the user.")


def invalid(parameter: str) -> AppError:
    message = f"Invalid or missing {parameter} in request body."
    return AppError(400, "api.context.invalid_body_param.app_error", message)


HTML = {"Content-Type": "text/html; charset=utf-8"}
WEB_APP = Reply(200, b"<!DOCTYPE html><html><title>Mattermost</title></html>", HTML)
FAULTS: Mapping[str, Reply] = {
    "401": session_expired().reply(new_id()),
    "404": not_found().reply(new_id()),
    "429": Reply(429, b"limit exceeded\n", {"Content-Type": "text/plain", "Retry-After": "1"}),
    "500": AppError(500, "app.user.get.app_error", "We encountered an error.").reply(new_id()),
    "HTML": WEB_APP,
    "redirecting": Reply(302, headers={"Location": "https://elsewhere.example.org/"}),
    "2 MB": Reply(200, b'{"id": "' + b"x" * 2_000_000 + b'"}', {"Content-Type": "application/json"}),
    "cut": Reply(200, b'{"id": "', {"Content-Type": "application/json", "Content-Length": "400"}, cut=True),
    "silent": Reply(silent=True),
}

Answer = Reply | Callable[[Request], Reply]


class Server:
    """An ASGI application. `skew`: how far its clock is from everybody else's.

    `answers` replaces whole answers, by the beginning of the path below /api/v4; the longest one counts.
    """

    def __init__(self, clock: Clock, *, site_url: str = SITE_URL, version: str = "11.6.0") -> None:
        self.site_url = site_url
        self.version = version
        self.old = False  # up to 9.x
        self.skew = timedelta()
        self.show_email_address = True
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self.users: dict[str, User] = {}
        self.teams: dict[str, Team] = {}
        self.commands: dict[str, Command] = {}
        self.access_tokens: dict[str, str] = {}  # to identifiers of users
        self.direct_messages: list[tuple[User, str]] = []
        self.response_url_uses: list[Request] = []
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self._direct_channels: dict[str, Channel] = {}
        self._hooks: dict[str, Hook] = {}
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now() + self.skew

    def milliseconds(self, moment: datetime | None = None) -> int:
        return int((moment or self.now()).timestamp() * 1000)

    @property
    def public_key(self) -> str:
        """As clients get it: base64 of a SubjectPublicKeyInfo."""
        der = self.signing_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()

    def rotate_key(self) -> None:
        self.signing_key = ec.generate_private_key(ec.SECP256R1())

    def add_user(self, username: str, **facts: Any) -> User:
        """`facts` as in `User`. The e-mail address is made of the name when none is given."""
        user = User(username, **{"email": f"{username}@example.org", **facts})
        self.users[user.id] = user
        return user

    def add_bot(self, username: str) -> User:
        return self.add_user(username, email=f"{username}@localhost", is_bot=True)

    def deactivate(self, user: User) -> None:
        user.delete_at = self.milliseconds()

    def new_access_token(self, user: User) -> str:
        token = new_id()
        self.access_tokens[token] = user.id
        return token

    def add_team(self, name: str, *, members: Iterable[User] | None = None) -> Team:
        """Without `members` everybody who is there by now, bots apart."""
        chosen = members if members is not None else [u for u in self.users.values() if not u.is_bot]
        team = Team(name, {user.id for user in chosen})
        self.teams[team.id] = team
        return team

    def add_command(self, team: Team, url: str, **facts: Any) -> Command:
        """`facts` as in `Command`."""
        command = Command(team.id, url, **facts)
        self.commands[command.id] = command
        return command

    def direct_channel(self, *users: User) -> Channel:
        members = sorted(user.id for user in users)
        name = "__".join(members)
        return self._direct_channels.setdefault(name, Channel(name, frozenset(members)))

    def new_hook(self) -> str:
        identifier = new_id()
        self._hooks[identifier] = Hook(self.now() + HOOK_LIFE)
        return identifier

    async def preview(self, message: str) -> None:
        """Called with every message before it counts as delivered. The API alone fetches nothing."""

    def asked(self, path: str) -> list[Request]:
        """What reached one path below /api/v4."""
        return [request for request in self.requests if request.path == f"/api/v4/{path}"]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the lifespan of a server
            return
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        request = Request(
            scope["method"],
            scope["path"],
            dict(parse_qsl(scope["query_string"].decode())),
            {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]},
            body + message.get("body", b""),
        )
        self.requests.append(request)
        request_id = new_id()
        try:
            reply = await self._reply(request)
        except AppError as error:
            reply = error.reply(request_id)
        headers = {
            "Date": format_datetime(self.now().astimezone(UTC), usegmt=True),
            "X-Request-Id": request_id,
            "X-Version-Id": f"{self.version}.{self.version}.{'0' * 32}.false",
        }
        await _send(reply, receive, send, headers)

    async def _reply(self, request: Request) -> Reply:
        if request.path.startswith("/hooks/commands/"):
            return self._use_hook(request)
        if not request.path.startswith("/api/v4/"):
            return WEB_APP
        path = request.path.removeprefix("/api/v4/")
        replaced = [key for key in self.answers if not key or f"{path}/".startswith(f"{key}/")]
        if replaced:
            answer = self.answers[max(replaced, key=len)]
            return answer if isinstance(answer, Reply) else answer(request)
        return await self._good(request, path.split("/"))

    async def _good(self, request: Request, path: list[str]) -> Reply:
        """What it says by itself. Raises AppError."""
        match request.method, path:
            case "GET", ["system", "ping"]:
                return json_reply({"ActiveSearchBackend": "database", "status": "OK"})
            case "GET", ["config", "client"]:
                return json_reply(self._client_config(request))
        viewer = self._signed_in(request)
        match request.method, path:
            case "GET", ["users", "me", "teams"]:
                return json_reply([_team(t) for t in self.teams.values() if viewer.id in t.members])
            case "GET", ["users", identifier]:
                return json_reply(self._user(viewer.id if identifier == "me" else identifier, viewer))
            case "GET", ["teams"]:
                return json_reply(self._teams(request, viewer))
            case "GET", ["teams", "name", name]:
                return json_reply(_team(self._named_team(name, viewer)))
            case "GET", ["commands"]:
                return json_reply(self._list_commands(request, viewer))
            case "POST", ["commands"]:
                return json_reply(asdict(self._create_command(_object(request), viewer)), 201)
            case "PUT", ["commands", identifier]:
                command = self._managed_command(identifier, viewer)
                return json_reply(asdict(self._update_command(command, _object(request))))
            case "PUT", ["commands", identifier, "regen_token"]:
                command = self._managed_command(identifier, viewer)
                command.token = new_id()
                return json_reply({"token": command.token})
            case "POST", ["channels", "direct"]:
                return json_reply(self._open_direct_channel(_json(request), viewer), 201)
            case "POST", ["posts"]:
                return json_reply(await self._create_post(_object(request), viewer), 201)
            case "POST", ["posts", "ephemeral"]:
                raise forbidden()
        raise not_found()

    def _client_config(self, request: Request) -> dict[str, str]:
        """More of it for who is signed in."""
        if self.old and request.query.get("format") != "old":
            raise AppError(501, "api.config.client.old_format.app_error", "Please use format=old.")
        limited = {
            "AsymmetricSigningPublicKey": self.public_key,
            "BuildNumber": self.version,
            "SiteURL": self.site_url,
            "Version": self.version,
        }
        if "authorization" not in request.headers:
            return limited
        self._signed_in(request)
        return limited | {"ShowEmailAddress": str(self.show_email_address).lower()}

    def _signed_in(self, request: Request) -> User:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        user = self.users.get(self.access_tokens.get(token, ""))
        if user is None or user.delete_at or scheme.lower() != "bearer":
            raise session_expired()
        return user

    def _user(self, identifier: str, viewer: User) -> dict[str, Any]:
        if re.fullmatch("[a-z0-9]{26}", identifier) is None:
            message = "Invalid or missing user_id parameter in request URL."
            raise AppError(400, "api.context.invalid_url_param.app_error", message)
        user = self.users.get(identifier)
        if user is None:
            raise no_such_user()
        sees_email = self.show_email_address or viewer.is_administrator or viewer is user
        shown = {
            "id": user.id,
            "delete_at": user.delete_at,
            "username": user.username,
            "auth_data": "",
            "auth_service": user.auth_service if viewer.is_administrator else "",
            "email": user.email if sees_email else "",
            "nickname": "",
            "first_name": "",
            "last_name": "",
            "roles": user.roles,
            "locale": "en",
        }
        return shown | ({"is_bot": True, "bot_description": ""} if user.is_bot else {})

    def _teams(self, request: Request, viewer: User) -> list[dict[str, Any]]:
        """All for an administrator; others see those that anybody may join, and here these are none."""
        page, size = int(request.query.get("page", "0")), int(request.query.get("per_page", "60"))
        teams = list(self.teams.values()) if viewer.is_administrator else []
        return [_team(team) for team in teams[page * size : (page + 1) * size]]

    def _named_team(self, name: str, viewer: User) -> Team:
        for team in self.teams.values():
            if team.name == name:
                if not viewer.is_administrator and viewer.id not in team.members:
                    raise forbidden()
                return team
        raise AppError(404, "app.team.get_by_name.missing.app_error", "Unable to find the existing team.")

    def _manages(self, viewer: User, team_id: str) -> bool:
        team = self.teams.get(team_id)
        return viewer.is_administrator or (team is not None and viewer.id in team.administrators)

    def _list_commands(self, request: Request, viewer: User) -> list[dict[str, Any]]:
        team_id = request.query.get("team_id", "")
        if not team_id:
            raise invalid("team_id")
        is_custom_only = request.query.get("custom_only") == "true"
        is_member = team_id in self.teams and viewer.id in self.teams[team_id].members
        if not self._manages(viewer, team_id) and (is_custom_only or not is_member):
            raise forbidden()
        found = [asdict(command) for command in self.commands.values() if command.team_id == team_id]
        hidden = {} if is_custom_only else dict.fromkeys(("token", "creator_id", "method", "url"), "")
        return [command | hidden for command in found]

    def _managed_command(self, identifier: str, viewer: User) -> Command:
        """To those who may not change it, it does not exist."""
        command = self.commands.get(identifier)
        if command is None or not self._manages(viewer, command.team_id):
            raise AppError(404, "store.sql_command.get.missing.app_error", "Command does not exist.")
        return command

    def _create_command(self, body: dict[str, Any], viewer: User) -> Command:
        team_id = str(body.get("team_id", ""))
        if not self._manages(viewer, team_id):
            raise forbidden()
        facts = self._editable(body, team_id, "")
        command = Command(team_id, **facts, creator_id=viewer.id, create_at=self.milliseconds())
        command.update_at = command.create_at
        self.commands[command.id] = command
        return command

    def _update_command(self, command: Command, body: dict[str, Any]) -> Command:
        """What the body leaves out is emptied; identifier, token and team stay."""
        if body.get("id") != command.id:
            raise invalid("command")
        if body.get("team_id") != command.team_id:
            raise AppError(400, "api.command.team_mismatch.app_error", "Cannot update commands across teams.")
        for name, value in self._editable(body, command.team_id, command.id).items():
            setattr(command, name, value)
        command.update_at = self.milliseconds()
        return command

    def _editable(self, body: dict[str, Any], team_id: str, own_id: str) -> dict[str, Any]:
        facts: dict[str, Any] = {
            field_.name: body.get(field_.name, False if field_.type is bool else "")
            for field_ in fields(Command)
            if field_.name not in SERVER_SIDE
        }
        facts["trigger"] = facts["trigger"].lower()
        fits = {
            "trigger": re.fullmatch(r"(?!/)[\w./-]{1,128}", facts["trigger"], re.ASCII),
            "url": re.match("https?://.", facts["url"]) and len(facts["url"]) <= 1024,
            "method": facts["method"] in ("P", "G"),
            "display_name": len(facts["display_name"]) <= 64,
            "description": len(facts["description"]) <= 128,
        }
        for name, is_good in fits.items():
            if not is_good:
                raise AppError(400, f"model.command.is_valid.{name}.app_error", f"Invalid {name}.")
        others = [c for c in self.commands.values() if c.team_id == team_id and c.id != own_id]
        if any(command.trigger == facts["trigger"] for command in others):
            message = "This trigger word is already in use. Please choose another word."
            raise AppError(400, "api.command.duplicate_trigger.app_error", message)
        return facts

    def _open_direct_channel(self, body: Any, viewer: User) -> dict[str, Any]:
        if not isinstance(body, list) or len(body) != 2:
            raise invalid("user_ids")
        if viewer.id not in body and not viewer.is_administrator:
            raise forbidden()
        if any(identifier not in self.users for identifier in body):
            raise no_such_user()
        channel = self.direct_channel(*(self.users[identifier] for identifier in body))
        return {"id": channel.id, "type": "D", "name": channel.name, "team_id": "", "delete_at": 0}

    async def _create_post(self, body: dict[str, Any], viewer: User) -> dict[str, Any]:
        """In direct messages; other channels have no members here."""
        channel = next((c for c in self._direct_channels.values() if c.id == body.get("channel_id")), None)
        if channel is None or viewer.id not in channel.members:
            raise forbidden()
        message = str(body.get("message", ""))
        await self.preview(message)
        receiver = next(iter(channel.members - {viewer.id}), viewer.id)
        self.direct_messages.append((self.users[receiver], message))
        return {"id": new_id(), "channel_id": channel.id, "user_id": viewer.id, "message": message}

    def _use_hook(self, request: Request) -> Reply:
        self.response_url_uses.append(request)
        hook = self._hooks.get(request.path.rpartition("/")[2])
        if hook is None or self.now() >= hook.expires:
            raise AppError(404, "app.command_webhook.get.missing", "Unable to get the webhook.")
        if hook.uses == HOOK_USES:
            raise AppError(400, "app.command_webhook.try_use.invalid", "Invalid webhook.")
        hook.uses += 1
        return Reply(200, b"ok", {"Content-Type": "text/plain"})


def _team(team: Team) -> dict[str, Any]:
    return {"id": team.id, "name": team.name, "display_name": team.name, "type": "O", "delete_at": 0}


def _json(request: Request) -> Any:
    try:
        return json.loads(request.body)
    except ValueError:
        raise invalid("body") from None


def _object(request: Request) -> dict[str, Any]:
    value = _json(request)
    if not isinstance(value, dict):
        raise invalid("body")
    return value


async def _send(reply: Reply, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
    if reply.after is not None:
        await reply.after.wait()
    if reply.silent:
        await receive()  # until the other side has gone
        return
    all_headers = {**headers, **reply.headers}.items()
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in all_headers],
        }
    )
    await send({"type": "http.response.body", "body": reply.body, "more_body": reply.cut})
    if reply.cut:
        # A server closes the connection after this; in process it is what the client would see then.
        raise httpx2.RemoteProtocolError("peer closed connection without sending complete message body")
