"""Single sign-on in Chromium, through a real, certified provider on another site; also without JavaScript."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.e2e.test_openid_provider import Installation, assert_is_about, certificate_in, installation
from tests.e2e.test_walk import Visit
from tests.support.openid_provider import ADA, LABEL

pytestmark = pytest.mark.needs("chromium", "oidc-provider")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("single-sign-on")) as running:
        yield running


class Walk(Visit):
    """`Visit`, with the way over the provider."""

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def follow(self, name: str) -> None:
        self.page.get_by_role("link", name=name).click()

    def sign_in_there(self) -> None:
        self.page.get_by_label("Account").fill(ADA.username)
        self.page.get_by_label("Passcode").fill(ADA.passcode)
        self.press("Log in")
        self.press("Allow")

    def expect_heading(self, text: str) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(text)


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def context(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context(java_script_enabled=request.param, accept_downloads=True)
    yield context
    context.close()


@pytest.fixture
def scripted(chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context()
    yield context
    context.close()


def test_a_person_takes_a_file_away_and_signs_out_on_both_sides(
    context: BrowserContext, installed: Installation, request: pytest.FixtureRequest
) -> None:
    with_script = "[with JavaScript]" in request.node.name
    walk = Walk(context, installed.certbob)
    walk.page.goto(installed.certbob.url)
    walk.follow(f"Continue with {LABEL}")
    walk.expect_heading("Log in")
    walk.sign_in_there()
    walk.expect_heading("Get a certificate")

    if with_script:
        with walk.page.expect_download() as started:
            walk.choose("Work laptop")
    else:
        walk.choose("Work laptop")
        with walk.page.expect_download() as started:
            walk.press("Create and download")
    walk.assert_opens(started.value)
    file = Path(started.value.path()).read_bytes()
    assert_is_about(certificate_in(file, walk.passphrase()), ADA)

    walk.press("Sign out")
    walk.follow(f"Continue with {LABEL}")  # is still signed in there, and not asked again
    walk.expect_heading("Get a certificate")

    walk.press("Sign out")
    walk.follow(f"Sign out of {LABEL}, too")
    walk.expect_heading("Log out?")
    walk.press("Log out")
    expect(walk.page).to_have_url(re.compile(f"^{installed.certbob.url}/login"))
    walk.follow(f"Continue with {LABEL}")
    walk.expect_heading("Log in")
    walk.sign_in_there()
    walk.expect_heading("Get a certificate")
    assert walk.complaints == []


def test_choices_survive_a_session_that_ended_meanwhile(
    scripted: BrowserContext, installed: Installation
) -> None:
    walk = Walk(scripted, installed.certbob)
    walk.page.goto(f"{installed.certbob.url}/login/oidc")
    walk.sign_in_there()
    walk.page.get_by_label("Android").check()
    device = walk.page.get_by_label("Name of this device")
    expect(device).to_have_value(re.compile("Android"))
    scripted.clear_cookies(name="certbob")

    device.fill("Kept tablet")
    walk.press("Create and download")
    expect(walk.page).to_have_url(re.compile("/login"))
    walk.follow(f"Continue with {LABEL}")

    walk.expect_heading("Get a certificate")
    expect(device).to_have_value("Kept tablet")
    expect(walk.page.get_by_label("Android")).to_be_checked()
