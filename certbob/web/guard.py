"""What stands in front of the framework: requests that could confuse it never reach it.

A body whose length is told twice (smuggling), HTTP/2 without TLS, a missing, repeated or foreign Host,
oversized targets and headers, unusual methods and WebSockets are refused here. The client's address is
taken from `X-Forwarded-For`, and its certificate from a header, only when a trusted proxy sent it.
"""

import ipaddress
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

MAX_TARGET_BYTES = 4096
MAX_HEADER_BYTES = 16384
METHODS = frozenset({"GET", "HEAD", "POST"})
PRESENTED = "certbob.presented"  # in the scope: the browser's certificate as text; empty: it has shown none
VERSIONS = {"http": ("1.0", "1.1"), "https": ("1.0", "1.1", "2")}
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
MONITORING = ("/healthz", "/readyz", "/metrics")

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Scope = dict[str, Any]


def allowed_hosts(public_url: str) -> frozenset[str]:
    """The Host values of this service: of `public_url`, and for a loopback one each loopback name."""
    url = urlsplit(public_url)
    host = url.netloc.lower()
    port = f":{url.port}" if url.port else ""
    if host.removesuffix(port) in LOOPBACK_NAMES:
        return frozenset(f"{name}{port}" for name in LOOPBACK_NAMES)
    return frozenset({host})


class Guard:
    """ASGI middleware around the whole application. `headers` go on its own answers."""

    def __init__(
        self,
        app: Any,
        *,
        public_url: str,
        trusted_proxies: Sequence[str],
        headers: Sequence[tuple[str, str]],
        certificate_header: str | None = None,
    ) -> None:
        self._app = app
        self._certificate_header = certificate_header.encode() if certificate_header else None
        self._hosts = allowed_hosts(public_url)
        self._proxies = [ipaddress.ip_network(network) for network in trusted_proxies]
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers]

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1002})
        elif scope["type"] == "http" and (reason := self._refusal(scope)):
            await self._refuse(scope, reason, send)
        else:
            if scope["type"] == "http":
                # `X_Forwarded_For` looks like `X-Forwarded-For` to some proxies, but is the client's.
                scope["headers"] = [(name, value) for name, value in scope["headers"] if b"_" not in name]
                self._take_certificate(scope)
                self._see_through_proxies(scope)
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        names = [name for name, _ in headers]
        target = len(scope["raw_path"]) + len(scope["query_string"])
        if target > MAX_TARGET_BYTES or sum(len(n) + len(v) for n, v in headers) > MAX_HEADER_BYTES:
            return "The address or the headers are too long."
        if scope["method"] not in METHODS:
            return "This method is not offered."
        if not scope["path"].startswith("/"):
            return "The address does not begin with a slash."
        if scope["http_version"] not in VERSIONS[scope["scheme"]]:
            return "This version of HTTP is not offered here; HTTP/2 over TLS only."
        if b"transfer-encoding" in names and b"content-length" in names:
            return "The length of the body is told twice."
        hosts = [
            value.decode("latin-1").lower() for name, value in headers if name in (b"host", b":authority")
        ]
        if len(hosts) != 1 or not self._is_ours(hosts[0], scope["path"]):
            return "This service is not known by that name here; see public_url in its configuration."
        return None

    def _is_ours(self, host: str, path: str) -> bool:
        return host in self._hosts or (
            path in MONITORING and host.rpartition(":")[0] in LOOPBACK_NAMES  # a probe on the machine itself
        )

    async def _refuse(self, scope: Scope, reason: str, send: Any) -> None:
        address = scope["client"][0] if scope.get("client") else "unknown"
        log.info("refused for %s: %s", address, reason)
        headers = [
            *self._headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": f"{reason}\n".encode(), "more_body": False})

    def _take_certificate(self, scope: Scope) -> None:
        """Before the client's address is replaced: it counts who is connected."""
        if self._certificate_header is None:
            return
        told = [value for name, value in scope["headers"] if name == self._certificate_header]
        scope["headers"] = [each for each in scope["headers"] if each[0] != self._certificate_header]
        if not scope.get("client") or not self._trusted(scope["client"][0]):
            return
        if len(told) > 1:
            log.warning("a proxy passes on a certificate beside its own: it must replace the header")
        scope[PRESENTED] = told[0].decode("latin-1") if len(told) == 1 else ""

    def _see_through_proxies(self, scope: Scope) -> None:
        """From the right, past every hop that is a trusted proxy; stop at nonsense."""
        if not scope.get("client") or not self._trusted(scope["client"][0]):
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        for hop in reversed(forwarded.decode("latin-1").split(",")):
            try:
                address = ipaddress.ip_address(hop.strip())
            except ValueError:
                break
            scope["client"] = (str(address), 0)
            if not self._trusted(str(address)):
                break
        protocols = [value for name, value in headers if name == b"x-forwarded-proto"]
        if protocols in ([b"https"], [b"http"]):
            scope["scheme"] = protocols[0].decode()

    def _trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._proxies)
