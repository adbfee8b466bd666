"""What the core needs from the outside world, on one page. Adapters implement these; tests may swap them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

from cryptography import x509

from certbob.profiles import Usage

P = ParamSpec("P")
T = TypeVar("T")


class Clock(Protocol):
    def now(self) -> datetime: ...  # aware, UTC


class Signers(Protocol):
    """Where CPU-heavy work goes, away from the event loop."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args)` in another process; both ways are pickled. Raises Busy when too much waits."""
        ...


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """All that a certificate will say. The CSR carries the key and the common name, nothing else counts in it.

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

    `exact`: the whole profile bit by bit, for a CA that is ours. Otherwise only what protects people:
    another authority has a template of its own. `server_auth`: serverAuth beside clientAuth is let pass
    and noted. `organizations`: values for O that the authority may add.
    """

    exact: bool
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
