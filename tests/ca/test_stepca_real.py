"""The adapter and a real step-ca: what the authority does is taken from nobody's word."""

import asyncio
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certbob import lint
from certbob.ca.provisioner_key import open_provisioner_key
from certbob.ca.stepca import StepCA, token_claims
from certbob.errors import BadProvisionerPassword, CARefused, CAUnavailable, CAUncertain, CAUntrusted
from certbob.keys import new_key_and_csr
from certbob.ports import Chain
from certbob.profiles import KeyType
from certbob.secret import Secret
from tests.support.clock import FakeClock
from tests.support.fake_stepca import FakeStepCA
from tests.support.stepca import (
    PASSWORD,
    SHIPPED,
    STOCK,
    StepCAServer,
    make_pki,
    pem,
    running_step_ca,
    signing_request,
)

pytestmark = pytest.mark.needs("step-ca")

BACKDATE = timedelta(minutes=1)


Connect = Callable[..., StepCA]


@pytest.fixture
async def connect(step_ca: StepCAServer, clock: FakeClock) -> AsyncIterator[Connect]:
    """Makes adapters for `step_ca`, or for the `server` given; they are closed at the end."""
    adapters: list[StepCA] = []

    def connect(provisioner: str = SHIPPED, *, server: StepCAServer = step_ca, **settings: Any) -> StepCA:
        clock.set(datetime.now(UTC))  # not before the start of the server
        adapters.append(server.client(clock, provisioner, **settings))
        return adapters[-1]

    yield connect
    for adapter in adapters:
        await adapter.close()


@pytest.fixture
def own_step_ca(tmp_path: Path) -> Iterator[StepCAServer]:
    """For tests that would disturb the others."""
    with running_step_ca(tmp_path) as server:
        yield server


def length(chain: Chain) -> timedelta:
    return chain.leaf.not_valid_after_utc - chain.leaf.not_valid_before_utc


# --- trust ---


async def test_it_starts_with_nothing_but_a_fingerprint(step_ca: StepCAServer, connect: Connect) -> None:
    ca = connect()

    assert await ca.health() is None
    trust = await ca.trust()
    assert (trust.root, trust.intermediates) == (step_ca.pki.root, (step_ca.pki.intermediate,))


async def test_it_starts_with_the_root_in_a_file(step_ca: StepCAServer, connect: Connect) -> None:
    assert await connect(root=str(step_ca.root_file)).health() is None


async def test_it_refuses_an_authority_with_another_root(connect: Connect, tmp_path: Path) -> None:
    other = make_pki()
    file = tmp_path / "other.crt"
    file.write_text(pem(other.root))

    for root in (other.fingerprint, str(file)):
        with pytest.raises(CAUntrusted):
            await connect(root=root).sign(signing_request())


async def test_a_wrong_password_is_told(connect: Connect) -> None:
    with pytest.raises(BadProvisionerPassword):
        await connect(password=Secret("wrong")).sign(signing_request())


async def test_a_missing_provisioner_is_told(connect: Connect) -> None:
    with pytest.raises(CAUnavailable, match="no provisioner"):
        await connect("Certbob").trust()


# --- signing ---


@pytest.mark.parametrize("key_type", [KeyType.P256, KeyType.P384, KeyType.RSA2048])
@pytest.mark.parametrize("provisioner", [SHIPPED, STOCK])
async def test_every_kind_of_key_gets_what_was_asked(
    connect: Connect, clock: FakeClock, provisioner: str, key_type: KeyType
) -> None:
    ca = connect(provisioner)
    request = signing_request("Jürgen 李", key_type=key_type, organization="Example & Söhne")

    chain = await ca.sign(request)

    assert lint.check_leaf(chain.leaf, request, ca.rules, now=clock.now()) == []
    assert lint.check_chain(chain, await ca.trust(), now=clock.now()) == []
    assert length(chain) == request.validity + BACKDATE
    organizations = [
        name.value for name in chain.leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    ]
    assert organizations == (["Example & Söhne"] if provisioner == SHIPPED else [])
    assert lint.notes(chain.leaf) == (None if provisioner == SHIPPED else "serverAuth")


@pytest.mark.parametrize("provisioner", ["ES384", "EdDSA", "RS256"])
async def test_every_kind_of_provisioner_key_is_taken(connect: Connect, provisioner: str) -> None:
    assert await connect(provisioner).sign(signing_request())


@pytest.mark.parametrize(
    "email",
    ["o'brien+vpn@example.org", "a/b=c{d}@example.org", "ada@xn--bcher-kva.example", "0@example.org", None],
)
async def test_the_alternative_name_is_never_taken_for_another_kind(
    connect: Connect, clock: FakeClock, email: str | None
) -> None:
    ca = connect()
    request = signing_request(email=email)

    chain = await ca.sign(request)

    assert lint.check_leaf(chain.leaf, request, ca.rules, now=clock.now()) == []


async def test_nothing_of_a_name_gets_into_the_template(connect: Connect) -> None:
    name = 'Ada", "organization": "{{ .Root }}'

    chain = await connect().sign(signing_request(name))

    assert [(part.oid, part.value) for part in chain.leaf.subject] == [(NameOID.COMMON_NAME, name)]


@pytest.mark.parametrize(
    ("provisioner", "limit"), [(SHIPPED, timedelta(hours=8760)), (STOCK, timedelta(hours=24))]
)
async def test_the_longest_validity_is_known_and_kept(
    connect: Connect, provisioner: str, limit: timedelta
) -> None:
    ca = connect(provisioner)

    assert await ca.longest_validity() == limit
    assert length(await ca.sign(signing_request(validity=timedelta(days=4000)))) == limit + BACKDATE


async def test_a_limit_lowered_meanwhile_is_learned(
    connect: Connect, own_step_ca: StepCAServer, clock: FakeClock
) -> None:
    ca = connect(server=own_step_ca)
    await ca.trust()
    own_step_ca.provisioner(SHIPPED)["claims"].update(defaultTLSCertDuration="1h", maxTLSCertDuration="90m")
    own_step_ca.restart()
    clock.set(datetime.now(UTC))

    chain = await ca.sign(signing_request(validity=timedelta(days=30)))

    assert length(chain) == timedelta(minutes=90) + BACKDATE
    assert await ca.longest_validity() == timedelta(minutes=90)


async def test_a_restart_goes_unnoticed(
    connect: Connect, own_step_ca: StepCAServer, clock: FakeClock
) -> None:
    ca = connect(server=own_step_ca)
    await ca.sign(signing_request())
    own_step_ca.restart()
    clock.set(datetime.now(UTC))

    assert await ca.sign(signing_request())


async def test_a_name_against_the_authoritys_policy_is_refused(connect: Connect, tmp_path: Path) -> None:
    # Without a rule for common names step-ca takes a person's name for a host name, and fails.
    policy = {"x509": {"allow": {"email": ["@example.org"]}, "deny": {"cn": ["Mallory"]}}}
    with running_step_ca(tmp_path, policy=policy) as server:
        ca = connect(server=server)

        with pytest.raises(CARefused, match="not allowed") as caught:
            await ca.sign(signing_request(email="ada@evil.example"))

        assert caught.value.status == 403
        assert await ca.sign(signing_request())


# --- tokens, as somebody else may use them ---


@dataclass(frozen=True, slots=True)
class Wire:
    """Speaks to an authority past the adapter, with tokens as the adapter makes them."""

    http: httpx2.AsyncClient
    provisioner: Mapping[str, Any]
    root: x509.Certificate

    def token(self, path: str, subject: str, **claims: Any) -> str:
        key = open_provisioner_key(self.provisioner["encryptedKey"], Secret(PASSWORD))
        return key.sign(
            token_claims(
                issuer=self.provisioner["name"],
                audience=f"{str(self.http.base_url).rstrip('/')}{path}",
                subject=subject,
                sans=["ada@example.org"],
                root=self.root,
                now=datetime.now(UTC),
                **claims,
            )
        )

    async def sign(self, csr: bytes, token: str, validity: str = "60m") -> httpx2.Response:
        text = x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM).decode()
        return await self.http.post("/1.0/sign", json={"csr": text, "ott": token, "notAfter": validity})

    async def revoke(self, serial: str, token: str) -> httpx2.Response:
        body = {"serial": serial, "ott": token, "passive": True, "reasonCode": 0}
        return await self.http.post("/1.0/revoke", json=body)


@asynccontextmanager
async def wire_to(
    authority: StepCAServer | FakeStepCA, provisioner: Mapping[str, Any]
) -> AsyncIterator[Wire]:
    context = ssl.create_default_context(cadata=pem(authority.pki.root))
    async with httpx2.AsyncClient(base_url=authority.url, verify=context, trust_env=False) as http:
        yield Wire(http, provisioner, authority.pki.root)


async def test_a_token_works_once_and_for_its_csr_alone(step_ca: StepCAServer) -> None:
    ours, theirs = signing_request().csr, signing_request().csr
    async with wire_to(step_ca, step_ca.provisioner(STOCK)) as wire:
        stolen, used = (wire.token("/1.0/sign", "Ada Lovelace", csr=ours) for _ in range(2))
        answers = [await wire.sign(theirs, stolen), await wire.sign(ours, used), await wire.sign(ours, used)]

    assert [answer.status_code for answer in answers] == [403, 201, 401]


async def test_tokens_older_than_the_authority_are_refused_until_the_clock_is_right(
    connect: Connect, own_step_ca: StepCAServer, clock: FakeClock
) -> None:
    ca = connect(server=own_step_ca)
    await ca.trust()

    clock.advance(-timedelta(seconds=30))
    with pytest.raises(CARefused, match="token refused") as caught:
        await ca.sign(signing_request())
    assert caught.value.status == 401
    assert "token refused" in (await ca.health() or "")

    clock.advance(timedelta(minutes=1))
    assert await ca.health() is None
    assert await ca.sign(signing_request())


async def test_the_fake_authority_answers_as_the_real_one(step_ca: StepCAServer) -> None:
    async with FakeStepCA() as fake:
        spoken = []
        for authority, entry in ((step_ca, step_ca.provisioner(STOCK)), (fake, fake.provisioner)):
            async with wire_to(authority, entry) as wire:
                spoken.append([_shape(answer) for answer in await _conversation(wire)])

    real, faked = spoken
    assert faked == real


async def _conversation(wire: Wire) -> list[httpx2.Response]:
    csr = signing_request().csr
    used = wire.token("/1.0/sign", "Ada Lovelace", csr=csr)
    signed = await wire.sign(csr, used)
    serial = str(x509.load_pem_x509_certificate(signed.json()["crt"].encode()).serial_number)
    return [
        await wire.http.get("/health"),
        await wire.http.get(f"/root/{wire.root.fingerprint(hashes.SHA256()).hex().upper()}"),
        await wire.http.get(f"/root/{'00' * 32}"),
        await wire.http.get("/1.0/intermediates"),
        await wire.http.get("/nothing"),
        await wire.http.get("/1.0/crl"),
        signed,
        await wire.sign(csr, used),
        await wire.sign(signing_request().csr, wire.token("/1.0/sign", "Ada Lovelace", csr=csr)),
        await wire.sign(csr, wire.token("/1.0/sign", "Ada Lovelace", csr=csr), "120000000m"),
        await wire.revoke(serial, wire.token("/1.0/sign", serial)),
        await wire.revoke(serial, wire.token("/1.0/revoke", "1")),
        await wire.revoke(serial, wire.token("/1.0/revoke", serial)),
        await wire.revoke(serial, wire.token("/1.0/revoke", serial)),
    ]


def _shape(answer: httpx2.Response) -> tuple[int, str, object]:
    """What does not differ from run to run: of a refusal the words, of other JSON the names in it."""
    kind = answer.headers["Content-Type"].partition(";")[0]
    if kind == "application/pkix-crl":
        crl = x509.load_der_x509_crl(answer.content)
        return answer.status_code, kind, [(part.oid, part.critical) for part in crl.extensions]
    if kind != "application/json":
        return answer.status_code, kind, answer.text
    value = answer.json()
    words = re.sub(r"[\w-]{30,}", "N", value["message"]) if "message" in value else sorted(value)
    return answer.status_code, kind, words


# --- an authority that does not answer ---


async def test_a_frozen_authority_may_have_signed_and_its_late_certificate_is_taken_back(
    connect: Connect, own_step_ca: StepCAServer
) -> None:
    ca = connect(server=own_step_ca, answer_timeout=1)
    await ca.sign(signing_request())

    own_step_ca.freeze()
    with pytest.raises(CAUncertain) as caught:
        await ca.sign(signing_request("Grace Hopper"))
    own_step_ca.thaw()

    assert caught.value.late is not None
    late = await caught.value.late
    assert late.leaf.subject.rfc4514_string() == "CN=Grace Hopper"
    await ca.revoke(late.leaf.serial_number, 5)
    assert own_step_ca.revocation(late.leaf.serial_number) is x509.ReasonFlags.cessation_of_operation


async def test_a_frozen_authority_that_was_never_reached_has_surely_not_signed(
    connect: Connect, own_step_ca: StepCAServer
) -> None:
    ca = connect(server=own_step_ca, connect_timeout=0.3, answer_timeout=1)
    own_step_ca.freeze()

    with pytest.raises(CAUnavailable):
        await ca.sign(signing_request())


async def test_an_authority_that_is_stopped_is_unavailable_and_comes_back(
    connect: Connect, own_step_ca: StepCAServer, clock: FakeClock
) -> None:
    ca = connect(server=own_step_ca, retry_pauses=(0, 0))
    own_step_ca.stop()
    with pytest.raises(CAUnavailable):
        await ca.sign(signing_request())
    assert await ca.longest_validity() is None

    own_step_ca.start()
    clock.set(datetime.now(UTC) + timedelta(seconds=5))
    assert await ca.health() is None
    assert await ca.sign(signing_request())


# --- the list of revoked certificates ---


async def test_its_list_is_found_and_believed(
    connect: Connect, step_ca: StepCAServer, clock: FakeClock
) -> None:
    crl = await connect().fetch_crl()

    assert crl is not None
    assert crl.address == crl.named == step_ca.crl_url
    assert (crl.this_update, crl.next_update) == (
        step_ca.crl().last_update_utc,
        step_ca.crl().next_update_utc,
    )
    assert crl.this_update <= clock.now() < crl.next_update


async def test_a_list_is_for_another_address_than_certificates_name(
    connect: Connect, own_step_ca: StepCAServer, clock: FakeClock
) -> None:
    del own_step_ca.configuration["crl"]["idpURL"]
    own_step_ca.restart()

    crl = await connect(server=own_step_ca).fetch_crl()

    assert crl is not None
    assert crl.address == "https://127.0.0.1/1.0/crl"  # step-ca forgets its own port
    assert crl.named == own_step_ca.crl_url


async def test_of_a_template_that_names_no_address_nothing_is_known(connect: Connect) -> None:
    crl = await connect(STOCK).fetch_crl()

    assert crl is not None
    assert crl.named is None


async def test_a_list_that_is_switched_off_is_none(connect: Connect, own_step_ca: StepCAServer) -> None:
    del own_step_ca.configuration["crl"]
    own_step_ca.restart()

    assert await connect(server=own_step_ca).fetch_crl() is None


async def test_a_later_list_has_a_higher_number(connect: Connect, own_step_ca: StepCAServer) -> None:
    ca = connect(server=own_step_ca)
    before = await ca.fetch_crl()
    leaf = (await ca.sign(signing_request())).leaf

    await ca.revoke(leaf.serial_number, 1)

    after = await ca.fetch_crl()
    assert before is not None
    assert after is not None
    assert after.number > before.number


async def test_of_a_frozen_authority_no_list_is_waited_for(
    connect: Connect, own_step_ca: StepCAServer
) -> None:
    ca = connect(server=own_step_ca, answer_timeout=0.5)
    await ca.trust()
    own_step_ca.freeze()

    with pytest.raises(CAUnavailable, match="does not answer"):
        await ca.fetch_crl()


# --- afterwards ---


@pytest.mark.needs("openssl")
async def test_a_revoked_certificate_is_refused_by_openssl_and_a_good_one_is_not(
    connect: Connect, step_ca: StepCAServer, tmp_path: Path
) -> None:
    ca = connect()
    good, revoked = [(await ca.sign(signing_request())).leaf for _ in range(2)]

    for _ in range(2):
        await ca.revoke(revoked.serial_number, 1)

    (tmp_path / "crl.pem").write_bytes(step_ca.crl().public_bytes(Encoding.PEM))
    told = {}
    for name, leaf in (("good", good), ("revoked", revoked)):
        (tmp_path / name).write_text(pem(leaf))
        command = (
            f"openssl verify -x509_strict -purpose sslclient -crl_check -CRLfile {tmp_path}/crl.pem"
            f" -CAfile {step_ca.directory}/root.crt -untrusted {step_ca.directory}/int.crt {tmp_path}/{name}"
        )
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        told[name] = (done.returncode, "error 23" in done.stderr)
    assert told == {"good": (0, False), "revoked": (2, True)}


@pytest.mark.parametrize(("provisioner", "status"), [(SHIPPED, 401), (STOCK, 201)])
async def test_holders_cannot_renew_past_certbob_with_the_recommended_settings(
    connect: Connect, step_ca: StepCAServer, tmp_path: Path, provisioner: str, status: int
) -> None:
    key = new_key_and_csr(KeyType.P256, "Ada Lovelace")
    request = replace(signing_request(), csr=key.csr, public_key=key.public_key)
    chain = await connect(provisioner).sign(request)
    file = tmp_path / "ada.pem"
    file.write_text(
        ssl.DER_cert_to_PEM_cert(key.private_key).replace("CERTIFICATE", "PRIVATE KEY")
        + pem(chain.leaf, *chain.intermediates)
    )
    context = ssl.create_default_context(cadata=pem(step_ca.pki.root))
    context.load_cert_chain(file)

    async with httpx2.AsyncClient(verify=context, trust_env=False) as holder:
        answer = await holder.post(f"{step_ca.url}/1.0/renew")

    assert answer.status_code == status


async def test_many_people_at_once_all_get_their_own(connect: Connect) -> None:
    ca = connect()

    chains = await asyncio.gather(*(ca.sign(signing_request(f"Person {number}")) for number in range(40)))

    names = [chain.leaf.subject.rfc4514_string() for chain in chains]
    assert names == [f"CN=Person {number}" for number in range(40)]
