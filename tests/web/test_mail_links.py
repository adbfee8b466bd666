"""Mailed links: opening one spends nothing, and nobody but its owner gets anything from it."""

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest

from certbob.config import SMTP
from certbob.errors import MailProblem, MailRefused, MailUnavailable
from tests.support.mail_server import SENDER
from tests.support.post import FakeMailer
from tests.support.web import ADA, BERT, HTTPS_URL, Answer, Client, Site, StillClock, open_site

SETTINGS = SMTP(host="mail.example.org", sender=SENDER, attach=False)
MASKED = "a…@example.org"


@pytest.fixture
def mailer() -> FakeMailer:
    return FakeMailer()


@pytest.fixture
async def site(data_dir: Path, clock: StillClock, mailer: FakeMailer) -> AsyncIterator[Site]:
    async with open_site(data_dir, clock, smtp=SETTINGS, mailer=mailer) as opened:
        yield opened


async def asked(browser: Client, **fields: str) -> Answer:
    form = (await browser.get("/new")).page.form("/new")
    return await browser.submit(form, **{"device": "Work laptop", "delivery": "mail", **fields})


async def mailed_link(site: Site, mailer: FakeMailer) -> str:
    """As Ada finds it in her mailbox; without the site's own address."""
    assert (await asked(await site.signed_in())).status == 303
    part = mailer.letters[-1][1].get_body(("plain",))
    assert part is not None
    [link] = re.findall(rf"^{site.url}(/issue\?token=\S+)$", part.get_content(), re.MULTILINE)
    return str(link)


async def test_what_one_took_is_shown_to_nobody_else_in_that_browser(site: Site, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    browser = await site.signed_in()
    page = (await browser.get(link)).page
    assert (await browser.submit(page.forms("/issue")[0])).status == 200
    assert (await browser.get("/issue")).page.passphrase == page.passphrase
    kept = browser.cookies["certbob-take"]

    for other in (site.browser(), await site.signed_in(BERT)):
        other.cookies["certbob-take"] = kept
        assert_tells_nothing(await other.get("/issue"), site, link)


def token_of(link: str) -> str:
    return link.partition("token=")[2]


def assert_tells_nothing(answer: Answer, site: Site, link: str) -> None:
    """Neither the link goes on in it, nor what it leads to."""
    token = token_of(link)
    told = answer.text + answer.headers.get("Location", "") + answer.headers.get("HX-Redirect", "")
    assert token not in told
    assert site.services.grants.passphrase(token) not in told


async def test_a_link_is_mailed_and_the_form_is_there_again(site: Site, mailer: FakeMailer) -> None:
    ada = await site.signed_in()

    answer = await asked(ada, email="e@v.il", to="e@v.il")

    assert (answer.status, answer.headers["Location"]) == (303, "/new?link_sent=1")
    page = (await ada.get("/new?link_sent=1")).page
    assert f"A link is on its way to {MASKED}" in page.text()
    assert page.form("/new").fields["delivery"] == "download"
    [(recipient, letter)] = mailer.letters
    assert recipient == ADA.email
    assert list(letter.iter_attachments()) == []
    assert site.ledger() == []


async def test_htmx_gets_the_form_with_the_news(site: Site, mailer: FakeMailer) -> None:
    answer = await asked((await site.signed_in()).as_htmx())

    assert answer.status == 200
    assert answer.headers["HX-Push-Url"] == "/new?link_sent=1"
    assert not answer.page.all("html")
    assert "A link is on its way" in answer.page.text()
    assert len(mailer.letters) == 1


async def test_the_link_leads_to_the_public_address(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    async with open_site(data_dir, clock, smtp=SETTINGS, mailer=mailer, public_url=HTTPS_URL) as site:
        link = await mailed_link(site, mailer)
        opened = await site.browser().get(link)

    assert link.startswith("/issue?token=")  # below the address of the site, as mailed_link found it
    assert opened.cookies["__Host-certbob-link"]["secure"]


@pytest.mark.parametrize(
    ("problem", "status"), [(lambda: MailUnavailable("no"), 503), (lambda: MailRefused("no", "No."), 502)]
)
async def test_a_link_that_was_not_sent_is_told(
    site: Site, mailer: FakeMailer, problem: Callable[[], MailProblem], status: int
) -> None:
    ada = await site.signed_in()
    mailer.refusal = problem

    page, fragment = await asked(ada), await asked(ada.as_htmx())

    assert page.status == fragment.status == status
    assert problem().title in page.page.text()
    assert problem().title in fragment.page.text()
    assert not fragment.page.all("h1")
    assert "HX-Push-Url" not in fragment.headers
    assert site.ledger() == []


async def test_whoever_opens_it_signs_in_first_and_then_gets_the_file(site: Site, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    browser = site.browser()

    opened = await browser.get(link)
    assert (opened.status, opened.headers["Location"]) == (303, "/login?next=/issue")
    assert_tells_nothing(opened, site, link)
    cookie = opened.cookies["certbob-link"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert cookie["max-age"] == "3600"
    login = await browser.get("/login?next=/issue")
    assert_tells_nothing(login, site, link)
    fields = login.page.form("/login").fields
    signed_in = await browser.post("/login", fields | {"username": ADA.username, "password": ADA.password})
    assert (signed_in.status, signed_in.headers["Location"]) == (303, "/issue")
    assert_tells_nothing(signed_in, site, link)
    page = (await browser.follow("/issue")).page

    assert page.text("h1") == "Your certificate for Work laptop"
    assert page.passphrase == site.services.grants.passphrase(token_of(link))
    assert all("data-autostart" not in form.attributes for form in page.forms("/issue"))
    assert site.ledger() == []
    file = await browser.submit(page.form("/issue"))
    assert file.headers["Content-Type"] == "application/x-pkcs12"
    assert site.ledger("state, delivery, delivered") == [("issued", "download", 1)]
    assert (await browser.submit(page.form("/issue"))).body == file.body


async def test_whoever_is_signed_in_already_sees_the_page_at_once(site: Site, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    ada = await site.signed_in()

    for origin in ("same-origin", "cross-site", "none"):
        answer = await ada.get(link, {"Sec-Fetch-Site": origin})
        assert answer.status == 200
        assert answer.page.passphrase
        assert all("data-autostart" not in form.attributes for form in answer.page.forms("/issue"))
    assert site.ledger() == []


async def test_a_link_in_next_is_dropped(site: Site, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)

    page = (await site.browser().get(f"/login?{urlencode({'next': link})}")).page

    assert page.form("/login").fields["next"] == "/issue"


async def test_somebody_else_gets_nothing_from_it(site: Site, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    bert, later = await site.signed_in(BERT), site.browser()
    await later.get(link)
    await later.sign_in(BERT, next="/issue")

    answers = [
        await bert.get(link),
        await bert.post("/issue", {"token": token_of(link)}),
        await bert.post("/issue", {"token": token_of(link), "delivery": "mail"}),
        await bert.as_htmx().post("/issue", {"token": token_of(link)}),
        await bert.get(link, {"Accept": "*/*"}),
        await later.get("/issue"),
    ]

    for answer in answers:
        assert answer.status == 403
        assert "for somebody else" in answer.text
        assert "Ada" not in answer.text
        assert_tells_nothing(answer, site, link)
    assert site.ledger() == []
    assert len(mailer.letters) == 1
    assert (await (await site.signed_in()).post("/issue", {"token": token_of(link)})).status == 200


async def test_without_a_sign_in_nobody_redeems_it(site: Site, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    form = {"token": token_of(link)}

    for answer in (
        await site.program().get(link),
        await site.program().head(link),
        await site.browser().head(link),
        await site.program().get(link, {"Accept": None}),
        await site.program(User_Agent="Mattermost-Bot/1.1").get(link),
        await site.program(User_Agent="Microsoft Office Mail Scanner").get(link, {"Purpose": "prefetch"}),
        await site.program().get(f"{link}&older=1&format=pem"),
    ):
        assert answer.status == 303
        assert answer.headers["Location"] == "/login?next=/issue"
        assert_tells_nothing(answer, site, link)
    for client in (site.program(), site.browser()):
        answer = await client.post("/issue", form)
        assert answer.status == 401
        assert_tells_nothing(answer, site, link)
    answer = await site.browser().as_htmx().post("/issue", form)
    assert (answer.status, answer.headers["HX-Redirect"]) == (401, "/login?next=/issue")
    assert site.ledger() == []


async def test_a_program_with_somebodys_session_gets_the_page_and_not_the_file(
    site: Site, mailer: FakeMailer
) -> None:
    link = await mailed_link(site, mailer)
    program = site.program()
    program.cookies = (await site.signed_in()).cookies

    answer = await program.get(link)

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert site.ledger() == []


async def test_a_link_lives_for_an_hour(site: Site, clock: StillClock, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    early, late = site.browser(), site.browser()
    clock.advance(minutes=59, seconds=59)
    await early.get(link)
    await early.sign_in(ADA)
    assert (await early.get("/issue")).page.passphrase

    clock.advance(seconds=1)
    await late.get(link)
    await late.sign_in(ADA)

    for answer in (
        await early.get("/issue"),
        await late.get("/issue"),
        await late.get(link),
        await late.post("/issue", {"token": token_of(link)}),
    ):
        assert answer.status == 410
        assert_tells_nothing(answer, site, link)
    assert site.ledger() == []


async def test_a_link_works_once(site: Site, clock: StillClock, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    first, second = await site.signed_in(), await site.signed_in()
    assert (await first.post("/issue", {"token": token_of(link)})).status == 200

    for answer in (await second.get(link), await second.post("/issue", {"token": token_of(link)})):
        assert answer.status == 409
        assert_tells_nothing(answer, site, link)
    assert site.ledger() == ["issued"]


async def test_a_link_is_never_answered_by_a_mail(site: Site, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    ada = await site.signed_in()

    answer = await ada.post("/issue", {"token": token_of(link), "delivery": "mail"})

    assert answer.status == 400
    assert len(mailer.letters) == 1
    assert site.ledger() == []


async def test_signing_out_forgets_the_link(site: Site, mailer: FakeMailer) -> None:
    link = await mailed_link(site, mailer)
    browser = site.browser()
    await browser.get(link)
    await browser.sign_in(ADA)
    await browser.post("/logout", {"form_token": await browser.form_token()})

    assert "certbob-link" not in browser.cookies
    await browser.sign_in(ADA)
    assert (await browser.get("/issue")).status == 410


async def test_a_page_that_was_open_for_too_long_is_found_again_after_the_sign_in(
    site: Site, clock: StillClock, mailer: FakeMailer
) -> None:
    ada = await site.signed_in()
    link = await mailed_link(site, mailer)
    form = (await ada.get(link)).page.form("/issue")
    clock.advance(minutes=16)

    late = await ada.submit(form)
    assert late.status == 401
    fields = late.page.form("/login").fields
    answer = await ada.post("/login", fields | {"username": ADA.username, "password": ADA.password})

    assert answer.headers["Location"] == "/issue"
    assert (await ada.get("/issue")).page.passphrase
