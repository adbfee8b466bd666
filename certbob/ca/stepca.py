"""smallstep step-ca as the certificate authority; CertBob is its registration authority.

CertBob holds the key of one JWK provisioner. For every certificate it signs a one-time token with that key,
which says for whom the certificate is and which CSR it fits, and posts both to `/1.0/sign`. Whoever answers
must prove to be the authority of the pinned root first: no token goes anywhere else.

What the returned leaf says is held against the request by `certbob.lint`; everything on the wire is checked
here. Texts of the authority are escaped and cut, and stand in `detail` only, never before people.
"""

import asyncio
import base64
import copy
import hashlib
import hmac
import logging
import math
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certbob.ca.provisioner_key import ProvisionerKey, open_provisioner_key
from certbob.errors import (
    BadProvisionerPassword,
    CABadAnswer,
    CAProblem,
    CARefused,
    CAUnavailable,
    CAUncertain,
    CAUntrusted,
)
from certbob.ports import Chain, Clock, LeafRules, PublishedCrl, SigningRequest, Trust
from certbob.secret import Secret
from certbob.strict_json import json_object

T = TypeVar("T")

_MAX_BODY = 256 * 1024
_MAX_CRL = 4 * 1024 * 1024  # some 80 000 entries
_MAX_MESSAGE = 300
_MAX_PAGES = 100
_MAX_CHAIN = 5
_MAX_SKEW = timedelta(seconds=60)  # the authority's own leeway for token times
_TOKEN_LIFETIME = timedelta(minutes=2)
_CRL = "/1.0/crl"
_LOOK_AGAIN_AFTER = timedelta(hours=1)
_SHORTEST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(seconds=30)
_PAUSE_FOR_OPERATOR = timedelta(minutes=1)
_MORE_THAN_ANY = timedelta(hours=2_000_000)  # Go durations end after 292 years, so this one parses
_REVOCATION_REASONS = frozenset({0, 1, 3, 4, 5, 9})  # 7 makes the CRL unreadable for many, 6 cannot be lifted

_ONE_CERTIFICATE = re.compile(
    r"\s*-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----\s*"
)
_WEB_ADDRESS = re.compile(r"https?://[!-~]{1,500}")
_GO_DURATION = r"(?:(\d{1,7})h)?(?:(\d{1,2})m)?(\d{1,2}(?:\.\d{1,9})?)s"
_TOO_LONG = re.compile(
    rf"\b{_GO_DURATION} is more than the authorized maximum certificate duration of {_GO_DURATION}"
)

_log = logging.getLogger(__name__)


class _TokenRefused(CARefused):
    """401. It is the same for every cause and says nothing about the person."""


class _TooLong(CARefused):
    """The authority's limit lies `excess` below what was asked for."""

    def __init__(self, detail: str, *, status: int, excess: timedelta) -> None:
        super().__init__(detail, status=status)
        self.excess = excess


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    date: str
    body: bytes


class _Wire:
    """HTTPS to one address: capped, in time, without redirects, proxies or the environment's settings."""

    def __init__(
        self, url: str, context: ssl.SSLContext, connect_timeout: float, total_timeout: float
    ) -> None:
        self._url = url
        self._total_timeout = total_timeout
        self._client = httpx2.AsyncClient(
            verify=context,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(total_timeout, connect=connect_timeout, pool=connect_timeout),
            limits=httpx2.Limits(max_connections=16),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def get(self, path: str, *, limit: int = _MAX_BODY) -> _Answer:
        """Of a body that is longer than `limit` bytes a little more than these. Raises CAUnavailable."""
        try:
            return await self._fetch("GET", path, limit)
        except (httpx2.HTTPError, OSError) as error:
            raise self._unreachable(error) from error

    async def post(self, path: str, body: Mapping[str, Any], request_id: str) -> _Answer:
        """Raises CAUnavailable when surely nothing arrived there, else CAUncertain."""
        try:
            return await self._fetch("POST", path, json=body, headers={"X-Request-Id": request_id})
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise self._unreachable(error) from error
        except (httpx2.HTTPError, OSError) as error:
            raise CAUncertain(f"{self._url} was asked, but {_reason(error)}") from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _fetch(self, method: str, path: str, limit: int = _MAX_BODY, **options: Any) -> _Answer:
        # The raw bytes: nothing is decompressed, so a small answer cannot grow.
        body = bytearray()
        async with (
            asyncio.timeout(self._total_timeout),
            self._client.stream(method, self._url + path, **options) as response,
        ):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    break
        return _Answer(response.status_code, response.headers.get("Date", ""), bytes(body))

    def _unreachable(self, error: Exception) -> CAUnavailable:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return CAUntrusted(f"{self._url} does not prove to be the pinned authority: {_reason(error)}")
        return CAUnavailable(f"{self._url} cannot be reached: {_reason(error)}")


@dataclass(frozen=True, slots=True)
class _Authority:
    """What the last look at the authority found."""

    wire: _Wire
    trust: Trust
    key: ProvisionerKey
    crl_url: str | None  # what the provisioner's template puts into certificates, where that can be seen
    longest: timedelta | None  # what the provisioner allows
    looked_at: datetime


class _Breaker:
    """Leaves an authority in trouble alone for a while, so that clicks do not become a storm of requests.

    One line is logged each time. What an operator has to mend waits for a minute, the rest for 5 to 30 s.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._trouble: CAProblem | None = None
        self._opened_at = clock.now()
        self._pause = timedelta(0)

    @property
    def closed(self) -> bool:
        return self._trouble is None

    def check(self) -> None:
        """Raises the trouble while its pause lasts."""
        # A clock that was set back must not make the pause longer.
        if self._trouble and timedelta(0) <= self._clock.now() - self._opened_at < self._pause:
            raise copy.copy(self._trouble)

    def open(self, trouble: CAProblem) -> None:
        try:
            self.check()
        except CAProblem:
            return
        _log.warning("step-ca: %s", trouble.detail)
        for_operator = isinstance(trouble, CAUntrusted | BadProvisionerPassword | _TokenRefused)
        doubled = max(_SHORTEST_PAUSE, min(2 * self._pause, _LONGEST_PAUSE))
        self._pause = _PAUSE_FOR_OPERATOR if for_operator else doubled
        # A copy: the original's traceback leads to frames that hold somebody's private key.
        self._trouble, self._opened_at = copy.copy(trouble), self._clock.now()

    def close(self) -> None:
        if self._trouble:
            _log.info("step-ca: in order again")
        self._trouble, self._pause = None, timedelta(0)


class StepCA:
    """A `CertificateAuthority`, `Revoker` and `CrlSource` over step-ca's HTTP interface.

    Nothing is sent before the first call, and a start that fails is tried again by later calls. `url` is
    `https://HOST:PORT`; `root` the SHA-256 of the root's DER form in hex or the path of a PEM file;
    `key` the provisioner key as JWE or JWK, for authorities that do not publish it. Times are in seconds.
    """

    rules: LeafRules = LeafRules(exact=False, server_auth=True)

    def __init__(
        self,
        *,
        url: str,
        root: str,
        provisioner: str,
        password: Secret | None = None,
        key: Secret | None = None,
        clock: Clock,
        connect_timeout: float = 3,
        answer_timeout: float = 15,  # how long a person waits
        exchange_timeout: float = 60,  # how long an answer is waited for in the background
        retry_pauses: tuple[float, ...] = (0.25, 1),
    ) -> None:
        self._url = url.rstrip("/")
        self.crl_address = self._url + _CRL
        self._pin = root
        self._provisioner = provisioner
        self._password = password
        self._given_key = key
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._answer_timeout = answer_timeout
        self._exchange_timeout = exchange_timeout
        self._retry_pauses = retry_pauses
        self._breaker = _Breaker(clock)
        self._root: x509.Certificate | None = None
        self._wire: _Wire | None = None
        self._authority: _Authority | None = None
        self._look: asyncio.Task[_Authority] | None = None
        self._exchanges: set[asyncio.Task[Chain]] = set()

    async def sign(self, request: SigningRequest) -> Chain:
        """As the port says; the validity is cut to what the authority allows.

        A CAUncertain that came after `answer_timeout` carries the exchange as `late`: it yields the Chain
        or a CAProblem within `exchange_timeout`, and is cancelled by `close`.
        """
        deadline = _deadline(self._answer_timeout)
        authority = await self._ready(deadline)
        validity = min(request.validity, self._longest(authority))
        try:
            return await self._insist(partial(self._sign_once, request, validity, deadline), deadline)
        except _TooLong as refusal:
            allowed = validity - refusal.excess
            if not timedelta(0) < allowed < validity:
                raise
            self._authority = replace(self._authority or authority, longest=allowed)
            return await self._insist(partial(self._sign_once, request, allowed, deadline), deadline)

    async def revoke(self, serial: int, reason_code: int) -> None:
        """Raises CAProblem; status 501 in a CARefused means that this authority cannot revoke at all."""
        if reason_code not in _REVOCATION_REASONS:
            raise CARefused(f"reason code {reason_code} is never sent")
        deadline = _deadline(self._answer_timeout)
        await self._insist(partial(self._revoke_once, str(serial), reason_code, deadline), deadline)

    async def fetch_crl(self) -> PublishedCrl | None:
        """As the port says; CAUnavailable also when there is no intermediate to hold the list against."""
        deadline = _deadline(self._answer_timeout)
        try:
            authority = await self._ready(deadline)
            async with asyncio.timeout_at(deadline):
                answer = await authority.wire.get(_CRL, limit=_MAX_CRL)
        except CARefused as refusal:
            raise CAUnavailable(refusal.detail) from refusal
        except TimeoutError as error:
            raise CAUnavailable(f"{self.crl_address} does not answer") from error
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise CAUnavailable(f"GET {_CRL} was answered {answer.status}: {_message(answer.body)}")
        if not authority.trust.intermediates:
            raise CAUnavailable(f"{self._url} does not tell its intermediate, so its list cannot be checked")
        signer, now = authority.trust.intermediates[0], self._clock.now()
        try:
            crl = await asyncio.to_thread(read_crl, answer.body, signer, now)
        except ValueError as error:
            raise CABadAnswer(f"the list at {self.crl_address}: {error}") from error
        return replace(crl, address=crl.address or self.crl_address, named=authority.crl_url)

    async def trust(self) -> Trust:
        try:
            authority = self._authority or await self._ready(_deadline(self._answer_timeout))
        except CARefused as refusal:
            raise CAUnavailable(refusal.detail) from refusal
        return authority.trust

    async def longest_validity(self) -> timedelta | None:
        """What the provisioner allows, as probed within the last hour, but not beyond the CA's own end."""
        try:
            authority = await self._ready(_deadline(self._connect_timeout))
        except CAProblem:
            return self._longest(self._authority) if self._authority else None
        if not timedelta(0) <= self._clock.now() - authority.looked_at < _LOOK_AGAIN_AFTER:
            self._start_look()
        return self._longest(authority)

    async def health(self) -> str | None:
        deadline = _deadline(self._connect_timeout)
        try:
            authority = await self._ready(deadline)
            async with asyncio.timeout_at(deadline):
                _found(await authority.wire.get("/health"), "/health")
        except CAProblem as problem:
            return problem.detail
        except TimeoutError:
            return f"{self._url} does not answer"
        return None

    async def close(self) -> None:
        """Exchanges in the background end as cancelled."""
        tasks = [*self._exchanges, *([self._look] if self._look else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._wire is not None:
            await self._wire.close()

    async def _ready(self, deadline: float) -> _Authority:
        """The authority as last seen; looked at first when it is new or was in trouble."""
        self._breaker.check()
        if self._authority is not None and self._breaker.closed:
            return self._authority
        return await self._looked(deadline)

    async def _looked(self, deadline: float) -> _Authority:
        look = self._start_look()
        await asyncio.wait({look}, timeout=_left(deadline))
        if not look.done():
            raise CAUnavailable(f"{self._url} has not answered yet")
        return look.result()

    def _start_look(self) -> asyncio.Task[_Authority]:
        """The look that is going on, else a new one: callers share it, and none of them can cut it short."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_at_authority())
            self._look.add_done_callback(_retrieve)
        return self._look

    async def _look_at_authority(self) -> _Authority:
        try:
            async with asyncio.timeout(self._answer_timeout):
                self._authority = await self._inspect()
        except TimeoutError as error:
            trouble = CAUnavailable(f"{self._url} does not answer")
            self._breaker.open(trouble)
            raise trouble from error
        except CAProblem as problem:
            self._breaker.open(problem)
            raise
        self._breaker.close()
        return self._authority

    async def _inspect(self) -> _Authority:
        """Root, provisioner key, intermediates, limit, in this order: each stands on the one before."""
        if self._root is None or self._wire is None:
            self._root = await self._pinned_root()
            self._wire = self._new_wire(_context(self._root))
        key, crl_url = await self._provisioner_key(self._wire)
        trust = Trust(self._root, await _intermediates(self._wire, self._root))
        authority = _Authority(self._wire, trust, key, crl_url, longest=None, looked_at=self._clock.now())
        return replace(authority, longest=await self._probe(authority))

    async def _pinned_root(self) -> x509.Certificate:
        fingerprint = re.sub("[:-]", "", self._pin).lower()
        if re.fullmatch("[0-9a-f]{64}", fingerprint) is None:
            return await asyncio.to_thread(_read_root, Path(self._pin))
        wire = self._new_wire(_context(None))
        try:
            answer = await wire.get(f"/root/{fingerprint}")
        finally:
            await wire.close()
        if answer.status == 404:
            raise CAUntrusted(f"{self._url} does not know the pinned root")
        root = _root(_found(answer, "/root").get("ca"), self._url)
        if not hmac.compare_digest(_fingerprint(root), fingerprint):
            raise CAUntrusted(f"{self._url} shows another root than the pinned one")
        return root

    async def _provisioner_key(self, wire: _Wire) -> tuple[ProvisionerKey, str | None]:
        """And what the template names as the list's address, where the provisioner is published."""
        text, published = self._given_key.reveal() if self._given_key else None, None
        crl_url = None
        if text is None:
            entry = await self._published_provisioner(wire)
            text, published = entry.get("encryptedKey"), entry.get("key")
            crl_url = _template_crl_url(entry)
            if not (text and isinstance(text, str) and isinstance(published, dict)):
                raise CAUnavailable(
                    f"{self._url} does not publish the encrypted key of its provisioner: set provisioner_key"
                )
        try:
            key = await asyncio.to_thread(open_provisioner_key, text, self._password, published=published)
        except ValueError as error:
            raise CAUnavailable(f"provisioner key: {error}") from error
        return key, crl_url

    async def _published_provisioner(self, wire: _Wire) -> dict[str, Any]:
        matches = [
            entry async for entry in self._provisioners(wire) if entry.get("name") == self._provisioner
        ]
        if len(matches) != 1:
            count = "several provisioners" if matches else "no provisioner"
            raise CAUnavailable(f"{self._url} has {count} with the configured name (case matters)")
        if str(matches[0].get("type")).upper() != "JWK":
            raise CAUnavailable(f"the configured provisioner of {self._url} is not of type JWK")
        return matches[0]

    async def _provisioners(self, wire: _Wire) -> AsyncIterator[dict[str, Any]]:
        path, query, cursors = "/1.0/provisioners", "", set[str]()
        for _ in range(_MAX_PAGES):
            page = _found(await wire.get(path + query), path)
            entries = page.get("provisioners") or []
            if not isinstance(entries, list):
                raise CAUnavailable(f"{self._url} shows no list of provisioners")
            for entry in entries:
                if isinstance(entry, dict):
                    yield entry
            cursor = page.get("nextCursor")
            if not cursor:
                return
            if not isinstance(cursor, str) or cursor in cursors:
                break
            cursors.add(cursor)
            query = "?" + urlencode({"cursor": cursor})
        raise CAUnavailable(f"the list of provisioners of {self._url} does not end")

    async def _probe(self, authority: _Authority) -> timedelta | None:
        """The provisioner's limit, read off the refusal of an impossible validity; None when it does not say.

        Nothing is issued. It also proves that the authority takes our tokens.
        """
        name, request_id = "certbob-probe", secrets.token_hex(8)
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
            .public_bytes(Encoding.DER)
        )
        token = self._token(authority, "/1.0/sign", name, [name], csr)
        body = _sign_body(csr, token, _MORE_THAN_ANY)
        try:
            self._expect(201, await authority.wire.post("/1.0/sign", body, request_id), request_id)
        except _TooLong as refusal:
            return max(_MORE_THAN_ANY - refusal.excess, timedelta(0)) or None
        except (_TokenRefused, CAUnavailable):
            raise
        except CAProblem as problem:
            _log.info("step-ca: longest validity not known: %s", problem.detail)
        return None

    async def _insist(self, send: Callable[[_Authority], Awaitable[T]], deadline: float) -> T:
        """What `send` returns; it is called again after a refused token, and while surely nothing arrived."""
        authority = await self._ready(deadline)
        pauses = iter(self._retry_pauses)
        refused = False
        while True:
            try:
                return await send(authority)
            except _TokenRefused as refusal:
                if refused:
                    self._breaker.open(refusal)
                    raise
                refused = True
                # The key was replaced, or the authority restarted after the token was made.
                unchanged = authority is self._authority
                authority = await (self._looked(deadline) if unchanged else self._ready(deadline))
            except CAUnavailable as trouble:
                pause = next(pauses, math.inf)
                if isinstance(trouble, CAUntrusted) or pause >= _left(deadline):
                    self._breaker.open(trouble)
                    raise
                await asyncio.sleep(pause)

    async def _sign_once(
        self, request: SigningRequest, validity: timedelta, deadline: float, authority: _Authority
    ) -> Chain:
        sans = [request.email or f"urn:uuid:{request.subject}"]
        token = self._token(
            authority, "/1.0/sign", request.common_name, sans, request.csr, request.organization
        )
        body = _sign_body(request.csr, token, validity)
        exchange = asyncio.create_task(self._exchange(authority.wire, body, request.request_id))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)
        exchange.add_done_callback(_retrieve)
        await asyncio.wait({exchange}, timeout=_left(deadline))
        if not exchange.done():
            detail = f"{self._url} has not answered within {self._answer_timeout:g} s"
            self._breaker.open(CAUnavailable(detail))
            raise CAUncertain(detail, late=exchange)
        return exchange.result()

    async def _exchange(self, wire: _Wire, body: Mapping[str, Any], request_id: str) -> Chain:
        answer = await wire.post("/1.0/sign", body, request_id)
        self._expect(201, answer, request_id)
        self._breaker.close()
        return read_chain(answer.body)

    async def _revoke_once(
        self, serial: str, reason_code: int, deadline: float, authority: _Authority
    ) -> None:
        request_id = secrets.token_hex(8)
        body = {
            "serial": serial,
            "ott": self._token(authority, "/1.0/revoke", serial, [serial]),
            "passive": True,
            "reasonCode": reason_code,
        }
        try:
            async with asyncio.timeout_at(deadline):
                answer = await authority.wire.post("/1.0/revoke", body, request_id)
        except TimeoutError as error:
            raise CAUncertain(f"{self._url} has not answered within {self._answer_timeout:g} s") from error
        if answer.status == 400 and "is already revoked" in _message(answer.body):
            return
        if answer.status == 501:
            raise CARefused(f"{self._url} cannot revoke: {_message(answer.body)}", status=501)
        self._expect(200, answer, request_id)
        self._breaker.close()
        try:
            status = _parse(answer.body).get("status")
        except ValueError as error:
            raise CABadAnswer(f"revocation: {error}") from error
        if status != "ok":
            raise CABadAnswer(f"revocation: status is {_printable(str(status))}")

    def _token(
        self,
        authority: _Authority,
        path: str,
        subject: str,
        sans: Sequence[str],
        csr: bytes | None = None,
        organization: str | None = None,
    ) -> str:
        claims = token_claims(
            issuer=self._provisioner,
            audience=self._url + path,
            subject=subject,
            sans=sans,
            root=authority.trust.root,
            now=self._clock.now(),
            csr=csr,
            organization=organization,
        )
        return authority.key.sign(claims)

    def _expect(self, status: int, answer: _Answer, request_id: str) -> None:
        """Raises what any other status means."""
        if answer.status != status:
            raise self._refusal(answer, request_id)

    def _refusal(self, answer: _Answer, request_id: str) -> CAProblem:
        message = _message(answer.body)
        detail = f"{self._url} answered {answer.status} to request {request_id}: {message}"
        match answer.status:
            case 401:
                refused = f"token refused: see the authority's log for request {request_id}"
                return _TokenRefused(refused + self._skew(answer.date), status=401)
            case 403 if found := _TOO_LONG.search(message):
                stated, authorized = _from_go(found.groups()[:3]), _from_go(found.groups()[3:])
                return _TooLong(detail, status=403, excess=stated - authorized)
            case 429:
                return CAUnavailable(detail)
            case 500 if "error applying certificate template" in message:
                return CARefused(detail, status=500)
            # step-ca stores the certificate last, so it may have signed before it failed.
            case status if status == 408 or status >= 500:
                return CAUncertain(detail)
            case status if status >= 400:
                return CARefused(detail, status=status)
        return CABadAnswer(detail)

    def _skew(self, date: str) -> str:
        """Words about the authority's clock where it is too far from ours, for the operator to mend."""
        try:
            theirs = datetime.strptime(date, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        except ValueError:
            return ""
        skew = abs(theirs - self._clock.now())
        return f"; clocks differ by {skew.total_seconds():.0f} s" if skew > _MAX_SKEW else ""

    def _longest(self, authority: _Authority) -> timedelta:
        now = self._clock.now()
        issuers = (authority.trust.root, *authority.trust.intermediates)
        ends = [issuer.not_valid_after_utc - now for issuer in issuers]
        return min(ends if authority.longest is None else [*ends, authority.longest])

    def _new_wire(self, context: ssl.SSLContext) -> _Wire:
        return _Wire(self._url, context, self._connect_timeout, self._exchange_timeout)


def token_claims(
    *,
    issuer: str,
    audience: str,
    subject: str,
    sans: Sequence[str],
    root: x509.Certificate,
    now: datetime,
    csr: bytes | None = None,
    organization: str | None = None,
) -> dict[str, Any]:
    """All that a one-time token ever says; `csr` is DER.

    step-ca keeps used tokens for ever, so nothing personal beyond the names goes in. Since 0.27.3 `cnf`
    binds the token to the CSR. `certbob` is for the leaf template.
    """
    moment = int(now.timestamp())
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "sans": list(sans),
        "iat": moment,
        "nbf": moment,
        "exp": moment + int(_TOKEN_LIFETIME.total_seconds()),
        "jti": secrets.token_hex(32),
        "sha": _fingerprint(root),
    }
    if csr is not None:
        digest = base64.urlsafe_b64encode(hashlib.sha256(csr).digest()).decode().rstrip("=")
        claims["cnf"] = {"x5rt#S256": digest}
    if organization is not None:
        claims["certbob"] = {"o": organization}
    return claims


def go_duration(length: timedelta) -> str:
    """`43200m`: whole minutes, rounded down, as Go's time.ParseDuration reads them."""
    return f"{length // timedelta(minutes=1)}m"


def read_chain(body: bytes) -> Chain:
    """What a 201 of `/1.0/sign` brings. Raises CABadAnswer, with the leaf when it can be read."""
    try:
        answer = _parse(body)
        leaf = _certificate(answer.get("crt"))
    except ValueError as error:
        raise CABadAnswer(str(error)) from error
    try:
        pems = answer.get("certChain")
        if not isinstance(pems, list) or not 1 <= len(pems) <= _MAX_CHAIN:
            raise ValueError(f"certChain does not hold 1 to {_MAX_CHAIN} certificates")
        first, *intermediates = map(_certificate, pems)
        if first != leaf:
            raise ValueError("certChain does not begin with the certificate")
    except ValueError as error:
        raise CABadAnswer(str(error), leaf.public_bytes(Encoding.DER)) from error
    return Chain(leaf, tuple(intermediates))


def read_crl(der: bytes, signer: x509.Certificate, now: datetime) -> PublishedCrl:
    """What the signer's list says of itself; `address` is empty where it names none. Raises ValueError."""
    if len(der) > _MAX_CRL:
        raise ValueError(f"it is longer than {_MAX_CRL} bytes")
    try:
        crl = x509.load_der_x509_crl(der)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from error
    if crl.issuer != signer.subject or not _is_signed_by(crl, signer):
        raise ValueError("it is not signed by the authority's intermediate")
    if crl.next_update_utc is None:
        raise ValueError("it does not say when it ends")
    if crl.last_update_utc > now + _MAX_SKEW:
        raise ValueError("it is of the future; is a clock wrong?")
    try:
        extensions = crl.extensions
        number = extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from error
    return PublishedCrl(number, crl.last_update_utc, crl.next_update_utc, _distribution_point(extensions))


def _is_signed_by(crl: x509.CertificateRevocationList, signer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(signer.public_key())  # type: ignore[arg-type]
    except (TypeError, UnsupportedAlgorithm):
        return False


def _distribution_point(extensions: x509.Extensions) -> str:
    """The address that a list for all of people's certificates names; empty: none. Raises ValueError."""
    address = ""
    for extension in extensions:
        match extension.value:
            case x509.IssuingDistributionPoint() as scope:
                if (
                    scope.only_contains_ca_certs
                    or scope.only_contains_attribute_certs
                    or scope.only_some_reasons
                    or scope.indirect_crl
                ):
                    raise ValueError("it is not about all of people's certificates")
                names = [name.value for name in scope.full_name or () if isinstance(name.value, str)]
                address = next((name for name in names if _WEB_ADDRESS.fullmatch(name)), "")
            case _ if extension.critical:
                raise ValueError(f"it has a critical part that is not known: {extension.oid.dotted_string}")
    return address


def _template_crl_url(provisioner: Mapping[str, Any]) -> str | None:
    """`options.x509.templateData.crlURL`, as the template of docs/step-ca.md calls it."""
    found: Any = provisioner
    for name in ("options", "x509", "templateData", "crlURL"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) and _WEB_ADDRESS.fullmatch(found) else None


def _sign_body(csr: bytes, token: str, validity: timedelta) -> dict[str, str]:
    pem = x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM).decode()
    return {"csr": pem, "ott": token, "notAfter": go_duration(validity)}


async def _intermediates(wire: _Wire, root: x509.Certificate) -> tuple[x509.Certificate, ...]:
    """Those that the authority signs with. Raises CAUntrusted unless they lead to the root."""
    path = "/1.0/intermediates"
    answer = await wire.get(path)
    if answer.status == 404:  # step-ca before 0.27.3
        return ()
    try:
        chain = tuple(map(_certificate, _found(answer, path, status=201).get("crts") or ()))
        for issued, issuer in pairwise((*chain, root)):
            issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CAUntrusted("the authority's intermediates do not lead to the pinned root") from error
    return chain


def _found(answer: _Answer, path: str, *, status: int = 200) -> dict[str, Any]:
    if answer.status != status:
        raise CAUnavailable(f"GET {path} was answered {answer.status}: {_message(answer.body)}")
    try:
        return _parse(answer.body)
    except ValueError as error:
        raise CAUnavailable(f"GET {path}: {error}") from error


def _parse(body: bytes) -> dict[str, Any]:
    if len(body) > _MAX_BODY:
        raise ValueError(f"the answer is longer than {_MAX_BODY} bytes")
    return json_object(body)


def _message(body: bytes) -> str:
    """The authority's or a proxy's own words, safe in a line of a log."""
    try:
        return _printable(str(_parse(body).get("message", "")))
    except ValueError:
        return _printable(body[:_MAX_MESSAGE].decode(errors="replace"))


def _printable(text: str) -> str:
    return text[:_MAX_MESSAGE].encode("unicode_escape").decode()


def _certificate(pem: object) -> x509.Certificate:
    """Exactly one PEM block and nothing around it (RFC 7468). Raises ValueError."""
    match = _ONE_CERTIFICATE.fullmatch(pem) if isinstance(pem, str) else None
    if match is None:
        raise ValueError("not exactly one certificate in PEM form")
    try:
        return x509.load_der_x509_certificate(base64.b64decode(match[1]))
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from error


def _root(pem: object, source: object) -> x509.Certificate:
    try:
        root = _certificate(pem)
        authority = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise CAUntrusted(f"the root from {source}: {error}") from error
    if not authority:
        raise CAUntrusted(f"the root from {source} is not a certificate authority")
    return root


def _read_root(path: Path) -> x509.Certificate:
    try:
        return _root(path.read_text(errors="replace"), path)
    except OSError as error:
        raise CAUntrusted(f"the root {path} cannot be read: {error.strerror}") from error


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _context(root: x509.Certificate | None) -> ssl.SSLContext:
    """Trusts one root alone. None: trusts anybody, to ask for the root that a fingerprint then proves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if root is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=root.public_bytes(Encoding.DER))
    return context


def _from_go(parts: tuple[str | None, ...]) -> timedelta:
    hours, minutes, seconds = (float(part or 0) for part in parts)
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def _reason(error: Exception) -> str:
    return _printable(f"{type(error).__name__} {error}".strip())


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _left(deadline: float) -> float:
    return deadline - asyncio.get_running_loop().time()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Nobody may wait for it any more; asyncio would complain about a failure that nobody looked at."""
    if not task.cancelled():
        task.exception()
