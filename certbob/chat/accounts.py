"""Who the person behind a Mattermost account is.

The id of an account never changes, so it is the key. Its name and its address can be changed by the person,
at once and to anything that is free, so what an account is first seen with stays bound to it, and a name that
somebody else has certificates under is refused.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum

from certbob.chat.server import ChatServer, ChatUser, ServerProblem
from certbob.errors import (
    ChatAccountRefused,
    ChatNameChanged,
    ChatUnavailable,
    Duplicate,
    NameTaken,
    NotLinked,
    UnfitName,
)
from certbob.identity import Door, Identity, fit_email, fit_name, name_key
from certbob.names import Names
from certbob.ports import ChatStore, Clock, People
from certbob.services import SlashCommand

log = logging.getLogger(__name__)

LOOKUP_AGE = timedelta(minutes=1)
MAX_LOOKUPS = 1000
MAX_SHOWN = 64  # Mattermost's own names are no longer


class IdentityMode(StrEnum):
    """`[mattermost] identity`: what says who somebody is."""

    USERNAME = "username"
    EMAIL = "email"
    LINK = "link"


class ChatAccounts:
    """`server`: where accounts are looked up; without a bot there None. `email_domain`: of addresses.

    `current(identity)`: what is known now of a person who once signed in; None when they no longer may.
    """

    def __init__(
        self,
        *,
        mode: IdentityMode,
        email_domain: str | None,
        server: ChatServer | None,
        store: ChatStore,
        people: People,
        names: Names,
        current: Callable[[Identity], Awaitable[Identity | None]],
        clock: Clock,
    ) -> None:
        self._mode = mode
        self._email_domain = email_domain
        self._server = server
        self._store = store
        self._people = people
        self._names = names
        self._current = current
        self._clock = clock
        self._lookups: dict[str, tuple[datetime, ChatUser]] = {}

    async def identity(self, command: SlashCommand) -> Identity:
        """Whose command it is.

        Raises ChatAccountRefused, ChatNameChanged, ChatUnavailable, NotLinked, NameTaken, UnfitName,
        StorageProblem.
        """
        user = await self._looked_up(command.user_id)
        if user is not None:
            _refuse_unfit(user)
        if self._mode is IdentityMode.LINK:
            return await self._linked(command.user_id)
        name = _name(command, user)
        email = self._email(name, user)
        identity = Identity(
            subject=await self._people.subject_for(Door.MATTERMOST, command.user_id),
            name=fit_name(name),
            email=email,
            groups=(),
            door=Door.MATTERMOST,
            account=command.user_id,
        )
        facts = self._facts(identity)
        self._compare(identity, facts, await self._store.bound(command.user_id))
        await self._names.claim(identity)
        for what, value in facts.items():
            try:
                bound = await self._store.bind(command.user_id, what, value)
            except Duplicate as error:
                raise NameTaken(value) from error
            self._compare(identity, facts, {what: bound})
        return identity

    async def name(self, command: SlashCommand) -> str:
        """What to call the account. Raises as `identity` does where it cannot be looked up."""
        return _name(command, await self._looked_up(command.user_id))[:MAX_SHOWN]

    async def forget(self, user_id: str) -> bool:
        """What is bound to and linked with the account, and its name; False when there was nothing."""
        had_name = await self._people.release_names(Door.MATTERMOST, user_id)
        return await self._store.forget(user_id) or had_name

    async def _linked(self, user_id: str) -> Identity:
        found = await self._store.linked_identity(user_id)
        current = await self._current(found) if found is not None else None
        if current is None:
            raise NotLinked
        return replace(current, door=Door.MATTERMOST, account=user_id)

    def _facts(self, identity: Identity) -> dict[str, str]:
        """What must stay as it was at first sight."""
        facts = {"name": name_key(identity.name)}
        if self._mode is IdentityMode.EMAIL and identity.email is not None:
            facts["address"] = identity.email.casefold()
        return facts

    def _compare(self, identity: Identity, facts: Mapping[str, str], known: Mapping[str, str]) -> None:
        """Raises ChatNameChanged."""
        for what, value in facts.items():
            if known.get(what, value) != value:
                self._report(identity, what)
                raise ChatNameChanged(what)

    def _report(self, identity: Identity, what: str) -> None:
        log.warning(
            "the %s of chat account %s (%r) is not the one it was first seen with; if that is right,"
            " run `certbob mattermost forget %s`",
            what,
            identity.account,
            identity.name,
            identity.account,
        )

    def _email(self, user_name: str, user: ChatUser | None) -> str | None:
        """None where nobody vouches for an address."""
        if self._mode is IdentityMode.USERNAME:
            return fit_email(f"{user_name}@{self._email_domain}") if self._email_domain else None
        if user is None or not user.email:
            raise ChatAccountRefused("Mattermost does not tell your e-mail address.")
        try:
            email = fit_email(user.email)
        except UnfitName as problem:
            raise ChatAccountRefused(problem.text) from problem
        if self._email_domain and email.rpartition("@")[2].casefold() != self._email_domain.casefold():
            raise ChatAccountRefused(f"Certificates are for addresses of {self._email_domain}.")
        return email

    async def _looked_up(self, user_id: str) -> ChatUser | None:
        """As the server has it, within the last minute; None where it cannot be asked and need not be."""
        if self._server is None:
            return None
        now = self._clock.now()
        at, user = self._lookups.get(user_id, (None, None))
        if at is not None and timedelta(0) <= now - at < LOOKUP_AGE:
            return user
        try:
            user = await self._server.user(user_id)
        except ServerProblem as problem:
            if problem.status == 404:
                raise ChatAccountRefused("Mattermost does not know it.") from problem
            log.warning("a chat account could not be looked up: %s", problem)
            if self._mode is IdentityMode.EMAIL:
                raise ChatUnavailable(str(problem)) from problem
            return None
        while len(self._lookups) >= MAX_LOOKUPS:
            self._lookups.pop(next(iter(self._lookups)))
        self._lookups[user_id] = (now, user)
        return user


def _name(command: SlashCommand, user: ChatUser | None) -> str:
    """Mattermost signs the id of the account, not its name: the server's own word counts more."""
    return user.username if user is not None else command.user_name


def _refuse_unfit(user: ChatUser) -> None:
    if user.is_bot:
        raise ChatAccountRefused("It is a bot.")
    if user.is_deactivated:
        raise ChatAccountRefused("It was deactivated.")
    if user.is_guest:
        raise ChatAccountRefused("It is a guest's.")
