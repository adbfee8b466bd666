"""Rendering: the same template is a whole page, or for htmx the bare fragment."""

from typing import Any

import jinja2
from quart import Quart, Response, render_template

from certbob import __version__, words
from certbob.web.context import is_htmx, session, settings
from certbob.web.security import form_token
from certbob.web.static import StaticFiles

OF_OTHERS = ("mail/", "chat/", "snippets/")  # folders of templates that others render


async def page(template: str, status: int = 200, /, **context: Any) -> Response:
    """The template as a page or a fragment, as the request asks for."""
    base = "_fragment.html" if is_htmx() else "shell.html"
    response = Response(await render_template(template, base=base, **context), status)
    response.vary.add("HX-Request")
    return response


async def plain(template: str, status: int, **context: Any) -> Response:
    return Response(
        await render_template(template, **context), status, content_type="text/plain; charset=utf-8"
    )


def set_up_templates(app: Quart, static: StaticFiles) -> None:
    """Autoescape everywhere but in plain text; fail on unknown names; compile everything before serving."""
    environment = app.jinja_env
    environment.undefined = jinja2.StrictUndefined
    environment.autoescape = lambda name: name is None or not name.endswith(".txt")
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(words.FILTERS)
    environment.globals.update(
        static=static.url, htmx_integrity=static.integrity("htmx-2.0.11.min.js"), version=__version__
    )

    @app.context_processor
    def request_facts() -> dict[str, Any]:
        current = session()
        return {
            "identity": current.identity if current else None,
            "is_admin": current.is_admin if current else False,
            "signed_in": current is not None,
            "form_token": form_token(),
            "organization": settings().organization,
            "contact": settings().contact,
            "can_test": settings().can_test,
        }

    for name in environment.list_templates():
        if not name.startswith(OF_OTHERS):
            environment.get_template(name)
