"""The whole job from the outside, by the checkout and by an up-to-date executable if there is one."""

import sys
from pathlib import Path

import pytest

from tests.e2e.smoke import main, run_smoke

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLE = ROOT / "dist/certbob"
MADE_FROM = ("app.py", "build.spec", "certbob", "partials", "requirements", "static")


def is_up_to_date() -> bool:
    parts = [path for name in MADE_FROM for path in (ROOT / name, *(ROOT / name).rglob("*.*"))]
    return EXECUTABLE.exists() and EXECUTABLE.stat().st_mtime > max(path.stat().st_mtime for path in parts)


def test_a_checkout_does_the_whole_job() -> None:
    run_smoke([sys.executable, ROOT / "app.py"])


if is_up_to_date():  # `make binary` builds it and asks the same of it

    def test_the_executable_does_the_whole_job() -> None:
        main(EXECUTABLE)


def test_a_program_that_does_not_start_is_found(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text("raise SystemExit('it cannot listen')")

    with pytest.raises(AssertionError, match="it does not start: it cannot listen"):
        run_smoke([sys.executable, program])
