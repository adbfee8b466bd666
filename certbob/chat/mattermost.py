"""Mattermost's slash command `/cert`: is it one, whose is it, and how are people answered?

A valid command is all the proof there is, so two things make it valid: the command's token, which only the
server and those who may edit the command know, and where it is signed the signature (`certbob.chat.trigger`).
"""

import hmac
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from certbob.chat.accounts import ChatAccounts, IdentityMode
from certbob.chat.checkup import Checkup
from certbob.chat.messages import Messages
from certbob.chat.server import USER_ID, ChatServer, ServerProblem
from certbob.chat.trigger import BadTrigger, TriggerCheck
from certbob.errors import (
    BadRequest,
    MailProblem,
    NoKey,
    NotFromChat,
    Problem,
    SignInBlocked,
    TooManyCommands,
)
from certbob.identity import Identity
from certbob.ports import Clock, TryStore
from certbob.secret import Secret
from certbob.services import Finding, SlashCommand
from certbob.tasks import Tasks

log = logging.getLogger(__name__)

COMMANDS_PER_MINUTE = 10  # of one person
REFUSALS = 20  # in a minute, of one address
MINUTE = timedelta(minutes=1)
MAX_WORDS = 50
_NAME = re.compile(r"/[A-Za-z0-9_./-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CommandToken:
    """`team`: the id of the only team that it is good for."""

    token: Secret
    team: str | None = None


class Mattermost:
    """Implements `services.Chat`. `trigger` None: signed ids are not looked at."""

    def __init__(
        self,
        *,
        tokens: Sequence[CommandToken],
        trigger: TriggerCheck | None,
        accounts: ChatAccounts,
        mode: IdentityMode,
        has_addresses: bool,
        messages: Messages,
        checkup: Checkup,
        server: ChatServer | None,
        tries: TryStore,
        clock: Clock,
        opens_links: bool,
    ) -> None:
        self.opens_links = opens_links
        self.links_accounts = mode is IdentityMode.LINK
        self.has_addresses = has_addresses
        self._tokens = tuple(tokens)
        self._trigger = trigger
        self._accounts = accounts
        self._messages = messages
        self._checkup = checkup
        self._server = server
        self._tries = tries
        self._clock = clock
        self._tasks = Tasks()

    async def accept(
        self, fields: Mapping[str, str], authorization: str | None, address: str
    ) -> SlashCommand:
        if not self._has_token(fields, authorization):
            await self._count_refusal(address)
            raise NotFromChat("its token is none of the configured ones")
        user_id = fields.get("user_id", "")
        if not USER_ID.fullmatch(user_id):
            raise BadRequest("no user_id that could be one")
        name = fields.get("command", "")
        return SlashCommand(
            name=name if _NAME.fullmatch(name) else "/cert",
            user_id=user_id,
            user_name=fields.get("user_name", ""),
            words=tuple(fields.get("text", "").split()[:MAX_WORDS]),
            signed=fields.get("trigger_id", ""),
        )

    async def verify(self, command: SlashCommand, address: str) -> None:
        if self._trigger is None:
            return
        try:
            await self._trigger.check(command.signed, command.user_id)
        except BadTrigger as problem:
            await self._count_refusal(address)
            raise NotFromChat(f"its trigger_id: {problem}") from problem

    async def identity(self, command: SlashCommand) -> Identity:
        tries = await self._tries.count_try(
            f"chat:{command.user_id}",
            now=self._clock.now(),
            limit=COMMANDS_PER_MINUTE,
            window=MINUTE,
            ban=MINUTE,
        )
        if tries.count > COMMANDS_PER_MINUTE:
            raise TooManyCommands(tries.until)
        return await self._accounts.identity(command)

    async def name(self, command: SlashCommand) -> str:
        return await self._accounts.name(command)

    def write(self, message: str, /, **facts: Any) -> str:
        return self._messages.write(message, **facts)

    def look(self) -> None:
        if self._trigger is not None:
            self._trigger.look()

    def examine(self) -> AsyncIterator[Finding]:
        return self._checkup.examine()

    async def accept_key(self) -> str:
        if self._trigger is None:
            raise NoKey("[mattermost] url is not set, or verify_trigger is off: no signature is looked at")
        return await self._trigger.accept_key()

    async def forget(self, user_id: str) -> bool:
        return await self._accounts.forget(user_id)

    def start(self, work: Awaitable[object], command: SlashCommand, message: str) -> None:
        self._tasks.start(self._finish(work, command, message))

    async def close(self, seconds: float) -> None:
        """What was begun may end, for so long at most."""
        await self._tasks.drain(seconds)
        if self._trigger is not None:
            await self._trigger.close()
        if self._server is not None:
            await self._server.close()

    async def _count_refusal(self, address: str) -> None:
        """Good commands still pass, because everybody's come from the address of one server."""
        tries = await self._tries.count_try(
            f"chat-address:{address}", now=self._clock.now(), limit=REFUSALS, window=MINUTE, ban=MINUTE
        )
        if tries.count > REFUSALS:
            raise SignInBlocked(tries.until, "slash commands that are none, from one address")

    def _has_token(self, fields: Mapping[str, str], authorization: str | None) -> bool:
        """Every configured one is compared, so that the time says nothing.

        The form's token counts. A header of the scheme Token must say the same; where Mattermost uses an
        OAuth connection for this address the header is of another scheme and says nothing.
        """
        sent, team = fields.get("token", "").encode(), fields.get("team_id", "")
        fits = [
            hmac.compare_digest(each.token.reveal().encode(), sent)
            & (each.team is None or hmac.compare_digest(each.team.encode(), team.encode()))
            for each in self._tokens
        ]
        scheme, _, told = (authorization or "").partition(" ")
        agrees = scheme.lower() != "token" or hmac.compare_digest(told.strip().encode(), sent)
        return any(fits) and agrees

    async def _finish(self, work: Awaitable[object], command: SlashCommand, message: str) -> None:
        """What does not work out after the answer was given is told in a direct message, by a bot."""
        try:
            await work
            return
        except Problem as error:
            problem = error
            log.warning("%s after a slash command: %s", problem.code, problem.detail or problem.text)
        except Exception as error:
            problem = Problem()
            log.exception("after a slash command", exc_info=error)
        if self._server is not None and self._server.has_bot:
            try:
                # Whatever else went wrong speaks of a link, which nobody has here.
                words = problem.text if isinstance(problem, MailProblem) else ""
                text = self.write(message, title=problem.title, words=words, command=command.name)
                await self._server.send_direct(command.user_id, text)
            except ServerProblem as refusal:
                log.warning("nor could it be told: %s", refusal)
