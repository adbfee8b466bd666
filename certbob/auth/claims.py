"""From what a provider vouches for to what CertBob knows of a person: name, e-mail, groups, role."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from certbob.auth.provider import Vouched
from certbob.errors import SignInFailed, UnfitName
from certbob.identity import fit_email, fit_name

MAX_GROUPS, MAX_GROUP_LENGTH = 500, 256
MAX_SHOWN_NAME = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """Which claims say what. A claim is named as it stands, or by a dotted path into nested objects.

    The ID token's word counts before that of the userinfo.
    """

    name: tuple[str, ...]  # the first of them that the provider tells
    email: str
    groups: str
    allowed_groups: tuple[str, ...]
    admin_groups: tuple[str, ...]

    def name_of(self, vouched: Vouched) -> str:
        """Normalised if it is fit for a certificate (`certbob.identity.fit_name`), else as it was told."""
        told = (
            text for claim in self.name for text in _told(vouched, claim) if isinstance(text, str) and text
        )
        name = next(told, "")
        try:
            return fit_name(name)
        except UnfitName:
            return name[:MAX_SHOWN_NAME]

    def email_of(self, vouched: Vouched) -> str | None:
        """The address, if the provider says that it has verified this very one."""
        address = next(_told(vouched, self.email), None)
        verified = any(
            _find(claims, self.email) == address and claims.get("email_verified") is True
            for claims in (vouched.claims, vouched.userinfo)
        )
        if not isinstance(address, str) or not verified:
            return None
        try:
            return fit_email(address)
        except UnfitName:
            return None

    def groups_of(self, vouched: Vouched) -> tuple[str, ...]:
        """Raises SignInFailed for more than anybody can mean."""
        told = next(_told(vouched, self.groups), None)
        if told is None and _is_overage(vouched.claims, self.groups):
            log.warning("somebody is in so many groups that the provider left them out of the ID token")
        groups = [told] if isinstance(told, str) else told
        if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            return ()
        if len(groups) > MAX_GROUPS or any(len(group) > MAX_GROUP_LENGTH for group in groups):
            raise SignInFailed(
                f"{len(groups)} groups, or one of more than {MAX_GROUP_LENGTH} characters",
                "Your account is in more groups than CertBob can take.",
                mend="Ask the people who run this service to send it only the groups that it needs.",
            )
        return tuple(groups)

    def allow(self, groups: tuple[str, ...]) -> bool:
        """Whether somebody of these groups may sign in."""
        return not self.allowed_groups or not set(groups).isdisjoint(self.allowed_groups)

    def is_admin(self, groups: tuple[str, ...]) -> bool:
        return not set(groups).isdisjoint(self.admin_groups)


def _told(vouched: Vouched, claim: str) -> Iterator[Any]:
    for claims in (vouched.claims, vouched.userinfo):
        value = _find(claims, claim)
        if value is not None:
            yield value


def _find(claims: Mapping[str, Any], claim: str) -> Any:
    """A claim's own name may have dots, too: some providers put addresses in front of theirs."""
    if claim in claims:
        return claims[claim]
    value: Any = claims
    for name in claim.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _is_overage(claims: Mapping[str, Any], groups_claim: str) -> bool:
    """Entra ID points to another interface in the place of more than 200 groups."""
    elsewhere = claims.get("_claim_names")
    return claims.get("hasgroups") is True or (isinstance(elsewhere, dict) and groups_claim in elsewhere)
