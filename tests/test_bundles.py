"""The file people take away, judged by its bytes. Real readers: `test_bundles_readers.py`."""

import base64
import re
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding as Serialization,
)
from cryptography.hazmat.primitives.serialization import (
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from certbob.bundles import FileNames, Format, friendly_name, reencode, to_pkcs12
from certbob.devices import Encoding, Platform
from certbob.profiles import KeyType
from tests.support import bundle, der, pki
from tests.support.bundle import ISSUING, NAME, PASSPHRASE, ROOT
from tests.support.pkcs12 import (
    AES_256_CBC,
    CERTIFICATE_BAG,
    FRIENDLY_NAME,
    HMAC_SHA256,
    LOCAL_KEY_ID,
    PBES1_3DES,
    PBES2,
    SHA1,
    SHA256,
    SHROUDED_KEY_BAG,
    Protection,
    WrongPassphrase,
    read_pfx,
)

ENCODINGS = pytest.mark.parametrize("encoding", Encoding)
KEY_TYPES = pytest.mark.parametrize("key_type", KeyType)


@KEY_TYPES
@ENCODINGS
def test_a_file_is_protected_wholly_in_one_way(encoding: Encoding, key_type: KeyType) -> None:
    pfx = read_pfx(bundle.pfx(encoding, key_type), PASSPHRASE)
    protections = [bag.protection for bag in pfx.bags]
    modern = (PBES2, 2048, 16, HMAC_SHA256, True, AES_256_CBC)
    compatible = (PBES1_3DES, 2048, 8, None, False, None)

    assert pfx.version == 3
    assert pfx.mac_hash == (SHA256 if encoding is Encoding.MODERN else SHA1)
    assert (pfx.mac_rounds, len(pfx.mac_salt)) == (2048, 8)
    assert [
        (one.scheme, one.rounds, len(one.salt), one.prf, one.prf_has_null, one.cipher) for one in protections
    ] == [modern if encoding is Encoding.MODERN else compatible] * 3


@KEY_TYPES
@ENCODINGS
def test_a_file_holds_one_key_its_certificate_and_the_intermediates(
    encoding: Encoding, key_type: KeyType
) -> None:
    pfx = read_pfx(bundle.pfx(encoding, key_type), PASSPHRASE)
    (key,), certificates = pfx.of(SHROUDED_KEY_BAG), pfx.of(CERTIFICATE_BAG)
    leaf = bundle.leaf(key_type)

    assert len(pfx.bags) == 3
    assert [bag.value for bag in certificates] == [leaf.public_bytes(Serialization.DER), ISSUING.der]
    assert ROOT.der not in [bag.value for bag in certificates]
    assert load_der_private_key(key.value, None).public_key() == leaf.public_key()


@ENCODINGS
def test_key_and_certificate_are_tied_together_and_named(encoding: Encoding) -> None:
    pfx = read_pfx(bundle.pfx(encoding), PASSPHRASE)
    (key,), (leaf, issuing) = pfx.of(SHROUDED_KEY_BAG), pfx.of(CERTIFICATE_BAG)

    assert key.local_key_id == leaf.local_key_id != b""
    assert key.friendly_name == leaf.friendly_name == NAME
    assert key.attributes.keys() == leaf.attributes.keys() == {FRIENDLY_NAME, LOCAL_KEY_ID}
    assert issuing.attributes == {}


@ENCODINGS
def test_names_of_all_the_world_survive(encoding: Encoding) -> None:
    name = "Zoë 𠮷田 - Работа 2027-02"
    (key,) = read_pfx(make(encoding=encoding, name=name), PASSPHRASE).of(SHROUDED_KEY_BAG)

    assert key.friendly_name == name


@ENCODINGS
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_every_intermediate_is_inside_in_order(encoding: Encoding, depth: int) -> None:
    authorities = tuple(pki.below(ROOT, f"Level {level}").der for level in range(depth))
    pfx = read_pfx(make(encoding=encoding, authorities=authorities), PASSPHRASE)

    assert [bag.value for bag in pfx.of(CERTIFICATE_BAG)][1:] == list(authorities)


@ENCODINGS
@pytest.mark.parametrize(
    "wrong",
    ["", " ", PASSPHRASE.replace("-", ""), PASSPHRASE.upper(), f"{PASSPHRASE} ", f" {PASSPHRASE}", "wrong"],
    ids=["empty", "blank", "without hyphens", "upper case", "blank after", "blank before", "another"],
)
def test_any_other_passphrase_is_refused(encoding: Encoding, wrong: str) -> None:
    with pytest.raises(WrongPassphrase):
        read_pfx(bundle.pfx(encoding), wrong)


@ENCODINGS
def test_every_file_has_salts_of_its_own(encoding: Encoding) -> None:
    files = [read_pfx(make(encoding=encoding), PASSPHRASE) for _ in range(5)]
    salts = {pfx.mac_salt for pfx in files} | {bag.protection.salt for pfx in files for bag in pfx.bags}

    # MAC, key bag, and the container of both certificates.
    assert len(salts) == 5 * 3


@ENCODINGS
def test_nothing_of_the_key_is_readable_in_a_file(encoding: Encoding) -> None:
    scalar = der.parse(der.parse(pki.new_key().private_key)[2].content)[1].only(der.OCTETS)

    assert len(scalar) == 32
    assert scalar not in bundle.pfx(encoding)


@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.RSA2048])
@pytest.mark.parametrize(
    ("before", "after"), [(Encoding.MODERN, Encoding.COMPATIBLE), (Encoding.COMPATIBLE, Encoding.MODERN)]
)
def test_a_file_in_the_other_encoding_holds_the_same(
    before: Encoding, after: Encoding, key_type: KeyType
) -> None:
    again = reencode(bundle.pfx(before, key_type), passphrase=PASSPHRASE, encoding=after, form=Format.PFX)
    old, new = (read_pfx(content, PASSPHRASE) for content in (bundle.pfx(before, key_type), again))

    assert new.mac_hash == read_pfx(bundle.pfx(after), PASSPHRASE).mac_hash != old.mac_hash
    assert [(bag.kind, bag.value, bag.attributes) for bag in new.bags] == [
        (bag.kind, bag.value, bag.attributes) for bag in old.bags
    ]


@pytest.mark.parametrize("form", Format)
def test_nothing_is_reencoded_with_a_wrong_passphrase(form: Format) -> None:
    with pytest.raises(ValueError, match="password"):
        reencode(bundle.pfx(Encoding.MODERN), passphrase="wrong", encoding=Encoding.COMPATIBLE, form=form)


@ENCODINGS
@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.RSA2048])
def test_the_pem_form_holds_an_encrypted_key_and_the_chain(encoding: Encoding, key_type: KeyType) -> None:
    pem = reencode(bundle.pfx(encoding, key_type), passphrase=PASSPHRASE, encoding=encoding, form=Format.PEM)
    (key_label, key), *certificates = pem_blocks(pem)
    algorithm, encrypted = der.parse(key).children
    protection = Protection.read(algorithm)
    opened = protection.decrypt(encrypted.content, PASSPHRASE)

    assert key_label == "ENCRYPTED PRIVATE KEY"
    assert certificates == [
        ("CERTIFICATE", bundle.leaf(key_type).public_bytes(Serialization.DER)),
        ("CERTIFICATE", ISSUING.der),
    ]
    assert (protection.scheme, protection.rounds, protection.cipher) == (PBES2, 2048, AES_256_CBC)
    assert load_der_private_key(opened, None).public_key() == bundle.leaf(key_type).public_key()


def test_a_key_that_people_cannot_import_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()

    with pytest.raises(TypeError, match="Ed25519"):
        make(private_key=key.private_bytes(Serialization.DER, PrivateFormat.PKCS8, NoEncryption()))


def test_the_media_type_is_the_one_of_the_format() -> None:
    assert {form.value: form.media_type for form in Format} == {
        "pfx": "application/x-pkcs12",
        "pem": "application/x-pem-file",
    }


FEBRUARY = datetime(2027, 2, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("person", "device", "organization", "name"),
    [
        ("Ada Lovelace", "Work laptop", "Example Org", "Ada Lovelace - Work laptop (Example Org) 2027-02"),
        ("Ada Lovelace", "Work laptop", None, "Ada Lovelace - Work laptop 2027-02"),
        ("Ada", "d" * 40, "O", f"Ada - {'d' * 40} (O) 2027-02"),
        ("Ada Lovelace", "Work laptop", "O" * 27, f"Ada Lovelace - Work laptop ({'O' * 27}) 2027-02"),
        ("Ada Lovelace", "Work laptop", "O" * 28, "Ada Lovelace - Work laptop 2027-02"),
        ("p" * 64, "laptop", "Org", f"{'p' * 47} - laptop 2027-02"),
        ("p" * 12 + " " + "q" * 51, "d" * 40, None, f"{'p' * 12} - {'d' * 40} 2027-02"),
    ],
)
def test_a_chooser_shows_person_device_and_month(
    person: str, device: str, organization: str | None, name: str
) -> None:
    assert friendly_name(person, device, organization, FEBRUARY) == name


@given(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=64),
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40),
    st.none() | st.text(min_size=1, max_size=80),
)
@settings(deadline=None)
def test_a_name_never_outgrows_64_characters_and_keeps_device_and_month(
    person: str, device: str, organization: str | None
) -> None:
    name = friendly_name(person, device, organization, FEBRUARY)

    assert len(name) <= 64
    assert name.startswith(person[:13])
    assert f" - {device} " in name
    assert name.endswith(" 2027-02")


@pytest.mark.parametrize(
    ("pattern", "platform", "form", "name"),
    [
        ("user_cert.pfx", Platform.WINDOWS, Format.PFX, "user_cert.pfx"),
        ("user_cert.pfx", Platform.IOS, Format.PFX, "user_cert.pfx"),
        ("user_cert.pfx", Platform.LINUX, Format.PEM, "user_cert.pem"),
        ("user_cert.{ext}", Platform.WINDOWS, Format.PFX, "user_cert.pfx"),
        ("user_cert.{ext}", Platform.CHROMEOS, Format.PFX, "user_cert.pfx"),
        ("user_cert.{ext}", Platform.OTHER, Format.PFX, "user_cert.pfx"),
        ("user_cert.{ext}", Platform.MAC, Format.PFX, "user_cert.p12"),
        ("user_cert.{ext}", Platform.IOS, Format.PFX, "user_cert.p12"),
        ("user_cert.{ext}", Platform.ANDROID, Format.PFX, "user_cert.p12"),
        ("user_cert.{ext}", Platform.LINUX, Format.PFX, "user_cert.p12"),
        ("user_cert.{ext}", Platform.LINUX, Format.PEM, "user_cert.pem"),
        ("{user}-{device}.{ext}", Platform.MAC, Format.PFX, "ada-lovelace-ada-s-macbook.p12"),
        ("{user}_{device}.pfx", Platform.MAC, Format.PEM, "ada-lovelace_ada-s-macbook.pem"),
    ],
)
def test_a_file_is_named_as_the_pattern_says(
    pattern: str, platform: Platform, form: Format, name: str
) -> None:
    named = FileNames(pattern).name(user="Ada Lovelace", device="Ada's MacBook", platform=platform, form=form)

    assert named == name


@settings(deadline=None)
@given(st.text(), st.text(), st.sampled_from(Platform), st.sampled_from(Format))
def test_no_name_of_a_person_or_device_breaks_a_header(
    user: str, device: str, platform: Platform, form: Format
) -> None:
    name = FileNames("{user}_{device}.{ext}").name(user=user, device=device, platform=platform, form=form)

    assert re.fullmatch(r"[a-z0-9-]{1,30}_[a-z0-9-]{1,30}\.(pfx|p12|pem)", name)


@pytest.mark.parametrize(
    "hostile",
    [
        'a"; filename="evil.exe',
        "a\r\nSet-Cookie: b=c",
        "../../etc/passwd",
        "evil.exe",
        "{ext.__class__}",
        "\0",
        "",
    ],
)
def test_a_hostile_name_loses_all_that_could_harm(hostile: str) -> None:
    name = FileNames("{user}.pfx").name(
        user=hostile, device="laptop", platform=Platform.OTHER, form=Format.PFX
    )

    assert re.fullmatch(r"[a-z0-9-]+\.pfx", name)


def make(
    *,
    private_key: bytes | None = None,
    authorities: tuple[bytes, ...] = (ISSUING.der,),
    name: str = NAME,
    encoding: Encoding = Encoding.MODERN,
) -> bytes:
    return to_pkcs12(
        private_key or pki.new_key().private_key,
        bundle.leaf().public_bytes(Serialization.DER),
        authorities,
        name=name,
        passphrase=PASSPHRASE,
        encoding=encoding,
    )


def pem_blocks(pem: bytes) -> list[tuple[str, bytes]]:
    """Label and content of every block; there is nothing between them."""
    block = re.compile(rb"-----BEGIN ([A-Z ]+)-----\n([A-Za-z0-9+/=\n]+)-----END \1-----\n")
    assert block.sub(b"", pem) == b""
    return [(label.decode(), base64.b64decode(body)) for label, body in block.findall(pem)]
