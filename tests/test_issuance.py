import asyncio
import gc
import hashlib
import multiprocessing
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding as Serialization
from cryptography.hazmat.primitives.serialization import PublicFormat, load_pem_private_key, pkcs12

from certbob import bundles, keys
from certbob.bootstrap import build_services
from certbob.bundles import FileNames, Format
from certbob.config import DEFAULT_PROFILE, Limits
from certbob.devices import Device, Encoding, EncodingPolicy, Platform
from certbob.errors import (
    BadProvisionerPassword,
    Busy,
    CABadAnswer,
    CAProblem,
    CARefused,
    CAUnavailable,
    CAUncertain,
    CAUntrusted,
    Duplicate,
    GrantUsed,
    NotEntitled,
    Problem,
    StorageProblem,
    TooManyCertificates,
    UnfitName,
)
from certbob.grants import Grants
from certbob.issuance import MAX_REPEATS, MAX_RUNNING, FileOptions, Issuance, Take
from certbob.ledger import Ledger
from certbob.names import Names
from certbob.pause import Pause
from certbob.ports import Chain, Issued, Origin, SigningRequest, Trust
from certbob.profiles import KeyType, Profile, Profiles, Usage
from certbob.store.audit import SqlAudit, SqlPause
from certbob.store.grants import SqlGrants
from certbob.store.ledger import SqlLedger
from certbob.store.people import SqlPeople
from certbob.store.sqlite import Database
from tests.support import pki
from tests.support.clock import FakeClock
from tests.support.core import (
    DATABASE,
    ISSUER,
    LAPTOP,
    SECRET,
    Answer,
    Core,
    FakeCA,
    InlineSigners,
    RevokingCA,
    audit_log,
    open_core,
    person,
    raising,
    settings_for,
)
from tests.support.pki import Draft

P = ParamSpec("P")
T = TypeVar("T")

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
REPEAT_WINDOW = timedelta(seconds=120)
VPN = replace(DEFAULT_PROFILE, id="vpn", label="VPN", groups=("vpn-users",))


@pytest.fixture
async def core(data_dir: Path) -> AsyncIterator[Core]:
    async with open_core(data_dir) as opened:
        yield opened


def opened(core: Core, token: str, issued: Issued) -> pkcs12.PKCS12KeyAndCertificates:
    return pkcs12.load_pkcs12(issued.content, core.services.grants.passphrase(token).encode())


def key_in(core: Core, token: str, issued: Issued) -> bytes:
    """Its public half, DER."""
    key = opened(core, token, issued).key
    assert key is not None
    return key.public_key().public_bytes(Serialization.DER, PublicFormat.SubjectPublicKeyInfo)


def serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


async def is_redeemable(core: Core, token: str) -> bool:
    try:
        core.services.grants.check_live(await core.services.grants.inspect(token))
    except GrantUsed:
        return False
    return True


async def settled(core: Core) -> None:
    """Everything that an issuance left running has ended."""
    await core.services.issuance.drain(5)
    await asyncio.sleep(0)
    await core.services.issuance.drain(5)


# The whole way


async def test_a_grant_becomes_a_file_and_a_row(core: Core) -> None:
    ada = person("Ada Lovelace", email="ada@example.org", groups=("staff",))
    token = await core.mint(ada, device=Device(Platform.MAC, "Ada's Mac", older=False))
    core.clock.advance(SECOND)
    issued = await core.services.issuance.issue(token, origin=Origin("192.0.2.1", "r-1"))

    [leaf] = core.ca.signed
    bundle = opened(core, token, issued)
    assert issued.leaf == leaf
    assert bundle.cert is not None
    assert bundle.cert.certificate == leaf
    assert [extra.certificate for extra in bundle.additional_certs] == list(core.ca.trusted.intermediates)
    assert (issued.media_type, issued.file_name) == ("application/x-pkcs12", "user_cert.pfx")

    [row] = core.ledger(
        "state, subject, door, account, name, email, profile, platform, device, encoding, key_type, validity,"
        " request_id, created_at, closed_at, serial, not_before, not_after, fingerprint, certificate,"
        " delivered, note"
    )
    second = int(pki.NOW.timestamp()) + 1
    assert row == (
        "issued",
        ada.subject,
        "local",
        "Ada Lovelace",
        "Ada Lovelace",
        "ada@example.org",
        "client",
        "mac",
        "Ada's Mac",
        "modern",
        "p256",
        90 * 86400,
        "r-1",
        second,
        second,
        serial(leaf),
        int(leaf.not_valid_before_utc.timestamp()),
        int(leaf.not_valid_after_utc.timestamp()),
        leaf.fingerprint(hashes.SHA256()).hex(),
        leaf.public_bytes(Serialization.DER),
        1,
        None,
    )
    [(grant_hash, csr_sha256)] = core.ledger("grant_hash, csr_sha256")
    assert grant_hash == (await core.services.grants.inspect(token)).id_hash
    assert csr_sha256 == hashlib.sha256(core.ca.asked[0].csr).hexdigest()


async def test_the_intent_is_written_before_the_authority_is_asked(core: Core) -> None:
    seen: list[Any] = []

    async def look(request: SigningRequest) -> Chain:
        seen.extend(core.ledger("state, closed_at, serial"))
        return await core.ca.good(request)

    core.ca.answers = [look]
    await core.issue(await core.mint())
    assert seen == [("intent", None, None)]


async def test_an_older_device_gets_an_rsa_key_in_the_compatible_encoding(core: Core) -> None:
    await core.issue(await core.mint(device=replace(LAPTOP, older=True)))
    assert core.ledger("encoding, key_type") == [("compatible", "rsa2048")]


# Once


async def test_of_32_at_once_one_gets_a_certificate(core: Core) -> None:
    token = await core.mint()
    results = await asyncio.gather(
        *(core.issue(token, f"browser {n}" if n % 2 else None) for n in range(32)), return_exceptions=True
    )

    assert Counter(map(type, results)) == {Issued: 1, GrantUsed: 31}
    assert len(core.ca.signed) == 1
    assert core.ledger("state, delivered") == [("issued", 1)]


def redeem_all(data_dir: Path, now: datetime, tokens: list[str], start: Barrier, results: Any) -> None:
    """A process of its own: all grants at once, with the embedded authority."""

    async def run() -> list[str]:
        services = await build_services(settings_for(data_dir), clock=FakeClock(now), signers=InlineSigners())
        try:
            start.wait(30)
            done = await asyncio.gather(*map(services.issuance.issue, tokens), return_exceptions=True)
        finally:
            await services.close()
        return [serial(each.leaf) if isinstance(each, Issued) else type(each).__name__ for each in done]

    results.put(asyncio.run(run()))


async def test_two_processes_make_one_certificate_of_each_grant(core: Core) -> None:
    tokens = [await core.mint(person(f"Person {n}")) for n in range(50)]
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(2), spawn.Queue()
    processes = [
        spawn.Process(target=redeem_all, args=(core.data_dir, core.clock.now(), tokens, start, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
        process.close()
    results.close()

    for pair in zip(*outcomes, strict=True):
        assert sum(outcome == "GrantUsed" for outcome in pair) == 1, pair
    serials = [each for outcome in outcomes for each in outcome if each != "GrantUsed"]
    assert len(set(serials)) == 50
    assert sorted(core.ledger("serial")) == sorted(serials)
    assert set(core.ledger()) == {"issued"}


# What the authority may answer

OUTCOMES: list[tuple[CAProblem, str, bool]] = [
    (CARefused("policy", status=403), "failed", True),
    (CAUnavailable("refused connection"), "failed", True),
    (CAUntrusted("another root"), "failed", True),
    (BadProvisionerPassword("wrong"), "failed", True),
    (CAUncertain("no answer in time"), "uncertain", False),
    (CABadAnswer("HTML"), "rejected", False),
    (CABadAnswer("no certificate", b"\x30\x00"), "rejected", False),
]


@pytest.mark.parametrize(("problem", "state", "redeemable"), OUTCOMES, ids=lambda value: repr(value))
async def test_a_grant_comes_back_only_when_surely_nothing_was_signed(
    core: Core, problem: CAProblem, state: str, redeemable: bool
) -> None:
    token = await core.mint()
    core.ca.answers = [raising(problem)]

    with pytest.raises(type(problem)):
        await core.issue(token, "ada")

    assert core.ledger() == [state]
    assert await is_redeemable(core, token) is redeemable
    if redeemable:
        await core.issue(token, "ada")
        assert core.ledger() == ["failed", "issued"]
    else:
        with pytest.raises(GrantUsed):
            await core.issue(token, "ada")
        assert len(core.ca.asked) == 1


async def test_what_the_authority_said_stands_in_the_ledger(core: Core) -> None:
    core.ca.answers = [raising(CARefused("validity too long")), raising(CAUncertain("cut off"))]
    for _ in range(2):
        with pytest.raises(CAProblem):
            await core.issue(await core.mint())
    assert core.ledger("note, serial") == [("validity too long", None), ("cut off", None)]


async def test_a_fault_nobody_thought_of_is_uncertain(core: Core) -> None:
    token = await core.mint()
    core.ca.answers = [raising(ZeroDivisionError("surprise"))]

    with pytest.raises(CAUncertain, match="surprise"):
        await core.issue(token)
    assert core.ledger() == ["uncertain"]
    assert not await is_redeemable(core, token)


class Away(FakeCA):
    """Was never reached yet."""

    is_away = True

    async def trust(self) -> Trust:
        if self.is_away:
            raise CAUnavailable("never reached")
        return self.trusted


async def test_an_authority_never_reached_leaves_the_grant_and_no_entry(data_dir: Path) -> None:
    clock = FakeClock(pki.NOW)
    ca = Away(clock)
    async with open_core(data_dir, ca=ca, clock=clock) as core:
        token = await core.mint()
        with pytest.raises(CAUnavailable):
            await core.issue(token)
        assert core.ledger() == []

        ca.is_away = False
        await core.issue(token)


def other_key(draft: Draft) -> Draft:
    return replace(draft, public_key=pki.new_key(common_name="Eve").public_key)


def other_name(draft: Draft) -> Draft:
    return replace(draft, subject=pki.common_name("Eve"))


def server_auth(draft: Draft) -> Draft:
    return draft.put(pki.extended_key_usage(Usage.CLIENT_AUTH.oid, "1.3.6.1.5.5.7.3.1"))


def too_long(draft: Draft) -> Draft:
    return replace(draft, end=draft.end + timedelta(days=1))


WRONG = [other_key, other_name, server_auth, too_long]


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("kind", [FakeCA, RevokingCA])
async def test_a_wrong_certificate_is_recorded_revoked_where_possible_and_given_to_nobody(
    data_dir: Path, kind: type[FakeCA], change: Callable[[Draft], Draft]
) -> None:
    clock = FakeClock(pki.NOW)
    async with open_core(data_dir, ca=kind(clock), clock=clock) as core:
        token = await core.mint()
        core.ca.answers = [core.ca.wrong(change)]

        with pytest.raises(CABadAnswer):
            await core.issue(token, "ada")

        [leaf] = core.ca.signed
        assert core.ledger("state, serial, certificate") == [
            ("rejected", serial(leaf), leaf.public_bytes(Serialization.DER))
        ]
        assert not await is_redeemable(core, token)
        assert core.services.issuance.last_take("ada") is None
        if isinstance(core.ca, RevokingCA):
            assert core.ca.revoked == [leaf.serial_number]


async def test_a_certificate_of_another_authority_is_rejected(core: Core) -> None:
    stranger = FakeCA(core.clock)
    core.ca.answers = [stranger.good]

    with pytest.raises(CABadAnswer, match="not signed by"):
        await core.issue(await core.mint())
    assert core.ledger("state, serial") == [("rejected", serial(stranger.signed[0]))]


async def test_a_serial_number_is_never_accepted_twice_and_never_revoked_for_it(data_dir: Path) -> None:
    clock = FakeClock(pki.NOW)
    ca = RevokingCA(clock)
    async with open_core(data_dir, ca=ca, clock=clock) as core:
        first = await core.issue(await core.mint())
        token = await core.mint()
        ca.answers = [ca.wrong(lambda draft: replace(draft, serial=first.leaf.serial_number))]

        with pytest.raises(CABadAnswer, match="used before"):
            await core.issue(token)

        assert core.ledger("state, serial") == [("issued", serial(first.leaf)), ("rejected", None)]
        assert not await is_redeemable(core, token)
        assert ca.revoked == []


async def test_a_wrong_certificate_with_somebody_elses_serial_number_is_not_revoked(data_dir: Path) -> None:
    clock = FakeClock(pki.NOW)
    ca = RevokingCA(clock)
    async with open_core(data_dir, ca=ca, clock=clock) as core:
        first = await core.issue(await core.mint())
        ca.answers = [ca.wrong(lambda draft: other_name(replace(draft, serial=first.leaf.serial_number)))]

        with pytest.raises(CABadAnswer):
            await core.issue(await core.mint())

        assert core.ledger("state, serial") == [("issued", serial(first.leaf)), ("rejected", None)]
        assert ca.revoked == []


async def test_a_revocation_that_fails_changes_nothing_for_the_person(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock(pki.NOW)
    ca = RevokingCA(clock)
    ca.revocation_problem = CAUnavailable("gone")
    async with open_core(data_dir, ca=ca, clock=clock) as core:
        ca.answers = [ca.wrong(other_key)]
        with pytest.raises(CABadAnswer):
            await core.issue(await core.mint())
        assert core.ledger() == ["rejected"]
    assert "could not be revoked: gone" in caplog.text


# An answer that comes too late


@pytest.mark.parametrize("kind", [FakeCA, RevokingCA])
async def test_a_late_certificate_is_recorded_as_rejected_and_revoked_where_possible(
    data_dir: Path, kind: type[FakeCA]
) -> None:
    clock = FakeClock(pki.NOW)
    async with open_core(data_dir, ca=kind(clock), clock=clock) as core:
        token = await core.mint()
        core.ca.answers = [core.ca.too_late]
        with pytest.raises(CAUncertain):
            await core.issue(token)
        assert core.ledger("state, serial") == [("uncertain", None)]

        chain = core.ca.certify(core.ca.asked[0])
        assert core.ca.late is not None
        core.ca.late.set_result(chain)
        await settled(core)

        assert core.ledger("state, serial, note") == [("rejected", serial(chain.leaf), "answered too late")]
        assert not await is_redeemable(core, token)
        if isinstance(core.ca, RevokingCA):
            assert core.ca.revoked == [chain.leaf.serial_number]


async def test_a_wrong_certificate_that_comes_late_is_recorded_as_any_other(data_dir: Path) -> None:
    clock = FakeClock(pki.NOW)
    ca = RevokingCA(clock)
    async with open_core(data_dir, ca=ca, clock=clock) as core:
        ca.answers = [ca.too_late]
        with pytest.raises(CAUncertain):
            await core.issue(await core.mint())

        leaf = ca.certify(ca.asked[0], other_key).leaf
        assert ca.late is not None
        ca.late.set_exception(CABadAnswer("another key", leaf.public_bytes(Serialization.DER)))
        await settled(core)

        assert core.ledger("state, serial, note") == [("rejected", serial(leaf), "another key")]
        assert ca.revoked == [leaf.serial_number]


@pytest.mark.parametrize("problem", [CARefused("no"), CAUnavailable("cut off"), OSError("reset")])
async def test_a_late_failure_leaves_the_entry_uncertain(core: Core, problem: Exception) -> None:
    token = await core.mint()
    core.ca.answers = [core.ca.too_late]
    with pytest.raises(CAUncertain):
        await core.issue(token)

    assert core.ca.late is not None
    core.ca.late.set_exception(problem)
    await settled(core)

    assert core.ledger() == ["uncertain"]
    assert not await is_redeemable(core, token)


# Signers


class BrokenSigners(InlineSigners):
    """Fails at one function, once."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function: Callable[..., object] | None = function

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if function is self.function:
            self.function = None
            raise OSError("the signer died")
        return function(*args, **kwargs)


async def test_no_key_no_harm(data_dir: Path) -> None:
    async with open_core(data_dir, signers=BrokenSigners(keys.new_key_and_csr)) as core:
        token = await core.mint()
        with pytest.raises(OSError, match="signer died"):
            await core.issue(token)
        assert (core.ledger(), core.ca.asked) == ([], [])

        await core.issue(token)
        assert core.ledger() == ["issued"]


async def test_a_certificate_without_a_file_is_recorded_as_not_delivered(data_dir: Path) -> None:
    async with open_core(data_dir, signers=BrokenSigners(bundles.to_pkcs12)) as core:
        token = await core.mint()
        with pytest.raises(OSError, match="signer died"):
            await core.issue(token, "ada")

        assert core.ledger("state, delivered") == [("issued", 0)]
        with pytest.raises(GrantUsed):
            await core.issue(token, "ada")
        assert len(core.ca.signed) == 1


async def test_what_must_not_stand_in_a_certificate_is_never_signed(core: Core) -> None:
    token = await core.mint(person("Ada\nLovelace"))
    with pytest.raises(UnfitName):
        await core.issue(token)
    assert (core.ledger(), core.ca.asked) == ([], [])


# Storage


class Fault:
    """Breaks the stores at the nth call: `before` it or `after` it was done, once or from then `on`."""

    def __init__(self, at: int, *, after: bool = False, on: bool = False) -> None:
        self._at, self._after, self._on = at, after, on
        self.calls = 0
        self.healed = False

    def wrap(self, store: Any) -> Any:
        return _Faulty(store, self)

    def before(self) -> bool:
        """Count a call; True when it is to break once it is done."""
        self.calls += 1
        broken = not self.healed and (self.calls >= self._at if self._on else self.calls == self._at)
        if broken and not self._after:
            raise StorageProblem("disk full")
        return broken

    async def around(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        broken = self.before()
        result = await method(*args, **kwargs)
        if broken:
            raise StorageProblem("cut off")
        return result


class _Faulty:
    def __init__(self, store: Any, fault: Fault) -> None:
        self._store, self._fault = store, fault

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *args, **kwargs: self._fault.around(method, *args, **kwargs)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Its end is a call, too."""
        async with self._store.transaction():
            yield
            broken = self._fault.before()
        if broken:
            raise StorageProblem("cut off")


@asynccontextmanager
async def faulty_issuance(path: Path, ca: FakeCA, clock: FakeClock, fault: Fault) -> AsyncIterator[Issuance]:
    """Over stores that break; the grants are minted elsewhere, over good ones."""
    database = await Database.open(path)
    grants = Grants(
        fault.wrap(SqlGrants(database)),
        clock=clock,
        secret=SECRET,
        issuer=ISSUER,
        lifetime=timedelta(minutes=5),
    )
    audit = audit_log(fault.wrap(SqlAudit(database)), clock)
    pause = Pause(fault.wrap(SqlPause(database)), audit=audit, clock=clock)
    yield Issuance(
        grants=grants,
        ledger=Ledger(
            fault.wrap(SqlLedger(database)), audit=audit, pause=pause, clock=clock, hourly_limit=20
        ),
        pause=pause,
        names=Names(fault.wrap(SqlPeople(database)), exists=lambda _door, _account: True),
        ca=ca,
        signers=InlineSigners(),
        profiles=Profiles([DEFAULT_PROFILE]),
        clock=clock,
        organization=None,
        encodings=EncodingPolicy.ASK,
        file_names=FileNames(),
        include_root=False,
    )
    await database.close()


CALLS_BEFORE_SIGNING = 7  # inspect, inspect, claim, pause, name, limit, intent
# and issued, number of the audit log's entry, entry, the ends of both transactions
CALLS_OF_A_GOOD_ISSUANCE = CALLS_BEFORE_SIGNING + 5


async def test_a_good_issuance_asks_the_stores_so_often(core: Core) -> None:
    fault = Fault(at=10**6)
    async with faulty_issuance(core.data_dir / DATABASE, core.ca, core.clock, fault) as issuance:
        await issuance.issue(await core.mint())
    assert fault.calls == CALLS_OF_A_GOOD_ISSUANCE


@pytest.mark.parametrize("on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("after", [False, True], ids=["not done", "done but not told"])
@pytest.mark.parametrize("answer", ["good", "refused", "wrong", "late"])
async def test_whatever_the_storage_does_nobody_gets_an_unrecorded_or_a_second_certificate(
    core: Core, answer: str, after: bool, on: bool
) -> None:
    answers: dict[str, Answer] = {
        "good": core.ca.good,
        "refused": raising(CARefused("no")),
        "wrong": core.ca.wrong(other_key),
        "late": core.ca.too_late,
    }
    for at in range(1, CALLS_OF_A_GOOD_ISSUANCE + 3):
        token = await core.mint()
        grant_hash = (await core.services.grants.inspect(token)).id_hash
        core.ca.signed.clear()
        core.ca.answers = [answers[answer]]
        fault = Fault(at, after=after, on=on)
        files = []
        async with faulty_issuance(core.data_dir / DATABASE, core.ca, core.clock, fault) as issuance:
            for patience in (timedelta(0), timedelta(0), MINUTE):
                core.clock.advance(patience)
                with suppress(Problem):
                    files.append(await issuance.issue(token))
                fault.healed = True

        assert len(files) <= 1
        rows = core.ledger("grant_hash, state, serial, delivered")
        entries = [row[:3] for row in rows if row[0] == grant_hash]
        collected = [row[:3] for row in rows if row[0] == grant_hash and row[3] == 1]
        given = [(grant_hash, "issued", serial(issued.leaf)) for issued in files]
        recorded = [entry for entry in collected if entry[1] == "issued"]
        # Where the end of a transaction is never told, and nothing can be written after it, one stays.
        assert recorded == given or (after and on and not given)
        assert len(core.ca.signed) <= 1
        # Whatever was signed has an entry that does not say the opposite.
        assert len([entry for entry in entries if entry[1] != "failed"]) >= len(core.ca.signed)


async def test_the_words_after_a_storage_fault_are_true(core: Core) -> None:
    """`StorageProblem` promises that nothing was issued; once the authority has signed it is `uncertain`."""
    raised: list[str] = []
    for at in range(1, CALLS_OF_A_GOOD_ISSUANCE + 1):
        async with faulty_issuance(core.data_dir / DATABASE, core.ca, core.clock, Fault(at)) as issuance:
            with pytest.raises(Problem) as problem:
                await issuance.issue(await core.mint(person(f"Ada {at}")))
        raised.append(type(problem.value).__name__)
    assert raised == ["StorageProblem"] * CALLS_BEFORE_SIGNING + ["CAUncertain"] * 5


async def test_a_late_certificate_is_revoked_though_its_doubt_could_not_be_written(core: Core) -> None:
    ca = RevokingCA(core.clock)
    fault = Fault(CALLS_OF_A_GOOD_ISSUANCE)
    async with faulty_issuance(core.data_dir / DATABASE, ca, core.clock, fault) as issuance:
        ca.answers = [ca.too_late]
        with pytest.raises(CAUncertain):
            await issuance.issue(await core.mint())
        assert core.ledger() == ["intent"]

        assert ca.late is not None
        ca.late.set_result(ca.certify(ca.asked[0]))
        await issuance.drain(5)
        assert core.ledger("state, serial") == [("rejected", serial(ca.signed[0]))]
        assert ca.revoked == [ca.signed[0].serial_number]


async def test_a_note_that_cannot_be_written_does_not_cost_the_file(core: Core) -> None:
    fault = Fault(CALLS_OF_A_GOOD_ISSUANCE + 2)  # after another inspection
    async with faulty_issuance(core.data_dir / DATABASE, core.ca, core.clock, fault) as issuance:
        token = await core.mint()
        first = await issuance.issue(token, holder="ada")
        again = await issuance.issue(token, holder="ada", options=FileOptions(older=True))
        assert again.leaf == first.leaf
        assert core.ledger("encoding") == ["modern"]


async def test_after_a_storage_fault_before_the_signature_the_grant_works(core: Core) -> None:
    for at in range(1, CALLS_BEFORE_SIGNING + 1):
        token = await core.mint()
        async with faulty_issuance(core.data_dir / DATABASE, core.ca, core.clock, Fault(at)) as issuance:
            with pytest.raises(StorageProblem):
                await issuance.issue(token)
            await issuance.issue(token)


# A process that died


async def test_a_claim_that_led_nowhere_is_taken_over_after_a_minute(core: Core) -> None:
    token = await core.mint()
    await core.services.grants.redeem(token, "a browser of the process that died")

    core.clock.advance(MINUTE - SECOND)
    with pytest.raises(GrantUsed):
        await core.issue(token, "ada")
    core.clock.advance(SECOND)
    await core.issue(token, "ada")
    assert core.ledger() == ["issued"]


@pytest.mark.parametrize("state", ["intent", "issued", "uncertain", "rejected"])
async def test_a_claim_with_a_ledger_entry_is_never_taken_over(core: Core, state: str) -> None:
    token, gate = await core.mint(), asyncio.Event()
    answers: dict[str, Answer] = {
        "intent": core.ca.held(gate),
        "issued": core.ca.good,
        "uncertain": raising(CAUncertain("?")),
        "rejected": raising(CABadAnswer("!")),
    }
    core.ca.answers = [answers[state]]
    task = asyncio.create_task(core.issue(token))
    if state == "intent":
        await until(lambda: core.ca.asked != [])
    else:
        await asyncio.gather(task, return_exceptions=True)
    assert core.ledger() == [state]

    core.clock.advance(4 * MINUTE)
    with pytest.raises(GrantUsed):
        await core.issue(token)
    assert len(core.ca.asked) == 1
    gate.set()


async def test_a_claim_after_a_refusal_can_be_taken_over_like_any_other(core: Core) -> None:
    token = await core.mint()
    core.ca.answers = [raising(CARefused("no"))]
    with pytest.raises(CARefused):
        await core.issue(token)
    await core.services.grants.redeem(token, "a browser of the process that died")

    core.clock.advance(MINUTE)
    await core.issue(token)
    assert core.ledger() == ["failed", "issued"]


async def test_who_wakes_up_too_late_does_not_give_back_what_another_has_used(core: Core) -> None:
    token = await core.mint()
    sleeper = await core.services.grants.redeem(token)
    core.clock.advance(MINUTE)
    await core.issue(token)

    await core.services.grants.release(sleeper)

    assert not await is_redeemable(core, token)
    with pytest.raises(GrantUsed):
        await core.issue(token)


async def test_who_wakes_up_too_late_is_told_that_the_grant_is_used(data_dir: Path) -> None:
    """Its claim was taken over while its key was made; the ledger refuses a second intent."""
    signers = SlowSigners()
    async with open_core(data_dir, signers=signers) as core:
        token = await core.mint()
        sleeper = asyncio.create_task(core.issue(token))
        await signers.started.wait()
        core.clock.advance(MINUTE)
        issued = await core.issue(token)

        signers.may_go_on.set()
        with pytest.raises(GrantUsed):
            await sleeper
        assert [serial(leaf) for leaf in core.ca.signed] == [serial(issued.leaf)] == core.ledger("serial")
        assert not await is_redeemable(core, token)


class SlowSigners(InlineSigners):
    """The first piece of work waits."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if not self.started.is_set():
            self.started.set()
            await self.may_go_on.wait()
        return function(*args, **kwargs)


async def until(condition: Callable[[], bool]) -> None:
    """Lets everything else run for as long as it takes."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


# The same file again


async def test_the_same_browser_gets_the_same_bytes_three_times_more(core: Core) -> None:
    token = await core.mint()
    first = await core.issue(token, "ada")
    for _ in range(MAX_REPEATS):
        assert (await core.issue(token, "ada")).content == first.content

    with pytest.raises(GrantUsed) as used:
        await core.issue(token, "ada")
    assert used.value.by_holder
    assert len(core.ca.signed) == 1


async def test_a_double_click_makes_one_certificate_and_the_same_bytes(core: Core) -> None:
    token = await core.mint()
    first, second = await asyncio.gather(core.issue(token, "ada"), core.issue(token, "ada"))

    assert first.content == second.content
    assert len(core.ca.signed) == 1


@pytest.mark.parametrize("other", ["eve", "", None])
async def test_nobody_else_gets_the_file_again(core: Core, other: str | None) -> None:
    token = await core.mint()
    await core.issue(token, "ada")

    with pytest.raises(GrantUsed) as used:
        await core.issue(token, other)
    assert not used.value.by_holder


async def test_without_a_browser_there_is_no_second_time(core: Core) -> None:
    token = await core.mint()
    await core.issue(token)
    with pytest.raises(GrantUsed):
        await core.issue(token)


async def test_two_minutes_are_counted_from_the_file(core: Core) -> None:
    token = await core.mint()
    await core.issue(token, "ada")

    core.clock.advance(REPEAT_WINDOW - SECOND)
    await core.issue(token, "ada")
    core.clock.advance(SECOND)
    assert core.services.issuance.last_take("ada") is None
    with pytest.raises(GrantUsed) as used:
        await core.issue(token, "ada")
    assert used.value.by_holder


async def test_what_can_be_had_again_is_told_to_that_browser_only(core: Core) -> None:
    token, later = await core.mint(), await core.mint()
    await core.issue(token, "ada")
    await core.issue(later, "ada")

    take = core.services.issuance.last_take("ada")
    assert take is not None
    assert (take.token, take.encoding, take.not_after) == (
        later,
        Encoding.MODERN,
        core.ca.signed[1].not_valid_after_utc,
    )
    assert core.services.issuance.last_take("eve") is None
    assert core.services.issuance.last_take(None) is None


async def test_a_take_is_known_from_its_start_and_ready_with_its_file(core: Core) -> None:
    gate = asyncio.Event()
    core.ca.answers = [core.ca.held(gate)]
    task = asyncio.create_task(core.issue(await core.mint(), "ada"))
    await until(lambda: core.ca.asked != [])
    take = core.services.issuance.last_take("ada")
    assert take is not None
    assert not take.is_ready

    gate.set()
    await task
    assert take.is_ready


async def test_the_key_leaves_the_memory_after_two_minutes(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await core.mint()
    await core.issue(token, "ada")
    assert takes_in_memory(token) == 1

    loop = asyncio.get_running_loop()
    ahead = loop.time() + REPEAT_WINDOW.total_seconds()
    monkeypatch.setattr(loop, "time", lambda: ahead)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert takes_in_memory(token) == 0


async def test_a_failure_leaves_nothing_in_memory(core: Core) -> None:
    token = await core.mint()
    core.ca.answers = [raising(CARefused("no"))]
    await asyncio.gather(core.issue(token, "ada"), return_exceptions=True)
    await asyncio.sleep(0)  # the loop itself still holds the exception
    assert core.ledger() == ["failed"]
    assert takes_in_memory(token) == 0


def takes_in_memory(token: str) -> int:
    gc.collect()
    return sum(isinstance(thing, Take) and thing.token == token for thing in gc.get_objects())


@pytest.mark.parametrize(("older", "encoding"), [(True, "compatible"), (False, "modern")])
async def test_the_rescue_for_another_device_keeps_certificate_and_key(
    core: Core, older: bool, encoding: str
) -> None:
    token = await core.mint(device=replace(LAPTOP, older=not older))
    first = await core.issue(token, "ada")
    again = await core.issue(token, "ada", older=older)

    assert again.content != first.content
    assert again.leaf == first.leaf
    assert key_in(core, token, again) == key_in(core, token, first)
    bundle, other = opened(core, token, first), opened(core, token, again)
    assert (bundle.cert, bundle.additional_certs) == (other.cert, other.additional_certs)
    assert core.ledger("state, encoding") == [("issued", encoding)]


async def test_what_is_said_at_the_last_moment_counts(core: Core) -> None:
    await core.issue(await core.mint(), older=True)
    assert core.ledger("encoding, key_type") == [("compatible", "rsa2048")]


async def test_the_file_can_be_had_as_pem_too(core: Core) -> None:
    token = await core.mint()
    first = await core.issue(token, "ada")
    pem = await core.issue(token, "ada", form=Format.PEM)

    passphrase = core.services.grants.passphrase(token).encode()
    assert (pem.media_type, pem.file_name) == ("application/x-pem-file", "user_cert.pem")
    assert x509.load_pem_x509_certificates(pem.content) == [first.leaf, *core.ca.trusted.intermediates]
    assert load_pem_private_key(pem.content, passphrase).public_key() == first.leaf.public_key()
    with pytest.raises(TypeError, match="encrypted"):
        load_pem_private_key(pem.content, None)
    assert core.ledger("encoding") == ["modern"]


# A browser that goes away


async def gone_half_way(core: Core, token: str, holder: str | None = "ada") -> None:
    """The handler is cancelled while the authority thinks; then it answers."""
    gate = asyncio.Event()
    core.ca.answers = [core.ca.held(gate)]
    handler = asyncio.create_task(core.issue(token, holder))
    await until(lambda: core.ca.asked != [])
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    gate.set()
    await settled(core)


async def test_a_browser_that_goes_away_stops_nothing(core: Core) -> None:
    token = await core.mint()
    await gone_half_way(core, token)

    assert core.ledger("state, delivered") == [("issued", 0)]
    assert serial((await core.issue(token, "ada")).leaf) == serial(core.ca.signed[0])
    assert len(core.ca.signed) == 1


async def test_a_file_that_is_fetched_after_all_counts_as_delivered(core: Core) -> None:
    token = await core.mint()
    await gone_half_way(core, token)

    await core.issue(token, "ada")
    assert core.ledger("delivered") == [1]


async def test_of_two_clicks_one_may_go_away(core: Core) -> None:
    gate = asyncio.Event()
    core.ca.answers = [core.ca.held(gate)]
    token = await core.mint()
    first = asyncio.create_task(core.issue(token, "ada"))
    await until(lambda: core.ca.asked != [])
    second = asyncio.create_task(core.issue(token, "ada"))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    await second
    await settled(core)

    assert len(core.ca.signed) == 1
    assert core.ledger("state, delivered") == [("issued", 1)]


async def test_the_lost_file_is_not_for_somebody_else(core: Core) -> None:
    token = await core.mint()
    await gone_half_way(core, token)
    for other in ("eve", None):
        with pytest.raises(GrantUsed):
            await core.issue(token, other)


async def test_a_failure_that_nobody_waits_for_is_logged(
    core: Core, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()
    core.ca.answers = [core.ca.held(gate, then=raising(CARefused("no such template")))]
    token = await core.mint()
    handler = asyncio.create_task(core.issue(token, "ada"))
    await until(lambda: core.ca.asked != [])
    handler.cancel()
    gate.set()
    await settled(core)

    assert "an issuance failed after its browser had gone" in caplog.text
    assert core.ledger() == ["failed"]
    assert await is_redeemable(core, token)


async def test_the_end_of_the_service_waits_for_what_is_under_way(data_dir: Path) -> None:
    gate = asyncio.Event()
    async with open_core(data_dir) as core:
        core.ca.answers = [core.ca.held(gate)]
        handler = asyncio.create_task(core.issue(await core.mint(), "ada"))
        await until(lambda: core.ca.asked != [])
        asyncio.get_running_loop().call_soon(gate.set)
    await handler
    assert core.ledger() == ["issued"]


# Too much


async def test_beyond_its_bound_the_service_is_busy_and_the_grant_stays(core: Core) -> None:
    gate = asyncio.Event()
    core.ca.answers = [core.ca.held(gate)] * MAX_RUNNING
    running = [
        asyncio.create_task(core.issue(await core.mint(person(f"Person {n}")))) for n in range(MAX_RUNNING)
    ]
    await until(lambda: len(core.ca.asked) == MAX_RUNNING)

    token = await core.mint()
    with pytest.raises(Busy):
        await core.issue(token, "ada")
    assert await is_redeemable(core, token)

    gate.set()
    await asyncio.gather(*running)
    await core.issue(token, "ada")
    assert core.ledger() == ["issued"] * (MAX_RUNNING + 1)


async def test_a_busy_service_still_gives_a_finished_file_again(core: Core) -> None:
    token = await core.mint()
    first = await core.issue(token, "ada")
    gate = asyncio.Event()
    core.ca.answers = [core.ca.held(gate)] * MAX_RUNNING
    running = [
        asyncio.create_task(core.issue(await core.mint(person(f"Person {n}")))) for n in range(MAX_RUNNING)
    ]
    await until(lambda: len(core.ca.asked) == MAX_RUNNING + 1)

    assert (await core.issue(token, "ada")).content == first.content
    gate.set()
    await asyncio.gather(*running)


async def test_the_hourly_limit_says_when_it_ends_and_ends_then(data_dir: Path) -> None:
    async with open_core(data_dir, limits=Limits(certificates_per_hour=3)) as core:
        ada, bert = person(), person("Bert Becker")
        for _ in range(3):
            await core.issue(await core.mint(ada))
            core.clock.advance(10 * MINUTE)
        token = await core.mint(ada)

        with pytest.raises(TooManyCertificates) as refused:
            await core.issue(token)
        assert refused.value.until == pki.NOW + timedelta(hours=1)
        with pytest.raises(TooManyCertificates):
            await core.services.issuance.admit(ada, "client")
        assert await is_redeemable(core, token)
        await core.issue(await core.mint(bert))

        core.clock.set(refused.value.until - SECOND)
        token = await core.mint(ada)
        with pytest.raises(TooManyCertificates):
            await core.issue(token)
        core.clock.advance(SECOND)
        await core.issue(token)


async def test_at_once_nobody_gets_more_than_the_hourly_limit(data_dir: Path) -> None:
    async with open_core(data_dir, limits=Limits(certificates_per_hour=3)) as core:
        ada = person()
        tokens = [await core.mint(ada) for _ in range(10)]
        results = await asyncio.gather(*map(core.issue, tokens), return_exceptions=True)

        assert Counter(map(type, results)) == {Issued: 3, TooManyCertificates: 7}
        assert {r.until for r in results if isinstance(r, TooManyCertificates)} == {
            pki.NOW + timedelta(hours=1)
        }
        assert len(core.ca.signed) == 3
        redeemable = [await is_redeemable(core, token) for token in tokens]
        assert redeemable == [isinstance(result, TooManyCertificates) for result in results]


async def test_only_failures_that_left_nothing_are_free(data_dir: Path) -> None:
    async with open_core(data_dir, limits=Limits(certificates_per_hour=3)) as core:
        ada = person()
        core.ca.answers = [raising(CARefused("no"))] * 5
        for _ in range(5):
            with pytest.raises(CARefused):
                await core.issue(await core.mint(ada))
        core.ca.answers = [raising(CAUncertain("?")), raising(CABadAnswer("!")), core.ca.good]
        for _ in range(3):
            await asyncio.gather(core.issue(await core.mint(ada)), return_exceptions=True)
        with pytest.raises(TooManyCertificates):
            await core.issue(await core.mint(ada))


# What changed since the grant was made


async def test_a_profile_that_was_taken_away_is_issued_no_more(data_dir: Path) -> None:
    ada = person(groups=("vpn-users",))
    async with open_core(data_dir, profiles=(DEFAULT_PROFILE, VPN)) as core:
        token = await core.mint(ada, profile="vpn")
    async with open_core(data_dir) as core:
        with pytest.raises(NotEntitled):
            await core.issue(token)
        assert (core.ledger(), core.ca.asked) == ([], [])
        assert await is_redeemable(core, token)


async def test_a_profile_whose_group_the_person_is_not_in_is_not_issued(data_dir: Path) -> None:
    async with open_core(data_dir, profiles=(DEFAULT_PROFILE, VPN)) as core:
        token = await core.mint(person(groups=("vpn-users",)), profile="vpn")
    narrowed: tuple[Profile, ...] = (replace(VPN, groups=("network-team",)),)
    async with open_core(data_dir, profiles=narrowed) as core:
        with pytest.raises(NotEntitled, match="VPN"):
            await core.issue(token)
        assert (core.ledger(), core.ca.asked) == ([], [])


async def test_keys_are_of_the_profiles_kind_at_the_time_of_issuing(data_dir: Path) -> None:
    async with open_core(data_dir) as core:
        token = await core.mint()
    changed = replace(DEFAULT_PROFILE, key_types=(KeyType.P384,))
    async with open_core(data_dir, profiles=(changed,)) as core:
        await core.issue(token)
        assert core.ledger("key_type") == ["p384"]


async def test_the_database_itself_refuses_a_second_certificate_of_one_grant(core: Core) -> None:
    token = await core.mint()
    await core.issue(token)
    before = core.dump()
    database = await Database.open(core.data_dir / DATABASE)
    columns = (
        "grant_hash, subject, door, account, name, email, profile, platform, device, encoding, key_type,"
        " validity, csr_sha256, request_id, created_at"
    )
    with pytest.raises(Duplicate):
        await database.rows(
            f"INSERT INTO certificates (id, state, {columns})"
            f" SELECT 99, 'intent', {columns} FROM certificates"
        )
    await database.close()
    assert core.dump() == before


async def test_an_address_outside_ascii_stands_in_no_certificate(core: Core) -> None:
    """An rfc822Name cannot hold it; mail goes there all the same."""
    zoe = person("Zoë", email="zoë@example.org")

    leaf = (await core.issue(await core.mint(zoe))).leaf

    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"urn:uuid:{zoe.subject}"]
