"""After a whole run no secret is anywhere but with the person: it is planted, then hunted."""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from certbob.auth.local import hash_password
from certbob.keys import private_key_bytes
from tests.e2e.conftest import CHECKOUT
from tests.e2e.smoke import Answer, Browser, Program

PASSWORD = "canary-Passw0rd-6f1d"
WRONG_PASSWORD = "canary-wr0ng-9c2e"


class Hunted:
    """Every secret that the run has seen, in the spellings in which it could lie around."""

    def __init__(self) -> None:
        self.secrets: dict[bytes, str] = {}

    def add(self, what: str, *values: str | bytes) -> None:
        for value in values:
            raw = value.encode() if isinstance(value, str) else value
            assert len(raw) >= 8, f"too short to be hunted: {what}"
            self.secrets[raw] = what
            self.secrets[raw.hex().encode()] = f"{what} in hex"
            # Without the last bytes, whose base64 depends on what follows.
            self.secrets[base64.b64encode(raw)[:-4]] = f"{what} in base64"

    def add_file(self, pfx: bytes, passphrase: str) -> None:
        key = pkcs12.load_pkcs12(pfx, passphrase.encode()).key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        scalar = key.private_numbers().private_value
        self.add("the private key", private_key_bytes(key), scalar.to_bytes(32), str(scalar))
        self.add("the file", pfx, pfx[40:200])
        self.add("the passphrase", passphrase)

    def found_in(self, content: bytes) -> set[str]:
        return {what for secret, what in self.secrets.items() if secret in content}


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    home, tmp = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(mode=0o700)
    tmp.mkdir(mode=0o700)
    program = Program(
        [sys.executable, CHECKOUT / "app.py"],
        home=home,
        tmp=tmp,
        log=tmp_path / "log",
        settings={"LOCAL_USERS": f"ada:{hash_password(PASSWORD)}", "LOG_LEVEL": "debug"},
    )
    with program.running():
        yield program


def test_no_secret_is_left_on_disk_in_the_log_or_on_an_error_page(program: Program, tmp_path: Path) -> None:
    hunted = Hunted()
    hunted.add("the password", PASSWORD)
    hunted.add("a wrong password", WRONG_PASSWORD)
    browser = Browser(program.url)
    pages = [browser.post("/login", username=WRONG_PASSWORD, password=WRONG_PASSWORD)]
    assert browser.post("/login", username="ada", password=PASSWORD).status == 303
    hunted.add("the session", *browser.cookies.values())
    form_token = browser.get("/new").page().form_token
    hunted.add("the form token", form_token)

    for accept in ("*/*", "text/html"):
        token, passphrase = _choose(browser, form_token)
        hunted.add("the grant", token, _grant_id(token))
        hunted.add("the session or the holder", *browser.cookies.values())
        if accept == "*/*":
            issued = browser.get(f"/issue?token={token}", accept=accept)
        else:
            issued = browser.post("/issue", token=token)
        assert issued.status == 200
        hunted.add_file(issued.body, passphrase)
        stranger = Browser(program.url)
        pages += [
            stranger.get(f"/issue?token={token}"),
            stranger.get(f"/issue?token={token}", accept="*/*"),
            stranger.post("/issue", token=token),
            stranger.get(f"/issue?token={token}x"),
            stranger.get(f"/{token}/{passphrase}"),
            stranger.post("/new", form_token=form_token),
        ]

    assert {page.status for page in pages} == {401, 404, 409, 422}
    _assert_nothing_on(pages, hunted)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"certbob.sqlite3", "secret", "log"} <= {path.name for path in files}
    for path in files:
        assert hunted.found_in(path.read_bytes()) == set(), path.name


def _assert_nothing_on(pages: list[Answer], hunted: Hunted) -> None:
    """But for the name that somebody has typed into the sign-in form, which is given back to them."""
    sign_in, *others = pages
    assert PASSWORD.encode() not in sign_in.body
    for page in others:
        assert hunted.found_in(page.body) == set(), page.status
        assert hunted.found_in(str(page.headers).encode()) == set(), page.status


def _choose(browser: Browser, form_token: str) -> tuple[str, str]:
    choices = {"platform": "linux", "device": "Laptop", "profile": "client", "validity": "90d", "old": "keep"}
    chosen = browser.post("/new", form_token=form_token, delivery="download", **choices)
    passphrase = browser.get(chosen.location).page().passphrase
    return chosen.location.partition("token=")[2], passphrase


def _grant_id(token: str) -> str:
    payload = token.split(".")[1]
    grant_id: str = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]
    return grant_id
