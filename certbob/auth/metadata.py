"""What a provider says about itself (OpenID Connect Discovery 1.0), and what of it is accepted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from certbob.auth.id_token import ALGORITHMS

_PRINTABLE = re.compile("[!-~]+", re.ASCII)

USUAL_SCOPES = ("openid", "profile", "email", "groups")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What discovery says, checked (OpenID Connect Discovery 1.0 section 3)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    end_session_endpoint: str | None
    algorithms: tuple[str, ...]  # for ID tokens: those of the provider that are ours, too
    usual_scopes: tuple[str, ...]  # some providers refuse a scope that they do not know
    secret_in_body: bool  # client_secret_post is the one way it takes a secret
    names_issuer: bool  # RFC 9207: its answers say from whom they are
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any], issuer: str) -> Self:
        """Raises ValueError with words for the operator's log."""
        told = document.get("issuer")
        if told != issuer:
            only_slash = isinstance(told, str) and told.rstrip("/") == issuer.rstrip("/")
            hint = ": only the slash at the end differs" if only_slash else ""
            raise ValueError(f"its metadata is of issuer {told!r:.200}, not of {issuer!r}{hint}")
        if "code" not in _texts(document, "response_types_supported"):
            raise ValueError("its metadata offers no authorization code flow (response type code)")
        algorithms = _texts(document, "id_token_signing_alg_values_supported", ("RS256",))
        allowed = tuple(algorithm for algorithm in ALGORITHMS if algorithm in algorithms)
        if not allowed:
            raise ValueError(f"it signs ID tokens with none of {', '.join(ALGORITHMS)}")
        scopes = _texts(document, "scopes_supported", USUAL_SCOPES)
        methods = _texts(document, "token_endpoint_auth_methods_supported", ("client_secret_basic",))
        jwks_uri = _address(document, "jwks_uri", issuer)
        remarks = []
        if urlsplit(jwks_uri).netloc != urlsplit(issuer).netloc:
            remarks.append(f"its keys are on another host, {urlsplit(jwks_uri).netloc}")
        if "S256" not in _texts(document, "code_challenge_methods_supported", ("S256",)):
            remarks.append("it does not list PKCE with S256, which CertBob always uses")
        return cls(
            authorization_endpoint=_address(document, "authorization_endpoint", issuer),
            token_endpoint=_address(document, "token_endpoint", issuer),
            jwks_uri=jwks_uri,
            userinfo_endpoint=_optional_address(document, "userinfo_endpoint", issuer),
            end_session_endpoint=_optional_address(document, "end_session_endpoint", issuer),
            algorithms=allowed,
            usual_scopes=tuple(scope for scope in USUAL_SCOPES if scope in ("openid", *scopes)),
            secret_in_body="client_secret_basic" not in methods and "client_secret_post" in methods,
            names_issuer=document.get("authorization_response_iss_parameter_supported") is True,
            remarks=tuple(remarks),
        )


def _texts(document: Mapping[str, Any], name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    values = document.get(name, default)
    return (
        tuple(value for value in values if isinstance(value, str)) if isinstance(values, list | tuple) else ()
    )


def _address(document: Mapping[str, Any], name: str, issuer: str) -> str:
    """Raises ValueError when it is missing, or less protected than the issuer is."""
    address = document.get(name)
    try:
        url = urlsplit(address if isinstance(address, str) and _PRINTABLE.fullmatch(address) else "")
        is_fit = bool(url.hostname) and url.port != 0 and url.scheme in ("https", urlsplit(issuer).scheme)
        httpx2.URL(url.geturl())  # what the client cannot read is told now, not in the middle of a sign-in
    except (ValueError, httpx2.InvalidURL):
        is_fit = False
    if not is_fit:
        raise ValueError(f"its metadata has no {name} that begins with https")
    return str(address)


def _optional_address(document: Mapping[str, Any], name: str, issuer: str) -> str | None:
    return None if document.get(name) is None else _address(document, name, issuer)
