"""Revoking bites: a real nginx that reads the lists keeps the certificate out, and no other one."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from certbob import keys
from certbob.ca.builtin import sign_crl
from tests.e2e.conftest import ADA, ADAS_PASSWORD, Running
from tests.e2e.smoke import Browser
from tests.support.nginx import Nginx, nginx
from tests.support.stepca import StepCAServer

pytestmark = pytest.mark.needs("nginx", "curl")

Lists = Callable[[], str]


@pytest.fixture
def lists(certbob: Running, request: pytest.FixtureRequest) -> Lists:
    """Fetches the lists of both authorities, PEM, as a service does by timer."""
    if (certbob.folder / "data" / "ca").exists():
        return lambda: Browser(certbob.url).get("/ca/crls.pem").body.decode()
    step_ca: StepCAServer = request.getfixturevalue("step_ca")
    root_crl = sign_crl(
        (),
        number=1,
        this_update=datetime.now(UTC),
        next_update=datetime.now(UTC) + timedelta(days=1),
        issuer=step_ca.pki.root.public_bytes(Encoding.DER),
        issuer_key=keys.private_key_bytes(step_ca.pki.root_key),
    )
    of_root = x509.load_der_x509_crl(root_crl).public_bytes(Encoding.PEM)
    return lambda: (step_ca.crl().public_bytes(Encoding.PEM) + of_root).decode()


@pytest.fixture
def service(certbob: Running, lists: Lists, tmp_path: Path) -> Iterator[Nginx]:
    root = Browser(certbob.url).get("/ca/root.pem").body.decode()
    with nginx(tmp_path, root, lists()) as running:
        yield running


@pytest.fixture
def ada(certbob: Running) -> Browser:
    browser = Browser(certbob.url)
    assert browser.post("/login", username=ADA, password=ADAS_PASSWORD).status == 303
    return browser


def presented(ada: Browser, device: str, folder: Path) -> tuple[str, list[str]]:
    """The serial number of a new certificate of Ada's, as in addresses, and curl's options for its file."""
    form_token = ada.get("/new").page().form_token
    choices = {"platform": "linux", "device": device, "profile": "client", "validity": "90d"}
    chosen = ada.post("/new", form_token=form_token, delivery="download", **choices)
    passphrase = ada.get(chosen.location).page().passphrase
    path = folder / f"{device}.pfx"
    path.write_bytes(ada.get(chosen.location, accept="*/*").body)
    leaf = pkcs12.load_pkcs12(path.read_bytes(), passphrase.encode()).cert
    assert leaf is not None
    return f"{leaf.certificate.serial_number:x}", ["--cert-type", "P12", "--cert", f"{path}:{passphrase}"]


def test_a_revoked_certificate_is_kept_out_once_the_lists_are_read_again(
    service: Nginx, ada: Browser, lists: Lists, tmp_path: Path
) -> None:
    serial, lost = presented(ada, "lost", tmp_path)
    _, kept = presented(ada, "kept", tmp_path)
    for owner in (lost, kept):
        status, body = service.fetch(*owner)
        assert (status, body.partition("|TLS")[0]) == (200, "SUCCESS|CN=Ada Lovelace")
    page = f"/certificates/{serial}/revoke"

    revoked = ada.post(page, form_token=ada.get(page).page().form_token, reason="lost")

    assert (revoked.status, revoked.location) == (303, page)
    assert service.fetch(*lost)[0] == 200  # it has not read the lists again
    service.reload(lists())
    for version in ("1.2", "1.3"):
        status, body = service.fetch(*lost, "--tls-max", version)
        assert status == 400
        assert "SSL certificate error" in body
        status, body = service.fetch(*kept, "--tls-max", version)
        assert (status, body) == (200, f"SUCCESS|CN=Ada Lovelace|TLSv{version}")
    assert "certificate revoked" in (service.folder / "error.log").read_text()
