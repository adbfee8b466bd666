"""Log lines: one an event, none forged, and no secret in them."""

import json
import logging

import pytest

from certbob.keys import derive_key, passphrase_for
from certbob.logs import JsonFormatter, TextFormatter, is_news

SECRETS = (
    "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJjYW5hcnkifQ.c2lnbmF0dXJl",
    passphrase_for(derive_key("x" * 32, "passphrase"), "some grant"),
    "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----",
)
FORMATTERS = (TextFormatter(), JsonFormatter())


def line(formatter: logging.Formatter, message: str, error: Exception | None = None) -> str:
    exc_info = (type(error), error, None) if error else None
    record = logging.LogRecord("certbob.test", logging.INFO, __file__, 1, message, (), exc_info)
    return formatter.format(record)


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize("secret", SECRETS)
def test_what_slipped_in_is_scrubbed(formatter: logging.Formatter, secret: str) -> None:
    told = line(formatter, f"before {secret} after") + line(formatter, "x", RuntimeError(secret))

    for part in secret.split("\n")[1:2] or [secret]:
        assert part not in told
    assert "***" in told


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_a_message_cannot_forge_a_line_or_move_a_terminal(formatter: logging.Formatter) -> None:
    told = line(formatter, "a\r\n2026-01-01T00:00:00Z INFO certbob.audit forged\x1b[2J\u202e")

    assert len(told.splitlines()) == 1
    assert "\x1b" not in told
    assert "\r" not in told


def test_json_lines_are_json() -> None:
    event = json.loads(line(JsonFormatter(), 'says "hello"', ValueError("why")))

    assert (event["level"], event["logger"], event["message"]) == ("info", "certbob.test", 'says "hello"')
    assert "why" in event["exception"]


@pytest.mark.parametrize(
    ("text", "is_told"), [("SSL shutdown timed out", False), ("the database did not answer", True)]
)
def test_a_client_that_never_ends_tls_is_no_news(text: str, is_told: bool) -> None:
    """Anybody could fill the log with it."""
    error = TimeoutError(text)
    facts = (type(error), error, None)
    record = logging.LogRecord("asyncio", logging.ERROR, __file__, 1, "unhandled", (), facts)
    assert is_news(record) is is_told
    assert is_news(logging.LogRecord("asyncio", logging.ERROR, __file__, 1, text, (), None))
