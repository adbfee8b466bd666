"""Which texts are values of a configuration, and in which spelling they are kept."""

from collections.abc import Callable
from datetime import timedelta
from email.headerregistry import Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbob import grammars
from certbob.auth.local import hash_password
from certbob.profiles import KeyType, Usage
from certbob.secret import Secret

HASH = f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}"
FINGERPRINT = "0123456789abcdef" * 4

Grammar = Callable[[str], object]


@pytest.mark.parametrize(
    ("grammar", "text", "value"),
    [
        (grammars.address, "127.0.0.1:8000", "127.0.0.1:8000"),
        (grammars.address, "LocalHost:65535", "localhost:65535"),
        (grammars.address, "[0:0:0:0:0:0:0:1]:8000", "[::1]:8000"),
        (grammars.public_url, "https://PKI.example.org:443/", "https://pki.example.org"),
        (grammars.public_url, "https://pki.example.org:8443", "https://pki.example.org:8443"),
        (grammars.public_url, "http://localhost:80", "http://localhost"),
        (grammars.public_url, "http://127.3.2.1:8000", "http://127.3.2.1:8000"),
        (grammars.public_url, "http://[::1]:8000", "http://[::1]:8000"),
        (grammars.authority_url, "https://CA:9000/", "https://ca:9000"),
        (grammars.issuer, "https://ID.example.org/Realm/", "https://ID.example.org/Realm/"),
        (grammars.issuer, "https://id.example.org:8443", "https://id.example.org:8443"),
        (grammars.issuer, "http://[::1]:9000/oidc", "http://[::1]:9000/oidc"),
        (grammars.host, "Mail.example.org", "mail.example.org"),
        (grammars.host, "[::1]", "::1"),
        (grammars.host, "192.0.2.1", "192.0.2.1"),
        (grammars.sender, "ada@Example.org", Address("", "ada", "Example.org")),
        (grammars.sender, " Müller <ada@example.org>", Address("Müller", "ada", "example.org")),
        (
            grammars.sender,
            '"CertBob, mail" <ada@example.org>',
            Address("CertBob, mail", "ada", "example.org"),
        ),
        (grammars.scope, "https://example.org/scope.read", "https://example.org/scope.read"),
        (grammars.network, "10.0.0.0/8", "10.0.0.0/8"),
        (grammars.network, "::1", "::1/128"),
        (grammars.contact, "help@example.org", "help@example.org"),
        (
            grammars.contact,
            "https://example.org/help?topic=pki#top",
            "https://example.org/help?topic=pki#top",
        ),
        (grammars.label, " Mu\u0308ller & Söhne, Inc. ", "Müller & Söhne, Inc."),
        (grammars.username, " ＡDA ", "ada"),
        (grammars.username, "ada.lovelace-1815@example", "ada.lovelace-1815@example"),
        (grammars.person, " Ada  O'Neill ", "Ada  O'Neill"),
        (grammars.email, "ada@Bücher.example", "ada@xn--bcher-kva.example"),
        (grammars.slug, "wifi-2", "wifi-2"),
        (grammars.usage, "ipsecIKE", Usage.IPSEC_IKE),
        (grammars.key_type, "p384", KeyType.P384),
        (grammars.grant_lifetime, "1h", timedelta(hours=1)),
        (grammars.validity, "825d", timedelta(days=825)),
        (grammars.filename, "{user}-{device}.{ext}", "{user}-{device}.{ext}"),
        (grammars.filename, "My_cert-2.p12", "My_cert-2.p12"),
        (grammars.password_hash, HASH, Secret(HASH)),
        (grammars.server_secret, "x" * 32, Secret("x" * 32)),
        (grammars.secret, " x ", Secret(" x ")),
    ],
)
def test_a_text_is_kept_in_one_spelling(grammar: Grammar, text: str, value: object) -> None:
    assert grammar(text) == value


@pytest.mark.parametrize(
    ("grammar", "texts"),
    [
        (
            grammars.address,
            ["8000", ":8000", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.256:80"],
        ),
        (
            grammars.address,
            ["::1:8000", "[::zz]:8000", "a_b:8000", "a b:80", "a:80\n", f"{'a.' * 127}a:80", "a:٣"],
        ),
        (grammars.public_url, ["pki.example.org", "ftp://pki.example.org", "https://", "https://a_b"]),
        (
            grammars.issuer,
            ["id.example.org", "ftp://id.example.org", "https://", "https://a_b", "https://a:0"],
        ),
        (
            grammars.issuer,
            ["https://a/?query", "https://a/#top", "https://ada@a", "https://a/ b", "https://a:65536"],
        ),
        (
            grammars.issuer,
            ["http://id.example.org", "http://192.0.2.1", "https://1.2.3.999", "https://a/\u00e4"],
        ),
        (grammars.host, ["", "a b", "https://a", "a:25", "192.0.2.999", "a\n", "a_b"]),
        (grammars.sender, ["", "ada", "a@b.c, e@v.il", "<ada@example.org> x", "A\nB <a@example.org>", "<>"]),
        (grammars.scope, ["", "two words", 'a"b', "a\\b", "\u00e4", "x" * 201]),
        (grammars.public_url, ["https://a/path", "https://a/?query", "https://a#top", "https://ada@a"]),
        (
            grammars.public_url,
            ["https://a:99999", "https://a\n", "https://a:443\t", " https://a", "https://[::1"],
        ),
        (
            grammars.public_url,
            ["http://127.0.0.1.example.org", "http://10.0.0.1", "http://localhost.example.org"],
        ),
        (
            grammars.authority_url,
            ["http://ca.example.org", "https://ca.example.org/acme", "ca.example.org:9000"],
        ),
        (grammars.network, ["10.0.0.1/8", "proxy.example.org", "10.0.0.0/33", ""]),
        (grammars.contact, ["help", "http://example.org", "https://example.org/ x", "https://999.1.1.1/"]),
        (grammars.contact, ["javascript:alert(1)", "mailto:help@example.org", 'https://a/\n"', ""]),
        (grammars.label, ["", " ", "x" * 65, "a\nb", "a\u202eb", "a\u2066b", "a\u200bb", "a\x00b", "\udcff"]),
        (grammars.authority_name, ["", "x" * 51]),
        (grammars.group, ["", "x" * 257, "a\nb"]),
        (grammars.username, ["", "-ada", "ada lovelace", "ädä", "a" * 65, "ada\n.", "ada:"]),
        (grammars.person, ["", "Ada; Lovelace", "Ada\u202e", "a" * 65]),
        (grammars.email, ["", "ada", "ada@example.org,eve@example.org", "ada@localhost"]),
        (grammars.slug, ["", "Wi-Fi", "wi fi", "-", "a" * 41, "a\n"]),
        (grammars.usage, ["", "codeSigning", "serverAuth", "anyExtendedKeyUsage", "clientauth"]),
        (grammars.key_type, ["", "ed25519", "P256", "rsa1024"]),
        (grammars.grant_lifetime, ["", "29s", "61m", "5 minutes", "PT5M", "0s", "-5m", "5", "5m\n"]),
        (grammars.validity, ["4m", "826d", "9999999d", "99999999d"]),
        (
            grammars.filename,
            ["user_cert", "user_cert.exe", "../user.pfx", "/a.pfx", ".pfx", "a.b.pfx", "a b.pfx"],
        ),
        (
            grammars.filename,
            ["{passphrase}.pfx", "{user.name}.pfx", "{user!r}.pfx", "{}.pfx", "{{user}}.pfx"],
        ),
        (grammars.filename, ["a.pfx\n", f"{'a' * 77}.pfx", 'a".pfx', "ä.pfx"]),
        (grammars.server_secret, ["", "x" * 31]),
        (grammars.secret, ["", " \n"]),
    ],
)
def test_other_texts_are_refused(grammar: Grammar, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError, match=r"\A[ -~]+\Z") as refused:
            grammar(text)

        assert type(refused.value) is ValueError  # its subclasses may quote the text


@pytest.mark.parametrize("text", ["serverAuth", "anyExtendedKeyUsage"])
def test_usages_of_servers_are_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match="they could pose as servers"):
        grammars.usage(text)


def test_a_hash_that_certbob_makes_fits() -> None:
    made = hash_password("correct horse")

    assert grammars.password_hash(made) == Secret(made)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("m=19456,t=2,p=2", "p=1: make a new one with `certbob hash-password`"),
        ("m=19456,t=2,p=0", "p=1: make a new one with `certbob hash-password`"),
        ("m=262145,t=2,p=1", "m up to 262144 and t up to 10"),
        ("m=19456,t=11,p=1", "m up to 262144 and t up to 10"),
        ("m=19456,t=0,p=1", "m up to 262144 and t up to 10"),
        ("m=4,t=2,p=1", "m up to 262144 and t up to 10"),
        ("m=٩٩,t=2,p=1", "as `certbob hash-password` prints it"),
        ("t=2,m=19456,p=1", "as `certbob hash-password` prints it"),
    ],
)
def test_hashes_that_would_hang_or_eat_the_machine_are_refused(parameters: str, words: str) -> None:
    with pytest.raises(ValueError, match="an Argon2id hash ") as refused:
        grammars.password_hash(HASH.replace("m=19456,t=2,p=1", parameters))

    assert words in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "$2b$12$abcdefghijklmnopqrstuv",
        HASH.replace("argon2id", "argon2i"),
        HASH.replace("v=19", "v=16"),
        HASH.replace("$v=19", ""),
        HASH[:-1] + "B",  # 32 bytes do not end so
        HASH[:-2],
        HASH + "=",
        HASH + "\n",
        "=19=19456,t=2,p=1",  # what a shell leaves of it
    ],
)
def test_hashes_that_nothing_could_verify_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="as `certbob hash-password` prints it"):
        grammars.password_hash(text)


@pytest.mark.parametrize(
    "text", [FINGERPRINT, FINGERPRINT.upper(), ":".join(FINGERPRINT[n : n + 2] for n in range(0, 64, 2))]
)
def test_a_fingerprint_is_kept_in_lower_case_hex(text: str, tmp_path: Path) -> None:
    assert grammars.trust_anchor(text, tmp_path) == FINGERPRINT


def test_a_root_may_be_a_pem_file_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_text("-----BEGIN CERTIFICATE-----\n")

    assert grammars.trust_anchor("root.pem", tmp_path) == str(tmp_path / "root.pem")


@pytest.mark.parametrize(
    "text", ["", ".", "missing.pem", "key.pem", "a\0b", FINGERPRINT[1:], f"{FINGERPRINT}0"]
)
def test_other_roots_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(ValueError, match="a SHA-256 fingerprint"):
        grammars.trust_anchor(text, tmp_path)


def test_a_path_begins_in_the_folder(tmp_path: Path) -> None:
    assert grammars.path("a/b", tmp_path) == tmp_path / "a/b"
    assert grammars.path("/a/b", tmp_path) == Path("/a/b")


def test_pairs_are_split_at_blanks_and_the_first_colon() -> None:
    assert grammars.user_pairs(f" ada:{HASH}\n\tgrace:a:b mallory ") == [
        {"username": "ada", "password_hash": HASH},
        {"username": "grace", "password_hash": "a:b"},
        {"username": "mallory"},
    ]


@given(text=st.text(st.characters()) | st.from_regex(r"(https?://)?[a-z0-9.@:\[\]-]+[:/]?\w*"))
@pytest.mark.parametrize(
    "grammar",
    [
        grammars.address,
        grammars.public_url,
        grammars.authority_url,
        grammars.network,
        grammars.contact,
        grammars.label,
        grammars.username,
        grammars.slug,
        grammars.email,
        grammars.person,
    ],
)
def test_what_was_taken_once_is_taken_again_as_it_is(grammar: Grammar, text: str) -> None:
    """So a configuration that was printed reads as the same."""
    try:
        value = grammar(text)
    except ValueError:
        return

    assert isinstance(value, str)
    assert grammar(value) == value
