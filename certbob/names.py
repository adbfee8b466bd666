"""One name is one person: whoever has it in a certificate could pose as the other.

A name belongs to whom it was first given to. It passes on only once that account is gone: taken out of the
configuration, or of a sign-in service that is no longer asked.
"""

import logging
from collections.abc import Callable

from certbob.errors import NameTaken
from certbob.identity import Door, Identity, fit_name, name_key
from certbob.ports import People

log = logging.getLogger(__name__)


class Names:
    """`exists(door, account)`: whether that account can still sign in."""

    def __init__(self, people: People, exists: Callable[[Door, str], bool]) -> None:
        self._people = people
        self._exists = exists

    async def claim(self, identity: Identity) -> None:
        """Make the name this person's, if it is not already. Raises UnfitName, NameTaken, StorageProblem."""
        name = fit_name(identity.name)
        key = name_key(name)
        owner = await self._people.claim_name(key, identity.subject)
        if owner == identity.subject:
            return
        account = await self._people.account_of(owner)
        if account is not None and self._exists(*account):
            raise NameTaken(name)
        if not await self._people.pass_name(key, owner, identity.subject):
            raise NameTaken(name)
        log.warning("the name %r passes from %s to %s", name, account, (identity.door, identity.account))
