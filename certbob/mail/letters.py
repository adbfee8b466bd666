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
from certbob.calendar_entry import FILE_NAME, calendar_entry
from certbob.identity import Door
from certbob.ports import Clock, Grant, Issued, Reminder

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
        self._site = site
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
            grant.identity.name,
            grant.identity.email or "",
            device=grant.device.name,
            in_chat=grant.identity.door is Door.MATTERMOST,
            valid_until=issued.leaf.not_valid_after_utc,
            filename=issued.file_name,
            steps=self._render(f"install/{grant.device.platform}.txt", {}).splitlines(),
        )
        letter.add_attachment(issued.content, *issued.media_type.split("/"), filename=issued.file_name)
        return letter

    def with_link(self, grant: Grant, link: str) -> EmailMessage:
        return self._letter(
            "link",
            grant.identity.name,
            grant.identity.email or "",
            device=grant.device.name,
            link=link,
            until=grant.expires_at,
        )

    def reminder(self, reminder: Reminder) -> EmailMessage:
        certificate = reminder.certificate
        in_chat = reminder.door is Door.MATTERMOST
        letter = self._letter(
            "reminder",
            certificate.name,
            reminder.recipient,
            device=certificate.device,
            in_chat=in_chat,
            link=f"{self._site}/certificates/{certificate.serial:x}/replace",
            end=certificate.not_after,
            # So that a mailbox can tell the second copy of one that was sent again.
            message_id=f"<reminder.{certificate.serial:x}.{reminder.step.days}@{self._sender.domain}>",
        )
        entry = calendar_entry(certificate, now=self._clock.now(), site=None if in_chat else self._site)
        letter.add_attachment(entry, "text", "calendar", params={"charset": "utf-8"}, filename=FILE_NAME)
        return letter

    def _letter(
        self,
        kind: str,
        name: str,
        recipient: str,
        *,
        device: str,
        message_id: str | None = None,
        **facts: Any,
    ) -> EmailMessage:
        facts |= {"name": name, "device": device}
        letter = EmailMessage(policy=SMTPUTF8)
        letter["Subject"] = self._subject(kind, facts)
        letter["From"] = self._sender
        # In parts: read from a whole, an address outside ASCII is refused.
        local, _, domain = recipient.rpartition("@")
        letter["To"] = Address(name, username=local, domain=domain)
        if self._contact and not self._contact.startswith("https://"):
            letter["Reply-To"] = Address(addr_spec=self._contact)
        letter["Date"] = format_datetime(self._clock.now().astimezone())
        letter["Message-ID"] = message_id or make_msgid(domain=self._sender.domain)
        letter["Auto-Submitted"] = "auto-generated"
        letter["X-Auto-Response-Suppress"] = "All"
        letter.set_content(self._render(f"{kind}.txt", facts))
        letter.add_alternative(self._render(f"{kind}.html", facts), subtype="html")
        return letter

    def _subject(self, kind: str, facts: dict[str, Any]) -> str:
        """What does not fit is left out of the device's name."""
        subject = self._render(f"{kind}-subject.txt", facts)
        if (excess := len(subject) - MAX_SUBJECT) > 0:
            shorter = f"{facts['device'][: -excess - 1]}…"
            subject = self._render(f"{kind}-subject.txt", facts | {"device": shorter})
        return subject

    def _render(self, template: str, facts: dict[str, Any]) -> str:
        return self._templates.get_template(template).render(facts)
