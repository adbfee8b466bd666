"""The commands as people and scripts run them: real processes, exit statuses, words, and no traceback."""

import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from certbob import __version__
from certbob.auth.local import verify_password
from certbob.cli import cli
from tests.e2e.smoke import assert_is_client_certificate

APP = Path(__file__).parents[1] / "app.py"


class Shell:
    """A folder to work in, with hardly an environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self, *arguments: str, stdin: bytes = b"", expect: int = 0, **environment: str
    ) -> "subprocess.CompletedProcess[bytes]":
        told = subprocess.run(
            [sys.executable, APP, *arguments],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **environment},
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert told.returncode == expect, told.stderr.decode()
        assert b"Traceback" not in told.stderr
        return told

    def issue(self, name: str, *options: str) -> dict[str, str]:
        facts: dict[str, str] = json.loads(self.run("issue", name, "--json", *options).stdout)
        return facts


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    folder = tmp_path / "work"
    folder.mkdir()
    return Shell(folder)


def test_issue_writes_a_file_that_its_passphrase_opens(shell: Shell) -> None:
    facts = shell.issue("Ada Lovelace", "--email", "ada@example.org", "--device", "Build server")

    file = shell.folder / "user_cert.pfx"
    assert facts["file"] == "user_cert.pfx"
    assert file.stat().st_mode & 0o777 == 0o600
    root = x509.load_pem_x509_certificate(shell.run("ca", "export").stdout)
    assert_is_client_certificate(file.read_bytes(), facts["passphrase"], root)
    bundle = pkcs12.load_pkcs12(file.read_bytes(), facts["passphrase"].encode())
    assert bundle.cert is not None
    assert f"{bundle.cert.certificate.serial_number:x}" == facts["serial"]
    assert bundle.cert.certificate.subject.rfc4514_string() == "CN=Ada Lovelace"


def test_the_passphrase_is_in_no_file(shell: Shell) -> None:
    passphrase = shell.issue("Ada Lovelace")["passphrase"].encode()

    files = [path for path in shell.folder.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files if passphrase in path.read_bytes()]


def test_issue_replaces_nothing_and_signs_nothing_in_vain(shell: Shell) -> None:
    shell.issue("Ada Lovelace")
    before = (shell.folder / "user_cert.pfx").read_bytes()

    told = shell.run("issue", "Bert Becker", "--json", expect=1)

    assert b"exists already" in told.stderr
    assert (shell.folder / "user_cert.pfx").read_bytes() == before
    for output in ("/proc/x.pfx", "no/such/folder/x.pfx", "x" * 300):
        told = shell.run("issue", "Bert Becker", "--json", "--output", output, expect=1)
        assert b"cannot be written" in told.stderr


@pytest.mark.parametrize("name", ["a,O=Evil", "a\nb", "a\u202eb", "<script>", "x" * 65, ""])
def test_a_name_that_does_not_fit_is_refused_and_leaves_no_file(shell: Shell, name: str) -> None:
    told = shell.run("issue", name, "--json", expect=1)

    assert told.stderr.startswith(b"certbob: This name cannot stand in a certificate.")
    assert not list(shell.folder.glob("*.pfx"))


def test_wrong_usage_is_told_with_what_there_is(shell: Shell) -> None:
    assert b"there are: client" in shell.run("issue", "Ada", "--json", "--profile", "vpn", expect=2).stderr
    assert b"add --json" in shell.run("issue", "Ada", expect=2).stderr
    assert b"No such command" in shell.run("isue", expect=2).stderr
    assert b"leave out --chain" in shell.run("ca", "export", "--der", "--chain", expect=2).stderr


def test_asking_for_the_authority_does_not_found_one(shell: Shell) -> None:
    for command in ("show", "export"):
        told = shell.run("ca", command, expect=1)
        assert b"no authority in" in told.stderr
    assert list(shell.folder.iterdir()) == []


def test_the_authority_is_shown_and_exported(shell: Shell) -> None:
    shell.issue("Ada Lovelace")

    chain = x509.load_pem_x509_certificates(shell.run("ca", "export", "--chain").stdout)
    der = x509.load_der_x509_certificate(shell.run("ca", "export", "--der").stdout)
    facts = json.loads(shell.run("ca", "show", "--json").stdout)

    assert chain[-1] == der
    assert [fact["subject"] for fact in facts] == ["CN=CertBob Root CA", "CN=CertBob Issuing CA"]
    assert facts[0]["sha256"].encode() in shell.run("ca", "show").stdout


def test_hash_password_reads_standard_input(shell: Shell) -> None:
    told = shell.run("hash-password", stdin=b"correct horse\n")

    assert verify_password("correct horse", told.stdout.decode().strip())
    for unfit in (b"", b"\n", b"x" * 1025, b"\xff"):
        shell.run("hash-password", stdin=unfit, expect=2)


def test_hash_password_asks_twice_on_a_terminal(shell: Shell) -> None:
    terminal, process_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, APP, "hash-password"],
        cwd=shell.folder,
        stdin=process_end,
        stdout=subprocess.PIPE,
        stderr=process_end,
        start_new_session=True,
    )
    os.close(process_end)
    for _ in range(2):
        while b": " not in os.read(terminal, 1000):
            pass
        os.write(terminal, b"correct horse\n")
    told, _ = process.communicate(timeout=30)
    os.close(terminal)

    assert verify_password("correct horse", told.decode().strip())


def test_version_and_configuration_are_printed(shell: Shell) -> None:
    assert shell.run("version").stdout.decode() == f"certbob {__version__}\n"
    assert json.loads(shell.run("version", "--json").stdout) == {"version": __version__}
    told = shell.run("config", SERVER_SECRET="canary" * 8).stdout.decode()
    assert 'listen = "127.0.0.1:8000"' in told
    assert "canary" not in told


def _commands(command: click.Command, *path: str) -> list[tuple[str, ...]]:
    below = command.commands.items() if isinstance(command, click.Group) else ()
    return [path, *(found for name, sub in below for found in _commands(sub, *path, name))]


@pytest.mark.parametrize("command", _commands(cli))
def test_every_command_explains_itself(shell: Shell, command: tuple[str, ...]) -> None:
    assert shell.run(*command, "--help").stdout.startswith(b"Usage: certbob")


def test_a_broken_configuration_is_told_at_once(shell: Shell) -> None:
    (shell.folder / "config.toml").write_text('[server]\nlistn = "x"\n[ca]\nbackend = "canary"\n')

    told = shell.run("serve", expect=2).stderr.decode()

    assert "config.toml:2: [server] listn: unknown key, did you mean 'listen'?" in told
    assert "config.toml:4: [ca] backend" in told
    assert "canary" not in told
    assert not (shell.folder / "data").exists()


def test_a_port_that_is_taken_is_told(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        told = shell.run("serve", expect=1, SERVER_LISTEN=address, SERVER_PUBLIC_URL=f"http://{address}")

    assert f"cannot listen on {address}" in told.stderr.decode()
    assert not (shell.folder / "data").exists()


def test_a_data_folder_that_cannot_be_used_is_told(shell: Shell) -> None:
    (shell.folder / "file").write_text("")
    wide = shell.folder / "wide"
    wide.mkdir()
    wide.chmod(0o755)

    for data_dir, words in (
        ("file/data", "cannot be used"),
        ("/proc/data", "cannot be used"),
        ("wide", "chmod 700"),
    ):
        told = shell.run("issue", "Ada", "--json", expect=1, SERVER_DATA_DIR=data_dir).stderr.decode()
        assert words in told, told


def test_a_damaged_database_is_told_and_not_touched(shell: Shell) -> None:
    shell.issue("Ada Lovelace")
    database = shell.folder / "data" / "certbob.sqlite3"
    damaged = database.read_bytes()[:4096] + b"\xa5" * 6144 + database.read_bytes()[10240:]
    database.write_bytes(damaged)

    told = shell.run("issue", "Bert", "--json", "--output", "b.pfx", expect=1).stderr.decode()

    assert "is damaged" in told
    assert "Restore it from your last backup" in told
    assert database.read_bytes() == damaged
    assert not (shell.folder / "b.pfx").exists()


def test_tls_files_that_do_not_fit_are_told(shell: Shell) -> None:
    (shell.folder / "x.pem").write_text("nonsense")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    told = shell.run(
        "serve", expect=1, SERVER_TLS_CERTIFICATE="x.pem", SERVER_TLS_KEY="x.pem", SERVER_LISTEN=address
    )

    assert b"Check both files" in told.stderr
