"""The front door: pages over HTTP. Quart is used here and nowhere else."""

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from quart import Quart, Response, g, request

from certbob.errors import NoSuchPage
from certbob.services import Services
from certbob.web import (
    admin,
    audit,
    certificates,
    chat_links,
    errors,
    issue,
    login,
    mattermost,
    ops,
    options,
    presented,
    single_sign_on,
    trust,
)
from certbob.web.context import WebSettings, reference, services
from certbob.web.guard import Guard
from certbob.web.pages import set_up_templates
from certbob.web.security import headers_for, load_session, public
from certbob.web.static import StaticFiles

MAX_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10

access_log = logging.getLogger("certbob.access")

Application = Quart  # under this name the process knows it


def create_app(
    settings: WebSettings,
    *,
    root: Path,
    trusted_proxies: Sequence[str] = (),
    certificate_header: str | None = None,
) -> Quart:
    """The application without its services: `attach` them before it serves.

    `root` holds `partials/` and `static/`.
    """
    app = Quart("certbob", root_path=str(root), template_folder="partials", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=MAX_BODY_BYTES, BODY_TIMEOUT=BODY_SECONDS)
    app.extensions["certbob-settings"] = settings
    static = StaticFiles(root / "static")
    set_up_templates(app, static)
    errors.set_up_errors(app)
    doors = (login, single_sign_on, options, issue, mattermost)
    for module in (*doors, certificates, chat_links, admin, audit, presented, trust, ops):
        app.register_blueprint(module.blueprint)

    @app.get("/static/<name>")
    @public
    async def static_file(name: str) -> Response:
        response = static.response(name)
        if response is None:
            raise NoSuchPage
        return response

    @app.get("/favicon.ico")
    @public
    async def favicon() -> Response:
        response = static.response("favicon.ico")
        if response is None:
            raise NoSuchPage
        return response

    @app.before_request
    async def begin() -> None:
        g.started = time.monotonic()
        await load_session()

    headers = headers_for(settings.public_url)

    @app.after_request
    async def finish(response: Response) -> Response:
        for name, value in headers:
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-store")
        _record(response)
        return response

    app.asgi_app = Guard(  # type: ignore[method-assign, assignment]
        app.asgi_app,
        public_url=settings.public_url,
        trusted_proxies=trusted_proxies,
        headers=headers,
        certificate_header=certificate_header,
    )
    return app


def certificate_door(app: Quart, *, origin: str, trusted_proxies: Sequence[str] = ()) -> Guard:
    """The same application for the listener at `origin`, which asks browsers for their certificates."""
    settings: WebSettings = app.extensions["certbob-settings"]
    headers = headers_for(settings.public_url)
    door = presented.CertificateDoor(
        partial(Quart.asgi_app, app), public_url=settings.public_url, headers=headers
    )
    return Guard(door, public_url=origin, trusted_proxies=trusted_proxies, headers=headers)


def attach(app: Quart, services: Services) -> None:
    app.extensions["certbob"] = services


def _record(response: Response) -> None:
    """In log and metrics: neither path nor query nor headers, which hold tokens."""
    seconds = time.monotonic() - g.get("started", time.monotonic())
    rule = request.url_rule.rule if request.url_rule else "-"
    services().metrics.observe_request(rule, request.method, response.status_code, seconds)
    access_log.info(
        "%s %s %s %d %.1f ms %s",
        request.remote_addr,
        request.method,
        rule,
        response.status_code,
        seconds * 1000,
        reference(),
    )
