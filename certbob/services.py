"""What front doors are given: the core's services, wired by `certbob.bootstrap`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from certbob.audit import AuditLog
from certbob.chat_links import ChatLinks
from certbob.delivery import MailDelivery
from certbob.grants import Grants
from certbob.identity import Identity
from certbob.issuance import Issuance
from certbob.ledger import Ledger
from certbob.pause import Pause
from certbob.ports import CertificateAuthority, Clock, People, SessionStore
from certbob.profiles import Profiles
from certbob.reconciliation import Reconciliation
from certbob.reminders import Reminders
from certbob.revocation import Revocation
from certbob.revocation_list import RevocationList
from certbob.watch import PublishedList, Watch


@dataclass(frozen=True, slots=True)
class LocalSignIn:
    """The local accounts as the sign-in page sees them.

    `authenticate(username, password, address)` raises SignInRefused, SignInBlocked. `exists`: somebody
    could sign in like that.
    """

    authenticate: Callable[[str, str, str], Awaitable[Identity]]
    exists: bool


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whom the sign-in service vouched for, and where they wanted to go.

    `sign_out_hint`: what ends their session there (`SingleSignOn.sign_out_url`); None: nothing does.
    """

    identity: Identity
    is_admin: bool
    wanted: str
    sign_out_hint: str | None = field(repr=False)


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What the doctor says of `subject`. `mend`: what to do; empty where there is nothing to do."""

    subject: str
    verdict: Verdict
    text: str
    mend: str = ""


class SingleSignOn(Protocol):
    """Signing in through an identity provider, as the pages see it. `label`: what people call it."""

    label: str

    async def begin(self, browser: str, wanted: str) -> str:
        """The provider's address to go to. `browser`: a secret of it. Raises ProviderUnavailable."""
        ...

    async def finish(self, browser: str | None, answer: Mapping[str, Sequence[str]]) -> SignedIn:
        """`answer`: the query the provider sent the browser back with. Raises SignInFailed, NotAllowed."""
        ...

    def sign_out_url(self, hint: str | None) -> str | None:
        """Where the session at the provider ends; None where it offers nothing."""
        ...

    def trouble(self) -> str | None:
        """None while the provider serves, else the reason in words for the operator. Does not wait."""
        ...

    async def examine(self) -> str | None:
        """As `trouble`, but the provider is asked now."""
        ...

    def is_away(self) -> bool:
        """Whether the provider did not answer when it was looked at last. Does not wait."""
        ...


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """Somebody's command in a chat. `name`: what they call it, `/cert`; `words`: what they wrote after it.

    `signed`: the server's proof of the person and the moment, as it came.
    """

    name: str
    user_id: str
    user_name: str
    words: tuple[str, ...]
    signed: str = field(default="", repr=False)


class Chat(Protocol):
    """A chat whose people get certificates by a slash command.

    `opens_links`: people's clients are told to. `links_accounts`: people say who they are by signing in here.
    `has_addresses`: somebody vouches for people's e-mail addresses.
    """

    opens_links: bool
    links_accounts: bool
    has_addresses: bool

    async def accept(
        self, fields: Mapping[str, str], authorization: str | None, address: str
    ) -> SlashCommand:
        """The command in a form, if its token is right. Raises NotFromChat, SignInBlocked, BadRequest."""
        ...

    async def verify(self, command: SlashCommand, address: str) -> None:
        """Hold its signature against the server's key. Raises NotFromChat, SignInBlocked, StorageProblem."""
        ...

    async def identity(self, command: SlashCommand) -> Identity:
        """Raises the ChatProblems, NameTaken, UnfitName, StorageProblem."""
        ...

    async def name(self, command: SlashCommand) -> str:
        """Of the account, as its server says it; where it cannot be asked, as the command does."""
        ...

    def write(self, message: str, /, **facts: Any) -> str:
        """A message as the chat's own Markdown."""
        ...

    def start(self, work: Awaitable[object], command: SlashCommand, message: str) -> None:
        """Work that goes on after the answer; when it fails the person gets `message`, where that can be."""
        ...

    async def accept_key(self) -> str:
        """Believe the key that the server signs with now; its fingerprint. Raises NoKey."""
        ...

    async def forget(self, user_id: str) -> bool:
        """What is bound to and linked with an account; False when there was nothing."""
        ...

    def examine(self) -> AsyncIterator[Finding]:
        """What is right and wrong with it, for the operator."""
        ...

    def look(self) -> None:
        """Begin to ask the chat's server for what is needed of it. Does not wait."""
        ...


class Metrics(Protocol):
    """What monitoring reads, as text of Prometheus."""

    def count_event(self, action: str, door: str) -> None:
        """One more entry of the audit log."""
        ...

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """`route`: its rule, never the path, which may hold anything."""
        ...

    def expect_job(self, name: str) -> None:
        """From now on it is told that this job has not succeeded yet."""
        ...

    def job_succeeded(self, name: str, now: datetime) -> None: ...

    def tls_certificate_ends(self, moment: datetime) -> None:
        """The one that CertBob itself serves with."""
        ...

    def exposition(self, services: "Services") -> bytes:
        """Everything, now. Asks nobody and waits for nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    clock: Clock
    ca: CertificateAuthority
    grants: Grants
    issuance: Issuance
    profiles: Profiles
    mail: MailDelivery | None
    people: People
    sessions: SessionStore
    local: LocalSignIn
    single_sign_on: SingleSignOn | None
    chat: Chat | None
    chat_links: ChatLinks
    ledger: Ledger
    audit: AuditLog
    pause: Pause
    reconciliation: Reconciliation
    revocation: Revocation
    reminders: Reminders | None  # None: there are none
    revocation_list: RevocationList | None  # None: the authority makes its own
    published_list: PublishedList | None  # None: it makes none, or ours
    watch: Watch
    metrics: Metrics
    still_knows: Callable[[Identity], bool]  # False once the account was taken away
    is_admin: Callable[[Identity], bool]
    session_key: bytes = field(repr=False)  # for form tokens
    storage_health: Callable[[], Awaitable[str | None]]  # None, or what is wrong
    prune: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
