"""The embedded authority: a root, an intermediate below it, and a folder that holds them.

    ca/root.pem  ca/root.key  ca/intermediate.pem  ca/intermediate.key

Made at the first start. Keys are PKCS #8, 0600, encrypted where a passphrase is configured; CertBob refuses
to start when anybody else could read them.
"""

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from certbob import keys, lint
from certbob.ca import pkcs8
from certbob.errors import CABadAnswer, CannotStart, CARefused
from certbob.ports import Chain, Clock, LeafRules, Revoked, Signers, SigningRequest, Trust
from certbob.private_files import require_private, write_private
from certbob.profiles import KeyType
from certbob.secret import Secret

ROOT_LIFETIME = timedelta(days=20 * 365)
INTERMEDIATE_LIFETIME = timedelta(days=10 * 365)
_REASONS = {
    1: x509.ReasonFlags.key_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    9: x509.ReasonFlags.privilege_withdrawn,
}
_RESTORE = "Restore the folder from your last backup."

AuthorityKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """The certificates, and the key that signs leaves (DER, PKCS #8)."""

    root: x509.Certificate
    intermediate: x509.Certificate
    key: bytes = field(repr=False)
    root_key: bytes | None = field(repr=False, default=None)  # operators may keep it elsewhere


class BuiltinCA:
    """Implements `ports.CertificateAuthority` and `ports.CrlSigner`.

    `crl_url`: where certificates say that the list of revoked ones is.
    """

    rules = LeafRules(exact=True)

    def __init__(
        self, authority: Authority, *, signers: Signers, clock: Clock, crl_url: str | None = None
    ) -> None:
        self.rules = LeafRules(exact=True, crl_url=crl_url)
        self._authority = authority
        self._signers = signers
        self._clock = clock

    async def sign(self, request: SigningRequest) -> Chain:
        now = self._clock.now()
        longest = await self.longest_validity()
        if request.validity > longest:
            raise CARefused(f"{request.validity} is longer than the authority itself is valid")
        leaf = await self._signers.run(
            sign_leaf,
            request,
            crl_url=self.rules.crl_url,
            now=now,
            issuer=self._authority.intermediate.public_bytes(Encoding.DER),
            issuer_key=self._authority.key,
        )
        return Chain(x509.load_der_x509_certificate(leaf), (self._authority.intermediate,))

    async def sign_crl(
        self, revoked: Sequence[Revoked], *, number: int, this_update: datetime, next_update: datetime
    ) -> bytes:
        return await self._signers.run(
            sign_crl,
            tuple(revoked),
            number=number,
            this_update=this_update,
            next_update=next_update,
            issuer=self._authority.intermediate.public_bytes(Encoding.DER),
            issuer_key=self._authority.key,
        )

    async def sign_root_crl(
        self, *, number: int, this_update: datetime, next_update: datetime
    ) -> bytes | None:
        if self._authority.root_key is None:
            return None
        return await self._signers.run(
            sign_crl,
            (),
            number=number,
            this_update=this_update,
            next_update=next_update,
            issuer=self._authority.root.public_bytes(Encoding.DER),
            issuer_key=self._authority.root_key,
        )

    async def trust(self) -> Trust:
        return Trust(self._authority.root, (self._authority.intermediate,))

    async def longest_validity(self) -> timedelta:
        ends = min(self._authority.intermediate.not_valid_after_utc, self._authority.root.not_valid_after_utc)
        return max(ends - self._clock.now(), timedelta(0))

    async def health(self) -> str | None:
        if await self.longest_validity() < timedelta(days=1):
            return "the authority's own certificate ends within a day"
        return None

    async def close(self) -> None:
        """Nothing to close."""


def sign_leaf(
    request: SigningRequest, *, crl_url: str | None = None, now: datetime, issuer: bytes, issuer_key: bytes
) -> bytes:
    """The leaf, DER. Runs in a signer.

    A copy signed by a throwaway key is linted first: what our own key has signed cannot be taken back.
    """
    if findings := lint.check_request(request):
        raise CARefused("; ".join(findings))
    builder = _leaf(request, crl_url, now=now, issuer=x509.load_der_x509_certificate(issuer))
    copy = builder.sign(keys.generate(KeyType.P256), hashes.SHA256())
    rules = LeafRules(exact=True, crl_url=crl_url)
    if findings := lint.check_leaf(copy, request, rules, now=now):
        raise CARefused("; ".join(findings))
    return builder.sign(_authority_key(issuer_key), hashes.SHA256()).public_bytes(Encoding.DER)


def sign_crl(
    revoked: Sequence[Revoked],
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    issuer: bytes,
    issuer_key: bytes,
) -> bytes:
    """The list, DER, version 2 (RFC 5280 5.1). Runs in a signer."""
    certificate = x509.load_der_x509_certificate(issuer)
    builder = (
        # All at once: adding one copies those before, which takes long for many.
        x509.CertificateRevocationListBuilder(revoked_certificates=[_crl_entry(each) for each in revoked])
        .issuer_name(certificate.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(_authority_key_identifier(certificate), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    crl = builder.sign(_authority_key(issuer_key), hashes.SHA256())
    if findings := lint.check_crl(crl, certificate, {each.serial for each in revoked}):
        raise CABadAnswer("; ".join(findings))
    return crl.public_bytes(Encoding.DER)


def _crl_entry(revoked: Revoked) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(revoked.serial)
        .revocation_date(revoked.revoked_at.replace(microsecond=0))
    )
    if revoked.reason_code:  # RFC 5280 5.3.1: unspecified is said by saying nothing
        builder = builder.add_extension(x509.CRLReason(_REASONS[revoked.reason_code]), critical=False)
    return builder.build()


def _leaf(
    request: SigningRequest, crl_url: str | None, *, now: datetime, issuer: x509.Certificate
) -> x509.CertificateBuilder:
    csr = x509.load_der_x509_csr(request.csr)
    start = now.replace(microsecond=0) - lint.BACKDATE
    builder = (
        x509.CertificateBuilder()
        .subject_name(lint.distinguished_name(request.common_name, request.organization))
        .issuer_name(issuer.subject)
        .public_key(csr.public_key())
        .serial_number(_serial_number())
        .not_valid_before(start)
        # RFC 5280 4.1.2.5: the last second still counts.
        .not_valid_after(start + request.validity - timedelta(seconds=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(lint.digital_signature_only(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([x509.ObjectIdentifier(usage.oid) for usage in request.usages]),
            critical=False,
        )
        .add_extension(lint.subject_alternative_name(request), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )
    if crl_url is None:
        return builder
    return builder.add_extension(lint.crl_distribution_points(crl_url), critical=False)


def _serial_number() -> int:
    """128 random bits, never zero in front: every number has the same length."""
    return 1 << 127 | secrets.randbits(127)


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _authority_key(der: bytes) -> AuthorityKey:
    key = load_der_private_key(der, password=None)
    if not isinstance(key, AuthorityKey):
        raise TypeError("the authority's key is neither an elliptic-curve nor an RSA key")
    return key


def open_authority(
    folder: Path,
    *,
    name: str,
    organization: str | None,
    key_type: KeyType,
    passphrase: Secret | None,
    now: datetime,
) -> Authority:
    """The authority in this folder; made when the folder does not exist. Blocking.

    Raises CannotStart when it cannot be read, or when others could read its keys.
    """
    if not folder.exists():
        _create(
            folder, name=name, organization=organization, key_type=key_type, passphrase=passphrase, now=now
        )
    require_private(folder)
    try:
        for path in sorted(folder.glob("*.key")):
            require_private(path)
            _require_protection(path, passphrase)
        root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
        intermediate = x509.load_pem_x509_certificate((folder / "intermediate.pem").read_bytes())
        key = _load_key(folder / "intermediate.key", passphrase)
        root_file = folder / "root.key"
        root_key = _load_key(root_file, passphrase) if root_file.exists() else None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CannotStart(f"The authority in {folder} cannot be read: {error}.", _RESTORE) from error
    try:
        intermediate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CannotStart(f"{folder}/intermediate.pem does not belong to root.pem.", _RESTORE) from error
    if intermediate.public_key() != key.public_key():
        raise CannotStart(f"{folder}/intermediate.key does not belong to intermediate.pem.", _RESTORE)
    if root_key is not None and root.public_key() != root_key.public_key():
        raise CannotStart(f"{folder}/root.key does not belong to root.pem.", _RESTORE)
    return Authority(
        root,
        intermediate,
        keys.private_key_bytes(key),
        keys.private_key_bytes(root_key) if root_key else None,
    )


def _require_protection(path: Path, passphrase: Secret | None) -> None:
    protected = _is_protected(path.read_bytes())
    if protected and passphrase is None:
        raise CannotStart(
            f"{path} is protected by a passphrase.",
            "Set [builtin] passphrase, passphrase_file or BUILTIN_PASSPHRASE.",
        )
    if passphrase is not None and not protected:
        raise CannotStart(
            f"{path} is not protected, though [builtin] passphrase is set.",
            f"Encrypt it: openssl pkcs8 -topk8 -v2 aes-256-cbc -iter {pkcs8.ROUNDS} -in {path} -out new.key, "
            "and put the new file in the place of the old one.",
        )


def _is_protected(pem: bytes) -> bool:
    return b"BEGIN ENCRYPTED PRIVATE KEY" in pem


def _load_key(path: Path, passphrase: Secret | None) -> AuthorityKey:
    pem = path.read_bytes()
    try:
        key = load_pem_private_key(pem, passphrase.reveal().encode() if passphrase else None)
    except ValueError as error:
        if not _is_protected(pem):
            raise
        raise CannotStart(f"[builtin] passphrase does not open {path}.", "Set the right one.") from error
    if not isinstance(key, AuthorityKey):
        raise CannotStart(f"{path} holds a key that cannot sign certificates.", _RESTORE)
    return key


def _create(
    folder: Path,
    *,
    name: str,
    organization: str | None,
    key_type: KeyType,
    passphrase: Secret | None,
    now: datetime,
) -> None:
    root_key, key = keys.generate(key_type), keys.generate(key_type)
    root_name = lint.distinguished_name(f"{name} Root CA", organization)
    root = _authority_certificate(
        root_name, root_key, root_name, root_key, path_length=1, now=now, lifetime=ROOT_LIFETIME
    )
    intermediate = _authority_certificate(
        lint.distinguished_name(f"{name} Issuing CA", organization),
        key,
        root_name,
        root_key,
        path_length=0,
        now=now,
        lifetime=INTERMEDIATE_LIFETIME,
    )
    files = {
        "root.pem": root.public_bytes(Encoding.PEM),
        "root.key": _key_pem(root_key, passphrase),
        "intermediate.pem": intermediate.public_bytes(Encoding.PEM),
        "intermediate.key": _key_pem(key, passphrase),
    }
    # All four appear at once or not at all, also when two processes start at the same moment.
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".ca-"))
    try:
        for file_name, content in files.items():
            write_private(draft / file_name, content)
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)
        if not folder.exists():
            raise


def _key_pem(key: AuthorityKey, passphrase: Secret | None) -> bytes:
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pkcs8.encrypted_pem(keys.private_key_bytes(key), passphrase.reveal())


def _authority_certificate(
    subject: x509.Name,
    key: AuthorityKey,
    issuer: x509.Name,
    issuer_key: AuthorityKey,
    *,
    path_length: int,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    start = now.replace(microsecond=0) - lint.BACKDATE
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + lifetime - timedelta(seconds=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(lint.key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if subject != issuer:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())
