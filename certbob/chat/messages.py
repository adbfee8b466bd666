"""Writes the messages of a chat: Mattermost's Markdown, from `partials/chat/`.

Whatever a template puts in is escaped, unless it is `Markdown`. Addresses stand in links with words only: a
bare one is fetched by the server, for a preview, before anybody sees the message.
"""

import re
from pathlib import Path
from typing import Any

import jinja2

from certbob import words

# What the clients' Markdown lets a backslash take the meaning of.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|>~])")
_UNSEEN = "\N{ZERO WIDTH SPACE}"


class Markdown(str):
    """Text that is marked up already."""

    __slots__ = ()


def link(text: str, url: str) -> Markdown:
    """`url` is one of ours or of the configuration."""
    return Markdown(f"[{escape(text)}]({url})")


def code(text: str) -> Markdown:
    """For what is to be copied. Nothing of ours has a backtick, which would end it."""
    plain = words.visible(text).replace("`", "'")
    return Markdown(f"`{plain}`")


def escape(text: str) -> Markdown:
    """As plain text; names of people are no mentions, and nothing is a bare address."""
    plain = _SPECIAL.sub(r"\\\1", words.visible(text)).replace("<", "‹")
    return Markdown(plain.replace("@", f"@{_UNSEEN}").replace("://", f":{_UNSEEN}//"))


class Messages:
    """`folder` has the templates, `site` is where people find CertBob."""

    def __init__(self, folder: Path, *, site: str, contact: str | None) -> None:
        self._templates = jinja2.Environment(  # noqa: S701 HTML's escapes would stand there as they are
            loader=jinja2.FileSystemLoader(folder),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_marked_up,
        )
        self._templates.filters.update(words.FILTERS)
        self._templates.globals.update(site=site, contact=_helpers(contact), link=link, code=code)

    def write(self, template: str, /, **facts: Any) -> str:
        """`template`: the name of a file there, without its ending."""
        return self._templates.get_template(f"{template}.md").render(facts).strip()


def _marked_up(value: object) -> Markdown:
    return value if isinstance(value, Markdown) else escape(str(value))


def _helpers(contact: str | None) -> Markdown | None:
    if contact is None:
        return None
    where = contact if contact.startswith("https://") else f"mailto:{contact}"
    return link("the people who run this service", where)
