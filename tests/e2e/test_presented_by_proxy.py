"""A real proxy asks browsers for their certificates and tells which it got, as docs/operating.md says."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certbob.ports import THE_SERVICE
from certbob.revocation import Reason
from tests.support import pki
from tests.support.asking import Owned, take
from tests.support.html import Page
from tests.support.peers import path_of
from tests.support.served import Served, serve
from tests.support.snippets import WEB_SERVERS, Machine
from tests.support.web import StillClock

pytestmark = pytest.mark.needs("curl")

DOCS = (Path(__file__).parents[2] / "docs/operating.md").read_text()
ROOTS = {"nginx": "/etc/ssl/certbob-root.pem", "haproxy": "/etc/haproxy/certbob-root.pem"}


def documented(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


def configuration(service: str) -> tuple[str, str]:
    """The path of a file and what the documentation wants in it."""
    if service == "nginx":
        server, asks = documented("nginx")
        [location] = re.findall(r"    location / \{\n(.*?)    \}\n", server, re.DOTALL)
        text = server.replace(f"    location / {{\n{location}    }}\n", asks)
        return "/etc/nginx/conf.d/certbob.conf", text.replace("        # as above, and\n", location)
    if service == "haproxy":
        return "/etc/haproxy/haproxy.cfg", documented("haproxy")[0]
    return "/etc/caddy/Caddyfile", documented("caddyfile")[0].replace(
        "cert.example.org", "service.example.org"
    )


def install(service: str, machine: Machine, root: x509.Certificate) -> None:
    path, text = configuration(service)
    text = text.replace("/etc/ssl/cert.example.org", f"{machine.folder}/etc/nginx/service")
    text = text.replace("cert.example.org.pem", "service.pem").replace("\t", "    ")
    text = re.sub(r"(?<![\w./])/etc/", f"{machine.folder}/etc/", text)
    text = re.sub(r"\b443\b", str(machine.port), text)
    machine.write(path, re.sub(r"\b8000\b", str(machine.behind), text))
    if service in ROOTS:
        machine.write(ROOTS[service], root.public_bytes(Encoding.PEM).decode())


class Proxied:
    def __init__(self, served: Served, machine: Machine) -> None:
        self.served = served
        self._machine = machine

    async def heading(self, owned: Owned | None = None, *options: str) -> str:
        return (await self.page(owned, *options)).text("h1")

    async def page(self, owned: Owned | None, *options: str) -> Page:
        return Page(await asyncio.to_thread(self._fetch, owned, options))

    def _fetch(self, owned: Owned | None, options: tuple[str, ...]) -> str:
        host = f"localhost:{self.served.port}"
        command: list[str | Path] = [path_of("curl"), "-sS", "-k", "--max-time", "10", *options]
        command += ["-H", "Accept: text/html", "--connect-to", f"{host}:127.0.0.1:{self._machine.port}"]
        if owned is not None:
            command += ["--cert", owned.file(self._machine.folder)]
        told = subprocess.run(
            [*command, f"https://{host}/test"], capture_output=True, text=True, timeout=20, check=False
        )
        assert told.returncode == 0, told.stderr
        return told.stdout


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.needs(name)) for name in ("nginx", "haproxy", "caddy")]
)
async def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Proxied]:
    trusts: dict[str, Any] = {
        "trusted_proxies": ("127.0.0.1/32",),
        "certificate_header": "client-cert",
    }
    async with serve(tmp_path / "data", StillClock(), **trusts) as served:
        folder = tmp_path / "machine"
        folder.mkdir()
        machine = Machine.on_free_ports(folder, behind=served.port)
        install(request.param, machine, (await served.site.services.ca.trust()).root)
        running = WEB_SERVERS[request.param](machine)
        await asyncio.to_thread(running.__enter__)
        try:
            yield Proxied(served, machine)
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)


async def test_the_proxy_tells_what_the_browser_presents(proxied: Proxied) -> None:
    site = proxied.served.site
    mine, lost = await take(site), await take(site)
    known = await site.services.ledger.find_any(lost.leaf.serial_number)
    assert known is not None
    await site.services.revocation.revoke(known, Reason.LOST, THE_SERVICE)
    elsewhere = foreign()

    good = await proxied.page(mine)
    assert good.text("h1") == "It works"
    assert "Work laptop" in good.text("main")
    assert await proxied.heading(lost) == "This certificate was revoked"
    assert await proxied.heading(None) == "No certificate arrived"
    page = await proxied.page(elsewhere)
    assert page.text("h1") == "This certificate is from elsewhere"
    assert "Elsewhere CA" in page.text("main")
    site.clock.advance(days=91)
    assert await proxied.heading(mine) == "This certificate has expired"


async def test_nobody_can_send_a_certificate_past_the_proxy(proxied: Proxied) -> None:
    mine = await take(proxied.served.site)
    told = quote(mine.leaf.public_bytes(Encoding.PEM).decode())

    for name in ("Client-Cert", "client-cert", "CLIENT-CERT", "Client_Cert"):
        assert await proxied.heading(None, "-H", f"{name}: {told}") == "No certificate arrived"
        assert (
            await proxied.heading(foreign(), "-H", f"{name}: {told}") == "This certificate is from elsewhere"
        )


def foreign() -> Owned:
    root = pki.root("Elsewhere CA")
    leaf = pki.draft_leaf(pki.signing_request(), root).signed_by(root)
    return Owned.with_key(leaf, pki.new_key().private_key)
