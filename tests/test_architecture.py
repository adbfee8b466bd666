"""The house keeps its shape: see CONTRIBUTING.md."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.architecture import CORE, violations

ROOT = Path(__file__).resolve().parents[1]

# Imports everything, and tells what that did to the world: files written, connections, processes, threads.
WATCHED_IMPORT = """
import pkgutil, sys, threading
deeds = []
def watch(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        deeds.append(f"{event} {arguments}")
    elif event in ("socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen", "os.mkdir"):
        deeds.append(f"{event} {arguments}")
sys.addaudithook(watch)
import app, certbob
for module in pkgutil.walk_packages(certbob.__path__, "certbob."):
    __import__(module.name)
deeds += [str(thread) for thread in threading.enumerate() if thread is not threading.main_thread()]
print("\\n".join(deeds), end="")
"""


def plant(root: Path, **sources: str) -> Path:
    """A small house: `core` for certbob/core.py, `web__login` for certbob/web/login.py, `app` for app.py."""
    for name, source in {"app": "", "__init__": "", **sources}.items():
        inside = Path(*name.split("__")) if name != "__init__" else Path(name)
        path = root / ("app.py" if name == "app" else Path("certbob") / inside.with_suffix(".py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def test_every_import_follows_an_arrow() -> None:
    assert violations(ROOT) == []


def test_importing_does_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED_IMPORT], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == ""


@pytest.mark.parametrize("library", ["httpx2", "aiosqlite", "quart", "sqlite3", "socket", "http.client"])
@pytest.mark.parametrize("module", ["issuance", "grants"])
def test_the_core_knows_neither_network_nor_database_nor_web(
    tmp_path: Path, module: str, library: str
) -> None:
    house = plant(tmp_path, **{module: f"def work():\n    import {library}"})

    assert violations(house) == [f"certbob.{module} imports {library}: not for core"]


@pytest.mark.parametrize("module", ["ca__stepca", "server", "cli", "bootstrap"])
def test_quart_lives_only_in_the_front_doors(tmp_path: Path, module: str) -> None:
    house = plant(tmp_path, **{module: "from quart import request"})

    assert len(violations(house)) == 1


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("web__login", "from certbob.ca.builtin import BuiltinCA"),
        ("ca__builtin", "import certbob.store.sqlite"),
        ("ca__builtin", "from ..store import sqlite"),
        ("errors", "from certbob.web import errors"),
        ("jobs", "from certbob import server"),
        ("bootstrap", "from certbob import config, cli"),
        ("web__login", "from certbob import bootstrap"),
    ],
)
def test_an_arrow_that_turns_back_is_found(tmp_path: Path, module: str, statement: str) -> None:
    others = {
        "ca__builtin": "",
        "store__sqlite": "",
        "web__errors": "",
        "server": "",
        "cli": "",
        "config": "",
    }
    house = plant(tmp_path, **{**others, "bootstrap": "", module: statement})

    assert len(violations(house)) == 1, violations(house)


def test_a_cycle_in_the_core_is_found(tmp_path: Path) -> None:
    house = plant(
        tmp_path, grants="from certbob import issuance", issuance="from certbob.grants import Grants"
    )

    assert [problem.partition(":")[0] for problem in violations(house)] == ["a cycle"]


def test_a_module_without_a_room_is_found(tmp_path: Path) -> None:
    assert violations(plant(tmp_path, utils="", web__utils="")) == ["certbob.utils is in no room"]


def test_a_tidy_house_has_no_violations(tmp_path: Path) -> None:
    house = plant(
        tmp_path,
        app="from certbob.cli import main",
        cli="import click\nfrom certbob import server",
        server="import hypercorn.asyncio\nfrom certbob import bootstrap, web",
        bootstrap="from certbob.ca.builtin import BuiltinCA\nfrom certbob.config import Settings",
        config="import msgspec",
        ca__builtin="from cryptography import x509\nfrom certbob.ports import Chain\nfrom . import helper",
        ca__helper="import ssl",
        web____init__="from quart import Quart\nfrom certbob import issuance\nfrom certbob.web import login",
        web__login="from quart import request",
        issuance="from urllib.parse import quote\nimport jwt\nfrom certbob import ports",
        ports="",
    )

    assert violations(house) == []


def test_the_core_is_the_one_of_the_guide() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()

    assert [name for name in CORE.split() if f"`{name}`" not in guide] == []
