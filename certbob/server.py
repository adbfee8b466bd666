"""The serving process: application, services, jobs and signals together."""

import asyncio
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import hypercorn.asyncio
import hypercorn.config
from cryptography import x509

from certbob import __version__, jobs, listener, web
from certbob.bootstrap import build_services
from certbob.config import Settings, find_config, load
from certbob.devices import EncodingPolicy
from certbob.errors import CannotStart
from certbob.logs import set_up_logging
from certbob.paths import resource_root
from certbob.services import Services
from certbob.web.context import WebSettings

# Some clients never end TLS: the default of 30 s would hold up the end of the process. Hypercorn has no
# option for it.
asyncio.constants.SSL_SHUTDOWN_TIMEOUT = 3.0  # type: ignore[attr-defined]

log = logging.getLogger(__name__)

BACKLOG = 2048  # with the default of 100 a herd of browsers stalls for a second
GRACE_SECONDS = 20
# Longer than any answer takes. Without it a connection that begins HTTP/2 and says no more stays for ever.
READ_SECONDS = 120
CHOICE_SECONDS = 180  # some browsers wait within the handshake until their person has chosen a certificate


class ServerConfig(hypercorn.config.Config):
    """Hypercorn's configuration, whose TLS certificate can be replaced while it serves."""

    _live: ssl.SSLContext | None = None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        self._live = super().create_ssl_context()
        return self._live

    def reload_certificate(self) -> None:
        """Raises OSError or ssl.SSLError for a bad pair, and goes on with the old one."""
        if self._live is not None and self.certfile is not None:
            # A mismatched pair leaves a context broken, so a fresh one tries it first.
            super().create_ssl_context()
            self._live.load_cert_chain(self.certfile, self.keyfile)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. SIGHUP reloads the TLS certificate."""
    server = settings.server
    _allow_many_files()
    _require_free(server.listen, "listen")
    configs = [config := server_config(settings)]
    if server.test_listen:
        _require_free(server.test_listen, "test_listen")
        configs.append(listener_config(settings, server.test_listen))
    app = new_app(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_stop() -> None:
        if not stop.is_set():
            stop.set()
            # The executable's parent passes on what a whole process group got: that is no second one.
            loop.call_later(1, on_second_stop)

    def on_second_stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    def on_reload() -> None:
        for each in configs:
            try:
                each.reload_certificate()
            except OSError as error:
                log.error("%s: the TLS certificate was not reloaded: %s", each.bind[0], error)
            else:
                log.info("%s: the TLS certificate was reloaded", each.bind[0])
                if each is config:
                    _tell_end_of_certificate(config, services)

    async with _running(app, settings) as services:
        _tell_end_of_certificate(config, services)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_stop)
        loop.add_signal_handler(signal.SIGHUP, on_reload)
        sys.stderr.write(f"CertBob {__version__} serves {settings.server.public_url} (Ctrl-C ends it)\n")
        async with asyncio.TaskGroup() as listeners:
            listeners.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
            for each in configs[1:]:
                door = web.certificate_door(
                    app, origin=server.test_origin or "", trusted_proxies=server.trusted_proxies
                )
                listeners.create_task(listener.serve(door, each, services.ca.trust, stop.wait))


def asgi_app() -> web.Application:
    """For other ASGI servers: configured by CERTBOB_CONFIG and the environment, wired when they start it."""
    settings = load(find_config(None, os.environ), os.environ)
    set_up_logging(settings.log.level, settings.log.format)
    app = new_app(settings)

    @app.while_serving
    async def lifespan() -> AsyncGenerator[None, None]:
        async with _running(app, settings):
            yield

    return app


def _tell_end_of_certificate(config: ServerConfig, services: Services) -> None:
    if config.certfile is not None:
        with suppress(ValueError):  # OpenSSL, which serves it, reads more than we do
            certificate = x509.load_pem_x509_certificate(Path(config.certfile).read_bytes())
            services.metrics.tls_certificate_ends(certificate.not_valid_after_utc)


@asynccontextmanager
async def _running(app: web.Application, settings: Settings) -> AsyncIterator[Services]:
    services = await build_services(settings, tell_first_account=_tell_first_account)
    web.attach(app, services)
    if services.single_sign_on is not None:
        services.single_sign_on.is_away()  # begins to look, so that the first page knows
    if services.chat is not None:
        services.chat.look()
    if services.revocation_list is not None:
        await services.revocation_list.refresh_if_possible()  # a fresh one before anybody can ask
    background = asyncio.create_task(jobs.run(services))
    try:
        yield services
    finally:
        background.cancel()
        await services.close()


def new_app(settings: Settings) -> web.Application:
    return web.create_app(
        WebSettings(
            public_url=settings.server.public_url,
            contact=settings.server.contact,
            organization=settings.server.organization,
            direct_download=settings.issue.direct_download,
            ask_older=settings.pkcs12.encoding is EncodingPolicy.ASK,
            metrics_token=settings.server.metrics_token,
            test_origin=settings.server.test_origin,
            proxy_tells_certificate=settings.server.certificate_header is not None,
        ),
        root=resource_root(),
        trusted_proxies=settings.server.trusted_proxies,
        certificate_header=settings.server.certificate_header,
    )


def server_config(settings: Settings) -> ServerConfig:
    config = ServerConfig()
    config.bind = [settings.server.listen]
    config.backlog = BACKLOG
    config.include_server_header = False
    config.graceful_timeout = GRACE_SECONDS
    config.read_timeout = READ_SECONDS
    config.accesslog = None  # theirs writes the Referer, hence tokens; ours is in `certbob.web`
    config.errorlog = logging.getLogger("hypercorn.error")  # a name would bring a second handler
    if settings.server.tls_certificate and settings.server.tls_key:
        config.certfile = str(settings.server.tls_certificate)
        config.keyfile = str(settings.server.tls_key)
        try:
            config.create_ssl_context()
        except OSError as error:
            raise CannotStart(
                f"The TLS certificate {config.certfile} and its key cannot be used: {error}.",
                "Check both files, and that the key belongs to the certificate.",
            ) from error
    return config


def listener_config(settings: Settings, address: str) -> ServerConfig:
    """For `listener.serve`."""
    config = server_config(settings)
    config.bind = [address]
    config.ssl_handshake_timeout = CHOICE_SECONDS
    config.alpn_protocols = ["http/1.1"]  # HTTP/2 has no way to close a connection with the answer
    return config


def _allow_many_files() -> None:
    """As many as the system lets us: each connection is one, and the usual 1024 are soon used up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _require_free(listen: str, key: str) -> None:
    """Hypercorn would report a taken port with a traceback, after everything else was started."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise CannotStart(
                f"It cannot listen on {listen}: {error.strerror}.",
                f"End the other program, or set [server] {key} to another port.",
            ) from error


def _tell_first_account(username: str, password: str) -> None:
    sys.stderr.write(
        "\n"
        "  Nobody could sign in yet, so an account was made. Its password is shown this once:\n"
        f"    User name: {username}\n"
        f"    Password: {password}\n\n"
    )
