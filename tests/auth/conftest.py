"""A site with the hostile provider, and a clock that stands still."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.single_sign_on import SingleSignOn, open_single_sign_on
from tests.support.web import StillClock


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def on(data_dir: Path, clock: StillClock) -> AsyncIterator[SingleSignOn]:
    async with open_single_sign_on(data_dir, clock) as opened:
        yield opened
