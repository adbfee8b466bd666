"""What the file is for: real services let its owner in, and nobody else."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certbob import bundles, keys
from certbob.ca.builtin import Authority, open_authority, sign_leaf
from certbob.devices import Encoding as FileEncoding
from certbob.ports import SigningRequest
from certbob.profiles import KeyType, Usage
from tests.e2e.conftest import ADA, ADAS_PASSWORD, Running
from tests.e2e.smoke import Browser
from tests.support.nginx import Nginx, nginx
from tests.support.peers import path_of

pytestmark = pytest.mark.needs("nginx", "curl", "openssl")


@pytest.fixture(scope="session")
def service(certbob: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Trusts what CertBob publishes as its root."""
    root = Browser(certbob.url).get("/ca/root.pem").body.decode()
    with nginx(tmp_path_factory.mktemp("nginx"), root) as running:
        yield running


@pytest.fixture(params=["modern", "older"])
def file(request: pytest.FixtureRequest, certbob: Running, tmp_path: Path) -> tuple[Path, str]:
    """A file that the signed-in Ada has taken away, and its passphrase."""
    browser = Browser(certbob.url)
    assert browser.post("/login", username=ADA, password=ADAS_PASSWORD).status == 303
    form_token = browser.get("/new").page().form_token
    choices = {"platform": "linux", "device": "Laptop", "profile": "client", "validity": "90d", "old": "keep"}
    if request.param == "older":
        choices["older"] = "1"
    chosen = browser.post("/new", form_token=form_token, delivery="download", **choices)
    passphrase = browser.get(chosen.location).page().passphrase
    path = tmp_path / "user_cert.pfx"
    path.write_bytes(browser.get(chosen.location, accept="*/*").body)
    return path, passphrase


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_nginx_lets_the_owner_of_the_file_in(service: Nginx, file: tuple[Path, str], version: str) -> None:
    path, passphrase = file

    status, body = service.fetch("--cert-type", "P12", "--cert", f"{path}:{passphrase}", "--tls-max", version)

    assert status == 200, body
    assert body == f"SUCCESS|CN=Ada Lovelace|TLSv{version}"


def test_openssl_reads_the_file_and_finds_a_client_certificate_only(
    certbob: Running, file: tuple[Path, str], tmp_path: Path
) -> None:
    path, passphrase = file
    trust, leaf = tmp_path / "root.pem", tmp_path / "leaf.pem"
    trust.write_bytes(Browser(certbob.url).get("/ca/root.pem").body)
    leaf.write_text(_openssl("pkcs12", "-in", str(path), "-passin", f"pass:{passphrase}", "-nokeys").stdout)
    verify = ["verify", "-CAfile", str(trust), "-untrusted", str(leaf), "-purpose"]

    as_client = _openssl(*verify, "sslclient", str(leaf))
    as_server = _openssl(*verify, "sslserver", str(leaf))

    assert as_client.returncode == 0, as_client.stderr
    assert as_server.returncode != 0
    assert "unsuitable certificate purpose" in as_server.stderr


def test_nginx_keeps_out_who_has_no_certificate(service: Nginx) -> None:
    status, body = service.fetch()

    assert status == 400
    assert "No required SSL certificate was sent" in body


def test_nginx_keeps_out_a_foreign_certificate(service: Nginx, tmp_path: Path) -> None:
    foreign = open_authority(
        tmp_path / "ca",
        name="CertBob",
        organization=None,
        key_type=KeyType.P256,
        passphrase=None,
        now=datetime.now(UTC),
    )

    status, body = service.fetch(*_presented(foreign, datetime.now(UTC), tmp_path))

    assert status == 400
    assert "SSL certificate error" in body


def test_nginx_keeps_out_an_expired_certificate_of_ours(
    certbob: Running, service: Nginx, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = certbob.folder / "data" / "ca"
    if folder.exists():
        ours = open_authority(
            folder, name="", organization=None, key_type=KeyType.P256, passphrase=None, now=datetime.now(UTC)
        )
    else:
        pki = request.getfixturevalue("step_ca").pki
        ours = Authority(pki.root, pki.intermediate, keys.private_key_bytes(pki.intermediate_key))

    status, body = service.fetch(*_presented(ours, datetime.now(UTC) - timedelta(days=2), tmp_path))

    assert status == 400
    assert "SSL certificate error" in body


def test_the_command_line_makes_a_file_that_nginx_accepts(
    certbob: Running, service: Nginx, tmp_path: Path
) -> None:
    path = tmp_path / "grace.pfx"

    told = certbob.command("issue", "Grace Hopper", "--output", str(path), "--json")

    assert told.returncode == 0, told.stderr
    passphrase = json.loads(told.stdout)["passphrase"]
    status, body = service.fetch("--cert-type", "P12", "--cert", f"{path}:{passphrase}")
    assert (status, body.partition("|TLS")[0]) == (200, "SUCCESS|CN=Grace Hopper")


def _presented(authority: Authority, signed_at: datetime, folder: Path) -> list[str]:
    """curl's options for a file with a certificate of one day, signed by this authority at that time."""
    new = keys.new_key_and_csr(KeyType.P256, "Mallory")
    request = SigningRequest(
        csr=new.csr,
        public_key=new.public_key,
        common_name="Mallory",
        organization=None,
        email="mallory@example.org",
        subject="00000000-0000-4000-8000-000000000000",
        usages=(Usage.CLIENT_AUTH,),
        validity=timedelta(days=1),
        request_id="-",
    )
    issuer = authority.intermediate.public_bytes(Encoding.DER)
    leaf = sign_leaf(request, now=signed_at, issuer=issuer, issuer_key=authority.key)
    assert x509.load_der_x509_certificate(leaf).issuer == authority.intermediate.subject
    path = folder / "mallory.pfx"
    path.write_bytes(
        bundles.to_pkcs12(
            new.private_key,
            leaf,
            (issuer,),
            name="Mallory",
            passphrase="mallory",
            encoding=FileEncoding.MODERN,
        )
    )
    return ["--cert-type", "P12", "--cert", f"{path}:mallory"]


def _openssl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [path_of("openssl"), *arguments], capture_output=True, text=True, timeout=20, check=False
    )
