"""One site for each test, with a clock that stands still."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.web import Site, StillClock, open_site


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def site(data_dir: Path, clock: StillClock) -> AsyncIterator[Site]:
    async with open_site(data_dir, clock) as opened:
        yield opened
