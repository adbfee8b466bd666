"""The key of a step-ca JWK provisioner: decrypted with its password, then used to sign one-time tokens.

step-ca publishes the private key as a compact JWE (RFC 7516) under PBES2 (RFC 7518 section 4.8) with
600 000 rounds. joserfc, jwcrypto and authlib refuse that many rounds or know no PBES2, so the few steps
stand here, on the primitives of `cryptography`.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from certbob.errors import BadProvisionerPassword
from certbob.secret import Secret
from certbob.strict_json import json_object

_KEY_WRAPPINGS = {  # alg: hash, bytes of the key that wraps the content key (RFC 7518 section 4.8.1)
    "PBES2-HS256+A128KW": ("sha256", 16),
    "PBES2-HS384+A192KW": ("sha384", 24),
    "PBES2-HS512+A256KW": ("sha512", 32),
}
_CONTENT_KEY_SIZES = {"A128GCM": 16, "A192GCM": 24, "A256GCM": 32}
_WRAPPING_OVERHEAD = 8  # RFC 3394: the integrity check value
_ROUNDS = range(1_000, 1_000_001)  # go-jose, which step-ca uses, refuses more
_SALT_SIZE = 8  # RFC 7518 section 4.8.1.1: at least
_MAX_HEADER = 4096
_MIN_RSA_BITS = 2048
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
_PUBLIC_MEMBERS = ("kid", "kty", "crv", "x", "y", "n", "e")


@dataclass(frozen=True, slots=True)
class ProvisionerKey:
    """A private key that signs one-time tokens, and the name (`kid`) the authority knows it by."""

    kid: str
    algorithm: str
    private_key: _PrivateKey = field(repr=False)

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> Self:
        """Raises ValueError for all but a private P-256, P-384, Ed25519 or RSA-2048+ key with a kid."""
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not kid:
            raise ValueError("it has no kid")
        algorithm = _algorithm(jwk)
        try:
            key = jwt.PyJWK(dict(jwk), algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError):
            raise ValueError("it is damaged") from None  # PyJWT's own words hold the key
        if not isinstance(key, _PrivateKey):
            raise ValueError("it is not a private key")
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _MIN_RSA_BITS:
            raise ValueError(f"it has less than {_MIN_RSA_BITS} bits")
        return cls(kid=kid, algorithm=algorithm, private_key=key)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWS. step-ca looks the provisioner up by issuer and `kid`, so the header names it."""
        return jwt.encode(dict(claims), self.private_key, self.algorithm, headers={"kid": self.kid})


def open_provisioner_key(
    text: str, password: Secret | None, *, published: Mapping[str, Any] | None = None
) -> ProvisionerKey:
    """The key in `text`, a compact JWE or a private JWK as JSON. CPU-heavy: run it in a thread.

    `published`: the public JWK it must belong to. Raises BadProvisionerPassword, or ValueError that tells
    what is wrong with the key and holds nothing secret.
    """
    jwk = json_object(text.encode()) if text.lstrip().startswith("{") else decrypt(text.strip(), password)
    if published is not None and any(jwk.get(name) != published.get(name) for name in _PUBLIC_MEMBERS):
        raise ValueError("it belongs to another public key")
    return ProvisionerKey.from_jwk(jwk)


def decrypt(jwe: str, password: Secret | None) -> dict[str, Any]:
    """The private JWK inside a compact JWE. Raises BadProvisionerPassword; ValueError when it is damaged."""
    if password is None:
        raise BadProvisionerPassword("no provisioner password is set")
    parts = jwe.split(".")
    if len(parts) != 5 or len(parts[0]) > _MAX_HEADER:
        raise ValueError("it is not a compact JWE")
    header = json_object(_decode(parts[0]))
    wrapped_key, nonce, ciphertext, tag = map(_decode, parts[1:])
    hash_name, wrapping_size, content_size, salt, rounds = _parameters(header)
    if (len(wrapped_key), len(nonce), len(tag)) != (content_size + _WRAPPING_OVERHEAD, 12, 16):
        raise ValueError("the JWE has parts of wrong length")
    wrapping_key = hashlib.pbkdf2_hmac(hash_name, password.reveal().encode(), salt, rounds, wrapping_size)
    try:
        content_key = aes_key_unwrap(wrapping_key, wrapped_key)
    except InvalidUnwrap as error:
        raise BadProvisionerPassword("the provisioner password is wrong") from error
    try:
        plain = AESGCM(content_key).decrypt(nonce, ciphertext + tag, parts[0].encode())
    except InvalidTag as error:
        raise ValueError("the JWE is damaged") from error
    return json_object(plain)


def _algorithm(jwk: Mapping[str, Any]) -> str:
    match jwk:
        case {"kty": "EC", "crv": "P-256"}:
            return "ES256"
        case {"kty": "EC", "crv": "P-384"}:
            return "ES384"
        case {"kty": "OKP", "crv": "Ed25519"}:
            return "EdDSA"
        case {"kty": "RSA", "alg": "RS384" | "RS512" | "PS256" | "PS384" | "PS512" as algorithm}:
            return str(algorithm)
        case {"kty": "RSA"}:
            return "RS256"
    raise ValueError("it is neither P-256, P-384, Ed25519 nor RSA")


def _parameters(header: Mapping[str, Any]) -> tuple[str, int, int, bytes, int]:
    """Hash, size of the wrapping key, size of the content key, salt, rounds."""
    algorithm, encryption, rounds = str(header.get("alg")), str(header.get("enc")), header.get("p2c")
    if algorithm not in _KEY_WRAPPINGS or encryption not in _CONTENT_KEY_SIZES:
        raise ValueError("the JWE is encrypted in an unknown way")
    if "zip" in header or "crit" in header:
        raise ValueError("the JWE asks for an unknown extension")
    if not isinstance(rounds, int) or rounds not in _ROUNDS:
        raise ValueError("the JWE asks for an unreasonable number of rounds")
    salt = _decode(header.get("p2s"))
    if len(salt) < _SALT_SIZE:
        raise ValueError("the JWE has a salt that is too short")
    hash_name, wrapping_size = _KEY_WRAPPINGS[algorithm]
    return hash_name, wrapping_size, _CONTENT_KEY_SIZES[encryption], algorithm.encode() + b"\0" + salt, rounds


def _decode(text: object) -> bytes:
    """base64url without padding (RFC 7515 section 2), and nothing else."""
    try:
        if not isinstance(text, str) or "=" in text:
            raise ValueError("not a text without padding")
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise ValueError("the JWE is not base64url") from error
