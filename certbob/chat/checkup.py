"""What operators get wrong with Mattermost, with the mend: address, key, clock, bot, network."""

import ipaddress
import re
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlsplit

import httpx2

from certbob.chat.accounts import IdentityMode
from certbob.chat.server import ChatServer, ServerProblem
from certbob.chat.trigger import MAX_AGE, fingerprint, read_key
from certbob.outgoing import UnfitAnswer, WholeAnswers, in_time
from certbob.ports import ChatStore, Clock
from certbob.services import Finding, Verdict

SECONDS = 5.0
# Older ones take the host of `response_url` from the request (CVE-2026-6333, CVE-2026-28732). CertBob calls
# no `response_url`; others do.
SAFE_VERSIONS = {10: (10, 11, 14)}
SAFE_VERSION = (11, 5, 2)
_NOTHING = timedelta(0)


class Checkup:
    """`server` None: `[mattermost] url` is not set. `public_url`: where Mattermost finds CertBob.

    `verifies`: whether signatures of commands are looked at.
    """

    def __init__(
        self,
        server: ChatServer | None,
        store: ChatStore,
        *,
        clock: Clock,
        mode: IdentityMode,
        verifies: bool,
        public_url: str,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._server = server
        self._store = store
        self._clock = clock
        self._mode = mode
        self._verifies = verifies
        self._public_url = public_url
        self._transport = transport

    async def examine(self) -> AsyncIterator[Finding]:
        yield self._network()
        yield await self._own_address()
        if self._server is None:
            yield Finding(
                "chat",
                Verdict.WARNING,
                "Mattermost itself cannot be looked at, and its commands are believed by their token alone",
                "Set [mattermost] url.",
            )
            return
        try:
            async for finding in self._server_findings(self._server):
                yield finding
        except ServerProblem as problem:
            yield Finding("chat server", Verdict.FAILED, str(problem), "Check [mattermost] url.")
            return
        if self._server.has_bot:
            yield await self._bot(self._server)
            if self._mode is IdentityMode.EMAIL:
                yield await self._addresses(self._server)
        else:
            yield Finding(
                "chat bot",
                Verdict.WARNING,
                "there is none: guests and bots cannot be told from others, and nobody hears of failed mails",
                "Set [mattermost] bot_token.",
            )

    async def _server_findings(self, server: ChatServer) -> AsyncIterator[Finding]:
        facts = await server.facts()
        yield _version(facts.version)
        if facts.date is not None:
            ahead = facts.date - self._clock.now()
            if abs(ahead) > MAX_AGE / 2:
                yield Finding(
                    "chat clock",
                    Verdict.FAILED,
                    f"it is {ahead.total_seconds():.0f} seconds ahead of the clock here; a command is refused"
                    f" beyond {MAX_AGE.total_seconds():.0f}",
                    "Let both machines set their clocks by NTP.",
                )
        config = await server.client_config()
        yield self._site(str(config.get("SiteURL", "")))
        yield await self._key(server, config.get("AsymmetricSigningPublicKey"))

    def _site(self, site_url: str) -> Finding:
        """The web client takes any link that begins with its site URL for a page of its own."""
        if site_url and self._public_url.startswith(site_url):
            return Finding(
                "links in the chat",
                Verdict.FAILED,
                f"{self._public_url} begins with the site URL of Mattermost, whose client opens them itself",
                "Give CertBob a host name of its own, in [server] public_url.",
            )
        return Finding("links in the chat", Verdict.OK, f"they lead to {self._public_url}")

    async def _key(self, server: ChatServer, told: object) -> Finding:
        if not self._verifies:
            return Finding(
                "chat key",
                Verdict.WARNING,
                "is not looked at: whoever knows the token can run commands as anybody",
                'Set [mattermost] verify_trigger = "auto".',
            )
        known = await self._store.key_of(server.url)
        try:
            if not isinstance(told, str):
                raise ValueError("it publishes none")
            read_key(told)
        except ValueError as error:
            return Finding(
                "chat key",
                Verdict.WARNING,
                f"commands are not signed in a way that can be checked: {error}",
                "Update Mattermost to 5.37 or newer.",
            )
        if known is None:
            return Finding("chat key", Verdict.WARNING, "is not known yet", "Start CertBob once.")
        if known != told:
            return Finding(
                "chat key",
                Verdict.FAILED,
                f"Mattermost signs with {fingerprint(told)} now, not with {fingerprint(known)} as at first",
                "If you know why (a new database, say), run `certbob mattermost accept-key`.",
            )
        return Finding("chat key", Verdict.OK, fingerprint(told))

    async def _bot(self, server: ChatServer) -> Finding:
        try:
            bot = await server.me()
        except ServerProblem as problem:
            return Finding("chat bot", Verdict.FAILED, str(problem), "Check [mattermost] bot_token.")
        return Finding("chat bot", Verdict.OK, f"is {bot.username}")

    async def _addresses(self, server: ChatServer) -> Finding:
        """Accounts see their own address in any case, so that of the bot says nothing."""
        try:
            config = await server.client_config(as_bot=True)
        except ServerProblem as problem:
            return Finding("chat addresses", Verdict.FAILED, str(problem), "Check [mattermost] bot_token.")
        if config.get("ShowEmailAddress") == "false":
            return Finding(
                "chat addresses",
                Verdict.FAILED,
                'Mattermost shows no e-mail addresses, so identity = "email" cannot work',
                "Set ShowEmailAddress there, or another [mattermost] identity.",
            )
        return Finding("chat addresses", Verdict.OK, "can be looked up")

    def _network(self) -> Finding:
        """As Mattermost judges: by the addresses that the name has, though that may be others there."""
        host = urlsplit(self._public_url).hostname or ""
        try:
            found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)}
        except OSError as error:
            return Finding(
                "chat to CertBob",
                Verdict.WARNING,
                f"the address of {host} is not known here: {error.strerror}",
                "Check [server] public_url and the name service.",
            )
        if all(ipaddress.ip_address(address).is_global for address in found):
            return Finding("chat to CertBob", Verdict.OK, f"{host} has a public address")
        return Finding(
            "chat to CertBob",
            Verdict.WARNING,
            f"{host} has a private address, which Mattermost does not call by itself",
            "Start Mattermost with"
            f" MM_SERVICESETTINGS_ALLOWEDUNTRUSTEDINTERNALCONNECTIONS={host}, or set it in its console.",
        )

    async def _own_address(self) -> Finding:
        """A command with a wrong token is answered with 401, unless something in front does otherwise."""
        url = f"{self._public_url}/request"
        try:
            async with httpx2.AsyncClient(transport=WholeAnswers(self._transport), trust_env=False) as http:
                answer = await in_time(http.post(url, data={"token": "doctor"}), SECONDS)
        except (httpx2.HTTPError, OSError, TimeoutError, UnfitAnswer) as error:
            return Finding(
                "address for the command",
                Verdict.WARNING,
                f"{url} does not answer from here: {str(error) or type(error).__name__}",
                "Start CertBob; if it runs, check the proxy in front and its certificate.",
            )
        if answer.status_code not in (401, 429):
            return Finding(
                "address for the command",
                Verdict.FAILED,
                f"{url} answers {answer.status_code} to a wrong token, and not 401",
                "Let the proxy in front pass POST /request as it is: no redirect, sign-in or certificate.",
            )
        return Finding("address for the command", Verdict.OK, url)


def _version(text: str) -> Finding:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        return Finding("chat server", Verdict.OK, "answers, and does not tell its version")
    version = tuple(int(part) for part in match.groups())
    safe = SAFE_VERSIONS.get(version[0], SAFE_VERSION)
    if version < safe:
        return Finding(
            "chat server",
            Verdict.WARNING,
            f"is Mattermost {match[0]}, which has known holes in slash commands",
            f"Update it to {'.'.join(map(str, safe))} or newer.",
        )
    return Finding("chat server", Verdict.OK, f"is Mattermost {match[0]}")
