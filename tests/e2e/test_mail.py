"""Certificates by mail in Chromium, through a real Postfix, up to a service that accepts them."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from certbob.auth.local import hash_password
from tests.e2e.conftest import ADA, ADAS_PASSWORD, CHECKOUT, USERS, Running
from tests.e2e.smoke import Browser as Client
from tests.e2e.smoke import Program
from tests.e2e.test_secrets import Hunted
from tests.e2e.test_walk import Visit
from tests.support.nginx import nginx
from tests.support.peers import path_of
from tests.support.postfix import MAILBOX, PASSWORD, SENDER, Postfix, running_postfix

pytestmark = pytest.mark.needs("chromium", "curl", "nginx", "openssl", "postfix", "saslpasswd2")

MASKED = "a…@example.org"
GRACE, GRACES_PASSWORD = "grace", "a graceful password"  # whom the mail server does not know
WITH_GRACE = f"""{USERS}
[[local.users]]
username = "{GRACE}"
password_hash = "{hash_password(GRACES_PASSWORD)}"
name = "Grace Hopper"
email = "grace@example.org"
"""


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with running_postfix() as server:
        yield server
        assert server.mailbox() == [], "a mail that no test knows of"


@contextmanager
def installation(base: Path, postfix: Postfix, **changes: Any) -> Iterator[Running]:
    """CertBob as people run it, at first or again; `changes` to its section about the mail server."""
    home, tmp = base / "home", base / "tmp"
    for folder in (home, tmp):
        folder.mkdir(mode=0o700, exist_ok=True)
    file = home / "config.toml"
    file.touch(mode=0o600)
    entries = postfix.settings(**changes)
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())
    file.write_text(f"[smtp]\n{lines}{WITH_GRACE}")
    program = Program(
        [sys.executable, CHECKOUT / "app.py"],
        home=home,
        tmp=tmp,
        log=base / "log",
        settings={"LOG_LEVEL": "debug"},
    )
    with program.running():
        yield Running(program.url, home, base / "log")


@pytest.fixture(scope="module")
def certbob(tmp_path_factory: pytest.TempPathFactory, postfix: Postfix) -> Iterator[Running]:
    """Mails the files themselves."""
    with installation(tmp_path_factory.mktemp("mail"), postfix) as running:
        yield running


@pytest.fixture(scope="module")
def with_links(tmp_path_factory: pytest.TempPathFactory, postfix: Postfix) -> Iterator[Running]:
    with installation(tmp_path_factory.mktemp("mail-links"), postfix, attach=False) as running:
        yield running


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def script(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def context(chromium: Browser, script: bool) -> Iterator[BrowserContext]:
    context = chromium.new_context(java_script_enabled=script, accept_downloads=True)
    yield context
    context.close()


class Walk(Visit):
    """`Visit`, with the way over a mail."""

    def go(self, username: str = ADA, password: str = ADAS_PASSWORD) -> None:
        """As far as somebody has asked for a certificate by mail."""
        self.page.goto(self.certbob.url)
        self.fill_sign_in(username, password)
        self.page.get_by_label(f"By mail to {username[0]}…@example.org").check()
        self.page.get_by_label("Name of this device").fill("Work laptop")
        self.create("Create certificate")

    def fill_sign_in(self, username: str = ADA, password: str = ADAS_PASSWORD) -> None:
        self.page.get_by_label("User name").fill(username)
        self.page.get_by_label("Password").fill(password)
        self.press("Sign in")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def expect_text(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=15_000)

    def token(self) -> str:
        return self.page.locator("input[name=token]").first.input_value()

    def download_instead(self) -> None:
        """The file and the passphrase of the same page fit together."""
        with self.page.expect_download() as started:
            self.press("Download it instead")
        self.assert_opens(started.value)


def certificates(certbob: Running) -> list[tuple[str, int | None]]:
    """How each signed one was delivered, and whether."""
    with closing(sqlite3.connect(certbob.folder / "data/certbob.sqlite3")) as database:
        return database.execute("SELECT delivery, delivered FROM certificates ORDER BY id").fetchall()


def attached(mail: EmailMessage) -> bytes:
    (part,) = mail.iter_attachments()
    assert (part.get_content_type(), part.get_filename()) == ("application/x-pkcs12", "user_cert.pfx")
    content = part.get_content()
    assert isinstance(content, bytes)
    return content


def body(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    text = part.get_content()
    assert isinstance(text, str)
    return text


def everything_in(mail: EmailMessage) -> bytes:
    """As it went over the wire, and decoded."""
    decoded = [part.get_payload(decode=True) for part in mail.walk()]
    headers = [f"{name}: {value}".encode() for name, value in mail.items()]
    return b"\n".join([mail.as_bytes(), *headers, *(each for each in decoded if isinstance(each, bytes))])


def assert_services_accept(file: bytes, passphrase: str, certbob: Running, folder: Path) -> None:
    path, chain, root = folder / "user_cert.pfx", folder / "chain.pem", folder / "published.pem"
    path.write_bytes(file)
    root.write_bytes(Client(certbob.url).get("/ca/root.pem").body)
    chain.write_text(_openssl("pkcs12", "-in", path, "-passin", f"pass:{passphrase}", "-nokeys"))
    verified = _openssl(
        "verify", "-purpose", "sslclient", "-CAfile", root, "-untrusted", chain, "-show_chain", chain
    )
    assert f"{chain}: OK" in verified
    assert "depth=2" in verified
    with nginx(folder, root.read_text()) as service:
        status, told = service.fetch("--cert-type", "P12", "--cert", f"{path}:{passphrase}")
    assert (status, told.rpartition("|")[0]) == (200, "SUCCESS|CN=Ada Lovelace")


def _openssl(*arguments: str | Path) -> str:
    command = [path_of("openssl"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_working_file_comes_by_mail_and_its_passphrase_stays_on_the_page(
    context: BrowserContext, script: bool, certbob: Running, postfix: Postfix, tmp_path: Path
) -> None:
    walk = Walk(context, certbob)
    walk.go()
    if not script:
        walk.press("Create and send")

    walk.expect_text(f"Sent to {MASKED}")

    mail = postfix.take_mail()
    assert_services_accept(attached(mail), walk.passphrase(), certbob, tmp_path)
    assert mail["From"].addresses[0].addr_spec == SENDER
    assert mail["To"].addresses[0].addr_spec == "ada@example.org"
    assert certificates(certbob)[-1] == ("mail", 1)
    assert walk.complaints == []
    passphrase = walk.passphrase()
    walk.page.reload()
    walk.expect_text(f"Sent to {MASKED}")
    assert walk.passphrase() == passphrase


def test_a_mail_goes_out_with_tls_from_the_first_byte_on(
    chromium: Browser, postfix: Postfix, tmp_path: Path
) -> None:
    context = chromium.new_context()
    with installation(tmp_path, postfix, port=postfix.submissions, security="tls") as certbob:
        walk = Walk(context, certbob)
        walk.go()

        walk.expect_text(f"Sent to {MASKED}")

        assert_services_accept(attached(postfix.take_mail()), walk.passphrase(), certbob, tmp_path)
    context.close()


def test_a_link_leads_a_fresh_browser_over_the_sign_in_to_the_file(
    chromium: Browser,
    context: BrowserContext,
    script: bool,
    with_links: Running,
    postfix: Postfix,
    tmp_path: Path,
) -> None:
    asked = Walk(context, with_links)
    asked.go()
    asked.expect_text(f"A link is on its way to {MASKED}")
    signed_before = certificates(with_links)
    mail = postfix.take_mail()
    (link,) = re.findall(rf"^{with_links.url}/issue\S+$", body(mail), re.MULTILINE)
    assert link in body(mail, "html")
    assert list(mail.iter_attachments()) == []

    fresh = chromium.new_context(java_script_enabled=script, accept_downloads=True)
    walk = Walk(fresh, with_links)
    walk.page.goto(link)
    expect(walk.page.get_by_role("heading", level=1)).to_have_text("Sign in to get your certificate")
    assert "token" not in walk.page.url
    walk.fill_sign_in()
    expect(walk.page.get_by_role("heading", level=1)).to_have_text("Your certificate for Work laptop")
    assert certificates(with_links) == signed_before
    with walk.page.expect_download() as started:
        walk.press("Create and download")

    walk.assert_opens(started.value)
    file = Path(started.value.path()).read_bytes()
    assert_services_accept(file, walk.passphrase(), with_links, tmp_path)
    assert walk.complaints == asked.complaints == []
    fresh.close()


def test_whom_the_mail_server_does_not_know_costs_nothing_and_can_download(
    context: BrowserContext, script: bool, certbob: Running
) -> None:
    signed_before = certificates(certbob)
    walk = Walk(context, certbob)
    walk.go(GRACE, GRACES_PASSWORD)
    if not script:
        walk.press("Create and send")

    walk.expect_text("The mail server refused the message.")
    walk.expect_text("550 5.1.1 <grace@example.org>: Recipient address rejected: User unknown")

    assert certificates(certbob) == signed_before
    walk.download_instead()
    assert certificates(certbob) == [*signed_before, ("download", 1)]


def test_a_wrong_mail_password_is_told_and_the_file_can_be_downloaded(
    context: BrowserContext, script: bool, postfix: Postfix, tmp_path: Path
) -> None:
    wrong = "canary-wr0ng-4f1b"
    with installation(tmp_path, postfix, password=wrong) as certbob:
        walk = Walk(context, certbob)
        walk.go()
        if not script:
            walk.press("Create and send")

        walk.expect_text("The mail server cannot be used right now.")
        walk.expect_text("Nothing was sent.")

        assert certificates(certbob) == []
        walk.download_instead()
        told = certbob.log.read_bytes()
    assert b"535" in told
    hunted = Hunted()
    hunted.add("the mail password", wrong, PASSWORD)
    assert hunted.found_in(told + postfix.log().encode()) == set()


def test_a_reminder_leads_over_the_sign_in_to_a_new_certificate(
    chromium: Browser, postfix: Postfix, tmp_path: Path
) -> None:
    context = chromium.new_context(accept_downloads=True)
    with installation(tmp_path, postfix) as certbob:
        walk = Walk(context, certbob)
        walk.sign_in()
        with walk.page.expect_download():
            walk.page.get_by_label("Name of this device").fill("Work laptop")
            walk.create("Create certificate")
    with closing(sqlite3.connect(certbob.folder / "data/certbob.sqlite3")) as database, database:
        age = 86400 * 80  # of 90 days
        database.execute(
            f"UPDATE certificates SET not_before = not_before - {age}, not_after = not_after - {age}"
        )

    with installation(tmp_path, postfix) as certbob:
        mail = postfix.take_mail()
        (link,) = re.findall(rf"^{certbob.url}/certificates/\S+$", body(mail), re.MULTILINE)
        fresh = chromium.new_context(accept_downloads=True)
        walk = Walk(fresh, certbob)
        walk.page.goto(link)
        walk.fill_sign_in()
        expect(walk.page.get_by_label("Name of this device")).to_have_value("Work laptop")
        with walk.page.expect_download() as started:
            walk.press("Create certificate")
        walk.assert_opens(started.value)

        walk.page.goto(f"{certbob.url}/certificates")
        walk.press("Turn reminders off")
        walk.expect_text("Reminders are off")
        with walk.page.expect_download() as calendar:
            walk.page.get_by_role("link", name="Add to calendar").first.click()
        assert calendar.value.suggested_filename == "certificate.ics"
        assert walk.complaints == []
        log = certbob.log.read_text()
    assert re.fullmatch(r"Your certificate for Work laptop expires on \d+ [A-Z][a-z]+", str(mail["Subject"]))
    (entry,) = mail.iter_attachments()
    assert (entry.get_content_type(), entry.get_filename()) == ("text/calendar", "certificate.ics")
    assert link in entry.get_content().replace("\r\n ", "").replace("\n ", "")
    assert "reminder of 1, 14 days, by mail: sent" in log
    assert MAILBOX not in log
    for each in (context, fresh):
        each.close()


def test_neither_passphrase_nor_link_leave_a_trace_on_the_way(
    chromium: Browser, certbob: Running, with_links: Running, postfix: Postfix
) -> None:
    hunted, context = Hunted(), chromium.new_context()
    hunted.add("the mail password", PASSWORD, f"\0certbob\0{PASSWORD}")

    walk = Walk(context, certbob)
    walk.go()
    walk.expect_text(f"Sent to {MASKED}")
    mail = postfix.take_mail()
    passphrase, token = walk.passphrase(), walk.token()
    hunted.add("the passphrase", passphrase, passphrase.replace("-", ""))
    hunted.add("the token", token, token.rpartition(".")[2])
    assert hunted.found_in(everything_in(mail)) == set()
    hunted.add_file(attached(mail), passphrase)

    walk = Walk(context, with_links)
    walk.go()
    walk.expect_text(f"A link is on its way to {MASKED}")
    mail = postfix.take_mail()
    (token,) = re.findall(r"token=(\S+)$", body(mail), re.MULTILINE)
    hunted.add("the token", token, token.rpartition(".")[2])
    assert hunted.found_in(str(mail.items()).encode()) == set()
    walk.page.goto(f"{with_links.url}/issue?token={token}")
    passphrase = walk.passphrase()
    hunted.add("the passphrase", passphrase, passphrase.replace("-", ""))
    assert hunted.found_in(everything_in(mail)) == {"the token"}

    logs = postfix.log().encode() + certbob.log.read_bytes() + with_links.log.read_bytes()
    assert b"status=sent" in logs
    assert b"POST /issue 200" in logs
    assert hunted.found_in(logs) == set()
    context.close()
