"""What administrators can do: find everybody's certificates, take them back, stop issuing."""

import re

from quart import Blueprint, Response, request

from certbob.errors import InvalidInput, NoSuchPage
from certbob.pause import MAX_NOTE
from certbob.ports import Certificate
from certbob.revocation import Outcome, Reason
from certbob.web.context import actor, page_number, services
from certbob.web.forms import read_form
from certbob.web.pages import page
from certbob.web.security import administrator

blueprint = Blueprint("admin", __name__)

ON_A_PAGE, MAX_PAGE = 50, 99_999
MAX_WORDS = 100
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


@blueprint.get("/admin")
@administrator
async def search() -> Response:
    words = request.args.get("q", "").strip()[:MAX_WORDS]
    number = page_number(MAX_PAGE)
    found = await services().ledger.search(words, limit=ON_A_PAGE + 1, offset=(number - 1) * ON_A_PAGE)
    is_start = not words and number == 1
    return await page(
        "admin.html",
        words=words,
        numbers=await services().ledger.numbers() if is_start else None,
        paused=await services().pause.state(),
        questions=await services().reconciliation.count(),
        **_list(found, number),
    )


@blueprint.get("/admin/expiring")
@administrator
async def show_expiring() -> Response:
    number = page_number(MAX_PAGE)
    found = await services().ledger.expiring(limit=ON_A_PAGE + 1, offset=(number - 1) * ON_A_PAGE)
    return await page("expiring.html", **_list(found, number))


def _list(found: list[Certificate], number: int) -> dict[str, object]:
    """`found`: one more than fits on the page, if there is one more."""
    return {
        "certificates": found[:ON_A_PAGE],
        "labels": services().profiles.labels(),
        "now": services().clock.now(),
        "number": number,
        "has_more": len(found) > ON_A_PAGE,
    }


@blueprint.get("/admin/people/<subject>")
@administrator
async def show_person(subject: str) -> Response:
    return await _person_page(subject)


@blueprint.post("/admin/people/<subject>")
@administrator
async def revoke_everything(subject: str) -> Response:
    """All that the person could still use, at once."""
    try:
        reason = Reason((await read_form()).get("reason", ""))
    except ValueError:
        return await _person_page(subject, 422, errors={"reason": "Choose why."})
    outcome = await services().revocation.revoke_all(subject, reason, actor())
    return await _person_page(subject, outcome=outcome)


async def _person_page(
    subject: str,
    status: int = 200,
    *,
    errors: dict[str, str] | None = None,
    outcome: Outcome | None = None,
) -> Response:
    found = await services().ledger.certificates_of(subject, limit=1)
    if not found:
        raise NoSuchPage
    return await page(
        "person.html",
        status,
        name=found[0].name,
        subject=subject,
        active=await services().ledger.active_of(subject),
        reasons=tuple(Reason),
        errors=errors or {},
        outcome=outcome,
    )


@blueprint.get("/admin/pause")
@administrator
async def show_pause() -> Response:
    return await _pause_page()


@blueprint.post("/admin/pause")
@administrator
async def pause() -> Response:
    note = (await read_form()).get("note", "")
    try:
        await services().pause.pause(actor(), note)
    except InvalidInput as problem:
        return await _pause_page(422, note=note[:MAX_NOTE], errors=problem.fields)
    return Response(status=303, headers={"Location": "/admin/pause"})


@blueprint.post("/admin/resume")
@administrator
async def resume() -> Response:
    await services().pause.resume(actor())
    return Response(status=303, headers={"Location": "/admin/pause"})


async def _pause_page(status: int = 200, *, note: str = "", errors: dict[str, str] | None = None) -> Response:
    return await page(
        "pause.html", status, paused=await services().pause.state(), note=note, errors=errors or {}
    )


@blueprint.get("/admin/questions")
@administrator
async def show_questions() -> Response:
    reconciliation = services().reconciliation
    return await page(
        "questions.html",
        questions=await reconciliation.open_questions(),
        count=await reconciliation.count(),
    )


@blueprint.post("/admin/questions/<entry>")
@administrator
async def settle(entry: str) -> Response:
    if not _NUMBER.fullmatch(entry) or not await services().reconciliation.settle(int(entry), actor()):
        raise NoSuchPage
    return Response(status=303, headers={"Location": "/admin/questions"})
