"""The audit log as administrators see it, and take it away."""

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from certbob.audit import Action
from certbob.ports import THE_SERVICE, Actor
from tests.support.web import ADA, BERT, Answer, Client, Site, StillClock
from tests.web.test_admin import BOSS, have, open_office


@pytest.fixture
async def office(data_dir: Path, clock: StillClock) -> AsyncIterator[Site]:
    async with open_office(data_dir, clock) as opened:
        yield opened


async def told(boss: Client, query: str = "") -> list[tuple[str, str]]:
    """What happened, and to whom, the newest first."""
    page = (await boss.get(f"/admin/audit?{query}")).page
    entries = page.all("ol[@class='log']/li")
    return [
        ("".join(li.findall("h2")[0].itertext()), " ".join(" ".join(li.findall("dl")[0].itertext()).split()))
        for li in entries
    ]


async def save(boss: Client, **sent: str) -> Answer:
    return await boss.post("/admin/audit.csv", {"form_token": await boss.form_token(), **sent})


async def test_who_did_what_is_told(office: Site, clock: StillClock) -> None:
    await office.signed_in(ADA)
    await have(office, ADA, "Work laptop")
    (serial,) = office.ledger("serial")
    clock.advance(hours=1)
    boss = await office.signed_in(BOSS)
    page = (await boss.get(f"/certificates/{serial}/revoke")).page
    await boss.submit(page.form(f"/certificates/{serial}/revoke"), reason="lost")

    entries = await told(boss)

    assert [action for action, _ in entries] == [
        "Certificate revoked",
        "Signed in",
        "Certificate issued",
        "Signed in",
    ]
    revoked, boss_came, issued, ada_came = (facts for _, facts in entries)
    assert "Who Grace Hopper, local account" in revoked
    assert "Whose Ada Lovelace" in revoked
    assert "Work laptop: lost" in revoked
    assert serial in revoked
    assert "192.0.2.7, reference " in revoked
    assert "Who Ada Lovelace, local account" in issued
    assert "as an administrator" in boss_came
    assert "as an administrator" not in ada_came
    ada = await office.signed_in(ADA)
    assert (await ada.get("/admin/audit")).status == 404
    assert (await office.services.audit.verify()).entries == 5


async def test_what_is_asked_for_is_found(office: Site, clock: StillClock) -> None:
    await have(office, ADA, "Work laptop")
    first = clock.now().astimezone().date()
    clock.advance(days=2)
    await have(office, BERT, "Tablet")
    second = clock.now().astimezone().date()
    boss = await office.signed_in(BOSS)

    assert len(await told(boss, "action=issued")) == 2
    assert len(await told(boss, "action=issued&q=TABLET")) == 1
    assert len(await told(boss, f"action=issued&until={first}")) == 1
    assert len(await told(boss, f"action=issued&since={second}&until={second}")) == 1
    assert await told(boss, f"since={first}&until={first}&q=bert") == []
    assert "Nothing fits" in (await boss.get("/admin/audit?q=nobody")).text


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=yesterday", "since"),
        ("until=2026-13-01", "until"),
        ("until=9999-12-31", "until"),
        ("since=0001-01-01", "since"),
        ("action=nonsense", "action"),
        ("since=%00", "since"),
    ],
)
async def test_a_filter_that_is_none_is_told(office: Site, query: str, field: str) -> None:
    boss = await office.signed_in(BOSS)

    answer = await boss.get(f"/admin/audit?{query}")
    file = await save(boss, **dict(parse_qsl(query)))

    assert (answer.status, file.status) == (422, 422)
    assert f'id="{field}-error"' in answer.text
    assert file.headers["Content-Type"].startswith("text/html")


async def test_the_log_has_pages(office: Site) -> None:
    for _ in range(70):
        await office.services.audit.record(Action.ISSUED, THE_SERVICE)
    boss = await office.signed_in(BOSS)

    pages = [await told(boss, f"action=issued&page={page}") for page in (1, 2, 3)]

    assert [len(page) for page in pages] == [50, 20, 0]
    links = [a.get("href", "") for a in (await boss.get("/admin/audit?action=issued")).page.all("nav/a")]
    assert "/admin/audit?q=&action=issued&since=&until=&page=2" in links


async def test_it_is_saved_for_a_spreadsheet(office: Site) -> None:
    await have(office, ADA, "=1+1 laptop", "-2", 'Größe, "XL"')
    boss = await office.signed_in(BOSS)

    answer = await save(boss, action="issued")

    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["Content-Disposition"]
    head, *rows = csv.reader(io.StringIO(answer.text))
    assert head[:4] == ["number", "time", "action", "door"]
    notes = [row[head.index("note")] for row in rows]
    assert notes == ["'=1+1 laptop, client", "'-2, client", 'Größe, "XL", client']
    assert {len(row) for row in rows} == {len(head)}
    assert [row[0] for row in rows] == ["1", "2", "3"]
    action, facts = (await told(boss))[0]
    assert (action, "action: issued" in facts) == ("Audit log exported", True)
    assert (await office.services.audit.verify()).entries == 5


async def test_looking_is_not_saving(office: Site) -> None:
    """Neither a link elsewhere nor a robot writes an entry in an administrator's name."""
    boss = await office.signed_in(BOSS)
    for status in ((await boss.get("/admin/audit.csv")).status, (await boss.head("/admin/audit.csv")).status):
        assert status == 405
    assert (await boss.post("/admin/audit.csv", {"form_token": "wrong"})).status == 403
    assert (await office.services.audit.verify()).entries == 1


async def test_a_long_log_is_saved_whole(office: Site) -> None:
    log = office.services.audit
    for number in range(1234):
        await log.record(Action.SIGNED_IN, Actor("local", str(number), str(number)))
    boss = await office.signed_in(BOSS)

    rows = list(csv.DictReader(io.StringIO((await save(boss)).text)))

    assert [row["account"] for row in rows[:1234]] == [str(number) for number in range(1234)]


async def test_no_secret_is_in_it(office: Site) -> None:
    token = await office.mint(ADA, device="Laptop")
    passphrase = office.services.grants.passphrase(token)
    await office.program().get(f"/issue?token={token}")
    boss = await office.signed_in(BOSS)

    text = (await save(boss)).text

    assert "Laptop" in text
    cookies = boss.cookies.values()
    for secret in (token, passphrase, token.rsplit(".", 1)[1], BOSS.password, *cookies):
        assert secret not in text
