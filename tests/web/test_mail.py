"""Files by mail: what is offered, what the page says then, and that the file can be downloaded as well."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest

from certbob.config import SMTP, Limits
from certbob.delivery import MAILS_PER_HOUR
from certbob.errors import CAUnavailable, MailProblem, MailRefused, MailUnavailable, MailUncertain
from tests.support.html import Page
from tests.support.mail_server import SENDER, hostile_mail_server
from tests.support.post import FakeMailer
from tests.support.served import serve
from tests.support.web import ADA, BERT, Answer, Client, FakeCA, Site, StillClock, open_site

SETTINGS = SMTP(host="mail.example.org", sender=SENDER)
MASKED = "a…@example.org"
Raise = Callable[[], MailProblem]


def away() -> MailProblem:
    return MailUnavailable("no route")


def refused() -> MailProblem:
    return MailRefused("550 No", "It says: 550 No such user here")


def uncertain() -> MailProblem:
    return MailUncertain("cut")


before = pytest.mark.parametrize(("problem", "status"), [(away, 503), (refused, 502)])
after = pytest.mark.parametrize(("problem", "status"), [(refused, 502), (uncertain, 504)])


@pytest.fixture
def mailer() -> FakeMailer:
    return FakeMailer()


@pytest.fixture
async def site(data_dir: Path, clock: StillClock, mailer: FakeMailer) -> AsyncIterator[Site]:
    async with open_site(data_dir, clock, smtp=SETTINGS, mailer=mailer) as opened:
        yield opened


async def chosen(site: Site, **fields: str) -> tuple[Client, str]:
    """Ada's browser, and where her choice of a mail led it."""
    ada = await site.signed_in()
    form = (await ada.get("/new")).page.form("/new")
    answer = await ada.submit(form, **{"device": "Work laptop", "delivery": "mail", "old": "keep", **fields})
    assert answer.status == 303, answer.text
    return ada, answer.headers["Location"]


async def take_page(site: Site, **fields: str) -> tuple[Client, Page]:
    ada, link = await chosen(site, **fields)
    return ada, (await ada.follow(link)).page


def mail_fields(page: Page) -> dict[str, str]:
    [fields] = [form.fields for form in page.forms("/issue") if form.fields.get("delivery") == "mail"]
    return fields


def download_fields(page: Page) -> dict[str, str]:
    """Of the button that gives the same file by download."""
    return {"token": mail_fields(page)["token"]}


async def send(browser: Client, page: Page, **changes: str) -> Answer:
    return await browser.post("/issue", mail_fields(page) | changes)


def attached(mailer: FakeMailer) -> list[bytes]:
    return [part.get_content() for _, letter in mailer.letters for part in letter.iter_attachments()]


# What is offered


async def test_mail_is_offered_with_an_address_that_nobody_can_read_over_a_shoulder(site: Site) -> None:
    page = (await (await site.signed_in()).get("/new")).page

    assert [field.get("value") for field in page.all("input[@name='delivery']")] == ["download", "mail"]
    assert f"By mail to {MASKED}" in page.text()
    assert "ada@" not in page.text()
    assert page.form("/new").fields["delivery"] == "download"


async def test_without_an_address_there_is_nothing_to_choose(site: Site, mailer: FakeMailer) -> None:
    bert = await site.signed_in(BERT)
    form = (await bert.get("/new")).page.form("/new")
    assert form.fields["delivery"] == "download"

    for delivery in ("mail", "link"):
        answer = await bert.submit(form, device="Phone", delivery=delivery)
        assert answer.status == 422
        assert answer.page.text("h1") == "Get a certificate"
    token = await site.mint(BERT)
    await bert.get(f"/issue?token={token}")
    assert (await bert.post("/issue", {"token": token, "delivery": "mail"})).status == 422
    assert mailer.letters == []
    assert site.ledger() == []


async def test_without_a_mail_server_there_is_nothing_to_choose(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock) as site:
        ada = await site.signed_in()
        form = (await ada.get("/new")).page.form("/new")

        assert form.fields["delivery"] == "download"
        assert (await ada.submit(form, device="Phone", delivery="mail")).status == 422
        assert (await ada.post("/issue", {"token": await site.mint(), "delivery": "mail"})).status == 400
        assert site.ledger() == []


async def test_a_link_is_no_choice_of_the_person(site: Site) -> None:
    ada = await site.signed_in()

    answer = await ada.submit((await ada.get("/new")).page.form("/new"), device="Phone", delivery="link")

    assert answer.status == 422


# Sent


async def test_the_file_is_mailed_and_the_passphrase_stays_on_the_page(
    site: Site, mailer: FakeMailer
) -> None:
    ada, page = await take_page(site)
    assert "data-autostart" in page.forms("/issue")[0].attributes
    assert page.passphrase

    answer = await send(ada, page)

    assert answer.status == 303
    sent = (await ada.get(answer.headers["Location"])).page
    assert f"Sent to {MASKED} at " in sent.text()
    assert "The passphrase is not in the mail" in sent.text()
    assert sent.passphrase == page.passphrase
    assert "ada@" not in sent.text()
    assert all("data-autostart" not in form.attributes for form in sent.forms("/issue"))
    assert [recipient for recipient, _ in mailer.letters] == [ADA.email]
    assert site.ledger("state, delivery, delivered") == [("issued", "mail", 1)]


async def test_htmx_gets_the_news_in_the_place_of_the_form(site: Site) -> None:
    ada, page = await take_page(site)

    answer = await send(ada.as_htmx(), page)

    assert answer.status == 200
    assert answer.headers["HX-Push-Url"] == "/issue"
    assert not answer.page.all("html")
    assert answer.page.text("h1") == "Your certificate for Work laptop"
    assert f"Sent to {MASKED}" in answer.page.text()
    assert answer.page.passphrase == page.passphrase


async def test_whoever_has_not_seen_the_page_has_nothing_mailed(site: Site, mailer: FakeMailer) -> None:
    token = await site.mint()

    answer = await site.program().post("/issue", {"token": token, "delivery": "mail"})

    assert answer.status == 400
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert mailer.letters == []
    assert (await site.program().get(f"/issue?token={token}")).status == 200


async def test_no_form_says_where_the_mail_goes(site: Site, mailer: FakeMailer) -> None:
    evil = dict.fromkeys(("email", "to", "recipient", "address", "name", "sent", "cc"), "e@v.il")
    ada, page = await take_page(site, **evil)

    await send(ada, page, **evil)

    [(recipient, letter)] = mailer.letters
    assert recipient == ADA.email
    assert "v.il" not in letter.as_string()


async def test_two_clicks_send_one_mail_and_make_one_certificate(site: Site, mailer: FakeMailer) -> None:
    ada, page = await take_page(site)
    mailer.may_answer.clear()

    clicks = [asyncio.create_task(send(browser, page)) for browser in (ada, ada, ada.as_htmx())]
    await mailer.asked.wait()
    reload = (await ada.follow("/issue")).page
    mailer.may_answer.set()
    answers = await asyncio.gather(*clicks)
    late = await send(ada, page)

    assert [answer.status for answer in answers] == [303, 303, 200]
    assert late.status == 303
    assert "data-autostart" not in reload.forms("/issue")[0].attributes
    assert reload.passphrase == page.passphrase
    assert len(mailer.letters) == 1
    assert site.ledger() == ["issued"]


async def test_after_a_minute_the_same_file_is_sent_again(
    site: Site, clock: StillClock, mailer: FakeMailer
) -> None:
    ada, page = await take_page(site)
    await send(ada, page)
    again = (await ada.get("/issue")).page
    assert "Send again" in again.text()
    clock.advance(seconds=59)
    await send(ada, again)
    assert len(mailer.letters) == 1

    clock.advance(seconds=1)
    answer = await send(ada, again)

    assert answer.status == 303
    assert len(mailer.letters) == 2
    assert len(set(attached(mailer))) == 1
    assert site.ledger() == ["issued"]


async def test_after_two_minutes_it_is_too_late_and_the_page_says_so(
    site: Site, clock: StillClock, mailer: FakeMailer
) -> None:
    ada, page = await take_page(site)
    await send(ada, page)
    clock.advance(minutes=2, seconds=1)

    for browser in (ada, ada.as_htmx()):
        answer = await send(browser, page)
        assert answer.status == 409
        assert "already used" in answer.page.text("h1")
        assert answer.page.passphrase is None
    assert len(mailer.letters) == 1


async def test_another_browser_cannot_have_it_sent(site: Site, mailer: FakeMailer) -> None:
    ada, page = await take_page(site)
    await send(ada, page)

    other = await site.signed_in()
    await other.get(f"/issue?token={await site.mint()}")

    answer = await send(other, page)

    assert answer.status == 409
    assert len(mailer.letters) == 1


async def test_each_mail_is_answered_with_its_own_page(site: Site) -> None:
    ada, laptop = await take_page(site, device="Work laptop")
    form = (await ada.get("/new")).page.form("/new")
    answer = await ada.submit(form, device="Phone", delivery="download")
    phone = (await ada.follow(answer.headers["Location"])).page
    await ada.submit(phone.forms("/issue")[0])

    with_script = await send(ada.as_htmx(), laptop)
    without = await send(ada, laptop)

    assert with_script.page.passphrase == laptop.passphrase != phone.passphrase
    assert (await ada.get(without.headers["Location"])).page.passphrase == laptop.passphrase


async def test_what_was_mailed_can_be_downloaded_too(site: Site, mailer: FakeMailer) -> None:
    ada, page = await take_page(site)
    await send(ada, page)

    answer = await ada.post("/issue", download_fields((await ada.get("/issue")).page))

    assert answer.headers["Content-Type"] == "application/x-pkcs12"
    assert [answer.body] == attached(mailer)
    assert site.ledger() == ["issued"]


async def test_an_older_device_gets_the_older_file_by_mail(site: Site, mailer: FakeMailer) -> None:
    ada, page = await take_page(site)

    await send(ada, page, older="1")

    assert site.ledger("encoding") == ["compatible"]
    answer = await ada.post("/issue", download_fields(page))
    assert [answer.body] == attached(mailer)


async def test_a_browser_that_goes_away_does_not_stop_the_mail(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    mailer.may_answer.clear()
    async with serve(data_dir, clock, smtp=SETTINGS, mailer=mailer) as served:
        site = served.site
        ada, page = await take_page(site)
        body = urlencode(mail_fields(page)).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"POST /issue HTTP/1.1\r\nHost: %s\r\nCookie: certbob-take=%s\r\nContent-Length: %d\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n%s"
            % (served.host, ada.cookies["certbob-take"].encode(), len(body), body)
        )
        await mailer.asked.wait()

        writer.close()
        await writer.wait_closed()
        await served.is_alive()  # a round trip: by then the server has seen that nobody waits any more
        mailer.may_answer.set()
        assert site.services.mail is not None
        await site.services.mail.drain(5)

        assert site.ledger("state, delivery, delivered") == [("issued", "mail", 1)]
        assert f"Sent to {MASKED}" in (await ada.get("/issue")).page.text()
        assert len(mailer.letters) == 1


# Not sent


@before
async def test_what_was_not_sent_costs_nothing_and_can_be_downloaded(
    site: Site, mailer: FakeMailer, problem: Raise, status: int
) -> None:
    ada, page = await take_page(site)
    mailer.refusal = problem

    answer = await send(ada, page)

    assert answer.status == status
    assert problem().title in answer.page.text()
    assert problem().text in answer.page.text()
    assert answer.page.text("h1") == "Your certificate for Work laptop"
    assert answer.page.passphrase == page.passphrase
    assert all("data-autostart" not in form.attributes for form in answer.page.forms("/issue"))
    assert "Download it instead" in answer.page.text()
    assert site.ledger() == []
    file = await ada.post("/issue", download_fields(answer.page))
    assert file.headers["Content-Type"] == "application/x-pkcs12"
    assert site.ledger("state, delivery, delivered") == [("issued", "download", 1)]


@before
async def test_what_was_not_sent_can_be_sent_later(
    site: Site, mailer: FakeMailer, problem: Raise, status: int
) -> None:
    ada, page = await take_page(site)
    mailer.refusal = problem
    answer = await send(ada, page)
    mailer.refusal = None

    assert (await send(ada, answer.page)).status == 303
    assert len(mailer.letters) == 1
    assert site.ledger() == ["issued"]


@after
async def test_a_message_that_failed_at_its_end_can_be_downloaded_or_sent_again(
    site: Site, mailer: FakeMailer, problem: Raise, status: int
) -> None:
    ada, page = await take_page(site)
    mailer.problem = problem

    answer = await send(ada, page)

    assert answer.status == status
    assert problem().title in answer.page.text()
    assert problem().text in answer.page.text()
    assert answer.page.passphrase == page.passphrase
    assert "Sent to" not in answer.page.text()
    assert site.ledger("state, delivery") == [("issued", "mail")]
    file = await ada.post("/issue", download_fields(answer.page))
    mailer.problem = None
    assert (await send(ada, answer.page)).status == 303
    assert [file.body, file.body] == attached(mailer)
    assert site.ledger() == ["issued"]


@pytest.mark.parametrize(("problem", "status"), [(away, 503), (refused, 502), (uncertain, 504)])
async def test_htmx_puts_a_problem_above_the_page_which_stays(
    site: Site, mailer: FakeMailer, problem: Raise, status: int
) -> None:
    ada, page = await take_page(site)
    mailer.refusal = mailer.problem = problem

    answer = await send(ada.as_htmx(), page)

    assert answer.status == status
    assert not [element for name in ("html", "title", "h1", "form") for element in answer.page.all(name)]
    assert problem().title in answer.page.text()
    assert problem().mend in answer.page.text()
    assert "Reference" in answer.page.text()
    assert "HX-Push-Url" not in answer.headers


@before
async def test_a_program_is_told_of_a_problem_in_plain_words(
    site: Site, mailer: FakeMailer, problem: Raise, status: int
) -> None:
    mailer.refusal = problem

    program, token = site.program(), await site.mint()
    await program.get(f"/issue?token={token}", {"Accept": "text/html"})

    answer = await program.post("/issue", {"token": token, "delivery": "mail"})

    assert answer.status == status
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert problem().title in answer.text


async def test_a_certificate_that_could_not_be_made_is_not_mailed(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> None:
    ca = FakeCA(data_dir, clock)
    async with open_site(data_dir, clock, smtp=SETTINGS, mailer=mailer, ca=ca) as site:
        ada, page = await take_page(site)
        ca.signing_problem = CAUnavailable("closed")

        failed = await send(ada, page)
        assert failed.status == 503
        ca.signing_problem = None
        assert (await ada.submit(failed.page.form("/issue"))).status == 303  # "Try again" mails, too

    assert len(mailer.letters) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"550 <b>No</b><img src=x> {{7*7}}", id="markup"),
        pytest.param("550 Boîte inconnue".encode(), id="UTF-8"),
        pytest.param(
            "550 Boîte inconnue".encode("latin-1"),
            id="not UTF-8",
        ),
    ],
)
async def test_a_servers_words_are_words_and_nothing_else(
    data_dir: Path, clock: StillClock, answer: bytes
) -> None:
    async with (
        hostile_mail_server({"RCPT": answer}) as server,
        open_site(data_dir, clock, smtp=server.settings()) as site,
    ):
        ada, page = await take_page(site)

        for browser in (ada, ada.as_htmx()):
            told = await send(browser, page)
            assert told.status == 502
            assert "550 " in told.page.text()
            assert not told.page.all("img[@src='x']")


# Limits


@pytest.fixture
async def exhausted(
    data_dir: Path, clock: StillClock, mailer: FakeMailer
) -> AsyncIterator[tuple[Client, Page]]:
    """Ada with the page of her next certificate, when no more mails go to her."""
    many = Limits(certificates_per_hour=1000)
    async with open_site(data_dir, clock, smtp=SETTINGS, mailer=mailer, limits=many) as site:
        for _ in range(MAILS_PER_HOUR):
            assert (await send(*await take_page(site))).status == 303
        yield await take_page(site)


async def test_after_forty_mails_in_an_hour_people_download(
    exhausted: tuple[Client, Page], mailer: FakeMailer
) -> None:
    ada, page = exhausted

    answer = await send(ada, page)

    assert answer.status == 429
    assert "Try again at " in answer.page.text()
    assert answer.page.passphrase == page.passphrase
    assert len(mailer.letters) == MAILS_PER_HOUR
    file = await ada.post("/issue", download_fields(answer.page))
    assert file.headers["Content-Type"] == "application/x-pkcs12"


async def test_after_forty_mails_programs_are_told_when_to_try_again(exhausted: tuple[Client, Page]) -> None:
    ada, page = exhausted

    assert (await send(ada, page)).headers["Retry-After"] == "3600"


async def test_after_forty_mails_the_page_stays_with_htmx_too(exhausted: tuple[Client, Page]) -> None:
    ada, page = exhausted

    answer = await send(ada.as_htmx(), page)

    assert answer.status == 429
    assert answer.headers.get("HX-Retarget") == "#alert" or answer.page.passphrase == page.passphrase
