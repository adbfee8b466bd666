"""A real nginx that lets in only people with a certificate, as services use CertBob."""

import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.peers import path_of

CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_client_certificate {folder}/root.pem;
        ssl_verify_client on;
        ssl_verify_depth 2;
        {more}
        location / {{
            default_type text/plain;
            return 200 "$ssl_client_verify|$ssl_client_s_dn|$ssl_protocol\\n";
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/"

    def fetch(self, *options: str) -> tuple[int, str]:
        """What curl with these options gets: the status and the body."""
        command: list[str | Path] = [path_of("curl"), "-sS", "-w", "\n%{http_code}"]
        command += ["--cacert", self.folder / "server.pem", *options, self.url]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        body, _, status = told.stdout.rpartition("\n")
        return int(status), body.strip() or told.stderr

    def reload(self, crls: str) -> None:
        """With other lists; when it returns, the old ones count no more."""
        (self.folder / "crls.pem").write_text(crls)
        ended, give_up = self._ended_workers(), time.monotonic() + 10
        os.kill(int((self.folder / "pid").read_text()), signal.SIGHUP)
        while self._ended_workers() == ended:
            assert time.monotonic() < give_up, (self.folder / "error.log").read_text()
            time.sleep(0.01)

    def _ended_workers(self) -> int:
        return (self.folder / "error.log").read_text().count("exited with code 0")


@contextmanager
def nginx(folder: Path, root_pem: str, crls: str | None = None) -> Iterator[Nginx]:
    """`root_pem`: whose certificates it trusts. `crls`: the lists of those that are revoked, PEM."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (folder / "root.pem").write_text(root_pem)
    write_server_certificate(folder / "server.pem", folder / "server.key")
    configuration = folder / "nginx.conf"
    more = ""
    if crls is not None:
        (folder / "crls.pem").write_text(crls)
        more = f"ssl_crl {folder}/crls.pem;"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port, more=more))
    command: list[str | Path] = [
        path_of("nginx"),
        "-p",
        folder,
        "-c",
        configuration,
        "-e",
        folder / "error.log",
    ]
    if os.geteuid() == 0:
        command += ["-g", "user root;"]  # its worker reads this private folder
    process = subprocess.Popen(command)
    try:
        _wait_until_it_listens(process, port)
        yield Nginx(port, folder)
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int) -> None:
    give_up = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError("nginx does not start")


def write_server_certificate(certificate_file: Path, key_file: Path) -> None:
    """Self-signed, for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
