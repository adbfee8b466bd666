"""What stands above every route: who may call it, from where, and what every answer carries."""

import logging

import pytest

from tests.support.web import ADA, FakeCA, Site, StillClock, open_site, routes

HTTPS = "https://cert.example.org"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


async def test_every_handler_says_who_may_call_it(site: Site) -> None:
    unguarded = [name for name, view in site.app.view_functions.items() if not hasattr(view, "is_guarded")]

    assert unguarded == []


async def test_every_answer_carries_the_security_headers(site: Site) -> None:
    browser = await site.signed_in()
    paths = [*routes(site.app, "GET"), "/nothing", "/static/nothing", "/issue?token=x"]
    answers = [await browser.get(path) for path in paths]
    answers += [await browser.post("/healthz"), await browser.post("/new", b"x" * 65537)]

    assert {answer.status for answer in answers} >= {200, 303, 400, 404, 405, 413}
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == CSP
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert "Cache-Control" in answer.headers
        assert "Strict-Transport-Security" not in answer.headers


async def test_only_static_files_may_be_kept(site: Site) -> None:
    browser = await site.signed_in()
    page = (await browser.get("/new")).page
    links = [element.get("href", "") for element in page.all("link")] + [
        element.get("src", "") for element in page.all("script")
    ]

    assert len(links) >= 4
    for link in links:
        answer = await browser.get(link, {"Accept-Encoding": "gzip"})
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert (await browser.get(link.partition("?")[0])).headers["Cache-Control"] == "no-cache"
    assert (await browser.get("/new")).headers["Cache-Control"] == "no-store"


async def test_over_https_browsers_are_told_to_stay_there(site: Site, clock: StillClock) -> None:
    async with open_site(site.settings.server.data_dir, clock, public_url=HTTPS) as secure:
        answer = await secure.browser().get("/login")

    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": None}, True),
        ({"Sec-Fetch-Site": None, "Origin": "https://evil.example"}, False),
        ({"Sec-Fetch-Site": None, "Origin": "null"}, False),
        ({"Sec-Fetch-Site": None, "Origin": None}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8000"}, False),
    ],
)
async def test_a_form_of_another_site_changes_nothing(
    site: Site, headers: dict[str, str | None], accepted: bool
) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new").fields

    for path in routes(site.app, "POST"):
        if path in ("/issue", "/request"):
            continue  # the grant is its proof, and the token of the command; see the tests there
        fields = {**form, "username": ADA.username, "password": ADA.password}
        answer = await browser.post(path, fields, headers)
        assert (answer.status != 403) is accepted, path
        if accepted:
            await browser.sign_in(ADA)
            form["form_token"] = await browser.form_token()


async def test_a_form_needs_the_token_of_its_own_session(site: Site) -> None:
    browser, other = await site.signed_in(), await site.signed_in()
    form = (await browser.get("/new")).page.form("/new").fields

    for token in ("", "x", await other.form_token(), "ü"):
        assert (await browser.post("/new", form | {"form_token": token})).status == 403
        assert (await browser.post("/logout", {"form_token": token})).status == 403
    assert (await browser.post("/new", form)).status == 303


BODIES: tuple[tuple[bytes, int, dict[str, str | None]], ...] = (
    (b"a=" + b"x" * 65536, 413, {}),
    (b"username=%ff&password=x", 400, {}),
    (b"username=\xff", 400, {}),
    (b"&".join(b"f%d=1" % number for number in range(51)), 400, {}),
    (b'{"username": "ada"}', 400, {"Content-Type": "application/json"}),
    (b"--x--", 400, {"Content-Type": "multipart/form-data; boundary=x"}),
    (b"username=ada", 400, {"Content-Type": "text/plain"}),
    (b"username=ada", 400, {"Content-Type": None}),
)


@pytest.mark.parametrize(("body", "status", "headers"), BODIES)
async def test_a_body_that_is_no_plain_form_is_refused(
    site: Site, body: bytes, status: int, headers: dict[str, str | None]
) -> None:
    for path in ("/login", "/issue"):
        answer = await site.browser().post(path, body, headers)
        assert answer.status == status, path
        assert "Traceback" not in answer.text


async def test_a_fault_of_ours_shows_a_reference_and_nothing_else(
    site: Site, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    ca = FakeCA(site.settings.server.data_dir, clock)
    ca.problem = RuntimeError("canary-detail")
    async with open_site(site.settings.server.data_dir, clock, ca=ca) as broken:
        with caplog.at_level(logging.ERROR):
            page = await broken.browser().get("/ca")
            plain = await broken.program().get("/ca")

    assert page.status == plain.status == 500
    assert plain.headers["Content-Type"] == "text/plain; charset=utf-8"
    for answer in (page, plain):
        assert "canary" not in answer.text
        assert "Traceback" not in answer.text
        reference = answer.text.partition("Reference")[2].strip(" :\n")[:7]
        assert reference in caplog.text
    assert "canary-detail" in caplog.text


async def test_htmx_gets_an_error_beside_its_form(site: Site, clock: StillClock) -> None:
    ca = FakeCA(site.settings.server.data_dir, clock)
    async with open_site(site.settings.server.data_dir, clock, ca=ca) as broken:
        browser = await broken.signed_in()
        form = (await browser.get("/new")).page.form("/new")

        answer = await browser.as_htmx().submit(form, form_token="old")

    assert answer.status == 403
    assert not answer.page.all("title")
    assert not answer.page.all("h1")
    assert "did not come from here" in answer.text
    assert answer.headers["Vary"] == "HX-Request"


async def test_pages_without_a_style_or_script_of_their_own(site: Site) -> None:
    browser = await site.signed_in()
    token = await site.mint()
    for path in ("/login", "/new", f"/issue?token={token}", "/ca", "/nothing"):
        answer = await browser.get(path)
        assert "<style" not in answer.text
        assert " style=" not in answer.text
        assert " onclick=" not in answer.text
        for script in answer.page.all("script"):
            assert script.get("src", "").startswith("/static/")
            assert not (script.text or "").strip()
