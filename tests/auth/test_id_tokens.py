"""Which ID tokens let somebody in: each row is a whole sign-in with one thing changed.

The rows are those of the OpenID conformance suite for clients, of published attacks, and some of our own.
"""

import base64
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certbob.auth.id_token import NotAccepted, check_claims
from tests.support.hostile_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    ISSUER,
    MISSING,
    HostileProvider,
    Signer,
    hs256,
    key,
    unsigned,
)
from tests.support.single_sign_on import SingleSignOn
from tests.support.web import StillClock

Change = Callable[[HostileProvider], object]

LISTENER = f"{ISSUER}/listener"


def unchanged(_: HostileProvider) -> None:
    """As the provider makes it by itself."""


def claims(**changes: Any) -> Change:
    return lambda provider: provider.claims.update(changes)


def header(**changes: Any) -> Change:
    return lambda provider: provider.header.update(changes)


def time(claim: str, **later: float) -> Change:
    """`later` than now, or with negative values earlier."""
    return lambda provider: provider.claims.update({claim: provider.now(**later)})


def person(**changes: Any) -> Change:
    """In the ID token and at the userinfo endpoint."""
    return lambda provider: provider.person.update(changes)


def token(edit: Callable[[str], Any]) -> Change:
    return lambda provider: setattr(provider, "edit_token", edit)


def protected(edit: Callable[[bytes], bytes]) -> Change:
    return lambda provider: setattr(provider, "edit_header", edit)


def payload(edit: Callable[[bytes], bytes]) -> Change:
    return lambda provider: setattr(provider, "edit_payload", edit)


def signed(sign: Signer, **headers: Any) -> Change:
    """With another key or none; the header is changed to fit or not to fit."""

    def change(provider: HostileProvider) -> None:
        provider.header.update(headers)
        provider.sign = sign

    return change


def listing(*algorithms: str) -> Change:
    """Beside RS256."""
    return lambda provider: provider.document.update(
        id_token_signing_alg_values_supported=["RS256", *algorithms]
    )


def together(*changes: Change) -> Change:
    def change(provider: HostileProvider) -> None:
        for one in changes:
            one(provider)

    return change


def using(algorithm: str) -> Change:
    return lambda provider: provider.use(algorithm)


def keys(*names: str) -> Change:
    """Published beside its own."""
    return lambda provider: provider.keys.extend(key(name).jwk for name in names)


def flip_last_bit_of_signature(text: str) -> str:
    message, _, signature = text.rpartition(".")
    flipped = bytearray(base64.urlsafe_b64decode(signature + "=="))
    flipped[-1] ^= 1
    return f"{message}.{base64.urlsafe_b64encode(bytes(flipped)).decode().rstrip('=')}"


def as_json(text: str) -> dict[str, Any]:
    protected, body, signature = text.split(".")
    return {"protected": protected, "payload": body, "signature": signature}


def der_signature(message: bytes) -> bytes:
    """As X.509 has it, which is not the form of a JWS."""
    private = key("es256", "ES256").private
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private.sign(message, ec.ECDSA(hashes.SHA256()))


OURS = key("rsa")
ATTACKER = key("attacker")

ACCEPTED: dict[str, Change] = {
    "nothing changed": unchanged,
    "aud is a list of us alone": claims(aud=[CLIENT_ID]),
    "aud with others and azp is us": claims(aud=[CLIENT_ID, "other"], azp=CLIENT_ID),
    "azp is us": claims(azp=CLIENT_ID),
    "no at_hash": claims(at_hash=MISSING),
    "no kid and one key": header(kid=MISSING),
    "no typ": header(typ=MISSING),
    "an unknown header": header(colour="red"),
    "an unknown claim": claims(colour=["red"]),
    "PS256": using("PS256"),
    "ES256": using("ES256"),
    "EdDSA": using("EdDSA"),
    "Ed25519": using("Ed25519"),
    "no list of algorithms means RS256": lambda provider: provider.document.pop(
        "id_token_signing_alg_values_supported"
    ),
    "keys of unknown kinds beside its own": lambda provider: provider.keys.extend(
        [{"kty": "AKP", "kid": "new", "alg": "ML-DSA-65", "pub": "AA"}, {"kty": "oct"}, {}]
    ),
    "expired 30 s ago": together(time("iat", minutes=-3), time("exp", seconds=-30)),
    "issued 30 s ahead": time("iat", seconds=30),
    "issued 9 min ago": time("iat", minutes=-9),
    "valid from a minute ago": time("nbf", minutes=-1),
    "a sub of 255 characters": person(sub="x" * 255),
    "sources of claims elsewhere": claims(
        _claim_names={"groups": "a", "email": "b"},
        _claim_sources={"a": {"endpoint": LISTENER, "access_token": "x"}, "b": {"JWT": "a.b.c"}},
    ),
}

REFUSED: dict[str, Change] = {
    "another issuer": claims(iss="https://evil.example"),
    "the issuer with a slash at its end": claims(iss=f"{ISSUER}/"),
    "a list of issuers": claims(iss=[ISSUER]),
    "no issuer": claims(iss=MISSING),
    "no aud": claims(aud=MISSING),
    "aud is another client": claims(aud="other"),
    "aud is another client and azp is us": claims(aud="other", azp=CLIENT_ID),
    "aud is empty and azp is us": claims(aud=[], azp=CLIENT_ID),
    "aud is two others and azp is us": claims(aud=["a", "b"], azp=CLIENT_ID),
    "aud with others without azp": claims(aud=[CLIENT_ID, "other"]),
    "azp is another client": claims(aud=[CLIENT_ID, "other"], azp="other"),
    "aud is us but azp another client": claims(azp="other"),
    "aud is an object": claims(aud={CLIENT_ID: 1}),
    "aud with a number beside us and azp is us": claims(aud=[CLIENT_ID, 5], azp=CLIENT_ID),
    "aud holds us in upper case": claims(aud=CLIENT_ID.upper()),
    "no sub": claims(sub=MISSING),
    "sub is empty": person(sub=""),
    "sub is a number": person(sub=248289761001),
    "a sub of 256 characters": person(sub="x" * 256),
    "a sub of 300 characters": person(sub="x" * 300),
    "sub is not ASCII": person(sub="Adä"),
    "sub holds a line break": person(sub="ada\nbert"),
    "no exp": claims(exp=MISSING),
    "exp is a string": claims(exp="2000000000"),
    "exp is true": claims(exp=True),
    "exp is not finite": payload(lambda good: good.replace(b'"exp": ', b'"exp": 1e999, "was": ')),
    "exp is not a number of JSON": payload(lambda good: good.replace(b'"exp": ', b'"exp": NaN, "was": ')),
    "exp of 5000 digits": payload(
        lambda good: good.replace(b'"exp": ', b'"exp": ' + b"9" * 5000 + b', "was": ')
    ),
    "an unknown claim is not a number of JSON": payload(
        lambda good: good.replace(b'{"iss"', b'{"colour": Infinity, "iss"')
    ),
    "expired 90 s ago": together(time("iat", minutes=-3), time("exp", seconds=-90)),
    "expired 10 min ago": together(time("iat", minutes=-12), time("exp", minutes=-10)),
    "valid from in an hour": time("nbf", hours=1),
    "nbf is a string": claims(nbf="0"),
    "nbf is true": claims(nbf=True),
    "no iat": claims(iat=MISSING),
    "iat is a string": claims(iat="1795529520"),
    "issued in an hour": time("iat", hours=1),
    "issued 90 s ahead": time("iat", seconds=90),
    "issued 11 min ago": time("iat", minutes=-11),
    "issued yesterday": time("iat", days=-1),
    "no nonce": claims(nonce=MISSING),
    "another nonce": claims(nonce="another"),
    "an empty nonce": claims(nonce=""),
    "nonce is a list": claims(nonce=["another"]),
    "a wrong nonce that is said to be unsupported": claims(nonce="another", nonce_supported=False),
    "an access token": header(typ="at+jwt"),
    "a logout token": together(
        header(typ="logout+jwt"),
        claims(events={"http://schemas.openid.net/event/backchannel-logout": {}}),
    ),
    "a logout token that calls itself JWT": claims(
        events={"http://schemas.openid.net/event/backchannel-logout": {}}
    ),
    "typ is not a string": header(typ=["JWT"]),
    "alg none": signed(unsigned, alg="none"),
    "alg none without kid": signed(unsigned, alg="none", kid=MISSING),
    "alg none that is listed": together(listing("none"), signed(unsigned, alg="none")),
    "alg none that is listed, without kid": together(
        listing("none"), signed(unsigned, alg="none", kid=MISSING)
    ),
    "alg None in another case": together(listing("nOnE"), signed(unsigned, alg="nOnE")),
    "alg none and a signature": together(listing("none"), header(alg="none")),
    "no alg": header(alg=MISSING),
    "alg is a list": header(alg=["RS256"]),
    "HS256 with the public key as PEM": together(listing("HS256"), signed(hs256(OURS.pem), alg="HS256")),
    "HS256 with the public key as PEM, not listed": signed(hs256(OURS.pem), alg="HS256"),
    "HS256 with the public key as JSON": together(
        listing("HS256"), signed(hs256(json.dumps(OURS.jwk).encode()), alg="HS256")
    ),
    "HS256 with the client secret": together(
        listing("HS256"), signed(hs256(CLIENT_SECRET.encode()), alg="HS256", kid=MISSING)
    ),
    "HS256 with the empty key": together(listing("HS256"), signed(hs256(b""), alg="HS256", kid=MISSING)),
    "HS256 with a published key": together(
        listing("HS256"),
        lambda provider: provider.keys.append({"kty": "oct", "kid": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
        signed(hs256(b"secret"), alg="HS256", kid="oct"),
    ),
    "RS512, which is not ours": together(listing("RS512"), header(alg="RS512")),
    "ES256 that is not listed": together(using("ES256"), listing()),
    "alg ES256 over a signature of RSA": together(listing("ES256"), header(alg="ES256")),
    "ES256 with a signature of zeros": together(using("ES256"), signed(lambda _: bytes(64))),
    "ES256 with a signature in DER": together(using("ES256"), signed(der_signature)),
    "another key under the right kid": signed(ATTACKER.sign),
    "a kid that is nowhere": signed(ATTACKER.sign, kid="attacker"),
    "no kid and several keys": together(keys("second"), header(kid=MISSING)),
    "kid is not a string": header(kid=["rsa"]),
    "no keys": lambda provider: provider.keys.clear(),
    "a bit of the signature flipped": token(flip_last_bit_of_signature),
    "the signature cut off": token(lambda good: good[: good.rindex(".") + 1]),
    "the signature and its dot cut off": token(lambda good: good[: good.rindex(".")]),
    "padding": token(lambda good: f"{good}=="),
    "a line break at the end": token(lambda good: f"{good}\n"),
    "blanks around": token(lambda good: f" {good} "),
    "a fourth part": token(lambda good: f"{good}.AAAA"),
    "JSON serialization": token(as_json),
    "JSON serialization as text": token(lambda good: json.dumps(as_json(good))),
    "five parts, as if encrypted": token(lambda good: f"{good}.AAAA.AAAA"),
    "garbage": token(lambda _: "garbage"),
    "empty": token(lambda _: ""),
    "letters beyond ASCII": token(lambda good: good.replace("e", "é", 1)),
    "3 MB": token(lambda good: good + "A" * 3_000_000),
    "20 kB and rightly signed": claims(filling="x" * 20_000),
    "a key of the attacker in the header": signed(ATTACKER.sign, jwk=ATTACKER.jwk),
    "a key of the attacker in the header, without kid": signed(ATTACKER.sign, jwk=ATTACKER.jwk, kid=MISSING),
    "the address of a key in the header": signed(ATTACKER.sign, jku=LISTENER, kid="attacker"),
    "the address of a certificate in the header": signed(ATTACKER.sign, x5u=LISTENER, kid="attacker"),
    "an unknown critical header": header(crit=["exp-in-header"], **{"exp-in-header": 1}),
    "an unencoded payload": header(crit=["b64"], b64=False),
    "another at_hash": claims(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
    "an empty at_hash": claims(at_hash=""),
    "at_hash of an unknown algorithm": together(
        listing("RS999"), header(alg="RS999"), claims(at_hash="AAAAAAAAAAAAAAAAAAAAAA")
    ),
    "sub twice": payload(lambda good: good.replace(b'{"iss"', b'{"sub": "admin", "iss"')),
    "alg twice": protected(lambda good: good.replace(b'{"alg"', b'{"alg": "none", "alg"')),
    "a header of more than 512 bytes": header(filling="x" * 600),
    "a list as payload": payload(lambda _: b"[]"),
    "payload is not UTF-8": payload(lambda good: good.replace(b'"aud"', b'"\xff": 1, "aud"')),
    "payload is UTF-16": payload(lambda good: good.decode().encode("utf-16")),
    "payload with a byte order mark": payload(lambda good: b"\xef\xbb\xbf" + good),
    "payload is cut off": payload(lambda good: good[:-1]),
    "sub is not the one at the userinfo endpoint": claims(sub="248289761002"),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
async def test_a_right_token_lets_its_owner_in(on: SingleSignOn, change: Change) -> None:
    change(on.provider)

    browser = await on.signed_in()

    assert "Signed in as ada" in (await browser.get("/new")).page.text()
    assert on.provider.asked("listener") == []


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
async def test_a_wrong_token_lets_nobody_in(
    on: SingleSignOn, change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    change(on.provider)

    await on.assert_refused(caplog)

    assert on.provider.asked("listener") == []


# Of these the library has rules, too, which may change.
OWN_RULES: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "other", "azp": CLIENT_ID},
    "others in the audience, and nobody named": {"aud": [CLIENT_ID, "other"]},
    "another nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "expired": {"exp": -61},
    "not yet valid": {"nbf": 61},
}


@pytest.mark.parametrize("changes", OWN_RULES.values(), ids=OWN_RULES)
def test_our_own_rules_hold_without_those_of_the_library(changes: dict[str, Any]) -> None:
    now = StillClock().now()
    told: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "ada",
        "aud": CLIENT_ID,
        "nonce": "ours",
        "iat": 0,
        "exp": 60,
    } | changes
    for name in {"iat", "exp", "nbf"} & told.keys():
        told[name] += now.timestamp()

    with pytest.raises(NotAccepted):
        check_claims(told, issuer=ISSUER, client_id=CLIENT_ID, nonce="ours", now=now)


NOW = int(StillClock().now().timestamp())
TEXT = st.text(max_size=4)  # a header has room for 512 bytes
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)
# Times near now and values that stand elsewhere in the token are likelier to slip through than any value.
NEAR_NOW = st.integers(-2000, 2000).map(lambda seconds: NOW + seconds)
LIKELY = st.sampled_from([MISSING, ISSUER, CLIENT_ID, [CLIENT_ID], "RS256", "JWT", "rsa", "none"])
CLAIMS = ("iss", "sub", "aud", "exp", "iat", "nonce", "at_hash", "nbf", "azp", "events", "colour")
HEADERS = ("alg", "typ", "crit", "kid", "colour")


def is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and NOW + least <= value <= NOW + most


HARMLESS: dict[str, Callable[[Any], bool]] = {
    "iss": lambda value: value == ISSUER,
    "aud": lambda value: value in (CLIENT_ID, [CLIENT_ID]),
    "exp": lambda value: is_number(value, -59, 1e11 - NOW),
    "iat": lambda value: is_number(value, -600, 60),
    "nbf": lambda value: value is MISSING or is_number(value, -NOW, 60),
    "azp": lambda value: value in (MISSING, CLIENT_ID),
    "at_hash": lambda value: value is MISSING,
    "events": lambda value: value is MISSING,
    "colour": lambda _: True,
    "alg": lambda value: value == "RS256",
    "typ": lambda value: value is MISSING or (isinstance(value, str) and value.upper() == "JWT"),
    "kid": lambda value: value in (MISSING, "rsa"),
    "crit": lambda value: value is MISSING,
}


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one site, and a new browser each time
)
@given(
    st.tuples(st.just("claims"), st.sampled_from(CLAIMS), ANY_JSON | NEAR_NOW | LIKELY)
    | st.tuples(st.just("header"), st.sampled_from(HEADERS), ANY_JSON | LIKELY)
)
async def test_of_a_changed_member_only_harmless_values_let_in(
    on: SingleSignOn, change: tuple[str, str, Any]
) -> None:
    part, name, value = change
    on.provider.claims.clear()
    on.provider.header.clear()
    getattr(on.provider, part)[name] = value

    answer = await on.sign_in(on.browser())

    is_harmless = HARMLESS.get(name, lambda _: False)(value)
    assert answer.status == (303 if is_harmless else 400)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2000), st.sampled_from("AQgw_-.=+/ \n\0é"))
async def test_no_changed_character_lets_in(on: SingleSignOn, position: int, character: str) -> None:
    changed = []

    def edit(good: str) -> str:
        at = position % (len(good) - 1)  # the last one has spare bits that mean nothing
        changed.append(good[at] != character)
        return good[:at] + character + good[at + 1 :]

    on.provider.edit_token = edit

    answer = await on.sign_in(on.browser())

    assert answer.status == (400 if changed == [True] else 303)
