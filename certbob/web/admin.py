"""What administrators can do: find everybody's certificates, and take them back."""

from quart import Blueprint, Response, request

from certbob.errors import NoSuchPage
from certbob.revocation import Outcome, Reason
from certbob.web.context import actor, page_number, services
from certbob.web.forms import read_form
from certbob.web.pages import page
from certbob.web.security import administrator

blueprint = Blueprint("admin", __name__)

ON_A_PAGE, MAX_PAGE = 50, 99_999
MAX_WORDS = 100


@blueprint.get("/admin")
@administrator
async def search() -> Response:
    words = request.args.get("q", "").strip()[:MAX_WORDS]
    number = page_number(MAX_PAGE)
    found = await services().ledger.search(words, limit=ON_A_PAGE + 1, offset=(number - 1) * ON_A_PAGE)
    return await page(
        "admin.html",
        words=words,
        certificates=found[:ON_A_PAGE],
        labels=services().profiles.labels(),
        now=services().clock.now(),
        number=number,
        has_more=len(found) > ON_A_PAGE,
    )


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
