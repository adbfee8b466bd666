"""The provider's keys: fetched once, kept for ten minutes, and fetched anew no more than once a minute."""

import asyncio
from dataclasses import replace

import pytest

from tests.support.hostile_provider import HostileProvider, Key, Reply, key
from tests.support.single_sign_on import SingleSignOn
from tests.support.web import StillClock


def rotate(provider: HostileProvider, new: Key, *, publish: bool = True) -> None:
    """From now on the provider signs with this key."""
    provider.signing = new
    if publish:
        provider.keys = [new.jwk]


async def test_keys_are_fetched_once_for_many_sign_ins(on: SingleSignOn, clock: StillClock) -> None:
    for _ in range(5):
        await on.signed_in()
        clock.advance(minutes=1)

    assert len(on.provider.asked("jwks")) == 1


async def test_a_new_key_is_fetched_when_the_first_token_names_it(on: SingleSignOn) -> None:
    await on.signed_in()
    rotate(on.provider, key("second"))

    await on.signed_in()
    await on.signed_in()

    assert len(on.provider.asked("jwks")) == 2


async def test_a_key_that_changes_just_before_signing_is_fetched(on: SingleSignOn) -> None:
    await on.signed_in()
    browser = on.browser()
    callback = on.provider.authorize(await on.begin(browser))
    rotate(on.provider, key("second"))

    assert (await on.come_back(browser, callback)).status == 303


async def test_unknown_keys_make_one_fetch_a_minute(
    on: SingleSignOn, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    await on.signed_in()
    on.provider.header["kid"] = "nowhere"
    for _ in range(5):
        await on.assert_refused(caplog)
        clock.advance(seconds=11)
    assert len(on.provider.asked("jwks")) == 2

    clock.advance(seconds=6)
    await on.assert_refused(caplog)

    assert len(on.provider.asked("jwks")) == 3
    on.provider.header.clear()
    await on.signed_in()


async def test_unknown_keys_of_many_at_the_same_moment_make_one_fetch(on: SingleSignOn) -> None:
    await on.signed_in()
    on.provider.header["kid"] = "nowhere"

    answers = await asyncio.gather(*(on.sign_in(on.browser()) for _ in range(10)))

    assert {answer.status for answer in answers} == {400}
    assert len(on.provider.asked("jwks")) == 2


async def test_many_who_meet_a_new_key_at_the_same_moment_get_in(on: SingleSignOn) -> None:
    await on.signed_in()
    rotate(on.provider, key("second"))
    may_answer = asyncio.Event()
    on.provider.answers["jwks"] = lambda request: replace(on.provider.good(request), after=may_answer)

    sign_ins = asyncio.gather(*(on.signed_in() for _ in range(10)))
    while len(on.provider.access_tokens) < 11:
        await asyncio.sleep(0)
    for _ in range(100):  # until all of them wait for the key
        await asyncio.sleep(0)
    may_answer.set()

    await sign_ins
    assert len(on.provider.asked("jwks")) == 2


async def test_a_key_that_was_taken_away_is_refused_once_the_kept_keys_are_old(
    on: SingleSignOn, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    await on.signed_in()
    on.provider.keys = [key("second").jwk]
    clock.advance(minutes=10, seconds=1)

    await on.assert_refused(caplog)

    rotate(on.provider, key("second"))
    await on.signed_in()


async def test_a_swapped_key_of_the_same_id_is_refused_until_the_kept_keys_are_old(
    on: SingleSignOn, clock: StillClock, caplog: pytest.LogCaptureFixture
) -> None:
    await on.signed_in()
    rotate(on.provider, replace(key("second"), kid=on.provider.signing.kid))

    await on.assert_refused(caplog)
    clock.advance(minutes=9, seconds=50)
    await on.assert_refused(caplog)
    assert len(on.provider.asked("jwks")) == 1

    clock.advance(seconds=11)
    await on.signed_in()


async def test_old_and_new_keys_stand_side_by_side(on: SingleSignOn) -> None:
    old, new = on.provider.signing, key("second")
    on.provider.keys = [old.jwk, new.jwk]

    await on.signed_in()
    rotate(on.provider, new, publish=False)
    await on.signed_in()

    assert len(on.provider.asked("jwks")) == 1


async def test_kept_keys_work_while_the_provider_cannot_show_them(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture
) -> None:
    await on.signed_in()
    on.provider.answers["jwks"] = Reply(500)
    on.provider.header["kid"] = "nowhere"
    await on.assert_refused(caplog)
    on.provider.header.clear()

    await on.signed_in()


async def test_a_first_fetch_that_failed_is_repeated_at_the_next_sign_in(on: SingleSignOn) -> None:
    on.provider.answers["jwks"] = Reply(500)
    assert (await on.sign_in(on.browser())).status == 400
    del on.provider.answers["jwks"]

    await on.signed_in()


async def test_a_key_for_encryption_verifies_nothing(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture
) -> None:
    on.provider.keys[0]["use"] = "enc"

    await on.assert_refused(caplog)


async def test_two_keys_of_one_id_decide_nothing(on: SingleSignOn, caplog: pytest.LogCaptureFixture) -> None:
    twin = replace(key("second"), kid=on.provider.signing.kid)
    on.provider.keys.append(twin.jwk)

    await on.assert_refused(caplog)


async def test_keys_are_told_without_their_algorithm_by_some_providers(on: SingleSignOn) -> None:
    for member in ("alg", "use"):
        del on.provider.keys[0][member]

    await on.signed_in()
