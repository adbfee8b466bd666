import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certbob.ca.provisioner_key import ProvisionerKey, decrypt, open_provisioner_key
from certbob.errors import BadProvisionerPassword
from certbob.secret import Secret
from certbob.strict_json import json_object
from tests.support.stepca import PASSWORD, PrivateKey, encode, encrypt_jwk, private_jwk, public_jwk

JWK = private_jwk(ec.generate_private_key(ec.SECP256R1()))
KEYS = [
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
]


def with_header(jwe: str, **changes: Any) -> str:
    """The same JWE with other header fields; None takes a field away."""
    head, _, rest = jwe.partition(".")
    header = json_object(_decode(head)) | changes
    return f"{encode(json.dumps({k: v for k, v in header.items() if v is not None}).encode())}.{rest}"


def _decode(text: str) -> bytes:
    return jwt.utils.base64url_decode(text)


@pytest.mark.parametrize("enc", ["A128GCM", "A192GCM", "A256GCM"])
@pytest.mark.parametrize("alg", ["PBES2-HS256+A128KW", "PBES2-HS384+A192KW", "PBES2-HS512+A256KW"])
def test_every_allowed_encryption_is_opened(alg: str, enc: str) -> None:
    jwe = encrypt_jwk(JWK, PASSWORD, rounds=1_000, alg=alg, enc=enc)

    assert decrypt(jwe, Secret(PASSWORD)) == JWK


@pytest.mark.parametrize("rounds", [100_000, 600_000])
def test_the_rounds_of_old_and_new_provisioners_are_opened(rounds: int) -> None:
    assert decrypt(encrypt_jwk(JWK, PASSWORD, rounds=rounds), Secret(PASSWORD)) == JWK


@pytest.mark.parametrize("wrong", ["", "Correct horse", PASSWORD + "\n", PASSWORD[:-1]])
def test_a_wrong_password_is_told_from_a_damaged_key(wrong: str) -> None:
    with pytest.raises(BadProvisionerPassword):
        decrypt(encrypt_jwk(JWK, PASSWORD, rounds=1_000), Secret(wrong))


def test_no_password_is_a_wrong_password() -> None:
    with pytest.raises(BadProvisionerPassword):
        decrypt(encrypt_jwk(JWK, PASSWORD, rounds=1_000), None)


@pytest.mark.parametrize("rounds", [10**9, 1_000_001, 999, 0, -1, "600000", True, 1000.0, None, [1000]])
def test_an_unreasonable_number_of_rounds_is_refused_before_any_work(rounds: Any) -> None:
    with pytest.raises(ValueError, match="rounds"):
        decrypt(with_header(encrypt_jwk(JWK, PASSWORD, rounds=1_000), p2c=rounds), Secret(PASSWORD))


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "dir"},
        {"alg": "PBES2-HS256+A192KW"},
        {"alg": "RSA-OAEP"},
        {"alg": None},
        {"alg": ["PBES2-HS256+A128KW"]},
        {"enc": "A128CBC-HS256"},
        {"enc": "A128GCM"},
        {"enc": None},
        {"p2s": encode(b"1234567")},
        {"p2s": None},
        {"p2s": 5},
        {"p2s": "AAAAAAAAAA=="},
        {"p2s": "AAAAAAAA\nAAAA"},
    ],
    ids=str,
)
def test_a_header_outside_the_allowlist_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the JWE"):
        decrypt(with_header(encrypt_jwk(JWK, PASSWORD, rounds=1_000), **change), Secret(PASSWORD))


@pytest.mark.parametrize("field", [{"zip": "DEF"}, {"crit": ["exp"]}], ids=str)
def test_an_extension_that_is_not_understood_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unknown extension"):
        decrypt(encrypt_jwk(JWK, PASSWORD, rounds=1_000, **field), Secret(PASSWORD))


def test_a_header_field_added_later_is_noticed() -> None:
    with pytest.raises(ValueError, match="damaged"):
        decrypt(with_header(encrypt_jwk(JWK, PASSWORD, rounds=1_000), cty="json"), Secret(PASSWORD))


@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("change", ["flip", "shorten", "empty", "blank", "padding"])
def test_a_key_changed_in_any_part_is_never_opened(part: int, change: str) -> None:
    parts = encrypt_jwk(JWK, PASSWORD, rounds=1_000).split(".")
    text = parts[part]
    flipped = _decode(text)[:-1] + bytes([_decode(text)[-1] ^ 1])
    parts[part] = {
        "flip": encode(flipped),
        "shorten": text[:-4],
        "empty": "",
        "blank": f" {text}",
        "padding": f"{text}==",
    }[change]

    with pytest.raises((ValueError, BadProvisionerPassword)):
        decrypt(".".join(parts), Secret(PASSWORD))


@pytest.mark.parametrize(
    "text", ["", "a.b.c", "....", "a.b.c.d.e.f", "ä.ö.ü.ß.é", "[" * 4000 + "....", "x" * 99999]
)
def test_what_is_no_compact_jwe_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JWE|JSON|Expecting|decode"):
        decrypt(text, Secret(PASSWORD))


def test_a_byte_moved_from_one_part_to_the_next_is_noticed() -> None:
    *parts, ciphertext, tag = encrypt_jwk(JWK, PASSWORD, rounds=1_000).split(".")
    moved = encode(_decode(ciphertext)[:-1]), encode(_decode(ciphertext)[-1:] + _decode(tag))

    with pytest.raises(ValueError, match="wrong length"):
        decrypt(".".join((*parts, *moved)), Secret(PASSWORD))


@pytest.mark.parametrize("key", KEYS, ids=["ES256", "ES384", "EdDSA", "RS256"])
def test_every_kind_of_provisioner_key_signs_under_its_kid(key: PrivateKey) -> None:
    jwk = private_jwk(key)

    token = ProvisionerKey.from_jwk(jwk).sign({"sub": "Ada"})

    assert jwt.get_unverified_header(token) == {"alg": jwk["alg"], "typ": "JWT", "kid": jwk["kid"]}
    assert jwt.decode(token, key.public_key(), algorithms=[jwk["alg"]]) == {"sub": "Ada"}


@pytest.mark.parametrize(
    "jwk",
    [
        public_jwk(JWK),
        {**JWK, "kid": ""},
        {**JWK, "kid": 5},
        {**JWK, "kty": "RSA"},
        {**JWK, "d": "AAAA"},
        {**JWK, "x": 5},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "k"},
        private_jwk(ec.generate_private_key(ec.SECP256R1())) | {"crv": "P-521"},
        private_jwk(rsa.generate_private_key(65537, 1024)),
        {},
    ],
)
def test_a_key_that_cannot_sign_safely_is_refused_without_showing_it(jwk: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^it (has|is)") as caught:
        ProvisionerKey.from_jwk(jwk)

    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert JWK["d"] not in str(caught.value)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES384", ["ES256"], 5])
def test_a_key_signs_by_its_type_whatever_its_alg_says(algorithm: Any) -> None:
    assert ProvisionerKey.from_jwk({**JWK, "alg": algorithm}).algorithm == "ES256"


def test_the_key_is_never_shown() -> None:
    assert repr(ProvisionerKey.from_jwk(JWK)) == f"ProvisionerKey(kid={JWK['kid']!r}, algorithm='ES256')"


def test_a_key_is_taken_as_jwe_or_as_jwk() -> None:
    encrypted = open_provisioner_key(encrypt_jwk(JWK, PASSWORD, rounds=1_000) + "\n", Secret(PASSWORD))
    plain = open_provisioner_key(f"\n{json.dumps(JWK)}\n", None)

    assert encrypted.kid == plain.kid == JWK["kid"]


def test_the_key_of_another_provisioner_is_refused() -> None:
    other = public_jwk(private_jwk(ec.generate_private_key(ec.SECP256R1())))
    jwe = encrypt_jwk(JWK, PASSWORD, rounds=1_000)

    assert open_provisioner_key(jwe, Secret(PASSWORD), published=public_jwk(JWK)).kid == JWK["kid"]
    for published in (other, other | {"kid": JWK["kid"]}, {}):
        with pytest.raises(ValueError, match="another public key"):
            open_provisioner_key(jwe, Secret(PASSWORD), published=published)
