"""What stands above every route: headers, sessions, who may call it, and from where.

Every handler carries one of the decorators `public`, `signed_in`, `grant_holder`, `owner`,
`administrator`, `monitoring`, `from_chat`; a test walks the route table and fails for a handler without.
"""

import functools
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import ParamSpec

from quart import Response, g, request

from certbob.audit import Action
from certbob.chat_links import LIFETIME as CHAT_LINK_LIFETIME
from certbob.errors import ForeignRequest, NoSuchPage, NotSignedIn, StorageProblem
from certbob.grants import LINK_LIFETIME
from certbob.identity import Identity
from certbob.keys import digest
from certbob.ports import Actor, Session
from certbob.web.context import origin, services, session, settings
from certbob.web.forms import read_first_fields, read_form
from certbob.web.guard import LOOPBACK_NAMES, allowed_hosts

P = ParamSpec("P")
Handler = Callable[P, Awaitable[Response]]

IDLE = timedelta(minutes=15)
ABSOLUTE = timedelta(hours=8)
TOUCH_EVERY = timedelta(minutes=1)  # a write for each request would be dear and say little more
WITHOUT_SESSION = ("/static/", "/request")
HOLDER_AGE = timedelta(minutes=10)
SIGN_IN_AGE = timedelta(minutes=10)
SIGN_OUT_AGE = timedelta(minutes=5)  # after signing out here, to do it there, too

FORWARDING = frozenset({"forwarded", "via", "x-real-ip"})  # and all that begins with x-forwarded

HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "geolocation=(), camera=(), microphone=()"),
    ("X-Robots-Tag", "noindex"),
)
HTTPS_HEADERS = (("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),)


def headers_for(public_url: str) -> tuple[tuple[str, str], ...]:
    """The headers of every answer, errors and static files included."""
    return HEADERS + HTTPS_HEADERS if public_url.startswith("https://") else HEADERS


def public(handler: Handler[P]) -> Handler[P]:
    """Anybody. A form must come from one of our own pages."""

    async def check() -> None:
        if request.method == "POST" and not _from_here():
            raise ForeignRequest("sent by another site")

    return _guarded(handler, check)


def signed_in(handler: Handler[P]) -> Handler[P]:
    """Only somebody who is signed in; a form must come from our own page of the same session."""

    return _guarded(handler, _require_session)


def owner(handler: Handler[P]) -> Handler[P]:
    """Somebody who is signed in, or who has a link for this very page (`token`); the handler judges it."""

    async def check() -> None:
        fields = request.args if request.method != "POST" else await read_form()
        if "token" not in fields:
            await _require_session()
        elif request.method == "POST" and not _from_here():
            raise ForeignRequest("sent by another site")

    return _guarded(handler, check)


async def _require_session() -> None:
    if request.method == "POST" and not _from_here():
        raise ForeignRequest("sent by another site")
    if session() is None:
        raise NotSignedIn
    if request.method == "POST":
        token = (await read_form()).get("form_token", "")
        if not hmac.compare_digest(token.encode(), form_token().encode()):
            raise ForeignRequest("no or an old form token")


def administrator(handler: Handler[P]) -> Handler[P]:
    """Only administrators; for all others there is no such page. A form as with `signed_in`."""

    async def check() -> None:
        await _require_session()
        current = session()
        if current is None or not current.is_admin:
            raise NoSuchPage

    return _guarded(handler, check)


def monitoring(handler: Handler[P]) -> Handler[P]:
    """Only programs on this machine, and whoever has the token; for all others there is no such page."""

    async def check() -> None:
        if not (_has_metrics_token() or _is_on_this_machine()):
            raise NoSuchPage

    return _guarded(handler, check)


def _has_metrics_token() -> bool:
    token = settings().metrics_token
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    return (
        token is not None
        and scheme.lower() == "bearer"
        and hmac.compare_digest(sent.strip().encode(), token.reveal().encode())
    )


def _is_on_this_machine() -> bool:
    """A proxy here makes everybody look so; what it adds tells, or the Host that it leaves as it was."""
    names = {name.lower() for name, _ in request.headers}
    is_forwarded = not names.isdisjoint(FORWARDING) or any(name.startswith("x-forwarded") for name in names)
    host = re.sub(r":[0-9]+$", "", request.host)
    return not is_forwarded and host in LOOPBACK_NAMES and _is_loopback(request.remote_addr or "")


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # a Unix socket
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def from_chat(handler: Handler[P]) -> Handler[P]:
    """Only the chat's server, by its token and its signature. The command is in `g.command`."""

    async def check() -> None:
        chat = services().chat
        if chat is None:
            raise NoSuchPage
        g.command = await chat.accept(
            await read_first_fields(), request.headers.get("Authorization"), request.remote_addr or "unknown"
        )

    return _guarded(handler, check)


def grant_holder(handler: Handler[P]) -> Handler[P]:
    """Whoever holds a grant: it is the proof, so programs may post, but other sites may not."""

    async def check() -> None:
        if request.method == "POST" and is_from_another_site():
            raise ForeignRequest("sent by another site")

    return _guarded(handler, check)


def _guarded(handler: Handler[P], check: Callable[[], Awaitable[None]]) -> Handler[P]:
    @functools.wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> Response:
        await check()
        return await handler(*args, **kwargs)

    guarded.is_guarded = True  # type: ignore[attr-defined]
    return guarded


def is_from_another_site() -> bool:
    """As the browser says; programs and old browsers say nothing."""
    return request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")


def _from_here() -> bool:
    """By Fetch Metadata; an old browser is judged by its Origin, and none at all is refused."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    scheme = settings().public_url.partition("://")[0]
    ours = {f"{scheme}://{host}" for host in allowed_hosts(settings().public_url)}
    return request.headers.get("Origin", "").lower() in ours


def cookie_name(purpose: str) -> str:
    """`__Host-` binds a cookie to this very host; browsers take it over https only."""
    return f"__Host-{purpose}" if settings().https else purpose


def _set_cookie(response: Response, purpose: str, value: str, max_age: timedelta | None) -> None:
    response.set_cookie(
        cookie_name(purpose),
        value,
        max_age=max_age,
        secure=settings().https,
        httponly=True,
        samesite="Lax",
    )


def _delete_cookie(response: Response, purpose: str) -> None:
    response.delete_cookie(cookie_name(purpose), secure=settings().https, httponly=True, samesite="Lax")


async def load_session() -> None:
    """Before each request: who is signed in, if the session is neither idle, over, nor its account gone."""
    g.session = None
    cookie = request.cookies.get(cookie_name("certbob"))
    if not cookie or request.path.startswith(WITHOUT_SESSION):
        return
    found = await services().sessions.find_session(digest(cookie))
    if found is None:
        return
    now = services().clock.now()
    over = now - found.seen_at > IDLE or now - found.created_at > ABSOLUTE
    if over or not services().still_knows(found.identity):
        await services().sessions.end_session(found.id_hash)
        return
    if now - found.seen_at > TOUCH_EVERY:
        # A full disk must not lock people out of what they can read.
        with suppress(StorageProblem):
            await services().sessions.touch_session(found.id_hash, now=now)
    g.session = replace(found, is_admin=found.is_admin and services().is_admin(found.identity))


async def start_session(identity: Identity, response: Response, *, is_admin: bool = False) -> None:
    """A session of a new id; one that the browser had before ends."""
    await _forget_session()
    cookie = secrets.token_urlsafe(32)
    now = services().clock.now()
    sessions, audit = services().sessions, services().audit
    async with sessions.transaction():
        await sessions.add_session(Session(digest(cookie), identity, is_admin, created_at=now, seen_at=now))
        await audit.record(
            Action.SIGNED_IN,
            Actor.of(identity, origin()),
            subject=identity.subject,
            name=identity.name,
            note="as an administrator" if is_admin else "",
        )
    _set_cookie(response, "certbob", cookie, None)


async def end_session(response: Response) -> None:
    """On a shared computer nobody after this sees the last file's page either."""
    await _forget_session()
    for purpose in ("certbob", "certbob-take", "certbob-link", "certbob-chat"):
        _delete_cookie(response, purpose)


async def _forget_session() -> None:
    current = session()
    if current is not None:
        await services().sessions.end_session(current.id_hash)
    g.session = None


def form_token() -> str:
    """What a form of this session carries; empty when nobody is signed in."""
    current = session()
    if current is None:
        return ""
    return hmac.new(services().session_key, current.id_hash.encode(), hashlib.sha256).hexdigest()


def holder() -> str | None:
    """The secret of the browser that has seen a take page; it may fetch the file again."""
    return request.cookies.get(cookie_name("certbob-take")) or None


def remember_holder(response: Response) -> None:
    _set_cookie(response, "certbob-take", holder() or secrets.token_urlsafe(16), HOLDER_AGE)


def remembered_link() -> str | None:
    """The grant of a mail's link that this browser opened before its owner signed in."""
    return request.cookies.get(cookie_name("certbob-link")) or None


def remember_link(response: Response, token: str) -> None:
    _set_cookie(response, "certbob-link", token, LINK_LIFETIME)


def forget_link(response: Response) -> None:
    _delete_cookie(response, "certbob-link")


def remembered_chat_link() -> str | None:
    """The token of a chat's link that this browser opened before its person signed in."""
    return request.cookies.get(cookie_name("certbob-chat")) or None


def remember_chat_link(response: Response, token: str | None) -> None:
    if token is None:
        _delete_cookie(response, "certbob-chat")
    else:
        _set_cookie(response, "certbob-chat", token, CHAT_LINK_LIFETIME)


def sign_in_browser() -> str | None:
    """The secret of a browser that has begun to sign in elsewhere; only there the sign-in can be finished."""
    return request.cookies.get(cookie_name("certbob-sign-in")) or None


def remember_sign_in_browser(response: Response, secret: str) -> None:
    _set_cookie(response, "certbob-sign-in", secret, SIGN_IN_AGE)


def sign_out_hint() -> str | None:
    """What ends this browser's session at the sign-in service (`services.SignedIn`)."""
    return request.cookies.get(cookie_name("certbob-sign-out")) or None


def remember_sign_out_hint(response: Response, hint: str | None, max_age: timedelta = ABSOLUTE) -> None:
    if hint is None:
        _delete_cookie(response, "certbob-sign-out")
    else:
        _set_cookie(response, "certbob-sign-out", hint, max_age)
