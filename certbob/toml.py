"""TOML with line numbers, which `tomllib` does not give, and back to text."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from certbob.words import format_duration

Keys = tuple[str | int, ...]  # ("server", "listen"), ("profiles", 0, "label")

_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)'
    r"|'''.*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[][{}\n]",
    re.DOTALL,
)


class NotTOML(ValueError):
    def __init__(self, words: str, line: int) -> None:
        super().__init__(words)
        self.line = line


def parse(text: str) -> tuple[dict[str, Any], dict[Keys, int]]:
    """The document, and the line of every table and key in it. Raises NotTOML."""
    try:
        # With a newline at the end `tomllib` knows the line of a mistake in the last one.
        return tomllib.loads(f"{text}\n"), _lines(text)
    except RecursionError:
        raise NotTOML("Nested too deeply", _first_broken(text)) from None
    except ValueError as error:
        words, line, *_ = [*_LINE.split(str(error)), None]
        words = (words or "").replace("Cannot overwrite a value", "The same key again")
        raise NotTOML(words, int(line) if line else _first_broken(text)) from None


def dump(document: Mapping[str, Any], parent: str = "") -> Iterator[str]:
    """The lines of a document. None is left out; of every table the plain keys come first."""
    for key, value in sorted(document.items(), key=lambda item: _is_table(item[1])):
        match value:
            case None:
                pass
            case dict():
                yield from ("", f"[{parent}{key}]", *dump(value, f"{parent}{key}."))
            case [dict(), *_]:
                for table in value:
                    yield from ("", f"[[{parent}{key}]]", *dump(table, f"{parent}{key}."))
            case _:
                yield f"{key} = {_literal(value)}"


def _is_table(value: object) -> bool:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, dict)


def _literal(value: object) -> str:
    match value:
        case timedelta():
            return f'"{format_duration(value)}"'
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case _:
            # JSON writes texts, numbers and truth values as TOML does, but for this one character.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each `key = value` and `[header]`, however many lines it has, with the number of its first line."""
    depth, start, number = 0, 0, 1
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case "\n" if depth <= 0:
                statement = text[start : token.end()]
                yield number, statement
                depth, start, number = 0, token.end(), number + statement.count("\n")
    yield number, text[start:]


def _first_broken(text: str) -> int:
    """The line of the first statement that is wrong by itself."""
    for number, statement in _statements(text):
        try:
            tomllib.loads(statement)
        except (ValueError, RecursionError):
            return number
    return 1


def _lines(text: str) -> dict[Keys, int]:
    """Of a document that parses: each of its statements parses alone."""
    lines: dict[Keys, int] = {}
    entries: Counter[Keys] = Counter()
    table: Keys = ()
    for number, statement in _statements(text):
        keys, is_list = _first_keys(tomllib.loads(statement))
        if statement.lstrip().startswith("["):
            table = (*keys, entries[keys]) if is_list else keys
            entries[keys] += is_list
            keys = table
        else:
            keys = (*table, *keys)
        for length in range(1, len(keys) + 1):
            lines.setdefault(keys[:length], number)
    return lines


def _first_keys(value: object) -> tuple[Keys, bool]:
    """The way down from table to table, and whether it ends in a list."""
    keys: list[str | int] = []
    while isinstance(value, dict) and value:
        key, value = next(iter(value.items()))
        keys.append(key)
    return tuple(keys), isinstance(value, list)
