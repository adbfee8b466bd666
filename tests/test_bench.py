"""The measurements run; their figures are not judged here."""

import json
from pathlib import Path

import pytest

from bench import growth


async def test_growth_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"LARGE": 200, "REVOKED": 20, "ROUNDS": 1, "PAGES": 2, "ISSUES": 1}
    for name, value in few.items():
        monkeypatch.setattr(growth, name, value)
    monkeypatch.setattr(growth, "RESULTS", tmp_path / "results" / "latest.json")

    await growth.main()

    results = json.loads((tmp_path / "results" / "latest.json").read_text())["P8"]
    assert list(results) == ["list page", "issuance", "list of revoked"]
    assert [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()] == list(results)
