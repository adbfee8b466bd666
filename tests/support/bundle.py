"""Files as people take them away, made once for the whole run."""

from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding as Serialization

from certbob.bundles import friendly_name, to_pkcs12
from certbob.devices import Encoding
from certbob.keys import passphrase_for
from certbob.profiles import KeyType
from tests.support import pki

ROOT = pki.root()
ISSUING = pki.below(ROOT)
PASSPHRASE = passphrase_for(bytes(32), "grant")
NAME = friendly_name(pki.ADA, "Work laptop", "Example Org", pki.NOW + pki.DAYS_90)


@cache
def leaf(key_type: KeyType = KeyType.P256) -> x509.Certificate:
    return pki.draft_leaf(pki.signing_request(key_type), ISSUING).signed_by(ISSUING)


@cache
def pfx(encoding: Encoding, key_type: KeyType = KeyType.P256) -> bytes:
    return to_pkcs12(
        pki.new_key(key_type).private_key,
        leaf(key_type).public_bytes(Serialization.DER),
        (ISSUING.der,),
        name=NAME,
        passphrase=PASSPHRASE,
        encoding=encoding,
    )
