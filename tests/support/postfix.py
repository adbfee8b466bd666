"""A real Postfix for the tests: a private instance with submission on loopback and one mailbox, Ada's.

    with running_postfix() as postfix:
        settings = postfix.settings(port=postfix.submissions, security="tls")  # of CertBob's [smtp]
        mail = postfix.take_mail()

It wants TLS and a login, refuses whom it does not know, and passes nothing on to anywhere.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support import pki
from tests.support.peers import path_of

SECONDS = 20  # far beyond what is normal
ADDRESS = "127.0.0.1"
MAILBOX = "ada@example.org"
SENDER = "certbob@example.org"
USERNAME = "certbob"
PASSWORD = "canary %40 Pässw0rd-7d2a"
NOBODY = 65534  # whose the mailbox is
QUEUES = "active bounce corrupt defer deferred flush hold incoming private saved trace"
MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file_prefixes = {folder}
maillog_file = {folder}/log
myhostname = mail.example.org
inet_interfaces = {address}
inet_protocols = ipv4
disable_dns_lookups = yes
smtpd_peername_lookup = no

mynetworks =
mydestination =
local_recipient_maps =
alias_maps =
virtual_mailbox_domains = example.org
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{ {{{mailbox} = ada/}} }}
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}
default_transport = error:5.7.1 nothing leaves this machine
relay_transport = $default_transport
local_transport = $default_transport

smtpd_tls_security_level = encrypt
smtpd_tls_chain_files = {folder}/chain.pem
smtpd_tls_loglevel = 1
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = example.org
cyrus_sasl_config_path = {folder}/config/sasl
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""
MASTER = """
{address}:{submission} inet n - n - - smtpd
{address}:{submissions} inet n - n - - smtpd
    -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
SASL = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/config/sasl/users
mech_list: PLAIN LOGIN
"""


class Postfix:
    """`submission`, `submissions`: its ports with STARTTLS, and with TLS from the first byte on."""

    def __init__(self, folder: Path) -> None:
        self.submission, self.submissions = _free_ports()
        self._folder = folder
        self._taken = 0
        places = {"folder": folder, "address": ADDRESS, "mailbox": MAILBOX, "nobody": NOBODY}
        ports = {"submission": self.submission, "submissions": self.submissions}
        for name in ("config", "config/sasl", "mail", "data", "queue"):
            (folder / name).mkdir()
        (folder / "config/main.cf").write_text(MAIN.format(**places))
        os.utime(folder / "config/main.cf", (0, 0))  # it waits until this file has not changed for a while
        (folder / "config/master.cf").write_text(MASTER.format(**places, **ports))
        (folder / "config/sasl/smtpd.conf").write_text(SASL.format(**places))
        (folder / "log").touch()
        for path in folder.rglob("*"):  # its daemons run as several users, whatever the umask here
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.chown(folder / "mail", NOBODY, NOBODY)
        self._write_certificates()
        self._write_user()
        self._make_queues()
        self._start()

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What CertBob is to be configured with."""
        return {
            "host": ADDRESS,
            "port": self.submission,
            "username": USERNAME,
            "password": PASSWORD,
            "sender": f"CertBob <{SENDER}>",
            "tls_ca": str(self._folder / "root.pem"),
            **changes,
        }

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def take_mail(self) -> EmailMessage:
        """The mail in Ada's mailbox, which is then empty again; waits for it."""
        self._taken += 1
        give_up = time.monotonic() + SECONDS
        while self.log().count(": removed\n") < self._taken:  # from the queue: the last line about a mail
            assert time.monotonic() < give_up, self.log()
            time.sleep(0.01)
        (file,) = self.mailbox()
        mail = message_from_bytes(file.read_bytes(), policy=default)
        file.unlink()
        return mail

    def mailbox(self) -> list[Path]:
        return list((self._folder / "mail/ada/new").glob("*"))

    def stop(self) -> str:
        """Ends it with all its daemons; what they have told beside the log."""
        self._process.terminate()
        try:
            told, _ = self._process.communicate(timeout=SECONDS)  # each of them holds this output open
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            told, _ = self._process.communicate()
        return told

    def _write_certificates(self) -> None:
        root = pki.root("Mail Root CA")
        issuer = pki.below(root, "Mail Issuing CA")
        request = pki.signing_request(common_name=ADDRESS)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(ADDRESS))])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        leaf = pki.draft_leaf(request, issuer).put(names, usage).signed_by(issuer)
        key = load_der_private_key(pki.new_key(common_name=ADDRESS).private_key, None)
        chain = self._folder / "chain.pem"
        chain.touch(mode=0o600)
        chain.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + leaf.public_bytes(Encoding.PEM)
            + issuer.certificate.public_bytes(Encoding.PEM)
        )
        (self._folder / "root.pem").write_bytes(root.certificate.public_bytes(Encoding.PEM))

    def _write_user(self) -> None:
        users = self._folder / "config/sasl/users"
        subprocess.run(
            [path_of("saslpasswd2"), "-p", "-c", "-f", str(users), "-u", "example.org", USERNAME],
            input=PASSWORD,
            encoding="utf-8",
            check=True,
            timeout=SECONDS,
        )
        shutil.chown(users, "postfix")

    def _make_queues(self) -> None:
        """What `postfix check` makes too, but in seconds."""
        queue, owner = self._folder / "queue", pwd.getpwnam("postfix").pw_uid
        for name in QUEUES.split():
            (queue / name).mkdir(mode=0o700)
            os.chown(queue / name, owner, -1)
        (queue / "public").mkdir(mode=0o710)
        shutil.chown(queue / "public", "postfix", "postdrop")
        (queue / "pid").mkdir()
        os.chown(self._folder / "data", owner, -1)

    def _start(self) -> None:
        postconf = path_of("postfix").with_name("postconf")
        told = subprocess.run(
            [postconf, "-dh", "daemon_directory"], capture_output=True, text=True, check=True, timeout=SECONDS
        )
        self._process = subprocess.Popen(
            [Path(told.stdout.strip()) / "master", "-c", self._folder / "config", "-d"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # it ends its daemons as the process group that it leads
        )
        give_up = time.monotonic() + SECONDS
        while self._process.poll() is None and time.monotonic() < give_up:
            try:
                socket.create_connection((ADDRESS, self.submissions), timeout=1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError(f"Postfix does not start: {self.stop()}{self.log()}")


@contextmanager
def running_postfix() -> Iterator[Postfix]:
    with tempfile.TemporaryDirectory(prefix="certbob-postfix-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        server = Postfix(folder)
        try:
            yield server
        finally:
            server.stop()


def _free_ports() -> tuple[int, int]:
    with socket.create_server((ADDRESS, 0)) as one, socket.create_server((ADDRESS, 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
