"""Redeem a grant: key, CSR, CA signature, file. The one way to a certificate.

1. the grant is spent              (grants.redeem: once, over all processes)
2. key and CSR                     (in a signer process)
3. ledger: intent
4. the authority signs             (ca.sign)
5. what came back is checked       (lint)
6. ledger: issued
7. the file                        (in a signer process)
8. ledger: it got to its person, and what it replaces

A failure that surely left nothing signed gives the grant back; after any other it stays spent. Each
issuance is a task of its own, so a browser that goes away cannot stop it half-way, and its file stays in
memory for two minutes for the browser that started it (a double click, a lost download).
"""

import asyncio
import hashlib
import hmac
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding as Serialization

from certbob import bundles, keys, lint
from certbob.bundles import FileNames, Format
from certbob.devices import Encoding, EncodingPolicy
from certbob.errors import (
    Busy,
    CABadAnswer,
    CAProblem,
    CAUncertain,
    Duplicate,
    GrantUsed,
    StorageProblem,
)
from certbob.grants import Grants
from certbob.identity import Door, Identity
from certbob.ledger import Ledger
from certbob.names import Names
from certbob.pause import Pause
from certbob.ports import (
    NOWHERE,
    SUPERSEDED,
    Actor,
    CertificateAuthority,
    Chain,
    Clock,
    Delivery,
    Grant,
    Intent,
    Issued,
    Origin,
    Replacement,
    Revoker,
    Signers,
    SigningRequest,
    Trust,
)
from certbob.profiles import Profile, Profiles
from certbob.tasks import Tasks

log = logging.getLogger(__name__)

REPEAT_WINDOW = timedelta(minutes=2)
MAX_REPEATS = 3
MAX_KEPT = 2000  # about 10 MB of files
MAX_RUNNING = 200


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What the person says about the file at the last moment. `older` None: as the grant says."""

    older: bool | None = None
    form: Format = Format.PFX


@dataclass(frozen=True, slots=True)
class _Made:
    """What one issuance left in memory: the certificate's file, always PKCS #12, and its ledger entry."""

    pfx: bytes = field(repr=False)
    encoding: Encoding
    entry: int
    leaf: x509.Certificate


@dataclass(slots=True)
class Take:
    """A grant that one browser (`holder`) redeems or has just redeemed."""

    grant: Grant
    token: str = field(repr=False)
    holder: str = field(repr=False)
    task: asyncio.Task[_Made]
    until: datetime | None = None  # set when the file is there
    downloads: int = 0

    @property
    def is_ready(self) -> bool:
        return self.until is not None

    @property
    def encoding(self) -> Encoding:
        return self.task.result().encoding

    @property
    def not_after(self) -> datetime:
        return self.task.result().leaf.not_valid_after_utc


class Issuance:
    def __init__(
        self,
        *,
        grants: Grants,
        ledger: Ledger,
        names: Names,
        pause: Pause,
        ca: CertificateAuthority,
        signers: Signers,
        profiles: Profiles,
        clock: Clock,
        organization: str | None,
        encodings: EncodingPolicy,
        file_names: FileNames,
        include_root: bool,
    ) -> None:
        self._grants = grants
        self._ledger = ledger
        self._names = names
        self._pause = pause
        self._ca = ca
        self._signers = signers
        self._profiles = profiles
        self._clock = clock
        self._organization = organization
        self._encodings = encodings
        self._file_names = file_names
        self._include_root = include_root
        self._takes: dict[str, Take] = {}
        self._tasks = Tasks()
        self._uncollected: set[int] = set()  # entries whose browser went away, while their file is kept

    async def admit(
        self, identity: Identity, profile_id: str, replaces: Replacement | None = None
    ) -> Profile:
        """The profile this person may have a certificate of now.

        Raises IssuingPaused, NotEntitled, UnfitName, NameTaken, TooManyCertificates, TooManyActive.
        """
        await self._pause.check()
        profile = self._profiles.entitled(profile_id, identity)
        # At the terminal the administrator says whose certificate it is.
        if identity.door is not Door.TERMINAL:
            await self._names.claim(identity)
        await self._ledger.check_limit(identity)
        await self._ledger.check_quota(identity, self._ledger.quota(profile, replaces))
        return profile

    async def issue(
        self,
        untrusted_token: str,
        *,
        holder: str | None = None,
        options: FileOptions = FileOptions(),
        origin: Origin = NOWHERE,
        operator: str | None = None,
        hand_over: bool = True,
    ) -> Issued:
        """Redeem the grant and return the file; within two minutes the same `holder` gets it again.

        `operator`: who asks for it in the person's name. `hand_over`: the file goes to its person at once;
        otherwise the caller tells the ledger what becomes of it.

        Raises what `admit` does, the GrantProblems, Busy, StorageProblem and CAProblems.
        """
        grant = await self._grants.inspect(untrusted_token)
        take = self.take_of(grant, holder)
        if take is None:
            if len(self._tasks) >= MAX_RUNNING:
                raise Busy
            actor = _actor(grant.identity, operator, origin)
            task = self._tasks.start(self._redeem(untrusted_token, holder, options, actor))
            if holder is not None and grant.id_hash not in self._takes:
                take = self._keep(Take(grant, untrusted_token, holder, task))
        else:
            task = take.task
            if take.downloads > MAX_REPEATS:
                raise GrantUsed(grant.claimed_at or self._clock.now(), by_holder=True)
        if take is not None:
            take.downloads += 1
        return await self._collect(grant, untrusted_token, task, options, hand_over=hand_over)

    def is_collected(self, grant: Grant, holder: str | None) -> bool:
        """Whether the file has got to this browser or to the person's mailbox."""
        take = self.take_of(grant, holder)
        return take is not None and take.is_ready and take.task.result().entry not in self._uncollected

    def expect_collection(self, grant: Grant, holder: str | None) -> None:
        """The file did not get to the person; a browser that fetches it later has it after all."""
        take = self.take_of(grant, holder)
        if take is not None and take.is_ready:
            self._uncollected.add(take.task.result().entry)

    def last_take(self, holder: str | None) -> Take | None:
        """The last grant this browser redeems or has redeemed, while its file can be had again."""
        takes = (self.take_of(take.grant, holder) for take in reversed(self._takes.values()))
        return next(filter(None, takes), None)

    async def drain(self, seconds: float) -> None:
        """Let running issuances end, for so long at most; called at shutdown."""
        await self._tasks.drain(seconds)

    def file_name(self, grant: Grant, form: Format = Format.PFX) -> str:
        return self._file_names.name(
            user=grant.identity.name, device=grant.device.name, platform=grant.device.platform, form=form
        )

    def encoding_for(self, grant: Grant, older: bool | None = None) -> Encoding:
        return self._encodings.encoding(older=grant.device.older if older is None else older)

    def take_of(self, grant: Grant, holder: str | None) -> Take | None:
        """This browser's take of this grant, while its file is made or can be had again."""
        take = self._takes.get(grant.id_hash)
        if take is None or holder is None:
            return None
        if not hmac.compare_digest(take.holder.encode(), holder.encode()):
            return None
        return take if take.until is None or self._clock.now() < take.until else None

    def _keep(self, take: Take) -> Take:
        while len(self._takes) >= MAX_KEPT:
            self._takes.pop(next(iter(self._takes)))
        self._takes[take.grant.id_hash] = take
        take.task.add_done_callback(lambda task: self._settle(take, task))
        return take

    def _settle(self, take: Take, task: asyncio.Task[_Made]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._drop(take)
            return
        take.until = self._clock.now() + REPEAT_WINDOW
        asyncio.get_running_loop().call_later(REPEAT_WINDOW.total_seconds(), self._drop, take)

    def _drop(self, take: Take) -> None:
        if self._takes.get(take.grant.id_hash) is take:
            del self._takes[take.grant.id_hash]
        if take.is_ready:
            self._uncollected.discard(take.task.result().entry)

    async def _collect(
        self,
        grant: Grant,
        untrusted_token: str,
        task: asyncio.Task[_Made],
        options: FileOptions,
        *,
        hand_over: bool,
    ) -> Issued:
        try:
            made = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._note_uncollected)
            raise
        encoding = made.encoding if options.older is None else self.encoding_for(grant, options.older)
        content = made.pfx
        if encoding is not made.encoding or options.form is not Format.PFX:
            content = await self._signers.run(
                bundles.reencode,
                made.pfx,
                passphrase=self._grants.passphrase(untrusted_token),
                encoding=encoding,
                form=options.form,
            )
        if encoding is not made.encoding:
            with suppress(StorageProblem):
                await self._ledger.encoded_as(made.entry, encoding)
        if hand_over and (made.entry in self._uncollected or _is_open(grant)):
            self._uncollected.discard(made.entry)
            try:
                await self._ledger.delivered(made.entry, True)
            except StorageProblem as problem:
                # The file is there; that what it replaces works on is the lesser evil.
                log.error("entry %d got to its person, unnoted: %s", made.entry, problem.detail)
        return Issued(
            content=content,
            media_type=options.form.media_type,
            file_name=self.file_name(grant, options.form),
            leaf=made.leaf,
            entry=made.entry,
        )

    def _note_uncollected(self, task: asyncio.Task[_Made]) -> None:
        if task.cancelled():
            return
        if error := task.exception():
            log.warning("an issuance failed after its browser had gone: %r", error)
            return
        self._uncollected.add(task.result().entry)
        self._tasks.start(self._note_if_uncollected(task.result().entry))

    async def _note_if_uncollected(self, entry: int) -> None:
        """Of two clicks the first may go away while the second one gets the file."""
        if entry in self._uncollected:
            await self._ledger.delivered(entry, False)

    async def _redeem(
        self, untrusted_token: str, holder: str | None, options: FileOptions, actor: Actor
    ) -> _Made:
        grant = await self._grants.redeem(untrusted_token, holder)
        encoding = self.encoding_for(grant, options.older)
        try:
            profile = await self.admit(grant.identity, grant.profile_id, grant.replaces)
            key_type = profile.key_type_for(encoding)
            trust = await self._ca.trust()
            new = await self._signers.run(keys.new_key_and_csr, key_type, grant.identity.name)
            request = self._signing_request(grant, profile, new, actor.origin)
            if findings := lint.check_request(request):
                raise ValueError("; ".join(findings))
            entry = await self._ledger.intend(
                Intent(
                    grant_hash=grant.id_hash,
                    identity=grant.identity,
                    profile_id=profile.id,
                    device=grant.device,
                    key_type=key_type,
                    encoding=encoding,
                    validity=request.validity,
                    csr_sha256=hashlib.sha256(new.csr).hexdigest(),
                    actor=actor,
                    quota=self._ledger.quota(profile, grant.replaces),
                    delivered=None if _is_open(grant) else True,
                    replaces=grant.replaces,
                )
            )
        except Duplicate as error:
            # Somebody took this claim over because it lasted so long, and has the certificate.
            raise GrantUsed(self._clock.now()) from error
        except Exception:
            await self._grants.release(grant)
            raise
        chain = await self._sign(grant, entry, request, trust)
        try:
            made = await self._bundle(grant, untrusted_token, entry, chain, trust, new.private_key, encoding)
        except Exception:
            await self._ledger.delivered(entry, False)
            raise
        return made

    def _signing_request(
        self, grant: Grant, profile: Profile, new: keys.NewKey, origin: Origin
    ) -> SigningRequest:
        email = grant.identity.email
        return SigningRequest(
            csr=new.csr,
            public_key=new.public_key,
            common_name=grant.identity.name,
            organization=self._organization,
            email=email if email and email.isascii() else None,
            subject=grant.identity.subject,
            usages=profile.usages,
            validity=grant.validity,
            request_id=origin.reference,
        )

    async def _sign(self, grant: Grant, entry: int, request: SigningRequest, trust: Trust) -> Chain:
        """From the authority into the ledger; every way out of here closes the entry."""
        try:
            chain = await self._ca.sign(request)
            await self._accept(entry, chain, request, trust)
        except CABadAnswer as error:
            await self._reject(entry, error.detail, error.certificate)
            raise
        except CAProblem as error:
            if error.surely_unsigned:
                await self._ledger.failed(entry, error.detail)
                await self._grants.release(grant)
            else:
                with suppress(StorageProblem):
                    await self._ledger.uncertain(entry, error.detail)
            if isinstance(error, CAUncertain) and error.late is not None:
                self._tasks.start(self._reject_late(entry, error.late))
            raise
        except Exception as error:
            # Also when the ledger cannot be written: then the entry stays an intent, which says the same.
            with suppress(StorageProblem):
                if not await self._ledger.uncertain(entry, type(error).__name__):
                    await self._ledger.delivered(entry, False)  # written, and only not told
            raise CAUncertain(repr(error)) from error
        return chain

    async def _accept(self, entry: int, chain: Chain, request: SigningRequest, trust: Trust) -> None:
        now = self._clock.now()
        findings = lint.check_leaf(chain.leaf, request, self._ca.rules, now=now)
        findings += lint.check_chain(chain, trust, now=now)
        if findings:
            raise CABadAnswer("; ".join(findings), chain.leaf.public_bytes(Serialization.DER))
        try:
            in_time = await self._ledger.issued(entry, chain.leaf, lint.notes(chain.leaf))
        except Duplicate as error:
            raise CABadAnswer("the serial number was used before") from error
        if not in_time:
            raise CABadAnswer(
                "signed so late that it was given up", chain.leaf.public_bytes(Serialization.DER)
            )

    async def _reject(self, entry: int, reason: str, der: bytes | None) -> None:
        log.critical("the authority answered wrongly, entry %d: %s", entry, reason)
        certificate = None
        if der is not None:
            try:
                certificate = x509.load_der_x509_certificate(der)
            except ValueError:
                reason += " (and the certificate cannot be read)"
        try:
            await self._ledger.rejected(entry, reason, certificate)
        except Duplicate:
            # Not to be revoked either: the number belongs to somebody's good certificate.
            with suppress(Duplicate):  # by another entry of the same grant, when this one was given up
                await self._ledger.rejected(entry, f"{reason}; its serial number was used before", None)
            return
        if certificate is not None and isinstance(self._ca, Revoker):
            try:
                await self._ca.revoke(certificate.serial_number, SUPERSEDED)
            except CAProblem as error:
                log.critical("entry %d could not be revoked: %s", entry, error.detail)

    async def _reject_late(self, entry: int, late: asyncio.Future[Chain]) -> None:
        try:
            chain = await late
        except CABadAnswer as error:
            await self._reject(entry, error.detail, error.certificate)
            return
        except Exception as error:  # noqa: BLE001 whatever it is, nobody waits for it
            log.warning("entry %d stays uncertain: %r", entry, error)
            return
        await self._reject(entry, "answered too late", chain.leaf.public_bytes(Serialization.DER))

    async def _bundle(
        self,
        grant: Grant,
        untrusted_token: str,
        entry: int,
        chain: Chain,
        trust: Trust,
        private_key: bytes,
        encoding: Encoding,
    ) -> _Made:
        authorities = list(chain.intermediates)
        if self._include_root:
            authorities.append(trust.root)
        pfx = await self._signers.run(
            bundles.to_pkcs12,
            private_key,
            chain.leaf.public_bytes(Serialization.DER),
            tuple(certificate.public_bytes(Serialization.DER) for certificate in authorities),
            name=bundles.friendly_name(
                grant.identity.name, grant.device.name, self._organization, chain.leaf.not_valid_after_utc
            ),
            passphrase=self._grants.passphrase(untrusted_token),
            encoding=encoding,
        )
        return _Made(pfx, encoding, entry, chain.leaf)


def _actor(person: Identity, operator: str | None, origin: Origin) -> Actor:
    if operator is None:
        return Actor.of(person, origin)
    return Actor(person.door, operator, operator, origin)


def _is_open(grant: Grant) -> bool:
    """Whether somebody has to say that the file got to its person, before anything follows from it."""
    return grant.replaces is not None or grant.delivery is Delivery.MAIL
