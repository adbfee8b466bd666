"""Administrators at work in a real browser: stop issuing, look for people, revoke, look through the log."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from certbob.auth.local import hash_password
from tests.e2e.conftest import ADA, ADAS_PASSWORD, CHECKOUT, USERS, Running
from tests.e2e.smoke import Program

pytestmark = pytest.mark.needs("chromium")

BOSS, BOSS_PASSWORD = "grace", "a password for everything"


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    base = tmp_path_factory.mktemp("office")
    home, tmp = base / "home", base / "tmp"
    for folder in (home, tmp):
        folder.mkdir(mode=0o700)
    file = home / "config.toml"
    file.write_text(
        f'''
[server]
contact = "it@example.org"

[oidc]
admin_groups = ["pki-admins"]
{USERS}
[[local.users]]
username = "{BOSS}"
password_hash = "{hash_password(BOSS_PASSWORD)}"
name = "Grace Hopper"
groups = ["pki-admins"]
'''
    )
    file.chmod(0o600)
    program = Program([sys.executable, CHECKOUT / "app.py"], home=home, tmp=tmp, log=base / "log")
    with program.running():
        yield Running(program.url, home, base / "log")


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def context(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[BrowserContext]:
    opened = chromium.new_context(java_script_enabled=request.param, accept_downloads=True)
    yield opened
    opened.close()


def sign_in(context: BrowserContext, office: Running, username: str, password: str) -> Page:
    context.clear_cookies()
    page = context.new_page()
    page.goto(office.url)
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Get a certificate")).to_be_visible()
    return page


def issued(office: Running, name: str) -> str:
    made = office.command("issue", name, "--device", "Laptop", "--json", "--output", f"{time.time_ns()}.pfx")
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["serial"])


def test_issuing_is_stopped_for_everybody_and_goes_on(office: Running, context: BrowserContext) -> None:
    page = sign_in(context, office, BOSS, BOSS_PASSWORD)
    page.get_by_role("link", name="All certificates").click()
    page.get_by_role("link", name="Stop issuing").click()
    page.get_by_label("What people are told").fill("Moving until two.")
    page.get_by_role("button", name="Stop issuing").click()
    expect(page.get_by_role("heading", name="Issuing is stopped")).to_be_visible()

    page = sign_in(context, office, ADA, ADAS_PASSWORD)
    expect(page.locator(".notice")).to_contain_text("Issuing is stopped. Moving until two.")
    expect(page.get_by_role("button", name="Create and download")).to_have_count(0)
    refused = office.command("issue", "Bert", "--json")
    assert refused.returncode == 1
    assert "Moving until two." in refused.stderr

    page = sign_in(context, office, BOSS, BOSS_PASSWORD)
    page.goto(f"{office.url}/admin")
    page.get_by_role("link", name="Go on").click()
    page.get_by_role("button", name="Issue again").click()
    expect(page.get_by_role("heading", name="Stop issuing?")).to_be_visible()

    page = sign_in(context, office, ADA, ADAS_PASSWORD)
    expect(page.get_by_role("button", name="Create and download")).to_be_visible()


def test_somebody_is_found_and_revoked_and_the_log_says_so(
    office: Running, context: BrowserContext, tmp_path: Path
) -> None:
    name = f"Bert {time.time_ns()}"
    serials = [issued(office, name) for _ in range(2)]
    page = sign_in(context, office, BOSS, BOSS_PASSWORD)
    page.get_by_role("link", name="All certificates").click()
    expect(page.locator(".numbers")).to_contain_text("Working now")
    page.get_by_label("Find").fill(serials[0])
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("article")).to_have_count(1)
    page.get_by_role("link", name=f"Everything of {name}").click()
    page.get_by_label("The device or the file was lost or stolen").check()
    page.get_by_role("button", name="Revoke all 2").click()
    expect(page.locator(".notice")).to_contain_text("2 revoked.")

    page.goto(f"{office.url}/admin/audit")
    page.get_by_label("Find").fill(name)
    page.get_by_label("What happened").select_option("Certificate revoked")
    page.get_by_role("button", name="Find").click()
    entries = page.locator("ol.log > li")
    expect(entries).to_have_count(2)
    expect(entries.first).to_contain_text("Grace Hopper, local account")
    expect(entries.first).to_contain_text("Laptop: lost")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "audit.csv")

    with (tmp_path / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["serial"] for row in rows} == set(serials)
    assert {(row["action"], row["account"]) for row in rows} == {("revoked", BOSS)}
    verified: subprocess.CompletedProcess[str] = office.command("audit", "verify")
    assert verified.returncode == 0, verified.stderr


def test_on_a_phone_nothing_is_wider_than_the_screen(office: Running, chromium: Browser) -> None:
    context = chromium.new_context(viewport={"width": 320, "height": 640})
    page = sign_in(context, office, BOSS, BOSS_PASSWORD)
    for path in ("/admin", "/admin/expiring", "/admin/audit", "/admin/pause", "/admin/questions"):
        page.goto(office.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path
    context.close()
