"""What htmx, script and style sheet make of the templates in a real browser.

No server: each request of the page is answered from the samples of `tests.support.preview`, with the headers
of production.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect, sync_playwright

from certbob.web.security import HEADERS
from tests.support.peers import path_of
from tests.support.preview import NEW, PASSPHRASE, ROOT, SAMPLES, TAKE, Sample

pytestmark = pytest.mark.needs("chromium")

SITE = "https://cert.example.org"
OPTIONS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        options = OPTIONS + (["--no-sandbox"] if os.geteuid() == 0 else [])
        browser = playwright.chromium.launch(executable_path=path_of("chromium"), args=options)
        yield browser
        browser.close()


@dataclass
class Window:
    """A browser window on the samples. `answers`: what the site says to a method and path."""

    page: Page
    answers: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, sample: Sample, path: str = "/page") -> None:
        self.answers["GET", path] = 200, sample.render()
        self.page.goto(SITE + path)

    def answer(self, route: Route) -> None:
        request = route.request
        path = urlsplit(request.url).path
        if path.startswith("/static/"):
            route.fulfill(path=ROOT / path[1:], headers=dict(HEADERS))
            return
        self.requests.append(request)
        status, body = self.answers.get((request.method, path), (404, ""))
        kind = {"Content-Type": "text/html; charset=utf-8"}
        if path == "/issue" and request.method == "POST":
            kind = {
                "Content-Type": "application/x-pkcs12",
                "Content-Disposition": "attachment; filename=user_cert.pfx",
            }
        route.fulfill(status=status, body=body, headers=dict(HEADERS) | kind)

    def asked(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if (r.method, urlsplit(r.url).path) == (method, path)]


def window(context: BrowserContext) -> Window:
    opened = Window(context.new_page())
    opened.page.route("**/*", opened.answer)
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.page.on("console", lambda message: opened.complaints.append(message.text))
    return opened


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Window]:
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    yield window(context)
    context.close()


@pytest.fixture
def plain_browser(chromium: Browser) -> Iterator[Window]:
    """Without JavaScript."""
    context = chromium.new_context(java_script_enabled=False)
    yield window(context)
    context.close()


def changed_form(sample: Sample, **values: Any) -> Sample:
    return sample.changed(values=sample.facts["values"] | values)


def options(**values: Any) -> str:
    return changed_form(SAMPLES["options-fragment"], **values).render()


def test_another_platform_brings_its_suggestion_and_keeps_the_focus(browser: Window) -> None:
    browser.open(NEW, "/new")
    browser.answers["GET", "/new"] = 200, options(platform="mac", device="Ada's Mac")

    browser.page.get_by_label("Mac").check()

    expect(browser.page.get_by_label("Name of this device")).to_have_value("Ada's Mac")
    expect(browser.page.get_by_label("Mac")).to_be_focused()
    (asked,) = browser.asked("GET", "/new")[1:]
    sent = parse_qs(urlsplit(asked.url).query)
    assert sent == {
        "platform": ["mac"],
        "device": ["Ada's Windows PC"],
        "profile": ["client"],
        "validity": ["90d"],
        "delivery": ["download"],
    }
    assert asked.headers["hx-target"] == "options"
    assert browser.complaints == []


def test_a_name_that_is_being_typed_is_not_overwritten(browser: Window) -> None:
    browser.open(NEW.changed(device_is_suggested=False), "/new")
    typed = SAMPLES["options-fragment"].changed(device_is_suggested=False)
    browser.answers["GET", "/new"] = 200, changed_form(typed, device="Wor").render()
    device = browser.page.get_by_label("Name of this device")
    device.fill("Work laptop")

    with browser.page.expect_response(lambda response: "platform=android" in response.url):
        browser.page.get_by_label("Android").check()

    expect(browser.page.get_by_label("Name of this device")).to_have_value("Work laptop")


def test_a_mistake_is_shown_in_place_and_focus_goes_to_the_heading(browser: Window) -> None:
    browser.open(NEW, "/new")
    browser.answers["POST", "/new"] = 422, SAMPLES["options-wrong"].render("_fragment.html")

    browser.page.get_by_role("button", name="Create and download").click()

    expect(browser.page.get_by_label("Name of this device")).to_have_attribute("aria-invalid", "true")
    expect(browser.page.get_by_role("heading", level=1)).to_be_focused()
    expect(browser.page.locator("header")).to_have_count(1)


def test_a_failure_is_told_beside_the_form_and_over_with_the_next_answer(browser: Window) -> None:
    browser.open(NEW, "/new")
    browser.answers["POST", "/new"] = 503, SAMPLES["alert"].render()
    button = browser.page.get_by_role("button", name="Create and download")
    device = browser.page.get_by_label("Name of this device")
    device.fill("Work laptop")

    button.click()

    expect(browser.page.get_by_role("alert")).to_contain_text("The certificate service does not answer")
    expect(device).to_have_value("Work laptop")
    expect(browser.page).to_have_title("Get a certificate · CertBob")
    expect(button).to_be_enabled()

    browser.answers["POST", "/new"] = 200, TAKE.changed(autostart=False).render("_fragment.html")
    button.click()

    expect(browser.page.get_by_role("heading", level=1)).to_have_text("Your certificate for Work laptop")
    expect(browser.page).to_have_title("Your certificate for Work laptop · CertBob")
    expect(browser.page.get_by_role("alert")).to_be_empty()


def test_a_session_that_is_over_leads_to_the_sign_in_page(browser: Window) -> None:
    browser.open(NEW, "/new")
    browser.answers["GET", "/login"] = 200, SAMPLES["sign-in-again"].render()

    def over(route: Route) -> None:
        route.fulfill(status=401, headers={"HX-Redirect": "/login?next=/new"})

    browser.page.route(f"{SITE}/new", over)

    browser.page.get_by_role("button", name="Create and download").click()

    expect(browser.page.get_by_role("heading", level=1)).to_have_text("Sign in to get your certificate")


@pytest.mark.parametrize("arrives", ["as a page", "as a fragment"])
def test_the_download_starts_by_itself_once_and_the_page_stays(browser: Window, arrives: str) -> None:
    browser.answers["POST", "/issue"] = 200, "a file"
    with browser.page.expect_download() as download:
        if arrives == "as a page":
            browser.open(TAKE, "/issue")
        else:
            browser.open(NEW, "/new")
            browser.answers["POST", "/new"] = 200, TAKE.render("_fragment.html")
            browser.page.get_by_role("button", name="Create and download").click()

    assert download.value.suggested_filename == "user_cert.pfx"
    expect(browser.page.locator("#passphrase")).to_have_text(PASSPHRASE)
    expect(browser.page.get_by_role("status")).to_have_text("Creating your certificate…")
    assert browser.page.url == f"{SITE}/issue"
    (asked,) = browser.asked("POST", "/issue")
    assert "hx-request" not in asked.headers
    assert browser.page.locator("[data-autostart]").count() == 0
    assert browser.complaints == []


def test_a_second_press_sends_nothing_and_keeps_the_focus(browser: Window) -> None:
    browser.answers["POST", "/issue"] = 200, "a file"
    browser.open(TAKE.changed(autostart=False), "/issue")
    button = browser.page.get_by_role("button", name="Create and download")

    with browser.page.expect_download():
        button.click()
    button.click(force=True)

    expect(button).to_be_disabled()
    expect(button).to_be_focused()
    browser.page.wait_for_load_state("networkidle")
    assert len(browser.asked("POST", "/issue")) == 1


def test_nothing_starts_by_itself_that_should_not(browser: Window) -> None:
    browser.open(TAKE.changed(autostart=False), "/issue")

    expect(browser.page.get_by_role("button", name="Copy")).to_be_visible()  # the script has run
    assert browser.asked("POST", "/issue") == []


def test_copying_the_passphrase_is_told(browser: Window) -> None:
    browser.open(SAMPLES["take-again"])

    browser.page.get_by_role("button", name="Copy", exact=True).click()

    expect(browser.page.get_by_role("status")).to_have_text("Passphrase copied.")
    assert browser.page.evaluate("navigator.clipboard.readText()") == PASSPHRASE


def test_without_a_clipboard_the_passphrase_is_selected(chromium: Browser) -> None:
    context = chromium.new_context()
    opened = window(context)
    opened.page.add_init_script("delete Navigator.prototype.clipboard")
    opened.open(SAMPLES["take-again"])

    opened.page.get_by_role("button", name="Copy", exact=True).click()

    expect(opened.page.get_by_role("status")).to_contain_text("Press Ctrl and C")
    assert opened.page.evaluate("getSelection().toString()") == PASSPHRASE
    context.close()


def test_printing_leaves_passphrase_and_steps_and_nothing_else(browser: Window) -> None:
    browser.open(SAMPLES["take-again"])
    browser.page.evaluate("window.print = () => { document.title = 'printed'; }")
    browser.page.get_by_role("button", name="Print").click()
    expect(browser.page).to_have_title("printed")

    browser.page.emulate_media(media="print")

    expect(browser.page.locator("#passphrase")).to_be_visible()
    expect(browser.page.get_by_text("Leave Current User selected.")).to_be_visible()
    for gone in ("header", "footer", "main button", ".help", "details:not([open])"):
        assert not any(element.is_visible() for element in browser.page.locator(gone).all()), gone


def test_a_page_that_the_browser_kept_is_asked_for_again(browser: Window) -> None:
    browser.open(SAMPLES["take-again"], "/issue")

    with browser.page.expect_navigation():
        browser.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")

    assert len(browser.asked("GET", "/issue")) == 2


def test_without_javascript_nothing_is_offered_that_needs_it(plain_browser: Window) -> None:
    plain_browser.answers["POST", "/issue"] = 200, "a file"
    plain_browser.open(TAKE, "/issue")

    expect(plain_browser.page.get_by_role("button", name="Copy")).to_have_count(0)
    expect(plain_browser.page.get_by_role("button", name="Print")).to_have_count(0)
    with plain_browser.page.expect_download() as download:
        plain_browser.page.get_by_role("button", name="Create and download").click()
    assert download.value.suggested_filename == "user_cert.pfx"


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.is_page])
def test_every_page_fits_a_small_phone_and_its_console_is_silent(browser: Window, name: str) -> None:
    """320 pixels: what 400 % zoom leaves of a desk, WCAG 2.2 1.4.10; targets of 44 pixels."""
    browser.page.set_viewport_size({"width": 320, "height": 640})
    browser.open(SAMPLES[name].changed(autostart=False))
    browser.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")

    assert browser.page.evaluate("document.documentElement.scrollWidth") == 320
    targets = browser.page.locator(
        "button, .button, summary, select, .tile, .tick, header a, footer a, .field > input"
    )
    for target in targets.all():
        if (box := target.bounding_box()) is not None:
            assert box["height"] >= 44, target.inner_text()
    assert browser.complaints == []


def test_the_skip_link_is_the_first_stop_and_leads_to_the_content(browser: Window) -> None:
    browser.open(NEW, "/new")

    browser.page.keyboard.press("Tab")

    skip = browser.page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    browser.page.keyboard.press("Enter")
    expect(browser.page.locator("main")).to_be_focused()
