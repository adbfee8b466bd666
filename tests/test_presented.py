"""Reading what a proxy says, and judging the certificate in it."""

import base64
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from certbob.ports import SUPERSEDED, THE_SERVICE
from certbob.presented import MAX_CHARACTERS, State, examine, is_empty, read
from tests.support import pki
from tests.support.core import Core, open_core

ROOT = pki.root()
LEAF = pki.draft_leaf(pki.signing_request(), ROOT).signed_by(ROOT)
DER = LEAF.public_bytes(Encoding.DER)
PEM = LEAF.public_bytes(Encoding.PEM).decode()
BASE64 = base64.b64encode(DER).decode()
INNER = "".join(PEM.splitlines()[1:-1])

SPELLINGS = {
    "nginx": quote(PEM),
    "with line ends of Windows": quote(PEM.replace("\n", "\r\n")),
    "bare": PEM,
    "on one line": PEM.replace("\n", " "),
    "several": quote(PEM + PEM),
    "HAProxy": f'"{BASE64}"',
    "Caddy": BASE64,
    "RFC 9440": f":{BASE64}:",
    "Traefik": f"{INNER},{INNER}",
    "Traefik, escaped": quote_plus(INNER),
    "padded with blanks": f"  {BASE64} ",
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_every_proxy_is_understood(text: str) -> None:
    assert read(text) == LEAF


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "%",
        "%00",
        BASE64[:-8],
        BASE64 + "AAAA",
        f"::{BASE64[2:]}",
        quote(PEM.replace("CERTIFICATE", "PRIVATE KEY")),
        "A" * (MAX_CHARACTERS + 1),
        "\xff" * 100,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 whatever the words
        read(text)


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda some: base64.b64encode(some).decode()))
def test_nothing_else_can_come_of_it(text: str) -> None:
    with suppress(ValueError):
        read(text)


@pytest.mark.parametrize("text", ["", " ", '""', "{http.request.tls.client.certificate_der_base64}"])
def test_nothing_is_told_in_several_ways(text: str) -> None:
    assert is_empty(text)
    assert not is_empty(BASE64)


async def state(core: Core, certificate: x509.Certificate) -> State:
    services = core.services
    trust = await services.ca.trust()
    return (await examine(certificate, trust, services.ledger, core.clock.now())).state


async def test_the_ledger_and_the_clock_decide(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        first, second, third = [(await core.issue(await core.mint())) for _ in range(3)]
        ledger = core.services.ledger
        for issued, reason_code in ((second, 1), (third, SUPERSEDED)):
            known = await ledger.find_any(issued.leaf.serial_number)
            assert known is not None
            await ledger.revoked(known, reason_code, THE_SERVICE, "")

        leaves = first.leaf, second.leaf, third.leaf
        assert [await state(core, leaf) for leaf in leaves] == [State.GOOD, State.REVOKED, State.REPLACED]
        core.clock.set(first.leaf.not_valid_after_utc)
        assert await state(core, first.leaf) is State.GOOD
        core.clock.advance(timedelta(seconds=1))
        assert [await state(core, leaf) for leaf in leaves] == [State.EXPIRED, State.REVOKED, State.REPLACED]
        core.clock.set(first.leaf.not_valid_before_utc - timedelta(seconds=1))
        assert await state(core, first.leaf) is State.EARLY


async def test_a_serial_number_alone_is_no_proof(data_dir: Path) -> None:
    """Another authority may use the same numbers, and so may somebody who wants to look like another."""
    async with open_core(data_dir) as core:
        issued = await core.issue(await core.mint())
        draft = pki.draft_leaf(pki.signing_request(), core.ca.issuing)
        twin = replace(draft, serial=issued.leaf.serial_number)
        services = core.services
        trust = await services.ca.trust()

        ours = await examine(twin.signed_by(core.ca.issuing), trust, services.ledger, core.clock.now())
        theirs = await examine(twin.signed_by(pki.root()), trust, services.ledger, core.clock.now())

        assert (ours.state, ours.known) == (State.UNKNOWN, None)
        assert (theirs.state, theirs.known) == (State.FOREIGN, None)


async def test_the_name_of_our_authority_alone_is_no_proof(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        title = core.ca.issuing.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        impostor = pki.root(str(title))

        assert await state(core, pki.draft_leaf(pki.signing_request(), impostor).signed_by(impostor)) is (
            State.FOREIGN
        )


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
async def test_a_damaged_certificate_is_read_or_refused_and_never_good(data_dir: Path) -> None:
    """Each byte of a good one changed; `cryptography` reads many parts only when they are asked for."""
    async with open_core(data_dir) as core:
        good = (await core.issue(await core.mint())).leaf.public_bytes(Encoding.DER)
        for place in range(len(good)):
            for change in (1, 0x80, 0xFF):
                damaged = bytearray(good)
                damaged[place] ^= change
                try:
                    found = await state(core, read(base64.b64encode(damaged).decode()))
                except ValueError:
                    continue
                assert found in (State.FOREIGN, State.UNKNOWN), (place, change)
