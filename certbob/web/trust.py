"""What services need to accept our certificates."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from quart import Blueprint, Response

from certbob.web.context import services
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


def _pem(name: str, *certificates: x509.Certificate) -> Response:
    content = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    return _attachment(name, content, "application/x-pem-file")


def _attachment(name: str, content: bytes, media_type: str) -> Response:
    return Response(
        content, content_type=media_type, headers={"Content-Disposition": f"attachment; filename={name}"}
    )
