"""The tokens in links: one purpose, one service and one server's secret each. Forged ones: `test_grants`."""

from datetime import timedelta
from typing import Any

import pytest

from certbob.errors import GrantInvalid, GrantMalformed
from certbob.tokens import Tokens
from tests.support.clock import FakeClock
from tests.support.core import ISSUER, SECRET

GOOD: dict[str, Any] = {
    "secret": SECRET,
    "purpose": "revocation",
    "audience": "certbob:revoke",
    "issuer": ISSUER,
}
HOUR = timedelta(hours=1)


def tokens(clock: FakeClock, **changes: Any) -> Tokens:
    given = GOOD | changes
    return Tokens(given["secret"], given["purpose"], given["audience"], issuer=given["issuer"], clock=clock)


def token_of(clock: FakeClock, **changes: Any) -> str:
    return tokens(clock, **changes).sign("a subject", "an id", expires_at=clock.now() + HOUR)


def test_what_was_signed_is_verified(clock: FakeClock) -> None:
    claims = tokens(clock).verify(token_of(clock))

    now = int(clock.now().timestamp())
    assert claims == {
        "iss": ISSUER,
        "aud": "certbob:revoke",
        "sub": "a subject",
        "jti": "an id",
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "grant", "audience": "certbob:issue"},
        {"purpose": "grant"},
        {"audience": "certbob:issue"},
        {"issuer": "https://other.example.org"},
        {"secret": f"{SECRET}."},
    ],
    ids=str,
)
def test_a_token_of_one_purpose_is_nothing_to_another(clock: FakeClock, changes: dict[str, str]) -> None:
    with pytest.raises(GrantInvalid):
        tokens(clock).verify(token_of(clock, **changes))
    with pytest.raises(GrantInvalid):
        tokens(clock, **changes).verify(token_of(clock))


def test_whether_it_is_over_is_left_to_the_caller(clock: FakeClock) -> None:
    token = token_of(clock)
    clock.advance(10 * HOUR)

    assert tokens(clock).verify(token)["exp"] < clock.now().timestamp()


def test_clocks_of_replicas_may_differ_by_a_minute(clock: FakeClock) -> None:
    """The process that verifies is behind the one that signed."""
    token = token_of(clock)
    clock.advance(timedelta(seconds=-60))
    tokens(clock).verify(token)

    clock.advance(timedelta(seconds=-1))
    with pytest.raises(GrantInvalid):
        tokens(clock).verify(token)


def test_no_change_of_a_single_character_passes(clock: FakeClock) -> None:
    token = token_of(clock)

    for place, letter in enumerate(token):
        changed = f"{token[:place]}{'A' if letter != 'A' else 'B'}{token[place + 1 :]}"
        with pytest.raises((GrantInvalid, GrantMalformed)):
            tokens(clock).verify(changed)


def test_what_has_not_even_the_form_of_a_token_is_told_apart(clock: FakeClock) -> None:
    token = token_of(clock)

    for unfit in ("", "x", token.rpartition(".")[0], f"{token}.", f" {token}", f"{token}é", "A" * 3000):
        with pytest.raises(GrantMalformed):
            tokens(clock).verify(unfit)
