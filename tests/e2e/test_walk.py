"""The whole walk in a real browser: sign in, choose, take the file away; with JavaScript and without."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from playwright.sync_api import Browser, BrowserContext, Download, Route, expect

from tests.e2e.conftest import ADA, ADAS_PASSWORD, Running
from tests.e2e.smoke import Browser as Client
from tests.e2e.smoke import assert_is_client_certificate

pytestmark = pytest.mark.needs("chromium")

OLD_IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/16.6 Mobile/15E148 Safari/604.1"
)


class Visit:
    """One browser window, and what its console complained of."""

    def __init__(self, context: BrowserContext, certbob: Running) -> None:
        self.page = context.new_page()
        self.certbob = certbob
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def sign_in(self, password: str = ADAS_PASSWORD) -> None:
        self.page.goto(self.certbob.url)
        self.page.get_by_label("User name").fill(ADA)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def choose(self, device: str) -> None:
        self.page.get_by_label("Name of this device").fill(device)
        self.create("Create and download")

    def create(self, button: str) -> None:
        """Press it, and keep what an earlier test has made for the same device."""
        self.page.get_by_role("button", name=button, exact=True).click()
        question = self.page.get_by_text("You already have one for")
        heading = self.page.get_by_role("heading", name="Your certificate for")
        expect(question.or_(heading).or_(self.page.locator(".notice")).first).to_be_visible()
        if question.is_visible():
            self.page.get_by_label("Keep both").check()
            self.page.get_by_role("button", name=button, exact=True).click()

    def passphrase(self) -> str:
        return self.page.locator("#passphrase").inner_text().strip()

    def assert_opens(self, download: Download) -> None:
        assert download.suggested_filename == "user_cert.pfx"
        root = x509.load_pem_x509_certificate(Client(self.certbob.url).get("/ca/root.pem").body)
        assert_is_client_certificate(Path(download.path()).read_bytes(), self.passphrase(), root)


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def visit(request: pytest.FixtureRequest, chromium: Browser, certbob: Running) -> Iterator[Visit]:
    context = chromium.new_context(java_script_enabled=request.param, accept_downloads=True)
    yield Visit(context, certbob)
    context.close()


@pytest.fixture
def scripted(chromium: Browser, certbob: Running) -> Iterator[Visit]:
    context = chromium.new_context(accept_downloads=True)
    yield Visit(context, certbob)
    context.close()


def test_a_person_takes_a_working_file_away(visit: Visit, request: pytest.FixtureRequest) -> None:
    with_script = "with JavaScript" in request.node.name.replace("without", "")
    visit.sign_in()
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("Get a certificate")
    expect(visit.page.get_by_label("Linux or Firefox")).to_be_checked()

    if with_script:
        with visit.page.expect_download() as started:
            visit.choose("Work laptop")
    else:
        visit.choose("Work laptop")
        with visit.page.expect_download() as started:
            visit.page.get_by_role("button", name="Create and download").click()

    heading = visit.page.get_by_role("heading", level=1)
    expect(heading).to_have_text("Your certificate for Work laptop")
    assert re.fullmatch(r"[a-z2-9]{4}(-[a-z2-9]{4}){4}", visit.passphrase())
    visit.assert_opens(started.value)
    assert visit.complaints == []


def test_the_page_survives_a_second_press_and_a_reload(visit: Visit) -> None:
    visit.sign_in()
    visit.choose("Twice")
    heading = visit.page.get_by_role("heading", level=1)
    expect(heading).to_have_text("Your certificate for Twice")
    passphrase = visit.passphrase()
    again = visit.page.get_by_role("button", name=re.compile("^(Create and download|Download again)"))
    expect(again).to_be_enabled(timeout=10_000)

    with visit.page.expect_download() as first:
        again.click()
    visit.page.reload()
    expect(heading).to_have_text("Your certificate for Twice")
    again = visit.page.get_by_role("button", name=re.compile("^Download again"))
    with visit.page.expect_download() as second:
        again.click()

    assert visit.passphrase() == passphrase
    assert Path(first.value.path()).read_bytes() == Path(second.value.path()).read_bytes()


def test_whoever_chose_wrong_gets_a_file_for_older_devices(scripted: Visit) -> None:
    scripted.sign_in()
    with scripted.page.expect_download() as first:
        scripted.choose("Old tablet")
    modern = Path(first.value.path()).read_bytes()

    with scripted.page.expect_download() as second:
        scripted.page.get_by_role("button", name="Make a file for older devices").click()

    compatible = Path(second.value.path()).read_bytes()
    pbes1_with_3des = bytes.fromhex("2a864886f70d010c0103")
    assert pbes1_with_3des not in modern
    assert pbes1_with_3des in compatible
    scripted.assert_opens(second.value)


def test_an_old_system_is_asked_and_nothing_starts_by_itself(chromium: Browser, certbob: Running) -> None:
    context = chromium.new_context(accept_downloads=True, user_agent=OLD_IPHONE)
    visit = Visit(context, certbob)
    visit.sign_in()
    visit.choose("Old iPhone")
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("Your certificate for Old iPhone")

    with visit.page.expect_download() as started:
        visit.page.get_by_role("button", name="Create and download").click()

    assert bytes.fromhex("2a864886f70d010c0103") in Path(started.value.path()).read_bytes()
    visit.assert_opens(started.value)
    context.close()


def test_a_mistake_is_told_at_the_field_and_nothing_typed_is_lost(visit: Visit) -> None:
    visit.sign_in()

    visit.choose("Laptop, <b>mine</b>")

    field = visit.page.get_by_label("Name of this device")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_value("Laptop, <b>mine</b>")
    expect(visit.page.get_by_text("may hold letters, digits").first).to_be_visible()


def test_what_is_typed_while_other_fields_are_fetched_is_kept(scripted: Visit) -> None:
    scripted.sign_in()
    page = scripted.page
    page.wait_for_url("**/new")  # until its scripts run, too
    held: list[Route] = []
    page.route("**/new?*", lambda route: held.append(route))
    page.get_by_label("Android").check()
    expect(page.get_by_label("Android")).to_be_checked()
    expect(page.locator(".htmx-request")).not_to_have_count(0)
    field = page.get_by_label("Name of this device")
    field.fill("Kept tablet")

    with page.expect_response("**/new?*"):
        for route in held:
            route.continue_()

    expect(page.locator(".htmx-request, .htmx-swapping, .htmx-settling")).to_have_count(0)
    expect(field).to_have_value("Kept tablet")
    page.unroute("**/new?*")
    page.get_by_label("Mac").check()
    expect(field).to_have_value("Kept tablet")


def test_a_wrong_password_is_told_and_the_name_is_kept(visit: Visit) -> None:
    visit.sign_in("not the password")

    expect(visit.page.get_by_text("User name or password is not right").first).to_be_visible()
    expect(visit.page.get_by_label("User name")).to_have_value(ADA)
    Client(visit.certbob.url).post("/login", username=ADA, password=ADAS_PASSWORD)  # takes the count back


def test_no_secret_stays_in_the_browser_after_signing_out(scripted: Visit) -> None:
    scripted.sign_in()
    with scripted.page.expect_download():
        scripted.choose("Shared computer")
    passphrase = scripted.passphrase()
    stored = scripted.page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    )
    assert passphrase not in stored
    assert "token" not in stored

    scripted.page.get_by_role("button", name="Sign out").click()

    expect(scripted.page).to_have_url(re.compile("/login$"))
    scripted.page.goto(f"{scripted.certbob.url}/new")
    expect(scripted.page).to_have_url(re.compile("/login"))
