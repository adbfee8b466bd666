"""What front doors are given: the core's services, wired by `certbob.bootstrap`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from certbob.grants import Grants
from certbob.identity import Identity
from certbob.issuance import Issuance
from certbob.ports import CertificateAuthority, Clock, People, SessionStore
from certbob.profiles import Profiles


@dataclass(frozen=True, slots=True)
class LocalSignIn:
    """The local accounts as the sign-in page sees them.

    `authenticate(username, password, address)` raises SignInRefused, SignInBlocked;
    `still_knows(identity)` is False once the account was taken away.
    """

    authenticate: Callable[[str, str, str], Awaitable[Identity]]
    still_knows: Callable[[Identity], bool]


@dataclass(frozen=True, slots=True)
class Services:
    clock: Clock
    ca: CertificateAuthority
    grants: Grants
    issuance: Issuance
    profiles: Profiles
    people: People
    sessions: SessionStore
    local: LocalSignIn
    session_key: bytes = field(repr=False)  # for form tokens
    storage_health: Callable[[], Awaitable[str | None]]  # None, or what is wrong
    prune: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]
