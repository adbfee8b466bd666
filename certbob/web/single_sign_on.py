"""Signing in and out through the identity provider. Its pages are reached by links, never by forms."""

import secrets

from quart import Blueprint, Response, request

from certbob.errors import NoSuchPage, ProviderUnavailable, SignInFailed
from certbob.services import SingleSignOn
from certbob.web.context import services, session
from certbob.web.errors import log_problem
from certbob.web.login import START, destination, login_page, see_other
from certbob.web.security import (
    is_from_another_site,
    public,
    remember_sign_in_browser,
    remember_sign_out_hint,
    sign_in_browser,
    sign_out_hint,
    start_session,
)

blueprint = Blueprint("single_sign_on", __name__)


@blueprint.get("/login/oidc")
@public
async def begin() -> Response:
    wanted = request.args.get("next", START)
    browser = sign_in_browser() or secrets.token_urlsafe(32)
    try:
        url = await _single_sign_on().begin(browser, destination(wanted))
    except ProviderUnavailable as problem:
        log_problem(problem)
        return await login_page(problem, wanted)
    response = see_other(url)
    remember_sign_in_browser(response, browser)
    return response


@blueprint.get("/login/oidc/callback")
@public
async def finish() -> Response:
    try:
        signed_in = await _single_sign_on().finish(sign_in_browser(), request.args.to_dict(flat=False))
    except SignInFailed as problem:
        log_problem(problem)
        return await login_page(problem, problem.wanted)
    response = see_other(signed_in.wanted)
    await start_session(signed_in.identity, response, is_admin=signed_in.is_admin)
    remember_sign_out_hint(response, signed_in.sign_out_hint)
    return response


@blueprint.get("/login/oidc/logout")
@public
async def sign_out() -> Response:
    """Ends the session at the provider; the one here has its own button, and has ended before.

    Without the hint the provider asks the person, so a link on another site signs nobody out.
    """
    is_ours = session() is None and not is_from_another_site()
    response = see_other(_single_sign_on().sign_out_url(sign_out_hint() if is_ours else None) or "/login")
    remember_sign_out_hint(response, None)
    return response


def _single_sign_on() -> SingleSignOn:
    found = services().single_sign_on
    if found is None:
        raise NoSuchPage
    return found
