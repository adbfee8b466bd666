"""Photographs every page, light and dark, on a desk and on a phone.

    python -m scripts.shots [FOLDER]        `shots/` by default

`readme.png` is what the README shows. Needs Chromium; the pages come from a CertBob of its own.
"""

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from certbob.auth.local import hash_password
from tests.e2e.smoke import Program
from tests.support.peers import path_of

CHECKOUT = Path(__file__).parents[1]
PASSWORD = "only for pictures"  # noqa: S105
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
BUSY_MS = 5500  # until the button is itself again


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        program = _program(Path(name))
        with program.running(), sync_playwright() as playwright:
            options = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=path_of("chromium"), args=options)
            for scheme in ("light", "dark"):
                for size in SIZES:
                    _photograph(browser, program.url, scheme, size, folder)
            browser.close()


def _program(base: Path) -> Program:
    home, tmp = base / "home", base / "tmp"
    home.mkdir(mode=0o700)
    tmp.mkdir(mode=0o700)
    configuration = home / "config.toml"
    configuration.write_text(
        f"""
[server]
organization = "Example Org"
contact = "it@example.org"

[[local.users]]
username = "ada"
name = "Ada Lovelace"
password_hash = "{hash_password(PASSWORD)}"
"""
    )
    configuration.chmod(0o600)
    return Program([sys.executable, CHECKOUT / "app.py"], home=home, tmp=tmp, log=base / "log")


def _photograph(browser: Browser, url: str, scheme: str, size: str, folder: Path) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        accept_downloads=True,
    )
    page = context.new_page()

    def shoot(what: str) -> None:
        page.screenshot(path=folder / f"{what}-{scheme}-{size}.png", full_page=True)

    page.goto(url)
    shoot("sign-in")
    _sign_in(page, "wrong")
    page.get_by_text("is not right").first.wait_for()
    shoot("sign-in-refused")
    _sign_in(page, PASSWORD)
    page.wait_for_url("**/new")
    shoot("options")
    page.get_by_label("Name of this device").fill("Laptop, mine")
    page.get_by_role("button", name="Create and download").click()
    page.locator("[aria-invalid=true]").wait_for()
    shoot("options-mistake")
    page.get_by_label("Name of this device").fill("Work laptop")
    with page.expect_download():
        page.get_by_role("button", name="Create and download").click()
    page.wait_for_timeout(BUSY_MS)
    shoot("take")
    if (scheme, size) == ("light", "desk"):
        page.screenshot(path=folder / "readme.png")
    page.reload()
    shoot("take-again")
    page.goto(f"{url}/issue?token=x")
    shoot("error")
    page.goto(f"{url}/ca")
    shoot("ca")
    context.close()


def _sign_in(page: Page, password: str) -> None:
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "shots"))
