"""Reminders of certificates that end soon: once for each of the configured days, to the person, by each way.

What may have reached somebody is not sent again within a day, also by another process or after a crash; what
surely did not is. A step that was missed, because nothing ran, is skipped for the next one.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence

from certbob.errors import MailRefused, MailUnavailable, MailUncertain, Problem, StorageProblem
from certbob.identity import Door, Identity
from certbob.ports import (
    Clock,
    Letters,
    Mailer,
    Messenger,
    Outcome,
    Reminder,
    ReminderStore,
    Result,
    Step,
    Way,
)
from certbob.tasks import Tasks
from certbob.words import series

log = logging.getLogger(__name__)

MAX_TROUBLES = 3  # with the server, at one turn; not one, because it may be a single recipient's


class _TakenOver(Exception):
    """Another process took this one for dead."""


class Reminders:
    """`exists(door, account)`: whether somebody can still come in like that."""

    def __init__(
        self,
        store: ReminderStore,
        messengers: Sequence[Messenger],
        *,
        days: Sequence[int],
        exists: Callable[[Door, str], bool],
        clock: Clock,
    ) -> None:
        self.days = tuple(sorted(days, reverse=True))
        self.ways = frozenset(messenger.way for messenger in messengers)
        self._store = store
        self._messengers = messengers
        ascending = self.days[::-1]
        # The most urgent ones first.
        self._steps = [Step(day, until) for day, until in zip(ascending, (0, *ascending), strict=False)]
        self._exists = exists
        self._clock = clock
        self._tasks = Tasks()

    @property
    def days_in_words(self) -> str:
        """`30, 14 and 3 days`."""
        return f"{series(self.days)} day{'' if self.days == (1,) else 's'}"

    async def remind(self) -> None:
        """Everybody for whom it is time. Raises StorageProblem, Problem for a way that does not work now."""
        stuck = [messenger.way for messenger in self._messengers if not await self._remind_by(messenger)]
        if stuck:
            raise Problem(f"nobody can be reached by {' and '.join(stuck)}")

    async def wanted_by(self, identity: Identity) -> bool | None:
        """None: there is no way to this person. Raises StorageProblem."""
        for messenger in self._messengers:
            if await messenger.reaches(identity):
                return await self._store.wants_reminders(identity.subject)
        return None

    async def set_wanted(self, identity: Identity, wanted: bool) -> None:
        """By all ways. Raises StorageProblem."""
        await self._store.set_wants_reminders(identity.subject, wanted)

    async def drain(self, seconds: float) -> None:
        """Let what was begun end, for so long at most; called at shutdown."""
        await self._tasks.drain(seconds)

    async def _remind_by(self, messenger: Messenger) -> bool:
        """False when the others have to wait for the next time."""
        now, troubles = self._clock.now(), 0
        for step in self._steps:
            for left in range(step.until + 1, step.days + 1):
                for reminder in await self._store.due_reminders(messenger.way, step, left=left, now=now):
                    if not self._exists(reminder.door, reminder.account):
                        continue
                    # A task of its own: one that is cut off on its way would come twice.
                    result = await asyncio.shield(self._tasks.start(self._send(messenger, reminder)))
                    troubles += result in (Result.AWAY, Result.UNKNOWN)
                    if troubles == MAX_TROUBLES:
                        return False
        return True

    async def _send(self, messenger: Messenger, reminder: Reminder) -> Result | None:
        """None: somebody else does."""
        claimed_at = self._clock.now()
        if not await self._store.claim_reminder(reminder, now=claimed_at):
            return None

        async def begin() -> None:
            nonlocal claimed_at
            now = self._clock.now()
            if not await self._store.begin_reminder(reminder, claimed_at=claimed_at, now=now):
                raise _TakenOver
            claimed_at = now

        try:
            outcome = await messenger.send(reminder, begin)
        except _TakenOver:
            return None
        except StorageProblem:
            raise
        except Exception as error:
            log.exception("%s failed", _name(reminder), exc_info=error)
            outcome = Outcome(Result.REFUSED)  # for a day, so that it stands in nobody's way
        now = self._clock.now()
        await self._store.end_reminder(reminder, outcome.result, claimed_at=claimed_at, now=now)
        # A mail server repeats the address.
        detail = re.sub(re.escape(reminder.recipient), "…", outcome.detail, flags=re.IGNORECASE)
        level = logging.INFO if outcome.result is Result.SENT else logging.WARNING
        log.log(level, "%s: %s%s", _name(reminder), outcome.result, f": {detail}" if detail else "")
        return outcome.result


class MailMessenger:
    """Implements `ports.Messenger`."""

    way = Way.MAIL

    def __init__(self, mailer: Mailer, letters: Letters) -> None:
        self._mailer = mailer
        self._letters = letters

    async def reaches(self, identity: Identity) -> bool:
        return identity.email is not None

    async def send(self, reminder: Reminder, begin: Callable[[], Awaitable[None]]) -> Outcome:
        letter = self._letters.reminder(reminder)
        try:
            async with self._mailer.envelope(reminder.recipient) as envelope:
                await begin()
                await envelope.send(letter)
        except MailUnavailable as problem:
            return Outcome(Result.AWAY, problem.detail)
        except MailRefused as problem:
            return Outcome(Result.REFUSED, problem.detail)
        except MailUncertain as problem:
            return Outcome(Result.UNKNOWN, problem.detail)
        return Outcome(Result.SENT)


def _name(reminder: Reminder) -> str:
    """For the log."""
    return f"reminder of {reminder.certificate.entry}, {reminder.step.days} days, by {reminder.way}"
