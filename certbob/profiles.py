"""What may be issued: to whom, for what, how long, with which keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from certbob.devices import Encoding
from certbob.errors import NotEntitled
from certbob.identity import Identity

_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_LADDER = tuple(timedelta(days=days) for days in (1, 7, 30, 90, 180, 365, 730))


class KeyType(StrEnum):
    """Keys people can import everywhere. Ed25519 is missing on purpose: NSS and Apple refuse it."""

    P256 = "p256"
    P384 = "p384"
    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"


class Usage(StrEnum):
    """Extended key usages of a personal certificate, and their object identifiers.

    anyExtendedKeyUsage and serverAuth do not exist here: they would make a person's key a server's.
    """

    CLIENT_AUTH = "clientAuth"
    EAP_OVER_LAN = "eapOverLAN"
    IPSEC_IKE = "ipsecIKE"

    @property
    def oid(self) -> str:
        return {
            Usage.CLIENT_AUTH: "1.3.6.1.5.5.7.3.2",  # RFC 5280 4.2.1.12
            Usage.EAP_OVER_LAN: "1.3.6.1.5.5.7.3.14",  # RFC 4334
            Usage.IPSEC_IKE: "1.3.6.1.5.5.7.3.17",  # RFC 4945 5.1.3.12
        }[self]


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of certificate. `groups` empty: everybody may have it.

    `max_active`: how many one person may have at a time, not counting those that end within `renewal_window`,
    so that a new one can be had before the old one is over. None: any number.
    """

    id: str
    label: str
    usages: tuple[Usage, ...]
    validity: timedelta
    max_validity: timedelta
    key_types: tuple[KeyType, ...]
    groups: tuple[str, ...] = ()
    max_active: int | None = None
    renewal_window: timedelta = timedelta(days=30)

    def allows(self, identity: Identity) -> bool:
        return not self.groups or not set(self.groups).isdisjoint(identity.groups)

    def key_type_for(self, encoding: Encoding) -> KeyType:
        """The key for a file: the profile's first type, but RSA where the reader is old."""
        if encoding is Encoding.COMPATIBLE:
            if KeyType.RSA2048 in self.key_types:
                return KeyType.RSA2048
            for key_type in self.key_types:
                if key_type.startswith("rsa"):
                    return key_type
        return self.key_types[0]

    def validities(self, longest: timedelta | None) -> tuple[timedelta, ...]:
        """The validities to choose from, shortest first, none beyond what the authority signs (`longest`)."""
        limit = self.longest_validity(longest)
        choices = {length for length in (*_LADDER, self.validity) if length <= limit}
        return tuple(sorted(choices | ({limit} if limit else set())))

    def default_validity(self, longest: timedelta | None) -> timedelta:
        return min(self.validity, self.longest_validity(longest))

    def longest_validity(self, longest: timedelta | None) -> timedelta:
        """What both profile and authority allow, in whole days or hours: the authority's end comes nearer."""
        if longest is None:
            return self.max_validity
        unit = _DAY if longest >= _DAY else _HOUR
        return min(self.max_validity, longest // unit * unit)


class Profiles:
    """All profiles, in the order of the configuration."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self._profiles = {profile.id: profile for profile in profiles}

    def for_identity(self, identity: Identity) -> tuple[Profile, ...]:
        return tuple(profile for profile in self._profiles.values() if profile.allows(identity))

    def first_for(self, identity: Identity) -> Profile:
        """The first that this person may have. Raises NotEntitled, which names the first of all."""
        profiles = self.for_identity(identity)
        return profiles[0] if profiles else self.entitled(next(iter(self._profiles)), identity)

    def labels(self) -> dict[str, str]:
        """Id -> what people see."""
        return {profile.id: profile.label for profile in self._profiles.values()}

    def entitled(self, profile_id: str, identity: Identity) -> Profile:
        """The profile, if this person may have it. Raises NotEntitled."""
        profile = self._profiles.get(profile_id)
        if profile is None:
            raise NotEntitled(profile_id)
        if not profile.allows(identity):
            raise NotEntitled(profile.label, profile.groups)
        return profile
