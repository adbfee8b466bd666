"""docs/reference.md tells of every command, address and error, and of nothing that does not exist."""

import re
from pathlib import Path

import click
import pytest

from certbob import errors
from certbob.cli import cli
from certbob.paths import resource_root
from certbob.web import create_app
from certbob.web.context import WebSettings
from certbob.web.errors import status_of

REFERENCE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
NOT_OVER_HTTP = {"cannot_start", "no_key"}


def section(title: str) -> str:
    return REFERENCE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def commands(group: click.Command, prefix: str = "") -> dict[str, click.Command]:
    if not isinstance(group, click.Group):
        return {prefix.strip(): group}
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found |= commands(command, f"{prefix} {name}")
    return found


def test_every_command_is_documented() -> None:
    documented = {re.sub(r"[`A-Z]", "", row[0]).strip() for row in rows("Commands")}

    assert documented == set(commands(cli))


@pytest.mark.parametrize(("name", "command"), commands(cli).items())
def test_every_option_is_documented(name: str, command: click.Command) -> None:
    (row,) = [row for row in rows("Commands") if re.sub(r"[`A-Z]", "", row[0]).strip() == name]
    options = {option for p in command.params if isinstance(p, click.Option) for option in p.opts}

    assert set(re.findall(r"--[a-z-]+", row[1])) == options


def test_every_address_is_documented_with_its_methods() -> None:
    settings = WebSettings("http://127.0.0.1:8000", None, None, direct_download=True, ask_older=True)
    app = create_app(settings, root=resource_root())
    existing = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) & {"GET", "POST"}
    }
    documented = {call for row in rows("Addresses") for call in re.findall(r"`((?:GET|POST) [^`]+)`", row[0])}

    assert documented == existing


def problems(kind: type[errors.Problem] = errors.Problem) -> dict[str, type[errors.Problem]]:
    found = {kind.code: kind} if "code" in vars(kind) else {}
    for below in kind.__subclasses__():
        found |= problems(below)
    return found


def test_every_error_is_documented_with_its_status() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows("Errors")}
    existing = {
        code: "-" if code in NOT_OVER_HTTP else str(status_of(kind.__new__(kind)))
        for code, kind in problems().items()
    }

    assert documented == existing
