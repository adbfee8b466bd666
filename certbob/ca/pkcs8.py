"""Private keys encrypted as PKCS #8, with as many rounds as a passphrase of people needs.

`cryptography` reads any number of rounds, but always writes 2048.
"""

import hashlib
import secrets
from base64 import b64encode
from textwrap import wrap

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

ROUNDS = 600_000  # OWASP's figure for PBKDF2-HMAC-SHA256: what every guess at a stolen key costs

# Object identifiers, DER.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d0209")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
_NULL = b"\x05\x00"
_INTEGER, _OCTETS, _SEQUENCE = 0x02, 0x04, 0x30


def encrypted_pem(key: bytes, passphrase: str) -> bytes:
    """EncryptedPrivateKeyInfo (RFC 5958 3) under PBES2 (RFC 8018 6.2), PEM. `key` is PKCS #8, DER."""
    salt, iv = secrets.token_bytes(16), secrets.token_bytes(16)
    rounds = ROUNDS.to_bytes(ROUNDS.bit_length() // 8 + 1)
    derivation = _der(
        _SEQUENCE,
        _PBKDF2,
        _der(_SEQUENCE, _der(_OCTETS, salt), _der(_INTEGER, rounds), _der(_SEQUENCE, _HMAC_SHA256, _NULL)),
    )
    encryption = _der(_SEQUENCE, _AES_256_CBC, _der(_OCTETS, iv))
    algorithm = _der(_SEQUENCE, _PBES2, _der(_SEQUENCE, derivation, encryption))

    padder = PKCS7(AES256.block_size).padder()
    derived = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt, ROUNDS, AES256.key_size // 8)
    encryptor = Cipher(AES256(derived), CBC(iv)).encryptor()
    sealed = encryptor.update(padder.update(key) + padder.finalize()) + encryptor.finalize()

    text = "\n".join(wrap(b64encode(_der(_SEQUENCE, algorithm, _der(_OCTETS, sealed))).decode(), 64))
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{text}\n-----END ENCRYPTED PRIVATE KEY-----\n".encode()


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content
