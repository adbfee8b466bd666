"""Reads frozen Structs out of a TOML file and the environment, and collects every problem on the way.

A key is taken from the first place that gives it: the environment (`SERVER_LISTEN`), systemd's credentials,
the file. Its type says what it holds; a function in the type's `Annotated` is the grammar that reads its text
(`certbob.grammars`). What holds secrets may also be given by a file (`secret_file`, `SERVER_SECRET_FILE`).
"""

import difflib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from enum import EnumType
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from certbob import grammars, toml
from certbob.grammars import InFolder
from certbob.secret import Secret

T = TypeVar("T", bound=Struct)

Where = tuple[str | int, ...]  # ("[server]", "listen"), ("[profiles]", 0, "label"), ("SERVER_LISTEN",)


class ConfigProblems(Exception):
    """Everything that is wrong with a configuration, one line a problem. No line holds a value."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class _Given(NamedTuple):
    """A value and where it stands. `text`: it comes from the environment or a file, where all is text."""

    value: Any
    where: Where
    folder: Path  # where relative paths begin
    text: bool


class Reader:
    """One file (or none) and one environment. A table that has a problem is judged no further."""

    def __init__(self, path: Path | None, environ: Mapping[str, str]) -> None:
        """Raises ConfigProblems when the file cannot be read."""
        self._path = path
        self._folder = path.parent if path else Path()
        self._environ = environ
        self._document: dict[str, Any] = {}
        self._lines: dict[toml.Keys, int] = {}
        self._others_can_read = False
        self._holds_secrets = False
        self._found: set[tuple[type, str]] = set()
        self._problems: list[tuple[int, str]] = []
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read().decode("utf-8-sig")  # some editors put a mark in front
            self._document, self._lines = toml.parse(text)
        except OSError as error:
            raise ConfigProblems([f"{path}: cannot be read: {error.strerror}"]) from None
        except UnicodeDecodeError:
            raise ConfigProblems([f"{path}: is not UTF-8 text"]) from None
        except toml.NotTOML as error:
            raise ConfigProblems([f"{path}:{error.line}: is not TOML: {error}"]) from None
        # systemd lets the service's user in by an access control list, which shows in the group's bits.
        is_credential = str(path.parent) == self._environ.get("CREDENTIALS_DIRECTORY")
        self._others_can_read = bool(mode & 0o044) and not is_credential

    def refuse_other_sections(self, known: Sequence[str]) -> None:
        for name in self._document:
            if name not in known:
                self.report((f"[{name}]",), f"unknown section{_nearest(name, known)}")

    def section(self, name: str, shape: type[T]) -> T | None:
        """`[name]`, or None when something in it is wrong."""
        given = _Given(self._document.get(name, {}), (f"[{name}]",), self._folder, text=False)
        if not isinstance(given.value, dict):
            self.report(given.where, f"expected a table, [{name}]")
            return None
        self._holds_secrets |= _holds_secret(shape, given.value)
        variables, credentials = {}, {}
        for key in fields(shape):
            for alias in _aliases(key):
                variable = f"{name}_{alias}".upper()
                if (text := self._environ.get(variable, "")).strip():
                    variables[alias] = _Given(text, (variable,), Path(), text=True)
            if _is_secret(key) and (file := self._credential(f"{name}_{key.name}")):
                where = (f"credential {name}_{key.name}",)
                credentials[f"{key.name}_file"] = _Given(file, where, Path(), text=True)
        return self._table(shape, given, variables, credentials)

    def _credential(self, name: str) -> str | None:
        """systemd.exec(5), LoadCredential=."""
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        return file if folder and os.path.isfile(file := f"{folder}/{name}") else None

    def tables(self, name: str, shape: type[T]) -> tuple[T, ...] | None:
        """All of `[[name]]`, or None when there are none or something in them is wrong."""
        if name not in self._document:
            return None
        given = _Given(self._document[name], (f"[{name}]",), self._folder, text=False)
        try:
            tables = self._tables(shape, given)
            if not tables and not given.value:
                raise ValueError("at least one table")
        except ValueError as error:
            self.report(given.where, f"expected {error}")
            return None
        return tables if len(tables) == len(given.value) else None

    def has(self, shape: type[Struct], key: str) -> bool:
        """Whether somebody gave this key, right or wrong."""
        return (shape, key) in self._found

    def report(self, where: Where, words: str) -> None:
        """Like a compiler: `config.toml:12: [server] listen: ...`; an environment has no lines."""
        line = self._line(where)
        name = " ".join(f"#{part + 1}" if isinstance(part, int) else _printable(part) for part in where)
        self._problems.append((line, f"{self._path}:{line}: {name}: {words}" if line else f"{name}: {words}"))

    def finish(self) -> None:
        """Raises ConfigProblems if there are any, in the order of the file."""
        if self._holds_secrets and self._others_can_read:
            mend = f"run chmod 600 {shlex.quote(str(self._path))}"
            self._problems.append((0, f"{self._path}: holds secrets, and others can read it: {mend}"))
        if self._problems:
            raise ConfigProblems([words for _, words in sorted(self._problems, key=itemgetter(0))])

    def _line(self, where: Where) -> int:
        """The line of the nearest thing that has one; 0: not in the file."""
        section, *keys = where
        path = (str(section).strip("[]"), *keys) if str(section).startswith("[") else ()
        return next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 0)

    def _table(self, shape: type[T], given: _Given, *overruling: Mapping[str, _Given]) -> T | None:
        """The table that is given, but for the keys that a source overrules."""
        problems = len(self._problems)
        own = {name: given._replace(value=v, where=(*given.where, name)) for name, v in given.value.items()}
        known = [alias for key in fields(shape) for alias in _aliases(key)]
        for name, inline in own.items():
            if name not in known:
                self.report(inline.where, f"unknown key{_nearest(name, known)}")
        values: dict[str, object] = {}
        for key in fields(shape):
            choices = ({a: source[a] for a in _aliases(key) if a in source} for source in (*overruling, own))
            found = next(filter(None, choices), None)
            if found is not None:
                self._found.add((shape, key.name))
                try:
                    values[key.name] = self._value(key, found)
                except ValueError as error:
                    *_, last = found.values()
                    self.report(last.where, f"expected {error}")
            elif key.required:
                self.report((*given.where, key.name), "is missing")
            elif isinstance(key.default, Path):
                values[key.name] = self._folder / key.default
        if len(self._problems) > problems:
            return None
        try:
            return shape(**values)
        except ValueError as error:
            self.report(given.where, f"expected {error}")
            return None

    def _value(self, key: FieldInfo, found: Mapping[str, _Given]) -> object:
        """Raises ValueError with the words that complete "expected ..."."""
        if len(found) > 1:
            raise ValueError("either the value or a file that holds it, not both")
        [(alias, given)] = found.items()
        if alias != key.name:
            given = _content(given)
        shape, grammar = _shape(key.type), _grammar(key.type)
        if shape is None:
            return _convert(key.type, given)
        if grammar and isinstance(given.value, str):
            given = given._replace(value=grammar(given.value))
        elif grammar and isinstance(given.value, list):
            rows = ([row] if not isinstance(row, str) else grammar(row) for row in given.value)
            given = given._replace(value=list(chain.from_iterable(rows)))
        return self._tables(shape, given)

    def _tables(self, shape: type[T], given: _Given) -> tuple[T, ...]:
        if not isinstance(given.value, list) or not all(isinstance(table, dict) for table in given.value):
            raise ValueError("a list of tables")
        items = [given._replace(value=v, where=(*given.where, n)) for n, v in enumerate(given.value)]
        tables = [self._table(shape, item) for item in items]
        return tuple(table for table in tables if table is not None)


def _content(given: _Given) -> _Given:
    """The text of the file that a `..._file` key names, without blanks at its end."""
    file = grammars.path(_text(given.value), given.folder)
    try:
        text = file.read_text("utf-8").rstrip()
    except OSError as error:
        raise ValueError(f"a file that can be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError("a file of UTF-8 text") from None
    if not text:
        raise ValueError("a file that is not empty")
    return given._replace(value=text, text=True)


def _convert(hint: Any, given: _Given) -> object:
    """Raises ValueError with the words that complete "expected ..."."""
    many, grammar = get_origin(hint) is tuple, _grammar(hint)
    value = _text(given.value) if given.text else given.value
    if many and given.text:
        value = value.replace(",", " ").split()
    if grammar is None:
        try:
            return msgspec.convert(value, hint, strict=not given.text)
        except msgspec.ValidationError:  # its message may quote the value
            raise ValueError(_what(hint)) from None
    if many and not isinstance(value, list):
        raise ValueError("a list of texts")
    texts = map(_text, value if many else [value])
    if isinstance(grammar, InFolder):
        values = tuple(grammar.read(text, given.folder) for text in texts)
    else:
        values = tuple(grammar(text) for text in texts)
    return values if many else values[0]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text in quotes")
    if re.search("[\ud800-\udfff]", value):  # bytes of an environment that are not UTF-8
        raise ValueError("UTF-8 text")
    return value


def _what(hint: Any) -> str:
    """What a key without a grammar holds."""
    parts = tuple(_parts(hint))
    if bool in parts:
        return "true or false"
    if int in parts:
        [limits] = (part for part in parts if isinstance(part, Meta))
        what = "a list of whole numbers" if get_origin(hint) is tuple else "a whole number"
        return f"{what} from {limits.ge} to {limits.le}"
    *choices, last = (f'"{choice}"' for choice in (hint if isinstance(hint, EnumType) else parts))
    return f"{', '.join(choices)} or {last}"


def _parts(hint: object) -> Iterator[object]:
    """What a type is made of: `Annotated[Secret, grammar] | None` of Secret, grammar and NoneType."""
    if not get_args(hint):
        yield hint
    for arg in get_args(hint):
        yield from _parts(arg)


def _grammar(hint: object) -> Any:
    return next((part for part in _parts(hint) if isinstance(part, FunctionType | InFolder)), None)


def _shape(hint: object) -> type[Struct] | None:
    """What a list of tables is made of."""
    return next((part for part in _parts(hint) if isinstance(part, type) and issubclass(part, Struct)), None)


def _is_secret(key: FieldInfo) -> bool:
    shape = _shape(key.type)
    return Secret in _parts(key.type) or (shape is not None and any(map(_is_secret, fields(shape))))


def _holds_secret(shape: type[Struct], table: Mapping[str, object]) -> bool:
    """Whether a table of the file does, even if the environment overrules it."""
    for key in fields(shape):
        value, rows = table.get(key.name), _shape(key.type)
        if isinstance(value, str) and _is_secret(key):
            return True
        items = value if isinstance(value, list) else []
        if _is_secret(key) and any(isinstance(item, str) for item in items):
            return True
        tables = [item for item in items if isinstance(item, dict)]
        if rows and any(_holds_secret(rows, row) for row in tables):
            return True
    return False


def _aliases(key: FieldInfo) -> list[str]:
    """The names under which a key may be given."""
    return [key.name, f"{key.name}_file"] if _is_secret(key) else [key.name]


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def _printable(key: str) -> str:
    """A key as the file has it, unless it would garble a terminal."""
    return key if re.fullmatch("[ -~]{1,80}", key) else "(unprintable)"
