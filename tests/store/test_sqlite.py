import asyncio
import multiprocessing
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from certbob.errors import CannotStart, Duplicate, StorageProblem
from certbob.ports import LinkRequest
from certbob.store.chats import SqlChats
from certbob.store.sqlite import Database
from tests.support.commands import CHECKOUT, bound_by_permissions
from tests.support.core import dump

IMPATIENT = timedelta(milliseconds=50)
DAMAGE_BYTES = 6 * 1024
INSERT = "INSERT INTO accounts (username, password_hash) VALUES (?, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "certbob.sqlite3"


@asynccontextmanager
async def database_at(path: Path, **options: Any) -> AsyncIterator[Database]:
    database = await Database.open(path, **options)
    try:
        yield database
    finally:
        await database.close()


async def refused(path: Path) -> str:
    """The words in which the database is refused."""
    with pytest.raises(CannotStart) as problem:
        await Database.open(path)
    assert str(path) in problem.value.text
    return f"{problem.value.text} {problem.value.mend}"


async def fill(path: Path, rows: int) -> None:
    async with database_at(path):
        pass
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(INSERT, ((f"user{n}", "h" * 90) for n in range(rows)))


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else is in the middle of a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


# Opening


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),  # FULL
        ("busy_timeout", 5000),
        ("foreign_keys", 1),
    ],
)
async def test_what_a_certificate_in_hand_relies_on_is_switched_on(
    path: Path, pragma: str, value: object
) -> None:
    async with database_at(path) as database:
        assert await database.row(f"PRAGMA {pragma}") == (value,)


async def test_a_second_start_changes_nothing(path: Path) -> None:
    await fill(path, rows=3)
    before = path.read_bytes()
    async with database_at(path):
        pass
    assert path.read_bytes() == before


def open_all(paths: list[Path], start: Barrier, results: Any) -> None:
    async def run() -> list[str]:
        told = []
        for path in paths:
            start.wait(30)
            try:
                async with database_at(path) as database:
                    await database.rows("SELECT * FROM certificates")
                told.append("open")
            except CannotStart as problem:
                told.append(problem.text)
        return told

    results.put(asyncio.run(run()))


def test_two_processes_make_the_same_database_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.sqlite3" for number in range(20)]
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=open_all, args=(paths, start, results)) for _ in range(2)]
    for process in processes:
        process.start()
    told = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
        process.close()
    results.close()

    assert told == [["open"] * 20] * 2
    assert len({dump(path) for path in paths}) == 1


async def test_the_database_of_a_newer_release_is_refused_and_left_alone(path: Path) -> None:
    await fill(path, rows=1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()

    assert "newer release" in await refused(path)
    assert path.read_bytes() == before


# Damage


@pytest.mark.parametrize("where", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("kind", ["noise", "zeros"])
async def test_six_damaged_kilobytes_are_found_at_the_start(path: Path, where: float, kind: str) -> None:
    await fill(path, rows=3000)
    size = path.stat().st_size
    damage = random.Random(1).randbytes(DAMAGE_BYTES) if kind == "noise" else bytes(DAMAGE_BYTES)
    with path.open("r+b") as file:
        file.seek(int(size * where))
        file.write(damage)

    told = await refused(path)
    assert "damaged" in told
    assert "Restore it from your last backup." in told


@pytest.mark.parametrize("how", ["no database", "half of it", "no header"])
async def test_what_is_no_database_is_refused(path: Path, how: str) -> None:
    await fill(path, rows=3000)
    content = path.read_bytes()
    path.write_bytes(
        {
            "no database": b"user name,password\n" * 1000,
            "half of it": content[: len(content) // 2],
            "no header": bytes(100) + content[100:],
        }[how]
    )
    assert "Restore it from your last backup." in await refused(path)


# Rights. Root is above the modes of files, so these run in a process that is not.

OPEN_AND_WRITE = f"""
import asyncio, sys
from pathlib import Path
from certbob.errors import CannotStart
from certbob.ports import LinkRequest
from certbob.store.chats import SqlChats
from certbob.store.sqlite import Database

async def main():
    database = await Database.open(Path(sys.argv[1]))
    await database.rows("{INSERT}", "ada", "hash")
    await database.close()

try:
    asyncio.run(main())
except CannotStart as problem:
    print(problem.text, problem.mend)
"""


def open_without_privileges(path: Path) -> str:
    done = subprocess.run(
        [*bound_by_permissions(), sys.executable, "-c", OPEN_AND_WRITE, path],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("kind", ["file", "file that nobody may read", "folder"])
async def test_a_database_that_cannot_be_written_is_refused(path: Path, kind: str) -> None:
    await fill(path, rows=1)
    locked, mode = (path.parent, 0o500) if kind == "folder" else (path, 0o400 if kind == "file" else 0)
    locked.chmod(mode)
    try:
        told = open_without_privileges(path)
    finally:
        locked.chmod(0o700)
    assert f"The database {path} cannot be used" in told
    assert "owner" in told


@pytest.mark.needs("setpriv")
async def test_a_database_of_ours_needs_no_privileges(path: Path) -> None:
    await fill(path, rows=1)
    assert open_without_privileges(path) == ""
    assert "'ada'" in dump(path)


# Faults while it runs


async def test_a_writer_that_is_slow_is_waited_for(path: Path) -> None:
    async with database_at(path) as database:
        with writing(path) as other:
            write = asyncio.create_task(database.rows(INSERT, "ada", "hash"))
            await asyncio.sleep(0.05)
            assert not write.done()
            other.execute("COMMIT")
        await write


async def test_a_writer_that_never_ends_is_a_problem_and_then_it_works_again(path: Path) -> None:
    async with database_at(path, busy_timeout=IMPATIENT) as database:
        with writing(path) as other:
            with pytest.raises(StorageProblem, match="locked"):
                await database.rows(INSERT, "ada", "hash")
            assert await database.rows("SELECT * FROM accounts") == []
            other.execute("ROLLBACK")
        await database.rows(INSERT, "ada", "hash")


async def test_a_database_that_another_holds_is_not_called_damaged(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CannotStart) as problem:
            await Database.open(path, busy_timeout=IMPATIENT)
    assert "damaged" not in problem.value.text
    assert "has it open" in problem.value.mend


async def test_a_full_disk_is_a_problem_and_then_it_works_again(path: Path) -> None:
    async with database_at(path) as database:
        [pages] = await database.one("PRAGMA page_count")
        await database.rows(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageProblem, match="full"):
            await database.rows(INSERT, "ada", "h" * 100_000)
        assert await database.rows("SELECT * FROM accounts") == []
        await database.rows(INSERT, "grace", "small enough")

        await database.rows(f"PRAGMA max_page_count = {pages + 100}")
        await database.rows(INSERT, "ada", "h" * 100_000)
    assert dump(path).count("VALUES('ada'") + dump(path).count("VALUES('grace'") == 2


async def test_what_is_there_already_is_a_duplicate(path: Path) -> None:
    async with database_at(path) as database:
        await database.rows(INSERT, "ada", "hash")
        with pytest.raises(Duplicate):
            await database.rows(INSERT, "ada", "other hash")
        assert await database.rows("SELECT * FROM accounts") == [("ada", "hash")]


async def test_a_closed_database_is_a_problem_like_any_other(path: Path) -> None:
    database = await Database.open(path)
    await database.close()
    with pytest.raises(StorageProblem):
        await database.rows("SELECT 1")


async def test_what_was_written_outlives_a_process_that_is_killed(path: Path) -> None:
    """Copied while it is open, as a power loss leaves it: the file and its write-ahead log."""
    async with database_at(path) as database:
        for number in range(20):
            await database.rows(INSERT, f"user{number}", "hash")
        copy = path.with_name("copy.sqlite3")
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    async with database_at(copy) as database:
        assert await database.one("SELECT count(*) FROM accounts") == (20,)


# What chats ask of it: of two processes that want the same at the same moment one gets it

ROUNDS = 20
LINK = LinkRequest("a" * 26, "alice", datetime(2026, 1, 15, 12, 0, tzinfo=UTC))


def race(path: Path, own: str, start: Barrier, results: Any) -> None:
    """Tells of each round what was taken, what was seen for the first time, and what is bound."""

    async def run() -> list[tuple[bool, bool, str]]:
        async with database_at(path) as database:
            chats = SqlChats(database)
            told = []
            for number in range(ROUNDS):
                start.wait(30)
                told.append(
                    (
                        await chats.take_link_request(f"link {number}"),
                        await chats.see_once(f"message {number}", LINK.until),
                        await chats.bind(f"account {number}", "name", f"{own} {number}"),
                    )
                )
            return told

    results.put(asyncio.run(run()))


async def test_of_two_processes_one_gets_what_works_once(path: Path) -> None:
    async with database_at(path) as database:
        for number in range(ROUNDS):
            await SqlChats(database).add_link_request(f"link {number}", LINK)
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=race, args=(path, own, start, results)) for own in ("ada", "bert")]
    for process in processes:
        process.start()
    told = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
        process.close()
    results.close()

    for one, other in zip(*told, strict=True):
        assert {one[0], other[0]} == {True, False}
        assert {one[1], other[1]} == {True, False}
        assert one[2] == other[2]
    async with database_at(path) as database:
        bound = await database.rows("SELECT value FROM chat_accounts ORDER BY rowid")
    assert [(value,) for _, _, value in told[0]] == bound
