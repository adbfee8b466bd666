"""A Mattermost server, over its REST API (v4): who somebody is, a message to somebody, its slash commands.

Only the configured address is called, never one that a request names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx2

from certbob.outgoing import HEADERS, UnfitAnswer, WholeAnswers, in_time
from certbob.secret import Secret
from certbob.strict_json import json_object, json_value

ANSWER_SECONDS = 5.0
LOOKUP_SECONDS = 1.0  # somebody waits for the answer to a command
USER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class ServerProblem(Exception):
    """It did not answer, or not as it should; the message is for operators. `status`: None without one."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class ChatUser:
    """`email` is empty where the server does not show addresses."""

    id: str
    username: str
    email: str
    is_bot: bool
    is_guest: bool
    is_deactivated: bool


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """A slash command as the server keeps it."""

    id: str
    token: Secret
    trigger: str
    url: str
    method: str  # "P" or "G"
    told: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """`date`: the server's clock; None where it does not tell."""

    version: str
    date: datetime | None


class ChatServer:
    """`url`: its site URL. `bot_token`: of the bot account that CertBob is there; None: it is nobody."""

    def __init__(
        self, url: str, bot_token: Secret | None, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self.url = url
        self.has_bot = bot_token is not None
        self._bot_token = bot_token
        self._transport = WholeAnswers(transport)
        self._http = httpx2.AsyncClient(
            transport=self._transport,
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=3),
            trust_env=False,
            headers=HEADERS,
        )
        self._bot_id: str | None = None

    async def trigger_key(self) -> str:
        """The public key it signs slash commands with, base64 of DER. Raises ServerProblem."""
        config = await self.client_config()
        key = config.get("AsymmetricSigningPublicKey")
        if not isinstance(key, str) or not key:
            raise ServerProblem("it publishes no key (AsymmetricSigningPublicKey)")
        return key

    async def client_config(self, *, as_bot: bool = False) -> Mapping[str, Any]:
        """What it tells everybody, and a bot more (without `format=old` older servers answer 501).

        Raises ServerProblem.
        """
        return await self._object("GET", "config/client?format=old", self._bot_token if as_bot else None)

    async def facts(self) -> ServerFacts:
        """Raises ServerProblem."""
        answer = await self._call("GET", "system/ping")
        try:
            date = parsedate_to_datetime(answer.headers.get("Date", ""))
        except (ValueError, OverflowError):
            date = None
        # "11.6.0.11.6.0.<build>.<enterprise>"
        version = ".".join(answer.headers.get("X-Version-ID", "").split(".")[:3])
        return ServerFacts(version, date if date and date.tzinfo else None)

    async def user(self, user_id: str, *, seconds: float = LOOKUP_SECONDS) -> ChatUser:
        """As the bot sees the account. Raises ServerProblem."""
        if not USER_ID.fullmatch(user_id):
            raise ServerProblem("not the id of an account")
        return _user(await self._object("GET", f"users/{user_id}", self._bot_token, seconds=seconds))

    async def me(self, token: Secret | None = None) -> ChatUser:
        """Whose the token is; without one the bot. Raises ServerProblem."""
        return _user(await self._object("GET", "users/me", token or self._bot_token))

    async def send_direct(self, user_id: str, message: str) -> None:
        """A direct message of the bot; it is stored there for good. Raises ServerProblem."""
        await self.post(await self.direct_channel(user_id), message)

    async def direct_channel(self, user_id: str) -> str:
        """The id of the one between somebody and the bot; nobody sees an empty one. Raises ServerProblem."""
        if self._bot_id is None:
            self._bot_id = (await self.me()).id
        channel = await self._object("POST", "channels/direct", self._bot_token, json=[self._bot_id, user_id])
        return _text(channel, "id")

    async def post(self, channel_id: str, message: str) -> None:
        """Raises ServerProblem; with a status below 500 nothing was posted."""
        post = {"channel_id": channel_id, "message": message}
        await self._object("POST", "posts", self._bot_token, json=post)

    async def team_id(self, name: str, token: Secret) -> str:
        """Of the team of this name in addresses. Raises ServerProblem."""
        return _text(await self._object("GET", f"teams/name/{quote(name, safe='')}", token), "id")

    async def commands(self, team_id: str, token: Secret) -> list[ChatCommand]:
        """The team's own slash commands. Raises ServerProblem."""
        answer = await self._call("GET", f"commands?team_id={team_id}&custom_only=true", token)
        try:
            told = json_value(answer.content)
        except ValueError as error:
            raise ServerProblem(f"it did not answer JSON: {error}") from error
        if not isinstance(told, list) or not all(isinstance(command, dict) for command in told):
            raise ServerProblem("it did not answer a list of commands")
        return [_command(command) for command in told]

    async def create_command(self, facts: Mapping[str, Any], token: Secret) -> ChatCommand:
        """Raises ServerProblem: 400 where the team has a command of that trigger."""
        return _command(await self._object("POST", "commands", token, json=facts))

    async def update_command(
        self, command: ChatCommand, facts: Mapping[str, Any], token: Secret
    ) -> ChatCommand:
        """Its token stays, and so does what `facts` do not name. Raises ServerProblem."""
        return _command(
            await self._object("PUT", f"commands/{command.id}", token, json={**command.told, **facts})
        )

    async def new_token(self, command_id: str, token: Secret) -> Secret:
        """A new token for a slash command; the old one is over at once. Raises ServerProblem."""
        told = await self._object("PUT", f"commands/{command_id}/regen_token", token)
        return Secret(_text(told, "token"))

    async def close(self) -> None:
        await self._http.aclose()
        await self._transport.close()

    async def _object(
        self,
        method: str,
        path: str,
        token: Secret | None = None,
        *,
        json: Any = None,
        seconds: float = ANSWER_SECONDS,
    ) -> dict[str, Any]:
        answer = await self._call(method, path, token, json=json, seconds=seconds)
        try:
            return json_object(answer.content)
        except ValueError as error:
            raise ServerProblem(f"{self.url} did not answer a JSON object: {error}") from error

    async def _call(
        self,
        method: str,
        path: str,
        token: Secret | None = None,
        *,
        json: Any = None,
        seconds: float = ANSWER_SECONDS,
    ) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token.reveal()}"} if token else {}
        request = self._http.request(method, f"{self.url}/api/v4/{path}", headers=headers, json=json)
        try:
            answer = await in_time(request, seconds)
        except UnfitAnswer as error:
            raise ServerProblem(f"{self.url}: {error}") from error
        except (httpx2.LocalProtocolError, ValueError):
            # Their words quote the header, and so the token.
            raise ServerProblem(f"{self.url} cannot be asked like that: is the token one?") from None
        except (httpx2.HTTPError, OSError, TimeoutError) as error:
            reason = "it does not answer in time" if isinstance(error, TimeoutError) else str(error)
            raise ServerProblem(f"{self.url}: {reason or type(error).__name__}") from error
        if answer.status_code not in (200, 201):
            raise ServerProblem(
                f"{self.url} answered {answer.status_code}{_words(answer)}", answer.status_code
            )
        return answer


def _words(answer: httpx2.Response) -> str:
    """What the server says about an error, as far as it can be read."""
    try:
        return f": {str(json_object(answer.content).get('message', ''))!r:.200}"
    except ValueError:
        return ""


def _user(told: Mapping[str, Any]) -> ChatUser:
    return ChatUser(
        id=_text(told, "id"),
        username=_text(told, "username"),
        email=told["email"] if isinstance(told.get("email"), str) else "",
        is_bot=told.get("is_bot") is True,
        is_guest="system_guest" in str(told.get("roles", "")).split(),
        is_deactivated=told.get("delete_at", 0) != 0,
    )


def _command(told: Mapping[str, Any]) -> ChatCommand:
    return ChatCommand(
        id=_text(told, "id"),
        token=Secret(_text(told, "token")),
        trigger=_text(told, "trigger"),
        url=_text(told, "url"),
        method=_text(told, "method"),
        told=told,
    )


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if not isinstance(value, str) or not value:
        raise ServerProblem(f"its answer has no {name}")
    return value
