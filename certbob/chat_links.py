"""Whose chat account it is, as people say themselves: they open a link out of the chat and sign in here."""

import re
import secrets
from datetime import timedelta

from certbob.audit import Action, AuditLog
from certbob.errors import LinkOver
from certbob.identity import Identity
from certbob.keys import digest
from certbob.ports import NOWHERE, Actor, ChatStore, Clock, LinkRequest, Origin

LIFETIME = timedelta(minutes=10)


def could_be_token(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]{43}", text, re.ASCII) is not None


class ChatLinks:
    """Every method raises StorageProblem when the database cannot do it."""

    def __init__(self, store: ChatStore, *, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._audit = audit
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

    async def accept(self, untrusted_token: str, identity: Identity, origin: Origin = NOWHERE) -> LinkRequest:
        """From now on the chat account is this person's. Raises LinkOver."""
        found = await self.find(untrusted_token)
        async with self._store.transaction():
            if not await self._store.take_link_request(digest(untrusted_token)):
                raise LinkOver
            await self._store.link(found.user_id, found.user_name, identity)
            await self._record(Action.LINKED, identity, origin, f"{found.user_name} ({found.user_id})")
        return found

    async def of(self, identity: Identity) -> dict[str, str]:
        """The person's chat accounts: id -> the name it had when it was linked."""
        return await self._store.links_of(identity.subject)

    async def remove(self, user_id: str, identity: Identity, origin: Origin = NOWHERE) -> None:
        async with self._store.transaction():
            if await self._store.unlink(user_id, identity.subject):
                await self._record(Action.UNLINKED, identity, origin, user_id)

    async def _record(self, action: Action, identity: Identity, origin: Origin, account: str) -> None:
        actor = Actor.of(identity, origin)
        await self._audit.record(action, actor, subject=identity.subject, name=identity.name, note=account)
