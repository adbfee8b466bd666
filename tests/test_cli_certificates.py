"""`certbob list` and `certbob revoke`, over what `certbob issue` has made."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import certbob


def issue(folder: Path, name: str, device: str) -> str:
    """Its serial number."""
    told = run(folder, "issue", name, "--device", device, "--output", f"{name} {device}.pfx", "--json")
    return str(json.loads(told.stdout)["serial"])


def run(folder: Path, *arguments: str, expect: int = 0) -> "subprocess.CompletedProcess[str]":
    told = certbob(folder, *arguments)
    assert told.returncode == expect, told.stdout + told.stderr
    return told


def listed(folder: Path, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(folder, "list", *words, "--json").stdout)
    return found


@pytest.fixture
def serials(tmp_path: Path) -> list[str]:
    made = (("Ada Lovelace", "Laptop"), ("Ada Lovelace", "Phone"), ("Bert Becker", "Laptop"))
    return [issue(tmp_path, *each) for each in made]


def test_certificates_are_found_and_revoked(tmp_path: Path, serials: list[str]) -> None:
    ada, phone, bert = serials
    assert [each["serial"] for each in listed(tmp_path)] == [bert, phone, ada]
    assert [each["serial"] for each in listed(tmp_path, "lovelace")] == [phone, ada]
    lines = run(tmp_path, "list", "PHONE").stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"{phone}  20")
    assert lines[0].endswith("  Active  Ada Lovelace, Phone")

    assert run(tmp_path, "revoke", phone, "--reason", "lost").stdout == "1 revoked.\n"
    assert run(tmp_path, "revoke", phone.upper()).stdout == "0 revoked.\n"

    assert [each["status"] for each in listed(tmp_path)] == ["Active", "Revoked", "Active"]


def test_everything_of_a_person_is_revoked(tmp_path: Path, serials: list[str]) -> None:
    assert run(tmp_path, "revoke", serials[0], "--everything").stdout == "2 revoked.\n"

    assert [each["status"] for each in listed(tmp_path)] == ["Active", "Revoked", "Revoked"]


def test_what_does_not_exist_is_told(tmp_path: Path, serials: list[str]) -> None:
    assert "there is no certificate" in run(tmp_path, "revoke", "abc", expect=1).stderr
    for nonsense in ("xyz", "", "0x12", "1" * 41, "-1"):
        run(tmp_path, "revoke", "--", nonsense, expect=2)
    assert listed(tmp_path, "nobody") == []
    assert {each["status"] for each in listed(tmp_path)} == {"Active"}


def test_looking_founds_nothing(tmp_path: Path) -> None:
    for command in (["list"], ["revoke", "1"]):
        run(tmp_path, *command, expect=1)
    assert list(tmp_path.iterdir()) == []


def test_words_need_no_quotes_and_scripts_get_facts(tmp_path: Path, serials: list[str]) -> None:
    (phone,) = listed(tmp_path, "phone")
    assert [each["name"] for each in listed(tmp_path, "Ada", "Lovelace")] == ["Ada Lovelace"] * 2
    assert (phone["profile"], phone["door"], phone["revoked_at"]) == ("client", "terminal", None)
    run(tmp_path, "revoke", phone["serial"])
    (revoked,) = listed(tmp_path, phone["serial"])
    assert revoked["not_before"] < revoked["revoked_at"] < revoked["not_after"]
