"""The first start, every later one, and a start that fails."""

import multiprocessing
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from certbob.bootstrap import ADMIN, build_services, prepare_data_dir, server_secret
from certbob.config import Local, LocalUser, Server, Settings
from certbob.devices import Device, Platform
from certbob.errors import CannotStart, SignInRefused
from certbob.identity import Door, Identity
from certbob.secret import Secret
from tests.support.clock import FakeClock
from tests.support.web import InlineSigners

NOBODY = Local()


def settings(data_dir: Path, local: Local = NOBODY) -> Settings:
    return Settings(server=Server(data_dir=data_dir), local=local)


async def start(data_dir: Path, local: Local = NOBODY) -> list[tuple[str, str]]:
    """What the terminal is told."""
    told: list[tuple[str, str]] = []
    services = await build_services(
        settings(data_dir, local),
        signers=InlineSigners(),
        tell_first_account=lambda username, password: told.append((username, password)),
    )
    await services.close()
    return told


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "sqlite3" not in p.name}


async def test_the_first_start_makes_a_private_folder_and_an_account(tmp_path: Path) -> None:
    data = tmp_path / "data"

    [(username, password)] = await start(data)

    assert username == ADMIN
    assert data.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in data.rglob("*") if p.is_file()} <= {0o600}
    assert password.encode() not in b"".join(p.read_bytes() for p in data.rglob("*") if p.is_file())


async def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await start(data)
    before = files(data)

    assert await start(data) == []
    assert files(data) == before


async def test_the_account_signs_in_until_somebody_is_configured(tmp_path: Path) -> None:
    data = tmp_path / "data"
    [(username, password)] = await start(data)
    services = await build_services(settings(data), signers=InlineSigners())
    assert (await services.local.authenticate(username, password, "192.0.2.1")).name == ADMIN
    await services.close()
    with sqlite3.connect(data / "certbob.sqlite3") as database:
        [(password_hash,)] = database.execute("SELECT password_hash FROM accounts").fetchall()
    database.close()
    grace = LocalUser(username="grace", password_hash=Secret(password_hash))

    services = await build_services(settings(data, local=Local(users=(grace,))), signers=InlineSigners())
    with pytest.raises(SignInRefused):
        await services.local.authenticate(username, password, "192.0.2.1")
    assert (await services.local.authenticate("grace", password, "192.0.2.1")).name == "grace"
    await services.close()


async def test_where_somebody_is_configured_no_account_is_made(tmp_path: Path) -> None:
    grace = LocalUser(username="grace", password_hash=Secret("$argon2id$"))

    assert await start(tmp_path / "data", local=Local(users=(grace,))) == []


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)

    with pytest.raises(CannotStart, match=f"has mode {mode:04o}") as refused:
        prepare_data_dir(tmp_path)

    assert refused.value.mend == f"Run: chmod 700 {tmp_path}"


async def test_a_secret_that_others_can_read_or_is_cut_is_refused(data_dir: Path) -> None:
    server_secret(data_dir)
    path = data_dir / "secret"
    path.chmod(0o640)
    with pytest.raises(CannotStart, match="has mode 0640"):
        await start(data_dir)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(CannotStart, match="damaged"):
        await start(data_dir)
    path.unlink()
    path.mkdir()
    with pytest.raises(CannotStart):
        await start(data_dir)


def _secrets(folder: Path, count: int) -> list[str]:
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        return pool.map(server_secret, [folder] * count)


def test_processes_that_start_at_once_share_one_secret(data_dir: Path) -> None:
    assert len(set(_secrets(data_dir, 4))) == 1
    assert [path.name for path in data_dir.iterdir()] == ["secret"]


async def test_a_database_of_a_newer_release_is_refused(data_dir: Path) -> None:
    await start(data_dir)
    with sqlite3.connect(data_dir / "certbob.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()

    with pytest.raises(CannotStart, match="newer release"):
        await start(data_dir)


async def test_what_has_expired_is_forgotten_and_the_ledger_is_not(data_dir: Path) -> None:
    clock = FakeClock()
    services = await build_services(settings(data_dir), signers=InlineSigners(), clock=clock)
    subject = await services.people.subject_for(Door.TERMINAL, "Ada")
    identity = Identity(subject, "Ada", None, (), Door.TERMINAL, "Ada")
    [profile] = services.profiles.for_identity(identity)
    device = Device(Platform.LINUX, "Laptop", older=False)
    await services.issuance.issue(await services.grants.mint(identity, profile.id, device, profile.validity))
    clock.advance(timedelta(days=2))

    await services.prune()
    await services.close()

    with sqlite3.connect(data_dir / "certbob.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM grants").fetchone() == (0,)
        assert database.execute("SELECT state FROM certificates").fetchall() == [("issued",)]
    database.close()


async def test_a_start_that_fails_half_way_leaves_nothing_running(data_dir: Path) -> None:
    await start(data_dir)
    with sqlite3.connect(data_dir / "certbob.sqlite3") as database:
        database.execute("DROP TABLE accounts")
    database.close()

    with pytest.raises(Exception, match="accounts"):
        await start(data_dir)

    threads = [t for t in threading.enumerate() if "sqlite" in type(t).__module__ or "connection" in t.name]
    for thread in threads:
        thread.join(10)  # it tells that it is done a moment before it is
    assert not [thread for thread in threads if thread.is_alive()]
