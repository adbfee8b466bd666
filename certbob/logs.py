"""Logging: one line an event, as text or JSON, and whatever slipped in, no token and no passphrase."""

import json
import logging
import re
import sys
from datetime import UTC, datetime

_SCRUBBED = (
    re.compile(r"\beyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),  # a JWT
    re.compile(r"\b[a-hj-km-np-z2-9]{4}(?:-[a-hj-km-np-z2-9]{4}){4}\b"),  # a passphrase
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL),
)


def scrub(text: str) -> str:
    for secret in _SCRUBBED:
        text = secret.sub("***", text)
    return text


class TextFormatter(logging.Formatter):
    """`2026-11-26T22:15:00Z INFO certbob.access ...`; control characters of an event are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name} {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return scrub(line)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return scrub(json.dumps(event, ensure_ascii=False))


def is_news(record: logging.LogRecord) -> bool:
    """Not that a client went away without ending TLS, which anybody could make asyncio report."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, TimeoutError) and str(error) == "SSL shutdown timed out")


def set_up_logging(level: str, form: str, *, audit: str = "info") -> None:
    """`level` and `form` ("text" or "json") as in `[log]`. Everything goes to standard error.

    `audit`: the level of the audit log's lines, which a service writes whatever the level of the others is.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(is_news)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("certbob").setLevel(level.upper())
    logging.getLogger("certbob.audit").setLevel(audit.upper())


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
