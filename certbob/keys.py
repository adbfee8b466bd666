"""Key pair, signing request, passphrase. Private keys are bytes in memory and pipes, never files."""

import hashlib
import hmac
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from certbob.profiles import KeyType

# Without look-alikes (i l o 0 1), lower case only because of phones: 20 symbols of 31 are 99 bits.
PASSPHRASE_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105 not a password
PASSPHRASE_GROUPS = 5
PASSPHRASE_GROUP_LENGTH = 4


@dataclass(frozen=True, slots=True)
class NewKey:
    """A fresh key pair and its signing request, all DER: PKCS #8, PKCS #10, SubjectPublicKeyInfo."""

    private_key: bytes = field(repr=False)
    csr: bytes
    public_key: bytes


def derive_key(secret: str, purpose: str) -> bytes:
    """A 32-byte key of its own for each purpose, from the server's secret (HKDF, RFC 5869)."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=f"certbob {purpose}".encode()).derive(secret.encode())


def digest(text: str) -> str:
    """How a secret is stored that only has to be recognised: SHA-256, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def passphrase_for(key: bytes, grant_id: str) -> str:
    """The passphrase of a grant's file, such as `k7mq-2rtx-9hvc-e4wd-pz6n`; the hyphens belong to it.

    Derived, so that every view of a live grant shows the same one and nothing has to be stored.
    """
    digest = hmac.digest(key, b"pfx-passphrase\0" + grant_id.encode(), hashlib.sha256)
    number = int.from_bytes(digest)
    symbols = []
    for _ in range(PASSPHRASE_GROUPS * PASSPHRASE_GROUP_LENGTH):
        number, index = divmod(number, len(PASSPHRASE_ALPHABET))
        symbols.append(PASSPHRASE_ALPHABET[index])
    text = "".join(symbols)
    return "-".join(
        text[start : start + PASSPHRASE_GROUP_LENGTH]
        for start in range(0, len(text), PASSPHRASE_GROUP_LENGTH)
    )


def generate(key_type: KeyType) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """CPU-heavy for RSA: up to a second for 4096 bits."""
    match key_type:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65537, int(key_type.removeprefix("rsa")))


def new_key_and_csr(key_type: KeyType, common_name: str) -> NewKey:
    """CPU-heavy: run it in a signer. The CSR holds the common name only; the authority is told the rest."""
    key = generate(key_type)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return NewKey(
        private_key=private_key_bytes(key),
        csr=csr.public_bytes(serialization.Encoding.DER),
        public_key=public_key_bytes(key.public_key()),
    )


def private_key_bytes(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """PKCS #8, DER, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key_bytes(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
