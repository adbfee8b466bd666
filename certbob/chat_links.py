"""Whose chat account it is, as people say themselves: they open a link out of the chat and sign in here."""

import re
import secrets
from datetime import timedelta

from certbob.errors import LinkOver
from certbob.identity import Identity
from certbob.keys import digest
from certbob.ports import ChatStore, Clock, LinkRequest

LIFETIME = timedelta(minutes=10)


def could_be_token(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]{43}", text, re.ASCII) is not None


class ChatLinks:
    """Every method raises StorageProblem when the database cannot do it."""

    def __init__(self, store: ChatStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def request(self, user_id: str, user_name: str) -> str:
        """A token for the link; it works once."""
        token = secrets.token_urlsafe(32)
        until = self._clock.now() + LIFETIME
        await self._store.add_link_request(digest(token), LinkRequest(user_id, user_name, until))
        return token

    async def find(self, untrusted_token: str) -> LinkRequest:
        """What the link is for; changes nothing. Raises LinkOver."""
        if not could_be_token(untrusted_token):
            raise LinkOver
        found = await self._store.find_link_request(digest(untrusted_token))
        if found is None or found.until <= self._clock.now():
            raise LinkOver
        return found

    async def accept(self, untrusted_token: str, identity: Identity) -> LinkRequest:
        """From now on the chat account is this person's. Raises LinkOver."""
        found = await self.find(untrusted_token)
        if not await self._store.take_link_request(digest(untrusted_token)):
            raise LinkOver
        await self._store.link(found.user_id, found.user_name, identity)
        return found

    async def of(self, identity: Identity) -> dict[str, str]:
        """The person's chat accounts: id -> the name it had when it was linked."""
        return await self._store.links_of(identity.subject)

    async def remove(self, user_id: str, identity: Identity) -> None:
        await self._store.unlink(user_id, identity.subject)
