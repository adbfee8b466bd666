"""Every template: rendered at least once, as a page and as a fragment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pytest
from quart import Quart, template_rendered

from certbob.devices import Platform
from certbob.errors import CAUnavailable
from tests.support.web import FakeCA, Site, StillClock, open_site

BASES = {"shell.html", "_fragment.html"}


def parts(environment: jinja2.Environment, name: str) -> Iterator[str]:
    """The template and what it extends, includes or imports by name."""
    yield name
    assert environment.loader is not None
    source = environment.loader.get_source(environment, name)[0]
    for part in jinja2.meta.find_referenced_templates(environment.parse(source)):
        if part is not None:
            yield from parts(environment, part)


async def test_every_template_is_used(data_dir: Path, clock: StillClock) -> None:
    ca = FakeCA(data_dir, clock)
    async with open_site(data_dir, clock, ca=ca) as site:
        rendered: set[str] = set()

        def note(_: Quart, template: jinja2.Template, context: dict[str, Any]) -> None:
            assert template.name is not None
            rendered.update(parts(site.app.jinja_env, template.name))
            if "device" in context:
                rendered.add(f"install/_{context['device'].platform}.html")

        with template_rendered.connected_to(note, site.app):
            browser = await site.signed_in()
            for client in (browser, browser.as_htmx()):
                for path in ("/login", "/new", "/ca", "/nothing", "/certificates", "/test"):
                    await client.get(path)
                for platform in Platform:
                    await client.get(f"/issue?token={await site.mint(platform=platform)}")
            await browser.as_htmx().get("/new", {"HX-Target": "options"})
            await site.program().get("/nothing")
            ca.problem = CAUnavailable("away")
            await browser.as_htmx().get("/ca")

        others = (
            "mail/",
            "chat/",
            "snippets/",
            "chat_link.html",
            "revoke.html",
            "_when_revoked.html",
            "admin.html",
            "_admin_nav.html",
            "_found.html",
            "audit.html",
            "expiring.html",
            "pause.html",
            "person.html",
            "questions.html",
            "_reasons.html",
        )
        every = site.app.jinja_env.list_templates()
        pages = {name for name in every if name in rendered or not name.startswith(others)}
        assert rendered | BASES == pages


@pytest.mark.parametrize("path", ["/login", "/new", "/ca", "/issue?token=TOKEN"])
async def test_htmx_gets_the_same_without_the_frame(site: Site, path: str) -> None:
    browser = await site.signed_in()
    path = path.replace("TOKEN", await site.mint())
    page, fragment = (await browser.get(path)), (await browser.as_htmx().get(path))
    back = await browser.as_htmx().get(path, {"HX-History-Restore-Request": "true"})

    assert {answer.headers["Vary"] for answer in (page, fragment, back)} == {"HX-Request"}
    assert len(page.page.all("html")) == len(back.page.all("html")) == 1
    assert not fragment.page.all("html")
    assert not fragment.page.all("link")
    for answer in (page, fragment, back):
        assert answer.page.title == page.page.title
        assert answer.page.text("h1") == page.page.text("h1")


async def test_titles_tell_the_pages_apart(site: Site) -> None:
    browser = await site.signed_in()
    paths = ("/login", "/new", "/ca", "/nothing", f"/issue?token={await site.mint()}", "/issue?token=x")

    titles = [(await browser.get(path)).page.title for path in paths]

    assert len(set(titles)) == len(paths)


async def test_the_way_to_help_stands_on_every_page(site: Site) -> None:
    browser = await site.signed_in()
    for path in ("/login", "/new", "/ca", "/nothing", f"/issue?token={await site.mint()}"):
        page = (await browser.get(path)).page
        assert "help@example.org" in page.text("footer")
        assert "Example Org" in page.text("footer")
