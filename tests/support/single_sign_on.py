"""A site of ours with the hostile provider as its identity provider, and the way of a browser between them.

async with open_single_sign_on(data_dir, clock) as on:
    ada = on.browser()
    callback = on.provider.authorize(await on.begin(ada))
    answer = await on.come_back(ada, callback)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from certbob.auth.provider import OpenIDProvider
from certbob.config import OIDC
from certbob.secret import Secret
from tests.support.core import DATABASE, dump
from tests.support.hostile_provider import CLIENT_SECRET, HostileProvider
from tests.support.web import Answer, Client, Site, StillClock, open_site

ELSEWHERE = {"Sec-Fetch-Site": "cross-site"}


@dataclass(frozen=True, slots=True)
class SingleSignOn:
    site: Site
    provider: HostileProvider

    def browser(self) -> Client:
        return self.site.browser()

    async def begin(self, browser: Client, wanted: str = "") -> str:
        """Where the link on the sign-in page leads, with `wanted` as its `next`."""
        answer = await browser.follow("/login/oidc" + (f"?{urlencode({'next': wanted})}" if wanted else ""))
        assert answer.status == 303, answer.page.text()
        location = answer.headers["Location"]
        assert location.startswith(self.provider.document["authorization_endpoint"])
        return location

    async def come_back(self, browser: Client, callback: str) -> Answer:
        """As the browser does after a redirect of the provider."""
        return await browser.get(callback.removeprefix(self.site.url), ELSEWHERE)

    async def sign_in(self, browser: Client, wanted: str = "") -> Answer:
        return await self.come_back(browser, self.provider.authorize(await self.begin(browser, wanted)))

    async def signed_in(self) -> Client:
        browser = self.browser()
        answer = await self.sign_in(browser)
        assert (answer.status, answer.headers.get("Location")) == (303, "/new"), answer.page.text()
        return browser

    async def assert_refused(self, caplog: pytest.LogCaptureFixture) -> Answer:
        """Goes all the way, and is not let in: no session, nothing left to try again, one line in the log."""
        browser = self.browser()
        callback = self.provider.authorize(await self.begin(browser))
        caplog.clear()

        answer = await self.come_back(browser, callback)

        assert answer.status == 400, answer.status
        assert "certbob" not in browser.cookies
        (line,) = refusals(caplog)
        assert f"Reference {line.split()[0]}" in answer.page.text()
        told = answer.text + caplog.text
        assert [secret for secret in self.secrets() if secret in told] == []
        asked = len(self.provider.requests)
        assert (await self.come_back(browser, callback)).status == 400
        assert len(self.provider.requests) == asked
        return answer

    def secrets(self) -> set[str]:
        """What no page and no log may hold: codes and tokens, each part of an ID token, and the secret."""
        provider = self.provider
        parts = {part for token in provider.id_tokens for part in token.split(".") if len(part) > 8}
        return {*provider.codes, *provider.access_tokens, *parts, provider.client_secret or CLIENT_SECRET}

    def dump(self) -> str:
        """Every row of every table, read past the program."""
        return dump(self.site.settings.server.data_dir / DATABASE)


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "certbob.web.errors"]


def with_query(url: str, *, without: tuple[str, ...] = (), **values: str) -> str:
    """The address with these parameters, in the place of those of the same name."""
    parts = urlsplit(url)
    dropped = {*without, *values}
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in dropped]
    return parts._replace(query=urlencode([*kept, *values.items()])).geturl()


def adapter(provider: HostileProvider, clock: StillClock, **options: Any) -> OpenIDProvider:
    """CertBob's adapter for it, in this process unless `transport` says otherwise."""
    secret = provider.client_secret
    given: dict[str, Any] = {
        "issuer": provider.issuer,
        "client_id": provider.client_id,
        "client_secret": Secret(secret) if secret else None,
        "scopes": (),  # the usual ones
        "clock": clock,
        "transport": httpx2.ASGITransport(app=provider),
    }
    return OpenIDProvider(**given | options)


@asynccontextmanager
async def open_single_sign_on(
    data_dir: Path,
    clock: StillClock,
    provider: HostileProvider | None = None,
    *,
    over_the_network: bool = False,
    oidc: dict[str, Any] | None = None,
    **site: Any,
) -> AsyncIterator[SingleSignOn]:
    """`oidc`: more keys of its section; `site` as for `open_site`."""
    provider = provider or HostileProvider(clock)
    options = {"transport": None} if over_the_network else {}
    configured = OIDC(issuer=provider.issuer, client_id=provider.client_id, **oidc or {})
    async with open_site(
        data_dir, clock, oidc=configured, provider=adapter(provider, clock, **options), **site
    ) as opened:
        yield SingleSignOn(opened, provider)
