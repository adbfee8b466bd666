"""CertBob as people run it, with a port that asks for certificates: a browser, programs, signals."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from tests.e2e.conftest import ADA, ADAS_PASSWORD, CHECKOUT, USERS, stepca_sections
from tests.support.asking import Owned
from tests.support.html import Page
from tests.support.nginx import write_server_certificate
from tests.support.peers import path_of
from tests.support.stepca import free_ports

pytestmark = pytest.mark.needs("curl")

PATIENCE = 60  # seconds, far beyond what is normal


@dataclass(frozen=True, slots=True)
class Program:
    """Serves at `port`, and asks for certificates at `test_port`."""

    folder: Path
    port: int
    test_port: int
    process: "subprocess.Popen[bytes]"

    def curl(self, address: str, *options: str | Path) -> str:
        command: list[str | Path] = [path_of("curl"), "-sS", "--max-time", "20"]
        command += [
            "--cacert",
            self.folder / "server.pem",
            "-b",
            self.folder / "jar",
            "-c",
            self.folder / "jar",
        ]
        command += ["-H", f"Origin: https://127.0.0.1:{self.port}", *options, address]
        told = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert told.returncode == 0, told.stderr
        return told.stdout.decode(errors="replace")

    def page(self, path: str, *options: str | Path) -> Page:
        return Page(self.curl(f"https://127.0.0.1:{self.port}{path}", "-H", "Accept: text/html", *options))

    def test(self, owned: Owned | None = None, *options: str) -> Page:
        certificate = () if owned is None else ("--cert", owned.file(self.folder))
        address = f"https://127.0.0.1:{self.test_port}/test"
        return Page(self.curl(address, "-H", "Accept: text/html", *certificate, *options))

    def take(self, device: str) -> Owned:
        """As Ada, who signs in first."""
        self.page("/login", "-d", f"username={ADA}", "--data-urlencode", f"password={ADAS_PASSWORD}")
        form = self.page("/new").form("/new").fields | {"platform": "linux", "device": device}
        sent = [word for field in form.items() for word in ("--data-urlencode", "=".join(field))]
        options = (*sent, "-d", "delivery=download", "-o", os.devnull, "-w", "%{redirect_url}")
        link = self.curl(f"https://127.0.0.1:{self.port}/new", *options)
        passphrase = Page(self.curl(link, "-H", "Accept: text/html")).passphrase
        assert passphrase is not None
        file = self.folder / f"{device}.pfx"
        self.curl(link, "-o", file)
        return Owned.of(file.read_bytes(), passphrase)

    def revoke(self, owned: Owned) -> None:
        path = f"/certificates/{owned.leaf.serial_number:x}/revoke"
        token = self.page(path).form(path).fields["form_token"]
        self.page(path, "-d", f"form_token={token}", "-d", "reason=lost")

    def told(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture(params=["builtin", pytest.param("stepca", marks=pytest.mark.needs("step-ca"))])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    port, test_port = free_ports(2)
    write_server_certificate(tmp_path / "server.pem", tmp_path / "server.key")
    sections = stepca_sections(request.getfixturevalue("step_ca")) if request.param == "stepca" else ""
    configuration = tmp_path / "config.toml"
    configuration.write_text(
        f"""
[server]
listen = "127.0.0.1:{port}"
public_url = "https://127.0.0.1:{port}"
tls_certificate = "server.pem"
tls_key = "server.key"
test_listen = "127.0.0.1:{test_port}"
{USERS}{sections}"""
    )
    configuration.chmod(0o600)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, CHECKOUT / "app.py", "serve"], cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        _until(lambda: process.poll() is not None or (_listens(port) and _listens(test_port)))
        found = Program(tmp_path, port, test_port, process)
        assert process.poll() is None, found.told()
        yield found
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_programs_see_what_they_present(program: Program) -> None:
    lost, kept = program.take("Lost"), program.take("Kept")
    program.revoke(lost)

    for version in ("1.2", "1.3"):
        assert program.test(kept, "--tls-max", version).text("h1") == "It works"
        assert program.test(lost, "--tls-max", version).text("h1") == "This certificate was revoked"
        assert program.test(None, "--tls-max", version).text("h1") == "No certificate arrived"
    assert program.page("/test").one("main//a").get("href") == f"https://127.0.0.1:{program.test_port}/test"


@pytest.mark.needs("chromium")
def test_a_browser_presents_it_and_is_told(program: Program, chromium: Chromium) -> None:
    mine = program.take("Laptop")
    origin = f"https://127.0.0.1:{program.test_port}"
    pem = str(mine.file(program.folder))
    context = chromium.new_context(
        ignore_https_errors=True,
        client_certificates=[{"origin": origin, "certPath": pem, "keyPath": pem}],
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))

    page.goto(f"https://127.0.0.1:{program.port}/test")
    page.get_by_role("link", name="Test my certificate").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("It works")
    expect(page.get_by_text("Laptop", exact=True)).to_be_visible()
    page.wait_for_load_state()
    assert page.url == f"{origin}/test"
    assert page.evaluate("getComputedStyle(document.body).display") == "flex"  # its style has come, too

    program.revoke(mine)
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("This certificate was revoked")
    page.get_by_role("link", name="Get a certificate").click()
    expect(page).to_have_url(re.compile(f"https://127.0.0.1:{program.port}/login"))
    assert context.cookies() == []
    assert complaints == []
    context.close()


@pytest.mark.needs("openssl")
def test_signals_reach_this_port_too(program: Program) -> None:
    before = ssl.get_server_certificate(("127.0.0.1", program.test_port))
    write_server_certificate(program.folder / "server.pem", program.folder / "server.key")

    program.process.send_signal(signal.SIGHUP)

    new = (program.folder / "server.pem").read_text()
    assert before != new
    for port in (program.port, program.test_port):
        _until(lambda port=port: ssl.get_server_certificate(("127.0.0.1", port)) == new)  # type: ignore[misc]
    assert program.test().text("h1") == "No certificate arrived"

    silent = socket.create_connection(("127.0.0.1", program.test_port))  # in the middle of its handshake
    waiting = ssl.create_default_context(cafile=program.folder / "server.pem").wrap_socket(
        socket.create_connection(("127.0.0.1", program.test_port)), server_hostname="127.0.0.1"
    )
    with silent, waiting:
        waiting.send(b"GET /test HTTP/1.1\r\n")
        program.process.terminate()

        assert program.process.wait(PATIENCE) == 0
    assert "Traceback" not in program.told()
    assert "rror" not in program.told()


def test_a_taken_port_is_told_before_anything_starts(program: Program) -> None:
    other = program.folder / "other.toml"
    configuration = (program.folder / "config.toml").read_text()
    other.write_text(configuration.replace(f":{program.port}", f":{free_ports(1)[0]}"))
    other.chmod(0o600)

    told = subprocess.run(
        [sys.executable, CHECKOUT / "app.py", "--config", other, "serve"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert told.returncode == 1
    assert f"It cannot listen on 127.0.0.1:{program.test_port}" in told.stderr
    assert "[server] test_listen" in told.stderr
