"""Where a grant becomes a file."""

from dataclasses import replace

from quart import Blueprint, Response, request

from certbob.bundles import Format
from certbob.devices import Device, Platform, looks_old, platform_of
from certbob.errors import (
    AccountGone,
    BadRequest,
    GrantMalformed,
    GrantUsed,
    MailProblem,
    NotSignedIn,
    NotYours,
    Problem,
    TakeOver,
)
from certbob.identity import Door
from certbob.issuance import REPEAT_WINDOW, FileOptions
from certbob.ports import Delivery, Grant, Issued
from certbob.web.context import is_htmx, names_html, origin, services, session, settings, user_agent
from certbob.web.errors import log_problem, retry_after, show, status_of
from certbob.web.forms import read_form
from certbob.web.login import ask_to_sign_in
from certbob.web.pages import page
from certbob.web.security import (
    forget_link,
    grant_holder,
    holder,
    remember_holder,
    remember_link,
    remembered_link,
)

blueprint = Blueprint("issue", __name__)

# They fetch links in messages before anybody clicks them, some with `Accept: */*`.
PREVIEW_AGENTS = (
    "mattermost-bot",
    "slackbot",
    "slack-imgproxy",
    "twitterbot",
    "facebookexternalhit",
    "linkedinbot",
    "discordbot",
    "telegrambot",
    "whatsapp",
    "skypeuripreview",
    "microsoftpreview",
    "googlebot",
    "bingbot",
    "bingpreview",
    "applebot",
)
CLICKED = (Door.OIDC, Door.LOCAL)  # doors whose link was opened by a click on a page of ours


@blueprint.get("/issue")
@grant_holder
async def show_issue() -> Response:
    """A page for browsers; the file for programs, the one GET that redeems."""
    token = request.args.get("token")
    if token is None:
        return await _page_of_last_take()
    try:
        grant = await _inspect(token)
    except NotSignedIn as problem:
        response = await ask_to_sign_in(problem)
        remember_link(response, token)
        return response
    if _is_direct_download() and grant.delivery is not Delivery.LINK:
        options = _options(request.args.get("older"), request.args.get("format"))
        return _file(await services().issuance.issue(token, options=options, origin=origin()))
    return await _take_page(grant, token)


@blueprint.post("/issue")
@grant_holder
async def redeem() -> Response:
    form = await read_form()
    token = form.get("token")
    if token is None:
        raise GrantMalformed("no token")
    options = _options(form.get("older"), form.get("format"))
    by_mail = form.get("delivery") == Delivery.MAIL
    grant = await _inspect(token)
    try:
        if by_mail:
            return await _send(token, options)
        issued = await services().issuance.issue(token, holder=holder(), options=options, origin=origin())
    except MailProblem as problem:
        log_problem(problem)
        if is_htmx() or not names_html():
            return await show(problem, page_stays=True)
        return await _render_take(grant, token, problem=problem)
    except Problem as problem:
        log_problem(problem)
        passphrase = _still_shown(problem, grant, token)
        return await show(problem, token=token, by_mail=by_mail, passphrase=passphrase)
    response = _file(issued)
    if grant.delivery is Delivery.LINK:
        forget_link(response)
    return response


async def take_page(token: str) -> Response:
    """The passphrase, and the form that redeems; changes nothing."""
    return await _take_page(await _inspect(token), token)


async def _take_page(grant: Grant, token: str) -> Response:
    if services().issuance.take_of(grant, holder()) is None:
        try:
            services().grants.check_live(grant, holder())
        except GrantUsed as problem:
            return await show(problem, passphrase=_still_shown(problem, grant, token))
    return await _render_take(grant, token)


async def _inspect(token: str) -> Grant:
    """The grant; a mailed one only for its owner.

    Raises the GrantProblems, AccountGone, NotSignedIn, NotYours.
    """
    grant = await services().grants.inspect(token)
    if grant.identity.door in CLICKED and not services().still_knows(grant.identity):
        raise AccountGone
    if grant.delivery is Delivery.LINK:
        current = session()
        if current is None:
            raise NotSignedIn
        if current.identity.subject != grant.identity.subject:
            raise NotYours(current.identity.name)
    return grant


async def _page_of_last_take() -> Response:
    """The address without a token is what the page of a running or finished download shows.

    After a sign-in it is where the link of a mail goes on: no link travels through the sign-in itself.
    """
    take = services().issuance.last_take(holder())
    token = take.token if take is not None else remembered_link()
    if token is None:
        raise TakeOver
    return await take_page(token)


async def _send(token: str, options: FileOptions) -> Response:
    """Only for a browser that has seen the page: it can get the file otherwise when the mail fails."""
    mail = services().mail
    if mail is None or mail.way is not Delivery.MAIL or holder() is None:
        raise BadRequest("files are not mailed here, or the page was not opened before")
    await mail.send_file(token, holder=holder(), options=options, origin=origin())
    if is_htmx():
        return await take_page(token)
    return Response(status=303, headers={"Location": f"/issue?token={token}"})


async def _render_take(grant: Grant, token: str, *, problem: MailProblem | None = None) -> Response:
    """`problem`: why the mail did not go out. Without script it is told on the page itself."""
    issuance, mail = services().issuance, services().mail
    take = issuance.take_of(grant, holder())
    ready = take if take is not None and take.is_ready else None
    sent = mail.sent(grant, holder()) if mail is not None else None
    surprising_age = looks_old(user_agent()) and not grant.device.older and settings().ask_older
    autostart = take is None and problem is None and not surprising_age and _was_clicked(grant)
    response = await page(
        "take.html",
        200 if problem is None else status_of(problem),
        state="new" if ready is None else "repeat",
        token=token,
        passphrase=services().grants.passphrase(token) if grant.tells_passphrase else None,
        autostart=autostart,
        by_mail=grant.delivery is Delivery.MAIL,
        recipient=grant.identity.email,
        sent=sent,
        problem=problem,
        name=grant.identity.name,
        device=_device_here(grant),
        older=grant.device.older or surprising_age,
        profile_label=services().profiles.entitled(grant.profile_id, grant.identity).label,
        valid_until=grant.created_at + grant.validity if ready is None else ready.not_after,
        until=grant.expires_at,
        repeat_until=None if ready is None else ready.until,
        filename=issuance.file_name(grant),
        encoding=issuance.encoding_for(grant) if ready is None else ready.encoding,
        ask_older=settings().ask_older,
    )
    remember_holder(response)
    if grant.delivery is Delivery.LINK:
        remember_link(response, token)  # the session may be over before the button is pressed
    if problem is not None:
        response.headers.update(retry_after(problem))
    if is_htmx():
        # Once it redeems by itself the address needs no token; otherwise a reload must find its way back.
        response.headers["HX-Push-Url"] = "/issue" if autostart or ready else f"/issue?token={token}"
    return response


def _was_clicked(grant: Grant) -> bool:
    """Whether somebody opened the link a moment ago, so that its page may begin by itself."""
    if grant.delivery is Delivery.LINK:
        return False
    if grant.identity.door is Door.MATTERMOST:
        return True
    # A link that was pasted or sent somewhere is no click on a page of ours.
    return grant.identity.door in CLICKED and request.headers.get("Sec-Fetch-Site") == "same-origin"


def _device_here(grant: Grant) -> Device:
    """A chat does not say what the device is; the browser may."""
    if grant.identity.door is Door.MATTERMOST and grant.device.platform is Platform.OTHER:
        return replace(grant.device, platform=platform_of(user_agent()))
    return grant.device


def _still_shown(problem: Problem, grant: Grant, token: str) -> str | None:
    """The passphrase, when the file went to this very browser a moment ago, if through another process."""
    if not isinstance(problem, GrantUsed) or not problem.by_holder or not grant.tells_passphrase:
        return None
    if services().clock.now() - problem.claimed_at > REPEAT_WINDOW:
        return None
    return services().grants.passphrase(token)


def _is_direct_download() -> bool:
    headers = request.headers
    purposes = " ".join(headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz")).lower()
    return (
        settings().direct_download
        and request.method == "GET"
        and not names_html()
        # A browser that names no html wants a picture or a script of another page.
        and headers.get("Sec-Fetch-Site", "none") == "none"
        and "prefetch" not in purposes
        and "preview" not in purposes
        and not any(agent in user_agent().lower() for agent in PREVIEW_AGENTS)
    )


def _options(older: str | None, form: str | None) -> FileOptions:
    if older not in (None, "0", "1"):
        raise BadRequest("older is neither 0 nor 1")
    try:
        return FileOptions(None if older is None else older == "1", Format(form or Format.PFX))
    except ValueError as error:
        raise BadRequest("an unknown format") from error


def _file(issued: Issued) -> Response:
    return Response(
        issued.content,
        content_type=issued.media_type,
        headers={"Content-Disposition": f"attachment; filename={issued.file_name}"},
    )
