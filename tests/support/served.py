"""The site behind the real Hypercorn on loopback, for what only sockets show."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypercorn.asyncio

from certbob.server import server_config
from tests.support.web import Site, StillClock, open_site


@dataclass(frozen=True, slots=True)
class Served:
    site: Site
    port: int

    @property
    def host(self) -> bytes:
        return f"127.0.0.1:{self.port}".encode()

    async def exchange(self, *chunks: bytes, pause: float = 0, patience: float = 5) -> bytes:
        """Send these bytes on a connection of their own, and everything that comes back until it is closed.

        `pause`: seconds between the chunks. Raises TimeoutError when the server does not close in time.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        received = bytearray()

        async def receive() -> None:
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    received.extend(data)

        async def transmit() -> None:
            with suppress(ConnectionError):
                for chunk in chunks:
                    writer.write(chunk)
                    await writer.drain()
                    await asyncio.sleep(pause)

        sending = asyncio.create_task(transmit())
        try:
            await asyncio.wait_for(receive(), patience)
        finally:
            sending.cancel()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return bytes(received)

    async def is_alive(self) -> bool:
        answer = await self.exchange(
            b"GET /healthz HTTP/1.1\r\nHost: " + self.host + b"\r\nConnection: close\r\n\r\n"
        )
        return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok\n")


@asynccontextmanager
async def serve(
    data_dir: Path,
    clock: StillClock,
    *,
    idle_seconds: float = 0.3,
    body_seconds: float = 0.3,
    read_seconds: int = 5,
    **site: Any,
) -> AsyncIterator[Served]:
    """`site` as for `open_site`. Time-outs are as in production, but shorter."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # from now on clients wait instead of being refused
        port = listener.getsockname()[1]
        async with open_site(data_dir, clock, public_url=f"http://127.0.0.1:{port}", **site) as opened:
            opened.app.config["BODY_TIMEOUT"] = body_seconds
            config = server_config(opened.settings)
            config.bind = [f"fd://{listener.detach()}"]
            config.keep_alive_timeout = idle_seconds
            assert config.read_timeout
            config.read_timeout = read_seconds
            config.graceful_timeout = 1
            stop = asyncio.Event()
            serving = asyncio.create_task(
                hypercorn.asyncio.serve(opened.app, config, shutdown_trigger=stop.wait)
            )
            try:
                yield Served(opened, port)
            finally:
                stop.set()
                await serving
