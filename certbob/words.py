"""How times and durations read in sentences for people, and how operators write durations."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def day(moment: datetime) -> str:
    """`22 February 2027`, in the server's own time zone."""
    local = moment.astimezone()
    return f"{local.day} {local:%B %Y}"


def day_and_month(moment: datetime) -> str:
    """`22 February`."""
    local = moment.astimezone()
    return f"{local.day} {local:%B}"


def at_time(moment: datetime) -> str:
    """`14:35 CET`."""
    return f"{moment.astimezone():%H:%M %Z}"


def day_and_time(moment: datetime) -> str:
    """`24 November 2026 at 14:12 CET`."""
    return f"{day(moment)} at {at_time(moment)}"


def duration(length: timedelta) -> str:
    """`90 days`, `1 day`, `8 hours`, `5 minutes`: the largest unit that loses nothing."""
    seconds = int(length.total_seconds())
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % size == 0 and seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "0 seconds"


def parse_duration(text: str) -> timedelta:
    """`90d`, `8h`, `5m`, `30s`. Raises ValueError for everything else, zero included."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if match is None:
        raise ValueError("a duration such as 30s, 5m, 8h or 90d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def format_duration(length: timedelta) -> str:
    """The inverse of `parse_duration`: `90d`, `8h`."""
    seconds = int(length.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def series(parts: Sequence[object]) -> str:
    """`30, 14 and 3`."""
    *others, last = map(str, parts)
    return f"{', '.join(others)} and {last}" if others else last


def masked(address: str) -> str:
    """`a…@example.org`, for pages that somebody may look at over a shoulder."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}"


def visible(text: str) -> str:
    """A stranger's text, with a mark in the place of each character that nobody sees."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


# For templates.
FILTERS = {
    each.__name__: each for each in (day, day_and_month, at_time, day_and_time, duration, masked, visible)
}
