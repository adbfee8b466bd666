"""The day on which a certificate ends, as another program's calendar reads it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import icalendar
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certbob.calendar_entry import MAX_LINE, calendar_entry
from certbob.errors import UnfitName
from certbob.identity import fit_device_name
from tests.support.preview import CERTIFICATE, HOSTILE

NOW = datetime(2026, 11, 24, 14, 12, tzinfo=UTC)
SITE = "https://cert.example.org"
URL = f"{SITE}/certificates/{CERTIFICATE.serial:x}/replace"


def written(
    device: str = "Work laptop", *, left: timedelta = timedelta(days=90), site: str | None = SITE
) -> bytes:
    return calendar_entry(replace(CERTIFICATE, device=device, not_after=NOW + left), now=NOW, site=site)


def read(content: bytes) -> Any:
    """The one event, as the library has it."""
    calendar = icalendar.Calendar.from_ical(content)
    assert isinstance(calendar, icalendar.Calendar)
    assert calendar.errors == []
    assert (calendar["VERSION"], len(calendar.subcomponents)) == ("2.0", 1)
    assert calendar["PRODID"]
    [event] = calendar.events
    assert event.errors == []
    return event


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_it_says_what_ends_when_and_what_to_do() -> None:
    event = read(written())

    assert event["SUMMARY"] == "Certificate for Work laptop expires"
    assert event["DESCRIPTION"] == f"Replace it here: {URL}"
    assert event["URL"] == URL
    assert event["TRANSP"] == "TRANSPARENT"
    assert event.DTSTAMP == NOW
    assert event.start == date(2027, 2, 22)
    assert event.duration == timedelta(days=1)


def test_who_has_a_chat_alone_is_told_the_command() -> None:
    event = read(written(site=None))

    assert event["DESCRIPTION"] == "To get a new one, run /cert download Work laptop in the chat."
    assert "URL" not in event


@pytest.mark.parametrize(
    ("zone", "day"), [("UTC", 24), ("Pacific/Kiritimati", 25), ("America/Los_Angeles", 24)]
)
def test_the_day_is_the_one_of_the_mail(zone: str, day: int) -> None:
    with time_zone(zone):
        assert read(written(left=timedelta(0))).start == date(2026, 11, day)


def test_a_calendar_has_each_certificate_once() -> None:
    later = calendar_entry(CERTIFICATE, now=NOW + timedelta(days=9), site="https://elsewhere.example.org")
    other = calendar_entry(replace(CERTIFICATE, serial=7), now=NOW, site=SITE)

    assert read(later)["UID"] == read(written())["UID"] != read(other)["UID"]


@pytest.mark.parametrize(
    ("left", "alarm"),
    [(365, 14), (90, 14), (28, 14), (27, 13), (14, 7), (3, 1), (2, 1), (1, None), (0, None)],
)
def test_the_alarm_comes_before_the_end_and_after_today(left: int, alarm: int | None) -> None:
    event = read(written(left=timedelta(days=left)))

    triggers = [each["TRIGGER"].dt for each in event.walk("VALARM")]
    at_nine = timedelta(hours=9)
    assert triggers == ([] if alarm is None else [timedelta(days=-alarm) + at_nine])
    for each in event.walk("VALARM"):
        assert (each["ACTION"], each["DESCRIPTION"]) == ("DISPLAY", event["SUMMARY"])


def fitting(text: str) -> str:
    with suppress(UnfitName):
        return fit_device_name(text)
    return "Phone"


devices = st.text(st.characters(categories=["L", "M", "N"], include_characters=" ._'@-"), max_size=60).map(
    fitting
)


@given(devices | st.text(max_size=80), st.booleans())
@example(HOSTILE, True)
@example("a;b,c\\d\\,e\\n:\"'", True)
@example("END:VEVENT\r\nBEGIN:VEVENT", True)
@example("さくらのパソコン" * 5, True)
@example("\U0001f600" * 40, False)
def test_whatever_a_device_is_called_arrives_in_lines_of_75_octets(device: str, on_the_web: bool) -> None:
    content = written(device, site=SITE if on_the_web else None)

    assert content.endswith(b"\r\n")
    assert not {b"\n"[0], b"\r"[0]} & set(content.replace(b"\r\n", b""))
    for line in content.split(b"\r\n"):
        assert len(line) <= MAX_LINE
        line.decode()
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in device)
    event = read(content)
    assert event["SUMMARY"] == f"Certificate for {shown} expires"
    assert on_the_web or shown in str(event["DESCRIPTION"])
    assert len(event.subcomponents) == 1
