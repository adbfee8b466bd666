import asyncio
import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certbob.errors import GrantExpired, GrantInvalid, GrantMalformed, GrantUsed
from certbob.keys import derive_key, passphrase_for
from tests.support import pki
from tests.support.core import ISSUER, LAPTOP, SECRET, Core, open_core, person

KEY = derive_key(SECRET, "grant")
HEADER = {"alg": "HS256", "typ": "certbob-grant+jwt"}
LIFETIME = timedelta(minutes=5)
SECOND = timedelta(seconds=1)
NOW = int(pki.NOW.timestamp())


@pytest.fixture
async def core(data_dir: Path) -> AsyncIterator[Core]:
    async with open_core(data_dir) as opened:
        yield opened


def encode(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")


def decode(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(decode(token.split(".")[1]))
    return claims


def signed(payload: bytes, header: bytes | dict[str, Any] = HEADER, key: bytes = KEY) -> str:
    """HS256, made without the library that checks it."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signing_input = f"{encode(head)}.{encode(payload)}"
    return f"{signing_input}.{encode(hmac.digest(key, signing_input.encode(), 'sha256'))}"


def forged(token: str, *, drop: str | None = None, key: bytes = KEY, **changes: Any) -> str:
    """The same claims with changes, well signed."""
    claims = claims_of(token) | changes
    return signed(json.dumps({k: v for k, v in claims.items() if k != drop}).encode(), key=key)


def with_header(token: str, drop: str | None = None, **changes: Any) -> str:
    header = {name: value for name, value in (HEADER | changes).items() if name != drop}
    return signed(json.dumps(claims_of(token)).encode(), header)


def with_payload(payload: str) -> Callable[[str], str]:
    return lambda token: signed(payload.encode())


def by_library(token: str, key: Any, algorithm: str, **headers: Any) -> str:
    return jwt.encode(claims_of(token), key, algorithm, headers={"typ": HEADER["typ"]} | headers)


def unsigned(token: str, algorithm: str) -> str:
    return f"{encode(json.dumps(HEADER | {'alg': algorithm}).encode())}.{token.split('.')[1]}."


def with_signature(change: Callable[[str], str]) -> Callable[[str], str]:
    def mutant(token: str) -> str:
        head, payload, signature = token.split(".")
        return f"{head}.{payload}.{change(signature)}"

    return mutant


def other_spelling(token: str) -> str:
    """The last symbol of 32 bytes in base64 has two bits to spare."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())

MALFORMED: dict[str, Callable[[str], str]] = {
    "empty": lambda token: "",
    "no dot, as a session id": lambda token: "6pVpPLbmzLwqvPj5lN0SuYkQ0l8gkzQxW3nE2o1sXuI",
    "one dot": lambda token: token.rpartition(".")[0],
    "three dots": lambda token: token + ".",
    "four dots, as a JWE": lambda token: f"{token}.AAAA.AAAA",
    "a token inside a token's place": lambda token: f"{token.partition('.')[0]}.{token}.AAAA",
    "no header": lambda token: token[token.index(".") :],
    "no payload": lambda token: f"{token.split('.')[0]}..{token.split('.')[2]}",
    "blank in front": lambda token: " " + token,
    "blank behind": lambda token: token + " ",
    "line break behind": lambda token: token + "\n",
    "line break inside": lambda token: token.replace(".", ".\n", 1),
    "Bearer": lambda token: "Bearer " + token,
    "quoted": lambda token: f'"{token}"',
    "one padding sign": lambda token: token + "=",
    "padded parts": lambda token: ".".join(p + "=" * (-len(p) % 4) for p in token.split(".")),
    "standard base64": lambda token: token.replace(".", ".+/", 1),
    "percent-encoded": lambda token: token.replace(".", "%2E"),
    "not ASCII": lambda token: token + "é",
    "digits of another script": lambda token: token + "\u0661",
    "half a surrogate pair": lambda token: token + "\ud800",
    "NUL": lambda token: token + "\0",
    "2 kB and one": lambda token: token + "A" * (2049 - len(token)),
    "1 MB": lambda token: "eyJ." * 1 + "A" * 1_000_000 + ".A",
}

FORGED: dict[str, Callable[[str], str]] = {
    # header
    "alg none": lambda token: unsigned(token, "none"),
    "alg None": lambda token: unsigned(token, "None"),
    "alg NONE": lambda token: unsigned(token, "NONE"),
    "alg none, yet signed": lambda token: with_header(token, alg="none"),
    "alg HS256, unsigned": lambda token: unsigned(token, "HS256"),
    "alg hs256": lambda token: with_header(token, alg="hs256"),
    "HS384": lambda token: by_library(token, KEY + b"0" * 16, "HS384"),
    "HS512": lambda token: by_library(token, KEY + KEY, "HS512"),
    "RS256": lambda token: by_library(token, RSA_KEY, "RS256"),
    "ES256, as a one-time token of step-ca": lambda token: by_library(token, EC_KEY, "ES256"),
    "alg missing": lambda token: with_header(token, drop="alg"),
    "alg int": lambda token: with_header(token, alg=256),
    "alg list": lambda token: with_header(token, alg=["HS256"]),
    "alg null": lambda token: with_header(token, alg=None),
    "typ missing": lambda token: with_header(token, drop="typ"),
    "typ other": lambda token: with_header(token, typ="JWT"),
    "typ in capitals": lambda token: with_header(token, typ="CERTBOB-GRANT+JWT"),
    "typ list": lambda token: with_header(token, typ=[HEADER["typ"]]),
    "kid path": lambda token: with_header(token, kid="../../dev/null"),
    "kid SQL": lambda token: with_header(token, kid="' OR 1=1 --"),
    "kid int": lambda token: with_header(token, kid=1),
    "jku": lambda token: with_header(token, jku="https://evil.example/keys"),
    "x5u": lambda token: with_header(token, x5u="https://evil.example/keys"),
    "jwk": lambda token: with_header(token, jwk={"kty": "oct", "k": encode(b"k" * 32)}),
    "crit": lambda token: with_header(token, crit=["exp"]),
    "b64": lambda token: with_header(token, b64=False),
    "crit b64": lambda token: with_header(token, crit=["b64"], b64=False),
    "zip": lambda token: with_header(token, zip="DEF"),
    "cty of a nested token": lambda token: signed(token.encode(), HEADER | {"cty": "JWT"}),
    "header no object": lambda token: signed(decode(token.split(".")[1]), b"[]"),
    "header no JSON": lambda token: signed(decode(token.split(".")[1]), b"{"),
    "header no UTF-8": lambda token: signed(decode(token.split(".")[1]), b"\xff"),
    # signature
    "signature empty": with_signature(lambda signature: ""),
    "signature truncated": with_signature(lambda signature: signature[:-1]),
    "signature half": with_signature(lambda signature: signature[:20]),
    "signature longer": with_signature(lambda signature: signature + "AAAA"),
    "signature in another spelling": other_spelling,
    "signature of no whole byte": with_signature(lambda signature: "A"),
    "empty key": lambda token: forged(token, key=b""),
    "retired key": lambda token: forged(token, key=derive_key("an older secret, long enough, too", "grant")),
    "key of sessions": lambda token: forged(token, key=derive_key(SECRET, "session")),
    "key of passphrases": lambda token: forged(token, key=derive_key(SECRET, "passphrase")),
    "the secret itself": lambda token: forged(token, key=SECRET.encode()),
    # payload
    "array": with_payload("[]"),
    "string": with_payload('"exp"'),
    "number": with_payload("1"),
    "null": with_payload("null"),
    "NaN": with_payload("NaN"),
    "no JSON": with_payload("exp"),
    "nothing": with_payload(" "),
    "deeply nested": with_payload("[" * 1200),
    "nested token": lambda token: signed(token.encode()),
    "no UTF-8": lambda token: signed(b'{"exp": "\xff"}'),
    "a claim twice": lambda token: signed(
        json.dumps(claims_of(token))[:-1].encode() + b', "sub": "somebody else"}'
    ),
    "a claim too many": lambda token: forged(token, admin=True),
    # times
    "exp NaN": lambda token: forged(token, exp=float("nan")),
    "exp 1e999": lambda token: forged(token, exp=float("inf")),
    "exp missing": lambda token: forged(token, drop="exp"),
    "exp text": lambda token: forged(token, exp=str(NOW + 60)),
    "exp true": lambda token: forged(token, exp=True),
    "exp float": lambda token: forged(token, exp=NOW + 60.0),
    "exp null": lambda token: forged(token, exp=None),
    "exp list": lambda token: forged(token, exp=[NOW + 60]),
    "exp negative": lambda token: forged(token, exp=-1),
    "exp 2^63": lambda token: forged(token, exp=2**63),
    "exp later than granted": lambda token: forged(token, exp=claims_of(token)["exp"] + 1),
    "nbf missing": lambda token: forged(token, drop="nbf"),
    "nbf in the future": lambda token: forged(token, nbf=NOW + 61),
    "nbf text": lambda token: forged(token, nbf=str(NOW)),
    "iat missing": lambda token: forged(token, drop="iat"),
    "iat in the future": lambda token: forged(token, iat=NOW + 61),
    "iat float": lambda token: forged(token, iat=float(NOW)),
    # for whom, by whom, what
    "aud missing": lambda token: forged(token, drop="aud"),
    "aud list": lambda token: forged(token, aud=["certbob:issue"]),
    "aud other": lambda token: forged(token, aud="certbob:session"),
    "aud prefix": lambda token: forged(token, aud="certbob"),
    "aud longer": lambda token: forged(token, aud="certbob:issue2"),
    "iss missing": lambda token: forged(token, drop="iss"),
    "iss other": lambda token: forged(token, iss="https://evil.example"),
    "iss prefix": lambda token: forged(token, iss=ISSUER[:-1]),
    "iss longer": lambda token: forged(token, iss=ISSUER + "0"),
    "iss list": lambda token: forged(token, iss=[ISSUER]),
    "sub missing": lambda token: forged(token, drop="sub"),
    "sub empty": lambda token: forged(token, sub=""),
    "sub int": lambda token: forged(token, sub=7),
    "sub somebody else's": lambda token: forged(token, sub=pki.SUBJECT),
    "jti missing": lambda token: forged(token, drop="jti"),
    "jti empty": lambda token: forged(token, jti=""),
    "jti list": lambda token: forged(token, jti=[claims_of(token)["jti"]]),
    "jti object": lambda token: forged(token, jti={"": ""}),
    "jti unknown": lambda token: forged(token, jti="unknown"),
    "jti the row's key": lambda token: forged(token, jti=key_of(token)),
    "jti half a surrogate pair": lambda token: forged(token, jti="\ud800"),
}


def key_of(token: str) -> str:
    return hashlib.sha256(claims_of(token)["jti"].encode()).hexdigest()


async def refuse(core: Core, token: str, error: type[Exception]) -> None:
    """By everything that takes a token, and without any trace."""
    before = core.dump()
    for use in (core.services.grants.inspect, core.services.grants.redeem, core.issue):
        with pytest.raises(error):
            await use(token)
    assert core.dump() == before
    assert not core.ca.asked


async def test_a_grant_says_who_may_have_what_and_until_when(core: Core) -> None:
    ada = person(email="ada@example.org", groups=("staff", "vpn"))
    grant = await core.services.grants.inspect(await core.mint(ada))

    assert (grant.identity, grant.profile_id, grant.device) == (ada, "client", LAPTOP)
    assert (grant.validity, grant.expires_at) == (timedelta(days=90), pki.NOW + LIFETIME)
    assert (grant.claimed_at, grant.holder_hash) == (None, None)


async def test_a_token_says_nothing_about_the_person(core: Core) -> None:
    ada = person(email="ada@example.org", groups=("staff",))
    claims = claims_of(await core.mint(ada))
    grant_id = claims.pop("jti")

    assert claims == {
        "iss": ISSUER,
        "aud": "certbob:issue",
        "sub": ada.subject,
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 300,
    }
    assert len(decode(grant_id)) == 32


async def test_inspecting_spends_nothing(core: Core) -> None:
    token = await core.mint()
    before = core.dump()
    for _ in range(3):
        await core.services.grants.inspect(token)
    assert core.dump() == before


async def test_what_these_tests_forge_is_right_but_for_its_one_change(core: Core) -> None:
    token = await core.mint()
    first = await core.services.grants.inspect(token)

    for same in (forged(token), with_header(token), forged(token, iat=NOW + 60, nbf=NOW + 60)):
        assert await core.services.grants.inspect(same) == first


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_has_not_the_shape_of_a_token_is_malformed(core: Core, name: str) -> None:
    await refuse(core, MALFORMED[name](await core.mint()), GrantMalformed)


@pytest.mark.parametrize("name", FORGED)
async def test_a_token_that_we_did_not_make_is_invalid(core: Core, name: str) -> None:
    await refuse(core, FORGED[name](await core.mint()), GrantInvalid)


async def test_every_single_bit_of_the_signature_counts(core: Core) -> None:
    token = await core.mint()
    head, payload, signature = token.split(".")
    right = int.from_bytes(decode(signature))
    before = core.dump()

    for bit in range(256):
        flipped = encode((right ^ 1 << bit).to_bytes(32))
        with pytest.raises(GrantInvalid):
            await core.services.grants.redeem(f"{head}.{payload}.{flipped}")

    assert core.dump() == before
    await core.services.grants.redeem(token)


async def test_a_refused_token_has_no_passphrase(core: Core) -> None:
    token = await core.mint()
    with pytest.raises(GrantMalformed):
        core.services.grants.passphrase(token + " ")
    with pytest.raises(GrantInvalid):
        core.services.grants.passphrase(other_spelling(token))


async def test_a_grant_of_another_service_is_invalid_here(core: Core, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    async with open_core(tmp_path / "other") as other:
        await refuse(core, await other.mint(), GrantInvalid)


async def test_a_grant_works_to_its_last_second(core: Core) -> None:
    token = await core.mint()
    core.clock.advance(LIFETIME - SECOND)
    await core.services.grants.redeem(token)


async def test_an_expired_grant_is_refused(core: Core) -> None:
    token = await core.mint()
    core.clock.advance(LIFETIME)

    with pytest.raises(GrantExpired):
        await core.services.grants.redeem(token)
    with pytest.raises(GrantExpired):
        core.services.grants.check_live(await core.services.grants.inspect(token))
    assert core.rows("SELECT claimed_at FROM grants") == [(None,)]


async def test_fractions_of_a_second_do_not_break_a_grant(core: Core) -> None:
    core.clock.advance(timedelta(milliseconds=999))
    await core.services.grants.redeem(await core.mint())


async def test_a_used_grant_is_refused_with_the_time_of_its_use(core: Core) -> None:
    token = await core.mint()
    await core.services.grants.redeem(token)
    core.clock.advance(SECOND)

    with pytest.raises(GrantUsed) as used:
        await core.services.grants.redeem(token)
    assert (used.value.claimed_at, used.value.by_holder) == (pki.NOW, False)


@pytest.mark.parametrize(
    ("first", "second", "by_holder"),
    [("ada", "ada", True), ("ada", "eve", False), ("ada", None, False), (None, None, False)],
)
async def test_only_the_browser_that_used_a_grant_is_told_so(
    core: Core, first: str | None, second: str | None, by_holder: bool
) -> None:
    token = await core.mint()
    await core.services.grants.redeem(token, first)

    with pytest.raises(GrantUsed) as used:
        await core.services.grants.redeem(token, second)
    assert used.value.by_holder is by_holder


async def test_a_used_grant_stays_used_after_its_time(core: Core) -> None:
    token = await core.mint()
    await core.services.grants.redeem(token)
    core.clock.advance(LIFETIME)

    with pytest.raises(GrantUsed):
        await core.services.grants.redeem(token)


async def test_a_pruned_grant_has_expired(core: Core) -> None:
    token, used = await core.mint(), await core.mint()
    await core.services.grants.redeem(used)
    core.clock.advance(LIFETIME + timedelta(days=1) + SECOND)
    await core.services.prune()

    assert core.rows("SELECT * FROM grants") == []
    for pruned in (token, used):
        with pytest.raises(GrantExpired):
            await core.services.grants.redeem(pruned)


async def test_pruning_leaves_the_grants_of_a_day(core: Core) -> None:
    token = await core.mint()
    core.clock.advance(LIFETIME + timedelta(days=1))
    await core.services.prune()
    assert (await core.services.grants.inspect(token)).expires_at == pki.NOW + LIFETIME


async def test_a_released_grant_can_be_redeemed_again(core: Core) -> None:
    token = await core.mint()
    await core.services.grants.release(await core.services.grants.redeem(token, "ada"))

    assert core.rows("SELECT claimed_at, holder_hash FROM grants") == [(None, None)]
    await core.services.grants.redeem(token)


async def test_of_32_at_once_one_redeems(core: Core) -> None:
    token = await core.mint()
    results = await asyncio.gather(
        *(core.services.grants.redeem(token) for _ in range(32)), return_exceptions=True
    )
    assert sum(isinstance(result, GrantUsed) for result in results) == 31


async def test_the_passphrase_of_a_grant_is_always_the_same(core: Core, data_dir: Path) -> None:
    token = await core.mint()
    passphrase = core.services.grants.passphrase(token)

    await core.services.grants.redeem(token)
    async with open_core(data_dir) as restarted:
        assert restarted.services.grants.passphrase(token) == passphrase
    core.clock.advance(timedelta(days=2))
    assert core.services.grants.passphrase(token) == passphrase


async def test_every_grant_has_a_passphrase_of_its_own(core: Core) -> None:
    tokens = [await core.mint() for _ in range(20)]
    assert len({core.services.grants.passphrase(token) for token in tokens}) == 20


async def test_database_and_secret_together_do_not_give_the_passphrase_back(core: Core) -> None:
    token = await core.mint()
    await core.services.grants.redeem(token, "the holder's secret")
    passphrase, grant_id = core.services.grants.passphrase(token), claims_of(token)["jti"]

    stored = core.dump()
    for secret in (token, *token.split("."), grant_id, passphrase, "the holder's secret"):
        assert secret not in stored
    [row] = core.rows("SELECT * FROM grants")
    guesses = [passphrase_for(derive_key(SECRET, "passphrase"), str(value)) for value in row]
    assert passphrase not in guesses
    assert key_of(token) in row
