"""The day on which a certificate ends, as a file for people's calendars (iCalendar, RFC 5545)."""

import re
from datetime import datetime, timedelta

from certbob import __version__
from certbob.ports import Certificate
from certbob.words import visible

FILE_NAME = "certificate.ics"
ALARM_DAYS = 14  # before the end; less when the end is near
MAX_LINE = 75  # octets, RFC 5545 3.1


def calendar_entry(certificate: Certificate, *, now: datetime, site: str | None) -> bytes:
    """`site`: where its person can replace it; None: in the chat alone. The day is that of our time zone.

    Of one certificate always with the same UID, so that a calendar has it once.
    """
    summary = f"Certificate for {certificate.device} expires"
    if site is None:
        how = f"To get a new one, run /cert download {certificate.device} in the chat."
        address = []
    else:
        url = f"{site}/certificates/{certificate.serial:x}/replace"
        how = f"Replace it here: {url}"
        address = [f"URL:{url}"]
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        f"PRODID:-//CertBob//CertBob {__version__}//EN",
        "BEGIN:VEVENT",
        f"UID:certbob-{certificate.serial:x}",
        f"DTSTAMP:{now:%Y%m%dT%H%M%SZ}",
        f"DTSTART;VALUE=DATE:{certificate.not_after.astimezone():%Y%m%d}",
        f"SUMMARY:{_text(summary)}",
        f"DESCRIPTION:{_text(how)}",
        *address,
        "TRANSP:TRANSPARENT",
        *_alarm(certificate.not_after - now, summary),
        "END:VEVENT",
        "END:VCALENDAR",
    ]
    return b"".join(_folded(line) for line in lines)


def _alarm(left: timedelta, summary: str) -> list[str]:
    days = min(ALARM_DAYS, left.days // 2)
    if days < 1:
        return []
    alarm = ["BEGIN:VALARM", "ACTION:DISPLAY", f"DESCRIPTION:{_text(summary)}", _trigger(days)]
    return [*alarm, "END:VALARM"]


def _trigger(days: int) -> str:
    """So many days before, at nine in the morning: what lasts the whole day begins at midnight."""
    return f"TRIGGER:-P{days - 1}DT15H" if days > 1 else "TRIGGER:-PT15H"


def _text(value: str) -> str:
    """RFC 5545 3.3.11."""
    return re.sub(r"([\\;,])", r"\\\1", visible(value))


def _folded(line: str) -> bytes:
    """With its end; a long one goes on in lines that begin with a blank, and no letter is cut (3.1)."""
    pieces, piece = [], b""
    for letter in line:
        encoded = letter.encode()
        if len(piece) + len(encoded) > MAX_LINE:
            pieces.append(piece)
            piece = b" "
        piece += encoded
    return b"\r\n".join([*pieces, piece]) + b"\r\n"
