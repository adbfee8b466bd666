"""The exact certificate we accept, checked before signing and on what comes back.

Each function returns its findings in words for the operator; an empty list means all is well.
"""

from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, SignatureAlgorithmOID

from certbob.errors import UnfitName
from certbob.identity import fit_email, fit_name
from certbob.keys import public_key_bytes
from certbob.ports import Chain, LeafRules, SigningRequest, Trust
from certbob.profiles import Usage

BACKDATE = timedelta(minutes=5)  # a client whose clock is a little behind must not refuse a fresh certificate
MAX_CRL_LIFETIME = timedelta(days=10)  # who has got hold of an older list must not use it for long
MAX_BACKDATE = timedelta(minutes=10)
_SLACK = timedelta(minutes=2)  # step-ca back-dates by a minute and adds that to the asked length

_RSA_SIZES = (2048, 3072, 4096)
_EXACT_SIGNATURES = (SignatureAlgorithmOID.ECDSA_WITH_SHA256, SignatureAlgorithmOID.RSA_WITH_SHA256)
# `cryptography` reads many parts of a certificate only when they are asked for.
_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_KEY_USAGE_BITS = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
_EXACT_EXTENSIONS = {
    ExtensionOID.BASIC_CONSTRAINTS: True,
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.EXTENDED_KEY_USAGE: False,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: False,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
}


def distinguished_name(common_name: str, organization: str | None) -> x509.Name:
    """CN, and O where an organization is configured, as UTF8String."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def subject_alternative_name(request: SigningRequest) -> x509.SubjectAlternativeName:
    """The verified e-mail address, or without one a URN of the subject; never empty (RFC 5280 4.2.1.6)."""
    if request.email is not None:
        return x509.SubjectAlternativeName([x509.RFC822Name(request.email)])
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:uuid:{request.subject}")])


def crl_distribution_points(url: str) -> x509.CRLDistributionPoints:
    """RFC 5280 4.2.1.13: one list for all reasons, signed by the certificate's issuer."""
    name = x509.UniformResourceIdentifier(url)
    return x509.CRLDistributionPoints([x509.DistributionPoint([name], None, None, None)])


def check_crl(crl: x509.CertificateRevocationList, issuer: x509.Certificate, revoked: set[int]) -> list[str]:
    """Whether the list names exactly these serial numbers, and readers can believe it (RFC 5280 5)."""
    findings = []
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or not crl.is_signature_valid(key):
        findings.append("it is not signed by the authority")
    if crl.issuer != issuer.subject:
        findings.append("its issuer is not the authority")
    critical = {extension.oid: extension.critical for extension in crl.extensions}
    if critical != {ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False, ExtensionOID.CRL_NUMBER: False}:
        findings.append("its extensions are not exactly the expected ones")
    if crl.next_update_utc is None or crl.next_update_utc - crl.last_update_utc > MAX_CRL_LIFETIME:
        findings.append("it lasts for longer than ten days")
    if {entry.serial_number for entry in crl} != revoked:
        findings.append("it does not name exactly the revoked certificates")
    return findings


def check_request(request: SigningRequest) -> list[str]:
    """What must hold before anybody is asked to sign."""
    findings = []
    csr = x509.load_der_x509_csr(request.csr)
    key = csr.public_key()
    if not csr.is_signature_valid:
        findings.append("the CSR is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        findings.append("the key is neither an elliptic-curve nor an RSA key")
    elif public_key_bytes(key) != request.public_key:
        findings.append("the CSR holds another key")
    else:
        findings += _check_key(key)
    if [(a.oid, a.value) for a in csr.subject] != [(NameOID.COMMON_NAME, request.common_name)]:
        findings.append("the CSR's subject is not exactly the common name")
    try:
        if fit_name(request.common_name) != request.common_name:
            findings.append("the common name is not in its normal form")
        if request.email is not None and fit_email(request.email) != request.email:
            findings.append("the e-mail address is not in its normal form")
    except UnfitName as error:
        findings.append(error.text)
    if Usage.CLIENT_AUTH not in request.usages:
        findings.append("clientAuth is not among the usages")
    if request.validity <= timedelta(0):
        findings.append("the validity is not positive")
    return findings


def check_leaf(
    leaf: x509.Certificate, request: SigningRequest, rules: LeafRules, *, now: datetime
) -> list[str]:
    """Whether the certificate says what was asked for, and nothing more. Signatures: `check_chain`."""
    try:
        return _check_leaf(leaf, request, rules, now)
    except _UNREADABLE as error:
        return [f"cannot be read: {error}"]


def _check_leaf(
    leaf: x509.Certificate, request: SigningRequest, rules: LeafRules, now: datetime
) -> list[str]:
    findings = []
    if leaf.version is not x509.Version.v3:
        findings.append("version is not 3")
    if not 0 < leaf.serial_number < 1 << 159:
        findings.append("serial number is not positive or longer than 20 bytes")
    if rules.exact and leaf.serial_number.bit_length() < 64:
        findings.append("serial number has less than 64 bits")
    if not isinstance(leaf.signature_hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        findings.append("signature hash is not of the SHA-2 family")
    if rules.exact and leaf.signature_algorithm_oid not in _EXACT_SIGNATURES:
        findings.append("is not signed with SHA-256 and ECDSA or RSA")
    findings += _check_subject(leaf, request, rules)
    findings += _check_times(leaf, request, rules, now)
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        findings.append("holds another kind of key")
    elif public_key_bytes(key) != request.public_key:
        findings.append("holds another public key")
    return findings + _check_extensions(leaf.extensions, request, rules)


def check_chain(chain: Chain, trust: Trust, *, now: datetime) -> list[str]:
    """Whether every link is signed by the next one up to the root, in order and without spare ones."""
    findings = []
    if trust.root in chain.intermediates:
        findings.append("the chain holds the root")
    for number, (child, parent) in enumerate(pairwise((chain.leaf, *chain.intermediates, trust.root)), 1):
        try:
            child.verify_directly_issued_by(parent)
            if not _names_key_of(child, parent):
                findings.append(f"certificate {number} of the chain names another key as its issuer's")
        except (*_UNREADABLE, TypeError, InvalidSignature):
            findings.append(f"certificate {number} of the chain is not signed by the next one")
    verifier = (
        verification.PolicyBuilder().store(verification.Store([trust.root])).time(now).build_client_verifier()
    )
    try:
        verifier.verify(chain.leaf, list(chain.intermediates))
    except verification.VerificationError as error:
        findings.append(f"the chain is not valid: {error}")
    return findings


def notes(leaf: x509.Certificate) -> str | None:
    """What is accepted but worth a line in the ledger: `serverAuth` beside clientAuth."""
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return "serverAuth" if ExtendedKeyUsageOID.SERVER_AUTH in usages else None


def _names_key_of(child: x509.Certificate, parent: x509.Certificate) -> bool:
    """OpenSSL looks for the issuer by these identifiers (RFC 5280 4.2.1.1), `cryptography` does not."""
    try:
        named = child.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        own = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return True
    return named in (None, own)


def _check_key(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> list[str]:
    if isinstance(key, rsa.RSAPublicKey):
        fits = key.key_size in _RSA_SIZES and key.public_numbers().e == 65537
        return [] if fits else ["the RSA key is not of 2048, 3072 or 4096 bits with exponent 65537"]
    fits = isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1)
    return [] if fits else ["the curve is neither P-256 nor P-384"]


def _check_subject(leaf: x509.Certificate, request: SigningRequest, rules: LeafRules) -> list[str]:
    if rules.exact:
        same = (
            leaf.subject.public_bytes()
            == distinguished_name(request.common_name, request.organization).public_bytes()
        )
        return [] if same else ["the subject is not exactly the one asked for"]
    allowed = rules.organizations | ({request.organization} if request.organization else set())
    found = [(attribute.oid, attribute.value) for attribute in leaf.subject]
    findings = []
    if [value for oid, value in found if oid == NameOID.COMMON_NAME] != [request.common_name]:
        findings.append("the common name is not exactly the one asked for")
    for oid, value in found:
        extra = oid not in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
        if extra or (oid != NameOID.COMMON_NAME and value not in allowed):
            findings.append(f"the subject has a part nobody asked for ({oid.dotted_string})")
    return findings


def _check_times(
    leaf: x509.Certificate, request: SigningRequest, rules: LeafRules, now: datetime
) -> list[str]:
    findings = []
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not now - MAX_BACKDATE <= start <= now + (timedelta(0) if rules.exact else _SLACK):
        findings.append("is not valid from about now")
    # RFC 5280 4.1.2.5: the period includes its last second.
    length = end - start + timedelta(seconds=1)
    if rules.exact and length != request.validity:
        findings.append("is not valid for exactly the asked time")
    if not timedelta(0) < length <= request.validity + _SLACK:
        findings.append("is valid for longer than asked")
    return findings


def _check_extensions(extensions: x509.Extensions, request: SigningRequest, rules: LeafRules) -> list[str]:
    findings = []
    if rules.exact:
        critical = {extension.oid: extension.critical for extension in extensions}
        expected = _EXACT_EXTENSIONS
        if rules.crl_url is not None:
            expected = expected | {ExtensionOID.CRL_DISTRIBUTION_POINTS: False}
        if critical != expected:
            findings.append("the extensions or their critical flags are not exactly the expected ones")
    by_oid = {extension.oid: extension.value for extension in extensions}

    constraints = by_oid.get(ExtensionOID.BASIC_CONSTRAINTS)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        findings.append("is a certificate of an authority")

    usage = by_oid.get(ExtensionOID.KEY_USAGE)
    if rules.exact:
        if usage != digital_signature_only():
            findings.append("key usage is not exactly digitalSignature")
    elif isinstance(usage, x509.KeyUsage) and (usage.key_cert_sign or usage.crl_sign):
        findings.append("the key may sign certificates or revocation lists")

    usages = by_oid.get(ExtensionOID.EXTENDED_KEY_USAGE)
    wanted = {usage.oid for usage in request.usages}
    found = [oid.dotted_string for oid in usages] if isinstance(usages, x509.ExtendedKeyUsage) else []
    tolerated = {ExtendedKeyUsageOID.SERVER_AUTH.dotted_string} if rules.server_auth else set()
    if len(found) != len(set(found)) or set(found) - tolerated != wanted:
        findings.append(f"the extended key usages are not the asked ones: {' '.join(found) or 'none'}")

    points = by_oid.get(ExtensionOID.CRL_DISTRIBUTION_POINTS)
    if rules.exact and rules.crl_url is not None and points != crl_distribution_points(rules.crl_url):
        findings.append("the place of the revocation list is not the configured one")

    names = by_oid.get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    if names != subject_alternative_name(request):
        findings.append("the alternative names are not the asked ones")
    return findings


def digital_signature_only() -> x509.KeyUsage:
    """All that client authentication needs, RSA included: TLS 1.2 and later, EAP-TLS and IKE only sign."""
    return key_usage("digital_signature")


def key_usage(*allowed: str) -> x509.KeyUsage:
    """RFC 5280 4.2.1.3: these bits and no others, by the names of `x509.KeyUsage`."""
    return x509.KeyUsage(**{bit: bit in allowed for bit in _KEY_USAGE_BITS})
