"""The page that says which certificate a browser presents, by the word of a proxy."""

import base64
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from certbob.errors import CAUnavailable
from tests.support.asking import Owned, take
from tests.support.web import BERT, FakeCA, Site, StillClock, open_site

PROXY = ("192.0.2.0/24",)  # where the clients of these tests are
HEADER = "X-Client-Certificate"


@pytest.fixture
async def proxied(data_dir: Path, clock: StillClock) -> AsyncIterator[Site]:
    header = HEADER.lower()
    async with open_site(data_dir, clock, trusted_proxies=PROXY, certificate_header=header) as opened:
        yield opened


def told(owned: Owned) -> dict[str, str | None]:
    return {HEADER: quote(owned.leaf.public_bytes(Encoding.PEM).decode())}


async def test_the_word_of_the_proxy_is_shown(proxied: Site) -> None:
    mine = await take(proxied, device="Ada's phone")

    page = (await proxied.browser().get("/test", told(mine))).page

    assert page.text("h1") == page.title.removesuffix(" · CertBob") == "It works"
    for words in ("Ada Lovelace", "Ada's phone", "Client certificate", "22 February 2027"):
        assert words in page.text("main")
    assert (await proxied.browser().get("/test")).page.text("h1") == "No certificate arrived"


async def test_who_is_signed_in_does_not_matter(proxied: Site) -> None:
    """Whoever has the key sees its certificate, and nothing of anybody else."""
    mine = await take(proxied)
    bert = await proxied.signed_in(BERT)

    page = (await bert.get("/test", told(mine))).page

    assert "Ada Lovelace" in page.text("main")
    assert "Bert Becker" not in page.text("main")
    assert "ada@example.org" not in page.text("main")


async def test_a_forged_header_has_no_effect(proxied: Site, site: Site) -> None:
    mine = await take(proxied)
    stranger = proxied.browser()
    stranger.address = "203.0.113.9"

    without = await stranger.get("/test")

    assert (await stranger.get("/test", told(mine))).text == without.text
    through = {"X-Forwarded-For": "192.0.2.1", **told(mine)}
    assert (await stranger.get("/test", through)).text == without.text
    assert (await site.browser().get("/test", told(mine))).text == (await site.browser().get("/test")).text


async def test_what_cannot_be_read_is_the_operators_business(
    proxied: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = await proxied.browser().get("/test", {HEADER: "rubbish"})

    assert (answer.status, answer.page.text("h1")) == (200, "Your certificate cannot be seen")
    assert "help@example.org" in answer.page.text("main")
    assert "cannot be read" in caplog.text


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
async def test_no_header_breaks_the_page(proxied: Site) -> None:
    good = (await take(proxied)).leaf.public_bytes(Encoding.DER)
    browser = proxied.browser()

    @st.composite
    def damaged(draw: st.DrawFn) -> str:
        place, byte = draw(st.integers(0, len(good) - 1)), draw(st.binary(max_size=3))
        return base64.b64encode(good[:place] + byte + good[place + 1 :]).decode()

    visible = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
    values: list[str] = []

    @hypothesis_settings(max_examples=300, database=None, deadline=None)
    @given(damaged() | st.text(visible, max_size=300))
    def collect(value: str) -> None:
        values.append(value)

    collect()
    for value in ["A" * 15000, *values]:
        assert (await browser.get("/test", {HEADER: value})).status == 200


async def test_where_nobody_sees_certificates_the_page_says_so_and_nothing_leads_there(site: Site) -> None:
    ada = await site.signed_in()
    await take(site)

    page = (await ada.get("/test")).page

    assert "This installation cannot see which certificate your browser presents." in page.text("main")
    for path in ("/certificates", f"/issue?token={await site.mint()}", "/new", "/ca"):
        assert "/test" not in (await ada.get(path)).text


async def test_links_lead_there_where_it_works(proxied: Site) -> None:
    ada = await proxied.signed_in()
    await take(proxied)

    for path in ("/certificates", f"/issue?token={await proxied.mint()}"):
        assert "/test" in [link.get("href") for link in (await ada.get(path)).page.all("main//a")]


async def test_the_button_leads_to_the_port_that_asks(data_dir: Path, clock: StillClock) -> None:
    server = {"test_listen": "0.0.0.0:8444", "tls_certificate": Path("a"), "tls_key": Path("b")}
    url = "https://cert.example.org"
    async with open_site(data_dir, clock, public_url=url, **server) as site:  # type: ignore[arg-type]
        page = (await site.browser().get("/test")).page

        assert page.text("h1") == "Test my certificate"
        assert page.one("main//a").get("href") == "https://cert.example.org:8444/test"


async def test_without_the_authority_nothing_can_be_said(data_dir: Path, clock: StillClock) -> None:
    ca = FakeCA(data_dir, clock)
    async with open_site(
        data_dir, clock, ca=ca, trusted_proxies=PROXY, certificate_header=HEADER.lower()
    ) as site:
        mine = await take(site)
        ca.problem = CAUnavailable("away")

        assert (await site.browser().get("/test", told(mine))).status == 503


async def test_the_page_changes_nothing_and_takes_no_forms(proxied: Site) -> None:
    before = proxied.ledger("state, revoked_at")
    await proxied.browser().get("/test")

    assert proxied.ledger("state, revoked_at") == before
    assert (await proxied.browser().post("/test")).status == 405
    assert (await proxied.program().head("/test")).status == 200
