"""Signing in and out."""

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from quart import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from certbob.errors import (
    BadRequest,
    NotSignedIn,
    Problem,
    ProviderUnavailable,
    SignInBlocked,
    SignInFailed,
    SignInRefused,
    TooLarge,
)
from certbob.identity import Door
from certbob.web.context import is_htmx, reference, services, session
from certbob.web.errors import log_problem, retry_after, status_of
from certbob.web.forms import MAX_FIELDS, read_form
from certbob.web.pages import page
from certbob.web.security import (
    SIGN_OUT_AGE,
    end_session,
    public,
    remember_sign_out_hint,
    sign_out_hint,
    signed_in,
    start_session,
)

blueprint = Blueprint("login", __name__)

START = "/new"
# Where a sign-in may lead, and the fields of a form that survive it. Never an address from outside.
DESTINATIONS: dict[str, tuple[str, ...]] = {
    "/new": ("platform", "device", "profile", "validity", "older", "delivery", "replaces", "old"),
    "/issue": (),
    "/certificates": (),
    "/link": (),
    "/admin": ("q",),
    "/admin/audit": ("q", "action", "since", "until"),
    "/admin/expiring": (),
    "/admin/pause": (),
    "/admin/questions": (),
}


_OF_A_CERTIFICATE = re.compile(r"/certificates/[0-9a-f]{1,40}/(?:revoke|replace)", re.ASCII)
MAX_FIELD_LENGTH = 200  # of an address that is kept while somebody signs in elsewhere


def destination(wanted: str) -> str:
    """`wanted` reduced to a page of ours and its known fields, else the start."""
    try:
        url = urlsplit(wanted)
        sent = parse_qsl(url.query, max_num_fields=MAX_FIELDS)
    except ValueError:
        return START
    fields = () if _OF_A_CERTIFICATE.fullmatch(url.path) else DESTINATIONS.get(url.path)
    if fields is None or url.scheme or url.netloc:
        return START
    kept = [(name, value) for name, value in sent if name in fields and len(value) <= MAX_FIELD_LENGTH]
    return url.path + (f"?{urlencode(kept)}" if kept else "")


@blueprint.get("/")
@public
async def start() -> Response:
    return see_other(START if session() else "/login")


@blueprint.get("/login")
@public
async def show_login() -> Response:
    return await login_page(None, request.args.get("next", START))


@blueprint.post("/login")
@public
async def login() -> Response:
    form = await read_form()
    username, wanted = form.get("username", ""), form.get("next", START)
    try:
        identity = await services().local.authenticate(
            username, form.get("password", ""), request.remote_addr or "unknown"
        )
    except (SignInRefused, SignInBlocked) as problem:
        log_problem(problem)
        return await login_page(problem, wanted, username)
    response = see_other(destination(wanted))
    await start_session(identity, response, is_admin=services().is_admin(identity))
    return response


@blueprint.post("/logout")
@signed_in
async def logout() -> Response:
    """After single sign-on the person is still signed in there, so the next page offers to end that, too.

    A link does it: after a form the content security policy allows no redirect to another site.
    """
    single_sign_on = services().single_sign_on
    current = session()
    elsewhere = (
        single_sign_on is not None
        and current is not None
        and current.identity.door is Door.OIDC
        and single_sign_on.sign_out_url(None) is not None
    )
    response = see_other("/login?signed_out=1" if elsewhere else "/login")
    await end_session(response)
    remember_sign_out_hint(response, sign_out_hint() if elsewhere else None, SIGN_OUT_AGE)
    return response


@blueprint.app_errorhandler(NotSignedIn)
async def ask_to_sign_in(problem: NotSignedIn) -> Response:
    """A first visit goes to the sign-in page; a form sent too late says so, and its values survive."""
    if request.method != "POST":
        return _leave(f"/login?next={quote(destination(request.full_path))}")
    try:
        wanted = destination(f"{request.path}?{urlencode(await read_form())}")
    except (BadRequest, TooLarge, HTTPException):
        wanted = START
    if is_htmx():
        return Response(status=401, headers={"HX-Redirect": f"/login?next={quote(wanted)}"})
    return await login_page(problem, wanted)


async def login_page(problem: Problem | None, wanted: str, username: str = "") -> Response:
    """`problem`: why somebody is here again. `wanted`: where to go from here, as somebody sent it."""
    status = 200 if problem is None else status_of(problem)
    single_sign_on = services().single_sign_on
    response = await page(
        "login.html",
        status,
        problem=problem,
        # What the provider did wrong stands in the log only.
        reference=reference() if isinstance(problem, SignInFailed | ProviderUnavailable) else None,
        username=username,
        next=destination(wanted),
        single_sign_on=single_sign_on,
        is_away=problem is None and single_sign_on is not None and single_sign_on.is_away(),
        local=services().local.exists,
        signed_out="signed_out" in request.args,
    )
    if problem is not None:
        response.headers.update(retry_after(problem))
    return response


def see_other(path: str) -> Response:
    """To a page that htmx must load as a whole: the header changes with who is signed in."""
    if is_htmx():
        return Response(status=204, headers={"HX-Redirect": path})
    return Response(status=303, headers={"Location": path})


def _leave(path: str) -> Response:
    return Response(status=401, headers={"HX-Redirect": path}) if is_htmx() else see_other(path)
