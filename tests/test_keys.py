"""Keys, signing requests, passphrases."""

import hashlib
import hmac
import math
from collections import Counter

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.x509.oid import NameOID

from certbob.keys import PASSPHRASE_ALPHABET, derive_key, new_key_and_csr, passphrase_for, public_key_bytes
from certbob.profiles import KeyType
from tests.support import pki

KEY = bytes(range(32))


def test_a_passphrase_is_five_groups_of_four_without_look_alikes() -> None:
    groups = passphrase_for(KEY, "grant").split("-")

    assert [len(group) for group in groups] == [4, 4, 4, 4, 4]
    assert set("".join(groups)) <= set("abcdefghjkmnpqrstuvwxyz23456789")


def test_a_passphrase_has_99_bits() -> None:
    assert len(set(PASSPHRASE_ALPHABET)) == 31
    assert 20 * math.log2(len(PASSPHRASE_ALPHABET)) > 99


def test_every_symbol_of_a_passphrase_is_as_likely_as_the_others() -> None:
    """Each place and each pair of neighbours is counted over 6200 grants."""
    texts = [passphrase_for(KEY, str(number)).replace("-", "") for number in range(6200)]
    places = [Counter(text[place] for text in texts) for place in range(20)]
    pairs = Counter(text[place : place + 2] for text in texts for place in range(19))

    # 200 of each are expected in a place, 122 of each pair: fixed numbers, for the key is fixed.
    assert all(
        len(place) == 31 and 130 < min(place.values()) <= max(place.values()) < 270 for place in places
    )
    assert len(pairs) == 31 * 31
    assert 70 < min(pairs.values()) <= max(pairs.values()) < 190


def test_a_passphrase_is_the_same_whenever_it_is_asked_for() -> None:
    """Worked out apart: what people were shown stays right when the program is updated."""
    number = int(hmac.new(KEY, b"pfx-passphrase\0grant", "sha256").hexdigest(), 16)
    symbols = ["abcdefghjkmnpqrstuvwxyz23456789"[number // 31**place % 31] for place in range(20)]

    assert passphrase_for(KEY, "grant").replace("-", "") == "".join(symbols)
    assert passphrase_for(KEY, "grant") == "ffq2-ksx7-4zhv-qxmg-qjny"


def test_no_two_grants_have_the_same_passphrase() -> None:
    assert len({passphrase_for(KEY, str(number)) for number in range(1000)}) == 1000


def test_another_secret_gives_another_passphrase() -> None:
    one, other = (derive_key(secret, "passphrase") for secret in ("s" * 43, "s" * 42 + "t"))

    assert passphrase_for(one, "grant") != passphrase_for(other, "grant")


def test_the_hash_of_a_grant_does_not_give_back_its_passphrase() -> None:
    """The database keeps only this hash, so that it and the server's secret do not open a mailed file."""
    assert passphrase_for(KEY, hashlib.sha256(b"grant").hexdigest()) != passphrase_for(KEY, "grant")


def test_every_purpose_has_a_key_of_its_own() -> None:
    purposes = ["session", "grant", "passphrase"]

    assert len({derive_key("secret", purpose) for purpose in purposes}) == len(purposes)


def test_keys_are_derived_as_rfc_5869_says() -> None:
    extracted = hmac.digest(bytes(32), b"secret", "sha256")
    expanded = hmac.digest(extracted, b"certbob grant\x01", "sha256")

    assert derive_key("secret", "grant") == expanded


@pytest.mark.parametrize("key_type", KeyType)
def test_a_new_key_is_of_the_asked_kind_and_signs_its_request(key_type: KeyType) -> None:
    new = pki.new_key(key_type)
    key = load_der_private_key(new.private_key, None)
    csr = x509.load_der_x509_csr(new.csr)

    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    assert describe(key.public_key()) == key_type
    assert csr.is_signature_valid
    assert isinstance(csr.signature_hash_algorithm, hashes.SHA256)
    assert csr.public_key() == key.public_key()
    assert public_key_bytes(key.public_key()) == new.public_key


def test_a_request_carries_the_common_name_and_nothing_else() -> None:
    csr = x509.load_der_x509_csr(pki.new_key(common_name="Zoë ,O=Evil").csr)

    assert [(part.oid, part.value) for part in csr.subject] == [(NameOID.COMMON_NAME, "Zoë ,O=Evil")]
    assert list(csr.extensions) == []
    assert list(csr.attributes) == []


def test_no_key_is_made_twice() -> None:
    assert len({new_key_and_csr(KeyType.P256, "Ada").public_key for _ in range(50)}) == 50


def test_a_key_does_not_show_in_its_repr() -> None:
    new = pki.new_key()

    assert repr(new.private_key) not in repr(new)
    assert "private_key" not in repr(new)


def describe(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        assert key.public_numbers().e == 65537
        return f"rsa{key.key_size}"
    return {"secp256r1": "p256", "secp384r1": "p384"}[key.curve.name]
