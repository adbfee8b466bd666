"""What `certbob ca snippet` prints works in the real services: people get in until they are revoked.

The refresh script that runs here is the one of the snippet; it fetches the lists of a running CertBob.
"""

import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from certbob.auth.local import hash_password
from certbob.ca.builtin import open_authority, sign_crl
from certbob.profiles import KeyType
from certbob.snippets import SERVICES, snippet
from tests.e2e.smoke import Browser, Program
from tests.support.commands import certbob as command
from tests.support.snippets import (
    WEB_SERVERS,
    File,
    Machine,
    Site,
    fake_site,
    freeradius,
    openvpn,
    openvpn_client,
    parts,
    service_behind,
    wifi_user_name,
)

pytestmark = pytest.mark.needs("curl", "openssl")

CHECKOUT = Path(__file__).parents[2]
NAME, PASSWORD = "Zoë Lovelace", "a lovely password"
CONFIGURATION = f'''
[server]
organization = "Root,CN=root"

[limits]
certificates_per_hour = 100

[[local.users]]
username = "zoe"
password_hash = "{hash_password(PASSWORD)}"
name = "{NAME}"
'''
RELOAD = {
    "apache": ["try-reload-or-restart apache2"],
    "envoy": [],  # it watches the file
    "freeradius": ["try-restart freeradius"],
    "haproxy": ["try-reload-or-restart haproxy"],
    "nginx": ["try-reload-or-restart nginx"],
    "openvpn": [],  # it looks at the file for every connection
}
SEEN = {
    "apache": NAME,
    "caddy": rf"CN={NAME},O=Root\,CN=root",
    "envoy": r'Subject="O=Root\,CN=root,CN=Zo\C3\AB Lovelace"',
    "haproxy": NAME,
    "nginx": r"Zo\C3\AB Lovelace",
}


def each(*services: str) -> pytest.MarkDecorator:
    programs = {"apache": "apache2"}
    return pytest.mark.parametrize(
        "service",
        [pytest.param(name, marks=pytest.mark.needs(programs.get(name, name))) for name in services],
    )


@dataclass(frozen=True, slots=True)
class Office:
    """A CertBob that serves, and somebody who is signed in there."""

    url: str
    folder: Path
    browser: Browser

    def snippet(self, service: str) -> str:
        told = command(self.folder, "ca", "snippet", service, SERVER_PUBLIC_URL=self.url)
        assert told.returncode == 0, told.stderr
        return told.stdout

    def fetch(self, path: str) -> bytes:
        return self.browser.get(path).body

    def take(self, machine: Machine) -> File:
        form_token = self.browser.get("/new").page().form_token
        choices = {"platform": "linux", "profile": "client", "validity": "90d"}
        device = secrets.token_hex(8)
        chosen = self.browser.post(
            "/new", form_token=form_token, delivery="download", device=device, **choices
        )
        passphrase = self.browser.get(chosen.location).page().passphrase
        path = machine.folder / f"{device}.pfx"
        path.write_bytes(self.browser.get(chosen.location, accept="*/*").body)
        return File(path, passphrase)

    def revoke(self, file: File) -> None:
        bundle = pkcs12.load_pkcs12(file.path.read_bytes(), file.passphrase.encode())
        assert bundle.cert is not None
        address = f"/certificates/{bundle.cert.certificate.serial_number:x}/revoke"
        form_token = self.browser.get(address).page().form_token
        answer = self.browser.post(address, form_token=form_token, reason="lost")
        assert answer.status in (200, 303), answer


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    base = tmp_path_factory.mktemp("office")
    home, tmp = base / "home", base / "tmp"
    for folder in (home, tmp):
        folder.mkdir(mode=0o700)
    (home / "config.toml").write_text(CONFIGURATION)
    (home / "config.toml").chmod(0o600)
    program = Program([sys.executable, CHECKOUT / "app.py"], home=home, tmp=tmp, log=base / "log")
    with program.running():
        browser = Browser(program.url)
        assert browser.post("/login", username="zoe", password=PASSWORD).status == 303
        yield Office(program.url, home, browser)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with service_behind() as port:
        yield Machine.on_free_ports(tmp_path, behind=port)


def install(office: Office, machine: Machine, service: str, text: str | None = None) -> None:
    """As the steps of the snippet say."""
    text = text or office.snippet(service)
    machine.install(text)
    machine.trust(text, office.fetch("/ca/root.pem"))
    if has_script(text):
        done = machine.refresh(service)
        assert (done.returncode, done.stderr) == (0, "")
        assert machine.told_systemctl() == RELOAD[service]


def has_script(text: str) -> bool:
    return any("certbob-crl" in path for path in parts(text))


@each("apache", "envoy", "haproxy", "nginx")
def test_a_web_server_lets_people_in_by_name_until_they_are_revoked(
    office: Office, machine: Machine, service: str
) -> None:
    install(office, machine, service)
    good, lost = office.take(machine), office.take(machine)

    with WEB_SERVERS[service](machine) as server:
        assert server.sees(good) == server.sees(lost) == SEEN[service]
        assert server.sees(None) is None
        unchanged = machine.refresh(service)
        assert (unchanged.returncode, machine.told_systemctl()) == (0, [])

        office.revoke(lost)
        done = machine.refresh(service)

        assert (done.returncode, done.stderr) == (0, "")
        assert machine.told_systemctl() == RELOAD[service]
        server.reload()
        server.until(lambda: server.sees(lost) is None)
        server.until(lambda: server.sees(good) == SEEN[service])


@each("apache", "envoy", "haproxy", "nginx")
def test_a_session_from_before_opens_nothing_after_the_revocation(
    office: Office, machine: Machine, service: str
) -> None:
    install(office, machine, service)
    lost = office.take(machine)
    with WEB_SERVERS[service](machine) as server:
        client = server.context(lost)
        with server.connect(client) as connection:
            session = connection.session
        office.revoke(lost)
        assert machine.refresh(service).returncode == 0
        server.reload()

        def is_new() -> bool:
            try:
                with server.connect(client, session) as connection:
                    return not connection.session_reused
            except OSError:
                return True

        server.until(lambda: server.sees(lost) is None)
        server.until(is_new)


@each("caddy")
def test_caddy_lets_in_whoever_is_not_expired_as_its_snippet_says(
    office: Office, machine: Machine, service: str
) -> None:
    install(office, machine, service)
    good, lost = office.take(machine), office.take(machine)
    office.revoke(lost)

    with WEB_SERVERS[service](machine) as server:
        seen = server.sees(good), server.sees(lost), server.sees(None)

    assert seen == (SEEN[service], SEEN[service], None)
    assert "CADDY DOES NOT LOOK AT LISTS OF REVOKED CERTIFICATES" in office.snippet(service)


@each("openvpn")
def test_openvpn_lets_people_in_until_they_are_revoked(
    office: Office, machine: Machine, service: str
) -> None:
    install(office, machine, service)
    good, lost = office.take(machine), office.take(machine)

    with openvpn(machine) as server:

        def entered() -> int:
            return server.told().count(f"[{NAME}] Peer Connection Initiated")

        with openvpn_client(machine, lost):
            server.until(lambda: entered() == 1)
        # It keeps one of the two old lists beside the new ones; OpenSSL takes the newer, in whole seconds.
        second = int(time.time())
        server.until(lambda: time.time() > second + 1)
        office.revoke(lost)
        assert machine.refresh(service).returncode == 0
        # In the test's tunnel for one client the list is read when the connection before this one begins.
        with openvpn_client(machine, good):
            server.until(lambda: entered() == 2)

        with openvpn_client(machine, lost):
            server.until(lambda: "certificate revoked" in server.told())
        with openvpn_client(machine, good):
            server.until(lambda: entered() == 3)


@pytest.mark.needs("freeradius", "eapol_test")
def test_freeradius_lets_people_in_by_name_until_they_are_revoked(office: Office, machine: Machine) -> None:
    install(office, machine, "freeradius")
    good, lost = office.take(machine), office.take(machine)
    with freeradius(machine):
        assert wifi_user_name(machine, good) == wifi_user_name(machine, lost) == NAME
    office.revoke(lost)

    assert machine.refresh("freeradius").returncode == 0

    assert machine.told_systemctl() == RELOAD["freeradius"]
    with freeradius(machine) as server:
        assert wifi_user_name(machine, good) == NAME
        assert wifi_user_name(machine, lost) is None
        assert "certificate revoked" in server.told()


@each("apache", "envoy", "haproxy", "nginx")
def test_with_step_ca_the_trust_part_stands_alone(office: Office, machine: Machine, service: str) -> None:
    text = snippet(service, site=office.url, has_list=False)
    install(office, machine, service, text)

    assert not has_script(text)
    assert 'the list is step-ca\'s own, at the "idpURL" of its ca.json' in text
    with WEB_SERVERS[service](machine) as server:
        assert server.sees(office.take(machine)) == SEEN[service]
        assert server.sees(None) is None


@each("openvpn", "freeradius")
def test_with_step_ca_tunnels_and_wifi_start_without_a_list(
    office: Office, machine: Machine, service: str
) -> None:
    install(office, machine, service, snippet(service, site=office.url, has_list=False))

    with {"openvpn": openvpn, "freeradius": freeradius}[service](machine):
        pass


def test_the_backend_decides_which_snippet_is_printed(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[ca]\nbackend = "stepca"\n[stepca]\nurl = "https://ca.example.org"\nprovisioner = "certbob"\n'
        f'provisioner_password = "secret"\nroot = "{"0" * 64}"\n'
    )
    (tmp_path / "config.toml").chmod(0o600)

    told = command(tmp_path, "ca", "snippet", "nginx", SERVER_PUBLIC_URL="https://cert.example.org")

    assert told.stdout.strip() == snippet("nginx", site="https://cert.example.org", has_list=False).strip()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("service", SERVICES)
def test_a_script_is_fit_for_every_shell_and_a_unit_names_it(service: str) -> None:
    files = parts(snippet(service, site="https://cert.example.org", has_list=True))

    scripts = {path: text for path, text in files.items() if path.startswith("/usr/local/sbin/")}
    assert len(scripts) == (service != "caddy")
    for path, text in scripts.items():
        assert text.startswith("#!/bin/sh\n")
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)
        assert (
            f"ExecStart=/bin/sh {path}\n" in files[f"/etc/systemd/system/{path.rpartition('/')[2]}.service"]
        )


@pytest.fixture
def site(office: Office) -> Iterator[Site]:
    """In the place of CertBob, with its own answers until a test changes them."""
    answers = {path: office.fetch(path) for path in ("/ca/crls.pem", "/ca/chain.pem")}
    with fake_site(answers) as site:
        yield site


@pytest.fixture
def nginx_machine(office: Office, machine: Machine, site: Site) -> Machine:
    """With lists that were fetched from `site`."""
    install(office, machine, "nginx", snippet("nginx", site=site.url, has_list=True))
    return machine


def foreign_lists(folder: Path) -> list[bytes]:
    """Of an authority with the same names."""
    now = datetime.now(UTC)
    authority = open_authority(
        folder / "ca",
        name="CertBob",
        organization="Root,CN=root",
        key_type=KeyType.P256,
        passphrase=None,
        now=now,
    )
    assert authority.root_key is not None
    made = [
        sign_crl(
            (),
            number=1,
            this_update=now,
            next_update=now + timedelta(days=1),
            issuer=issuer.public_bytes(Encoding.DER),
            issuer_key=key,
        )
        for issuer, key in ((authority.intermediate, authority.key), (authority.root, authority.root_key))
    ]
    return [x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) for der in made]


@pytest.mark.parametrize(
    "wrong",
    [
        "portal",
        "empty",
        "cut",
        "the root's alone",
        "the issuer's alone",
        "turned",
        "foreign",
        "forged",
        "away",
    ],
)
def test_what_is_not_whole_and_signed_never_takes_the_place_of_a_list(
    nginx_machine: Machine, site: Site, tmp_path: Path, wrong: str
) -> None:
    lists = nginx_machine.path("/etc/nginx/certbob/crls.pem")
    good = lists.read_bytes()
    issuers, roots = re.findall(b"-----BEGIN.*?-----END X509 CRL-----\n", good, re.DOTALL)
    foreign = foreign_lists(tmp_path)
    bad = {
        "portal": b"<!doctype html><title>Sign in to the Wi-Fi</title>",
        "empty": b"",
        "cut": good[: len(good) - 200],
        "the root's alone": roots,
        "the issuer's alone": issuers,
        "turned": roots + issuers,
        "foreign": b"".join(foreign),
        "forged": foreign[0] + roots,
        "away": None,
    }
    site.answers["/ca/crls.pem"] = bad[wrong]

    done = nginx_machine.refresh("nginx")

    assert done.returncode != 0
    assert done.stderr
    assert lists.read_bytes() == good
    assert sorted(path.name for path in lists.parent.iterdir()) == ["crls.pem", "etag", "root.pem"]
    assert nginx_machine.told_systemctl() == []
    site.answers["/ca/crls.pem"] = good + b"\n"
    assert nginx_machine.refresh("nginx").returncode == 0


def test_a_list_is_fetched_again_when_it_is_gone(nginx_machine: Machine) -> None:
    lists = nginx_machine.path("/etc/nginx/certbob/crls.pem")
    good = lists.read_bytes()
    lists.unlink()

    assert nginx_machine.refresh("nginx").returncode == 0

    assert lists.read_bytes() == good
    assert lists.stat().st_mode & 0o777 == 0o644


def test_a_reload_that_failed_is_done_again(nginx_machine: Machine, site: Site) -> None:
    site.answers["/ca/crls.pem"] += b"\n"  # type: ignore[operator]
    nginx_machine.systemctl_status = 1
    assert nginx_machine.refresh("nginx").returncode != 0
    nginx_machine.told_systemctl()
    nginx_machine.systemctl_status = 0

    assert nginx_machine.refresh("nginx").returncode == 0

    assert nginx_machine.told_systemctl() == RELOAD["nginx"]
