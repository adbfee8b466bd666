"""Everything that one database keeps, and how it forgets."""

from datetime import datetime, timedelta

from certbob.store.audit import SqlAudit, SqlPause
from certbob.store.chats import SqlChats
from certbob.store.grants import SqlGrants
from certbob.store.ledger import SqlLedger
from certbob.store.people import SqlPeople, SqlSessions, SqlSignIns, SqlTries
from certbob.store.reminders import SqlReminders
from certbob.store.sqlite import Database

DAY = timedelta(days=1)
SIGN_IN_AGE = timedelta(minutes=15)


class Stores:
    """One for each port of `certbob.ports`."""

    def __init__(self, database: Database) -> None:
        self.audit = SqlAudit(database)
        self.chats = SqlChats(database)
        self.grants = SqlGrants(database)
        self.ledger = SqlLedger(database)
        self.pause = SqlPause(database)
        self.people = SqlPeople(database)
        self.reminders = SqlReminders(database)
        self.sessions = SqlSessions(database)
        self.sign_ins = SqlSignIns(database)
        self.tries = SqlTries(database)

    async def prune(self, now: datetime) -> None:
        """Forget what has been over for a while. Raises StorageProblem."""
        await self.grants.prune_grants(now - DAY)
        await self.sessions.prune_sessions(now - DAY)
        await self.sign_ins.prune_sign_ins(now - SIGN_IN_AGE)
        await self.chats.prune_chats(now)
        await self.reminders.prune_reminders(now)
        await self.tries.prune_tries(now)
