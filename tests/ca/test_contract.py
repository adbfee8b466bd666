"""What every authority must do, run over each of them through the port alone."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certbob import lint
from certbob.bootstrap import SystemClock
from certbob.ca.builtin import BuiltinCA, open_authority
from certbob.errors import CARefused
from certbob.ports import CertificateAuthority, SigningRequest
from certbob.profiles import KeyType
from tests.support.core import InlineSigners
from tests.support.stepca import signing_request


@pytest.fixture(params=["builtin", pytest.param("stepca", marks=pytest.mark.needs("step-ca"))])
async def ca(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CertificateAuthority]:
    clock = SystemClock()
    authority: CertificateAuthority
    if request.param == "stepca":
        authority = request.getfixturevalue("step_ca").client(clock)
    else:
        files = open_authority(
            tmp_path / "ca",
            name="Contract",
            organization=None,
            key_type=KeyType.P256,
            passphrase=None,
            now=clock.now(),
        )
        authority = BuiltinCA(files, signers=InlineSigners(), clock=clock)
    yield authority
    await authority.close()


async def findings(ca: CertificateAuthority, request: SigningRequest) -> list[str]:
    chain = await ca.sign(request)
    now = datetime.now(UTC)
    found = lint.check_leaf(chain.leaf, request, ca.rules, now=now)
    return found + lint.check_chain(chain, await ca.trust(), now=now)


@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.P384, KeyType.RSA2048])
async def test_it_signs_exactly_what_was_asked_for(ca: CertificateAuthority, key_type: KeyType) -> None:
    assert await findings(ca, signing_request(key_type=key_type)) == []


async def test_a_name_may_be_of_any_script(ca: CertificateAuthority) -> None:
    request = signing_request("Jürgen 李")

    leaf = (await ca.sign(request)).leaf

    assert [a.value for a in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["Jürgen 李"]
    assert await findings(ca, request) == []


async def test_without_an_address_the_subject_stands_in_the_alternative_names(
    ca: CertificateAuthority,
) -> None:
    request = signing_request(email=None)

    leaf = (await ca.sign(request)).leaf

    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier(f"urn:uuid:{request.subject}")]


async def test_the_organization_stands_in_the_subject(ca: CertificateAuthority) -> None:
    assert await findings(ca, signing_request(organization="Example, Inc. & Sons")) == []


async def test_two_certificates_have_two_serial_numbers(ca: CertificateAuthority) -> None:
    first, second = [await ca.sign(signing_request()) for _ in range(2)]

    assert first.leaf.serial_number != second.leaf.serial_number


async def test_it_never_signs_for_longer_than_it_says(ca: CertificateAuthority) -> None:
    longest = await ca.longest_validity()
    assert longest is not None

    leaf = await _signed_or_refused(ca, signing_request(validity=longest + timedelta(days=1)))

    if leaf is not None:
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= longest + timedelta(minutes=2)


async def test_the_trust_is_a_root_and_the_authorities_below_it(ca: CertificateAuthority) -> None:
    trust = await ca.trust()

    assert trust.root.issuer == trust.root.subject
    assert [certificate.issuer for certificate in trust.intermediates] == [trust.root.subject]


async def test_a_running_authority_is_healthy(ca: CertificateAuthority) -> None:
    assert await ca.health() is None


async def _signed_or_refused(ca: CertificateAuthority, request: SigningRequest) -> x509.Certificate | None:
    """One may cut what is too long, another refuse it."""
    try:
        return (await ca.sign(request)).leaf
    except CARefused:
        return None
