"""A real step-ca for the tests, on loopback, and what it is made of; `step_ca` is one for the whole run.

Everything the authority needs is made with `cryptography`; the step CLI is not used.
"""

import base64
import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from certbob.ca.stepca import StepCA
from certbob.keys import new_key_and_csr
from certbob.ports import Clock, SigningRequest
from certbob.profiles import KeyType, Usage
from certbob.secret import Secret
from tests.support import pki
from tests.support.peers import path_of

PASSWORD = "correct horse battery ünder stäple"
SHIPPED = "certbob"  # the provisioner and leaf template of docs/step-ca.md
STOCK = "stock"  # step-ca's defaults, made by an older release: 100 000 rounds
_DOCS = Path(__file__).parents[2] / "docs"

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class PKI:
    """A root (path length 1) and an intermediate below it."""

    root: x509.Certificate
    root_key: ec.EllipticCurvePrivateKey
    intermediate: x509.Certificate
    intermediate_key: ec.EllipticCurvePrivateKey

    @property
    def fingerprint(self) -> str:
        return self.root.fingerprint(hashes.SHA256()).hex()


def make_pki(name: str = "Test") -> PKI:
    root = pki.root(f"{name} Root")
    intermediate = pki.below(root, f"{name} Intermediate")
    return PKI(root.certificate, root.key, intermediate.certificate, intermediate.key)


def pem(*certificates: x509.Certificate) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def private_jwk(key: PrivateKey) -> dict[str, Any]:
    """As step-ca writes it: with `use`, `alg` and the RFC 7638 thumbprint as `kid`."""
    match key:
        case ec.EllipticCurvePrivateKey():
            jwk = ECAlgorithm.to_jwk(key, as_dict=True)
            algorithm = {256: "ES256", 384: "ES384"}[key.curve.key_size]
        case ed25519.Ed25519PrivateKey():
            jwk, algorithm = OKPAlgorithm.to_jwk(key, as_dict=True), "EdDSA"
        case _:
            jwk, algorithm = RSAAlgorithm.to_jwk(key, as_dict=True), "RS256"
    required = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    thumbprint = hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode())
    jwk.pop("key_ops", None)
    return {**jwk, "use": "sig", "alg": algorithm, "kid": encode(thumbprint.digest())}


def public_jwk(jwk: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: jwk[name] for name in ("use", "kty", "kid", "crv", "alg", "x", "y", "n", "e") if name in jwk
    }


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def encrypt_jwk(
    jwk: Mapping[str, Any],
    password: str,
    *,
    rounds: Any = 600_000,
    alg: str = "PBES2-HS256+A128KW",
    enc: str = "A256GCM",
    **header: Any,
) -> str:
    """A compact JWE as `step ca provisioner add` makes it. `header` overrides, right or wrong."""
    hash_name, wrapping_size = {"HS256": ("sha256", 16), "HS384": ("sha384", 24), "HS512": ("sha512", 32)}[
        alg[6:11]
    ]
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    content_key = secrets.token_bytes(int(enc[1:4]) // 8)
    fields = {"alg": alg, "cty": "jwk+json", "enc": enc, "p2c": rounds, "p2s": encode(salt), **header}
    wrapping_key = hashlib.pbkdf2_hmac(
        hash_name, password.encode(), alg.encode() + b"\0" + salt, rounds, wrapping_size
    )
    head = encode(json.dumps(fields).encode())
    sealed = AESGCM(content_key).encrypt(nonce, json.dumps(dict(jwk)).encode(), head.encode())
    parts = aes_key_wrap(wrapping_key, content_key), nonce, sealed[:-16], sealed[-16:]
    return ".".join((head, *map(encode, parts)))


def jwk_provisioner(
    name: str, key: PrivateKey | None = None, *, rounds: int = 1_000, **settings: Any
) -> dict[str, Any]:
    """An entry of `authority.provisioners`."""
    jwk = private_jwk(key or ec.generate_private_key(ec.SECP256R1()))
    encrypted = encrypt_jwk(jwk, PASSWORD, rounds=rounds)
    return {"type": "JWK", "name": name, "key": public_jwk(jwk), "encryptedKey": encrypted, **settings}


def recommended_settings(crl_url: str) -> dict[str, Any]:
    """The fragment of docs/step-ca.md, so that the guide cannot say what does not work."""
    guide = (_DOCS / "step-ca.md").read_text()
    fragment = re.search(r"```json\n(.*?)```", guide, re.DOTALL)
    assert fragment is not None
    settings: dict[str, Any] = json.loads(fragment[1])
    settings["options"]["x509"]["templateFile"] = str(_DOCS / "certbob-leaf.tpl")
    settings["options"]["x509"]["templateData"]["crlURL"] = crl_url
    return settings


def signing_request(
    common_name: str = "Ada Lovelace",
    *,
    email: str | None = "ada@example.org",
    organization: str | None = None,
    key_type: KeyType = KeyType.P256,
    validity: timedelta = timedelta(hours=12),
) -> SigningRequest:
    key = new_key_and_csr(key_type, common_name)
    return SigningRequest(
        csr=key.csr,
        public_key=key.public_key,
        common_name=common_name,
        organization=organization,
        email=email,
        subject="7a1c1b54-8a0c-4f0e-9a55-5b8b7f0f6d10",
        usages=(Usage.CLIENT_AUTH,),
        validity=validity,
        request_id=secrets.token_hex(8),
    )


class StepCAServer:
    """A step-ca process, all its files in one directory; `authority` adds to that part of its ca.json."""

    def __init__(self, directory: Path, **authority: Any) -> None:
        self.directory = directory
        self.pki = make_pki("Real")
        port, crl_port = free_ports(2)
        self.url = f"https://127.0.0.1:{port}"
        self.crl_url = f"http://127.0.0.1:{crl_port}/crl"
        self._binary = path_of("step-ca")
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        files = {
            "root.crt": pem(self.pki.root),
            "int.crt": pem(self.pki.intermediate),
            "int.key": key_pem(self.pki.intermediate_key),
        }
        for name, text in files.items():
            (directory / name).write_text(text)
        self.configuration: dict[str, Any] = {
            "root": str(directory / "root.crt"),
            "crt": str(directory / "int.crt"),
            "key": str(directory / "int.key"),
            "address": f"127.0.0.1:{port}",
            "insecureAddress": f"127.0.0.1:{crl_port}",
            "dnsNames": ["127.0.0.1", "localhost"],
            "logger": {"format": "json"},
            "db": {"type": "bbolt", "dataSource": str(directory / "step.db")},
            "crl": {"enabled": True, "generateOnRevoke": True, "idpURL": self.crl_url},
            "authority": {"provisioners": self._provisioners(), **authority},
        }

    @property
    def fingerprint(self) -> str:
        return self.pki.fingerprint

    @property
    def root_file(self) -> Path:
        return self.directory / "root.crt"

    def client(self, clock: Clock, provisioner: str = SHIPPED, **settings: Any) -> StepCA:
        """CertBob's adapter, set up for this authority. The caller closes it."""
        defaults = {"url": self.url, "root": self.fingerprint, "password": Secret(PASSWORD)}
        return StepCA(provisioner=provisioner, clock=clock, **{**defaults, **settings})

    def provisioner(self, name: str) -> dict[str, Any]:
        """Its entry; what a test changes there counts from the next start on."""
        entries: list[dict[str, Any]] = self.configuration["authority"]["provisioners"]
        return next(entry for entry in entries if entry["name"] == name)

    def start(self) -> None:
        configuration = self.directory / "ca.json"
        configuration.write_text(json.dumps(self.configuration))
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, configuration],
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.directory),
                    "STEPPATH": str(self.directory),
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_healthy()

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Connections are still taken by the kernel, but nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def crl(self) -> x509.CertificateRevocationList:
        with urllib.request.urlopen(self.crl_url, timeout=5) as answer:
            return x509.load_der_x509_crl(answer.read())

    def revocation(self, serial: int) -> x509.ReasonFlags | None:
        """The reason in the revocation list; None when the certificate is not listed."""
        entry = self.crl().get_revoked_certificate_by_serial_number(serial)
        return (
            None if entry is None else entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        )

    @property
    def log_file(self) -> Path:
        return self.directory / "step-ca.log"

    def _provisioners(self) -> list[dict[str, Any]]:
        # The first page of the list holds 20, so ours are on the second.
        return [
            *({"type": "ACME", "name": f"acme{number}"} for number in range(25)),
            jwk_provisioner(SHIPPED, rounds=600_000, **recommended_settings(self.crl_url)),
            jwk_provisioner(STOCK, rounds=100_000),
            jwk_provisioner("ES384", ec.generate_private_key(ec.SECP384R1())),
            jwk_provisioner("EdDSA", ed25519.Ed25519PrivateKey.generate()),
            jwk_provisioner("RS256", rsa.generate_private_key(65537, 2048)),
        ]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _wait_until_healthy(self) -> None:
        context = ssl.create_default_context(cadata=pem(self.pki.root))
        give_up = time.monotonic() + 15
        while time.monotonic() < give_up and self._process and self._process.poll() is None:
            connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=1, context=context)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return
            except OSError:
                time.sleep(0.02)
            finally:
                connection.close()
        raise RuntimeError(f"step-ca does not start: {self.log_file.read_text()[-4000:]}")


@contextmanager
def running_step_ca(directory: Path, **authority: Any) -> Iterator[StepCAServer]:
    server = StepCAServer(directory, **authority)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def step_ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepCAServer]:
    with running_step_ca(tmp_path_factory.mktemp("step-ca")) as server:
        yield server


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
