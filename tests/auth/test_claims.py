"""What a provider says about people: who they are, what stands in their certificate, and what they may."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile_provider import ISSUER, MISSING, HostileProvider
from tests.support.single_sign_on import SingleSignOn, open_single_sign_on, refusals
from tests.support.web import ADA, Answer, Client, StillClock

EMAIL = "ada@example.org"
OVERAGE = {
    "_claim_names": {"groups": "src1"},
    "_claim_sources": {"src1": {"endpoint": f"{ISSUER}/listener"}},
}


async def ask_for_certificate(on: SingleSignOn, browser: Client, **fields: str) -> Answer:
    """The answer to the form; if it is a grant, the file is fetched, too."""
    answer = await browser.submit((await browser.get("/new")).page.form("/new"), **{"old": "keep", **fields})
    if answer.status == 303:
        assert (await on.site.program().get(answer.headers["Location"])).status == 200
    return answer


async def certified(on: SingleSignOn, columns: str, browser: Client | None = None) -> Any:
    """These columns of the ledger for a new certificate, of somebody who signs in for it."""
    answer = await ask_for_certificate(on, browser or await on.signed_in())
    assert answer.status == 303, answer.page.text()
    return on.site.ledger(columns)[-1]


async def profiles(browser: Client) -> set[str]:
    """What is offered to somebody who is signed in."""
    page = (await browser.get("/new")).page
    return {element.get("value", "") for element in page.all("input[@name='profile']")}


async def test_somebody_is_the_same_person_at_each_sign_in(on: SingleSignOn) -> None:
    first = await certified(on, "door, account, subject")

    assert first[:2] == ("oidc", f"{ISSUER} 248289761001")
    assert await certified(on, "door, account, subject") == first


async def test_a_changed_name_and_address_stand_in_later_certificates(on: SingleSignOn) -> None:
    first = await certified(on, "subject, name, email")
    on.provider.person |= {"preferred_username": "ada.king", "email": "king@example.org"}

    second = await certified(on, "subject, name, email")

    assert second == (first[0], "ada.king", "king@example.org")
    assert on.site.ledger("subject, name, email") == [first, second]


async def test_the_same_name_and_address_do_not_make_the_same_person(on: SingleSignOn) -> None:
    first = await certified(on, "subject")
    on.provider.person["sub"] = "another"

    answer = await ask_for_certificate(on, await on.signed_in())

    assert answer.status == 403
    assert "This name belongs to somebody else here" in answer.text
    on.provider.person["preferred_username"] = "ada.king"
    assert await certified(on, "subject") != first


async def test_another_issuer_makes_another_person_of_the_same_sub(data_dir: Path, clock: StillClock) -> None:
    subjects = []
    for issuer in (ISSUER, f"{ISSUER}/", "https://id.example.net"):
        provider = HostileProvider(clock, issuer=issuer)
        async with open_single_sign_on(data_dir, clock, provider) as on:
            subjects.append(await certified(on, "subject"))

    assert len(set(subjects)) == 3


@pytest.mark.parametrize("sub", ["ADA", "ada ", "ada/1", "ada\\", "%61da", "ada'--"])
async def test_a_sub_counts_byte_for_byte(on: SingleSignOn, sub: str) -> None:
    on.provider.person["sub"] = "ada"
    first = await certified(on, "subject")
    on.provider.person |= {"sub": sub, "preferred_username": "somebody"}

    assert await certified(on, "subject") != first
    assert on.site.ledger("account")[-1] == f"{ISSUER} {sub}"


NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "user name before name": ({}, "ada"),
    "name without user name": ({"preferred_username": MISSING}, "Ada King"),
    "name where the user name is empty": ({"preferred_username": ""}, "Ada King"),
    "name where the user name is no text": ({"preferred_username": ["ada"]}, "Ada King"),
    "blanks around": ({"preferred_username": " ada "}, "ada"),
    "decomposed letters": ({"preferred_username": "Zoe\u0308"}, "Zoë"),
}


@pytest.mark.parametrize(("claims", "name"), NAMES.values(), ids=NAMES)
async def test_the_name_of_a_certificate(on: SingleSignOn, claims: dict[str, Any], name: str) -> None:
    on.provider.userinfo = claims

    assert await certified(on, "name") == name


@pytest.mark.parametrize("claim", ["upn", "https://example.org/claims/user.name", "profile.short"])
async def test_the_claim_of_the_name_can_be_chosen(data_dir: Path, clock: StillClock, claim: str) -> None:
    async with open_single_sign_on(data_dir, clock, oidc={"name_claim": claim}) as on:
        on.provider.person |= {
            "upn": "lovelace",
            "https://example.org/claims/user.name": "lovelace",
            "profile": {"short": "lovelace"},
        }

        assert await certified(on, "name") == "lovelace"


async def test_the_word_of_the_id_token_counts_before_that_of_userinfo(on: SingleSignOn) -> None:
    on.provider.claims |= {
        "preferred_username": "from.the.token",
        "email": "token@example.org",
        "email_verified": True,
        "groups": [],
    }

    browser = await on.signed_in()

    assert await certified(on, "name, email", browser) == ("from.the.token", "token@example.org")
    assert await profiles(browser) == {"client"}


UNFIT = {
    "ada,O=Evil": "‘,’",
    "ada\nbert": "U+000A",
    "ada\0": "U+0000",
    "\u202eada": "U+202E",
    "аda": "scripts",
    "<i>ada</i>": "‘<’",
    "x" * 65: "64 bytes",
    " ": "empty",
    "-ada": "begin",
}


@pytest.mark.parametrize(("name", "reason"), UNFIT.items(), ids=map(ascii, UNFIT))
async def test_somebody_whose_name_fits_no_certificate_is_told_why(
    on: SingleSignOn, name: str, reason: str
) -> None:
    on.provider.person["preferred_username"] = name
    browser = await on.signed_in()

    answer = await ask_for_certificate(on, browser, device="Laptop")

    assert answer.status == 403
    assert "This name cannot stand in a certificate" in answer.page.text()
    assert reason in answer.page.text()
    assert "<i>" not in (await browser.get("/new")).text + answer.text
    assert on.site.ledger() == []


async def test_a_name_that_fits_no_certificate_makes_no_device_that_fits_none(on: SingleSignOn) -> None:
    on.provider.person["preferred_username"] = "ada,O=Evil"

    answer = await ask_for_certificate(on, await on.signed_in())

    assert answer.status == 403
    assert "This name cannot stand in a certificate" in answer.page.text()


async def test_nobody_gets_the_name_of_a_local_account(on: SingleSignOn) -> None:
    for spelling in (ADA.name, ADA.name.upper(), "Ada  Lovelace"):
        on.provider.person["preferred_username"] = spelling
        answer = await ask_for_certificate(on, await on.signed_in())
        assert answer.status == 403
        assert "belongs to somebody else" in answer.text

    assert on.site.ledger() == []
    local = await on.site.signed_in(ADA)
    assert await certified(on, "door, name", local) == ("local", ADA.name)


ADDRESSES: dict[str, tuple[dict[str, Any], str | None]] = {
    "verified": ({}, EMAIL),
    "not said to be verified": ({"email_verified": MISSING}, None),
    "not verified": ({"email_verified": False}, None),
    "verified as text": ({"email_verified": "true"}, None),
    "verified as number": ({"email_verified": 1}, None),
    "verified as list": ({"email_verified": [True]}, None),
    "two addresses": ({"email": f"{EMAIL},root@example.org"}, None),
    "with a name": ({"email": f"Ada <{EMAIL}>"}, None),
    "with a line break": ({"email": f"{EMAIL}\nBcc: root@example.org"}, None),
    "a list": ({"email": [EMAIL]}, None),
    "empty": ({"email": ""}, None),
    "none": ({"email": MISSING}, None),
}


@pytest.mark.parametrize("place", ["userinfo", "claims"])
@pytest.mark.parametrize(("changes", "email"), ADDRESSES.values(), ids=ADDRESSES)
async def test_an_address_counts_only_when_it_is_verified(
    on: SingleSignOn, place: str, changes: dict[str, Any], email: str | None
) -> None:
    """`claims`: in the ID token, while the userinfo tells nothing."""
    if place == "claims":
        on.provider.userinfo = {"email": MISSING, "email_verified": MISSING}
        on.provider.claims = {"email": EMAIL, "email_verified": True}
    getattr(on.provider, place).update(changes)

    assert await certified(on, "email") == email


async def test_one_address_is_not_verified_by_the_word_about_another(on: SingleSignOn) -> None:
    on.provider.claims["email"] = "root@example.org"

    assert await certified(on, "email") is None


async def test_the_claim_of_the_address_can_be_chosen(data_dir: Path, clock: StillClock) -> None:
    async with open_single_sign_on(data_dir, clock, oidc={"email_claim": "mail"}) as on:
        on.provider.person["mail"] = "work@example.org"

        assert await certified(on, "email") == "work@example.org"


# The profile VPN is for members of vpn-users.
GROUPS: dict[str, tuple[dict[str, Any], bool]] = {
    "a list": ({"groups": ["staff", "vpn-users"]}, True),
    "one text": ({"groups": "vpn-users"}, True),
    "none": ({"groups": MISSING}, False),
    "null": ({"groups": None}, False),
    "an empty list": ({"groups": []}, False),
    "a list with numbers": ({"groups": ["vpn-users", 7]}, False),
    "a list of lists": ({"groups": [["vpn-users"]]}, False),
    "an object": ({"groups": {"vpn-users": True}}, False),
    "several in one text": ({"groups": "staff vpn-users"}, False),
    "several in one text with commas": ({"groups": "staff,vpn-users"}, False),
    "another case": ({"groups": ["VPN-Users"]}, False),
    "blanks around": ({"groups": [" vpn-users "]}, False),
    "look-alike letters": ({"groups": ["vpn-usеrs"]}, False),
    "only part of it": ({"groups": ["vpn-user", "vpn-users-2"]}, False),
    "500 of them": ({"groups": [*map(str, range(499)), "vpn-users"]}, True),
    "one of 256 characters": ({"groups": ["x" * 256, "vpn-users"]}, True),
    "left out": ({"groups": MISSING, **OVERAGE}, False),
}


@pytest.mark.parametrize(("claims", "may"), GROUPS.values(), ids=GROUPS)
async def test_groups_decide_about_profiles(on: SingleSignOn, claims: dict[str, Any], may: bool) -> None:
    on.provider.userinfo = claims
    browser = await on.signed_in()
    form = (await browser.get("/new")).page.form("/new")

    answer = await browser.submit(form, profile="vpn", validity="30d")

    assert await profiles(browser) == ({"client", "vpn"} if may else {"client"})
    assert answer.status == (303 if may else 403)
    assert on.provider.asked("listener") == []


@pytest.mark.parametrize(
    "claim", ["roles", "realm_access.roles", "https://example.org/claims/groups", "resource.cert.bob"]
)
async def test_the_claim_of_the_groups_can_be_chosen(data_dir: Path, clock: StillClock, claim: str) -> None:
    groups = ["vpn-users"]
    async with open_single_sign_on(data_dir, clock, oidc={"groups_claim": claim}) as on:
        on.provider.person |= {
            "groups": [],
            "roles": groups,
            "realm_access": {"roles": groups},
            "https://example.org/claims/groups": groups,
            "resource": {"cert": {"bob": groups}},
        }

        assert await profiles(await on.signed_in()) == {"client", "vpn"}


@pytest.mark.parametrize("broken", [None, "text", ["roles"], {"other": 1}])
async def test_a_path_that_leads_nowhere_gives_no_groups(
    data_dir: Path, clock: StillClock, broken: Any
) -> None:
    async with open_single_sign_on(data_dir, clock, oidc={"groups_claim": "realm_access.roles"}) as on:
        on.provider.person["realm_access"] = broken

        assert await profiles(await on.signed_in()) == {"client"}


@pytest.mark.parametrize(
    "groups", [[str(number) for number in range(501)], ["x" * 257]], ids=["501 groups", "257 characters"]
)
async def test_more_groups_than_anybody_means_are_refused(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture, groups: list[str]
) -> None:
    caplog.set_level(logging.INFO)
    on.provider.person["groups"] = groups

    await on.assert_refused(caplog)


async def test_groups_that_the_provider_left_out_are_told_to_the_operator(
    on: SingleSignOn, caplog: pytest.LogCaptureFixture
) -> None:
    on.provider.userinfo["groups"] = MISSING
    for marker in (OVERAGE, {"hasgroups": True}):
        caplog.clear()
        on.provider.claims = dict(marker)
        await on.signed_in()
        assert "so many groups" in caplog.text


@pytest.mark.parametrize(
    ("groups", "enters", "is_admin"),
    [
        (["staff"], True, False),
        (["staff", "admins"], True, True),
        (["staff", "Admins"], True, False),
        (["staff", "admin", "administrator", "root"], True, False),
        (["admins"], False, False),
        (["Staff"], False, False),
        ([], False, False),
        ("staff", True, False),
        (["staff", 1], False, False),
    ],
)
async def test_who_may_enter_and_who_is_an_administrator(
    data_dir: Path,
    clock: StillClock,
    caplog: pytest.LogCaptureFixture,
    groups: Any,
    enters: bool,
    is_admin: bool,
) -> None:
    caplog.set_level(logging.INFO)
    rules = {"allowed_groups": ("staff",), "admin_groups": ("admins",)}
    async with open_single_sign_on(data_dir, clock, oidc=rules) as on:
        on.provider.person["groups"] = groups
        browser = on.browser()
        callback = on.provider.authorize(await on.begin(browser))

        answer = await on.come_back(browser, callback)

        if enters:
            assert answer.status == 303
            assert ("administrator" in (await browser.get("/new")).page.text("header")) is is_admin
        else:
            assert answer.status == 403
            assert "for members of staff" in answer.page.text()
            assert "certbob" not in browser.cookies
            assert len(refusals(caplog)) == 1
            assert (await on.come_back(browser, callback)).status == 400


async def test_without_a_setting_no_group_makes_an_administrator(on: SingleSignOn) -> None:
    on.provider.person["groups"] = ["admin", "admins", "administrators", ""]

    browser = await on.signed_in()

    assert "administrator" not in (await browser.get("/new")).page.text("header")


async def test_a_change_of_groups_counts_from_the_next_sign_in(on: SingleSignOn) -> None:
    before = await on.signed_in()
    on.provider.person["groups"] = []

    after = await on.signed_in()

    assert await profiles(before) == {"client", "vpn"}
    assert await profiles(after) == {"client"}


async def test_who_is_no_longer_allowed_by_the_settings_is_signed_out(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_single_sign_on(data_dir, clock) as on:
        browser = await on.signed_in()
    for rules, status in (({"allowed_groups": ("vpn-users",)}, 200), ({"allowed_groups": ("staff",)}, 303)):
        async with open_single_sign_on(data_dir, clock, on.provider, oidc=rules) as later:
            there = later.browser()
            there.cookies = dict(browser.cookies)
            assert (await there.get("/new")).status == status
