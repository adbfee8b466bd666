"""The listener that asks for certificates, in this process, and people who come with theirs."""

import asyncio
import http.client
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    pkcs12,
)

from certbob import listener, web
from certbob.server import ServerConfig, listener_config
from tests.support.html import Page
from tests.support.nginx import write_server_certificate
from tests.support.stepca import free_ports
from tests.support.web import ADA, Person, Site, StillClock, open_site


@dataclass(frozen=True, slots=True)
class Owned:
    """A certificate with its key. `pem`: both and the intermediates, as curl and `ssl` read them."""

    leaf: x509.Certificate
    pem: bytes

    def file(self, folder: Path) -> Path:
        """Several threads may ask at once: it is there whole, or not at all."""
        path = folder / f"{self.leaf.serial_number:x}.pem"
        draft = folder / secrets.token_hex(8)
        draft.write_bytes(self.pem)
        return draft.replace(path)

    @classmethod
    def with_key(cls, leaf: x509.Certificate, key: bytes, *others: x509.Certificate) -> "Owned":
        """`key`: DER, PKCS #8."""
        private = load_der_private_key(key, None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        return cls(leaf, private + b"".join(each.public_bytes(Encoding.PEM) for each in (leaf, *others)))

    @classmethod
    def of(cls, pfx: bytes, passphrase: str) -> "Owned":
        bundle = pkcs12.load_pkcs12(pfx, passphrase.encode())
        assert bundle.key is not None
        assert bundle.cert is not None
        parts = [bundle.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
        chain = (bundle.cert, *bundle.additional_certs)
        parts.extend(each.certificate.public_bytes(Encoding.PEM) for each in chain)
        return cls(bundle.cert.certificate, b"".join(parts))


async def take(site: Site, person: Person = ADA, device: str = "Work laptop") -> Owned:
    """As somebody gets it from the page of a link."""
    address = f"/issue?token={await site.mint(person, device=device)}"
    passphrase = (await site.browser().get(address)).page.passphrase
    file = await site.program().get(address)
    assert passphrase is not None
    assert file.status == 200, file.text
    return Owned.of(file.body, passphrase)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def page(self) -> Page:
        assert self.headers["Content-Type"] == "text/html; charset=utf-8"
        return Page(self.text)

    @property
    def heading(self) -> str:
        return self.page.text("h1")


@dataclass(frozen=True, slots=True)
class Asking:
    site: Site
    port: int
    config: ServerConfig
    folder: Path

    async def get(
        self,
        owned: Owned | None = None,
        path: str = "/test",
        *,
        headers: dict[str, str] | None = None,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> Answer:
        """Raises OSError where the handshake fails."""
        return await asyncio.to_thread(self._get, owned, path, headers or {}, version)

    def _get(
        self, owned: Owned | None, path: str, headers: dict[str, str], version: ssl.TLSVersion
    ) -> Answer:
        context = self.client_context(owned)
        context.maximum_version = version
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        try:
            connection.request("GET", path, headers={"Accept": "text/html", **headers})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()

    def client_context(self, owned: Owned | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "server.pem")
        if owned is not None:
            context.load_cert_chain(owned.file(self.folder))
        return context


@asynccontextmanager
async def asking(data_dir: Path, clock: StillClock, **site: Any) -> AsyncIterator[Asking]:
    """`site` as for `open_site`."""
    (port,) = free_ports(1)
    folder = data_dir.parent
    write_server_certificate(folder / "server.pem", folder / "server.key")
    keys: dict[str, Any] = {"tls_certificate": folder / "server.pem", "tls_key": folder / "server.key"}
    address = f"127.0.0.1:{port}"
    async with open_site(
        data_dir, clock, public_url="https://127.0.0.1:1", test_listen=address, **keys, **site
    ) as opened:
        config = listener_config(opened.settings, address)
        config.graceful_timeout = 1
        door = web.certificate_door(opened.app, origin=opened.settings.server.test_origin or "")
        stop = asyncio.Event()
        serving = asyncio.create_task(listener.serve(door, config, opened.services.ca.trust, stop.wait))
        try:
            await _wait_until_it_listens(serving, port)
            yield Asking(opened, port, config, folder)
        finally:
            stop.set()
            await serving


async def _wait_until_it_listens(serving: "asyncio.Task[None]", port: int) -> None:
    while not serving.done():
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    await serving
