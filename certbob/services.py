"""What front doors are given: the core's services, wired by `certbob.bootstrap`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from certbob.delivery import MailDelivery
from certbob.grants import Grants
from certbob.identity import Identity
from certbob.issuance import Issuance
from certbob.ports import CertificateAuthority, Clock, People, SessionStore
from certbob.profiles import Profiles


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

    def is_away(self) -> bool:
        """Whether the provider did not answer when it was looked at last. Does not wait."""
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
    still_knows: Callable[[Identity], bool]  # False once the account was taken away
    session_key: bytes = field(repr=False)  # for form tokens
    storage_health: Callable[[], Awaitable[str | None]]  # None, or what is wrong
    prune: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
