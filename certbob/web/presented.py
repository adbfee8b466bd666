"""Test my certificate: which one the browser has just presented, in plain words."""

import logging
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote

from quart import Blueprint, Response, request

from certbob import presented
from certbob.web.context import reference, services, settings
from certbob.web.guard import PRESENTED, Scope
from certbob.web.pages import page
from certbob.web.security import public

blueprint = Blueprint("presented", __name__)
log = logging.getLogger(__name__)

PATH = "/test"


@blueprint.get(PATH)
@public
async def show_presented() -> Response:
    text = cast(Scope, request.scope).get(PRESENTED)
    trust = await services().ca.trust() if settings().can_test else None
    if trust is None or text is None:
        return await _page("begin")
    if presented.is_empty(text):
        return await _page("none")
    try:
        found = await presented.examine(
            presented.read(text), trust, services().ledger, services().clock.now()
        )
    except ValueError as error:
        log.warning("%s what the proxy says of a certificate cannot be read: %s", reference(), error)
        return await _page("unreadable")
    return await _page(found.state, found)


async def _page(state: str, found: presented.Presented | None = None) -> Response:
    return await page(
        "test.html",
        state=state,
        presented=found,
        labels=services().profiles.labels(),
        test_origin=settings().test_origin,
    )


class CertificateDoor:
    """ASGI: what is behind the listener that asks browsers for certificates: this page and its looks.

    All else is at the public address. Cookies stay outside: a browser sends them to every port of a host.
    """

    def __init__(self, app: Any, *, public_url: str, headers: Sequence[tuple[str, str]]) -> None:
        self._app = app
        self._public_url = public_url
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers]

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """The certificate is in the TLS extension of ASGI, which is missing where nobody asked for one."""

        async def send_and_close(message: dict[str, Any]) -> None:
            # A browser that comes again on the same connection would not be asked again.
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        if scope["path"] != PATH and not scope["path"].startswith("/static/"):
            await self._lead_away(scope, send_and_close)
            return
        scope["headers"] = [each for each in scope["headers"] if each[0] != b"cookie"]
        if (tls := scope["extensions"].get("tls")) is not None:
            scope[PRESENTED] = "".join(tls["client_cert_chain"])
        await self._app(scope, receive, send_and_close)

    async def _lead_away(self, scope: Scope, send: Any) -> None:
        location = self._public_url + quote(scope["path"])
        headers = [*self._headers, (b"location", location.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
