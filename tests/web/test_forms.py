"""Bodies and headers that no page of ours sends: refused or taken as text, and never a fault."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certbob.config import Limits
from tests.support.web import Site, StillClock, open_site

MARK = "canary7d1f"
HOSTILE = (
    f"<script>{MARK}()</script>",
    f"\"><img src=x onerror='{MARK}()'>",
    f"'{MARK}\" autofocus onfocus={MARK}()//",
    f"</title></textarea></select>{MARK}<!--",
    f"{{{{7*7}}}}{{%raw%}}{MARK}",
    f"{MARK}\r\nSet-Cookie: certbob=x",
    f"{MARK}\x00\x01\x7f\u202e\u200b\ufeff\ud7ff\U0010ffff",
)


@pytest.mark.parametrize("value", HOSTILE)
async def test_a_hostile_value_is_only_ever_text(site: Site, value: str) -> None:
    browser = await site.signed_in()
    form = (await browser.get("/new")).page.form("/new").fields
    for client in (browser, browser.as_htmx()):
        answers = [await client.post("/login", {"username": value, "password": value, "next": value})]
        answers += [await client.post("/new", form | {name: value}) for name in form]
        answers += [await client.get(f"/new?{name}={quote(value)}") for name in form]
        answers += [
            await client.get(f"/login?next={quote(value)}"),
            await client.get(f"/issue?token={quote(value)}"),
            await client.get(f"/{quote(value)}"),
            await client.get("/nothing", {"User-Agent": quote(value), "Referer": quote(value)}),
        ]
        plain = await site.program().post("/issue", {"token": value, "older": value})

        for answer in answers:
            assert answer.status < 500
            elements = answer.page.root.iter() if "html" in answer.headers["Content-Type"] else ()
            for element in elements:
                assert not any(name.startswith("on") for name in element.attrib)
                assert MARK not in "".join(element.attrib) + element.tag
                assert element.tag != "script" or not (element.text or "").strip()
            assert "49" + MARK not in answer.text
            assert "Set-Cookie" not in "".join(answer.headers.getlist("Location"))
        assert MARK not in plain.text


async def test_of_a_repeated_field_the_last_one_counts(site: Site) -> None:
    token = await site.mint()

    answer = await site.program().post("/issue", [("token", "x"), ("token", token)])

    assert answer.status == 200


async def test_fields_that_nobody_asked_for_change_nothing(site: Site) -> None:
    extra = {
        "subject": "root",
        "name": "Root",
        "groups": "admins",
        "email": "evil@example.org",
        "validity": "9d",
    }

    answer = await site.program().post("/issue", {"token": await site.mint()} | extra)

    assert answer.status == 200
    assert site.ledger("name, email, validity") == [("Ada Lovelace", "ada@example.org", 90 * 86400)]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/html",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "application/x-www-form-urlencoded2",
        "application/x-www-form-urlencoded/x",
        ";",
        "x" * 5000,
    ],
)
async def test_another_content_type_is_refused(site: Site, content_type: str | None) -> None:
    token = await site.mint()

    answer = await site.program().post("/issue", {"token": token}, {"Content-Type": content_type})

    assert answer.status == 400
    assert site.ledger() == []


@pytest.mark.parametrize("parameter", ["; charset=utf-7", "; charset=utf-16", "; charset=UTF-8", ";;;"])
async def test_a_charset_is_not_listened_to(site: Site, parameter: str) -> None:
    content_type = f"application/x-www-form-urlencoded{parameter}"

    answer = await site.program().post("/issue", {"token": await site.mint()}, {"Content-Type": content_type})

    assert answer.status == 200


@pytest.mark.parametrize(("size", "status"), [(65536, 400), (65537, 413)])
async def test_a_form_may_have_64_kb(site: Site, size: int, status: int) -> None:
    body = b"token=" + b"x" * (size - 6)

    for path in ("/issue", "/login"):
        answer = await site.browser().post(path, body)
        assert answer.status == (status if path == "/issue" or status == 413 else 422)


@pytest.mark.parametrize("path", ["/new", "/logout"])
@pytest.mark.parametrize("body", [b"%ff=%ff", b"&".join([b"a=1"] * 51), b"x" * 70000])
async def test_who_is_not_signed_in_is_asked_to_before_the_form_is_read(
    site: Site, path: str, body: bytes
) -> None:
    for client in (site.browser(), site.browser().as_htmx()):
        assert (await client.post(path, body)).status == 401


bodies = st.one_of(
    st.binary(max_size=200),
    st.text(alphabet="ab=&%+;0fF[]\x00ü\ud7ff", max_size=80).map(str.encode),
    st.lists(
        st.sampled_from([b"token", b"older", b"format", b"username", b"password", b"next", b"a[]", b"%00"])
    )
    .flatmap(lambda names: st.tuples(*[st.tuples(st.just(name), st.binary(max_size=9)) for name in names]))
    .map(lambda pairs: b"&".join(name + b"=" + value for name, value in pairs)),
)
headers = st.dictionaries(
    st.sampled_from(["Accept", "User-Agent", "HX-Request", "HX-Target", "Cookie", "Origin", "Content-Type"]),
    st.text(
        alphabet=st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60
    ),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, sent=headers, path=st.sampled_from(["/issue", "/new", "/logout"]))
async def test_no_body_and_no_header_makes_a_fault(
    site: Site, body: bytes, sent: dict[str, str], path: str
) -> None:
    for client in (site.browser(), site.program()):
        assert (await client.post(path, body, sent)).status < 500
        assert (await client.get(path, sent)).status < 500


cookies = st.text(
    alphabet=st.characters(min_codepoint=33, max_codepoint=255, exclude_characters=";,"), max_size=60
)


@pytest.fixture
async def generous_site(data_dir: Path, clock: StillClock) -> AsyncIterator[Site]:
    async with open_site(data_dir, clock, limits=Limits(certificates_per_hour=1000)) as opened:
        yield opened


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(session=cookies, holder=cookies)
async def test_no_cookie_makes_a_fault(generous_site: Site, session: str, holder: str) -> None:
    browser = generous_site.browser()
    sent = {"Cookie": f"certbob={session}; certbob-take={holder}"}
    token = await generous_site.mint()

    assert (await browser.get("/new", sent)).status == 303
    assert (await browser.get(f"/issue?token={token}", sent)).status == 200
    assert (await browser.post("/issue", {"token": token}, sent)).status == 200
    assert (await browser.post("/issue", {"token": token}, sent)).status in (200, 409)
    assert (await browser.get("/issue", sent)).status in (200, 410)
