"""What is installed is what is locked, and what is locked is what the project names."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
RUNTIME = [Requirement(line) for line in PROJECT["project"]["dependencies"]]


def pins(lock: Path) -> dict[str, Version]:
    """Package -> version, as it applies here. Raises AssertionError for what no lock may hold."""
    text = lock.read_text()
    assert "://" not in text, "an address"
    assert not re.search(r"^-", text, re.MULTILINE), "an option"
    found: dict[str, Version] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        spec, *sums = re.split(r"\s*\\?\s+--hash=", block)
        assert sums, f"{spec} has no sum"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest.strip()) for digest in sums), spec
        requirement = Requirement(spec)
        if requirement.marker is None or requirement.marker.evaluate():
            found[canonicalize_name(requirement.name)] = Version(
                str(requirement.specifier).removeprefix("==")
            )
    return found


def test_there_is_a_lock_for_the_program_and_for_each_group() -> None:
    assert [lock.stem for lock in LOCKS] == sorted(["runtime", *GROUPS])


@pytest.mark.parametrize("lock", ["runtime", "dev"])
def test_what_is_installed_is_what_is_locked(lock: str) -> None:
    locked = pins(ROOT / f"requirements/{lock}.txt")

    assert {name: Version(version(name)) for name in locked} == locked


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_meet_the_floors_that_the_project_names(lock: Path) -> None:
    locked = pins(lock)
    named = RUNTIME if lock.stem == "runtime" else [Requirement(line) for line in GROUPS[lock.stem]]

    assert [
        str(named) for named in named if locked[canonicalize_name(named.name)] not in named.specifier
    ] == []


def test_locks_agree_with_each_other() -> None:
    runtime = pins(ROOT / "requirements/runtime.txt")

    for lock in LOCKS:
        shared = {name: pin for name, pin in pins(lock).items() if name in runtime}
        assert shared == {name: runtime[name] for name in shared}, lock.name


def test_argon2_does_not_hold_the_interpreter() -> None:
    """Up to 49 a password check blocked the event loop, thread or not."""
    assert pins(ROOT / "requirements/runtime.txt")["cryptography"] >= Version("50")


def test_every_library_that_is_imported_is_named() -> None:
    providers = packages_distributions()
    named = {canonicalize_name(requirement.name) for requirement in RUNTIME}
    unnamed = set()
    for path in [ROOT / "app.py", *(ROOT / "certbob").rglob("*.py")]:
        for library in _libraries(path) - sys.stdlib_module_names - {"certbob"}:
            if not {canonicalize_name(provider) for provider in providers[library]} & named:
                unnamed.add(library)

    assert unnamed == set()


def _libraries(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_no_other_kind_of_lock_lies_around() -> None:
    """They would hold addresses, or disagree."""
    assert (
        not list(ROOT.glob("*.lock")) + list(ROOT.glob("pylock*.toml")) + list(ROOT.glob("requirements*.txt"))
    )


@pytest.mark.parametrize(
    "text",
    [
        "click==8.5.1",
        "click==8.5.1 \\\n    --hash=md5:00000000000000000000000000000000",
        f"--extra-index-url https://packages.example.org\nclick==8.5.1 \\\n    --hash=sha256:{'0' * 64}",
        f"click @ https://packages.example.org/click.whl --hash=sha256:{'0' * 64}",
    ],
)
def test_a_lock_without_sums_or_with_an_address_is_refused(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(text)

    with pytest.raises(AssertionError):
        pins(lock)
