"""What must survive a restart, in portable SQL.

Times are whole seconds since the epoch, truth values 0 and 1, lists JSON text; they are converted here.
"""

import json
from datetime import UTC, datetime


def to_epoch(moment: datetime) -> int:
    return int(moment.timestamp())


def from_epoch(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def to_json(values: tuple[str, ...]) -> str:
    return json.dumps(values)


def from_json(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))
