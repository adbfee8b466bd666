"""What operators write becomes Settings, or one clear line for each mistake, which never holds a value."""

import os
import tempfile
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from certbob import toml
from certbob.config import (
    CA,
    DEFAULT_PROFILE,
    PKCS12,
    Builtin,
    ConfigProblems,
    Issue,
    Limits,
    Local,
    LocalUser,
    Log,
    Reminders,
    Server,
    Settings,
    StepCA,
    find_config,
    load,
    redacted,
)
from certbob.devices import EncodingPolicy
from certbob.ports import Way
from certbob.profiles import KeyType, Profile, Usage
from certbob.secret import Secret

HASH = f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}"
LONG_SECRET = "x" * 32
FINGERPRINT = "0123456789abcdef" * 4
CANARY = "the canary sings"

STEPCA = f"""
[ca]
backend = "stepca"
[stepca]
url = "https://ca.example.org:9000"
root = "{FINGERPRINT}"
provisioner = "certbob"
provisioner_password = "opens the key"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the configuration file; the current folder is another one."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def read(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    return load(write(folder, text), environ or {})


def problems(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """One line each, as `config.toml:3: ...`."""
    with pytest.raises(ConfigProblems) as refused:
        read(folder, text, environ)
    lines = str(refused.value).splitlines()
    assert lines == list(refused.value.problems)
    return [line.removeprefix(f"{folder}/") for line in lines]


def environment_problems(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigProblems) as refused:
        load(None, environ)
    return list(refused.value.problems)


class TestDefaults:
    def test_without_a_file_everything_has_its_default(self) -> None:
        assert load(None, {}) == Settings()

    def test_an_empty_file_has_the_same_defaults_in_its_own_folder(self, folder: Path) -> None:
        expected = Settings(server=Server(data_dir=folder / "data"))

        assert read(folder, "") == expected

    def test_a_key_that_is_left_out_keeps_its_default(self, folder: Path) -> None:
        assert read(folder, '[log]\nlevel = "debug"').log == Log(level="debug", format="text")


class TestValues:
    def test_proxies_are_networks(self, folder: Path) -> None:
        server = read(folder, '[server]\ntrusted_proxies = ["10.0.0.0/8", "::1"]').server

        assert server.trusted_proxies == ("10.0.0.0/8", "::1/128")

    def test_reminders_can_be_turned_off_and_set_by_the_environment(self, folder: Path) -> None:
        assert read(folder, "[reminders]\ndays = []\nby = []").reminders == Reminders(days=(), by=())

        found = load(None, {"REMINDERS_DAYS": "60, 7 1", "REMINDERS_BY": "chat"}).reminders
        assert found == Reminders(days=(60, 7, 1), by=(Way.CHAT,))

    @pytest.mark.parametrize(
        ("public_url", "port", "origin"),
        [
            ("https://cert.example.org", 8444, "https://cert.example.org:8444"),
            ("https://cert.example.org:8443", 8444, "https://cert.example.org:8444"),
            ("https://cert.example.org:8443", 443, "https://cert.example.org"),
            ("https://[2001:db8::1]:8443", 8444, "https://[2001:db8::1]:8444"),
        ],
    )
    def test_certificates_are_tested_on_the_same_host(
        self, folder: Path, public_url: str, port: int, origin: str
    ) -> None:
        text = f'public_url = "{public_url}"\ntest_listen = "0.0.0.0:{port}"'
        server = read(folder, f'[server]\n{text}\ntls_certificate = "a"\ntls_key = "b"').server

        assert server.test_origin == origin

    def test_header_names_are_in_lower_case(self, folder: Path) -> None:
        text = '[server]\ntrusted_proxies = ["::1"]\ncertificate_header = "X-SSL-Cert"'

        assert read(folder, text).server.certificate_header == "x-ssl-cert"
        assert read(folder, "").server.test_origin is None

    def test_paths_begin_in_the_folder_of_the_file(self, folder: Path) -> None:
        text = '[server]\ndata_dir = "var"\ntls_certificate = "/tls/cert.pem"\ntls_key = "key.pem"'
        server = read(folder, text).server

        assert server.data_dir == folder / "var"
        assert server.tls_certificate == Path("/tls/cert.pem")
        assert server.tls_key == folder / "key.pem"

    def test_paths_of_the_environment_begin_in_the_current_folder(self, folder: Path) -> None:
        server = read(folder, '[server]\ndata_dir = "var"', {"SERVER_DATA_DIR": "mine"}).server

        assert server.data_dir == Path("mine")

    def test_other_types_are_read(self, folder: Path) -> None:
        settings = read(
            folder,
            """
            [builtin]
            name = "Example"
            key_type = "rsa3072"
            [issue]
            lifetime = "90s"
            direct_download = false
            [pkcs12]
            encoding = "compatible"
            filename = "{user}-{device}.{ext}"
            include_root = true
            [limits]
            certificates_per_hour = 1000
            """,
        )

        assert settings.builtin == Builtin(name="Example", key_type="rsa3072")
        assert settings.issue == Issue(lifetime=timedelta(seconds=90), direct_download=False)
        assert settings.pkcs12 == PKCS12(
            encoding=EncodingPolicy.COMPATIBLE, filename="{user}-{device}.{ext}", include_root=True
        )
        assert settings.limits == Limits(certificates_per_hour=1000)

    def test_a_mark_that_some_editors_put_in_front_is_no_part_of_the_text(self, folder: Path) -> None:
        assert read(folder, '\ufeff[log]\nlevel = "debug"').log.level == "debug"

    def test_windows_line_ends_are_line_ends(self, folder: Path) -> None:
        path = write(folder, "")
        path.write_bytes(b'[log]\r\nlevel = "debug"\r\nformt = "json"\r\n')
        with pytest.raises(ConfigProblems) as refused:
            load(path, {})

        assert str(refused.value) == f"{path}:3: [log] formt: unknown key, did you mean 'format'?"


class TestMistakes:
    def test_all_are_told_at_once_with_file_line_key_and_expectation(self, folder: Path) -> None:
        text = """\
[server]
listn = "127.0.0.1:8000"
public_url = "http://pki.example.org"

[isue]
[issue]
lifetime = "2h"
direct_download = "yes"
[limits]
certificates_per_hour = 0
[log]
level = "loud"
[[profiles]]
id = "wifi"
"""

        assert problems(folder, text, {"PKCS12_ENCODING": "none"}) == [
            'PKCS12_ENCODING: expected "ask", "modern" or "compatible"',
            "config.toml:2: [server] listn: unknown key, did you mean 'listen'?",
            "config.toml:3: [server] public_url: expected https, because plain http is for this machine "
            "alone: put TLS in front or set tls_certificate",
            "config.toml:5: [isue]: unknown section, did you mean 'issue'?",
            "config.toml:7: [issue] lifetime: expected a duration from 30s to 1h",
            "config.toml:8: [issue] direct_download: expected true or false",
            "config.toml:10: [limits] certificates_per_hour: expected a whole number from 1 to 1000",
            'config.toml:12: [log] level: expected "debug", "info", "warning" or "error"',
            "config.toml:13: [profiles] #1 label: is missing",
        ]

    @pytest.mark.parametrize(
        ("section", "key", "bad"),
        [
            ("server", "listen", "8000"),
            ("server", "public_url", "http://pki.example.org"),
            ("server", "data_dir", ""),
            ("server", "secret", "x" * 31),
            ("server", "contact", "help"),
            ("server", "organization", "a\\nb"),
            ("ca", "backend", "openbao"),
            ("builtin", "name", "x" * 51),
            ("builtin", "key_type", "rsa2048"),
            ("builtin", "passphrase", " "),
            ("stepca", "url", "http://ca.example.org"),
            ("stepca", "root", "no-such-file.pem"),
            ("stepca", "provisioner", ""),
            ("stepca", "provisioner_password", ""),
            ("stepca", "provisioner_key", ""),
            ("issue", "lifetime", "29s"),
            ("issue", "direct_download", "falsely"),
            ("pkcs12", "encoding", "MODERN"),
            ("pkcs12", "filename", "user_cert.exe"),
            ("pkcs12", "include_root", "yes"),
            ("limits", "certificates_per_hour", "20"),
            ("log", "level", "INFO"),
            ("log", "format", "xml"),
        ],
    )
    def test_a_value_outside_its_grammar_is_refused(
        self, folder: Path, section: str, key: str, bad: str
    ) -> None:
        [problem] = problems(folder, f'[{section}]\n{key} = "{bad}"')

        assert problem.startswith(f"config.toml:2: [{section}] {key}: expected ")
        assert len(bad) < 5 or bad not in problem

    @pytest.mark.parametrize("bad", ["0", "1001", "-1", "2.5", "true", "[20]", "1" + "0" * 40, "nan"])
    def test_a_number_outside_its_bounds_is_refused(self, folder: Path, bad: str) -> None:
        [problem] = problems(folder, f"[limits]\ncertificates_per_hour = {bad}")

        assert problem.endswith("expected a whole number from 1 to 1000")

    @pytest.mark.parametrize("bad", ["30", '["30"]', "[0]", "[366]", "[2.5]", "[true]", "[[3]]"])
    def test_days_of_reminders_are_a_list_of_whole_numbers(self, folder: Path, bad: str) -> None:
        [problem] = problems(folder, f"[reminders]\ndays = {bad}")

        assert problem == ("config.toml:2: [reminders] days: expected a list of whole numbers from 1 to 365")

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("days = [3, 14, 3]", "every day once, but #1 and #3 have the same"),
            ('by = ["mail", "mail"]', "every way once, but #1 and #2 have the same"),
        ],
    )
    def test_nobody_is_reminded_twice_of_the_same(self, folder: Path, line: str, expected: str) -> None:
        assert problems(folder, f"[reminders]\n{line}") == [
            f"config.toml:1: [reminders]: expected {expected}"
        ]

    def test_other_ways_of_reminding_do_not_exist(self, folder: Path) -> None:
        [problem] = problems(folder, '[reminders]\nby = ["pigeon"]')

        assert problem == "config.toml:2: [reminders] by: expected ways among mail, chat"

    @pytest.mark.parametrize("bad", ['"10.0.0.0/8"', "[8]", '["10.0.0.1/8"]', '["proxy.example.org"]'])
    def test_proxies_that_are_no_networks_are_refused(self, folder: Path, bad: str) -> None:
        [problem] = problems(folder, f"[server]\ntrusted_proxies = {bad}")

        assert problem.startswith("config.toml:2: [server] trusted_proxies: expected ")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('test_listen = "0.0.0.0:8444"', "tls_certificate and tls_key beside test_listen: "),
            (
                'test_listen = "0.0.0.0:8000"\ntls_certificate = "a"\ntls_key = "b"',
                "another port in test_listen than in listen",
            ),
            ('certificate_header = "Client-Cert"', "trusted_proxies beside certificate_header: "),
        ],
    )
    def test_a_test_of_certificates_needs_what_makes_it_true(
        self, folder: Path, text: str, expected: str
    ) -> None:
        [problem] = problems(folder, f"[server]\n{text}")

        assert problem.startswith(f"config.toml:1: [server]: expected {expected}")

    @pytest.mark.parametrize(
        "bad",
        ["", "Client_Cert", "Client Cert", "-", "Client-Cert:", "é", "x" * 65, "Host", "X-Forwarded-For"],
    )
    def test_a_header_has_a_plain_name(self, folder: Path, bad: str) -> None:
        [problem] = problems(folder, f'[server]\ntrusted_proxies = ["::1"]\ncertificate_header = "{bad}"')

        assert "[server] certificate_header: expected the name of a header" in problem

    @pytest.mark.parametrize("key", ["tls_certificate", "tls_key"])
    def test_certificate_and_key_belong_together(self, folder: Path, key: str) -> None:
        assert problems(folder, f'[server]\n{key} = "x.pem"') == [
            "config.toml:1: [server]: expected both tls_certificate and tls_key, or neither"
        ]

    @pytest.mark.parametrize(
        "key",
        ["[database]", "[reminder]"],
    )
    def test_sections_that_do_nothing_are_unknown(self, folder: Path, key: str) -> None:
        [problem] = problems(folder, f"{key}\n")

        assert problem.startswith(f"config.toml:1: {key}: unknown section")

    @pytest.mark.parametrize(
        ("section", "key"),
        [("server", "workers"), ("server", "listen_file"), ("log", "Level")],
    )
    def test_keys_that_do_nothing_are_unknown(self, folder: Path, section: str, key: str) -> None:
        [problem] = problems(folder, f"[{section}]\n{key} = 1")

        assert problem.startswith(f"config.toml:2: [{section}] {key}: unknown key")

    @pytest.mark.parametrize("text", ["server = 1", "[[server]]"])
    def test_a_section_is_a_table(self, folder: Path, text: str) -> None:
        assert problems(folder, text) == ["config.toml:1: [server]: expected a table, [server]"]

    def test_a_key_that_would_garble_the_terminal_is_not_printed(self, folder: Path) -> None:
        assert problems(folder, '[log]\n"\\u001b[2J" = 1') == [
            "config.toml:2: [log] (unprintable): unknown key"
        ]


class TestFile:
    def test_a_missing_one_is_told(self, folder: Path) -> None:
        with pytest.raises(ConfigProblems, match=r"config\.toml: cannot be read: No such file or directory$"):
            load(folder / "config.toml", {})

    def test_a_folder_is_told(self, folder: Path) -> None:
        with pytest.raises(ConfigProblems, match=r": cannot be read: Is a directory$"):
            load(folder, {})

    def test_an_unreadable_one_is_told(self, folder: Path) -> None:
        (folder / "config.toml").symlink_to("config.toml")

        with pytest.raises(ConfigProblems, match=r": cannot be read: Too many levels of symbolic links$"):
            load(folder / "config.toml", {})

    def test_another_encoding_is_told(self, folder: Path) -> None:
        path = write(folder, "")
        path.write_bytes('[server]\norganization = "Müller"'.encode("latin-1"))

        with pytest.raises(ConfigProblems, match=r"config\.toml: is not UTF-8 text$"):
            load(path, {})

    @pytest.mark.parametrize("mode", [0o640, 0o604])
    @pytest.mark.parametrize(
        "secret",
        [
            f'[server]\nsecret = "{LONG_SECRET}"',
            f'[local]\nusers = "ada:{HASH}"',
            f'[[local.users]]\nusername = "ada"\npassword_hash = "{HASH}"',
        ],
    )
    def test_secrets_that_others_can_read_are_refused(self, folder: Path, secret: str, mode: int) -> None:
        path = write(folder, secret, mode)
        with pytest.raises(ConfigProblems) as refused:
            load(path, {"SERVER_SECRET": LONG_SECRET, "LOCAL_USERS": f"ada:{HASH}"})

        assert str(refused.value) == f"{path}: holds secrets, and others can read it: run chmod 600 {path}"

    def test_others_may_read_what_holds_no_secrets(self, folder: Path) -> None:
        (folder / "secret.txt").write_text(LONG_SECRET)
        path = write(folder, '[server]\nsecret_file = "secret.txt"\n[local]\nusers = []', mode=0o644)

        assert load(path, {}).server.secret == Secret(LONG_SECRET)

    def test_a_systemd_credential_may_show_the_bits_of_its_access_control_list(self, folder: Path) -> None:
        path = write(folder, f'[server]\nsecret = "{LONG_SECRET}"', mode=0o440)

        assert load(path, {"CREDENTIALS_DIRECTORY": str(folder)}).server.secret == Secret(LONG_SECRET)


class TestFindConfig:
    def test_the_option_goes_first(self) -> None:
        assert find_config(Path("a"), {"CERTBOB_CONFIG": "b"}) == Path("a")

    def test_then_the_environment(self, folder: Path) -> None:
        Path("config.toml").touch()

        assert find_config(None, {"CERTBOB_CONFIG": "b"}) == Path("b")

    def test_then_the_current_folder(self, folder: Path) -> None:
        Path("config.toml").touch()

        assert find_config(None, {"CERTBOB_CONFIG": ""}) == Path("config.toml")

    def test_else_there_is_none(self, folder: Path) -> None:
        assert find_config(None, {}) is None


class TestEnvironment:
    def test_overrules_the_file(self, folder: Path) -> None:
        environ = {
            "SERVER_LISTEN": "0.0.0.0:80",
            "SERVER_TRUSTED_PROXIES": "10.0.0.0/8, ::1\n192.168.1.1",
            "ISSUE_LIFETIME": "10m",
            "ISSUE_DIRECT_DOWNLOAD": "false",
            "PKCS12_ENCODING": "modern",
            "LIMITS_CERTIFICATES_PER_HOUR": "7",
        }
        settings = read(folder, '[server]\nlisten = "wrong"\n[issue]\nlifetime = "wrong"', environ)

        assert settings.server.listen == "0.0.0.0:80"
        assert settings.server.trusted_proxies == ("10.0.0.0/8", "::1/128", "192.168.1.1/32")
        assert settings.issue == Issue(lifetime=timedelta(minutes=10), direct_download=False)
        assert settings.pkcs12.encoding is EncodingPolicy.MODERN
        assert settings.limits.certificates_per_hour == 7

    def test_an_empty_variable_is_unset(self, folder: Path) -> None:
        environ = {"LOG_LEVEL": "", "SERVER_SECRET": " ", "SERVER_SECRET_FILE": "", "LOCAL_USERS": "\n"}
        settings = read(folder, '[log]\nlevel = "debug"', environ)

        assert settings.log.level == "debug"
        assert settings.server.secret is None
        assert settings.local.users == ()

    def test_strays_are_ignored(self) -> None:
        environ = {"SERVER_LISTN": "x", "SERVER": "x", "PATH": "x", "LOG_LEVEL_FILE": "x", "PROFILES": "x"}

        assert load(None, environ) == Settings()

    def test_mistakes_name_the_variable(self) -> None:
        assert environment_problems({"SERVER_LISTEN": "8000", "LIMITS_CERTIFICATES_PER_HOUR": "many"}) == [
            "SERVER_LISTEN: expected an address with a port, "
            'such as "127.0.0.1:8000", "[::1]:8000" or "0.0.0.0:8443"',
            "LIMITS_CERTIFICATES_PER_HOUR: expected a whole number from 1 to 1000",
        ]

    @pytest.mark.parametrize("name", ["SERVER_DATA_DIR", "BUILTIN_PASSPHRASE", "LOG_LEVEL", "LOCAL_USERS"])
    def test_bytes_that_are_not_utf8_are_refused(self, name: str) -> None:
        [problem] = environment_problems({name: os.fsdecode(b"ada:\xff")})

        assert problem.startswith(f"{name}")
        assert problem.isascii()


class TestSecrets:
    def test_come_from_a_file_beside_the_configuration(self, folder: Path) -> None:
        (folder / "pass.txt").write_text("  opens it \r\n\n")

        assert read(folder, '[builtin]\npassphrase_file = "pass.txt"').builtin.passphrase == Secret(
            "  opens it"
        )

    def test_come_from_a_file_named_by_the_environment(self, folder: Path) -> None:
        Path("pass.txt").write_text("opens it\n")
        settings = read(folder, '[builtin]\npassphrase = "other"', {"BUILTIN_PASSPHRASE_FILE": "pass.txt"})

        assert settings.builtin.passphrase == Secret("opens it")

    def test_come_from_systemd(self, folder: Path) -> None:
        credentials = folder / "credentials"
        credentials.mkdir()
        (credentials / "builtin_passphrase").write_text("from systemd\n")
        (credentials / "local_users").write_text(f"ada:{HASH}\ngrace:{HASH}\n")
        environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
        settings = read(folder, '[builtin]\npassphrase = "from the file"', environ)

        assert settings.builtin.passphrase == Secret("from systemd")
        assert [user.username for user in settings.local.users] == ["ada", "grace"]

    def test_the_environment_goes_before_systemd(self, folder: Path) -> None:
        (folder / "builtin_passphrase").write_text("from systemd")
        environ = {"CREDENTIALS_DIRECTORY": str(folder), "BUILTIN_PASSPHRASE": "from the environment"}

        assert load(None, environ).builtin.passphrase == Secret("from the environment")

    def test_value_and_file_together_are_a_mistake(self, folder: Path) -> None:
        expected = "expected either the value or a file that holds it, not both"
        text = '[builtin]\npassphrase = "a"\npassphrase_file = "b"'
        environ = {"SERVER_SECRET": LONG_SECRET, "SERVER_SECRET_FILE": "b"}

        assert problems(folder, text, environ) == [
            f"SERVER_SECRET_FILE: {expected}",
            f"config.toml:3: [builtin] passphrase_file: {expected}",
        ]

    def test_a_file_that_gives_nothing_is_a_mistake_and_not_an_empty_secret(self, folder: Path) -> None:
        (folder / "empty").write_text(" \n")
        (folder / "binary").write_bytes(b"\xff\xfe")
        text = """
        [server]
        secret_file = "missing"
        [builtin]
        passphrase_file = "empty"
        [stepca]
        provisioner_password_file = "."
        provisioner_key_file = "binary"
        [[local.users]]
        username = "ada"
        password_hash_file = 5
        """
        unreadable = "expected a file that can be read"

        assert problems(folder, text) == [
            f"config.toml:3: [server] secret_file: {unreadable} (No such file or directory)",
            "config.toml:5: [builtin] passphrase_file: expected a file that is not empty",
            f"config.toml:7: [stepca] provisioner_password_file: {unreadable} (Is a directory)",
            "config.toml:8: [stepca] provisioner_key_file: expected a file of UTF-8 text",
            "config.toml:11: [local] users #1 password_hash_file: expected text in quotes",
        ]

    def test_what_a_file_holds_obeys_the_same_rules(self, folder: Path) -> None:
        (folder / "short").write_text("short")

        assert problems(folder, '[server]\nsecret_file = "short"') == [
            "config.toml:2: [server] secret_file: expected at least 32 characters"
        ]


class TestStepCA:
    def test_all_its_keys_are_read(self, folder: Path) -> None:
        settings = read(folder, STEPCA)

        assert settings.ca == CA(backend="stepca")
        assert settings.stepca == StepCA(
            url="https://ca.example.org:9000",
            root=FINGERPRINT,
            provisioner="certbob",
            provisioner_password=Secret("opens the key"),
        )

    def test_the_root_may_be_a_pem_file_beside_whoever_names_it(self, folder: Path) -> None:
        (folder / "root.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        Path("other.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        text = STEPCA.replace(FINGERPRINT, "root.pem")

        assert read(folder, text).stepca.root == str(folder / "root.pem")
        assert read(folder, text, {"STEPCA_ROOT": "other.pem"}).stepca.root == "other.pem"

    def test_everything_that_is_missing_is_told(self, folder: Path) -> None:
        words = 'is missing, but [ca] backend is "stepca"'

        assert problems(folder, '[ca]\nbackend = "stepca"\n[stepca]\nurl = "http://wrong"') == [
            f"config.toml:3: [stepca] root: {words}",
            f"config.toml:3: [stepca] provisioner: {words}",
            f"config.toml:3: [stepca] provisioner_password or provisioner_key: {words}",
            'config.toml:4: [stepca] url: expected an address such as "https://ca.example.org:9000", '
            "without path, query and user",
        ]
        assert environment_problems({"CA_BACKEND": "stepca", "STEPCA_URL": "https://ca"}) == [
            f"[stepca] root: {words}",
            f"[stepca] provisioner: {words}",
            f"[stepca] provisioner_password or provisioner_key: {words}",
        ]

    def test_the_key_will_do_without_the_password(self, folder: Path) -> None:
        settings = read(folder, STEPCA.replace("provisioner_password", "provisioner_key"))

        assert settings.stepca.provisioner_key == Secret("opens the key")

    def test_nothing_is_needed_for_the_embedded_authority(self, folder: Path) -> None:
        assert read(folder, '[ca]\nbackend = "builtin"').stepca == StepCA()


class TestLocalUsers:
    ADA = LocalUser(username="ada", password_hash=Secret(HASH))

    def test_are_tables(self, folder: Path) -> None:
        text = f"""
        [[local.users]]
        username = "  ADA "
        password_hash = "{HASH}"
        name = "Ada Lovelace"
        email = "ada@example.org"
        groups = ["staff", "vpn users"]
        [[local.users]]
        username = "grace"
        password_hash_file = "grace.hash"
        """
        (folder / "grace.hash").write_text(f"{HASH}\n")

        assert read(folder, text).local == Local(
            users=(
                LocalUser(
                    username="ada",
                    password_hash=Secret(HASH),
                    name="Ada Lovelace",
                    email="ada@example.org",
                    groups=("staff", "vpn users"),
                ),
                LocalUser(username="grace", password_hash=Secret(HASH)),
            )
        )

    def test_may_be_a_text_of_pairs(self, folder: Path) -> None:
        pairs = f" Ada:{HASH}\n"

        assert read(folder, f'[local]\nusers = """{pairs}"""').local.users == (self.ADA,)
        assert load(None, {"LOCAL_USERS": pairs}).local.users == (self.ADA,)

    def test_a_file_may_hold_the_pairs(self, folder: Path) -> None:
        Path("users").write_text(f"ada:{HASH}\n")

        assert load(None, {"LOCAL_USERS_FILE": "users"}).local.users == (self.ADA,)

    def test_mistakes_in_pairs_name_the_pair(self) -> None:
        [plain, broken] = environment_problems({"LOCAL_USERS": f"ada:{HASH} grace:hopper mallory"})

        assert plain.startswith(
            "LOCAL_USERS #2 password_hash: expected an Argon2id hash as `certbob hash-password`"
        )
        assert broken == "LOCAL_USERS #3 password_hash: is missing"

    @pytest.mark.parametrize("other", ["ada", "ADA", "\uff21da", " ada"])
    def test_one_name_in_two_spellings_is_refused(self, folder: Path, other: str) -> None:
        table = '[[local.users]]\nusername = "{}"\npassword_hash = "{}"\n'
        text = table.format("ada", HASH) + table.format("grace", HASH) + table.format(other, HASH)

        assert problems(folder, text) == [
            "config.toml:1: [local]: expected every user name once, but #1 and #3 have the same"
        ]

    @pytest.mark.parametrize(
        ("key", "bad"),
        [
            ("username", '"ada lovelace"'),
            ("password_hash", '"secret"'),
            ("name", '"Ada; Lovelace"'),
            ("email", '"ada"'),
            ("groups", '"staff"'),
            ("groups", "[1]"),
            ("groups", '[""]'),
            ("groups", '["a\\nb"]'),
        ],
    )
    def test_names_addresses_and_groups_have_their_grammar(self, folder: Path, key: str, bad: str) -> None:
        table = {"username": '"ada"', "password_hash": f'"{HASH}"'} | {key: bad}
        text = "[[local.users]]\n" + "\n".join(f"{key} = {value}" for key, value in table.items())
        [problem] = problems(folder, text)

        assert f"[local] users #1 {key}: expected " in problem

    @pytest.mark.parametrize("users", ["5", "[5]", '{ ada = "secret" }', "true"])
    def test_other_forms_are_refused(self, folder: Path, users: str) -> None:
        assert problems(folder, f"[local]\nusers = {users}") == [
            "config.toml:2: [local] users: expected a list of tables"
        ]


class TestProfiles:
    def test_stand_in_the_order_of_the_file(self, folder: Path) -> None:
        text = """
        [[profiles]]
        id = "wifi"
        label = "Wi-Fi"
        usages = ["clientAuth", "eapOverLAN"]
        validity = "30d"
        max_validity = "825d"
        key_types = ["rsa2048"]
        groups = ["staff"]
        [[profiles]]
        id = "vpn"
        label = "VPN"
        """

        assert read(folder, text).profiles == (
            Profile(
                "wifi",
                "Wi-Fi",
                (Usage.CLIENT_AUTH, Usage.EAP_OVER_LAN),
                timedelta(days=30),
                timedelta(days=825),
                (KeyType.RSA2048,),
                ("staff",),
            ),
            Profile(
                "vpn",
                "VPN",
                DEFAULT_PROFILE.usages,
                timedelta(days=90),
                timedelta(days=90),
                DEFAULT_PROFILE.key_types,
            ),
        )

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ('id = "Wi Fi"', "#1 id: expected 1 to 40 small letters, digits and -"),
            ('label = ""', "#1 label: expected 1 to 64 characters"),
            (
                'usages = ["serverAuth", "clientAuth"]',
                "with serverAuth or anyExtendedKeyUsage they could pose",
            ),
            ('usages = ["codeSigning"]', "expected usages among clientAuth, eapOverLAN, ipsecIKE"),
            ('usages = ["eapOverLAN"]', "expected clientAuth among the usages"),
            ("usages = []", "expected clientAuth among the usages"),
            ('usages = "clientAuth"', "#1 usages: expected a list of texts"),
            ('validity = "4m"', "#1 validity: expected a duration from 1h to 825d"),
            ("validity = 90", "#1 validity: expected text in quotes"),
            ('max_validity = "826d"', "#1 max_validity: expected a duration from 1h to 825d"),
            ('max_validity = "89d"', "expected a max_validity that is not shorter than validity"),
            ("key_types = []", "expected at least one of the key_types"),
            ('key_types = ["ed25519"]', "expected key types among p256, p384, rsa2048, rsa3072, rsa4096"),
            ("groups = [1]", "#1 groups: expected text in quotes"),
            ("max_active = 0", "#1 max_active: expected a whole number from 1 to 1000"),
            ('renewal_window = "91d"', "#1 renewal_window: expected a duration from 1h to 90d"),
        ],
    )
    def test_what_must_not_be_issued_is_refused(self, folder: Path, line: str, words: str) -> None:
        key = line.split(" = ")[0]
        table = {"id": 'id = "wifi"', "label": 'label = "Wi-Fi"', "validity": 'validity = "90d"'} | {
            key: line
        }
        [problem] = problems(folder, "\n".join(["[[profiles]]", *table.values()]))

        assert words in problem

    def test_one_id_twice_is_refused(self, folder: Path) -> None:
        table = '[[profiles]]\nid = "wifi"\nlabel = "Wi-Fi"\n'

        assert problems(folder, table + table) == [
            "config.toml:1: [profiles]: expected every id once, but #1 and #2 have the same"
        ]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("profiles = []", "at least one table"),
            ("profiles = 5", "a list of tables"),
            ("[profiles]", "a list of tables"),
        ],
    )
    def test_there_is_at_least_one(self, folder: Path, text: str, words: str) -> None:
        assert problems(folder, text) == [f"config.toml:1: [profiles]: expected {words}"]


FULL = f"""
[server]
listen = "[::1]:8443"
public_url = "https://pki.example.org"
data_dir = "/var/lib/certbob"
tls_certificate = "/etc/tls/cert.pem"
tls_key = "/etc/tls/key.pem"
trusted_proxies = ["10.0.0.0/8"]
secret = "{CANARY} at dawn, in the old oak tree"
contact = "help@example.org"
organization = 'Bob "Tools" & Söhne'

[ca]
backend = "stepca"

[builtin]
name = "Example"
key_type = "p384"
passphrase = "{CANARY}"

[stepca]
url = "https://ca.example.org:9000"
root = "{FINGERPRINT}"
provisioner = "certbob"
provisioner_password = "{CANARY}"
provisioner_key = "{CANARY}"

[oidc]
issuer = "https://id.example.org/realms/staff"
client_id = "certbob"
client_secret = "{CANARY}"
label = "Example Sign-on"
scopes = ["openid", "email"]
name_claim = "upn"
email_claim = "mail"
groups_claim = "realm_access.roles"
allowed_groups = ["staff"]
admin_groups = ["admins"]

[[local.users]]
username = "ada"
password_hash = "{HASH}"
name = "Ada Lovelace"
email = "ada@example.org"
groups = ["staff"]

[smtp]
host = "mail.example.org"
port = 2525
security = "tls"
username = "certbob"
password = "{CANARY}"
sender = "Bob's Certs, Inc. <certbob@example.org>"
attach = false
tls_ca = "/etc/tls/mail-ca.pem"
tls_certificate = "/etc/tls/certbob.pem"
tls_key = "/etc/tls/certbob-key.pem"

[issue]
lifetime = "10m"
direct_download = false

[pkcs12]
encoding = "modern"
filename = "{{user}}.{{ext}}"
include_root = true

[limits]
certificates_per_hour = 5

[log]
level = "debug"
format = "json"

[[profiles]]
id = "wifi"
label = "Wi-Fi"
usages = ["clientAuth", "eapOverLAN"]
validity = "36h"
max_validity = "730d"
key_types = ["rsa2048", "p256"]
groups = ["staff"]

[[profiles]]
id = "vpn"
label = "VPN"
"""


class TestRedacted:
    def test_gives_the_same_configuration_back_when_the_secrets_are_put_in(self, folder: Path) -> None:
        settings = read(folder, FULL)
        shown = redacted(settings)
        document = tomllib.loads(shown)
        document["server"]["secret"] = f"{CANARY} at dawn, in the old oak tree"
        document["builtin"]["passphrase"] = CANARY
        document["stepca"] |= {"provisioner_password": CANARY, "provisioner_key": CANARY}
        document["oidc"]["client_secret"] = CANARY
        document["smtp"]["password"] = CANARY
        document["local"]["users"][0]["password_hash"] = HASH

        assert read(folder, "\n".join(toml.dump(document))) == settings

    def test_hides_every_secret(self, folder: Path) -> None:
        shown = redacted(read(folder, FULL))

        assert CANARY not in shown
        assert HASH not in shown
        assert shown.count('"***"') == 7

    def test_shows_the_defaults(self, folder: Path) -> None:
        assert read(folder, redacted(Settings(server=Server(data_dir=folder / "data")))) == read(folder, "")


FREE_LISTS = [("oidc", "allowed_groups"), ("oidc", "admin_groups")]  # any text may be the name of a group
KEYS = [(section.name, key.name) for section in fields(Settings)[:-1] for key in fields(section.type)]


def what_is_told(path: Path | None, environ: Mapping[str, str]) -> str:
    """The problems, or nothing. Anything else than ConfigProblems fails the test."""
    try:
        load(path, environ)
    except ConfigProblems as refused:
        return str(refused)
    return ""


class TestNothingLeaks:
    """Each key of file and environment is spoilt; the answer is a list of problems without a value."""

    @pytest.mark.parametrize(("section", "key"), KEYS)
    def test_each_key_with_a_wrong_value_in_the_file(self, folder: Path, section: str, key: str) -> None:
        for bad in (
            f'["{CANARY}"]',
            f'{{ a = "{CANARY}" }}',
            f'[{{ username = "{CANARY}" }}]',
            f'[["{CANARY}"]]',
            "1979-05-27",
            "-7",
            "nan",
        ):
            if bad.startswith('["') and (section, key) in FREE_LISTS:
                continue
            found = problems(folder, f"[{section}]\n{key} = {bad}")

            assert all(line.startswith(f"config.toml:2: [{section}] {key}") for line in found)
            assert CANARY not in str(found)

    @pytest.mark.parametrize(("section", "key"), KEYS)
    def test_each_key_with_a_wrong_value_in_the_environment(self, section: str, key: str) -> None:
        variable = f"{section}_{key}".upper()
        for bad in (f"{CANARY}\udcff", "\udcff"):
            found = environment_problems({variable: bad})

            assert all(line.startswith(variable) for line in found)
            assert CANARY not in str(found)

    @given(
        key=st.sampled_from(KEYS),
        before=st.text(st.characters(exclude_characters="\0")) | st.from_regex(r"\A[$=:/.\[\]0-9a-z@]*"),
        after=st.text(st.characters(exclude_characters="\0")),
    )
    @settings(max_examples=300, deadline=None)
    def test_each_variable_with_any_text(self, key: tuple[str, str], before: str, after: str) -> None:
        told = what_is_told(None, {"_".join(key).upper(): f"{before}{CANARY}{after}"})

        assert CANARY not in told

    @given(data=st.data())
    @settings(max_examples=300, deadline=None)
    def test_a_file_spoilt_anywhere(self, data: st.DataObject) -> None:
        text = FULL
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(text)))
            end = start + data.draw(st.integers(0, 30))
            piece = data.draw(
                st.text("[]{}=\"'#,.\\\n ax1\x00\x7f\ufeff", max_size=4) | st.just(text[start:end] * 2)
            )
            text = text[:start] + piece + text[end:]
        with tempfile.TemporaryDirectory() as folder:
            told = what_is_told(write(Path(folder), text), {})

        assert CANARY not in told

    @given(data=st.data())
    @settings(max_examples=200, deadline=None)
    def test_a_file_with_lines_moved(self, data: st.DataObject) -> None:
        lines = data.draw(st.permutations(FULL.splitlines()))
        cut = data.draw(st.integers(0, len(lines)))
        with tempfile.TemporaryDirectory() as folder:
            told = what_is_told(write(Path(folder), "\n".join(lines[:cut])), {})

        assert CANARY not in told

    def test_settings_themselves_print_no_secret(self, folder: Path) -> None:
        loaded = read(folder, FULL)

        assert CANARY not in repr(loaded)
        assert HASH not in repr(loaded)

    def test_settings_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            Settings().server.listen = "x"  # type: ignore[misc]

    def test_every_section_is_a_frozen_struct(self) -> None:
        for section in fields(Settings)[:-1]:
            assert issubclass(section.type, msgspec.Struct)
            assert section.type.__struct_config__.frozen
