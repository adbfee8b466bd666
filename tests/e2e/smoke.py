"""CertBob's whole job, from the outside: start it in an empty folder, sign in, issue, read the file, end it.

    python -m tests.e2e.smoke dist/certbob

Standard library and `cryptography` only. Run as root, it starts the executable as an ordinary user.
"""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

MAX_EXECUTABLE_BYTES = 20_000_000
START_SECONDS = 60  # far beyond what is normal, to end a run that hangs
STOP_SECONDS = 5
NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds from the start of the process to the first 200: with an empty folder, and once more."""

    first_start: float
    next_start: float


def run_smoke(command: Sequence[str | Path], *, user: int | None = None) -> Figures:
    """Raises AssertionError for whatever is not as it should be. `user`: the uid to run as, when root."""
    with tempfile.TemporaryDirectory(prefix="certbob-smoke-") as name:
        base = Path(name)
        base.chmod(0o755)
        home, tmp = base / "home", base / "tmp"
        for folder in (home, tmp):
            folder.mkdir(mode=0o700)
            if user is not None:
                os.chown(folder, user, user)
        program = Program(command, home=home, tmp=tmp, log=base / "log", user=user)
        with program.running() as first_start:
            browser = Browser(program.url)
            root = take_a_certificate(browser, program.password())
        assert not list(tmp.iterdir()), f"left behind: {list(tmp.iterdir())}"
        with program.running() as next_start:
            assert program.password() is None, "a second start made an account"
            assert Browser(program.url).get("/ca/root.pem").body == root, "a second start made another CA"
        return Figures(first_start, next_start)


def take_a_certificate(browser: "Browser", password: str | None) -> bytes:
    """From the sign-in page to a file that opens and verifies. The root that services trust, as PEM."""
    assert password is not None, "no account was made"
    signed_in = browser.post("/login", username="admin", password=password)
    assert (signed_in.status, signed_in.location) == (303, "/new"), signed_in
    choices = {"platform": "linux", "device": "Smoke", "profile": "client", "validity": "90d"}
    form_token = browser.get("/new").page().form_token
    chosen = browser.post("/new", form_token=form_token, delivery="download", **choices)
    assert chosen.status == 303, chosen
    assert chosen.location.startswith("/issue?token="), chosen
    passphrase = browser.get(chosen.location).page().passphrase
    issued = browser.get(chosen.location, accept="*/*")
    assert (issued.status, issued.headers["Content-Type"]) == (200, "application/x-pkcs12"), issued
    assert "filename=user_cert.pfx" in issued.headers["Content-Disposition"], issued
    root = browser.get("/ca/root.pem").body
    assert_is_client_certificate(issued.body, passphrase, x509.load_pem_x509_certificate(root))
    again = browser.get(chosen.location, accept="*/*")
    assert again.status == 409, again
    return root


def assert_is_client_certificate(pfx: bytes, passphrase: str, root: x509.Certificate) -> None:
    bundle = pkcs12.load_pkcs12(pfx, passphrase.encode())
    assert bundle.key is not None, "the key is missing"
    assert bundle.cert is not None, "the certificate is missing"
    leaf, others = bundle.cert.certificate, [other.certificate for other in bundle.additional_certs]
    assert bundle.key.public_key() == leaf.public_key(), "the key is another one"
    PolicyBuilder().store(Store([root])).build_client_verifier().verify(leaf, others)
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH], usages


class Program:
    """CertBob with nothing around it: an empty folder, hardly an environment."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        home: Path,
        tmp: Path,
        log: Path,
        user: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        self.url = f"http://{address}"
        self._command = [*command, "serve"]
        self._home, self._log, self._user = home, log, user
        self._environment = {
            "HOME": str(home),
            "TMPDIR": str(tmp),
            "SERVER_LISTEN": address,
            "SERVER_PUBLIC_URL": self.url,
            **(settings or {}),
        }

    @contextmanager
    def running(self) -> Iterator[float]:
        """Gives the seconds to the first 200; ends it with SIGTERM, on which it must end well."""
        started = time.monotonic()
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                self._command,
                cwd=self._home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                start_new_session=True,
            )
        try:
            self._wait_until_healthy(process)
            yield time.monotonic() - started
            process.terminate()
            status = process.wait(STOP_SECONDS)
            assert status == 0, f"it ended with {status}: {self._told()}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def password(self) -> str | None:
        found = re.search(r"User name: admin\n\s*Password: (\S+)", self._told())
        return found[1] if found else None

    def _told(self) -> str:
        return self._log.read_text()

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        browser, give_up = Browser(self.url), time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < give_up:
            try:
                if browser.get("/healthz").status == 200:
                    return
            except OSError:
                time.sleep(0.01)
        raise AssertionError(f"it does not start: {self._told()}")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def location(self) -> str:
        return self.headers["Location"] or ""

    def page(self) -> "Page":
        assert self.status == 200, self
        page = Page()
        page.feed(self.body.decode())
        return page


class Browser:
    """Keeps cookies, names its origin, follows nothing."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.cookies: dict[str, str] = {}

    def get(self, path: str, accept: str = "text/html") -> Answer:
        return self._request("GET", path, {"Accept": accept})

    def post(self, path: str, **form: str) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": self._url}
        return self._request("POST", path, {"Accept": "text/html", **headers}, urlencode(form))

    def _request(self, method: str, path: str, headers: dict[str, str], body: str | None = None) -> Answer:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = http.client.HTTPConnection(self._url.removeprefix("http://"), timeout=30)
        try:
            connection.request(method, path, body, {**headers, "Cookie": cookies, "Connection": "close"})
            response = connection.getresponse()
            for line in response.headers.get_all("Set-Cookie", []):
                self.cookies.update({name: morsel.value for name, morsel in SimpleCookie(line).items()})
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


class Page(HTMLParser):
    """What a person finds on a page: the hidden token of its form, the passphrase."""

    form_token = ""
    passphrase = ""
    _inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if attributes.get("name") == "form_token":
            self.form_token = attributes.get("value") or ""
        self._inside = attributes.get("id") == "passphrase"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.passphrase += data.strip()


def main(executable: Path) -> None:
    size = executable.stat().st_size
    with tempfile.TemporaryDirectory(prefix="certbob-smoke-") as folder:
        # Away from the checkout: it needs nothing of it, and an ordinary user may not look into it.
        Path(folder).chmod(0o755)
        copy = shutil.copy(executable, folder)
        with open(copy, "rb") as file:  # the first start is to read it from the disk
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        figures = run_smoke([copy], user=NOBODY if os.geteuid() == 0 else None)
    print(
        f"{executable}: {size / 1e6:.1f} MB; first 200 after {figures.first_start:.2f} s cold and in an empty"
        f" folder, {figures.next_start:.2f} s warm"
    )
    if size > MAX_EXECUTABLE_BYTES:
        sys.exit(f"{executable} is larger than {MAX_EXECUTABLE_BYTES / 1e6:.0f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
