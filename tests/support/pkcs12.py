"""An independent reader of PKCS #12 files (RFC 7292, RFC 8018): what they hold, and how it is protected."""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

from tests.support.der import BMP, NULL, OCTETS, Node, parse

DATA, ENCRYPTED_DATA = "1.2.840.113549.1.7.1", "1.2.840.113549.1.7.6"
SHROUDED_KEY_BAG, CERTIFICATE_BAG = "1.2.840.113549.1.12.10.1.2", "1.2.840.113549.1.12.10.1.3"
X509_CERTIFICATE = "1.2.840.113549.1.9.22.1"
FRIENDLY_NAME, LOCAL_KEY_ID = "1.2.840.113549.1.9.20", "1.2.840.113549.1.9.21"
SHA1, SHA256 = "1.3.14.3.2.26", "2.16.840.1.101.3.4.2.1"
PBES1_3DES, PBES2 = "1.2.840.113549.1.12.1.3", "1.2.840.113549.1.5.13"
PBKDF2, HMAC_SHA256 = "1.2.840.113549.1.5.12", "1.2.840.113549.2.9"
AES_256_CBC = "2.16.840.1.101.3.4.1.42"

_HASHES = {SHA1: "sha1", SHA256: "sha256"}
_KEY, _IV, _MAC = 1, 2, 3  # what RFC 7292 B.3 derives bytes for


class WrongPassphrase(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Protection:
    """How something is encrypted, as the AlgorithmIdentifier says. `prf` and `cipher`: PBES2 only."""

    scheme: str
    rounds: int
    salt: bytes
    prf: str | None = None
    prf_has_null: bool = False
    cipher: str | None = None
    iv: bytes = b""

    @classmethod
    def read(cls, node: Node) -> "Protection":
        scheme, parameters = node[0].oid, node[1]
        if scheme == PBES1_3DES:
            salt, rounds = parameters.children
            return cls(scheme, rounds.integer, salt.only(OCTETS))
        assert scheme == PBES2
        derivation, encryption = parameters.children
        assert derivation[0].oid == PBKDF2
        salt, rounds, *_, prf = derivation[1].children
        return cls(
            scheme,
            rounds.integer,
            salt.only(OCTETS),
            prf[0].oid,
            [child.tag for child in prf.children[1:]] == [NULL],
            encryption[0].oid,
            encryption[1].only(OCTETS),
        )

    def decrypt(self, content: bytes, passphrase: str) -> bytes:
        algorithm: AES256 | TripleDES
        if self.scheme == PBES2:
            assert (self.prf, self.cipher) == (HMAC_SHA256, AES_256_CBC)
            algorithm = AES256(
                hashlib.pbkdf2_hmac("sha256", passphrase.encode(), self.salt, self.rounds, dklen=32)
            )
            iv = self.iv
        else:
            algorithm = TripleDES(_derive("sha1", passphrase, self.salt, self.rounds, _KEY, 24))
            iv = _derive("sha1", passphrase, self.salt, self.rounds, _IV, 8)
        decryptor = Cipher(algorithm, CBC(iv)).decryptor()
        padded = decryptor.update(content) + decryptor.finalize()
        return padded[: -padded[-1]]


@dataclass(frozen=True, slots=True)
class Bag:
    """`value`: a PKCS #8 key or a certificate, DER. `own`: its own encryption; `around`: its container's."""

    kind: str
    value: bytes
    own: Protection | None
    around: Protection | None
    attributes: dict[str, Node]

    @property
    def protection(self) -> Protection:
        protection = self.own or self.around
        assert protection is not None, "in plain text"
        return protection

    @property
    def friendly_name(self) -> str:
        return self.attributes[FRIENDLY_NAME].only(BMP).decode("utf-16-be")

    @property
    def local_key_id(self) -> bytes:
        return self.attributes[LOCAL_KEY_ID].only(OCTETS)


@dataclass(frozen=True, slots=True)
class Pfx:
    version: int
    mac_hash: str
    mac_rounds: int
    mac_salt: bytes
    bags: tuple[Bag, ...]

    def of(self, kind: str) -> list[Bag]:
        return [bag for bag in self.bags if bag.kind == kind]


def read_pfx(content: bytes, passphrase: str) -> Pfx:
    """Raises WrongPassphrase when the MAC says so."""
    version, safe, mac = parse(content).children
    assert safe[0].oid == DATA
    authenticated = safe[1][0].only(OCTETS)
    digest, salt, rounds = mac.children
    algorithm, expected = digest[0][0].oid, digest[1].only(OCTETS)
    hash_name = _HASHES[algorithm]
    key = _derive(
        hash_name, passphrase, salt.only(OCTETS), rounds.integer, _MAC, hashlib.new(hash_name).digest_size
    )
    if not hmac.compare_digest(hmac.digest(key, authenticated, hash_name), expected):
        raise WrongPassphrase
    bags = chain.from_iterable(_bags(part, passphrase) for part in parse(authenticated).children)
    return Pfx(version.integer, algorithm, rounds.integer, salt.only(OCTETS), tuple(bags))


def _bags(content_info: Node, passphrase: str) -> Iterator[Bag]:
    kind, value = content_info[0].oid, content_info[1][0]
    around = None
    if kind == DATA:
        contents = value.only(OCTETS)
    else:
        assert kind == ENCRYPTED_DATA
        _, algorithm, encrypted = value[1].children
        around = Protection.read(algorithm)
        contents = around.decrypt(encrypted.content, passphrase)
    for bag in parse(contents).children:
        yield _bag(bag, around, passphrase)


def _bag(node: Node, around: Protection | None, passphrase: str) -> Bag:
    kind, body, *attributes = node.children
    value, own = body[0].encoded, None
    if kind.oid == SHROUDED_KEY_BAG:
        own = Protection.read(body[0][0])
        value = own.decrypt(body[0][1].only(OCTETS), passphrase)
    elif kind.oid == CERTIFICATE_BAG:
        assert body[0][0].oid == X509_CERTIFICATE
        value = body[0][1][0].only(OCTETS)
    found = {item[0].oid: item[1][0] for item in (attributes[0].children if attributes else ())}
    return Bag(kind.oid, value, own, around, found)


def _derive(hash_name: str, passphrase: str, salt: bytes, rounds: int, purpose: int, length: int) -> bytes:
    """RFC 7292 B.2. The passphrase counts as UTF-16 with two zero bytes at its end (B.1)."""
    block = hashlib.new(hash_name).block_size
    pieces = [salt, passphrase.encode("utf-16-be") + b"\0\0"]
    mixed = b"".join(_filled(piece, block) for piece in pieces)
    derived = b""
    while len(derived) < length:
        digest = bytes([purpose]) * block + mixed
        for _ in range(rounds):
            digest = hashlib.new(hash_name, digest).digest()
        derived += digest
        step = int.from_bytes(_filled(digest, block)[:block]) + 1
        mixed = b"".join(
            ((int.from_bytes(mixed[start : start + block]) + step) % (1 << 8 * block)).to_bytes(block)
            for start in range(0, len(mixed), block)
        )
    return derived[:length]


def _filled(piece: bytes, block: int) -> bytes:
    """Repeated until whole blocks are full."""
    size = -(-len(piece) // block) * block
    return (piece * (size // len(piece) + 1))[:size]
