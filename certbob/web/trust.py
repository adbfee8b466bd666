"""What services need to accept our certificates."""

from binascii import b2a_base64

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from quart import Blueprint, Response, request

from certbob.errors import NoSuchPage
from certbob.ports import Crl
from certbob.revocation_list import RevocationList
from certbob.web.context import list_facts, services
from certbob.web.pages import page
from certbob.web.security import public

blueprint = Blueprint("trust", __name__)


@blueprint.get("/ca")
@public
async def show_ca() -> Response:
    trust = await services().ca.trust()
    return await page(
        "ca.html",
        root_subject=trust.root.subject.rfc4514_string(),
        fingerprint=trust.root.fingerprint(hashes.SHA256()).hex(":").upper(),
        not_after=trust.root.not_valid_after_utc,
        intermediates=[certificate.subject.rfc4514_string() for certificate in trust.intermediates],
        **list_facts(),
    )


@blueprint.get("/ca/root.pem")
@public
async def root_pem() -> Response:
    return _pem("root.pem", (await services().ca.trust()).root)


@blueprint.get("/ca/root.crt")
@public
async def root_crt() -> Response:
    root = (await services().ca.trust()).root
    return _attachment("root.crt", root.public_bytes(Encoding.DER), "application/x-x509-ca-cert")


@blueprint.get("/ca/chain.pem")
@public
async def chain_pem() -> Response:
    trust = await services().ca.trust()
    return _pem("chain.pem", *trust.intermediates, trust.root)


@blueprint.get("/ca/crl")
@public
async def crl() -> Response:
    """The list of revoked certificates. Services ask for it by timer, so most of them get a 304."""
    return await _crl("crl", await _revocation_list().current())


@blueprint.get("/ca/root-crl")
@public
async def root_crl() -> Response:
    """The root's list, about its intermediates: what checks whole chains wants both."""
    return await _crl("root-crl", await _root_crl())


@blueprint.get("/ca/crls.pem")
@public
async def crls_pem() -> Response:
    """Both lists in one file, as OpenSSL and what is built on it read them."""
    lists = await _revocation_list().current(), await _root_crl()
    content = b"".join(map(_crl_pem, lists))
    return await _conditional(_attachment("crls.pem", content, "application/x-pem-file"), lists[0])


def _crl_pem(crl: Crl) -> bytes:
    """RFC 7468 section 6. `cryptography` would read all of a long list first."""
    lines = (b2a_base64(crl.der[start : start + 48]) for start in range(0, len(crl.der), 48))
    return b"".join((b"-----BEGIN X509 CRL-----\n", *lines, b"-----END X509 CRL-----\n"))


def _revocation_list() -> RevocationList:
    """Raises NoSuchPage where the authority makes its own list."""
    found = services().revocation_list
    if found is None:
        raise NoSuchPage
    return found


async def _root_crl() -> Crl:
    found = await _revocation_list().root()
    if found is None:
        raise NoSuchPage
    return found


async def _crl(name: str, crl: Crl) -> Response:
    return await _conditional(_attachment(name, crl.der, "application/pkix-crl"), crl)


async def _conditional(response: Response, crl: Crl) -> Response:
    """RFC 9110 13: 304 for who has this list already, by its number alone.

    Not by time: there may be two in one second, and who asks with the time of their download would not hear
    of what was revoked just before it.
    """
    response.set_etag(f"{crl.number:x}")
    response.headers["Cache-Control"] = "no-cache"  # a cache on the way must ask, or revoking takes longer
    await response.make_conditional(request)
    response.last_modified = crl.this_update
    return response


def _pem(name: str, *certificates: x509.Certificate) -> Response:
    content = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    return _attachment(name, content, "application/x-pem-file")


def _attachment(name: str, content: bytes, media_type: str) -> Response:
    return Response(
        content, content_type=media_type, headers={"Content-Disposition": f"attachment; filename={name}"}
    )
