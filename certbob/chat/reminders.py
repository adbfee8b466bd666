"""Reminders of certificates that end soon, as direct messages of the bot."""

from collections.abc import Awaitable, Callable

from certbob.chat.messages import Messages
from certbob.chat.server import ChatServer, ServerProblem
from certbob.identity import Door, Identity
from certbob.ports import ChatStore, Outcome, Reminder, Result, Way

# What the server says of one account: not there, or not to be written to by the bot.
_OF_THE_ACCOUNT = (400, 403, 404)


class ChatMessenger:
    """Implements `ports.Messenger`. `server`: with a bot. `site`: where people find CertBob."""

    way = Way.CHAT

    def __init__(self, server: ChatServer, store: ChatStore, messages: Messages, *, site: str) -> None:
        self._server = server
        self._store = store
        self._messages = messages
        self._site = site

    async def reaches(self, identity: Identity) -> bool:
        return identity.door is Door.MATTERMOST or bool(await self._store.links_of(identity.subject))

    async def send(self, reminder: Reminder, begin: Callable[[], Awaitable[None]]) -> Outcome:
        certificate = reminder.certificate
        message = self._messages.write(
            "reminder",
            device=certificate.device,
            end=certificate.not_after,
            url=None
            if reminder.door is Door.MATTERMOST
            else f"{self._site}/certificates/{certificate.serial:x}/replace",
        )
        try:
            channel = await self._server.direct_channel(reminder.recipient)
        except ServerProblem as problem:
            return _unsent(problem)
        await begin()
        try:
            await self._server.post(channel, message)
        except ServerProblem as problem:
            if problem.status is None or problem.status >= 500:
                return Outcome(Result.UNKNOWN, str(problem))
            return _unsent(problem)
        return Outcome(Result.SENT)


def _unsent(problem: ServerProblem) -> Outcome:
    result = Result.REFUSED if problem.status in _OF_THE_ACCOUNT else Result.AWAY
    return Outcome(result, str(problem))
