"""A Mattermost of our own making, which behaves as a real one was measured. It knows nothing of the product.

    chat = Mattermost(clock, transport=httpx2.ASGITransport(app=app))
    alice = chat.add_user("alice")
    command = chat.add_command(chat.add_team("acme"), "https://certbob.example.org/request")
    seen = await chat.run(alice, "/cert download")
    assert (seen.kind, chat.link_metadata) == ("ephemeral", {})

All its outgoing requests go through `transport`. Its REST API is the object itself, an ASGI application, in
process or on a socket with `serve_mattermost`; see `tests.support.mattermost_api`.
"""

import asyncio
import base64
import html
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urljoin

import httpx2
import hypercorn.asyncio
import hypercorn.config
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.support.hostile_provider import Clock
from tests.support.html import Page
from tests.support.mattermost_api import Channel, Command, Server, Team, User, new_id

AGENT = "Mattermost-Bot/1.1"
MAX_ANSWER = 1 << 20  # bytes
MAX_REQUESTS = 10  # for one answer, redirects included
GO_SPACE = r"\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # unicode.IsSpace
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
}

Headers = Sequence[tuple[str, str]]


class NoAnswer(Exception):
    """Why there is none: for the log of the server alone."""


@dataclass(frozen=True, slots=True)
class Markdown:
    """What a message holds. `bare`: addresses that become links by themselves. `code`: spans and blocks."""

    links: tuple[str, ...]
    images: tuple[str, ...]
    bare: tuple[str, ...]
    code: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the person sees.

    `kind`: ephemeral, in_channel (everybody sees it), nothing, or error. `text`: Markdown. `goto_location`:
    what the client opens, "" for nothing. `answer`: what came, not for persons. `log`: what only the log of
    Mattermost says. `extra`: further messages.
    """

    kind: str
    text: str = ""
    goto_location: str = ""
    answer: httpx2.Response | None = None
    log: str = ""
    extra: tuple["Seen", ...] = ()

    @property
    def status(self) -> int | None:
        return self.answer.status_code if self.answer is not None else None

    @property
    def markdown(self) -> Markdown:
        return read_markdown(self.text)

    @property
    def links(self) -> tuple[str, ...]:
        return self.markdown.links

    @property
    def code(self) -> tuple[str, ...]:
        return self.markdown.code


class Mattermost(Server):
    """`transport`: where its requests and those of browsers go; it may be changed at any time.

    `oauth_token`: of an outgoing connection, in the place of the command's token in the header.
    `internal`: hosts on addresses of inner networks, which are refused unless `allowed_internal_connections`,
    a setting with hosts and networks in it, names them. `trusts_tls`: whether https works at all.
    `link_metadata`: every address a preview was tried of, and what came of it.
    """

    def __init__(
        self, clock: Clock, *, transport: httpx2.AsyncBaseTransport | None = None, **site: Any
    ) -> None:
        super().__init__(clock, **site)
        self.transport = transport or httpx2.MockTransport(_nobody_listens)
        self.oauth_token: str | None = None
        self.internal: dict[str, str] = {}
        self.allowed_internal_connections = ""
        self.trusts_tls = True
        self.link_previews = True
        self.connect_seconds = 3.0
        self.command_seconds = 30.0
        self.preview_seconds = 5.0
        self.link_metadata: dict[str, httpx2.Response | None] = {}
        self.cookies = httpx2.Cookies()

    async def run(
        self,
        user: User,
        line: str,
        *,
        team: Team | None = None,
        channel: Channel | None = None,
        root_id: str | None = None,
        host: str | None = None,
        trigger_id: str | None = None,
        authorization: str | None = None,
        fields: Mapping[str, str | None] | None = None,
    ) -> Seen:
        """The person types `line` in `channel`, and waits.

        `team`: without it, the first one. `host`: what the person's own client claims to talk to, of which
        servers before MM-67142 made the `response_url`. The last three are for forged requests: they replace
        what Mattermost would send, and None as the value of a field leaves it out.
        """
        team = team or next(iter(self.teams.values()))
        word, text = (*re.split(f"[{GO_SPACE}]", line, maxsplit=1), "")[:2]
        trigger = word.removeprefix("/").lower()
        command = self._command(team, trigger)
        if command is None:
            return Seen("error", f"Command with a trigger of '{trigger}' not found.")
        channel = channel or team.channels["town-square"]
        site_url = f"http://{host}" if host else self.site_url
        form: dict[str, list[str]] = {
            "token": [command.token],
            "team_id": [team.id],
            "team_domain": [team.name],
            "channel_id": [channel.id],
            "channel_name": [channel.name],
            "user_id": [user.id],
            "user_name": [user.username],
            "command": [f"/{trigger}"],
            "text": [text],
            "trigger_id": [self.trigger_id(user) if trigger_id is None else trigger_id],
            "response_url": [f"{site_url}/hooks/commands/{self.new_hook()}"],
            **({} if root_id is None else {"root_id": [root_id]}),
            **self._mentions(text, team),
        }
        for name, value in (fields or {}).items():
            form[name] = [] if value is None else [value]
        if authorization is None:
            authorization = f"Bearer {self.oauth_token}" if self.oauth_token else f"Token {command.token}"
        try:
            answer = await self._send_command(command, form, authorization)
        except NoAnswer as problem:
            return Seen("error", f"Command with a trigger of '{trigger}' failed.", log=str(problem))
        return await self._judge(trigger, answer)

    def trigger_id(
        self,
        user: User,
        *,
        at: datetime | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
        data: bytes | None = None,
    ) -> str:
        """A good one, or one with other contents or of another key."""
        data = data or f"{new_id()}:{user.id}:{self.milliseconds(at)}:".encode()
        return _trigger_id(data, (key or self.signing_key).sign(data, ec.ECDSA(hashes.SHA256())))

    async def preview(
        self,
        message: str,
        props: Mapping[str, Any] | None = None,
        attachments: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """The first bare address unless there are attachments, and all images. No failure stops a message."""
        if props and props.get("unsafe_links") == "true" and not self.old:
            return
        found = read_markdown(message)
        urls = [*found.bare[:1]] if self.link_previews and not attachments else []
        urls += found.images
        for attachment in attachments:
            urls += read_markdown(attachment.get("text") or "").images
            urls += [url for name in ("image_url", "thumb_url") if (url := attachment.get(name))]
        headers = [("Accept", "image/*"), ("Accept", "text/html;q=0.8")]
        for url in (urljoin(self.site_url, url) for url in dict.fromkeys(urls)):
            self.link_metadata[url] = None
            with suppress(NoAnswer):
                self.link_metadata[url] = await self._fetch("GET", url, headers, seconds=self.preview_seconds)

    async def click(self, link: Seen | str) -> httpx2.Response:
        """As the person's browser opens it, or the first link of a message."""
        url = link if isinstance(link, str) else link.links[0]
        assert not url.startswith(self.site_url), f"the web client takes {url} for a page of its own"
        return await self._browse("GET", url, {"Sec-Fetch-Site": "none"})

    async def submit(self, page: httpx2.Response, **changes: str) -> httpx2.Response:
        """The first form with method post, as if its button had been pressed."""
        action = Page(page.text).all("form[@method='post']")[0].attrib["action"]
        headers = {"Origin": str(page.url.join("/")).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
        form = Page(page.text).form(action).fields | changes
        return await self._browse("POST", str(page.url.join(action)), headers, form)

    async def take(self, seen: Seen) -> pkcs12.PKCS12KeyAndCertificates:
        """Click, press the button, and open the file with a passphrase out of the message."""
        file = await self.submit(await self.click(seen))
        assert file.status_code == 200, file.text
        for passphrase in seen.code:
            with suppress(ValueError):
                return pkcs12.load_pkcs12(file.content, passphrase.encode())
        raise AssertionError("nothing in the message opens the file")

    def _command(self, team: Team, trigger: str) -> Command | None:
        found = (c for c in self.commands.values() if (c.team_id, c.trigger) == (team.id, trigger))
        return next(found, None)

    def _mentions(self, text: str, team: Team) -> dict[str, list[str]]:
        """Of members of the team and its public channels, once each."""
        members = {user.username: user.id for user in self.users.values() if user.id in team.members}
        words = [word.rstrip("._-") for word in re.findall(r"\B@([a-z0-9][a-z0-9._-]*)", text.lower())]
        users = [word for word in dict.fromkeys(words) if word in members]
        words = re.findall(r"\B~([a-z0-9_-]+)", text)
        channels = [word for word in dict.fromkeys(words) if word in team.channels]
        found = {
            "user_mentions": users,
            "user_mentions_ids": [members[name] for name in users],
            "channel_mentions": channels,
            "channel_mentions_ids": [team.channels[name].id for name in channels],
        }
        return {name: values for name, values in found.items() if values}

    async def _send_command(
        self, command: Command, form: Mapping[str, list[str]], authorization: str
    ) -> httpx2.Response:
        encoded = urlencode(sorted(form.items()), doseq=True)
        headers = [("Accept", "application/json"), ("Authorization", authorization)]
        if command.method == "G":
            url = f"{command.url}{'&' if '?' in command.url else '?'}{encoded}"
            return await self._fetch("GET", url, headers, seconds=self.command_seconds)
        headers.append(("Content-Type", "application/x-www-form-urlencoded"))
        return await self._fetch("POST", command.url, headers, encoded.encode(), seconds=self.command_seconds)

    async def _judge(self, trigger: str, answer: httpx2.Response) -> Seen:
        if answer.status_code != 200:
            status = f"{answer.status_code} {answer.reason_phrase}"
            text = f"Command with a trigger of '{trigger}' returned response {status}."
            return Seen("error", text, answer=answer, log=answer.text)
        body = answer.content[:MAX_ANSWER].decode("utf-8", "replace")
        content_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if content_type != "application/json":
            return await self._deliver({"text": body}, answer)
        try:
            response = read_response(body)
        except ValueError as problem:
            failed = f"Command with a trigger of '{trigger}' failed."
            return Seen("error", failed, answer=answer, log=str(problem))
        return await self._deliver(response, answer)

    async def _deliver(self, response: Mapping[str, Any], answer: httpx2.Response) -> Seen:
        """`response` as of `read_response`."""
        text, attachments = response.get("text", ""), response.get("attachments", [])
        if not response.get("skip_slack_parsing"):
            text = self._from_slack(text)
        kind = response.get("response_type") or "ephemeral"
        if kind not in ("ephemeral", "in_channel") or (kind == "ephemeral" and not text and not attachments):
            kind, text = "nothing", ""
        else:
            await self.preview(text, response.get("props"), attachments)
        extra = [await self._deliver(further, answer) for further in response.get("extra_responses", [])]
        location = response.get("goto_location", "")
        scheme = re.sub(r"[^\w:]", "", unquote(location)).lower()
        if scheme.startswith(("javascript:", "vbscript:", "data:")):
            location = ""
        return Seen(kind, text, location, answer, extra=tuple(extra))

    def _from_slack(self, text: str) -> str:
        text = re.sub(r"<!(channel|here|all)>", r"@\1", text)
        for user in self.users.values():
            text = text.replace(f"<@{user.id}>", f"@{user.username}")
        return re.sub(r"<([^<|]+)\|([^>]+)>", r"[\2](\1)", text)

    async def _fetch(
        self, method: str, url: str, headers: Headers, body: bytes = b"", *, seconds: float
    ) -> httpx2.Response:
        """As Go does it, redirects included; never twice. Raises NoAnswer."""
        try:
            async with asyncio.timeout(seconds):
                return await self._follow(method, httpx2.URL(url), headers, body)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as error:
            raise NoAnswer(repr(error)) from error

    async def _follow(self, method: str, url: httpx2.URL, headers: Headers, body: bytes) -> httpx2.Response:
        first_host = url.host
        for _ in range(MAX_REQUESTS):
            self._refuse_forbidden(url)
            answer = await self._exchange(method, url, headers, body)
            location = answer.headers.get("Location")
            if answer.status_code not in (301, 302, 303, 307, 308) or not location:
                return answer
            if answer.status_code < 307:
                method, body = "GET", b""
            here, url = url, url.join(location)
            is_elsewhere = url.host != first_host and not url.host.endswith(f".{first_host}")
            left_behind = ("Referer", "Authorization") if is_elsewhere else ("Referer",)
            headers = [header for header in headers if header[0] not in left_behind]
            if here.scheme == url.scheme or url.scheme == "https":
                headers.append(("Referer", str(here)))
        raise NoAnswer(f"stopped after {MAX_REQUESTS} redirects")

    def _refuse_forbidden(self, url: httpx2.URL) -> None:
        """Raises NoAnswer. Names in the setting are compared before their addresses are looked up."""
        if url.scheme not in ("http", "https"):
            raise NoAnswer(f"unsupported protocol scheme {url.scheme!r}")
        allowed = re.split("[ ,]+", self.allowed_internal_connections.strip())
        if url.host in self.internal and url.host not in allowed:
            networks = [ipaddress.ip_network(entry) for entry in allowed if "/" in entry]
            if not any(ipaddress.ip_address(self.internal[url.host]) in network for network in networks):
                raise NoAnswer("address forbidden, you may need to set AllowedUntrustedInternalConnections")
        if url.scheme == "https" and not self.trusts_tls:
            raise NoAnswer("tls: failed to verify certificate: x509: certificate signed by unknown authority")

    async def _exchange(self, method: str, url: httpx2.URL, headers: Headers, body: bytes) -> httpx2.Response:
        """One request with the headers and the order of Go."""
        length = [("Content-Length", str(len(body)))] if method == "POST" else []
        request = httpx2.Request(
            method,
            url,
            headers=[
                ("Host", url.netloc.decode()),
                ("User-Agent", AGENT),
                *length,
                *sorted(headers),
                ("Accept-Encoding", "gzip"),
            ],
            content=body or None,
            extensions={"timeout": {"connect": self.connect_seconds}},
        )
        answer = await self.transport.handle_async_request(request)
        answer.request = request
        async with aclosing(answer):
            await answer.aread()
        return answer

    async def _browse(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """In a browser that keeps its cookies. It is not closed: this would close the transport, too."""
        browser = httpx2.AsyncClient(
            transport=self.transport, headers=BROWSER, cookies=self.cookies, follow_redirects=True
        )
        answer = await browser.request(method, url, headers=headers, data=form)
        self.cookies.update(browser.cookies)
        return answer


@asynccontextmanager
async def serve_mattermost(
    clock: Clock,
    *,
    host: str = "127.0.0.1",
    tls: tuple[Path, Path] | None = None,
    trust: ssl.SSLContext | bool = True,
) -> AsyncIterator[Mattermost]:
    """On a port of loopback, and with real connections to others; `trust` is for these.

    `tls`: files of a certificate chain and its key; `host`: in its addresses.
    """
    outgoing = httpx2.AsyncHTTPTransport(
        verify=trust, trust_env=False, limits=httpx2.Limits(keepalive_expiry=90)
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        scheme, port = "https" if tls else "http", listener.getsockname()[1]
        chat = Mattermost(clock, transport=outgoing, site_url=f"{scheme}://{host}:{port}")
        config = hypercorn.config.Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.errorlog = None
        config.include_date_header = False  # its own clock counts
        config.graceful_timeout = 0.1  # silent answers never end by themselves
        if tls:
            config.certfile, config.keyfile = map(str, tls)
        stop = asyncio.Event()
        serving = asyncio.create_task(
            hypercorn.asyncio.serve(chat, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
        )
        try:
            yield chat
        finally:
            await outgoing.aclose()
            stop.set()
            await serving


def _nobody_listens(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("connection refused")


_RESPONSE = {
    "response_type": str,
    "text": str,
    "goto_location": str,
    "skip_slack_parsing": bool,
    "props": dict,
    "attachments": list,
    "extra_responses": list,
}


def read_response(body: str) -> dict[str, Any]:
    """The known members, without those that are null. Raises ValueError, as Go's decoder would."""
    return _response(json.loads(body, parse_constant=_no_constant))


def _response(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise ValueError("cannot unmarshal into a command response")
    given = {name.lower(): member for name, member in (value or {}).items() if member is not None}
    response = {name: member for name, member in given.items() if name in _RESPONSE}
    for name, member in response.items():
        if not isinstance(member, _RESPONSE[name]):
            raise ValueError(f"cannot unmarshal {name}")
    if "extra_responses" in response:
        response["extra_responses"] = [_response(further) for further in response["extra_responses"]]
    return response


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_FENCED = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*\n(?P<block>.*?)(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(
    r"""
      \\[!-/:-@\[-`{-~]
    | (?P<ticks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)
    | (?P<image>!?)\[(?P<words>(?:\\.|`[^`]*`|\[(?:\\.|[^\[\]\\])*\](?:\([^()]*\))?|[^\[\]\\`])*)\]
      \(\s*(?P<target><[^<>\n]*>|(?:\\.|\((?:\\.|[^\s()\\])*\)|[^\s()\\])*)(?:\s+(?:"[^"]*"|'[^']*'|=\d[^\s)]*))?\s*\)
    | (?P<bare>(?<![A-Za-z0-9])(?:https?|ftp|mailto|tel|gemini)://\w[^\s<]*)
    | (?P<www>(?<![^\s*_~)(<>])www\d{0,3}\.[^\s<]+)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def read_markdown(text: str) -> Markdown:
    """By the rules of Mattermost's own reader, as far as links go."""
    links: list[str] = []
    images: list[str] = []
    bare: list[str] = []
    code = [match["block"] for match in _FENCED.finditer(text)]
    for match in _INLINE.finditer(_FENCED.sub("\n", text)):
        if match["code"]:
            code.append(match["code"].strip())
        elif match["target"] is not None:
            target = html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", match["target"].strip("<>")))
            (images if match["image"] else links).append(target)
            images += read_markdown(match["words"]).images
        elif address := match["bare"] or match["www"]:
            bare.append(("http://" if match["www"] else "") + _without_punctuation(address))
    return Markdown(tuple(links), tuple(images), tuple(bare), tuple(code))


def _without_punctuation(address: str) -> str:
    """What closes a sentence or a bracket around the address is no part of it; a `>` is."""
    while True:
        shorter = re.sub(r"(?:&[A-Za-z]+;|[?!.,:*_~'\";])\Z", "", address)
        if shorter.endswith(")") and shorter.count(")") > shorter.count("("):
            shorter = shorter[:-1]
        if shorter == address:
            return address
        address = shorter


def _trigger_id(data: bytes, signature: bytes) -> str:
    return base64.b64encode(data + base64.b64encode(signature)).decode()


def _signed(chat: Mattermost, user: User) -> tuple[bytes, bytes]:
    """Data and signature of a good one."""
    data, signature = base64.b64decode(chat.trigger_id(user)).rsplit(b":", 1)
    return data + b":", base64.b64decode(signature)


def _flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def _with_flipped_data(chat: Mattermost, user: User) -> str:
    data, signature = _signed(chat, user)
    return _trigger_id(_flipped(data, -2), signature)  # a millisecond more or less


def _with_flipped_signature(chat: Mattermost, user: User) -> str:
    data, signature = _signed(chat, user)
    return _trigger_id(data, _flipped(signature, -1))


def _with_raw_signature(chat: Mattermost, user: User) -> str:
    data, signature = _signed(chat, user)
    raw = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))
    return _trigger_id(data, raw)


def _with_other_hash(chat: Mattermost, user: User) -> str:
    data, _ = _signed(chat, user)
    return _trigger_id(data, chat.signing_key.sign(data, ec.ECDSA(hashes.SHA512())))


def _urlsafe(chat: Mattermost, user: User) -> str:
    while True:
        data, signature = _signed(chat, user)
        encoded = base64.urlsafe_b64encode(signature)
        if set(encoded) & set(b"-_"):
            return base64.b64encode(data + encoded).decode()


def _by(curve: ec.EllipticCurve) -> Callable[[Mattermost, User], str]:
    return lambda chat, user: chat.trigger_id(user, key=ec.generate_private_key(curve))


def _at(**later: float) -> Callable[[Mattermost, User], str]:
    return lambda chat, user: chat.trigger_id(user, at=chat.now() + timedelta(**later))


def _of(form: str) -> Callable[[Mattermost, User], str]:
    """Signed all the same. In `form`: client, user, ms."""
    return lambda chat, user: chat.trigger_id(
        user, data=form.format(client=new_id(), user=user.id, ms=chat.milliseconds()).encode()
    )


# None of these may pass; `user` is who runs the command.
BROKEN_TRIGGER_IDS: Mapping[str, Callable[[Mattermost, User], str]] = {
    "none": lambda chat, user: "",
    "no base64": lambda chat, user: "!" + chat.trigger_id(user),
    "a line break": lambda chat, user: chat.trigger_id(user)[:76] + "\n" + chat.trigger_id(user)[76:],
    "cut short": lambda chat, user: chat.trigger_id(user)[:-1],
    "of somebody else": lambda chat, user: chat.trigger_id(User("mallory")),
    "61 seconds old": _at(seconds=-61),
    "from the future": _at(seconds=61),
    "no time": _of("{client}:{user}::"),
    "a signed time": _of("{client}:{user}:+{ms}:"),
    "a broken time": _of("{client}:{user}:{ms}.0:"),
    "3 parts": _of("{client}:{user}:"),
    "5 parts": _of("{client}:{user}:{ms}:{ms}:"),
    "too long": _of("{client}" + "x" * 1024 + ":{user}:{ms}:"),
    "bit flipped in the data": _with_flipped_data,
    "bit flipped in the signature": _with_flipped_signature,
    "another key": _by(ec.SECP256R1()),
    "another curve": _by(ec.SECP384R1()),
    "another hash": _with_other_hash,
    "raw signature": _with_raw_signature,
    "urlsafe base64": _urlsafe,
}
