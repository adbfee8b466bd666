"""JSON as RFC 8259 has it and no laxer: what two readers could read in two ways is refused."""

import json
from typing import Any


def json_object(data: bytes) -> dict[str, Any]:
    """One object; otherwise as `json_value`. Raises ValueError."""
    value = json_value(data)
    if not isinstance(value, dict):
        raise ValueError("JSON is not an object")
    return value


def json_value(data: bytes) -> Any:
    """UTF-8, in objects no name twice, no NaN, no half of a surrogate pair. Raises ValueError."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # a half cannot be encoded
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("JSON has a name twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")
