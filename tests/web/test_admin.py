"""What administrators can do, and nobody else."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from certbob.auth.local import hash_password
from certbob.bootstrap import ADMIN
from certbob.config import OIDC
from certbob.errors import CAUnavailable
from certbob.store.people import SqlPeople
from certbob.store.sqlite import Database
from tests.support.web import ADA, BERT, Client, FakeCA, Person, Site, StillClock, open_site, routes

BOSS = Person("boss", "a password for everything", "Grace Hopper", groups=("pki-admins",))
ADMINISTRATION = OIDC(admin_groups=("pki-admins",))


@asynccontextmanager
async def open_office(
    data_dir: Path, clock: StillClock, ca: FakeCA | None = None, *, admins: bool = True
) -> AsyncIterator[Site]:
    oidc = ADMINISTRATION if admins else OIDC()
    async with open_site(data_dir, clock, ca=ca, people=(ADA, BERT, BOSS), oidc=oidc) as site:
        yield site


@pytest.fixture
async def office(data_dir: Path, clock: StillClock) -> AsyncIterator[Site]:
    async with open_office(data_dir, clock) as opened:
        yield opened


async def have(site: Site, person: Person, *devices: str) -> None:
    for device in devices:
        await site.program().get(f"/issue?token={await site.mint(person, device=device)}")


async def found(boss: Client, words: str = "", page: str = "1") -> list[str]:
    answer = await boss.get(f"/admin?q={words}&page={page}")
    assert answer.status == 200
    return [" ".join("".join(each.itertext()).split()) for each in answer.page.all("article/h2")]


async def test_administrators_find_everybodys_certificates(office: Site) -> None:
    await have(office, ADA, "Work laptop", "Phone")
    await have(office, BERT, "Tablet")
    boss = await office.signed_in(BOSS)

    assert await found(boss) == ["Bert Becker, Tablet", "Ada Lovelace, Phone", "Ada Lovelace, Work laptop"]
    assert await found(boss, "ADA") == ["Ada Lovelace, Phone", "Ada Lovelace, Work laptop"]
    assert await found(boss, "ada%40example.org") == await found(boss, "ada")
    assert await found(boss, "tab") == ["Bert Becker, Tablet"]
    assert await found(boss, office.ledger("serial")[1]) == ["Ada Lovelace, Phone"]
    for nothing in ("%25", "_", "%27%20OR%201=1%20--", "!", "x" * 300):
        assert await found(boss, nothing) == []
    assert len((await boss.get("/admin")).page.all("header//nav/a")) == 3


@pytest.mark.parametrize(
    ("page", "count"), [("1", 50), ("2", 10), ("3", 0), ("0", 50), ("x", 50), ("-1", 50)]
)
async def test_the_list_has_pages(office: Site, page: str, count: int) -> None:
    boss = await office.signed_in(BOSS)
    for number in range(60):
        token = await office.mint(Person(f"p{number}", "", f"Person {number}"), device="Laptop")
        await office.services.issuance.issue(token)

    assert len(await found(boss, page=page)) == count


async def test_nobody_else_gets_any_of_it(office: Site) -> None:
    await have(office, ADA, "Work laptop")
    subject, serial = office.ledger("subject, serial")[0]
    bert = await office.signed_in(BERT)
    form = {"form_token": await bert.form_token(), "reason": "lost"}
    before = office.ledger("revoked_at")

    refused = 0
    for path in {*routes(office.app, "GET"), *routes(office.app, "POST")}:
        address = path.replace("<subject>", subject).replace("<serial>", serial).replace("<entry>", "1")
        if path.startswith("/admin") or "<serial>" in path:
            answers = {(await bert.get(address)).status, (await bert.post(address, form)).status}
            assert answers <= {404, 405}, path
            assert (
                (await office.browser().get(address)).headers.get("Location", "/login").startswith("/login")
            )
            refused += 1
    assert refused >= 11
    assert office.ledger("revoked_at") == before == [None]
    assert await office.services.pause.state() is None
    assert "/admin" not in (await bert.get("/certificates")).text


async def test_an_administrator_revokes_anybodys_certificate(office: Site) -> None:
    await have(office, ADA, "Work laptop")
    boss = await office.signed_in(BOSS)
    (link,) = [
        a.get("href", "")
        for a in (await boss.get("/admin")).page.all("article//a")
        if "revoke" in a.get("href", "")
    ]

    page = (await boss.get(link)).page
    assert "Ada Lovelace" in page.text("main")
    answer = await boss.submit(page.form(link), reason="lost")

    assert answer.status == 303
    assert office.ledger("revoked_at IS NOT NULL") == [1]


async def test_everything_of_a_person_is_revoked_at_once(office: Site, clock: StillClock) -> None:
    await have(office, ADA, "Work laptop", "Phone", "Tablet")
    await have(office, BERT, "Laptop")
    boss = await office.signed_in(BOSS)
    subject = office.ledger("subject")[0]
    page = (await boss.get(f"/admin/people/{subject}")).page
    assert "Revoke all 3" in page.text("main")

    assert (await boss.submit(page.form(f"/admin/people/{subject}"), reason="")).status == 422
    answer = await boss.submit(page.form(f"/admin/people/{subject}"), reason="other")

    assert "3 revoked." in answer.page.text("main")
    assert office.ledger("revoked_at IS NOT NULL") == [1, 1, 1, 0]
    assert "no certificate that still works" in (await boss.get(f"/admin/people/{subject}")).page.text("main")


async def test_what_fails_does_not_stop_the_others(data_dir: Path, clock: StillClock) -> None:
    class Revoking(FakeCA):
        refuses: int | None = None

        async def revoke(self, serial: int, reason_code: int) -> None:
            if serial == self.refuses:
                raise CAUnavailable("away")

    ca = Revoking(data_dir, clock)
    async with open_office(data_dir, clock, ca) as office:
        await have(office, ADA, "Work laptop", "Phone", "Tablet")
        boss = await office.signed_in(BOSS)
        subject, _ = office.ledger("subject, serial")[0]
        ca.refuses = int(office.ledger("serial")[1], 16)
        page = (await boss.get(f"/admin/people/{subject}")).page

        answer = await boss.submit(page.form(f"/admin/people/{subject}"), reason="other")

        assert "2 revoked. 1 could not be" in answer.page.text("main")
        assert office.ledger("revoked_at IS NOT NULL") == [1, 0, 1]


@pytest.mark.parametrize("subject", ["nobody", "%00", "x" * 200, "..%2f..", "' OR 1=1"])
async def test_somebody_who_is_not_known_is_no_page(office: Site, subject: str) -> None:
    boss = await office.signed_in(BOSS)

    assert (await boss.get(f"/admin/people/{subject}")).status in (400, 404)


async def test_who_is_no_administrator_any_more_loses_it_at_once(
    office: Site, data_dir: Path, clock: StillClock
) -> None:
    boss = await office.signed_in(BOSS)

    async with open_office(data_dir, clock, admins=False) as changed:
        again = changed.browser()
        again.cookies = boss.cookies

        assert (await again.get("/certificates")).status == 200
        assert (await again.get("/admin")).status == 404


async def test_the_account_that_certbob_made_is_an_administrator(data_dir: Path, clock: StillClock) -> None:
    """Until others are configured: it is there for whoever runs the service."""
    async with open_site(data_dir, clock, people=()):
        pass
    database = await Database.open(data_dir / "certbob.sqlite3")
    await SqlPeople(database).add_account(ADMIN, hash_password("made at the start"))
    await database.close()
    made = Person(ADMIN, "made at the start", ADMIN)

    async with open_site(data_dir, clock, people=()) as site:
        assert (await (await site.signed_in(made)).get("/admin")).status == 200
    async with open_site(data_dir, clock, people=(made, ADA)) as site:
        assert (await (await site.signed_in(made)).get("/admin")).status == 404


async def test_the_first_page_has_numbers(office: Site, clock: StillClock) -> None:
    await have(office, ADA, "Work laptop", "Phone")
    clock.advance(days=80)
    await have(office, BERT, "Tablet")
    boss = await office.signed_in(BOSS)

    page = (await boss.get("/admin")).page

    told = [" ".join(" ".join(div.itertext()).split()) for div in page.all("dl[@class='numbers']/div")]
    assert told == ["Working now 3", "Ending within 14 days 2", "Issued in 30 days, local accounts 1"]
    expiring = (await boss.get("/admin/expiring")).page
    assert [" ".join("".join(h.itertext()).split()) for h in expiring.all("article/h2")] == [
        "Ada Lovelace, Work laptop",
        "Ada Lovelace, Phone",
    ]
    assert (await boss.get("/admin?q=ada")).page.all("dl[@class='numbers']") == []


async def test_issuing_is_stopped_and_goes_on(office: Site) -> None:
    boss, ada = await office.signed_in(BOSS), await office.signed_in()
    form_token = await ada.form_token()
    page = (await boss.get("/admin/pause")).page
    note = "Moving <b>until</b> two."
    assert (await boss.submit(page.form("/admin/pause"), note=note)).headers["Location"] == "/admin/pause"

    assert "Moving &lt;b&gt;until&lt;/b&gt; two." in (await boss.get("/admin/pause")).text
    assert "Issuing is stopped" in (await boss.get("/admin")).text
    options = await ada.get("/new")
    assert "Moving &lt;b&gt;until&lt;/b&gt; two." in options.text
    assert options.page.all("main//form") == []
    form = {"form_token": form_token, "platform": "windows", "device": "L", "profile": "client"}
    refused = await ada.post("/new", {**form, "validity": "90d", "delivery": "download"})
    assert (refused.status, "Issuing is stopped" in refused.text) == (503, True)
    token = await office.mint(ADA)
    assert (await office.program().get(f"/issue?token={token}")).status == 503
    assert (await ada.get("/certificates")).status == 200

    page = (await boss.get("/admin/pause")).page
    await boss.submit(page.form("/admin/resume"))

    assert (await office.program().get(f"/issue?token={token}")).status == 200
    assert "Issuing is stopped" not in (await ada.get("/new")).text


@pytest.mark.parametrize("note", ["x" * 201, "a\x00b", "a\u202eb"])
async def test_a_note_that_is_none_is_told(office: Site, note: str) -> None:
    boss = await office.signed_in(BOSS)
    page = (await boss.get("/admin/pause")).page

    answer = await boss.submit(page.form("/admin/pause"), note=note)

    assert answer.status == 422
    assert "note-error" in answer.text
    assert await office.services.pause.state() is None


async def test_an_open_question_is_shown_and_settled(office: Site) -> None:
    await have(office, ADA, "Work laptop")
    (entry,) = office.ledger("id")
    with closing(sqlite3.connect(office.settings.server.data_dir / "certbob.sqlite3")) as database, database:
        database.execute("UPDATE certificates SET state = 'uncertain', note = 'no <answer> in time'")
    boss = await office.signed_in(BOSS)

    assert "1 to look into" in " ".join((await boss.get("/admin")).page.text("main").split())
    page = (await boss.get("/admin/questions")).page
    assert "no <answer> in time" in page.text("main")
    for nonsense in ("0", "-1", "x", str(entry + 1), "9" * 30, "1e1"):
        form = {"form_token": await boss.form_token()}
        assert (await boss.post(f"/admin/questions/{nonsense}", form)).status == 404
    assert (await boss.submit(page.form(f"/admin/questions/{entry}"))).status == 303

    assert office.ledger("state") == ["settled"]
    assert "nothing to look into" in (await boss.get("/admin/questions")).text


async def test_who_leaves_takes_no_open_link_along(office: Site) -> None:
    await have(office, ADA, "Work laptop")
    subject = office.ledger("subject")[0]
    token, berts = await office.mint(ADA, device="Phone"), await office.mint(BERT)
    boss = await office.signed_in(BOSS)
    page = (await boss.get(f"/admin/people/{subject}")).page

    await boss.submit(page.form(f"/admin/people/{subject}"), reason="other")

    assert (await office.program().get(f"/issue?token={token}")).status == 401
    assert (await office.program().get(f"/issue?token={berts}")).status == 200
    assert office.ledger("device") == ["Work laptop", "Work laptop"]


async def test_a_link_of_an_account_that_is_gone_issues_nothing(data_dir: Path, clock: StillClock) -> None:
    async with open_office(data_dir, clock) as office:
        token = await office.mint(BERT)
    async with open_site(data_dir, clock, people=(ADA,)) as site:
        for browser in (site.program(), site.browser()):
            answer = await browser.get(f"/issue?token={token}")
            assert (answer.status, "no longer known here" in answer.text) == (403, True)
        assert site.ledger() == []
