"""Static files: kept for ever under the address that names their content, and nothing beside them."""

import gzip
from pathlib import Path

import pytest

from certbob.paths import resource_root
from tests.support.web import Client, Site

FILES = sorted(path for path in (resource_root() / "static").iterdir() if path.is_file())
FOR_EVER = "public, max-age=31536000, immutable"


async def addresses(browser: Client) -> list[str]:
    """What a page asks for, with the hashes in it."""
    page = (await browser.get("/login")).page
    links = [element.get("href", "") for element in page.all("link")]
    return links + [element.get("src", "") for element in page.all("script")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("coding", ["gzip", "gzip, deflate, br, zstd", "identity", None])
async def test_each_file_arrives_as_it_is(site: Site, path: Path, coding: str | None) -> None:
    answer = await site.browser().get(f"/static/{path.name}", {"Accept-Encoding": coding})

    assert answer.status == 200
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    packed = answer.headers.get("Content-Encoding") == "gzip"
    assert (gzip.decompress(answer.body) if packed else answer.body) == path.read_bytes()
    if packed:
        assert coding is not None
        assert "gzip" in coding
        assert len(answer.body) < path.stat().st_size


async def test_only_the_address_with_the_right_hash_may_be_kept(site: Site) -> None:
    browser = site.browser()
    links = await addresses(browser)

    assert len(links) >= 4
    for link in links:
        name, _, digest = link.partition("?v=")
        assert (await browser.get(link)).headers["Cache-Control"] == FOR_EVER
        for other in ("", f"?v={digest[:-1]}", f"?v={digest}0", "?v=", f"?w={digest}"):
            assert (await browser.get(name + other)).headers["Cache-Control"] == "no-cache"


async def test_a_page_loads_what_it_says_and_less_than_100_kb(site: Site) -> None:
    browser = site.browser()
    page = await browser.get("/login")
    answers = [await browser.get(link, {"Accept-Encoding": "gzip"}) for link in await addresses(browser)]

    assert sum(len(answer.body) for answer in [page, *answers]) < 100_000


@pytest.mark.parametrize(
    "name",
    [
        "nothing.css",
        "CERTBOB.CSS",
        "certbob.css/",
        "..%2fpyproject.toml",
        "%2e%2e%2fcertbob%2f__init__.py",
        "..%5cpyproject.toml",
        "..%00.css",
        "certbob.css%00",
        ".",
        "..",
        "",
        "%2fetc%2fpasswd",
    ],
)
async def test_nothing_else_is_given_out(site: Site, name: str) -> None:
    answer = await site.browser().get(f"/static/{name}")

    assert answer.status == 404
    assert answer.headers["Cache-Control"] == "no-store"


async def test_the_icon_is_where_browsers_look(site: Site) -> None:
    answer = await site.browser().get("/favicon.ico")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/vnd.microsoft.icon")
