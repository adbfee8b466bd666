"""My certificates, and taking one back: signed in, or by a link out of a chat."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

from certbob.config import DEFAULT_PROFILE, Limits
from certbob.devices import Device, Platform
from certbob.errors import CAUnavailable
from certbob.identity import Door, Identity
from tests.support.core import DATABASE, dump
from tests.support.html import Page
from tests.support.web import ADA, BERT, Answer, Client, FakeCA, Person, Site, StillClock, open_site
from tests.web.test_security import CSP

REVOKED = "revoked_at IS NOT NULL, revocation_reason"
OPEN = [(0, None)]  # one certificate, not revoked


class RevokingCA(FakeCA):
    """Implements `ports.Revoker`, too. `problem` counts there as well."""

    def __init__(self, data_dir: Path, clock: StillClock) -> None:
        super().__init__(data_dir, clock)
        self.revoked: list[tuple[int, int]] = []

    async def revoke(self, serial: int, reason_code: int) -> None:
        if self.problem is not None:
            raise self.problem
        self.revoked.append((serial, reason_code))


@pytest.fixture
def ca(data_dir: Path, clock: StillClock) -> RevokingCA:
    return RevokingCA(data_dir, clock)


@pytest.fixture
async def site(data_dir: Path, clock: StillClock, ca: RevokingCA) -> AsyncIterator[Site]:
    async with open_again(data_dir, clock, ca) as opened:
        yield opened


def open_again(data_dir: Path, clock: StillClock, ca: RevokingCA) -> AbstractAsyncContextManager[Site]:
    """A process over the same folder."""
    return open_site(data_dir, clock, ca=ca, limits=Limits(certificates_per_hour=100))


async def issued(site: Site, device: str = "Work laptop", *, of: Person = ADA, **validity: float) -> str:
    """The serial number of a fresh certificate, as it stands in addresses."""
    token = await site.services.grants.mint(
        await identity(site, of),
        DEFAULT_PROFILE.id,
        Device(Platform.LINUX, device, older=False),
        timedelta(**validity or {"days": 90}),
    )
    return f"{(await site.services.issuance.issue(token)).leaf.serial_number:x}"


async def identity(site: Site, person: Person) -> Identity:
    subject = await site.services.people.subject_for(Door.LOCAL, person.username)
    return Identity(subject, person.name, person.email, person.groups, Door.LOCAL, person.username)


async def link_to(site: Site, serial: str, of: Person = ADA) -> str:
    """As a chat gives it to the owner; without the site's own address."""
    found = await site.services.ledger.find(int(serial, 16), (await identity(site, of)).subject)
    assert found is not None
    return f"{address(serial)}?token={site.services.revocation.link_token(found)}"


def address(serial: str) -> str:
    return f"/certificates/{serial}/revoke"


def token_of(link: str) -> str:
    return link.partition("token=")[2]


def listed(page: Page) -> list[tuple[str, str]]:
    """Device and status of each certificate, from top to bottom."""
    return [
        ("".join(card.find("h2").itertext()), "".join(card.find("dl/dd").itertext()))  # type: ignore[union-attr]
        for card in page.all("article")
    ]


def devices(page: Page) -> list[str]:
    return [device for device, _ in listed(page)]


async def revoke(client: Client, serial: str, **fields: str) -> Answer:
    page = (await client.get(address(serial))).page
    return await client.submit(page.form(address(serial)), **{"reason": "lost", **fields})


def contents(site: Site) -> str:
    """Every row of every table."""
    return dump(site.settings.server.data_dir / DATABASE)


# The list


async def test_without_any_there_is_a_way_to_get_one(site: Site) -> None:
    page = (await (await site.signed_in()).get("/certificates")).page

    assert page.text("h1") == "My certificates"
    assert "No certificates yet." in page.text()
    assert "/new" in [link.get("href") for link in page.all("a")]
    assert listed(page) == []


async def test_the_active_ones_come_first_and_of_them_the_one_that_ends_soonest(
    site: Site, clock: StillClock
) -> None:
    serials = {}
    for device, days in (
        ("Long", 80),
        ("Short", 30),
        ("Lost", 60),
        ("Over", 1),
        ("Longest", 90),
        ("Past", 2),
    ):
        serials[device] = await issued(site, device, days=days)
    clock.advance(days=5)
    ada = await site.signed_in()
    await revoke(ada, serials["Lost"])

    page = (await ada.get("/certificates")).page

    assert devices(page) == ["Short", "Long", "Longest", "Lost", "Past", "Over"]
    assert [link.get("href") for link in page.all("a") if "/revoke" in link.get("href", "")] == [
        address(serials[device]) for device in ("Short", "Long", "Longest")
    ]


@pytest.mark.parametrize(
    ("left", "status"),
    [
        ({"days": 14}, "Active"),
        ({"days": 14, "seconds": -1}, "Expires in 13 days"),
        ({"days": 12, "hours": 23}, "Expires in 12 days"),
        ({"days": 12}, "Expires in 12 days"),
        ({"days": 1}, "Expires in 1 day"),
        ({"days": 1, "seconds": -1}, "Expires in 23 hours"),
        ({"hours": 1}, "Expires in 1 hour"),
        ({"seconds": 1}, "Expires within the hour"),
        ({"seconds": 0}, "Expired"),
        ({"days": -10}, "Expired"),
    ],
    ids=str,
)
async def test_the_status_is_told_in_words(
    site: Site, clock: StillClock, left: dict[str, float], status: str
) -> None:
    await issued(site, days=30)
    [end] = site.ledger("not_after")
    clock.advance(seconds=end - clock.now().timestamp() - timedelta(**left).total_seconds())

    page = (await (await site.signed_in()).get("/certificates")).page

    assert listed(page) == [("Work laptop", status)]


@pytest.mark.parametrize(
    ("delivered", "status"), [(True, "Active"), (None, "Active"), (False, "Not collected")]
)
async def test_a_file_that_nobody_got_is_not_collected(
    site: Site, delivered: bool | None, status: str
) -> None:
    await issued(site)
    await site.services.ledger.delivered(site.ledger("id")[0], delivered)

    page = (await (await site.signed_in()).get("/certificates")).page

    assert listed(page) == [("Work laptop", status)]
    assert len([link for link in page.all("a") if "/revoke" in link.get("href", "")]) == 1


async def test_revoked_is_said_before_anything_else(site: Site, clock: StillClock) -> None:
    serial = await issued(site, days=1)
    await site.services.ledger.delivered(site.ledger("id")[0], False)
    await revoke(await site.signed_in(), serial)
    clock.advance(days=2)

    assert listed((await (await site.signed_in()).get("/certificates")).page) == [("Work laptop", "Revoked")]


async def test_the_details_are_those_of_the_certificate(site: Site) -> None:
    serial = await issued(site, "Tom & Jerry <b>")
    [fingerprint] = site.ledger("fingerprint")

    page = (await (await site.signed_in()).get("/certificates")).page

    details = page.text("article")
    assert [code.text for code in page.all("code")] == [serial, fingerprint]
    for told in ("Tom & Jerry <b>", "Ada Lovelace", "on the web", DEFAULT_PROFILE.label):
        assert told in details


async def test_what_was_not_issued_is_not_shown(site: Site, ca: RevokingCA) -> None:
    ca.signing_problem = CAUnavailable("away")
    with pytest.raises(CAUnavailable):
        await issued(site)

    assert site.ledger() == ["failed"]
    assert listed((await (await site.signed_in()).get("/certificates")).page) == []


async def test_there_are_25_on_a_page(site: Site) -> None:
    for number in range(51):
        await issued(site, f"Device {number}", days=10 + number)
    ada = await site.signed_in()

    pages = [(await ada.get(f"/certificates?page={number}")).page for number in (1, 2, 3, 4)]

    assert [len(listed(page)) for page in pages] == [25, 25, 1, 0]
    assert [device for page in pages for device in devices(page)] == [f"Device {n}" for n in range(51)]
    assert [[link.get("href") for link in page.all("nav[@aria-label='More']/a")] for page in pages] == [
        ["/certificates?page=2"],
        ["/certificates?page=1", "/certificates?page=3"],
        ["/certificates?page=2"],
        ["/certificates?page=3"],
    ]
    assert "There are no more." in pages[3].text()


@pytest.mark.parametrize("number", [25, 26])
async def test_a_further_page_is_offered_only_where_there_is_one(site: Site, number: int) -> None:
    for _ in range(number):
        await issued(site)

    page = (await (await site.signed_in()).get("/certificates")).page

    assert len(listed(page)) == 25
    assert len(page.all("nav[@aria-label='More']")) == number - 25


@pytest.mark.parametrize(
    "query",
    [
        "page=",
        "page=0",
        "page=00",
        "page=01",
        "page=-1",
        "page=%2B1",
        "page=1.0",
        "page=1e1",
        "page=0x1",
        "page=x",
        "page=1%0A",
        "page=%201",
        "page=1%00",
        "page=%D9%A1",
        "page=%EF%BC%92",
        "page=%FF",
        "page=10000",
        "page=" + "9" * 4000,
        "page=1&page=2",
        "page[]=2",
        "size=1000&limit=1000&offset=1&subject=x",
    ],
)
async def test_an_odd_page_is_the_first_one(site: Site, query: str) -> None:
    await issued(site)

    answer = await (await site.signed_in()).get(f"/certificates?{query}")

    assert answer.status == 200
    assert devices(answer.page) == ["Work laptop"]


async def test_the_last_page_that_can_be_named_is_empty(site: Site) -> None:
    await issued(site)

    answer = await (await site.signed_in()).get("/certificates?page=9999")

    assert answer.status == 200
    assert listed(answer.page) == []


# Who may see and do what


async def test_nobody_sees_anything_of_somebody_else(site: Site) -> None:
    serial = await issued(site, "Adas device")
    ada, bert = await site.signed_in(), await site.signed_in(BERT)
    form = {"form_token": await bert.form_token(), "reason": "lost"}

    answers = [
        await bert.get(address(serial)),
        await bert.head(address(serial)),
        await bert.as_htmx().get(address(serial)),
        await bert.post(address(serial), form),
        await bert.post(address(serial), {**form, "subject": (await identity(site, ADA)).subject}),
        await bert.post(address(serial), {"form_token": form["form_token"]}),
    ]
    nothing = await bert.get(address("abc"))

    for answer in answers:
        assert answer.status == 404
        assert "Ada" not in answer.text
    assert re.sub("Reference.*", "", answers[0].page.text()) == re.sub("Reference.*", "", nothing.page.text())
    for page in ("", "?page=2", f"?subject={(await identity(site, ADA)).subject}"):
        assert "Adas device" not in (await bert.get(f"/certificates{page}")).text
    assert site.ledger(REVOKED) == OPEN
    assert (await ada.get(address(serial))).status == 200


async def test_whoever_is_signed_out_signs_in_and_gets_back(site: Site) -> None:
    await issued(site)
    browser = site.browser()

    answer = await browser.get("/certificates?page=1")
    assert (answer.status, answer.headers["Location"]) == (303, "/login?next=/certificates")
    fields = (await browser.follow(answer.headers["Location"])).page.form("/login").fields
    signed_in = await browser.post("/login", fields | {"username": ADA.username, "password": ADA.password})

    assert (signed_in.status, signed_in.headers["Location"]) == (303, "/certificates")
    assert devices((await browser.follow("/certificates")).page) == ["Work laptop"]


async def test_signed_out_nothing_is_told_of_a_certificate(site: Site) -> None:
    serial = await issued(site)

    for path in (address(serial), address("abc")):
        page, fragment = await site.browser().get(path), await site.browser().as_htmx().get(path)
        assert (page.status, fragment.status) == (303, 401)
        assert page.headers["Location"].startswith("/login?next=/")
        assert fragment.headers["HX-Redirect"].startswith("/login?next=/")
        assert (await site.browser().post(path, {"reason": "lost"})).status == 401
    assert site.ledger(REVOKED) == OPEN


@pytest.mark.parametrize(
    "serial",
    [
        "0",
        "00",
        "1",
        "f" * 40,
        "f" * 41,
        "0" * 1000,
        "ABC",
        "0xabc",
        "-1",
        "+1",
        "1_0",
        "xyz",
        "1%20",
        "%20",
        "1%0A",
        "1%00",
        "%D9%A1",
        "a:b",
        "..",
        "'%20OR%201=1--",
    ],
)
async def test_what_is_no_serial_number_of_mine_is_nothing(site: Site, serial: str) -> None:
    real = await issued(site)
    ada = await site.signed_in()
    form = {"form_token": await ada.form_token(), "reason": "lost"}

    for answer in (
        await ada.get(address(serial)),
        await ada.post(address(serial), form),
        await ada.get(f"{address(serial)}?token={token_of(await link_to(site, real))}"),
    ):
        assert answer.status in (401, 404), answer.status  # 401: by a link for another certificate
    assert (await ada.get(address(serial))).status == 404
    assert site.ledger(REVOKED) == OPEN


# Revoking


async def test_the_page_asks_and_changes_nothing(site: Site, ca: RevokingCA) -> None:
    serial = await issued(site)
    ada = await site.signed_in()
    before = contents(site)

    page = (await ada.get(address(serial))).page

    assert page.text("h1") == "Revoke the certificate for Work laptop?"
    assert "This cannot be undone." in page.text()
    assert [field.get("value") for field in page.all("input[@name='reason']")] == [
        "lost",
        "retired",
        "replaced",
        "other",
    ]
    assert page.form(address(serial)).fields.keys() == {"form_token"}
    assert "/certificates" in [link.get("href") for link in page.all("a")]
    assert contents(site) == before
    assert ca.revoked == []


@pytest.mark.parametrize(("reason", "code"), [("lost", 1), ("retired", 5), ("replaced", 4), ("other", 0)])
async def test_it_is_revoked_for_a_reason(site: Site, ca: RevokingCA, reason: str, code: int) -> None:
    serial, other = await issued(site), await issued(site, "Phone")
    ada = await site.signed_in()

    answer = await revoke(ada, serial, reason=reason)

    assert (answer.status, answer.headers["Location"]) == (303, address(serial))
    page = (await ada.follow(answer.headers["Location"])).page
    assert page.text("h1") == "Revoked: Work laptop"
    assert "was revoked on 24 November 2026" in page.text()
    assert page.forms(address(serial)) == []
    assert site.ledger(REVOKED) == [(1, code), (0, None)]
    assert ca.revoked == [(int(serial, 16), code)]
    assert (await ada.get(address(other))).page.forms(address(other))


@pytest.mark.parametrize("reason", [None, "", "Lost", "1", "stolen", "lost ", "lost\0", "é"])
async def test_a_reason_has_to_be_chosen(site: Site, ca: RevokingCA, reason: str | None) -> None:
    serial = await issued(site)
    ada = await site.signed_in()
    form = {"form_token": await ada.form_token()} | ({} if reason is None else {"reason": reason})

    page, fragment = await ada.post(address(serial), form), await ada.as_htmx().post(address(serial), form)

    assert page.status == fragment.status == 422
    for answer in (page, fragment):
        assert answer.page.error_at("reason") == "Choose why."
        assert answer.page.form(address(serial)).fields == {"form_token": form["form_token"]}
    assert site.ledger(REVOKED) == OPEN
    assert ca.revoked == []


async def test_a_second_time_changes_nothing(site: Site, ca: RevokingCA, clock: StillClock) -> None:
    serial = await issued(site)
    ada = await site.signed_in()
    form = (await ada.get(address(serial))).page.form(address(serial))
    assert (await ada.submit(form, reason="lost")).status == 303
    before = site.ledger("revoked_at, revocation_reason")
    clock.advance(minutes=1)

    answer = await ada.submit(form, reason="other")

    assert (answer.status, answer.headers["Location"]) == (303, address(serial))
    assert site.ledger("revoked_at, revocation_reason") == before
    assert len(ca.revoked) == 1


async def test_what_is_over_needs_no_revoking(site: Site, clock: StillClock) -> None:
    serial = await issued(site, days=1)
    clock.advance(days=1)

    page = (await (await site.signed_in()).get(address(serial))).page

    assert "so there is nothing to revoke" in page.text()
    assert page.forms(address(serial)) == []


@pytest.mark.parametrize("by_link", [False, True])
async def test_an_authority_that_is_away_leaves_it_as_it_was(
    site: Site, ca: RevokingCA, by_link: bool
) -> None:
    serial = await issued(site)
    client = site.browser() if by_link else await site.signed_in()
    path = await link_to(site, serial) if by_link else address(serial)
    form = (await client.get(path)).page.form(address(serial))
    before = contents(site)
    ca.problem = CAUnavailable("canary: connection refused")

    page, fragment = [await each.submit(form, reason="lost") for each in (client, client.as_htmx())]

    assert page.status == fragment.status == 503
    for answer in (page, fragment):
        assert "The certificate could not be revoked" in answer.page.text()
        assert "the certificate still works" in answer.page.text()
        assert "canary" not in answer.text
    assert contents(site) == before
    ca.problem = None
    assert (await client.submit(form, reason="lost")).status == 303
    assert site.ledger(REVOKED) == [(1, 1)]


@pytest.mark.parametrize("token", [None, "", "x", "ü"])
async def test_the_form_needs_the_token_of_its_session(site: Site, ca: RevokingCA, token: str | None) -> None:
    serial = await issued(site)
    ada = await site.signed_in()
    form = {"reason": "lost"} | ({} if token is None else {"form_token": token})

    assert (await ada.post(address(serial), form)).status == 403
    other = await (await site.signed_in()).form_token()
    assert (await ada.post(address(serial), {"reason": "lost", "form_token": other})).status == 403
    assert site.ledger(REVOKED) == OPEN
    assert ca.revoked == []


FOREIGN: list[dict[str, str | None]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": None, "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": None, "Origin": "null"},
    {"Sec-Fetch-Site": None, "Origin": None},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_a_form_of_another_site_revokes_nothing(
    site: Site, ca: RevokingCA, headers: dict[str, str | None]
) -> None:
    serial = await issued(site)
    link = await link_to(site, serial)
    ada = await site.signed_in()
    forms = [
        {"form_token": await ada.form_token(), "reason": "lost"},
        {"token": token_of(link), "reason": "lost"},
    ]

    for form in forms:
        assert (await ada.post(address(serial), form, headers)).status == 403
    assert (await site.browser().post(address(serial), forms[1], headers)).status == 403
    assert site.ledger(REVOKED) == OPEN
    assert ca.revoked == []


async def test_what_an_address_says_is_no_form(site: Site) -> None:
    serial = await issued(site)
    ada = await site.signed_in()
    path = f"{address(serial)}?reason=lost&form_token={await ada.form_token()}"

    assert (await ada.get(path)).status == 200
    assert (await ada.post(path)).status == 403
    assert site.ledger(REVOKED) == OPEN


# By a link out of a chat


async def test_a_link_revokes_without_a_session(site: Site, ca: RevokingCA) -> None:
    serial = await issued(site)
    link = await link_to(site, serial)
    browser = site.browser()

    page = (await browser.get(link)).page
    assert page.form(address(serial)).fields == {"token": token_of(link)}
    assert "/certificates" not in [element.get("href") for element in page.all("a")]
    answer = await browser.submit(page.form(address(serial)), reason="retired")

    assert answer.status == 303
    assert (await browser.follow(answer.headers["Location"])).page.text("h1") == "Revoked: Work laptop"
    assert ca.revoked == [(int(serial, 16), 5)]
    assert browser.cookies == {}


async def test_a_link_that_was_used_shows_that_it_is_done(site: Site, ca: RevokingCA) -> None:
    serial = await issued(site)
    link = await link_to(site, serial)
    form = (await site.browser().get(link)).page.form(address(serial))
    await site.browser().submit(form, reason="lost")

    again = await site.browser().submit(form, reason="other")
    page = (await site.browser().get(link)).page

    assert again.status == 303
    assert page.text("h1") == "Revoked: Work laptop"
    assert page.forms(address(serial)) == []
    assert site.ledger(REVOKED) == [(1, 1)]
    assert len(ca.revoked) == 1


async def test_a_link_counts_whoever_is_signed_in(site: Site) -> None:
    """It says whose certificate it is for; nothing but that one opens to who follows it."""
    serial, other = await issued(site), await issued(site, "Phone")
    bert = await site.signed_in(BERT)

    page = (await bert.get(await link_to(site, serial))).page
    assert (await bert.submit(page.form(address(serial)), reason="lost")).status == 303

    assert (await bert.get(address(serial))).status == 404
    assert (await bert.get(address(other))).status == 404
    assert site.ledger(REVOKED) == [(1, 1), (0, None)]


async def test_a_link_is_good_for_ten_minutes(site: Site, clock: StillClock) -> None:
    serial = await issued(site)
    link = await link_to(site, serial)
    browser = site.browser()
    form = (await browser.get(link)).page.form(address(serial))
    clock.advance(minutes=9, seconds=59)
    assert (await browser.get(link)).status == 200

    clock.advance(seconds=1)

    for answer in (await browser.get(link), await browser.submit(form, reason="lost")):
        assert answer.status == 410
        assert "This link has expired" in answer.page.text()
        assert "Work laptop" not in answer.text
    assert site.ledger(REVOKED) == OPEN


async def test_a_link_is_for_one_certificate(site: Site) -> None:
    serial, other = await issued(site), await issued(site, "Phone")
    bert = await issued(site, "Tablet", of=BERT)
    token = token_of(await link_to(site, serial))

    for wrong in (other, bert):
        for client in (site.browser(), await site.signed_in()):
            asked = await client.get(f"{address(wrong)}?token={token}")
            done = await client.post(address(wrong), {"token": token, "reason": "lost"})
            assert asked.status == done.status == 401
            assert "This link is not valid" in asked.page.text()
    assert site.ledger(REVOKED) == [(0, None)] * 3


def other_letter(place: int) -> Callable[[str], str]:
    def changed(token: str) -> str:
        at = place % len(token)
        return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]

    return changed


MUTANTS: dict[str, tuple[Callable[[str], str], int]] = {
    "empty": (lambda token: "", 400),
    "a word": (lambda token: "x", 400),
    "cut": (lambda token: token[:-1], 401),
    "without its signature": (lambda token: token.rpartition(".")[0], 400),
    "with an empty signature": (lambda token: token.rpartition(".")[0] + ".", 401),
    "longer": (lambda token: token + "A", 401),
    "too long": (lambda token: token + "A" * 3000, 400),
    "not ASCII": (lambda token: token + "é", 400),
    "another header": (other_letter(5), 401),
    "another payload": (lambda token: other_letter(token.index(".") + 9)(token), 401),
    "another signature": (other_letter(-5), 401),
}


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.parametrize("is_signed_in", [False, True])
async def test_a_changed_link_is_refused_whoever_opens_it(site: Site, name: str, is_signed_in: bool) -> None:
    mutant, status = MUTANTS[name]
    serial = await issued(site)
    token = mutant(token_of(await link_to(site, serial)))
    client = await site.signed_in() if is_signed_in else site.browser()
    form = {"token": token, "reason": "lost", "form_token": await client.form_token() if is_signed_in else ""}

    asked = await client.get(f"{address(serial)}?{urlencode({'token': token})}")
    done = await client.post(address(serial), form)

    assert (asked.status, done.status) == (status, status)
    assert site.ledger(REVOKED) == OPEN


async def test_a_link_of_one_kind_is_none_of_the_other(site: Site) -> None:
    serial = await issued(site)
    revocation, grant = token_of(await link_to(site, serial)), await site.mint()
    browser = site.browser()

    for answer in (
        await browser.get(f"{address(serial)}?token={grant}"),
        await browser.post(address(serial), {"token": grant, "reason": "lost"}),
        await browser.get(f"/issue?token={revocation}"),
        await browser.post("/issue", {"token": revocation}),
        await site.program().get(f"/issue?token={revocation}"),
    ):
        assert answer.status == 401
        assert "This link is not valid" in answer.text
    assert site.ledger(REVOKED) == OPEN


async def test_a_link_holds_in_every_process_of_the_service_and_in_no_other(
    site: Site, data_dir: Path, clock: StillClock, ca: RevokingCA, tmp_path: Path
) -> None:
    serial = await issued(site)
    link = await link_to(site, serial)

    async with open_again(data_dir, clock, ca) as replica, open_site(tmp_path / "other", clock) as other:
        assert (await replica.browser().get(link)).status == 200
        assert (await other.browser().get(link)).status == 401


PEEKS: dict[str, tuple[str, dict[str, str | None]]] = {
    "HEAD": ("HEAD", {}),
    "Mattermost": ("GET", {"User-Agent": "Mattermost-Bot/1.1", "Accept": "image/*"}),
    "prefetch": ("GET", {"Sec-Purpose": "prefetch;prerender"}),
    "preview": ("GET", {"X-Purpose": "preview", "Purpose": "prefetch"}),
    "curl": ("GET", {"User-Agent": "curl/8.14.1", "Accept": "*/*"}),
    "link checker": ("HEAD", {"User-Agent": "Microsoft Office Mail Scanner"}),
    "another site": ("GET", {"Sec-Fetch-Site": "cross-site"}),
    "htmx": ("GET", {"HX-Request": "true"}),
}


@pytest.mark.parametrize("name", PEEKS)
async def test_looking_changes_nothing(site: Site, ca: RevokingCA, name: str) -> None:
    method, headers = PEEKS[name]
    serial = await issued(site)
    link = await link_to(site, serial)
    before = contents(site)

    for path in (link, f"{link}&reason=lost"):
        answer = await site.browser().send(method, path, headers)
        assert answer.status == 200
        assert not answer.headers.getlist("Set-Cookie")

    assert contents(site) == before
    assert ca.revoked == []
    assert (await site.browser().get(link)).page.forms(address(serial))


async def test_no_answer_may_be_kept_or_framed(site: Site, ca: RevokingCA) -> None:
    serial = await issued(site)
    link = await link_to(site, serial)
    ada = await site.signed_in()
    form = {"token": token_of(link), "reason": "lost"}
    answers = [
        await ada.get("/certificates"),
        await ada.get(address(serial)),
        await ada.get(address("abc")),
        await ada.post(address(serial), {}),
        await ada.post(address(serial), {"form_token": await ada.form_token()}),
        await site.browser().get("/certificates"),
        await site.browser().get(link),
        await site.browser().get(f"{link}x"),
        await site.browser().head(link),
    ]
    ca.problem = CAUnavailable("away")
    answers.append(await site.browser().post(address(serial), form))
    ca.problem = None
    answers.append(await site.browser().post(address(serial), form))

    assert [answer.status for answer in answers] == [200, 200, 404, 403, 422, 303, 200, 401, 200, 503, 303]
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == CSP
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_the_token_of_a_link_is_in_no_log_and_not_in_the_database(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    serial = await issued(site)
    link = await link_to(site, serial)
    browser = site.browser()

    page = (await browser.get(link)).page
    await browser.get(f"{link}x")
    await browser.submit(page.form(address(serial)), reason="lost")

    assert "certbob" in caplog.text
    for where in (caplog.text, contents(site)):
        assert token_of(link) not in where
        assert token_of(link).rpartition(".")[2] not in where
