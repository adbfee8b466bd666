"""What all tests share."""

from pathlib import Path

import pytest

from tests.support.clock import FakeClock

pytest_plugins = ["pytester", "tests.support.peers", "tests.support.stepca"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Empty and private, as CertBob makes it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder
