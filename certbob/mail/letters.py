"""Writes the letters: text and HTML from `partials/mail/`, headers as RFC 5322 and RFC 3834 want them.

No letter ever holds a passphrase.
"""

from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
from email.utils import format_datetime, make_msgid
from pathlib import Path
from typing import Any

import jinja2

from certbob import words
from certbob.ports import Clock, Grant, Issued

MAX_SUBJECT = 60


class Letters:
    """Implements `ports.Letters`. `folder` has the templates, `site` is where people find CertBob."""

    def __init__(
        self,
        folder: Path,
        *,
        sender: Address,
        site: str,
        contact: str | None,
        organization: str | None,
        clock: Clock,
    ) -> None:
        self._sender = sender
        self._contact = contact
        self._clock = clock
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            undefined=jinja2.StrictUndefined,
            autoescape=jinja2.select_autoescape(("html",)),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(words.FILTERS)
        self._templates.globals.update(site=site, contact=contact, organization=organization)

    def with_file(self, grant: Grant, issued: Issued) -> EmailMessage:
        letter = self._letter(
            "file",
            grant,
            valid_until=issued.leaf.not_valid_after_utc,
            filename=issued.file_name,
            steps=self._render(f"install/{grant.device.platform}.txt", {}).splitlines(),
        )
        letter.add_attachment(issued.content, *issued.media_type.split("/"), filename=issued.file_name)
        return letter

    def with_link(self, grant: Grant, link: str) -> EmailMessage:
        return self._letter("link", grant, link=link, until=grant.expires_at)

    def _letter(self, kind: str, grant: Grant, **facts: Any) -> EmailMessage:
        facts |= {"name": grant.identity.name, "device": grant.device}
        letter = EmailMessage(policy=SMTPUTF8)
        subject = self._render(f"{kind}-subject.txt", facts)
        letter["Subject"] = subject if len(subject) <= MAX_SUBJECT else f"{subject[: MAX_SUBJECT - 1]}…"
        letter["From"] = self._sender
        # In parts: read from a whole, an address outside ASCII is refused.
        local, _, domain = (grant.identity.email or "").rpartition("@")
        letter["To"] = Address(grant.identity.name, username=local, domain=domain)
        if self._contact and not self._contact.startswith("https://"):
            letter["Reply-To"] = Address(addr_spec=self._contact)
        letter["Date"] = format_datetime(self._clock.now().astimezone())
        letter["Message-ID"] = make_msgid(domain=self._sender.domain)
        letter["Auto-Submitted"] = "auto-generated"
        letter["X-Auto-Response-Suppress"] = "All"
        letter.set_content(self._render(f"{kind}.txt", facts))
        letter.add_alternative(self._render(f"{kind}.html", facts), subtype="html")
        return letter

    def _render(self, template: str, facts: dict[str, Any]) -> str:
        return self._templates.get_template(template).render(facts)
