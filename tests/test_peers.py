"""A test whose program is missing says so, and never passes unseen."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

REGISTRY = """
from pathlib import Path

from tests.support.peers import PEERS, Peer

pytest_plugins = ["tests.support.peers"]
PEERS["unicorn"] = Peer(("no-such-unicorn",), "apt install unicorn")
PEERS["bare-git"] = Peer(("git",), "npm ci", file=Path("no/such/package.json"))
"""


@pytest.fixture(autouse=True)
def elsewhere(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, where no program is called `no-such-unicorn`."""
    pytester.makeconftest(REGISTRY)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("CI", raising=False)


def run(pytester: pytest.Pytester, *needed: str) -> pytest.RunResult:
    pytester.makepyfile(f"import pytest\n\n@pytest.mark.needs(*{needed})\ndef test_something(): pass")
    return pytester.runpytest_subprocess("-rs", "-W", "ignore")


def test_a_missing_program_skips_with_a_hint(pytester: pytest.Pytester) -> None:
    result = run(pytester, "git", "unicorn")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["git: git version *", "unicorn: missing", "*unicorn is missing: apt install*"]
    )


def test_a_program_without_its_packages_is_missing(pytester: pytest.Pytester) -> None:
    result = run(pytester, "bare-git")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["bare-git: missing", "*bare-git is missing: npm ci*"])


def test_under_ci_a_missing_program_is_a_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")

    result = run(pytester, "unicorn")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["unicorn is missing: apt install unicorn"])


def test_a_program_that_nobody_knows_is_a_mistake(pytester: pytest.Pytester) -> None:
    assert run(pytester, "unicron").ret == pytest.ExitCode.USAGE_ERROR
