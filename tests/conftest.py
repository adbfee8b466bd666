"""What all tests share: real programs by name, a clock, a private folder."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.peers import PEERS

pytest_plugins = ["tests.support.stepca"]


def needed(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("needs"):
        yield from marker.args


def pytest_report_collectionfinish(items: list[pytest.Item]) -> list[str]:
    """The programs that the tests at hand drive."""
    names = sorted({name for item in items for name in needed(item)})
    if unknown := set(names) - set(PEERS):
        raise pytest.UsageError(f"tests/support/peers.py does not know {', '.join(sorted(unknown))}")
    with ThreadPoolExecutor() as pool:
        versions = pool.map(lambda name: PEERS[name].describe(), names)
    return [f"{name}: {version}" for name, version in zip(names, versions, strict=True)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [name for name in needed(item) if PEERS[name].find() is None]
    if missing:
        hints = "; ".join(f"{name} is missing: {PEERS[name].hint}" for name in missing)
        if os.environ.get("CI") == "true":
            pytest.fail(hints, pytrace=False)
        pytest.skip(hints)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Empty and private, as CertBob makes it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder
