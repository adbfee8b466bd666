"""The switch that stops issuing, for all processes at once; everything else goes on."""

import logging

from certbob.audit import Action, AuditLog
from certbob.errors import InvalidInput, IssuingPaused
from certbob.ports import Actor, Clock, Paused, PauseStore

log = logging.getLogger(__name__)

MAX_NOTE = 200


class Pause:
    """Every method raises StorageProblem when the database cannot do it."""

    def __init__(self, store: PauseStore, *, audit: AuditLog, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock

    async def state(self) -> Paused | None:
        """None while certificates are issued."""
        return await self._store.paused()

    async def check(self) -> None:
        """Raises IssuingPaused."""
        paused = await self._store.paused()
        if paused is not None:
            raise IssuingPaused(paused.note)

    async def pause(self, actor: Actor, note: str) -> bool:
        """`note`: why; everybody who asks for a certificate reads it. False when it is stopped already.

        Raises InvalidInput for a note that is too long or holds something that nobody sees.
        """
        note = " ".join(note.split())
        if len(note) > MAX_NOTE or not note.isprintable():
            raise InvalidInput({"note": f"At most {MAX_NOTE} characters, and all of them visible."})
        async with self._store.transaction():
            if not await self._store.set_paused(Paused(self._clock.now(), actor.name, note)):
                return False
            await self._audit.record(Action.PAUSED, actor, note=note)
        log.warning("issuing is stopped")
        return True

    async def resume(self, actor: Actor) -> bool:
        """False when it is not stopped."""
        async with self._store.transaction():
            if not await self._store.end_pause():
                return False
            await self._audit.record(Action.RESUMED, actor)
        log.warning("issuing goes on")
        return True
