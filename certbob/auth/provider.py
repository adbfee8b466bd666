"""An OpenID Provider as CertBob uses it: its metadata, its keys, a code exchanged for what it vouches for.

No answer of it is trusted: each is capped, in time, never redirected, never decompressed and read strictly.
Addresses come from the checked metadata only, never from a token or a claim.
"""

import base64
import logging
import secrets
from collections.abc import Awaitable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote_plus

import httpx2
from authlib.common.urls import add_params_to_uri
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from joserfc.errors import JoseError
from joserfc.jwk import Key, import_key

from certbob.auth.id_token import NotAccepted, read_header, verified_claims
from certbob.auth.metadata import Metadata
from certbob.outgoing import HEADERS, Shared, UnfitAnswer, WholeAnswers, in_time
from certbob.ports import Clock
from certbob.secret import Secret
from certbob.strict_json import json_object

T = TypeVar("T")

CONNECT_SECONDS, ANSWER_SECONDS = 3, 5
METADATA_AGE = timedelta(seconds=3)  # within 5 s of its end nobody is sent to a provider that is gone
KEYS_AGE = timedelta(minutes=10)
REFETCH_KEYS_EVERY = timedelta(minutes=1)
COMPLAIN_EVERY = timedelta(minutes=1)
SHORTEST_PAUSE, LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=1)
MAX_HINT_LENGTH = 2048  # it travels in an address

_NOTHING = timedelta(0)

log = logging.getLogger(__name__)


class ProviderProblem(Exception):
    """The provider answered with something that cannot be used; the message is for the operator's log."""


class Unreachable(ProviderProblem):
    """It did not answer."""


class Misconfigured(ProviderProblem):
    """It does not accept CertBob as the client that it says it is."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """What the provider says about one person. Both sets of claims are of the same `sub`."""

    id_token: str = field(repr=False)
    claims: Mapping[str, Any]  # of the ID token
    userinfo: Mapping[str, Any]


class OpenIDProvider:
    """Nothing is fetched before the first call. Without `client_secret` CertBob is a public client.

    `scopes` empty: the usual ones, as far as the provider lists them.
    """

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        client_secret: Secret | None,
        scopes: tuple[str, ...],
        clock: Clock,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._scopes = scopes
        self._clock = clock
        self._transport = WholeAnswers(transport)
        self._timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        self._http = httpx2.AsyncClient(
            transport=self._transport, timeout=self._timeout, trust_env=False, headers=HEADERS
        )
        self._metadata: Metadata | None = None
        self._looked_at: datetime | None = None
        self._pause = _NOTHING
        self._trouble: str | None = None
        self._refusal: str | None = None
        self._complained_at: datetime | None = None
        self._keys: tuple[Key, ...] = ()
        self._keys_fetched_at: datetime | None = None
        self._keys_refetched_at: datetime | None = None
        self._look = Shared(self._look_at_metadata)
        self._fetch_keys = Shared(self._read_keys)

    async def reach(self) -> Metadata:
        """The metadata of a provider that answered a few seconds ago. Raises Unreachable, ProviderProblem.

        Asked so often because somebody is about to be sent there, where nobody could tell them anything.
        """
        if self._is_due():
            await self._look.join()
        if self._metadata is None or self._trouble is not None:
            raise Unreachable(self._trouble or "nothing is known yet")
        return self._metadata

    def trouble(self) -> str | None:
        """What is wrong, for the operator. Does not wait."""
        return self._refusal if not self.is_away() else self._trouble

    def is_away(self) -> bool:
        """As the last look found it. Does not wait; a new look is begun when it is time for one."""
        if self._is_due():
            self._look.start()
        return self._trouble is not None

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where a person signs in (OpenID Connect Core 3.1.2.1, RFC 7636). Raises ProviderProblem."""
        metadata = await self.reach()
        url, _ = self._oauth_client(metadata, redirect_uri).create_authorization_url(
            metadata.authorization_endpoint, state=state, nonce=nonce, code_verifier=verifier
        )
        return str(url)

    def end_session_url(self, id_token: str | None, *, return_to: str) -> str | None:
        """Where the session at the provider ends (OpenID Connect RP-Initiated Logout 1.0 section 2)."""
        if self._metadata is None or self._metadata.end_session_endpoint is None:
            return None
        # Nothing of ours hangs on the way back, so nobody looks at the state; some providers want one.
        parameters = [
            ("client_id", self._client_id),
            ("post_logout_redirect_uri", return_to),
            ("state", secrets.token_urlsafe(16)),
        ]
        if id_token is not None and len(id_token) <= MAX_HINT_LENGTH:
            parameters.append(("id_token_hint", id_token))
        return str(add_params_to_uri(self._metadata.end_session_endpoint, parameters))

    async def names_issuer(self) -> bool:
        """Whether its answers must say from whom they are (RFC 9207). Raises ProviderProblem."""
        return (await self._known()).names_issuer

    async def redeem(self, code: str, *, redirect_uri: str, nonce: str, verifier: str) -> Vouched:
        """Exchange the code. Raises ProviderProblem, NotAccepted."""
        metadata = await self._known()
        try:
            id_token, access_token = await self._tokens(metadata, code, redirect_uri, verifier)
        except Misconfigured as problem:
            self._refusal = str(problem)
            self._complain(self._refusal)
            raise
        self._refusal = None
        header = read_header(id_token, metadata.algorithms)
        claims = verified_claims(
            id_token,
            header,
            await self._key(header.get("kid")),
            issuer=self.issuer,
            client_id=self._client_id,
            nonce=nonce,
            access_token=access_token,
            now=self._clock.now(),
        )
        userinfo = await self._userinfo(metadata.userinfo_endpoint, access_token, claims["sub"])
        return Vouched(id_token, claims, userinfo)

    async def close(self) -> None:
        await self._look.cancel()
        await self._fetch_keys.cancel()
        await self._http.aclose()
        await self._transport.close()

    async def _known(self) -> Metadata:
        """As last read: whoever comes back was sent there with it. Raises ProviderProblem."""
        return self._metadata or await self.reach()

    def _is_due(self) -> bool:
        # A clock that was set back must not make the pause longer.
        pause = METADATA_AGE if self._trouble is None else self._pause
        return self._looked_at is None or not _NOTHING <= self._clock.now() - self._looked_at < pause

    async def _look_at_metadata(self) -> None:
        try:
            url = f"{self.issuer.removesuffix('/')}/.well-known/openid-configuration"
            metadata = self._checked(await self._json(url))
        except ProviderProblem as problem:
            if isinstance(problem, Unreachable) or self._metadata is None:
                self._trouble = str(problem)
                self._pause = min(max(SHORTEST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
            self._complain(str(problem))
        else:
            if self._trouble is not None:
                log.info("the sign-in service %s is in order again", self.issuer)
            for remark in metadata.remarks if metadata != self._metadata else ():
                log.warning("the sign-in service %s: %s", self.issuer, remark)
            self._metadata, self._trouble, self._pause = metadata, None, _NOTHING
        self._looked_at = self._clock.now()

    def _checked(self, document: Mapping[str, Any]) -> Metadata:
        try:
            return Metadata.of(document, self.issuer)
        except ValueError as error:
            raise ProviderProblem(str(error)) from error

    async def _tokens(
        self, metadata: Metadata, code: str, redirect_uri: str, verifier: str
    ) -> tuple[str, str]:
        """ID token and access token (RFC 6749 4.1.3). Whatever else is in the answer is dropped."""
        client = self._oauth_client(metadata, redirect_uri)
        try:
            answer = await self._in_time(
                client.fetch_token(
                    metadata.token_endpoint,
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=verifier,
                )
            )
        except OAuthError as error:
            is_about_us = error.error in ("invalid_client", "unauthorized_client")
            kind = Misconfigured if is_about_us else ProviderProblem
            raise kind(f"its token endpoint says {error.error!r:.100}: {error.description!r:.300}") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise ProviderProblem(f"its token endpoint's answer cannot be used: {error}") from error
        if str(answer.get("token_type")).lower() != "bearer":
            raise ProviderProblem("its token endpoint gave no Bearer token")
        tokens = answer.get("id_token"), answer.get("access_token")
        if not all(isinstance(token, str) and token and token.isascii() for token in tokens):
            raise ProviderProblem("its token endpoint gave no ID token and access token")
        return tokens

    def _oauth_client(self, metadata: Metadata, redirect_uri: str) -> AsyncOAuth2Client:
        """One for each use, because it keeps the tokens that it fetched."""
        secret = self._client_secret
        method = "client_secret_post" if metadata.secret_in_body else "client_secret_basic"
        client = AsyncOAuth2Client(
            client_id=self._client_id,
            client_secret=secret.reveal() if secret else None,
            token_endpoint_auth_method=method if secret else "none",
            scope=" ".join(self._scopes or metadata.usual_scopes),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            transport=self._transport,
            timeout=self._timeout,
            trust_env=False,
            headers=HEADERS,
        )
        client.register_client_auth_method(("client_secret_basic", _basic))
        client.register_compliance_hook("access_token_response", _require_success)
        return client

    async def _key(self, kid: object) -> Key:
        """The one key of this id; without an id the only key that there is. Raises NotAccepted."""
        now = self._clock.now()
        if self._keys_fetched_at is None or not _NOTHING <= now - self._keys_fetched_at < KEYS_AGE:
            await self._fetch_keys.join()
        key = self._fitting(kid)
        if key is None and (
            self._fetch_keys.is_running
            or self._keys_refetched_at is None
            or not _NOTHING <= now - self._keys_refetched_at < REFETCH_KEYS_EVERY
        ):
            self._keys_refetched_at = now
            await self._fetch_keys.join()
            key = self._fitting(kid)
        if key is None:
            raise NotAccepted("the ID token does not name one of the provider's keys")
        return key

    def _fitting(self, kid: object) -> Key | None:
        fitting = [key for key in self._keys if kid is None or key.kid == kid]
        return fitting[0] if len(fitting) == 1 else None

    async def _read_keys(self) -> None:
        metadata = await self._known()
        told = (await self._json(metadata.jwks_uri)).get("keys")
        if not isinstance(told, list):
            raise ProviderProblem("its key set has no list of keys")
        self._keys = tuple(key for key in map(_signature_key, told) if key is not None)
        self._keys_fetched_at = self._clock.now()

    async def _userinfo(self, endpoint: str | None, access_token: str, subject: str) -> Mapping[str, Any]:
        """OpenID Connect Core 5.3. Raises ProviderProblem, NotAccepted."""
        if endpoint is None:
            return {}
        userinfo = await self._json(endpoint, {"Authorization": f"Bearer {access_token}"})
        if userinfo.get("sub") != subject:
            raise NotAccepted("the userinfo is about somebody else than the ID token")
        return userinfo

    async def _json(self, url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Raises Unreachable, ProviderProblem."""
        answer = await self._in_time(self._http.get(url, headers=headers))
        if answer.status_code != 200:
            raise ProviderProblem(f"{url} answered {answer.status_code}")
        try:
            return json_object(answer.content)
        except ValueError as error:
            raise ProviderProblem(f"{url} did not answer a JSON object: {error}") from error

    async def _in_time(self, request: Awaitable[T]) -> T:
        """Raises Unreachable, ProviderProblem."""
        try:
            return await in_time(request, ANSWER_SECONDS)
        except UnfitAnswer as error:
            raise ProviderProblem(str(error)) from error
        except (httpx2.HTTPError, OSError, TimeoutError) as error:
            reason = "it does not answer in time" if isinstance(error, TimeoutError) else str(error)
            raise Unreachable(f"{self.issuer}: {reason or type(error).__name__}") from error

    def _complain(self, trouble: str) -> None:
        """Once a minute: clicks must not fill the log."""
        now = self._clock.now()
        if self._complained_at is None or not _NOTHING <= now - self._complained_at < COMPLAIN_EVERY:
            self._complained_at = now
            log.warning("the sign-in service %s: %s", self.issuer, trouble)


def _basic(
    client: Any, _method: str, uri: str, headers: MutableMapping[str, str], body: str
) -> tuple[str, MutableMapping[str, str], str]:
    """client_secret_basic as RFC 6749 2.3.1 has it: both form-urlencoded first, which Authlib leaves out."""
    pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
    headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return uri, headers, body


def _require_success(response: httpx2.Response) -> httpx2.Response:
    """Authlib takes tokens out of an answer of any status. Raises OAuthError, ValueError."""
    answer = json_object(response.content) if response.content else {}
    if response.status_code != 200 and "error" in answer:
        raise OAuthError(answer["error"], answer.get("error_description"))
    if response.status_code != 200:
        raise ValueError(f"status {response.status_code}")
    return response


def _signature_key(jwk: object) -> Key | None:
    """None for a key that is not for signatures, or of a kind we do not know: providers publish others."""
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    if jwk.get("use", "sig") != "sig":
        return None
    try:
        return import_key(jwk)
    except (JoseError, ValueError, TypeError):
        return None
