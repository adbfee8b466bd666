"""A listener beside the server's own, to see which certificate a browser presents.

Hypercorn keeps the client's certificate from the application, so here its connections are made one by one,
each with an application that knows the certificate of that connection.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

from certbob.errors import CAProblem
from certbob.ports import Trust
from certbob.tasks import Tasks

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME: after a failed handshake nobody could say that a certificate has ended.
NO_CHECK_TIME = 0x200000

MAX_CONNECTIONS = 500  # each may last as long as a person needs to choose

log = logging.getLogger(__name__)

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


async def serve(
    app: Application,
    config: Config,
    trust: Callable[[], Awaitable[Trust]],
    stop: Callable[[], Awaitable[object]],
) -> None:
    """Until `stop` returns. `config` has the one address and the certificate of the server.

    The application finds what the browser presents in the TLS extension of ASGI (`client_cert_chain`, the
    leaf alone); no such extension where the browser was not asked, because `trust` raised CAProblem so far.
    """
    context = config.create_ssl_context()
    if context is None:
        raise ValueError("a server without a certificate cannot ask for one")
    listener = _Listener(app, config, _Asking(context, trust))
    await listener.run(stop)


class _Asking:
    """The TLS context, which asks for certificates as soon as it is known whose are to be accepted."""

    def __init__(self, context: ssl.SSLContext, trust: Callable[[], Awaitable[Trust]]) -> None:
        self.context = context
        self._trust = trust
        self._known: Trust | None = None
        context.verify_flags |= NO_CHECK_TIME
        # A resumed session would bring back the certificate of an earlier choice.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0

    async def learn(self) -> bool:
        """Whether browsers were asked until now; from now on as the authority says."""
        asked = self._known is not None
        with suppress(CAProblem):
            trust = await self._trust()
            if trust != self._known:
                certificates = (trust.root, *trust.intermediates)
                self.context.load_verify_locations(
                    cadata=b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)
                )
                self.context.verify_mode = ssl.CERT_OPTIONAL
                self._known = trust
        return asked


class _Listener:
    def __init__(self, app: Application, config: Config, asking: _Asking) -> None:
        self._app = app
        self._config = config
        self._asking = asking
        self._worker = WorkerContext(None)
        self._connections = Tasks()

    async def run(self, stop: Callable[[], Awaitable[object]]) -> None:
        await self._asking.learn()
        (socket,) = self._config.create_sockets().secure_sockets
        server = await asyncio.start_server(
            lambda reader, writer: self._connections.start(self._serve(reader, writer)),
            sock=socket,
            backlog=self._config.backlog,
            ssl=self._asking.context,
            ssl_handshake_timeout=self._config.ssl_handshake_timeout,
        )
        try:
            await stop()
        finally:
            server.close()
            await self._worker.terminated.set()
            await self._connections.drain(self._config.graceful_timeout)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, after its handshake."""
        if len(self._connections) > MAX_CONNECTIONS:
            writer.transport.abort()
            return
        der: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        tls = {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else []}
        asked = await self._asking.learn()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if asked:
                scope["extensions"]["tls"] = tls
            with suppress(OSError):  # TLS that the other side ends carelessly, or never
                await self._app(scope, receive, send)

        loop = asyncio.get_running_loop()
        try:
            with suppress(OSError):  # TLS that the other side ends carelessly
                await TCPServer(ASGIWrapper(app), loop, self._config, self._worker, {}, reader, writer)
        except Exception:
            log.exception("a connection ended unexpectedly")
