"""What may be issued: to whom, how long, with which keys."""

from datetime import timedelta

import pytest

from certbob.devices import Encoding
from certbob.errors import NotEntitled
from certbob.identity import Door, Identity
from certbob.profiles import KeyType, Profile, Profiles, Usage


def person(*groups: str) -> Identity:
    return Identity("7a1c1b54-8a0c-4f0e-9a55-5b8b7f0f6d10", "Ada Lovelace", None, groups, Door.LOCAL, "ada")


def profile(
    *key_types: KeyType,
    name: str = "personal",
    groups: tuple[str, ...] = (),
    validity: int = 90,
    max_validity: int = 365,
) -> Profile:
    return Profile(
        id=name,
        label=f"Label of {name}",
        usages=(Usage.CLIENT_AUTH,),
        validity=timedelta(days=validity),
        max_validity=timedelta(days=max_validity),
        key_types=key_types or (KeyType.P256, KeyType.RSA2048),
        groups=groups,
    )


def days(lengths: tuple[timedelta, ...]) -> list[float]:
    return [length / timedelta(days=1) for length in lengths]


PERSONAL, VPN, ADMIN = (
    profile(),
    profile(name="vpn", groups=("vpn", "it")),
    profile(name="admin", groups=("it",)),
)
PROFILES = Profiles([PERSONAL, VPN, ADMIN])


@pytest.mark.parametrize(
    ("groups", "offered"),
    [
        ((), ("personal",)),
        (("VPN", "vp", "vpn "), ("personal",)),
        (("vpn",), ("personal", "vpn")),
        (("sales", "it"), ("personal", "vpn", "admin")),
    ],
)
def test_people_are_offered_what_their_groups_may_have(
    groups: tuple[str, ...], offered: tuple[str, ...]
) -> None:
    assert tuple(profile.id for profile in PROFILES.for_identity(person(*groups))) == offered


def test_a_member_gets_the_profile() -> None:
    assert PROFILES.entitled("vpn", person("vpn")) is VPN


def test_nobody_else_does_and_is_told_who_may() -> None:
    with pytest.raises(NotEntitled) as refusal:
        PROFILES.entitled("vpn", person("sales"))

    assert refusal.value.text == "‘Label of vpn’ is for members of vpn or it."


def test_a_profile_that_does_not_exist_is_refused() -> None:
    with pytest.raises(NotEntitled):
        PROFILES.entitled("root", person("it"))


@pytest.mark.parametrize(
    ("key_types", "modern", "compatible"),
    [
        ((KeyType.P256, KeyType.RSA2048), KeyType.P256, KeyType.RSA2048),
        ((KeyType.RSA4096, KeyType.RSA2048), KeyType.RSA4096, KeyType.RSA2048),
        ((KeyType.P384, KeyType.RSA4096, KeyType.RSA3072), KeyType.P384, KeyType.RSA4096),
        ((KeyType.P384, KeyType.P256), KeyType.P384, KeyType.P384),
    ],
)
def test_older_devices_get_rsa_if_the_profile_allows_it(
    key_types: tuple[KeyType, ...], modern: KeyType, compatible: KeyType
) -> None:
    assert profile(*key_types).key_type_for(Encoding.MODERN) is modern
    assert profile(*key_types).key_type_for(Encoding.COMPATIBLE) is compatible


@pytest.mark.parametrize(
    ("validity", "longest", "max_validity", "choices"),
    [
        (90, None, 365, [1, 7, 30, 90, 180, 365]),
        (90, None, 90, [1, 7, 30, 90]),
        (45, None, 60, [1, 7, 30, 45, 60]),
        (90, 100, 365, [1, 7, 30, 90, 100]),
        (90, 1, 365, [1]),
        (90, 0.5, 365, [0.5]),
        (90, 1000, 365, [1, 7, 30, 90, 180, 365]),
    ],
)
def test_nobody_chooses_longer_than_profile_and_authority_allow(
    validity: int, longest: float | None, max_validity: int, choices: list[float]
) -> None:
    limit = None if longest is None else timedelta(days=longest)
    kind = profile(validity=validity, max_validity=max_validity)

    assert days(kind.validities(limit)) == choices
    assert kind.default_validity(limit) in kind.validities(limit)


def test_the_usual_validity_is_cut_to_what_the_authority_signs() -> None:
    assert PERSONAL.default_validity(timedelta(hours=24)) == timedelta(hours=24)
    assert PERSONAL.default_validity(timedelta(days=200)) == timedelta(days=90)


def test_every_usage_has_the_identifier_of_its_standard() -> None:
    assert {usage: usage.oid for usage in Usage} == {
        "clientAuth": "1.3.6.1.5.5.7.3.2",
        "eapOverLAN": "1.3.6.1.5.5.7.3.14",
        "ipsecIKE": "1.3.6.1.5.5.7.3.17",
    }
