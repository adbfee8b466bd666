"""A real OpenID Provider for the tests: oidc-provider on Node, which is certified; on loopback.

    with running_openid_provider(folder, site="http://127.0.0.1:8000") as provider:
        callback = provider.walk(authorization_request, "login", "consent")

Its issuer says `localhost`, so that for a browser it is another site than a CertBob on 127.0.0.1.
"""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.support.html import Page
from tests.support.peers import OIDC_PROVIDER, path_of

PROGRAM = Path(__file__).parents[1] / "peers/oidc-provider/provider.mjs"
START_SECONDS = 20  # far beyond what is normal
CLIENT_ID = "cert bob"
CLIENT_SECRET = "a:b+c%d/e&f=-0123456789"
LABEL = "Example Accounts"


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody the provider knows. `sub`: its key for them."""

    sub: str
    username: str
    name: str
    email: str
    groups: tuple[str, ...] = ()
    passcode: str = "only the provider knows it"

    def claims(self) -> dict[str, Any]:
        return {
            "sub": self.sub,
            "preferred_username": self.username,
            "name": self.name,
            "email": self.email,
            "email_verified": True,
            "groups": list(self.groups),
        }


ADA = Account("7f3c-1815", "ada", "Ada Lovelace", "ada@example.org", ("staff", "vpn-users"))
BERT = Account("7f3c-1920", "bert", "Bert Becker", "bert@example.org", ("visitors",))


class OpenIDProviderServer:
    """A process with one client: the CertBob at `site`, which may be told later, but before it starts.

    Stopped and started again it has the same address and keys, but has forgotten who was signed in.
    `method`: the only way in which its token endpoint lets the client in. `id_tokens_are_lean`: what is known
    about the person comes from the userinfo endpoint only, as the specification has it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        site: str = "",
        method: str = "client_secret_basic",
        algorithm: str = "RS256",
        id_tokens_are_lean: bool = True,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.issuer = f"http://localhost:{listener.getsockname()[1]}"
        self.site = site
        self._secret = {} if method == "none" else {"client_secret": CLIENT_SECRET}
        self._client = {
            "client_id": CLIENT_ID,
            "token_endpoint_auth_method": method,
            "id_token_signed_response_alg": algorithm,
            **self._secret,
        }
        keys = RSAKey.generate_key(2048), ECKey.generate_key("P-256"), OKPKey.generate_key("Ed25519")
        self._config = {
            "issuer": self.issuer,
            "accounts": [{"claims": person.claims(), "passcode": person.passcode} for person in (ADA, BERT)],
            "keys": [key.as_dict(private=True) for key in keys],
            "conformIdTokenClaims": id_tokens_are_lean,
        }
        self._output, self._errors = folder / "openid-provider.jsonl", folder / "openid-provider.log"
        self._output.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What CertBob is to be configured with."""
        return {
            "issuer": self.issuer,
            "client_id": CLIENT_ID,
            "label": LABEL,
            **self._secret,
            **changes,
        }

    def start(self) -> None:
        client = self._client | {
            "redirect_uris": [f"{self.site}/login/oidc/callback"],
            "post_logout_redirect_uris": [f"{self.site}/login"],
        }
        before = len(self._lines())
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [path_of("oidc-provider"), PROGRAM, json.dumps(self._config | {"client": client})],
                cwd=OIDC_PROVIDER,
                stdin=subprocess.PIPE,  # it ends when this is closed, hence with the tests in any case
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        give_up = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < give_up:
            if len(self._lines()) > before:
                return
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"oidc-provider does not start: {self._errors.read_text()[-4000:]}")

    def stop(self) -> None:
        if self._process is not None:
            with self._process as process:
                process.terminate()
            self._process = None

    def exchanges(self) -> list[dict[str, dict[str, str]]]:
        """What its token endpoint was `sent` and has `given`, which no browser ever sees."""
        return [line for line in self._lines() if "sent" in line]

    def walk(self, address: str, *presses: str, person: Account = ADA) -> str:
        """In a new browser go to this address and press these buttons: the address that it leads back to."""
        with httpx2.Client() as browser:
            answer = self._follow(browser, browser.get(address))
            for press in presses:
                form = {"account": person.username, "passcode": person.passcode, "answer": press}
                answer = self._follow(browser, browser.post(answer.url, data=form))
        assert answer.is_redirect, f"{Page(answer.text).text()} {self._errors.read_text()[-4000:]}"
        return str(answer.headers["Location"])

    def _follow(self, browser: httpx2.Client, answer: httpx2.Response) -> httpx2.Response:
        """As far as redirects stay at the provider."""
        while answer.next_request is not None and str(answer.next_request.url).startswith(self.issuer):
            answer = browser.send(answer.next_request)
        return answer

    def _lines(self) -> list[dict[str, Any]]:
        """Whole ones only: it may be writing."""
        *whole, _ = self._output.read_text().split("\n")
        return [json.loads(line) for line in whole]


@contextmanager
def running_openid_provider(folder: Path, **settings: Any) -> Iterator[OpenIDProviderServer]:
    server = OpenIDProviderServer(folder, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
