"""What is committed speaks of the project alone: no workplace, no secret, nothing unfinished."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

UNWANTED = {
    "somebody's folder": re.compile(r"(?<![\w.])/(?:home|Users)/[a-z]\w*|(?<![\w.])/root/\."),
    "a registry's host": re.compile(
        r"pypi\.org|pythonhosted\.org|registry\.npmjs|proxy\.golang|(?:deb|snapshot)\.debian\.org",
        re.IGNORECASE,
    ),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{32}"),
    "an unfinished place": re.compile(r"\b(?:TODO|FIXME|XXX)\b"),
    "a conflict": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
}


def committed() -> list[Path]:
    """The files of the repository, and those that are about to be."""
    listed = subprocess.run(
        [
            "git",
            "-c",
            f"safe.directory={ROOT}",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def unwanted(text: str) -> list[str]:
    found = [f"{what}: {match[0]}" for what, pattern in UNWANTED.items() if (match := pattern.search(text))]
    # A checkout right below the root may have a name that is a word, such as /build.
    if len(ROOT.parts) > 2 and f"{ROOT}/" in text:
        found.append("the folder of this checkout")
    return found


@pytest.mark.needs("git")
def test_nothing_unwanted_is_committed() -> None:
    found = {}
    for path in committed():
        content = path.read_bytes()
        if (
            path != Path(__file__).resolve()
            and b"\0" not in content
            and (problems := unwanted(content.decode()))
        ):
            found[str(path.relative_to(ROOT))] = problems

    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "see /" + "home/ada/certbob",
        f"{ROOT}/app.py",
        "https://" + "pypi.org/simple",
        "-----BEGIN EC PRIVATE KEY-----\n" + "MHcCAQEEIKx0" * 4,
        "# TODO: mend",
        "<" * 7 + " HEAD",
    ],
)
def test_what_must_not_be_committed_is_found(text: str) -> None:
    assert unwanted(text) != []


@pytest.mark.parametrize(
    "text", ["curl http://127.0.0.1:8000/new", "HOME=/var/lib/certbob", "the root/ folder"]
)
def test_ordinary_text_is_let_pass(text: str) -> None:
    assert unwanted(text) == []
