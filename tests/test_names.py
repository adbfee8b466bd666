"""One name is one person."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from certbob.errors import NameTaken, UnfitName
from certbob.identity import Door, Identity
from certbob.names import Names
from certbob.store.people import SqlPeople
from certbob.store.sqlite import Database


@pytest.fixture
async def people(tmp_path: Path) -> AsyncIterator[SqlPeople]:
    database = await Database.open(tmp_path / "certbob.sqlite3")
    yield SqlPeople(database)
    await database.close()


@pytest.fixture
def gone() -> set[tuple[Door, str]]:
    """The accounts that can no longer sign in."""
    return set()


@pytest.fixture
def names(people: SqlPeople, gone: set[tuple[Door, str]]) -> Names:
    return Names(people, lambda door, account: (door, account) not in gone)


async def somebody(people: SqlPeople, name: str, account: str, door: Door = Door.OIDC) -> Identity:
    return Identity(await people.subject_for(door, account), name, None, (), door, account)


async def test_a_name_is_whose_it_was_first_and_stays_theirs(people: SqlPeople, names: Names) -> None:
    first, second = await somebody(people, "ada", "1"), await somebody(people, "ada", "2")

    await names.claim(first)
    await names.claim(first)
    with pytest.raises(NameTaken):
        await names.claim(second)
    await names.claim(first)


@pytest.mark.parametrize("spelling", ["ADA lovelace", "Ada  Lovelace", " Ada Lovelace ", "ADA LOVELACE"])
async def test_a_name_in_another_spelling_is_the_same_name(
    people: SqlPeople, names: Names, spelling: str
) -> None:
    await names.claim(await somebody(people, "Ada Lovelace", "1"))

    with pytest.raises(NameTaken):
        await names.claim(await somebody(people, spelling, "2"))


async def test_one_person_may_have_several_names(people: SqlPeople, names: Names) -> None:
    ada = await somebody(people, "ada", "1")
    await names.claim(ada)
    await names.claim(replace(ada, name="ada.lovelace"))

    for name in ("ada", "ada.lovelace"):
        with pytest.raises(NameTaken):
            await names.claim(await somebody(people, name, "2"))


async def test_a_name_passes_on_once_its_account_is_gone(
    people: SqlPeople, names: Names, gone: set[tuple[Door, str]], caplog: pytest.LogCaptureFixture
) -> None:
    before = await somebody(people, "ada", "ada", Door.LOCAL)
    after = await somebody(people, "ada", "https://id.example.org 1")
    await names.claim(before)
    gone.add((Door.LOCAL, "ada"))

    await names.claim(after)

    assert "'ada' passes from" in caplog.text
    with pytest.raises(NameTaken):
        await names.claim(before)


async def test_equal_accounts_of_two_doors_are_two_people(people: SqlPeople, names: Names) -> None:
    await names.claim(await somebody(people, "ada", "ada", Door.LOCAL))

    with pytest.raises(NameTaken):
        await names.claim(await somebody(people, "ada", "ada", Door.OIDC))


async def test_a_name_that_fits_no_certificate_is_nobodys(people: SqlPeople, names: Names) -> None:
    for name in ("ada,O=Evil", "", "x" * 65):
        with pytest.raises(UnfitName):
            await names.claim(await somebody(people, name, "1"))
