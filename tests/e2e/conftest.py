"""CertBob as people run it, once with each authority, and the services that its certificates open."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from certbob.auth.local import hash_password
from tests.e2e.smoke import Program
from tests.support.peers import path_of
from tests.support.stepca import PASSWORD, SHIPPED, StepCAServer

CHECKOUT = Path(__file__).parents[2]
ADA, ADAS_PASSWORD = "ada", "a lovely password"
USERS = f'''
[[local.users]]
username = "{ADA}"
password_hash = "{hash_password(ADAS_PASSWORD)}"
name = "Ada Lovelace"
email = "ada@example.org"
'''


CHROMIUM_OPTIONS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def stepca_sections(authority: StepCAServer) -> str:
    return f'''
[ca]
backend = "stepca"

[stepca]
url = "{authority.url}"
root = "{authority.fingerprint}"
provisioner = "{SHIPPED}"
provisioner_password = "{PASSWORD}"
'''


@dataclass(frozen=True, slots=True)
class Running:
    """A CertBob that serves, and the commands of the same installation."""

    url: str
    folder: Path
    log: Path

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, CHECKOUT / "app.py", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """For modules without coroutines: playwright keeps an event loop of its own running."""
    options = CHROMIUM_OPTIONS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path_of("chromium"), args=options)
        yield browser
        browser.close()


@pytest.fixture(
    scope="session", params=["builtin", pytest.param("stepca", marks=pytest.mark.needs("step-ca"))]
)
def certbob(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Configured by a file, with Ada's account."""
    base = tmp_path_factory.mktemp(f"certbob-{request.param}")
    home, tmp = base / "home", base / "tmp"
    for folder in (home, tmp):
        folder.mkdir(mode=0o700)
    configuration = USERS
    if request.param == "stepca":
        configuration += stepca_sections(request.getfixturevalue("step_ca"))
    file = home / "config.toml"
    file.write_text(configuration)
    file.chmod(0o600)
    program = Program([sys.executable, CHECKOUT / "app.py"], home=home, tmp=tmp, log=base / "log")
    with program.running():
        yield Running(program.url, home, base / "log")
