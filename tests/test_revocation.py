"""Taking a certificate back: the authority first, then the ledger; both can be repeated."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certbob.errors import (
    CARefused,
    CAUnavailable,
    CAUncertain,
    GrantExpired,
    GrantInvalid,
    GrantMalformed,
    NotRevoked,
    StorageProblem,
)
from certbob.identity import Identity
from certbob.ports import THE_SERVICE, Certificate
from certbob.revocation import LINK_LIFETIME, Reason, Revocation
from certbob.tokens import Tokens
from tests.support import pki
from tests.support.clock import FakeClock
from tests.support.core import DATABASE, ISSUER, SECRET, Core, FakeCA, RevokingCA, open_core, person

ADA = person()
BERT = person("Bert Becker")
REVOKED = "revoked_at IS NOT NULL, revocation_reason"
SECOND = timedelta(seconds=1)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(pki.NOW)


class LookingCA(RevokingCA):
    """`seen`: with which reason it was asked, and what the ledger said at that moment."""

    core: Core

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.seen: list[tuple[int, list[Any]]] = []

    async def revoke(self, serial: int, reason_code: int) -> None:
        self.seen.append((reason_code, self.core.ledger(REVOKED)))
        await super().revoke(serial, reason_code)


@pytest.fixture
def ca(clock: FakeClock) -> LookingCA:
    return LookingCA(clock)


@pytest.fixture
async def core(data_dir: Path, clock: FakeClock, ca: LookingCA) -> AsyncIterator[Core]:
    async with open_core(data_dir, clock=clock, ca=ca) as opened:
        ca.core = opened
        yield opened


def revocation(core: Core) -> Revocation:
    return core.services.revocation


async def issued(core: Core, identity: Identity = ADA) -> Certificate:
    """A fresh certificate, as the ledger has it."""
    made = await core.issue(await core.mint(identity))
    found = await core.services.ledger.find(made.leaf.serial_number, identity.subject)
    assert found is not None
    return found


async def test_the_authority_comes_before_the_ledger(core: Core, ca: LookingCA) -> None:
    certificate = await issued(core)

    await revocation(core).revoke(certificate, Reason.LOST, THE_SERVICE)

    assert ca.revoked == [certificate.serial]
    assert ca.seen == [(1, [(0, None)])]
    assert core.ledger(REVOKED) == [(1, 1)]


async def test_only_the_one_certificate_is_revoked(core: Core, clock: FakeClock) -> None:
    first, second = await issued(core), await issued(core)
    clock.advance(timedelta(hours=2))

    await revocation(core).revoke(second, Reason.OTHER, THE_SERVICE)

    assert core.ledger("revoked_at") == [None, int(clock.now().timestamp())]
    found = await core.services.ledger.find(first.serial, ADA.subject)
    assert found == first


@pytest.mark.parametrize(
    ("reason", "code"),
    [(Reason.LOST, 1), (Reason.REPLACED, 4), (Reason.RETIRED, 5), (Reason.OTHER, 0)],
)
async def test_reasons_are_those_of_revocation_lists(
    core: Core, ca: LookingCA, reason: Reason, code: int
) -> None:
    """RFC 5280 5.3.1: keyCompromise 1, superseded 4, cessationOfOperation 5, unspecified 0."""
    await revocation(core).revoke(await issued(core), reason, THE_SERVICE)

    assert [seen for seen, _ in ca.seen] == [code]
    assert core.ledger(REVOKED) == [(1, code)]


def test_every_reason_has_words_and_a_code_of_its_own() -> None:
    assert len({reason.label for reason in Reason}) == len({reason.code for reason in Reason}) == len(Reason)


@pytest.mark.parametrize(
    "problem", [CAUnavailable("canary"), CARefused("canary"), CAUncertain("canary")], ids=repr
)
async def test_what_the_authority_did_not_do_is_not_in_the_ledger(
    core: Core, ca: LookingCA, problem: Exception
) -> None:
    certificate = await issued(core)
    before = core.dump()
    ca.revocation_problem = problem

    with pytest.raises(NotRevoked) as refusal:
        await revocation(core).revoke(certificate, Reason.LOST, THE_SERVICE)

    assert refusal.value.detail == "canary"
    assert "canary" not in refusal.value.text
    assert core.dump() == before
    ca.revocation_problem = None
    await revocation(core).revoke(certificate, Reason.LOST, THE_SERVICE)
    assert core.ledger(REVOKED) == [(1, 1)]


async def test_after_a_fault_of_the_storage_it_can_be_repeated(core: Core, ca: LookingCA) -> None:
    certificate = await issued(core)
    with closing(sqlite3.connect(core.data_dir / DATABASE)) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON certificates BEGIN SELECT RAISE(FAIL, 'full'); END"
        )

    with pytest.raises(StorageProblem):
        await revocation(core).revoke(certificate, Reason.LOST, THE_SERVICE)
    assert core.ledger(REVOKED) == [(0, None)]

    with closing(sqlite3.connect(core.data_dir / DATABASE)) as other:
        other.execute("DROP TRIGGER full")
    await revocation(core).revoke(certificate, Reason.LOST, THE_SERVICE)
    assert ca.revoked == [certificate.serial] * 2
    assert core.ledger(REVOKED) == [(1, 1)]


async def test_who_comes_later_changes_nothing(core: Core, ca: LookingCA, clock: FakeClock) -> None:
    """The one read the ledger before the other was done, the other after it."""
    certificate = await issued(core)
    await revocation(core).revoke(certificate, Reason.LOST, THE_SERVICE)
    before = core.dump()
    clock.advance(SECOND)

    await revocation(core).revoke(certificate, Reason.OTHER, THE_SERVICE)
    assert ca.revoked == [certificate.serial] * 2
    found = await core.services.ledger.find(certificate.serial, ADA.subject)
    assert found is not None
    await revocation(core).revoke(found, Reason.OTHER, THE_SERVICE)
    assert ca.revoked == [certificate.serial] * 2
    assert core.dump() == before


async def test_an_authority_that_cannot_revoke_leaves_it_to_the_ledger(
    data_dir: Path, clock: FakeClock
) -> None:
    async with open_core(data_dir, clock=clock, ca=FakeCA(clock)) as core:
        await revocation(core).revoke(await issued(core), Reason.RETIRED, THE_SERVICE)

        assert core.ledger(REVOKED) == [(1, 5)]


# The tokens of links


async def test_a_link_is_for_the_owner_of_one_certificate(core: Core) -> None:
    certificate, other = await issued(core), await issued(core, BERT)
    token = revocation(core).link_token(certificate)

    assert revocation(core).subject_of(token, certificate.serial) == ADA.subject
    for serial in (other.serial, certificate.serial + 1, 0):
        with pytest.raises(GrantInvalid):
            revocation(core).subject_of(token, serial)


async def test_a_link_is_good_for_ten_minutes(core: Core, clock: FakeClock) -> None:
    certificate = await issued(core)
    token = revocation(core).link_token(certificate)
    clock.advance(timedelta(minutes=10) - SECOND)
    assert revocation(core).subject_of(token, certificate.serial) == ADA.subject

    clock.advance(SECOND)
    with pytest.raises(GrantExpired):
        revocation(core).subject_of(token, certificate.serial)


async def test_another_certificate_is_refused_before_the_time_is_told(core: Core, clock: FakeClock) -> None:
    certificate = await issued(core)
    token = revocation(core).link_token(certificate)
    clock.advance(timedelta(hours=1))

    with pytest.raises(GrantInvalid):
        revocation(core).subject_of(token, certificate.serial + 1)


async def test_a_link_of_one_kind_is_none_of_the_other(core: Core, clock: FakeClock) -> None:
    """Not even with the same contents."""
    certificate = await issued(core)
    grant = await core.mint(ADA)
    grants = Tokens(SECRET, "grant", "certbob:issue", issuer=ISSUER, clock=clock)
    alike = grants.sign(ADA.subject, f"{certificate.serial:x}", expires_at=clock.now() + LINK_LIFETIME)

    for token in (grant, alike):
        with pytest.raises(GrantInvalid):
            revocation(core).subject_of(token, certificate.serial)
    with pytest.raises(GrantInvalid):
        await core.services.grants.inspect(revocation(core).link_token(certificate))
    for unfit in ("", "x", grant.rpartition(".")[0]):
        with pytest.raises(GrantMalformed):
            revocation(core).subject_of(unfit, certificate.serial)


async def test_making_links_writes_nothing(core: Core) -> None:
    certificate = await issued(core)
    before = core.dump()

    token = revocation(core).link_token(certificate)

    assert revocation(core).subject_of(token, certificate.serial) == ADA.subject
    assert core.dump() == before
