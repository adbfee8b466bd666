"""The audit log, for administrators: to look through, and as a file for a spreadsheet."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta

from quart import Blueprint, Response, request

from certbob.audit import Action
from certbob.errors import InvalidInput
from certbob.ports import AuditEntry, AuditFilter
from certbob.web.context import actor, page_number, services
from certbob.web.forms import read_form
from certbob.web.pages import page
from certbob.web.security import administrator

blueprint = Blueprint("audit", __name__)

ON_A_PAGE, MAX_PAGE = 50, 99_999
MAX_WORDS = 100
PIECE = 65536
COLUMNS = [
    "number",
    "time",
    "action",
    "door",
    "account",
    "actor",
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
    sent = {field: request.args.get(field, "")[:MAX_WORDS] for field in FIELDS}
    errors: dict[str, str] = {}
    entries: list[AuditEntry] = []
    try:
        entries = await services().audit.entries(
            _filter(sent), limit=ON_A_PAGE + 1, offset=(number - 1) * ON_A_PAGE
        )
    except InvalidInput as problem:
        errors = problem.fields
    return await page(
        "audit.html",
        422 if errors else 200,
        sent=sent,
        errors=errors,
        actions=tuple(Action),
        labels={action.value: action.label for action in Action},
        entries=entries[:ON_A_PAGE],
        number=number,
        has_more=len(entries) > ON_A_PAGE,
    )


@blueprint.post("/admin/audit.csv")
@administrator
async def export() -> Response:
    """All that fits the filter, the oldest first. Raises InvalidInput."""
    form = await read_form()
    sent = {field: form.get(field, "") for field in FIELDS}
    wanted = _filter(sent)
    log = services().audit
    await log.record(Action.EXPORTED, actor(), note=", ".join(f"{k}: {v}" for k, v in sent.items() if v))
    response = Response(
        _csv(log.every(wanted)),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": "attachment; filename=certbob-audit.csv"},
    )
    response.timeout = None  # a long log takes longer than a page, over a slow line
    return response


def _filter(sent: dict[str, str]) -> AuditFilter:
    """What is asked for, as FIELDS. Days are those of the server's time zone. Raises InvalidInput."""
    action = sent["action"]
    errors = {}
    days: dict[str, datetime | None] = {}
    if action and action not in tuple(Action):
        errors["action"] = "Choose one of the list."
    for field, more in (("since", timedelta(0)), ("until", timedelta(days=1))):
        try:
            days[field] = _midnight(sent[field], more)
        except (ValueError, OverflowError):
            errors[field] = "Enter a day like 2026-12-31."
    if errors:
        raise InvalidInput(errors)
    return AuditFilter(
        words=sent["q"].strip()[:MAX_WORDS],
        action=action or None,
        since=days["since"],
        until=days["until"],
    )


def _midnight(text: str, more: timedelta) -> datetime | None:
    if not text:
        return None
    return datetime.combine(date.fromisoformat(text) + more, time()).astimezone(UTC)


async def _csv(entries: AsyncIterator[AuditEntry]) -> AsyncIterator[str]:
    """In large pieces: each one costs everybody else a moment."""
    piece = io.StringIO()
    writer = csv.writer(piece, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    async for entry in entries:
        writer.writerow(map(_literal, _facts(entry)))
        if piece.tell() > PIECE:
            yield piece.getvalue()
            piece.seek(0)
            piece.truncate()
    yield piece.getvalue()


def _facts(entry: AuditEntry) -> list[str]:
    """In the order of COLUMNS."""
    actor, origin = entry.actor, entry.actor.origin
    return [
        str(entry.number),
        entry.at.isoformat(),
        entry.action,
        actor.door,
        actor.account,
        actor.name,
        origin.address,
        origin.reference,
        entry.subject or "",
        entry.name or "",
        entry.serial or "",
        entry.note,
        entry.hash,
    ]


def _literal(fact: str) -> str:
    """So that no spreadsheet takes what somebody called a device for a formula."""
    return f"'{fact}" if fact.startswith(("=", "+", "-", "@", "\t", "\r")) and fact != "-" else fact
