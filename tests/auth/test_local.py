"""Local sign-in: what is told, what is counted, and how much work a stranger can cause."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from certbob.auth.local import (
    ADDRESS_LIMIT,
    BAN,
    MAX_PASSWORD_BYTES,
    MAX_WAITING,
    NAME_LIMIT,
    Account,
    LocalAccounts,
    canonical,
    hash_password,
    network_of,
    new_password,
    verify_password,
)
from certbob.errors import Busy, SignInBlocked, SignInRefused
from certbob.identity import Identity
from certbob.store.people import SqlPeople, SqlTries
from certbob.store.sqlite import Database
from tests.support.clock import FakeClock

PASSWORD = "correct horse"
ADA = Account("ada", hash_password(PASSWORD), "Ada Lovelace", "ada@example.org", ("vpn",))
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.1"
SPELLINGS = (
    *("ada", "ADA", "Ada", "aDa", "adA", "ADa", "aDA", "AdA", " ada", "ada ", "  ada  ", "\tada"),
    *("\uff41\uff44\uff41", "\uff21\uff24\uff21", "\uff21da", "ad\uff41", "\U0001d41a\U0001d41d\U0001d41a"),
    *("\u24d0\u24d3\u24d0", "ad\u00aa", "\u24b6da"),
)


class Watched(LocalAccounts):
    """Counts how often a password was looked at."""

    verifications = 0

    async def _verified(self, *arguments: str) -> Identity:
        try:
            return await super()._verified(*arguments)
        except SignInBlocked:
            self.verifications -= 1
            raise
        finally:
            self.verifications += 1


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "certbob.sqlite3")
    yield opened
    await opened.close()


@pytest.fixture
def accounts(database: Database, clock: FakeClock) -> Watched:
    return Watched([ADA], people=SqlPeople(database), tries=SqlTries(database), clock=clock)


async def refused(accounts: LocalAccounts, name: str, password: str = "wrong", address: str = HOME) -> str:
    try:
        await accounts.authenticate(name, password, address)
    except (SignInRefused, SignInBlocked, Busy) as problem:
        return type(problem).__name__
    return "signed in"


async def test_the_right_password_tells_who_it_is(accounts: Watched) -> None:
    first = await accounts.authenticate("ada", PASSWORD, HOME)
    again = await accounts.authenticate(" ADA ", PASSWORD, ELSEWHERE)

    assert (first.name, first.email, first.groups) == ("Ada Lovelace", "ada@example.org", ("vpn",))
    assert again == first


async def test_an_unknown_name_costs_and_tells_the_same(accounts: Watched) -> None:
    assert await refused(accounts, "ada") == await refused(accounts, "nobody") == "SignInRefused"
    assert accounts.verifications == 2


async def test_of_fifty_tries_at_once_three_are_looked_at(accounts: Watched) -> None:
    outcomes = await asyncio.gather(*(refused(accounts, "ada") for _ in range(50)))

    assert sorted(outcomes) == ["SignInBlocked"] * (50 - NAME_LIMIT) + ["SignInRefused"] * NAME_LIMIT
    assert accounts.verifications == NAME_LIMIT


async def test_twenty_spellings_of_a_name_are_one_name(accounts: Watched) -> None:
    outcomes = [await refused(accounts, spelling) for spelling in SPELLINGS]

    assert len(set(SPELLINGS)) == 20
    assert {canonical(spelling) for spelling in SPELLINGS} == {"ada"}
    assert outcomes == ["SignInRefused"] * NAME_LIMIT + ["SignInBlocked"] * (20 - NAME_LIMIT)


async def test_a_ban_holds_for_the_right_password_and_ends_by_itself(
    accounts: Watched, clock: FakeClock
) -> None:
    for _ in range(NAME_LIMIT):
        await refused(accounts, "ada")

    with pytest.raises(SignInBlocked) as blocked:
        await accounts.authenticate("ada", PASSWORD, HOME)
    assert blocked.value.until == clock.now() + BAN
    clock.advance(BAN)
    assert await refused(accounts, "ada", PASSWORD) == "signed in"


async def test_a_success_takes_the_count_back(accounts: Watched) -> None:
    for _ in range(5):
        for _ in range(NAME_LIMIT - 1):
            await refused(accounts, "ada")
        assert await refused(accounts, "ada", PASSWORD) == "signed in"


async def test_an_address_that_guesses_names_is_blocked(accounts: Watched) -> None:
    for number in range(ADDRESS_LIMIT):
        assert await refused(accounts, f"name{number}") == "SignInRefused"

    assert await refused(accounts, "ada", PASSWORD) == "SignInBlocked"
    assert await refused(accounts, "ada", PASSWORD, ELSEWHERE) == "signed in"


async def test_people_behind_one_address_do_not_block_each_other(accounts: Watched) -> None:
    outcomes = [await refused(accounts, "ada", PASSWORD) for _ in range(ADDRESS_LIMIT + 5)]

    assert set(outcomes) == {"signed in"}


async def test_more_than_can_wait_are_sent_away(accounts: Watched) -> None:
    outcomes = await asyncio.gather(*(refused(accounts, f"n{n}", address=f"10.0.{n}.1") for n in range(150)))

    assert outcomes.count("Busy") == 150 - MAX_WAITING


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::3", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("<local>", "unknown"),
    ],
)
def test_what_belongs_to_one_customer_is_counted_together(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_what_people_type_as_their_name_is_not_kept(accounts: Watched, database: Database) -> None:
    await refused(accounts, "my-secret-password")

    assert "my-secret-password" not in str(await database.rows("SELECT * FROM tries"))


async def test_a_session_ends_when_its_account_changes(database: Database, clock: FakeClock) -> None:
    def with_account(*accounts: Account) -> LocalAccounts:
        return LocalAccounts(accounts, people=SqlPeople(database), tries=SqlTries(database), clock=clock)

    identity = await with_account(ADA).authenticate("ada", PASSWORD, HOME)

    assert with_account(ADA).still_knows(identity)
    assert not with_account().still_knows(identity)
    for change in ({"groups": ()}, {"name": "Ada King"}, {"email": None}):
        assert not with_account(replace(ADA, **change)).still_knows(identity)


def test_a_hash_is_argon2id_with_one_lane_and_fits_its_password_only() -> None:
    password_hash = hash_password(PASSWORD)

    assert password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert password_hash != hash_password(PASSWORD)
    assert verify_password(PASSWORD, password_hash)
    for wrong in ("", PASSWORD + " ", PASSWORD.upper(), "x" * 100_000, "\udcff"):
        assert not verify_password(wrong, password_hash)


def test_the_longest_password_works() -> None:
    longest = "x" * MAX_PASSWORD_BYTES

    assert verify_password(longest, hash_password(longest))


async def test_hashes_at_the_same_moment_do_not_hang() -> None:
    password_hash = hash_password(PASSWORD)
    checks = [asyncio.to_thread(verify_password, PASSWORD, password_hash) for _ in range(8)]

    async with asyncio.timeout(timedelta(seconds=60).total_seconds()):
        assert all(await asyncio.gather(*checks))


def test_a_new_password_is_long_and_never_the_same() -> None:
    passwords = {new_password() for _ in range(50)}

    assert len(passwords) == 50
    assert {len(password) for password in passwords} == {23}
