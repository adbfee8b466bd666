"""The authority's own list of revoked certificates: what is believed, and what is not."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certbob.ca.stepca import StepCA
from certbob.errors import CABadAnswer, CAUnavailable
from tests.support.fake_stepca import FakeStepCA, Reply, crl_reply, refusal, sign_crl
from tests.support.stepca import make_pki

CRL = "/1.0/crl"
ADDRESS = "http://ca.example.org/crl"
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def authority() -> AsyncIterator[FakeStepCA]:
    async with FakeStepCA() as authority:
        yield authority


@pytest.fixture
def ca(authority: FakeStepCA) -> StepCA:
    return authority.client()


def listed(
    authority: FakeStepCA, address: str | None = ADDRESS, *, age: timedelta = MINUTE, **changes: Any
) -> Reply:
    return crl_reply(sign_crl(authority.pki, authority.clock.now() - age, address, **changes))


async def test_a_good_list_tells_its_number_times_and_address(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[CRL] = listed(authority, number=17)

    crl = await ca.fetch_crl()

    assert crl is not None
    assert (crl.number, crl.address, crl.named) == (17, ADDRESS, None)
    assert crl.this_update == authority.clock.now() - MINUTE
    assert crl.next_update == crl.this_update + DAY


async def test_one_that_is_over_is_told_as_it_is(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[CRL] = listed(authority, age=2 * DAY)

    crl = await ca.fetch_crl()

    assert crl is not None
    assert crl.next_update < authority.clock.now()


async def test_what_stands_in_the_list_is_none_of_our_business(authority: FakeStepCA, ca: StepCA) -> None:
    """Reasons 6 and 7, of which `cryptography` cannot read the latter."""
    entry = (
        x509.RevokedCertificateBuilder()
        .serial_number(7)
        .revocation_date(authority.clock.now())
        .add_extension(
            x509.UnrecognizedExtension(x509.CRLReason.oid, bytes.fromhex("0a0107")), critical=False
        )
        .build()
    )
    authority.answers[CRL] = listed(authority, revoked=[entry])

    assert await ca.fetch_crl() is not None


@pytest.mark.parametrize(
    "address", [None, "ldap://ca.example.org/crl", "javascript:alert(1)", "http://a b/crl"]
)
async def test_without_an_address_for_browsers_it_is_where_it_was_found(
    authority: FakeStepCA, ca: StepCA, address: str | None
) -> None:
    authority.answers[CRL] = listed(authority, address)

    crl = await ca.fetch_crl()

    assert crl is not None
    assert crl.address == ca.crl_address == f"{authority.url}{CRL}"


async def test_a_list_that_is_switched_off_is_none(authority: FakeStepCA, ca: StepCA) -> None:
    authority.publishes_crl = False

    assert await ca.fetch_crl() is None


@pytest.mark.parametrize(
    "url", [7, None, {"a": 1}, "javascript:alert(1)", "http://ca.example.org/crl\nx", "http://" + 600 * "a"]
)
async def test_a_template_may_say_anything(authority: FakeStepCA, ca: StepCA, url: object) -> None:
    authority.provisioner["options"] = {"x509": {"templateData": {"crlURL": url}}}

    crl = await ca.fetch_crl()

    assert crl is not None
    assert crl.named is None


@pytest.mark.parametrize("options", [None, 3, [], {"x509": []}, {"x509": {"templateData": "e30="}}])
async def test_a_provisioner_may_have_any_options(authority: FakeStepCA, ca: StepCA, options: object) -> None:
    authority.provisioner["options"] = options

    assert await ca.fetch_crl() is not None


def foreign(authority: FakeStepCA) -> Reply:
    other = make_pki("Other")
    return crl_reply(sign_crl(other, authority.clock.now(), ADDRESS))


def of_the_root(authority: FakeStepCA) -> Reply:
    return listed(authority, key=authority.pki.root_key, issuer=authority.pki.root.subject)


def by_another_key(authority: FakeStepCA) -> Reply:
    return listed(authority, key=ec.generate_private_key(ec.SECP256R1()))


def changed_afterwards(authority: FakeStepCA) -> Reply:
    der = bytearray(listed(authority).body)
    der[-1] ^= 1
    return crl_reply(bytes(der))


def of_another_name(authority: FakeStepCA) -> Reply:
    return listed(authority, issuer=authority.pki.root.subject)


def trailing(authority: FakeStepCA) -> Reply:
    return crl_reply(listed(authority).body + b"\0")


BAD: dict[str, Callable[[FakeStepCA], Reply]] = {
    "garbage": lambda _: crl_reply(b"\x30\x03garbage"),
    "nothing": lambda _: crl_reply(b""),
    "HTML": lambda _: Reply(200, b"<html>"),
    "JSON": lambda _: Reply(200, b"{}"),
    "10 MB": lambda _: crl_reply(bytes(10_000_000)),
    "something behind it": trailing,
    "compressed": lambda each: Reply(200, gzip.compress(listed(each).body), {"Content-Encoding": "gzip"}),
    "of a foreign authority": foreign,
    "of the root": of_the_root,
    "by another key": by_another_key,
    "of another name": of_another_name,
    "changed afterwards": changed_afterwards,
    "of the future": lambda each: listed(each, age=-2 * MINUTE),
    "without a number": lambda each: listed(each, number=None),
    "about authorities alone": lambda each: listed(each, only_contains_ca_certs=True),
    "about attributes alone": lambda each: listed(each, only_contains_attribute_certs=True),
    "of several authorities": lambda each: listed(each, indirect_crl=True),
    "for some reasons": lambda each: listed(
        each, only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})
    ),
    "only what is new": lambda each: listed(each, extensions=[(x509.DeltaCRLIndicator(1), True)]),
    "with a part that nobody knows": lambda each: listed(
        each, extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_nobody_should_believe_is_refused(authority: FakeStepCA, ca: StepCA, name: str) -> None:
    authority.answers[CRL] = BAD[name](authority)

    with pytest.raises(CABadAnswer, match=CRL):
        await ca.fetch_crl()


@pytest.mark.parametrize(
    "reply",
    [
        refusal(500, "no"),
        refusal(401, "no"),
        Reply(302, b"", {"Location": "https://evil.example"}),
        Reply(204),
    ],
    ids=["500", "401", "302", "204"],
)
async def test_any_other_answer_is_no_list(authority: FakeStepCA, ca: StepCA, reply: Reply) -> None:
    authority.answers[CRL] = reply

    with pytest.raises(CAUnavailable, match=CRL):
        await ca.fetch_crl()


async def test_a_list_that_ends_in_the_middle_is_none(authority: FakeStepCA, ca: StepCA) -> None:
    await ca.trust()
    for cut in (20, 150, 300):
        authority.answers[CRL] = Reply(200, listed(authority).body, cut=cut)
        with pytest.raises(CAUnavailable):
            await ca.fetch_crl()


@pytest.mark.parametrize("reply", [Reply(after=asyncio.Event()), Reply(framed=False, endless=b"0")])
async def test_nobody_waits_for_ever(authority: FakeStepCA, reply: Reply) -> None:
    ca = authority.client(answer_timeout=0.3)
    await ca.trust()
    authority.answers[CRL] = reply

    with pytest.raises(CAUnavailable, match="does not answer"):
        await ca.fetch_crl()


async def test_of_an_endless_list_only_so_much_is_read(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[CRL] = Reply(framed=False, endless=bytes(1_000_000))

    with pytest.raises(CABadAnswer, match="longer than"):
        await ca.fetch_crl()


async def test_without_an_intermediate_a_list_cannot_be_checked(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers["/1.0/intermediates"] = Reply(404)

    with pytest.raises(CAUnavailable, match="cannot be checked"):
        await ca.fetch_crl()


async def test_a_bad_list_stands_in_nobodys_way(authority: FakeStepCA, ca: StepCA) -> None:
    authority.answers[CRL] = refusal(500, "no")
    with pytest.raises(CAUnavailable):
        await ca.fetch_crl()

    assert await ca.health() is None
