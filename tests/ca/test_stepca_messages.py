"""What is sent and how an answer is read, without any authority."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certbob.ca.stepca import go_duration, read_chain, token_claims
from certbob.errors import CABadAnswer
from tests.support.fake_stepca import sign_leaf
from tests.support.stepca import key_pem, make_pki, pem, signing_request

PKI = make_pki()
CSR = signing_request().csr
LEAF = sign_leaf(
    PKI, x509.load_der_x509_csr(CSR), {"sub": "Ada", "sans": ["ada@example.org"]}, timedelta(hours=1)
)
CRT, INTERMEDIATE = pem(LEAF), pem(PKI.intermediate)
GOOD = {"crt": CRT, "ca": INTERMEDIATE, "certChain": [CRT, INTERMEDIATE], "tlsOptions": {}}


def claims(**changes: Any) -> dict[str, Any]:
    return token_claims(
        **{
            "issuer": "certbob",
            "audience": "https://ca.example.org/1.0/sign",
            "subject": "Ada Lovelace",
            "sans": ["ada@example.org"],
            "root": PKI.root,
            "now": datetime(2026, 11, 24, 12, 0, 0, 999_999, tzinfo=UTC),
            "csr": b"csr",
            "organization": "Example",
            **changes,
        }
    )


def test_a_token_says_this_and_nothing_more() -> None:
    token = claims()

    assert len(token.pop("jti")) == 64
    assert token == {
        "iss": "certbob",
        "aud": "https://ca.example.org/1.0/sign",
        "sub": "Ada Lovelace",
        "sans": ["ada@example.org"],
        "iat": 1795521600,
        "nbf": 1795521600,
        "exp": 1795521720,
        "sha": PKI.fingerprint,
        "cnf": {"x5rt#S256": "wnM4xFMGe0N0ca-855JwTYFhEsYDG7mWtixpjqWZ74A"},
        "certbob": {"o": "Example"},
    }


def test_a_token_leaves_out_what_is_not_known() -> None:
    assert claims().keys() - claims(csr=None, organization=None).keys() == {"cnf", "certbob"}


def test_no_two_tokens_are_alike() -> None:
    assert claims()["jti"] != claims()["jti"]


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(days=30), "43200m"),
        (timedelta(hours=1, seconds=59), "60m"),
        (timedelta(seconds=59), "0m"),
        (timedelta(hours=2_000_000), "120000000m"),
    ],
)
def test_durations_are_go_durations_in_whole_minutes(length: timedelta, text: str) -> None:
    assert go_duration(length) == text


def test_a_good_answer_is_a_chain_without_the_root() -> None:
    chain = read_chain(json.dumps(GOOD).encode())

    assert (chain.leaf, chain.intermediates) == (LEAF, (PKI.intermediate,))


def test_an_answer_cut_at_any_byte_is_never_half_a_chain() -> None:
    good = json.dumps(GOOD).encode()

    for length in range(len(good)):
        with pytest.raises(CABadAnswer):
            read_chain(good[:length])


@pytest.mark.parametrize(
    "change",
    [
        {"certChain": []},
        {"certChain": None},
        {"certChain": CRT},
        {"certChain": {"0": CRT}},
        {"certChain": [CRT, *[INTERMEDIATE] * 5]},
        {"certChain": [INTERMEDIATE, CRT]},
        {"certChain": [CRT, "garbage"]},
        {"certChain": [CRT, 7]},
        {"certChain": [CRT, INTERMEDIATE + INTERMEDIATE]},
        {"certChain": [CRT + key_pem(PKI.root_key), INTERMEDIATE]},
    ],
    ids=range(10),
)
def test_a_wrong_chain_is_refused_and_the_leaf_kept_for_the_ledger(change: dict[str, Any]) -> None:
    with pytest.raises(CABadAnswer) as caught:
        read_chain(json.dumps({**GOOD, **change}).encode())

    assert caught.value.certificate == LEAF.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "crt",
    [
        None,
        "",
        5,
        [CRT],
        CRT + CRT,
        f"Ada's certificate\n{CRT}",
        f"{CRT}trailing",
        key_pem(PKI.root_key) + CRT,
        key_pem(PKI.root_key),
        CRT.replace("CERTIFICATE", "X509 CERTIFICATE"),
        CRT.replace("MII", "AAAA"),
        CRT[:-40] + CRT[-30:],
        "-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",
        CRT.replace("\n", "\ud800\n"),
    ],
    ids=range(14),
)
def test_an_answer_without_exactly_one_certificate_is_refused(crt: object) -> None:
    with pytest.raises(CABadAnswer):
        read_chain(json.dumps({**GOOD, "crt": crt, "certChain": [crt, INTERMEDIATE]}).encode())


def test_a_certificate_that_is_not_first_in_its_chain_is_refused() -> None:
    with pytest.raises(CABadAnswer):
        read_chain(json.dumps({**GOOD, "crt": INTERMEDIATE}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"<html></html>",
        json.dumps(GOOD).encode() + b"{}",
        json.dumps(GOOD).encode()[:-1] + b',"crt":""}',
        b"\xff" + json.dumps(GOOD).encode(),
        json.dumps(GOOD).encode() + b" " * 262_144,
        b"[" * 200_000,
    ],
    ids=range(9),
)
def test_a_body_that_is_not_one_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(CABadAnswer):
        read_chain(body)
