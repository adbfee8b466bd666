"""An OpenID Provider of our own making: good by default, and as wrong as a test wants.

    provider = HostileProvider(clock)
    provider.claims.update(aud="other", azp=provider.client_id)      # in every ID token from now on
    provider.header.update(kid=MISSING)
    provider.answers["userinfo"] = Reply(500)                        # in the place of its own answer

It knows nothing of the product: tokens are put together and signed by hand, so that any bytes are possible.
It is an ASGI application, in process behind `httpx2.ASGITransport` or on a socket with `serve_provider`.
"""

import asyncio
import base64
import functools
import hashlib
import hmac
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

import hypercorn.asyncio
import hypercorn.config
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://id.example.org"
CLIENT_ID = "certbob"
CLIENT_SECRET = "a:b+c%d/e&f=g é"  # whatever must be form-urlencoded before Basic (RFC 6749 2.3.1)
MISSING: Any = object()  # as the value of a claim, header or field: it is left out

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Signer = Callable[[bytes], bytes]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Clock(Protocol):
    def now(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Key:
    kid: str
    alg: str
    private: PrivateKey = field(repr=False)

    @property
    def jwk(self) -> dict[str, str]:
        """RFC 7517 and RFC 8037, the public half."""
        public = self.private.public_key()
        members = {"kid": self.kid, "use": "sig", "alg": self.alg}
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            return members | {"kty": "RSA", "n": _b64(_big_endian(numbers.n)), "e": _b64(b"\1\0\1")}
        if isinstance(public, ec.EllipticCurvePublicKey):
            point = public.public_numbers()
            x, y = (_b64(coordinate.to_bytes(32, "big")) for coordinate in (point.x, point.y))
            return members | {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        return members | {"kty": "OKP", "crv": "Ed25519", "x": _b64(public.public_bytes_raw())}

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        """RFC 7518 3.3 to 3.5 and RFC 8037 3.1."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            numbers = decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
            return b"".join(number.to_bytes(32, "big") for number in numbers)
        if self.alg == "PS256":
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32)
            return self.private.sign(message, pss, hashes.SHA256())
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def half_hash(self, text: str) -> str:
        """For `at_hash`: the left half of the hash that belongs to the algorithm (for Ed25519 SHA-512)."""
        name = "sha512" if isinstance(self.private, ed25519.Ed25519PrivateKey) else "sha256"
        digest = hashlib.new(name, text.encode()).digest()
        return _b64(digest[: len(digest) // 2])


def key(kid: str, alg: str = "RS256") -> Key:
    """The same one for the whole run."""
    return _made(kid, alg)


@functools.cache
def _made(kid: str, alg: str) -> Key:
    """RSA takes its time."""
    match alg:
        case "ES256":
            return Key(kid, alg, ec.generate_private_key(ec.SECP256R1()))
        case "EdDSA" | "Ed25519":
            return Key(kid, alg, ed25519.Ed25519PrivateKey.generate())
    return Key(kid, alg, rsa.generate_private_key(public_exponent=65537, key_size=2048))


def hs256(secret: bytes) -> Signer:
    return lambda message: hmac.digest(secret, message, "sha256")


def unsigned(_: bytes) -> bytes:
    return b""


def compact(header: bytes, payload: bytes, sign: Signer) -> str:
    """A JWS of exactly this header and payload."""
    message = f"{_b64(header)}.{_b64(payload)}"
    return f"{message}.{_b64(sign(message.encode()))}"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return _flat(self.body.decode())


@dataclass(frozen=True, slots=True)
class Reply:
    """`after`: what is waited for first. `silent`: it never comes.

    `dripping`: in the place of the body there is a blank every 20 ms, for ever.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: asyncio.Event | None = None
    silent: bool = False
    dripping: bool = False


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, _json(value), {"Content-Type": "application/json"})


@dataclass(frozen=True, slots=True)
class Authorization:
    """What a code stands for."""

    nonce: str
    challenge: str
    redirect_uri: str


Answer = Reply | Callable[[Request], Reply]


class HostileProvider:
    """Its own answers come from `document`, `keys` and `person`; what tests add is laid over them.

    `answers` replaces whole answers, by the name of the endpoint: discovery, jwks, token, userinfo.
    `ahead`: how far its clock is from everybody else's.
    """

    def __init__(
        self, clock: Clock, *, issuer: str = ISSUER, client_secret: str | None = CLIENT_SECRET
    ) -> None:
        self.issuer = issuer
        self.client_id = CLIENT_ID
        self.client_secret = client_secret
        self.signing = key("rsa")
        self.keys: list[dict[str, Any]] = [self.signing.jwk]
        self.person: dict[str, Any] = {
            "sub": "248289761001",
            "preferred_username": "ada",
            "name": "Ada King",
            "email": "ada@example.org",
            "email_verified": True,
            "groups": ["vpn-users"],
        }
        self.document: dict[str, Any] = {
            "issuer": issuer,
            "authorization_endpoint": self.url("authorize"),
            "token_endpoint": self.url("token"),
            "userinfo_endpoint": self.url("userinfo"),
            "jwks_uri": self.url("jwks"),
            "end_session_endpoint": self.url("end_session"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
        }
        self.header: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.sign: Signer | None = None  # None: with `signing`
        self.edit_header: Callable[[bytes], bytes] = lambda header: header
        self.edit_payload: Callable[[bytes], bytes] = lambda payload: payload
        self.edit_token: Callable[[str], Any] = lambda token: token
        self.granted: dict[str, Any] = {}  # over the fields of the token answer
        self.userinfo: dict[str, Any] = {}  # over the claims of the userinfo answer
        self.answers: dict[str, Answer] = {}
        self.ahead = timedelta()
        self.requests: list[Request] = []
        self.codes: dict[str, Authorization | None] = {}  # None: used
        self.access_tokens: list[str] = []
        self.id_tokens: list[str] = []
        self._clock = clock

    def url(self, endpoint: str) -> str:
        return f"{self.issuer.rstrip('/')}/{endpoint}"

    def now(self, **later: float) -> int:
        """Its own time, in seconds, as ID tokens have it."""
        return int((self._clock.now() + self.ahead + timedelta(**later)).timestamp())

    def asked(self, endpoint: str) -> list[Request]:
        return [request for request in self.requests if _endpoint(request) == endpoint]

    def use(self, alg: str) -> None:
        """From now on it signs like this, says so, and publishes the key."""
        self.signing = key(alg.lower(), alg)
        self.keys = [self.signing.jwk]
        self.document["id_token_signing_alg_values_supported"] = [alg]

    def authorize(self, location: str) -> str:
        """Where somebody who agrees to everything is sent back to."""
        parts = urlsplit(location)
        reply = self._answer(Request("GET", parts.path, _flat(parts.query), {}, b""))
        assert reply.status == 302, reply
        return reply.headers["Location"]

    def access_token(self) -> str:
        self.access_tokens.append(f"access-{secrets.token_urlsafe(16)}")
        return self.access_tokens[-1]

    def id_token(self, nonce: str, access_token: str) -> Any:
        claims = {
            "iss": self.issuer,
            "sub": self.person["sub"],
            "aud": self.client_id,
            "exp": self.now(minutes=5),
            "iat": self.now(),
            "nonce": nonce,
            "at_hash": self.signing.half_hash(access_token),
        }
        protected = {"alg": self.signing.alg, "kid": self.signing.kid, "typ": "JWT"}
        header = self.edit_header(_json(_over(protected, self.header)))
        payload = self.edit_payload(_json(_over(claims, self.claims)))
        token = self.edit_token(compact(header, payload, self.sign or self.signing.sign))
        if isinstance(token, str):
            self.id_tokens.append(token)
        return token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the lifespan of a server
            return
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        request = Request(
            scope["method"],
            scope["path"],
            _flat(scope["query_string"].decode()),
            {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]},
            body + message.get("body", b""),
        )
        await _send(self._answer(request), receive, send, date=self._clock.now() + self.ahead)

    def _answer(self, request: Request) -> Reply:
        self.requests.append(request)
        answer = self.answers.get(_endpoint(request), self.good)
        return answer if isinstance(answer, Reply) else answer(request)

    def good(self, request: Request) -> Reply:
        """What it says by itself, with what tests laid over it."""
        match _endpoint(request):
            case "discovery":
                return json_reply(self.document)
            case "jwks":
                return json_reply({"keys": self.keys})
            case "authorize":
                return self._authorize(request.query)
            case "token":
                return self._token(request)
            case "userinfo":
                return self._userinfo(request)
        return Reply(404)

    def _authorize(self, query: Mapping[str, str]) -> Reply:
        well_formed = (
            query.get("response_type") == "code"
            and query.get("client_id") == self.client_id
            and query.get("code_challenge_method") == "S256"
            and "openid" in query.get("scope", "").split()
        )
        if not well_formed:
            return Reply(400)
        code = secrets.token_urlsafe(16)
        self.codes[code] = Authorization(query["nonce"], query["code_challenge"], query["redirect_uri"])
        answer = {"code": code, "state": query["state"]}
        if self.document.get("authorization_response_iss_parameter_supported"):
            answer["iss"] = self.issuer
        return Reply(302, headers={"Location": f"{query['redirect_uri']}?{urlencode(answer)}"})

    def _token(self, request: Request) -> Reply:
        if not self._is_client(request):
            return json_reply({"error": "invalid_client"}, 401)
        form = request.form
        granted = self.codes.get(form.get("code", ""))
        challenge = _b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        fits = granted and (challenge, form.get("redirect_uri")) == (granted.challenge, granted.redirect_uri)
        if not granted or not fits or form.get("grant_type") != "authorization_code":
            return json_reply({"error": "invalid_grant"}, 400)
        self.codes[form["code"]] = None
        access_token = self.access_token()
        answer = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": 300,
            "id_token": self.id_token(granted.nonce, access_token),
        }
        return json_reply(_over(answer, self.granted))

    def _is_client(self, request: Request) -> bool:
        """By exactly one of the methods that it offers."""
        form, header = request.form, request.headers.get("authorization", "")
        offered = self.document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if self.client_secret is None:
            return not header and form.get("client_id") == self.client_id and "client_secret" not in form
        if header.startswith("Basic ") and "client_secret" not in form:
            user, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
            sent, method = (unquote_plus(user), unquote_plus(password)), "client_secret_basic"
        else:
            sent, method = (form.get("client_id", ""), form.get("client_secret", "")), "client_secret_post"
        return method in offered and sent == (self.client_id, self.client_secret)

    def _userinfo(self, request: Request) -> Reply:
        """The token in the header and nowhere else (RFC 6750 2.1)."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.access_tokens or request.body or request.query:
            return Reply(401, headers={"WWW-Authenticate": "Bearer"})
        return json_reply(_over(self.person, self.userinfo))


@asynccontextmanager
async def serve_provider(
    clock: Clock, *, host: str = "127.0.0.1", tls: tuple[Path, Path] | None = None
) -> AsyncIterator[HostileProvider]:
    """On a port of loopback. `tls`: files of a certificate chain and its key; `host`: in its addresses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        scheme, port = "https" if tls else "http", listener.getsockname()[1]
        provider = HostileProvider(clock, issuer=f"{scheme}://{host}:{port}")
        config = hypercorn.config.Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.errorlog = None
        config.graceful_timeout = 0.1  # silent and dripping answers never end by themselves
        if tls:
            config.certfile, config.keyfile = map(str, tls)
        stop = asyncio.Event()
        serving = asyncio.create_task(
            hypercorn.asyncio.serve(provider, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
        )
        try:
            yield provider
        finally:
            stop.set()
            await serving


async def _send(reply: Reply, receive: Receive, send: Send, *, date: datetime) -> None:
    if reply.after is not None:
        await reply.after.wait()
    if reply.silent:
        await receive()  # until the other side has gone
        return
    headers = {"Date": format_datetime(date.astimezone(UTC), usegmt=True), **reply.headers}
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )
    while reply.dripping:
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        with suppress(TimeoutError):
            await asyncio.wait_for(receive(), 0.02)
            return  # the other side has gone
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


def _endpoint(request: Request) -> str:
    """The last part of its path, below whatever path the issuer has."""
    name = request.path.rpartition("/")[2]
    return "discovery" if name == "openid-configuration" else name


def _over(good: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**good, **changes}.items() if value is not MISSING}


def _flat(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
