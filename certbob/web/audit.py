"""The audit log, for administrators: to look through, and as a file for a spreadsheet."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta

from quart import Blueprint, Response, request

from certbob.audit import Action, to_time
from certbob.errors import InvalidInput
from certbob.ports import AuditEntry, AuditFilter
from certbob.web.context import actor, page_number, services
from certbob.web.pages import page
from certbob.web.security import administrator

blueprint = Blueprint("audit", __name__)

ON_A_PAGE, MAX_PAGE = 50, 99_999
MAX_WORDS = 100
COLUMNS = [
    "number",
    "time",
    "action",
    "door",
    "account",
    "address",
    "reference",
    "subject",
    "name",
    "serial",
    "note",
    "hash",
]
FIELDS = ("q", "action", "since", "until")


@blueprint.get("/admin/audit")
@administrator
async def show_log() -> Response:
    number = page_number(MAX_PAGE)
    errors = {}
    try:
        wanted = _filter()
    except InvalidInput as problem:
        wanted, errors = AuditFilter(), problem.fields
    found = await services().audit.entries(wanted, limit=ON_A_PAGE + 1, offset=(number - 1) * ON_A_PAGE)
    return await page(
        "audit.html",
        422 if errors else 200,
        sent={field: request.args.get(field, "")[:MAX_WORDS] for field in FIELDS},
        errors=errors,
        actions=tuple(Action),
        labels={action.value: action.label for action in Action},
        entries=[] if errors else found[:ON_A_PAGE],
        number=number,
        has_more=not errors and len(found) > ON_A_PAGE,
    )


@blueprint.get("/admin/audit.csv")
@administrator
async def export() -> Response:
    """All that fits the filter, the oldest first. Raises InvalidInput."""
    wanted = _filter()
    log = services().audit
    await log.record(Action.EXPORTED, actor())
    return Response(
        _csv(log.every(wanted)),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": "attachment; filename=certbob-audit.csv"},
    )


def _filter() -> AuditFilter:
    """What is asked for. Days are those of the server's time zone. Raises InvalidInput."""
    action = request.args.get("action", "")
    errors = {}
    days: dict[str, datetime | None] = {}
    if action and action not in tuple(Action):
        errors["action"] = "Choose one of the list."
    for field, more in (("since", timedelta(0)), ("until", timedelta(days=1))):
        try:
            days[field] = _midnight(request.args.get(field, ""), more)
        except (ValueError, OverflowError):
            errors[field] = "Enter a day like 2026-12-31."
    if errors:
        raise InvalidInput(errors)
    return AuditFilter(
        words=request.args.get("q", "").strip()[:MAX_WORDS],
        action=action or None,
        since=days["since"],
        until=days["until"],
    )


def _midnight(text: str, more: timedelta) -> datetime | None:
    if not text:
        return None
    return datetime.combine(date.fromisoformat(text) + more, time()).astimezone(UTC)


async def _csv(entries: AsyncIterator[AuditEntry]) -> AsyncIterator[str]:
    yield _line(COLUMNS)
    async for entry in entries:
        actor, origin = entry.actor, entry.actor.origin
        facts = (
            str(entry.number),
            to_time(entry.at),
            entry.action,
            actor.door,
            actor.account,
            origin.address,
            origin.reference,
            entry.subject or "",
            entry.name or "",
            entry.serial or "",
            entry.note,
            entry.hash,
        )
        yield _line([_literal(fact) for fact in facts])


def _line(facts: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(facts)
    return line.getvalue()


def _literal(fact: str) -> str:
    """So that no spreadsheet takes what somebody called a device for a formula."""
    return f"'{fact}" if fact.startswith(("=", "+", "-", "@", "\t", "\r")) and fact != "-" else fact
