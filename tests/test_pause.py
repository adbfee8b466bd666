"""Stopping: nobody gets a certificate, at once and everywhere; all else goes on."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from certbob.errors import InvalidInput, IssuingPaused
from certbob.pause import Pause
from certbob.ports import THE_SERVICE, Actor
from certbob.revocation import Reason
from tests.support.core import Core, InlineSigners, open_core, person

P = ParamSpec("P")
T = TypeVar("T")

ADA = person("Ada Lovelace")
GRACE = Actor("local", "grace", "grace")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def actions(core: Core) -> list[str]:
    return [row[0] for row in core.rows("SELECT action FROM audit ORDER BY number")]


async def test_nothing_is_issued_until_it_goes_on(data_dir: Path) -> None:
    async with open_core(data_dir) as core, open_core(data_dir, ca=core.ca, clock=core.clock) as other:
        issued = await core.issue(await core.mint(ADA))
        token = await core.mint(ADA)
        assert await core.services.pause.pause(GRACE, "Moving until two.")

        for process in (core, other):
            with pytest.raises(IssuingPaused) as stopped:
                await process.issue(token)
            assert "Moving until two." in stopped.value.text
            with pytest.raises(IssuingPaused):
                await process.services.issuance.admit(ADA, "client")
        assert len(core.ca.signed) == 1

        found = await other.services.ledger.find_any(issued.leaf.serial_number)
        assert found is not None
        await other.services.revocation.revoke(found, Reason.LOST, THE_SERVICE)
        assert await other.services.pause.resume(GRACE)

        await core.issue(token)  # the link was not spent
        assert core.ledger() == ["issued", "issued"]
        assert await actions(core) == ["issued", "paused", "revoked", "resumed", "issued"]


async def test_it_survives_a_restart(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        await core.services.pause.pause(GRACE, "why")
    async with open_core(data_dir) as core:
        state = await core.services.pause.state()
        assert state is not None
        assert (state.who, state.note) == ("grace", "why")
        with pytest.raises(IssuingPaused):
            await core.issue(await core.mint(ADA))


async def test_twice_is_once(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        pause = core.services.pause
        assert not await pause.resume(GRACE)
        paused = await asyncio.gather(*(pause.pause(GRACE, str(n)) for n in range(5)))
        resumed = await asyncio.gather(*(pause.resume(GRACE) for _ in range(5)))
        assert sorted(paused) == sorted(resumed) == [False] * 4 + [True]
        assert await actions(core) == ["paused", "resumed"]


async def test_what_was_begun_before_is_not_signed_after_it(data_dir: Path) -> None:
    """The last look is in the statement that lets the authority be asked."""
    signers = StoppingSigners()
    async with open_core(data_dir, signers=signers) as core:
        signers.pause = core.services.pause
        token = await core.mint(ADA)
        with pytest.raises(IssuingPaused):
            await core.issue(token)
        assert core.ca.signed == []
        assert core.ledger() == []
        await core.services.pause.resume(GRACE)
        signers.pause = None
        await core.issue(token)


class StoppingSigners(InlineSigners):
    """Somebody stops issuing while a key is made."""

    pause: Pause | None = None

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.pause is not None:
            await self.pause.pause(GRACE, "key leaked")
        return await super().run(function, *args, **kwargs)


@pytest.mark.parametrize("note", ["x" * 201, "a\x00b", "a\u202eb", "\udcff"])
async def test_a_note_is_read_by_people(data_dir: Path, note: str) -> None:
    async with open_core(data_dir) as core:
        with pytest.raises(InvalidInput):
            await core.services.pause.pause(GRACE, note)
        assert await core.services.pause.state() is None
