"""My certificates: replacing, revoking, the day of their end, and whether one is reminded of it."""

import re
from urllib.parse import urlencode

from quart import Blueprint, Response, request

from certbob.calendar_entry import FILE_NAME, calendar_entry
from certbob.errors import BadRequest, NoSuchPage
from certbob.identity import Door
from certbob.ports import Actor, Certificate
from certbob.revocation import Reason
from certbob.web.chat_links import links_accounts
from certbob.web.context import (
    actor,
    identity,
    is_admin,
    list_facts,
    origin,
    page_number,
    services,
    settings,
)
from certbob.web.forms import read_form
from certbob.web.pages import page
from certbob.web.security import owner, signed_in

blueprint = Blueprint("certificates", __name__)

ON_A_PAGE, MAX_PAGE = 25, 9999
_SERIAL = re.compile(r"[0-9a-f]{1,40}", re.ASCII)  # 20 octets at most, RFC 5280 4.1.2.2


@blueprint.get("/certificates")
@signed_in
async def show_certificates() -> Response:
    number = page_number(MAX_PAGE)
    reminders = services().reminders
    found = await services().ledger.certificates_of(
        identity().subject, limit=ON_A_PAGE + 1, offset=(number - 1) * ON_A_PAGE
    )
    return await page(
        "certificates.html",
        certificates=found[:ON_A_PAGE],
        labels=services().profiles.labels(),
        now=services().clock.now(),
        number=number,
        has_more=len(found) > ON_A_PAGE,
        links_accounts=links_accounts(),
        reminded=None if reminders is None else await reminders.wanted_by(identity()),
        reminder_days=None if reminders is None else reminders.days_in_words,
    )


@blueprint.post("/certificates/reminders")
@signed_in
async def set_reminders() -> Response:
    reminders = services().reminders
    if reminders is None:
        raise NoSuchPage
    remind = (await read_form()).get("remind")
    if remind not in ("yes", "no"):
        raise BadRequest("remind is neither yes nor no")
    await reminders.set_wanted(identity(), remind == "yes")
    return Response(status=303, headers={"Location": "/certificates#reminders"})


@blueprint.get("/certificates/<serial>/calendar.ics")
@signed_in
async def calendar(serial: str) -> Response:
    """The day on which it ends, for people's calendars."""
    entry = calendar_entry(await _mine(serial), now=services().clock.now(), site=settings().public_url)
    response = Response(entry, content_type="text/calendar; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{FILE_NAME}"'
    return response


@blueprint.get("/certificates/<serial>/replace")
@signed_in
async def replace(serial: str) -> Response:
    """To the form for a new one, filled in as this one is."""
    old = await _mine(serial)
    wanted = {"platform": old.platform, "device": old.device, "profile": old.profile_id, "replaces": serial}
    return Response(status=303, headers={"Location": f"/new?{urlencode(wanted)}"})


@blueprint.get("/certificates/<serial>/revoke")
@owner
async def ask_to_revoke(serial: str) -> Response:
    """Asks; or says that it is done."""
    token = request.args.get("token")
    return await _revoke_page(await _certificate(serial, token), token)


@blueprint.post("/certificates/<serial>/revoke")
@owner
async def revoke(serial: str) -> Response:
    form = await read_form()
    token = form.get("token")
    certificate = await _certificate(serial, token)
    try:
        reason = Reason(form.get("reason", ""))
    except ValueError:
        return await _revoke_page(certificate, token, 422, {"reason": "Choose why."})
    by = actor() if token is None else await _link_holder(certificate)
    await services().revocation.revoke(certificate, reason, by)
    query = "" if token is None else f"?{urlencode({'token': token})}"
    return Response(status=303, headers={"Location": f"/certificates/{serial}/revoke{query}"})


async def _revoke_page(
    certificate: Certificate, token: str | None, status: int = 200, errors: dict[str, str] | None = None
) -> Response:
    return await page(
        "revoke.html",
        status,
        certificate=certificate,
        is_over=certificate.not_after <= services().clock.now(),
        reasons=tuple(Reason),
        errors=errors or {},
        token=token,
        **list_facts(),
    )


async def _mine(serial: str) -> Certificate:
    """Raises NoSuchPage."""
    found = await services().ledger.find(_number(serial), identity().subject)
    if found is None:
        raise NoSuchPage
    return found


async def _certificate(serial_text: str, token: str | None) -> Certificate:
    """The person's own, or an administrator's choice; by the link's token, or else by who is signed in.

    Raises GrantMalformed, GrantInvalid, GrantExpired, NotSignedIn, NoSuchPage.
    """
    serial = _number(serial_text)
    ledger = services().ledger
    if token is not None:
        found = await ledger.find(serial, services().revocation.subject_of(token, serial))
    elif is_admin():
        found = await ledger.find_any(serial)
    else:
        found = await ledger.find(serial, identity().subject)
    if found is None:
        raise NoSuchPage
    return found


async def _link_holder(certificate: Certificate) -> Actor:
    """Whoever has the link out of the chat."""
    door, account = await services().people.account_of(certificate.subject) or (None, "")
    # With linked accounts the certificate is somebody's who signs in elsewhere.
    user_id = account if door is Door.MATTERMOST else "-"
    return Actor(Door.MATTERMOST, user_id, certificate.name, origin())


def _number(serial: str) -> int:
    if not _SERIAL.fullmatch(serial):
        raise NoSuchPage
    return int(serial, 16)
