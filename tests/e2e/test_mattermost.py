"""From a command in Mattermost to a service that lets the person in, with each authority."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.conftest import CHECKOUT, USERS, Running, stepca_sections
from tests.e2e.smoke import Browser as Client
from tests.e2e.smoke import Program, assert_is_client_certificate
from tests.support.mattermost import Mattermost, Seen, serve_mattermost
from tests.support.mattermost_api import User
from tests.support.nginx import Nginx, nginx
from tests.support.postfix import Postfix, running_postfix

pytestmark = pytest.mark.needs("chromium", "curl", "nginx", "postfix", "saslpasswd2")

T = TypeVar("T")

PASSPHRASE = re.compile(r"[a-z2-9]{4}(-[a-z2-9]{4}){4}")


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class ChatThread:
    """A Mattermost with an event loop of its own, because playwright keeps one in this thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._serving = serve_mattermost(SystemClock())
        self.chat: Mattermost = self.wait(self._serving.__aenter__())

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def stop(self) -> None:
        self.wait(self._serving.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(frozen=True, slots=True)
class Installation:
    """A CertBob with its chat, where Ada works."""

    certbob: Running
    chats: ChatThread
    ada: User

    @property
    def chat(self) -> Mattermost:
        return self.chats.chat

    def run(self, line: str) -> Seen:
        """What Ada sees; nothing of it was fetched for a preview."""
        seen = self.chats.wait(self.chat.run(self.ada, line))
        assert seen.kind == "ephemeral", seen
        assert seen.markdown.bare == ()
        assert self.chat.link_metadata == {}
        assert self.chat.response_url_uses == []
        return seen

    def root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(Client(self.certbob.url).get("/ca/root.pem").body)


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with running_postfix() as server:
        yield server


@contextmanager
def installation(base: Path, sections: str, *, signed: bool = True) -> Iterator[Installation]:
    """`signed`: CertBob knows where Mattermost is, and so its key."""
    home, tmp = base / "home", base / "tmp"
    for folder in (home, tmp):
        folder.mkdir(mode=0o700)
    chats = ChatThread()
    try:
        chat = chats.chat
        ada, bot = chat.add_user("ada", email="ada@example.org"), chat.add_bot("certbob")
        team = chat.add_team("acme")
        program = Program([sys.executable, CHECKOUT / "app.py"], home=home, tmp=tmp, log=base / "log")
        token = chat.add_command(team, f"{program.url}/request").token
        lines = [f'token = "{token}"', 'email_domain = "example.org"']
        if signed:
            lines += [f'url = "{chat.site_url}"', f'bot_token = "{chat.new_access_token(bot)}"']
        file = home / "config.toml"
        file.touch(mode=0o600)
        server = f'[server]\npublic_url = "{program.url}"'
        file.write_text("\n".join([server, "[mattermost]", *lines, sections, USERS]))
        with program.running():
            yield Installation(Running(program.url, home, base / "log"), chats, ada)
    finally:
        chats.stop()


@pytest.fixture(
    scope="module", params=["builtin", pytest.param("stepca", marks=pytest.mark.needs("step-ca"))]
)
def site(
    request: pytest.FixtureRequest, postfix: Postfix, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    entries = "".join(f"{key} = {json.dumps(value)}\n" for key, value in postfix.settings().items())
    sections = f"[smtp]\n{entries}"
    if request.param == "stepca":
        sections += stepca_sections(request.getfixturevalue("step_ca"))
    with installation(tmp_path_factory.mktemp(f"chat-{request.param}"), sections) as running:
        yield running


@pytest.fixture(scope="module")
def service(site: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Trusts what CertBob publishes as its root."""
    root = Client(site.certbob.url).get("/ca/root.pem").body.decode()
    with nginx(tmp_path_factory.mktemp("nginx"), root) as running:
        yield running


@pytest.fixture
def context(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    context = chromium.new_context(java_script_enabled=getattr(request, "param", True), accept_downloads=True)
    yield context
    context.close()


with_and_without_script = pytest.mark.parametrize(
    "context", [True, False], indirect=True, ids=["with JavaScript", "without JavaScript"]
)


def taken(page: Page, link: str, *, by_itself: bool) -> bytes:
    """The file that opening the link leads to."""
    with page.expect_download() as started:
        page.goto(link)
        if not by_itself:
            page.get_by_role("button", name="Create and download", exact=True).click()
    assert started.value.suggested_filename == "user_cert.pfx"
    return Path(started.value.path()).read_bytes()


def assert_lets_in(service: Nginx, folder: Path, file: bytes, passphrase: str, name: str) -> None:
    path = folder / "user_cert.pfx"
    path.write_bytes(file)
    status, body = service.fetch("--cert-type", "P12", "--cert", f"{path}:{passphrase}")
    assert status == 200, body
    assert body.startswith(f"SUCCESS|CN={name}|")


@with_and_without_script
def test_a_command_leads_to_a_file_that_a_service_accepts(
    site: Installation,
    service: Nginx,
    context: BrowserContext,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    seen = site.run("/cert download Work laptop")
    page = context.new_page()

    by_itself = "without" not in request.node.name
    file = taken(page, seen.links[0], by_itself=by_itself)

    assert seen.goto_location == seen.links[0]
    assert PASSPHRASE.fullmatch(seen.code[0])
    expect(page.get_by_role("heading", level=1)).to_have_text("Your certificate for Work laptop")
    expect(page.get_by_text("The passphrase is in the message that brought you here.")).to_be_visible()
    assert seen.code[0] not in page.content()
    assert_is_client_certificate(file, seen.code[0], site.root())
    assert_lets_in(service, tmp_path, file, seen.code[0], "ada")


def test_a_file_goes_by_mail_and_its_passphrase_stays_in_the_chat(
    site: Installation, service: Nginx, postfix: Postfix, tmp_path: Path
) -> None:
    seen = site.run("/cert email Phone")
    mail: EmailMessage = postfix.take_mail()

    (part,) = mail.iter_attachments()
    file = part.get_content()
    assert mail["To"].addresses[0].addr_spec == "ada@example.org"
    assert seen.code[0] not in mail.as_string()
    assert_lets_in(service, tmp_path, file, seen.code[0], "ada")


def test_certificates_are_listed_and_revoked(
    site: Installation, context: BrowserContext, request: pytest.FixtureRequest
) -> None:
    page = context.new_page()
    file = taken(page, site.run("/cert download Old tablet").links[0], by_itself=True)
    assert file
    assert "**Old tablet** · Active" in site.run("/cert list").text

    (link,) = site.run("/cert revoke old TABLET").links
    assert "**Old tablet** · Active" in site.run("/cert list").text  # the command itself changes nothing
    page.goto(link)
    expect(page.get_by_role("heading", level=1)).to_have_text("Revoke the certificate for Old tablet?")
    page.get_by_label("The device or the file was lost or stolen").check()
    page.get_by_role("button", name="Revoke", exact=True).click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Revoked: Old tablet")
    assert "**Old tablet** · Revoked" in site.run("/cert list").text
    if "stepca" in request.node.name:
        serial = int(re.search("/certificates/([0-9a-f]+)/", link)[1], 16)  # type: ignore[index]
        authority = request.getfixturevalue("step_ca")
        assert authority.revocation(serial) is x509.ReasonFlags.key_compromise


def test_nobody_but_the_person_spends_a_link(site: Installation, context: BrowserContext) -> None:
    seen = site.run("/cert download")
    link = seen.links[0]

    site.chats.wait(site.chat.preview(link))  # as if the message had it bare
    fetched = site.chat.link_metadata.pop(link)
    assert fetched is not None
    assert fetched.headers["Content-Type"] == "text/html; charset=utf-8"
    for options in (["--head"], ["--header", "Sec-Purpose: prefetch"]):
        done = subprocess.run(["curl", "--silent", *options, link], capture_output=True, check=True)
        assert b"x-pkcs12" not in done.stdout

    file = taken(context.new_page(), link, by_itself=True)
    assert_is_client_certificate(file, seen.code[0], site.root())


def test_the_doctor_finds_the_chat_in_order(site: Installation) -> None:
    done = site.certbob.command("doctor")

    assert done.returncode == 0, done.stdout
    assert "ok       chat server: is Mattermost 11.6.0" in done.stdout
    assert "ok       chat key: " in done.stdout
    assert "ok       chat bot: is certbob" in done.stdout
    assert "ok       address for the command: " in done.stdout
    assert "ALLOWEDUNTRUSTEDINTERNALCONNECTIONS=127.0.0.1" in done.stdout


def test_nothing_secret_of_the_chat_is_kept(site: Installation) -> None:
    seen = site.run("/cert download")
    token = seen.links[0].partition("token=")[2]
    secrets = [seen.code[0], token, *(command.token for command in site.chat.commands.values())]

    kept = site.certbob.log.read_bytes()
    for file in site.certbob.folder.rglob("data/**/*"):
        kept += file.read_bytes() if file.is_file() else b""
    for secret in secrets:
        assert secret.encode() not in kept


def test_the_original_sequence_works_with_curl_alone(tmp_path: Path) -> None:
    """The slash command's POST, the link of its answer, the file: without signature, browser or session."""
    with installation(tmp_path, "", signed=False) as site:
        (command,) = site.chat.commands.values()
        fields = {
            "token": command.token,
            "team_id": command.team_id,
            "user_id": site.ada.id,
            "user_name": "ada",
            "command": "/cert",
            "text": "download",
        }
        data = [part for item in fields.items() for part in ("--data-urlencode", "=".join(item))]
        answer = curl(tmp_path, *data, f"{site.certbob.url}/request")
        link = json.loads(answer)["goto_location"]
        passphrase = PASSPHRASE.search(json.loads(answer)["text"])

        curl(tmp_path, "--remote-name", "--remote-header-name", link)

        assert passphrase is not None
        assert link.startswith(f"{site.certbob.url}/issue?token=")
        assert_is_client_certificate((tmp_path / "user_cert.pfx").read_bytes(), passphrase[0], site.root())


def curl(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["curl", "--silent", "--fail", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
