"""The file opens in real programs, and does not with another passphrase."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding as Serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certbob.bundles import Format, reencode
from certbob.devices import Encoding
from certbob.profiles import KeyType
from tests.support import bundle
from tests.support.bundle import ISSUING, NAME, PASSPHRASE, ROOT
from tests.support.peers import path_of

ENCODINGS = pytest.mark.parametrize("encoding", Encoding)
# The usual ones; `test_openssl_names_every_protection` takes them all.
KEY_TYPES = pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.RSA2048])
ALL_KEY_TYPES = pytest.mark.parametrize("key_type", KeyType)

PROTECTIONS = {
    Encoding.MODERN: [
        "MAC: sha256, Iteration 2048",
        "MAC length: 32, salt length: 8",
        "PKCS7 Encrypted data: PBES2, PBKDF2, AES-256-CBC, Iteration 2048, PRF hmacWithSHA256",
        "Shrouded Keybag: PBES2, PBKDF2, AES-256-CBC, Iteration 2048, PRF hmacWithSHA256",
    ],
    Encoding.COMPATIBLE: [
        "MAC: sha1, Iteration 2048",
        "MAC length: 20, salt length: 8",
        "PKCS7 Encrypted data: pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 2048",
        "Shrouded Keybag: pbeWithSHA1And3-KeyTripleDES-CBC, Iteration 2048",
    ],
}


@dataclass(frozen=True, slots=True)
class Room:
    """A folder with the files a reader needs: the passphrase, a wrong one, the authorities."""

    path: Path

    def put(self, name: str, content: bytes) -> str:
        (self.path / name).write_bytes(content)
        return name

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        return subprocess.run(
            [path_of(program), *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )


@pytest.fixture
def room(tmp_path: Path) -> Room:
    room = Room(tmp_path)
    room.put("pw", PASSPHRASE.encode())
    room.put("bad", b"wrong")
    room.put("root.pem", pem(ROOT.certificate))
    room.put("issuing.pem", pem(ISSUING.certificate))
    return room


@pytest.mark.needs("openssl")
@ALL_KEY_TYPES
@ENCODINGS
def test_openssl_names_every_protection(room: Room, encoding: Encoding, key_type: KeyType) -> None:
    room.put("cert.pfx", bundle.pfx(encoding, key_type))
    told = room.run("openssl", "pkcs12", "-in", "cert.pfx", "-passin", "file:pw", "-info", "-noout")

    assert told.returncode == 0
    assert [line for line in told.stderr.splitlines() if "Iteration" in line or "length" in line] == [
        *PROTECTIONS[encoding]
    ]


@pytest.mark.needs("openssl")
@KEY_TYPES
@ENCODINGS
def test_openssl_takes_out_key_and_chain(room: Room, encoding: Encoding, key_type: KeyType) -> None:
    room.put("cert.pfx", bundle.pfx(encoding, key_type))
    opened = room.run("openssl", "pkcs12", "-in", "cert.pfx", "-passin", "file:pw", "-nodes")

    assert_key_and_chain(opened.stdout.encode(), key_type)
    assert opened.stdout.count(f"friendlyName: {NAME}") == 2


@pytest.mark.needs("openssl")
@ENCODINGS
def test_openssl_refuses_another_passphrase(room: Room, encoding: Encoding) -> None:
    room.put("cert.pfx", bundle.pfx(encoding))
    refused = room.run("openssl", "pkcs12", "-in", "cert.pfx", "-passin", "file:bad", "-nodes")

    assert refused.returncode == 1
    assert "PRIVATE KEY" not in refused.stdout


@pytest.mark.needs("openssl")
@KEY_TYPES
def test_openssl_takes_the_certificate_for_clients_and_not_for_servers(room: Room, key_type: KeyType) -> None:
    room.put("leaf.pem", pem(bundle.leaf(key_type)))
    verify = ("openssl", "verify", "-CAfile", "root.pem", "-untrusted", "issuing.pem", "-purpose")
    client, server = (room.run(*verify, purpose, "leaf.pem") for purpose in ("sslclient", "sslserver"))

    assert (client.returncode, client.stdout) == (0, "leaf.pem: OK\n")
    assert server.returncode != 0
    assert "unsuitable certificate purpose" in server.stderr


@pytest.mark.needs("openssl")
@KEY_TYPES
@ENCODINGS
def test_openssl_opens_the_pem_form(room: Room, encoding: Encoding, key_type: KeyType) -> None:
    content = reencode(
        bundle.pfx(encoding, key_type), passphrase=PASSPHRASE, encoding=encoding, form=Format.PEM
    )
    room.put("cert.pem", content)
    key = room.run("openssl", "pkey", "-in", "cert.pem", "-passin", "file:pw")
    verified = room.run(
        "openssl",
        "verify",
        "-CAfile",
        "root.pem",
        "-untrusted",
        "cert.pem",
        "-purpose",
        "sslclient",
        "cert.pem",
    )
    refused = room.run("openssl", "pkey", "-in", "cert.pem", "-passin", "file:bad")

    assert_key_and_chain(key.stdout.encode() + content[content.index(b"-----BEGIN CERTIFICATE") :], key_type)
    assert verified.stdout == "cert.pem: OK\n"
    assert refused.returncode != 0


@pytest.mark.needs("certutil", "pk12util")
@KEY_TYPES
@ENCODINGS
def test_firefox_imports_and_trusts_it_for_clients(room: Room, encoding: Encoding, key_type: KeyType) -> None:
    """NSS is what Firefox everywhere and Chromium on Linux use."""
    room.put("cert.pfx", bundle.pfx(encoding, key_type))
    new_nss_database(room)
    imported = room.run("pk12util", "-i", "cert.pfx", "-d", "sql:.", "-w", "pw", "-K", "")
    keys = room.run("certutil", "-K", "-d", "sql:.")
    room.run("certutil", "-A", "-d", "sql:.", "-n", "root", "-t", "CT,,", "-i", "root.pem")
    client, server = (
        room.run("certutil", "-V", "-d", "sql:.", "-n", NAME, "-u", usage) for usage in ("C", "V")
    )

    assert (imported.returncode, imported.stdout.strip()) == (0, "pk12util: PKCS12 IMPORT SUCCESSFUL")
    assert NAME in keys.stdout
    assert (client.returncode, client.stdout.strip()) == (0, "certutil: certificate is valid")
    assert server.returncode != 0


@pytest.mark.needs("certutil", "pk12util")
@ENCODINGS
def test_firefox_refuses_another_passphrase(room: Room, encoding: Encoding) -> None:
    room.put("cert.pfx", bundle.pfx(encoding))
    new_nss_database(room)
    refused = room.run("pk12util", "-i", "cert.pfx", "-d", "sql:.", "-w", "bad", "-K", "")
    keys = room.run("certutil", "-K", "-d", "sql:.")

    assert refused.returncode == 18
    assert NAME not in keys.stdout


@pytest.mark.needs("keytool")
@KEY_TYPES
@ENCODINGS
def test_java_finds_the_key_and_its_chain(room: Room, encoding: Encoding, key_type: KeyType) -> None:
    room.put("cert.pfx", bundle.pfx(encoding, key_type))
    listed = keytool(room, "pw")

    assert listed.returncode == 0
    assert re.findall(
        "^(?:Alias name|Entry type|Certificate chain length|Your keystore).*", listed.stdout, re.MULTILINE
    ) == [
        "Your keystore contains 1 entry",
        f"Alias name: {NAME.lower()}",
        "Entry type: PrivateKeyEntry",
        "Certificate chain length: 2",
    ]


@pytest.mark.needs("keytool")
@ENCODINGS
def test_java_refuses_another_passphrase(room: Room, encoding: Encoding) -> None:
    room.put("cert.pfx", bundle.pfx(encoding))
    refused = keytool(room, "bad")

    assert refused.returncode == 1
    assert "password was incorrect" in refused.stdout


@pytest.mark.needs("certtool")
@KEY_TYPES
@ENCODINGS
def test_gnutls_finds_one_key_and_two_certificates(room: Room, encoding: Encoding, key_type: KeyType) -> None:
    room.put("cert.pfx", bundle.pfx(encoding, key_type))
    told = certtool(room, PASSPHRASE)

    assert told.returncode == 0
    assert len(re.findall("BEGIN (?:ENCRYPTED )?PRIVATE KEY", told.stdout)) == 1
    assert told.stdout.count("BEGIN CERTIFICATE") == 2


@pytest.mark.needs("certtool")
@ENCODINGS
def test_gnutls_refuses_another_passphrase(room: Room, encoding: Encoding) -> None:
    room.put("cert.pfx", bundle.pfx(encoding))

    assert certtool(room, "wrong").returncode == 1


READERS: dict[str, Callable[[Room], subprocess.CompletedProcess[str]]] = {
    "openssl": lambda room: room.run("openssl", "pkcs12", "-in", "cert.pfx", "-passin", "file:pw", "-nodes"),
    "keytool": lambda room: keytool(room, "pw"),
    "certtool": lambda room: certtool(room, PASSPHRASE),
}


@pytest.mark.parametrize("reader", [pytest.param(name, marks=pytest.mark.needs(name)) for name in READERS])
@pytest.mark.parametrize(("before", "after"), [tuple(Encoding), tuple(reversed(Encoding))])
def test_a_reencoded_file_opens_with_the_same_passphrase(
    room: Room, reader: str, before: Encoding, after: Encoding
) -> None:
    content = reencode(bundle.pfx(before), passphrase=PASSPHRASE, encoding=after, form=Format.PFX)
    room.put("cert.pfx", content)

    assert READERS[reader](room).returncode == 0


def new_nss_database(room: Room) -> None:
    made = room.run("certutil", "-N", "-d", "sql:.", "--empty-password")
    assert made.returncode == 0, made.stderr


def keytool(room: Room, passphrase_file: str) -> subprocess.CompletedProcess[str]:
    english = ("-J-Duser.language=en", "-J-Duser.country=US")
    store = ("-keystore", "cert.pfx", "-storetype", "PKCS12", "-storepass:file", passphrase_file)
    return room.run("keytool", *english, "-list", "-v", *store)


def certtool(room: Room, passphrase: str) -> subprocess.CompletedProcess[str]:
    return room.run("certtool", "--inder", "--p12-info", "--infile", "cert.pfx", "--password", passphrase)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Serialization.PEM)


def assert_key_and_chain(content: bytes, key_type: KeyType) -> None:
    key = load_pem_private_key(content, None)
    assert key.public_key() == bundle.leaf(key_type).public_key()
    assert x509.load_pem_x509_certificates(content) == [bundle.leaf(key_type), ISSUING.certificate]
