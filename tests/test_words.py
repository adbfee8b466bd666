"""Times and durations as people read them and operators write them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certbob.words import at_time, day, day_and_time, duration, format_duration, parse_duration

LENGTHS = {
    "30s": timedelta(seconds=30),
    "5m": timedelta(minutes=5),
    "90m": timedelta(minutes=90),
    "8h": timedelta(hours=8),
    "36h": timedelta(hours=36),
    "1d": timedelta(days=1),
    "90d": timedelta(days=90),
    "9999999d": timedelta(days=9_999_999),
}


@pytest.fixture
def in_vienna() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("text", "length"), LENGTHS.items())
def test_a_duration_is_read(text: str, length: timedelta) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize(("text", "length"), LENGTHS.items())
def test_a_duration_is_written_as_it_was_read(text: str, length: timedelta) -> None:
    assert format_duration(length) == text


@settings(deadline=None)
@given(st.integers(1, 9_999_999))
def test_every_duration_survives_writing_and_reading(seconds: int) -> None:
    length = timedelta(seconds=seconds)

    assert parse_duration(format_duration(length)) == length


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0s",
        "05m",
        "-1d",
        "+1d",
        "1",
        "d",
        "1w",
        "1D",
        "1.5h",
        "1h30m",
        " 1h",
        "1h ",
        "1h\n",
        "١d",
        "10000000s",
    ],
)
def test_everything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="30s, 5m, 8h or 90d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(days=90), "90 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=8), "8 hours"),
        (timedelta(hours=25), "25 hours"),
        (timedelta(minutes=5), "5 minutes"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(seconds=90), "90 seconds"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_people_read_the_largest_unit_that_loses_nothing(length: timedelta, words: str) -> None:
    assert duration(length) == words


@pytest.mark.usefixtures("in_vienna")
def test_times_are_told_in_the_time_zone_of_the_server() -> None:
    moment = datetime(2026, 11, 24, 23, 35, tzinfo=UTC)

    assert day(moment) == "25 November 2026"
    assert at_time(moment) == "00:35 CET"
    assert day_and_time(moment) == "25 November 2026 at 00:35 CET"
    assert at_time(datetime(2026, 7, 1, 12, 0, tzinfo=UTC)) == "14:00 CEST"
