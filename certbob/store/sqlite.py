"""SQLite off the event loop: one long-lived connection in a thread of its own."""

import asyncio
import importlib.resources
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import aiosqlite

from certbob.errors import CannotStart, Duplicate, StorageProblem

Row = tuple[Any, ...]

BUSY_TIMEOUT = timedelta(seconds=5)

log = logging.getLogger(__name__)


class Database:
    """One SQL text serves every driver: `?` for parameters, only what SQLite and PostgreSQL share.

    Each call is a transaction of its own, unless it is inside of `transaction`.
    """

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._lock = asyncio.Lock()  # keeps the statements of other tasks out of a transaction
        self._owner: asyncio.Task[Any] | None = None
        self._followers: list[Callable[[], None]] = []

    @classmethod
    async def open(cls, path: Path, *, busy_timeout: timedelta = BUSY_TIMEOUT) -> Self:
        """Open or make the database, check it and bring its schema up to date.

        `busy_timeout`: how long a statement waits for another process that writes.

        Raises CannotStart for a damaged database, one of a newer release, or one that cannot be written.
        """
        try:
            # Private whatever the umask is; and a thread is started only for a file that can be opened.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = await aiosqlite.connect(path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from error
        try:
            busy = f"busy_timeout={busy_timeout // timedelta(milliseconds=1)}"
            # FULL: a certificate that was handed out must be in the ledger after a power loss, too.
            for pragma in (busy, "synchronous=FULL", "foreign_keys=ON"):
                await connection.execute_fetchall(f"PRAGMA {pragma}")
            await _switch_to_wal(connection, busy_timeout)
            if list(await connection.execute_fetchall("PRAGMA quick_check")) != [("ok",)]:
                raise _damaged(path)
            await _migrate(connection, path)
        except sqlite3.Error as error:
            await connection.close()
            raise _unusable(path, error) from error
        except CannotStart:
            await connection.close()
            raise
        return cls(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """What the task does inside happens as a whole or not at all. Raises what `rows` does.

        Inside of another one it is a part of that: whoever catches what fails here keeps the first half.
        Other tasks wait until the end, so nothing inside may wait for another task that needs the database.
        """
        if self._is_inside():
            yield
            return
        async with self._lock:
            self._owner = asyncio.current_task()
            self._followers = []
            is_ending = False
            try:
                await self._run("BEGIN IMMEDIATE")
                yield
                is_ending = True
                await self._run("COMMIT")
            except BaseException as error:
                # A statement whose waiter was cancelled runs all the same: it may have begun or committed.
                is_undone = await self._undo()
                if is_ending and not is_undone and isinstance(error, asyncio.CancelledError):
                    self._call_followers()
                raise
            finally:
                self._owner = None
            self._call_followers()

    def after_commit(self, follower: Callable[[], None]) -> None:
        """Call it once the transaction that this is inside of has been written."""
        if not self._is_inside():
            raise RuntimeError("not inside of a transaction")
        self._followers.append(follower)

    def _call_followers(self) -> None:
        for follower in self._followers:
            try:
                follower()
            except Exception as error:  # what is written is written
                log.exception("after a transaction", exc_info=error)

    async def _undo(self) -> bool:
        """False when there was nothing to undo."""
        try:
            await self._run("ROLLBACK")
        except StorageProblem:
            return False
        return True

    async def rows(self, sql: str, *parameters: Any) -> list[Row]:
        """Run one statement. Raises StorageProblem: the database is busy, full or gone; Duplicate."""
        if self._is_inside():
            return await self._run(sql, *parameters)
        async with self._lock:
            return await self._run(sql, *parameters)

    def _is_inside(self) -> bool:
        return self._owner is not None and self._owner is asyncio.current_task()

    async def _run(self, sql: str, *parameters: Any) -> list[Row]:
        try:
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]
        except sqlite3.IntegrityError as error:
            raise Duplicate(str(error)) from error
        except (sqlite3.Error, ValueError) as error:  # ValueError: the connection was closed
            raise StorageProblem(str(error)) from error

    async def row(self, sql: str, *parameters: Any) -> Row | None:
        rows = await self.rows(sql, *parameters)
        return rows[0] if rows else None

    async def one(self, sql: str, *parameters: Any) -> Row:
        """The one row of a statement that always returns one."""
        (row,) = await self.rows(sql, *parameters)
        return row

    async def close(self) -> None:
        await self._connection.close()


class SqlStore:
    """What every class of statements has: its database, and transactions over all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """See `Database.transaction`."""
        return self._database.transaction()


async def _switch_to_wal(connection: aiosqlite.Connection, patience: timedelta) -> None:
    """SQLite does not wait with its busy timeout here when another process makes the same database."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience.total_seconds()
    while True:
        try:
            await connection.execute_fetchall("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if loop.time() > give_up:
                raise
            await asyncio.sleep(0.02)
        else:
            return


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Apply the numbered scripts that this database has not seen, each in a transaction."""
    folder = importlib.resources.files("certbob.store") / "sql"
    scripts = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name
    )
    if await _version(connection) == len(scripts):
        return
    for number, script in enumerate(scripts, start=1):
        await connection.execute_fetchall("BEGIN IMMEDIATE")
        version = await _version(connection)
        if version > len(scripts):
            await connection.execute_fetchall("ROLLBACK")
            raise CannotStart(
                f"The database {path} was written by a newer release.", "Install that release again."
            )
        if version < number:
            for statement in script.read_text().split(";\n"):
                if statement.strip():
                    await connection.execute_fetchall(statement)
            await connection.execute_fetchall(f"PRAGMA user_version = {number}")
        await connection.execute_fetchall("COMMIT")


async def _version(connection: aiosqlite.Connection) -> int:
    ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
    return int(version)


def _unusable(path: Path, error: Exception) -> CannotStart:
    if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return CannotStart(f"The database {path} is damaged: {error}.", "Restore it from your last backup.")
    return CannotStart(
        f"The database {path} cannot be used: {error}.",
        "Look at its owner, at the space on its disk, and at what else has it open.",
    )


def _damaged(path: Path) -> CannotStart:
    return CannotStart(f"The database {path} is damaged.", "Restore it from your last backup.")
