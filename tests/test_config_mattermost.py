"""`[mattermost]`: who may send commands, in every form that operators write it, and what cannot be meant."""

import string
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from certbob import grammars
from certbob.config import CommandToken, ConfigProblems, Mattermost, Settings, load, redacted
from certbob.secret import Secret

ONE, TWO, THREE = "1" * 26, "2" * 26, "3" * 26
TEAM = "7pzr1k8ybtbkxqnfagcyhzhuoa"
URL = 'url = "https://chat.example.org"'
BOT_TOKEN = "the-canary-sings"
BOT = f'bot_token = "{BOT_TOKEN}"'
NO_TOKEN = "expected the token that Mattermost shows for the slash command (26 small letters and digits)"
NO_TEAM = "expected the id of a team (26 small letters and digits), not its name"


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "config.toml"
    path.write_text(f"[mattermost]\n{text}")
    path.chmod(mode)
    return path


def read(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Mattermost:
    return load(write(folder, text), environ or {}).mattermost


def problems(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """One line each, as `config.toml:3: ...`."""
    with pytest.raises(ConfigProblems) as refused:
        read(folder, text, environ)
    return [line.removeprefix(f"{folder}/") for line in refused.value.problems]


def tokens(*pairs: tuple[str, str | None]) -> tuple[CommandToken, ...]:
    return tuple(CommandToken(token=Secret(token), team=team) for token, team in pairs)


class TestTokens:
    def test_without_one_there_is_no_door(self, tmp_path: Path) -> None:
        assert load(None, {}).mattermost == Mattermost()
        assert read(tmp_path, "token = []").token == ()

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            (f'"{ONE}"', tokens((ONE, None))),
            (f'" {ONE} "', tokens((ONE, None))),
            (f'"{ONE} {TWO}"', tokens((ONE, None), (TWO, None))),
            (f'"{TEAM}:{ONE}"', tokens((ONE, TEAM))),
            (f'"""\n{TEAM}:{ONE}\n{TWO}\n"""', tokens((ONE, TEAM), (TWO, None))),
            (f'["{ONE}"]', tokens((ONE, None))),
            (f'["{ONE}", "{TWO}"]', tokens((ONE, None), (TWO, None))),
            (f'["{TEAM}:{ONE}", "{TWO}"]', tokens((ONE, TEAM), (TWO, None))),
            (f'["{ONE} {TWO}", "{THREE}"]', tokens((ONE, None), (TWO, None), (THREE, None))),
            (f'[{{ token = "{ONE}" }}]', tokens((ONE, None))),
            (f'[{{ team = "{TEAM}", token = "{ONE}" }}]', tokens((ONE, TEAM))),
            (
                f'["{ONE}", {{ team = "{TEAM}", token = "{TWO}" }}, "{THREE}"]',
                tokens((ONE, None), (TWO, TEAM), (THREE, None)),
            ),
        ],
    )
    def test_the_file_has_a_text_or_a_list_of_texts_and_tables(
        self, tmp_path: Path, written: str, expected: tuple[CommandToken, ...]
    ) -> None:
        assert read(tmp_path, f"token = {written}").token == expected

    def test_they_may_be_tables_with_headings(self, tmp_path: Path) -> None:
        text = (
            f'[[mattermost.token]]\ntoken = "{ONE}"\n[[mattermost.token]]\nteam = "{TEAM}"\ntoken = "{TWO}"'
        )

        assert read(tmp_path, text).token == tokens((ONE, None), (TWO, TEAM))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (ONE, tokens((ONE, None))),
            (f"{TEAM}:{ONE} {TWO}", tokens((ONE, TEAM), (TWO, None))),
            (f"  {ONE}\n\t{TEAM}:{TWO}\n", tokens((ONE, None), (TWO, TEAM))),
        ],
    )
    def test_the_environment_has_them_with_blanks_between(
        self, tmp_path: Path, text: str, expected: tuple[CommandToken, ...]
    ) -> None:
        (tmp_path / "tokens").write_text(text)
        (tmp_path / "mattermost_token").write_text(text)

        assert load(None, {"MATTERMOST_TOKEN": text}).mattermost.token == expected
        for environ in (
            {"MATTERMOST_TOKEN_FILE": str(tmp_path / "tokens")},
            {"CREDENTIALS_DIRECTORY": str(tmp_path)},
        ):
            assert load(None, environ).mattermost.token == expected
        assert read(tmp_path, 'token_file = "tokens"').token == expected

    def test_the_environment_goes_before_the_file(self, tmp_path: Path) -> None:
        assert read(tmp_path, f'token = "{ONE}"', {"MATTERMOST_TOKEN": TWO}).token == tokens((TWO, None))
        assert read(tmp_path, f'token = "{ONE}"', {"MATTERMOST_TOKEN": " "}).token == tokens((ONE, None))

    def test_each_table_may_name_a_file_of_its_own(self, tmp_path: Path) -> None:
        (tmp_path / "one").write_text(f"{ONE}\n")
        text = f'token = [{{ team = "{TEAM}", token_file = "one" }}, "{TWO}"]'

        assert read(tmp_path, text).token == tokens((ONE, TEAM), (TWO, None))

    def test_text_and_file_together_are_a_mistake(self, tmp_path: Path) -> None:
        (tmp_path / "one").write_text(ONE)

        assert problems(tmp_path, f'token = "{TWO}"\ntoken_file = "one"') == [
            "config.toml:3: [mattermost] token_file: expected either the value or a file that holds it,"
            " not both"
        ]

    @pytest.mark.parametrize("length", [16, 26, 128])
    def test_one_may_be_of_any_letters_and_digits(self, tmp_path: Path, length: int) -> None:
        token = (string.ascii_letters + string.digits + "_-" + "a" * 128)[-length:]

        assert read(tmp_path, f'token = "{token}"').token == tokens((token, None))

    @pytest.mark.parametrize(
        "bad", ["", "a" * 15, "a" * 129, "a" * 25 + "é", "a" * 25 + "!", "\U0001d7d8" * 26]
    )
    def test_one_that_is_too_short_or_too_long_or_of_other_characters_is_refused(
        self, tmp_path: Path, bad: str
    ) -> None:
        (tmp_path / "tokens").write_text(f"{ONE} {bad}")
        where = "[mattermost] token"

        assert problems(tmp_path, f'token = "{bad}"') == [f"config.toml:2: {where} #1 token: {NO_TOKEN}"]
        assert problems(tmp_path, f'token = ["{ONE}", "{bad}"]') == [
            f"config.toml:2: {where} #2 token: {NO_TOKEN}"
        ]
        assert problems(tmp_path, f'token = [\n{{ token = "{ONE}" }},\n{{ token = "{bad}" }}]') == [
            f"config.toml:2: {where} #2 token: {NO_TOKEN}"
        ]
        if bad:
            assert problems(tmp_path, "", {"MATTERMOST_TOKEN": f"{ONE} {bad}"}) == [
                f"MATTERMOST_TOKEN #2 token: {NO_TOKEN}"
            ]
            assert problems(tmp_path, 'token_file = "tokens"') == [
                f"config.toml:2: {where}_file #2 token: {NO_TOKEN}"
            ]

    @pytest.mark.parametrize("bad", ["", "acme", TEAM.upper(), TEAM[:-1], f"{TEAM}a", f"{TEAM[:-1]}é"])
    def test_a_team_is_told_by_its_id(self, tmp_path: Path, bad: str) -> None:
        where = "config.toml:2: [mattermost] token #1 team"

        assert problems(tmp_path, f'token = [{{ team = "{bad}", token = "{ONE}" }}]') == [
            f"{where}: {NO_TEAM}"
        ]
        assert problems(tmp_path, f'token = ["{bad}:{ONE}"]') == [f"{where}: {NO_TEAM}"]
        assert problems(tmp_path, "", {"MATTERMOST_TOKEN": f"{bad}:{ONE}"}) == [
            f"MATTERMOST_TOKEN #1 team: {NO_TEAM}"
        ]

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("5", "token: expected a list of tables"),
            ("true", "token: expected a list of tables"),
            ("[5]", "token: expected a list of tables"),
            (f'[["{ONE}"]]', "token: expected a list of tables"),
            (f'{{ token = "{ONE}" }}', "token: expected a list of tables"),
            ("[{}]", "token #1 token: is missing"),
            (f'[{{ team = "{TEAM}" }}]', "token #1 token: is missing"),
            (f'[{{ token = "{ONE}", channel = "x" }}]', "token #1 channel: unknown key"),
            ("[{ token = 5 }]", "token #1 token: expected text in quotes"),
            (f'[{{ token = ["{ONE}"] }}]', "token #1 token: expected text in quotes"),
        ],
    )
    def test_other_forms_are_refused(self, tmp_path: Path, written: str, expected: str) -> None:
        assert problems(tmp_path, f"token = {written}") == [f"config.toml:2: [mattermost] {expected}"]

    def test_a_file_that_gives_nothing_is_a_mistake(self, tmp_path: Path) -> None:
        (tmp_path / "empty").write_text(" \n")
        where = "config.toml:2: [mattermost] token_file: expected a file that"

        assert problems(tmp_path, 'token_file = "empty"') == [f"{where} is not empty"]
        assert problems(tmp_path, 'token_file = "missing"') == [
            f"{where} can be read (No such file or directory)"
        ]

    def test_no_problem_tells_a_token(self, tmp_path: Path) -> None:
        secret = "the!canary!sings!in!the!oak"
        for text in (
            f'token = "{secret}"',
            f'token = ["{secret}"]',
            f'token = ["{secret}:{ONE}"]',
            f'token = [{{ token = "{secret}" }}]',
            f'token = [{{ team = "{secret}", token = "{secret}" }}]',
            f'token = {{ "a" = "{secret}" }}',
            f'url = "{secret}"',
            f'{BOT}\nurl = "https://bot:{secret}@chat.example.org"',
            f'email_domain = "{secret}"',
            f'identity = "{secret}"',
            f'{BOT[:-1]}{secret}"',
        ):
            assert secret not in "".join(problems(tmp_path, text))


class TestReaders:
    """Whoever reads a token can be anybody."""

    @pytest.mark.parametrize("mode", [0o640, 0o604])
    @pytest.mark.parametrize(
        "text",
        [
            f'token = "{ONE}"',
            f'token = ["{ONE}"]',
            f'token = [{{ token = "{ONE}" }}]',
            f'token = [{{ team = "{TEAM}", token_file = "one" }}, "{TWO}"]',
            f'[[mattermost.token]]\ntoken = "{ONE}"',
            f"{URL}\n{BOT}",
        ],
    )
    def test_a_file_with_tokens_is_for_its_owner_alone(self, tmp_path: Path, text: str, mode: int) -> None:
        (tmp_path / "one").write_text(ONE)
        path = write(tmp_path, text, mode)
        for environ in ({}, {"MATTERMOST_TOKEN": THREE}):
            with pytest.raises(ConfigProblems) as refused:
                load(path, environ)

            assert (
                str(refused.value) == f"{path}: holds secrets, and others can read it: run chmod 600 {path}"
            )

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "token = []",
            'token_file = "one"',
            f'token = [{{ team = "{TEAM}", token_file = "one" }}]',
            f'{URL}\nbot_token_file = "one"',
        ],
    )
    def test_others_may_read_one_without(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "one").write_text(ONE)

        assert load(write(tmp_path, text, 0o644), {})


class TestCombinations:
    @pytest.mark.parametrize(
        ("text", "missing"),
        [
            (BOT, "url, because bot_token is for that server"),
            (
                'identity = "email"',
                'url and bot_token, because identity = "email" asks there for the address',
            ),
            (
                f'identity = "email"\n{URL}',
                'url and bot_token, because identity = "email" asks there for the address',
            ),
            (
                'identity = "link"\nemail_domain = "example.org"',
                'no email_domain: with identity = "link" the address is that of the web account',
            ),
            (
                'verify_trigger = "require"',
                'url, because verify_trigger = "require" needs the key of that server',
            ),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, tmp_path: Path, text: str, missing: str) -> None:
        assert problems(tmp_path, text) == [f"config.toml:1: [mattermost]: expected {missing}"]

    @pytest.mark.parametrize(
        "text",
        [
            URL,
            f"{URL}\n{BOT}",
            f'{URL}\n{BOT}\nidentity = "email"',
            f'{URL}\n{BOT}\nidentity = "email"\nemail_domain = "example.org"',
            'identity = "username"\nemail_domain = "example.org"',
            'identity = "link"',
            f'identity = "link"\n{URL}\n{BOT}',
            f'{URL}\nverify_trigger = "require"',
            'verify_trigger = "auto"',
            'verify_trigger = "off"\nopen = false',
        ],
    )
    def test_everything_else_goes_together(self, tmp_path: Path, text: str) -> None:
        read(tmp_path, f'token = "{ONE}"\n{text}')

    def test_a_part_may_come_from_the_environment(self, tmp_path: Path) -> None:
        environ = {"MATTERMOST_URL": "https://chat.example.org", "MATTERMOST_BOT_TOKEN": BOT_TOKEN}
        settings = read(tmp_path, f'token = "{ONE}"\nidentity = "email"', environ)

        assert settings.url == "https://chat.example.org"
        assert settings.bot_token == Secret(BOT_TOKEN)

    @pytest.mark.parametrize(
        ("key", "choices"),
        [
            ("identity", '"username", "email" or "link"'),
            ("verify_trigger", '"auto", "require" or "off"'),
        ],
    )
    @pytest.mark.parametrize("bad", ['"none"', '"Link"', '""', "true", "5"])
    def test_choices_are_choices(self, tmp_path: Path, key: str, choices: str, bad: str) -> None:
        assert problems(tmp_path, f"{key} = {bad}") == [
            f"config.toml:2: [mattermost] {key}: expected {choices}"
        ]

    def test_open_is_true_or_false(self, tmp_path: Path) -> None:
        assert load(None, {"MATTERMOST_OPEN": "false"}).mattermost.open is False
        assert problems(tmp_path, 'open = "no"') == [
            "config.toml:2: [mattermost] open: expected true or false"
        ]

    @pytest.mark.parametrize(
        "bad", ["", " ", "a" * 7, "a" * 513, "a" * 26 + "\\n", "a" * 26 + "é", "a b" * 9]
    )
    def test_a_bot_token_fits_into_a_header(self, tmp_path: Path, bad: str) -> None:
        assert problems(tmp_path, f'{URL}\nbot_token = "{bad}"') == [
            "config.toml:3: [mattermost] bot_token: expected an access token as Mattermost shows it"
            " (26 small letters and digits)"
        ]

    @pytest.mark.parametrize("token", ["a" * 8, ONE, "aZ0._~+/=-" * 51])
    def test_others_are_one(self, tmp_path: Path, token: str) -> None:
        assert read(tmp_path, f'{URL}\nbot_token = "{token}"').bot_token == Secret(token)


class TestAddresses:
    @pytest.mark.parametrize(
        ("written", "url"),
        [
            ("https://chat.example.org", "https://chat.example.org"),
            ("https://chat.example.org/", "https://chat.example.org"),
            ("https://chat.example.org:8065", "https://chat.example.org:8065"),
            ("https://example.org/chat", "https://example.org/chat"),
            ("https://example.org/company/chat/", "https://example.org/company/chat"),
            ("http://localhost:8065", "http://localhost:8065"),
            ("http://127.0.0.1:8065", "http://127.0.0.1:8065"),
            ("http://[::1]:8065/chat", "http://[::1]:8065/chat"),
        ],
    )
    def test_the_site_url_may_have_a_path(self, tmp_path: Path, written: str, url: str) -> None:
        assert grammars.chat_url(written) == url
        assert read(tmp_path, f'url = "{written}"').url == url

    @pytest.mark.parametrize(
        "bad",
        [
            "",
            "chat.example.org",
            "//chat.example.org",
            "ftp://chat.example.org",
            "HTTPS://chat.example.org",
            "https://",
            "https://chat.example.org:0",
            "https://chat.example.org:65536",
            "https://bot:secret@chat.example.org",
            "https://chat.example.org/?a=b",
            "https://chat.example.org/#a",
            "https://chat.example.org/a b",
            "https://chat.example.org\\n",
            "https://chat_example.org",
            "https://1.2.3.256",
            "https://[::1",
            "https://chät.example.org",
        ],
    )
    def test_what_is_none_is_refused(self, tmp_path: Path, bad: str) -> None:
        assert problems(tmp_path, f'url = "{bad}"') == [
            'config.toml:2: [mattermost] url: expected an address such as "https://chat.example.org"'
        ]

    @pytest.mark.parametrize(
        "bad", ["http://chat.example.org", "http://10.0.0.1", "http://localhost.evil.example"]
    )
    def test_plain_http_is_for_this_machine(self, tmp_path: Path, bad: str) -> None:
        assert problems(tmp_path, f'url = "{bad}"') == [
            "config.toml:2: [mattermost] url: expected an address that begins with https, "
            "because plain http is for this machine alone"
        ]

    @pytest.mark.parametrize(
        ("written", "domain"),
        [
            ("example.org", "example.org"),
            ("corp.example-1.org", "corp.example-1.org"),
            ("b\u00fccher.example", "xn--bcher-kva.example"),
        ],
    )
    def test_a_domain_is_what_stands_behind_the_at(self, tmp_path: Path, written: str, domain: str) -> None:
        assert grammars.domain(written) == domain
        assert read(tmp_path, f'email_domain = "{written}"').email_domain == domain

    @pytest.mark.parametrize(
        "bad",
        [
            "",
            "localhost",
            "@example.org",
            "a@example.org",
            "example.org.",
            ".example.org",
            "a b.org",
            "a,b.org",
            "example.org\\n",
            "https://example.org",
            "-a.org",
            "[192.0.2.1]",
            "a" * 64 + ".org",
        ],
    )
    def test_what_is_no_domain_is_refused(self, tmp_path: Path, bad: str) -> None:
        assert problems(tmp_path, f'email_domain = "{bad}"') == [
            'config.toml:2: [mattermost] email_domain: expected a domain such as "example.org"'
        ]


class TestRedaction:
    def test_no_token_of_the_file_is_shown(self, tmp_path: Path) -> None:
        text = f"""
        token = ["{ONE}", {{ team = "{TEAM}", token = "{TWO}" }}]
        url = "https://chat.example.org"
        {BOT}
        """
        settings = load(write(tmp_path, text), {})

        assert_blank(redacted(settings))
        assert_blank(repr(settings))
        assert_blank(str(settings.mattermost))

    def test_all_but_the_tokens_is_shown(self, tmp_path: Path) -> None:
        text = f"""
        token = ["{ONE}", {{ team = "{TEAM}", token = "{TWO}" }}]
        url = "https://chat.example.org"
        {BOT}
        open = false
        """
        shown = tomllib.loads(redacted(load(write(tmp_path, text), {})))["mattermost"]

        assert shown["token"] == [{"token": "***"}, {"token": "***", "team": TEAM}]
        assert (shown["url"], shown["bot_token"], shown["open"]) == ("https://chat.example.org", "***", False)

    def test_nor_is_one_of_the_environment(self) -> None:
        settings = load(None, {"MATTERMOST_TOKEN": f"{ONE} {TEAM}:{TWO}"})

        assert_blank(redacted(settings))
        assert_blank(repr(settings))

    def test_defaults_are_shown_too(self) -> None:
        assert tomllib.loads(redacted(Settings()))["mattermost"] == {
            "token": [],
            "identity": "username",
            "verify_trigger": "auto",
            "open": True,
        }


def assert_blank(text: str) -> None:
    assert not any(secret in text for secret in (ONE, TWO, "canary"))
