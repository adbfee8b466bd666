"""config.toml and docs/configuration.md know every key, and only those."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import FieldInfo, fields

from certbob import toml
from certbob.config import LocalUser, ProfileTable, Settings, load

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "config.toml").read_text()
DOCS = (ROOT / "docs/configuration.md").read_text()

SECTIONS = {f"[{section.name}]": section.type for section in fields(Settings) if section.name != "profiles"}
TABLES = {"[[local.users]]": LocalUser, "[[profiles]]": ProfileTable}
ALL_TABLES = pytest.mark.parametrize(("header", "shape"), (SECTIONS | TABLES).items())


def keys_in_reference(header: str) -> list[str]:
    """Those set and those behind a `#`; a `..._file` stands for its secret."""
    lines = re.split(r"^#?(?=\[)", REFERENCE, flags=re.MULTILINE)
    [table] = [text for text in lines if text.startswith(f"{header}\n")]
    return [name.removesuffix("_file") for name in re.findall(r"^#?(\w+) = ", table, re.MULTILINE)]


def documented_rows(header: str) -> dict[str, list[str]]:
    """Key -> the other cells of its row."""
    _, _, section = DOCS.partition(f"## `{header}`\n")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section.partition("\n## ")[0], re.MULTILINE)
    return {key: cells.split(" | ") for key, cells in rows}


def default_in_words(key: FieldInfo) -> str:
    if key.required:
        return "needed"
    if key.default is None:
        return "unset"
    [(_, line)] = [line.split(" = ") for line in toml.dump({key.name: plain(key.default)})]
    return f"`{line}`"


def plain(value: object) -> object:
    return msgspec.to_builtins({"value": value}, builtin_types=(timedelta,), enc_hook=str)["value"]


def commented_out() -> Iterator[str]:
    for line in REFERENCE.splitlines():
        yield line[1:] if re.match(r"#(\w+ = |\[)", line) else line


def test_the_shipped_reference_says_exactly_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)

    assert load(Path("config.toml"), {}) == load(None, {}) == Settings()


@ALL_TABLES
def test_the_reference_shows_every_key_once(header: str, shape: type[msgspec.Struct]) -> None:
    expected = [key.name for key in fields(shape) if key.name != "users"]

    assert keys_in_reference(header) == expected


def test_the_reference_sets_no_secret() -> None:
    secrets = "secret|passphrase|provisioner_password|provisioner_key|password_hash|metrics_token"

    assert not re.findall(rf"^#?(?:{secrets}) = ", REFERENCE, re.MULTILINE)


def test_the_reference_without_its_hashes_is_valid_too(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("\n".join(commented_out()))
    secrets = ("secret.txt", "ca-passphrase.txt", "provisioner-password.txt", "provisioner.jwe")
    for name in (*secrets, "oidc-secret.txt", "smtp-password.txt"):
        (tmp_path / name).write_text("a secret that is made of more than 32 characters\n")
    for name in ("mattermost-token.txt", "mattermost-bot-token.txt", "metrics-token.txt"):
        (tmp_path / name).write_text("zz43nwwhxinfufg9mcmmrehnfe\n")
    (tmp_path / "root_ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "ada.hash").write_text(f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}\n")

    settings = load(config, {"CA_BACKEND": "stepca"})

    assert settings.server.organization == "Example Org"
    assert settings.stepca.root == str(tmp_path / "root_ca.crt")
    assert [user.name for user in settings.local.users] == ["Ada Lovelace"]


@ALL_TABLES
def test_the_documentation_has_every_key_with_its_default(header: str, shape: type[msgspec.Struct]) -> None:
    expected = {key.name: default_in_words(key) for key in fields(shape)}

    assert {key: cells[-2] for key, cells in documented_rows(header).items()} == expected


@pytest.mark.parametrize("header", SECTIONS)
def test_the_documentation_names_the_environment_variables(header: str) -> None:
    rows = documented_rows(header)

    assert {key: cells[0] for key, cells in rows.items()} == {
        key: f"`{header[1:-1]}_{key}`".upper() for key in rows
    }


@ALL_TABLES
def test_the_documentation_marks_the_secrets(header: str, shape: type[msgspec.Struct]) -> None:
    hidden = ("Secret", "LocalUser", "CommandToken")
    expected = {key.name for key in fields(shape) if any(name in str(key.type) for name in hidden)}

    assert {key for key, cells in documented_rows(header).items() if "*secret*" in cells[-1]} == expected
