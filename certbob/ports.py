"""What the core needs from the outside world, on one page. Adapters implement these; tests may swap them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.message import EmailMessage
from enum import StrEnum
from typing import ParamSpec, Protocol, Self, TypeVar, runtime_checkable

from cryptography import x509

from certbob.devices import Device, Encoding, Platform
from certbob.identity import Door, Identity
from certbob.profiles import KeyType, Usage
from certbob.words import day, duration

SUPERSEDED = 4  # RFC 5280 5.3.1
EXPIRES_SOON = timedelta(days=14)
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from: the client's address, and what names the request in the log."""

    address: str = "-"
    reference: str = "-"


NOWHERE = Origin()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and through which door.

    `account`: the door's own id of it, which for single sign-on nobody can read; `name`: as people know it.
    """

    door: str
    account: str
    name: str
    origin: Origin = NOWHERE

    @classmethod
    def of(cls, identity: Identity, origin: Origin) -> Self:
        return cls(identity.door, identity.account, identity.name, origin)


THE_SERVICE = Actor("service", "-", "The service itself")  # what happens by itself


class Clock(Protocol):
    def now(self) -> datetime: ...  # aware, UTC


class Signers(Protocol):
    """Where CPU-heavy work goes, away from the event loop."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)` in another process; arguments and result are pickled."""
        ...


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """All that a certificate will say. The CSR carries the key and the common name and nothing else.

    `organization` and the SAN are decided by settings and identity, never by a form. `email` None: the SAN
    is the URI `urn:uuid:<subject>`.
    """

    csr: bytes  # DER, PKCS #10
    public_key: bytes  # DER, SubjectPublicKeyInfo
    common_name: str
    organization: str | None
    email: str | None
    subject: str
    usages: tuple[Usage, ...]
    validity: timedelta
    request_id: str


@dataclass(frozen=True, slots=True)
class Chain:
    """Leaf first as its own field, then every intermediate in order. Never the root."""

    leaf: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """The trust material that services need to accept our certificates."""

    root: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class LeafRules:
    """How strictly `lint` holds a returned leaf against what was asked.

    `exact`: the whole profile bit by bit, `crl_url` included, for a CA that is ours. Otherwise only what
    protects people: another authority has a template of its own. `server_auth`: serverAuth beside clientAuth
    is let pass and noted. `organizations`: values for O that the authority may add.
    """

    exact: bool
    crl_url: str | None = None
    server_auth: bool = False
    organizations: frozenset[str] = field(default_factory=frozenset)


class CertificateAuthority(Protocol):
    rules: LeafRules

    async def sign(self, request: SigningRequest) -> Chain:
        """Sign exactly what the request says.

        Raises CARefused, CAUnavailable (surely nothing was signed), CAUncertain (nobody knows), CABadAnswer.
        """
        ...

    async def trust(self) -> Trust:
        """Raises CAUnavailable until the authority was reached once."""
        ...

    async def longest_validity(self) -> timedelta | None:
        """The longest validity the authority signs now; None when not known. Never raises."""
        ...

    async def health(self) -> str | None:
        """None when it can sign, else the reason in words for the operator. Never raises."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Revoker(Protocol):
    """An authority that can take a certificate back."""

    async def revoke(self, serial: int, reason_code: int) -> None:
        """Raises CAProblem. Safe to repeat."""
        ...


@dataclass(frozen=True, slots=True)
class Revoked:
    """An entry of a CRL. `reason_code`: RFC 5280 5.3.1."""

    serial: int
    revoked_at: datetime
    reason_code: int


@dataclass(frozen=True, slots=True)
class Crl:
    """A list of revoked certificates, DER, and what it says of itself."""

    der: bytes = field(repr=False)
    number: int
    this_update: datetime
    next_update: datetime


@runtime_checkable
class CrlSigner(Protocol):
    """An authority whose lists of revoked certificates are ours to make."""

    async def sign_crl(
        self, revoked: Sequence[Revoked], *, number: int, this_update: datetime, next_update: datetime
    ) -> bytes: ...

    async def sign_root_crl(
        self, *, number: int, this_update: datetime, next_update: datetime
    ) -> bytes | None:
        """Empty, about the intermediates; None where the root's key is not here."""
        ...


@dataclass(frozen=True, slots=True)
class PublishedCrl:
    """A list that an authority makes itself, believed: its own signature, from its own intermediate.

    `address`: where services read it. `named`: where new certificates say that it is; None: not known.
    """

    number: int
    this_update: datetime
    next_update: datetime
    address: str
    named: str | None = None


@runtime_checkable
class CrlSource(Protocol):
    """An authority that makes its own list of revoked certificates. `crl_address`: where, if it makes one."""

    crl_address: str

    async def fetch_crl(self) -> PublishedCrl | None:
        """Perhaps one that is over; None: it makes none.

        Raises CAUnavailable, CABadAnswer for what nobody should believe.
        """
        ...


class Delivery(StrEnum):
    """How a file travels. LINK: a link to it is mailed, which only its owner can redeem, signed in."""

    DOWNLOAD = "download"
    MAIL = "mail"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Replacement:
    """The new certificate takes the place of one that the person has; `overlap`: both work for so long.

    `entry`: the old one's number in the ledger.
    """

    entry: int
    overlap: timedelta


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission for one person to get one certificate. `id_hash`: SHA-256 of the token's `jti`, hex.

    The token itself is nowhere: the row and the server's secret together do not give it back.
    """

    id_hash: str
    identity: Identity
    profile_id: str
    validity: timedelta
    device: Device
    delivery: Delivery
    created_at: datetime
    expires_at: datetime
    claimed_at: datetime | None = None
    holder_hash: str | None = None
    replaces: Replacement | None = None
    is_replaced: bool = False  # by a newer link in the same chat

    @property
    def tells_passphrase(self) -> bool:
        """Whether its page does; a link in a chat comes with the passphrase beside it."""
        return self.identity.door is not Door.MATTERMOST or self.delivery is Delivery.LINK


@dataclass(frozen=True, slots=True)
class Issued:
    """The file, ready to be handed out; `entry` is its number in the ledger."""

    content: bytes = field(repr=False)
    media_type: str
    file_name: str
    leaf: x509.Certificate
    entry: int


class Letters(Protocol):
    """What is written to people. No letter holds a passphrase."""

    def with_file(self, grant: Grant, issued: Issued) -> EmailMessage: ...

    def with_link(self, grant: Grant, link: str) -> EmailMessage: ...

    def reminder(self, reminder: "Reminder") -> EmailMessage:
        """With a Message-ID that the same reminder has always."""
        ...


class Envelope(Protocol):
    """A mail server that has accepted the one recipient and waits for the message."""

    async def send(self, message: EmailMessage) -> None:
        """Raises MailRefused (surely not sent), MailUncertain."""
        ...


class Mailer(Protocol):
    def envelope(self, recipient: str) -> AbstractAsyncContextManager[Envelope]:
        """Raises MailUnavailable, MailRefused when it is entered."""
        ...

    async def reach(self) -> None:
        """Connection, TLS and password only. Raises MailUnavailable."""
        ...


class GrantStore(Protocol):
    """Every method raises StorageProblem when the database cannot do it."""

    async def add_grant(self, grant: Grant) -> None: ...

    async def set_latest_link(self, subject: str, id_hash: str) -> None:
        """Of the links that somebody got in a chat only this one can be redeemed from now on."""
        ...

    async def find_grant(self, id_hash: str) -> Grant | None: ...

    async def claim_grant(self, id_hash: str, holder_hash: str | None, *, now: datetime) -> bool:
        """In one statement, so that over all processes exactly one caller gets True.

        A claim that led to no ledger entry within a minute (its process died) can be taken over; here and
        below an entry that is `failed` is none.
        """
        ...

    async def end_grants(self, subject: str) -> None:
        """What was granted to somebody and not redeemed cannot be any more."""
        ...

    async def release_grant(self, id_hash: str) -> None:
        """Changes nothing once there is a ledger entry: of two that claimed it the slower one gives up."""
        ...


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` certificates of a profile, without those that end within `window` or the last third.

    `replaced`: an entry that does not count either.
    """

    profile_id: str
    label: str
    limit: int
    now: datetime
    window: timedelta
    replaced: int | None


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be signed, written before the authority is asked."""

    grant_hash: str
    identity: Identity
    profile_id: str
    device: Device
    key_type: KeyType
    encoding: Encoding
    validity: timedelta
    csr_sha256: str
    actor: Actor
    quota: Quota | None = None
    delivered: bool | None = True  # as long as nobody says otherwise
    replaces: Replacement | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that was issued, as the ledger has it. `entry`: its number there. Times are aware, UTC.

    `delivered` None: nobody knows whether it got to the person.
    """

    entry: int
    serial: int
    subject: str
    name: str
    profile_id: str
    platform: Platform
    device: str
    door: Door
    delivered: bool | None
    fingerprint: str  # SHA-256, hex
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None
    revocation_reason: int | None = None  # RFC 5280 5.3.1
    revoke_at: datetime | None = None  # when a newer one took its place
    address: str = "-"  # from where it was asked for

    def is_active(self, now: datetime) -> bool:
        return self.revoked_at is None and now < self.not_after

    def status(self, now: datetime) -> str:
        """In a word or two for its owner."""
        if self.revoked_at is not None:
            return "Replaced" if self.revocation_reason == SUPERSEDED else "Revoked"
        if now >= self.not_after:
            return "Expired"
        if self.delivered is False:
            return "Not collected"
        if self.revoke_at is not None and now < self.revoke_at:
            return f"Replaced, works until {day(self.revoke_at)}"
        left = self.not_after - now
        if left < EXPIRES_SOON:
            if left < _HOUR:
                return "Expires within the hour"
            unit = _DAY if left >= _DAY else _HOUR
            return f"Expires in {duration(left // unit * unit)}"
        return "Active"


@dataclass(frozen=True, slots=True)
class Entry:
    """A signing in the ledger, whatever became of it: who asked for what. `name`: whose it is."""

    number: int
    subject: str
    name: str
    actor: Actor
    profile_id: str
    device: str
    created_at: datetime
    validity: timedelta
    csr_sha256: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Numbers:
    """What an administrator sees first. `issued`: of the last 30 days, by door."""

    active: int
    expiring: int
    issued: Mapping[str, int]


class Transactions(Protocol):
    def transaction(self) -> AbstractAsyncContextManager[None]:
        """What the task writes inside, through whichever store, happens as a whole or not at all."""
        ...


class Way(StrEnum):
    """How reminders get to people. CHAT: a direct message."""

    MAIL = "mail"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Step:
    """Reminders `days` days before the end of a certificate, or later, but not `until` days before it."""

    days: int
    until: int


@dataclass(frozen=True, slots=True)
class Reminder:
    """To the person of a certificate that ends soon. `recipient`: an address, or the id of a chat account.

    `door` and `account` are how that person comes in: on the web, or by the chat alone.
    """

    certificate: Certificate
    step: Step
    way: Way
    recipient: str
    door: Door
    account: str


class Result(StrEnum):
    """What became of a reminder. AWAY: surely not sent, nor would another one be now."""

    SENT = "sent"
    AWAY = "away"
    REFUSED = "refused"  # surely not sent
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`detail`: for the operator."""

    result: Result
    detail: str = ""


class Messenger(Protocol):
    """One way to people."""

    way: Way

    async def reaches(self, identity: Identity) -> bool:
        """Whether this person can be written to. Raises StorageProblem."""
        ...

    async def send(self, reminder: Reminder, begin: Callable[[], Awaitable[None]]) -> Outcome:
        """`begin` is awaited right before the first moment from which the reminder may arrive.

        What it raises comes through, and then nothing is sent.
        """
        ...


class ReminderStore(Protocol):
    """Every method raises StorageProblem when the database cannot do it.

    Whoever has claimed a reminder may send it. Right before it goes out that is written down, and from then
    on it is over for a day, whatever becomes of it.
    """

    async def due_reminders(self, way: Way, step: Step, *, left: int, now: datetime) -> list[Reminder]:
        """Of certificates that have `left` days left, the last of which has begun: not all at once."""
        ...

    async def claim_reminder(self, reminder: Reminder, *, now: datetime) -> bool:
        """If it is still due. In one statement, so that over all processes exactly one caller gets True.

        A claim that came to nothing within ten minutes (its process died) can be taken over.
        """
        ...

    async def begin_reminder(self, reminder: Reminder, *, claimed_at: datetime, now: datetime) -> bool:
        """False when somebody else has taken the claim over."""
        ...

    async def end_reminder(
        self, reminder: Reminder, result: Result, *, claimed_at: datetime, now: datetime
    ) -> None:
        """`claimed_at`: when it was claimed, or begun."""
        ...

    async def wants_reminders(self, subject: str) -> bool: ...

    async def set_wants_reminders(self, subject: str, wanted: bool) -> None: ...


class LedgerStore(Transactions, Protocol):
    """Every method raises StorageProblem when the database cannot do it. Times are aware, UTC."""

    async def add_entry(self, intent: Intent, *, now: datetime, since: datetime, limit: int) -> int | None:
        """None when this person has `limit` entries since then, the quota is used up, or issuing is stopped.

        In one statement with the writing.
        """
        ...

    async def count_active(self, subject: str, quota: Quota) -> int:
        """How many of the quota are used."""
        ...

    async def set_replaced(self, by: int, *, now: datetime) -> None:
        """What this one replaces waits for its revocation, unless it is revoked or replaced already.

        What that one had replaced itself waits no longer.
        """
        ...

    async def postpone_revocation(self, entry: int, until: datetime) -> None: ...

    async def forget_replacement(self, by: int) -> None:
        """What this one was to replace stays, unless it is revoked."""
        ...

    async def due_for_revocation(self, now: datetime) -> list[Certificate]:
        """Replaced ones whose time is over, and whose successors have got to their people."""
        ...

    async def close_entry(
        self,
        entry: int,
        state: str,
        *,
        now: datetime,
        leaving: Sequence[str],
        certificate: x509.Certificate | None = None,
        note: str | None = None,
    ) -> Entry | None:
        """None when it is in none of the states that it may leave: somebody else was quicker.

        Raises Duplicate when another entry has the certificate's serial number.
        """
        ...

    async def open_entries(self, states: Sequence[str], *, before: datetime, limit: int) -> list[Entry]:
        """Those of then and before that are in one of the states, the oldest first."""
        ...

    async def count_uncertain(self) -> int: ...

    async def set_delivered(self, entry: int, delivered: bool | None, delivery: Delivery) -> None:
        """`delivered` None: nobody knows."""
        ...

    async def set_encoding(self, entry: int, encoding: Encoding) -> None: ...

    async def set_revoked(self, entry: int, reason_code: int, *, now: datetime) -> bool:
        """Keeps the time and the reason of the first time; False when it was not the first."""
        ...

    async def certificates_of(
        self, subject: str, *, now: datetime, limit: int, offset: int
    ) -> list[Certificate]:
        """The active ones first, the one that ends soonest on top; then the others, the newest on top."""
        ...

    async def find_certificate(self, serial: int) -> Certificate | None: ...

    async def search(self, words: str, *, limit: int, offset: int) -> list[Certificate]:
        """Of everybody; name, address, device or serial number (hex) has `words` in it. The newest first."""
        ...

    async def active_of(self, subject: str, *, now: datetime) -> list[Certificate]:
        """All that a person could still use; what ends soonest on top."""
        ...

    async def expiring(self, *, now: datetime, until: datetime, limit: int, offset: int) -> list[Certificate]:
        """Of everybody, the soonest first; without those that have a successor."""
        ...

    async def numbers(self, *, now: datetime, soon: datetime, since: datetime) -> Numbers: ...

    async def entries_since(self, subject: str, since: datetime) -> list[datetime]:
        """When this person's certificates were asked for, oldest first; failed tries do not count."""
        ...


class CrlStore(Protocol):
    """Every method raises StorageProblem when the database cannot do it."""

    async def revocations(self) -> tuple[int, int]:
        """Another pair after each revocation."""
        ...

    async def revoked(self, ended_after: datetime) -> list[Revoked]:
        """All but those whose certificates ended before."""
        ...

    async def next_crl_number(self, at_least: int) -> int:
        """Larger than all before, over all processes. In one statement."""
        ...

    async def crl_signed(self, this_update: datetime, next_update: datetime) -> None:
        """Remember what the last list says of itself."""
        ...

    async def last_crl(self) -> tuple[datetime, datetime] | None:
        """Its this update and next update, whichever process signed it; None: none was signed yet."""
        ...


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`subject` and `name`: whom it concerns; `serial`: hex; `hash`: see `certbob.audit`."""

    number: int
    at: datetime
    action: str
    actor: Actor
    subject: str | None
    name: str | None
    serial: str | None
    note: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """`words`: somewhere in accounts, names, address, serial number or note. `until` is not included."""

    words: str = ""
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class AuditStore(Transactions, Protocol):
    """Every method raises StorageProblem when the database cannot do it."""

    async def next_entry(self) -> tuple[int, str]:
        """Its number, and the hash of the one before. Until the transaction ends nobody else gets one."""
        ...

    async def append(self, entry: AuditEntry, follower: Callable[[], None]) -> None:
        """`follower` is called once the transaction has been written."""
        ...

    async def head(self) -> tuple[int, str] | None:
        """Number and hash of the last entry; 0 and nothing before the first one. None: nobody knows."""
        ...

    async def entries(self, wanted: AuditFilter, *, limit: int, offset: int) -> list[AuditEntry]:
        """The newest first."""
        ...

    async def entries_after(self, number: int, wanted: AuditFilter, *, limit: int) -> list[AuditEntry]:
        """The oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Paused:
    """Issuing is stopped. `who` stopped it; `note`: why, for everybody."""

    since: datetime
    who: str
    note: str


class PauseStore(Transactions, Protocol):
    """Every method raises StorageProblem when the database cannot do it."""

    async def paused(self) -> Paused | None: ...

    async def set_paused(self, paused: Paused) -> bool:
        """False when it is stopped already."""
        ...

    async def end_pause(self) -> bool:
        """False when it is not stopped."""
        ...


class People(Protocol):
    """Every method raises StorageProblem when the database cannot do it."""

    async def subject_for(self, door: Door, account: str) -> str:
        """Our stable id (a UUID as text) of this account at this door; made at first sight."""
        ...

    async def account_of(self, subject: str) -> tuple[Door, str] | None: ...

    async def claim_name(self, name_key: str, subject: str) -> str:
        """The subject whose name it is: until now nobody's, it is this one's. In one statement."""
        ...

    async def pass_name(self, name_key: str, owner: str, subject: str) -> bool:
        """From one subject to another; False when it was no longer the first one's."""
        ...

    async def release_names(self, door: Door, account: str) -> bool:
        """The account's names are nobody's again; False when it had none."""
        ...

    async def add_account(self, username: str, password_hash: str) -> bool:
        """False when an account exists already."""
        ...

    async def accounts(self) -> dict[str, str]:
        """User name -> Argon2id PHC string of the accounts that CertBob made itself."""
        ...


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in. `id_hash`: SHA-256 of the cookie's value, hex."""

    id_hash: str
    identity: Identity
    is_admin: bool
    created_at: datetime
    seen_at: datetime


class SessionStore(Transactions, Protocol):
    async def add_session(self, session: Session) -> None: ...

    async def find_session(self, id_hash: str) -> Session | None: ...

    async def touch_session(self, id_hash: str, *, now: datetime) -> None: ...

    async def end_session(self, id_hash: str) -> None: ...


@dataclass(frozen=True, slots=True)
class PendingSignIn:
    """Somebody was sent to the sign-in service and may come back, once, in the same browser.

    `key` and `browser_hash` are SHA-256, hex, of secrets that only the browser has. `wanted`: a path of ours.
    """

    key: str
    browser_hash: str
    wanted: str
    started_at: datetime


class SignInStore(Protocol):
    """Every method raises StorageProblem when the database cannot do it."""

    async def add_sign_in(self, pending: PendingSignIn, *, limit: int) -> None:
        """Of one browser only the newest `limit` are kept."""
        ...

    async def take_sign_in(self, key: str, browser_hash: str) -> PendingSignIn | None:
        """In one statement, so that over all processes it is taken once."""
        ...


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """A chat account that somebody may say is theirs, by signing in here."""

    user_id: str
    user_name: str
    until: datetime


class ChatStore(Transactions, Protocol):
    """Chat accounts, by their user ids. Every method raises StorageProblem when the database cannot do it."""

    async def bound(self, user_id: str) -> dict[str, str]:
        """What is bound to the account: the kind of each fact, and the fact."""
        ...

    async def bind(self, user_id: str, kind: str, value: str) -> str:
        """What was first bound to the account as this kind of fact. In one statement.

        Raises Duplicate when that fact is bound to another account.
        """
        ...

    async def add_link_request(self, id_hash: str, request: LinkRequest) -> None: ...

    async def find_link_request(self, id_hash: str) -> LinkRequest | None: ...

    async def take_link_request(self, id_hash: str) -> bool:
        """In one statement, so that over all processes it is taken once."""
        ...

    async def link(self, user_id: str, user_name: str, identity: Identity) -> None: ...

    async def linked_identity(self, user_id: str) -> Identity | None:
        """Whose account it is, as they were at their last sign-in."""
        ...

    async def refresh_links(
        self, door: Door, account: str, *, name: str, email: str | None, groups: tuple[str, ...]
    ) -> None:
        """What is known of somebody now counts for their chat accounts, too."""
        ...

    async def links_of(self, subject: str) -> dict[str, str]:
        """User id -> the name it had then."""
        ...

    async def unlink(self, user_id: str, subject: str) -> bool:
        """False when it was not theirs."""
        ...

    async def forget(self, user_id: str) -> bool:
        """All that is bound to the account and linked with it; False when there was nothing."""
        ...

    async def see_once(self, id_hash: str, until: datetime) -> bool:
        """False when it was seen before. In one statement, over all processes."""
        ...

    async def key_of(self, server: str) -> str | None:
        """Base64 of DER (SubjectPublicKeyInfo)."""
        ...

    async def pin_key(self, server: str, public_key: str) -> None:
        """Unless there is one."""
        ...

    async def replace_key(self, server: str, public_key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Tries:
    """`count` failures until the window ends; see `certbob.auth.local`."""

    count: int
    until: datetime


class TryStore(Protocol):
    """Counts failed tries in buckets, over all processes."""

    async def count_try(
        self, bucket: str, *, now: datetime, limit: int, window: timedelta, ban: timedelta
    ) -> Tries:
        """One more, in one statement. The try that reaches `limit` extends the window to `ban`."""
        ...

    async def tries(self, bucket: str, *, now: datetime) -> Tries | None: ...

    async def forget_tries(self, bucket: str) -> None: ...
