"""A step-ca of our own making, over real TLS on loopback: good by default, and as wrong as a test wants.

    async with FakeStepCA() as authority:
        authority.answers["/1.0/sign"] = Reply(502, b"<html>")     # from now on
        authority.answers["/1.0/sign"] = [Reply(429), GOOD]         # one after the other, the last one stays

Its good answers are held against the real authority in `tests/ca/test_stepca_real.py`. The probe for the
longest validity has a path of its own here, "probe": a test that breaks `/1.0/sign` does not break the start.
"""

import asyncio
import hashlib
import ipaddress
import json
import ssl
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certbob.ca.stepca import StepCA
from certbob.secret import Secret
from tests.support.clock import FakeClock
from tests.support.stepca import PASSWORD, PKI, encode, jwk_provisioner, key_pem, make_pki, pem

UNAUTHORIZED = (
    "The request lacked necessary authorization to be completed. "
    "Please see the certificate authority logs for more info."
)
FORBIDDEN = "The request was forbidden by the certificate authority:"
NO_CRL = (
    "The certificate authority received an unexpected HTTP status code - '404'. "
    "Please see the certificate authority logs for more info."
)
BACKDATE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


@dataclass(frozen=True, slots=True)
class Reply:
    """`cut`: the connection closes after so many bytes of head and body. `after`: what is waited for first.

    `framed`: with Content-Length; otherwise the end of the connection is the end of the body. `endless`
    follows the body a hundred times a second.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    framed: bool = True
    cut: int | None = None
    after: asyncio.Event | None = None
    endless: bytes = b""

    def wire(self, now: datetime) -> bytes:
        headers = {
            "Content-Type": "application/json",
            "Date": format_datetime(now, usegmt=True),
            **({"Content-Length": str(len(self.body))} if self.framed else {"Connection": "close"}),
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} Status", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def unverified_claims(request: Request) -> dict[str, Any]:
    """Of the one-time token in a request."""
    claims: dict[str, Any] = jwt.decode(request.json["ott"], options={"verify_signature": False})
    return claims


def json_reply(status: int, value: Any, **options: Any) -> Reply:
    return Reply(status, json.dumps(value).encode(), **options)


def refusal(status: int, message: str, **options: Any) -> Reply:
    """The one form in which step-ca says no."""
    return json_reply(status, {"status": status, "message": message}, **options)


Handler = Callable[[Request], Reply]
Answer = Reply | Handler


class FakeStepCA:
    """`limit` is the provisioner's longest validity, `clock` the authority's and its clients' time."""

    def __init__(
        self,
        pki: PKI | None = None,
        *,
        limit: timedelta = timedelta(hours=24),
        host: str = "127.0.0.1",
    ) -> None:
        self.pki = pki or make_pki("Fake")
        self.limit = limit
        self.clock = FakeClock(datetime.now(UTC).replace(microsecond=0))
        self.provisioner = jwk_provisioner("certbob")
        self.publishes_crl = True
        self.tls = tls_context(self.pki, host)
        self.requests: list[Request] = []
        self.connections = 0
        self.issued: list[x509.Certificate] = []
        self.answers: dict[str, Answer | list[Answer]] = {}
        self._used_tokens: set[str] = set()
        self._revoked: set[str] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: list[StepCA] = []
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()
        await self.stop()

    async def start(self) -> None:
        """Listens; on the same port again after `stop`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self.tls)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"https://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def client(self, **settings: Any) -> StepCA:
        """CertBob's adapter for this authority, without pauses between its tries; closed at the end."""
        defaults = {
            "url": self.url,
            "root": self.pki.fingerprint,
            "provisioner": "certbob",
            "password": Secret(PASSWORD),
            "clock": self.clock,
            "retry_pauses": (0, 0),
        }
        client = StepCA(**{**defaults, **settings})
        self._clients.append(client)
        return client

    def asked(self, path: str) -> list[Request]:
        """What reached one path; the probe is not among "/1.0/sign"."""
        return [request for request in self.requests if self._route(request) == path]

    def tokens(self) -> list[dict[str, Any]]:
        """The unverified claims of every token that came with a CSR of somebody."""
        return [unverified_claims(request) for request in self.asked("/1.0/sign")]

    def good(self, request: Request) -> Reply:
        """What a real step-ca answers."""
        match self._route(request).removeprefix("/1.0").split("/")[1:]:
            case ["health"]:
                return json_reply(200, {"status": "ok"})
            case ["root", fingerprint]:
                if fingerprint.replace("-", "").lower() == self.pki.fingerprint:
                    return json_reply(200, {"ca": pem(self.pki.root)})
                return refusal(404, f'root certificate with fingerprint "{fingerprint}" was not found')
            case ["intermediates"]:
                return json_reply(201, {"crts": [pem(self.pki.intermediate)]})
            case ["provisioners"]:
                return json_reply(200, {"provisioners": [self.provisioner], "nextCursor": ""})
            case ["sign"] | ["probe"]:
                return self._sign(request)
            case ["revoke"]:
                return self._revoke(request)
            case ["crl"] if self.publishes_crl:
                return crl_reply(sign_crl(self.pki, self.clock.now(), f"{self.url}/1.0/crl"))
            case ["crl"]:
                return refusal(404, NO_CRL)
        return Reply(404, b"404 page not found\n", {"Content-Type": "text/plain"})

    def certify(self, request: Request, **changes: Any) -> x509.Certificate:
        """The leaf for a request to sign; `changes` go to `sign_leaf`."""
        claims = unverified_claims(request)
        minutes = int(request.json["notAfter"].removesuffix("m"))
        csr = x509.load_pem_x509_csr(request.json["csr"].encode())
        leaf = sign_leaf(self.pki, csr, claims, timedelta(minutes=minutes), now=self.clock.now(), **changes)
        self.issued.append(leaf)
        return leaf

    def chain_reply(self, leaf: x509.Certificate, **fields: Any) -> Reply:
        """201 as the real one sends it; `fields` override those of the JSON."""
        leaf_pem, intermediate = pem(leaf), pem(self.pki.intermediate)
        value = {"crt": leaf_pem, "ca": intermediate, "certChain": [leaf_pem, intermediate], "tlsOptions": {}}
        return json_reply(201, {**value, **fields})

    def _route(self, request: Request) -> str:
        if request.path == "/1.0/sign" and request.json.get("notAfter") == "120000000m":
            return "/1.0/probe"
        return request.path

    def _sign(self, request: Request) -> Reply:
        csr = x509.load_pem_x509_csr(request.json["csr"].encode())
        claims = self._authorize(request.json["ott"], "/1.0/sign")
        if claims is None:
            return refusal(401, UNAUTHORIZED)
        if claims["cnf"]["x5rt#S256"] != encode(hashlib.sha256(csr.public_bytes(Encoding.DER)).digest()):
            expected = claims["cnf"]["x5rt#S256"]
            return refusal(403, f'{FORBIDDEN} certificate request fingerprint does not match "{expected}".')
        asked = timedelta(minutes=int(request.json["notAfter"].removesuffix("m")))
        if asked > self.limit:
            return too_long(asked, self.limit)
        return self.chain_reply(self.certify(request))

    def _revoke(self, request: Request) -> Reply:
        serial = request.json["serial"]
        claims = self._authorize(request.json["ott"], "/1.0/revoke")
        if claims is None:
            return refusal(401, UNAUTHORIZED)
        if claims["sub"] != serial:
            words = f'request serial number "{serial}" and token subject "{claims["sub"]}" do not match.'
            return refusal(403, f"{FORBIDDEN} {words}")
        if serial in self._revoked:
            words = f"certificate with serial number '{serial}' is already revoked."
            return refusal(400, f"The request could not be completed: {words}")
        self._revoked.add(serial)
        return json_reply(200, {"status": "ok"})

    def _authorize(self, token: str, path: str) -> dict[str, Any] | None:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                jwt.PyJWK(self.provisioner["key"]),
                algorithms=[self.provisioner["key"]["alg"]],
                audience=self.url + path,
                issuer=self.provisioner["name"],
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.PyJWTError:
            return None
        now, leeway = self.clock.now().timestamp(), 60
        fresh = (
            claims["nbf"] - leeway <= now < claims["exp"] + leeway and claims["jti"] not in self._used_tokens
        )
        self._used_tokens.add(claims["jti"])
        known = jwt.get_unverified_header(token)["kid"] == self.provisioner["key"]["kid"]
        return claims if fresh and known else None

    def _reply(self, request: Request) -> Reply:
        answer = self.answers.get(self._route(request), self.good)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer if isinstance(answer, Reply) else answer(request)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side or the test is done
        finally:
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; whether the connection is kept."""
        request = await _read(reader)
        self.requests.append(request)
        reply = self._reply(request)
        if reply.after is not None:
            await reply.after.wait()
        wire = reply.wire(self.clock.now())
        writer.write(wire[: reply.cut])
        while reply.endless:
            writer.write(reply.endless)
            await writer.drain()
            await asyncio.sleep(0.01)
        await writer.drain()
        if reply.cut is None and reply.framed:
            return True
        writer.close()
        return False


def too_long(asked: timedelta, limit: timedelta) -> Reply:
    stated, allowed = _go(asked + BACKDATE), _go(limit + BACKDATE)
    return refusal(
        403,
        f"{FORBIDDEN} requested duration of {stated} is more than "
        f"the authorized maximum certificate duration of {allowed}.",
    )


def sign_leaf(
    pki: PKI,
    csr: x509.CertificateSigningRequest,
    claims: Mapping[str, Any],
    validity: timedelta,
    *,
    now: datetime | None = None,
    common_name: str | None = None,
    public_key: ec.EllipticCurvePublicKey | None = None,
) -> x509.Certificate:
    """As step-ca's default template makes it: serverAuth and clientAuth."""
    start = (now or datetime.now(UTC)).replace(microsecond=0) - BACKDATE
    names = [
        x509.RFC822Name(name) if "@" in name else x509.UniformResourceIdentifier(name)
        for name in claims["sans"]
    ]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    key = public_key or csr.public_key()
    issuer_key = pki.intermediate_key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or claims["sub"])]))
        .issuer_name(pki.intermediate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + BACKDATE + validity)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        .sign(pki.intermediate_key, hashes.SHA256())
    )


def sign_crl(
    pki: PKI,
    now: datetime,
    address: str | None = None,
    *,
    lifetime: timedelta = timedelta(days=1),
    number: int | None = 0,
    revoked: Sequence[x509.RevokedCertificate] = (),
    key: ec.EllipticCurvePrivateKey | None = None,
    issuer: x509.Name | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    **scope: Any,
) -> bytes:
    """DER, as step-ca makes it; `scope` changes its IssuingDistributionPoint."""
    builder = (
        x509.CertificateRevocationListBuilder(revoked_certificates=list(revoked))
        .issuer_name(issuer or pki.intermediate.subject)
        .last_update(now)
        .next_update(now + lifetime)
    )
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(pki.intermediate_key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    if address is not None:
        point: dict[str, Any] = {
            "full_name": [x509.UniformResourceIdentifier(address)],
            "relative_name": None,
            "only_contains_user_certs": False,
            "only_contains_ca_certs": False,
            "only_some_reasons": None,
            "indirect_crl": False,
            "only_contains_attribute_certs": False,
        }
        builder = builder.add_extension(x509.IssuingDistributionPoint(**point | scope), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key or pki.intermediate_key, hashes.SHA256()).public_bytes(Encoding.DER)


def crl_reply(crl: bytes) -> Reply:
    return Reply(200, crl, {"Content-Type": "application/pkix-crl"})


def tls_context(pki: PKI, host: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
    """A server certificate for `host`, below the PKI's intermediate."""
    key = ec.generate_private_key(ec.SECP256R1())
    end = datetime.now(UTC) + timedelta(hours=-1 if expired else 24)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Step Online CA")]))
        .issuer_name(pki.intermediate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(hours=25))
        .not_valid_after(end)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(pki.intermediate_key.public_key()),
            critical=False,
        )
        .sign(pki.intermediate_key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        chain = Path(directory, "chain.pem")
        chain.write_text(key_pem(key) + pem(certificate, pki.intermediate))
        context.load_cert_chain(chain)
    return context


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    return Request(method, parts.path, parse_qs(parts.query), headers, body)


def _go(length: timedelta) -> str:
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    return f"{minutes // 60}h{minutes % 60}m{seconds}s"
