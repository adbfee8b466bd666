"""The grammars of configuration values: each takes a text and gives the checked, normalised value.

Each raises ValueError with the words that complete "expected ...". They never hold the text itself: it may
be a secret in the wrong place.
"""

import base64
import ipaddress
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.headerregistry import Address
from pathlib import Path
from typing import NamedTuple

from certbob.errors import UnfitName
from certbob.identity import fit_email, fit_name
from certbob.ports import Way
from certbob.profiles import KeyType, Usage
from certbob.secret import Secret
from certbob.words import format_duration, parse_duration

MIN_SERVER_SECRET = 32
MAX_ARGON2_MEMORY_KIB, MAX_ARGON2_PASSES = 256 * 1024, 10

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"(?P<host>\[[0-9A-Fa-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)"
_PORT = r"(?P<port>[1-9][0-9]{0,4})"
_ADDRESS = re.compile(f"{_HOST}:{_PORT}")
_ORIGIN = re.compile(rf"(?P<scheme>https?)://{_HOST}(?::{_PORT})?/?")
_HTTPS_URL = re.compile(rf"https://{_HOST}(?::{_PORT})?(?:[/?#][!-~]*)?")
_ISSUER = re.compile(rf"(?P<scheme>https?)://{_HOST}(?::{_PORT})?(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?")
_PHC = re.compile(  # https://github.com/P-H-C/phc-string-format, the parameters in the order Argon2 prints
    r"\$argon2id\$v=19\$m=(?P<memory>\d{1,7}),t=(?P<passes>\d{1,3}),p=(?P<lanes>\d{1,3})"
    r"\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<hash>[A-Za-z0-9+/]{22,86})",
    re.ASCII,
)
_FILENAME = re.compile(r"(?=.{1,80}$)(?:[A-Za-z0-9_-]|\{user\}|\{device\})+\.(?:pfx|p12|\{ext\})")


@dataclass(frozen=True, slots=True)
class InFolder:
    """A grammar of texts that may name a file; relative ones begin in the given folder."""

    read: Callable[[str, Path], object]


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: str  # ":8000", or empty where the scheme says it

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.port}"


def path(text: str, folder: Path) -> Path:
    if not text or "\0" in text:
        raise ValueError("a path")
    return folder / text


def address(text: str) -> str:
    """Where to listen: `127.0.0.1:8000`, `[::1]:8000`."""
    match = _ADDRESS.fullmatch(text)
    host = match and _host(match["host"])
    if match is None or host is None or int(match["port"]) > 65535:
        raise ValueError('an address with a port, such as "127.0.0.1:8000", "[::1]:8000" or "0.0.0.0:8443"')
    return f"{host}:{match['port']}"


def public_url(text: str) -> str:
    """The origin as browsers write it: lower case, without the scheme's own port."""
    origin = _origin(text)
    if origin is None:
        raise ValueError('an address such as "https://pki.example.org", without path, query and user')
    if origin.scheme == "http" and not _is_loopback(origin.host):
        raise ValueError(
            "https, because plain http is for this machine alone: put TLS in front or set tls_certificate"
        )
    return str(origin)


def authority_url(text: str) -> str:
    origin = _origin(text)
    if origin is None or origin.scheme != "https":
        raise ValueError('an address such as "https://ca.example.org:9000", without path, query and user')
    return str(origin)


def host(text: str) -> str:
    match = re.fullmatch(_HOST, text)
    found = match and _host(match["host"])
    if not found:
        raise ValueError('the name or IP address of a machine, such as "mail.example.org"')
    return found.strip("[]")


def sender(text: str) -> Address:
    # An encoded word (RFC 2047) would be decoded, to anything at all.
    match = re.fullmatch(r"(?P<name>(?:(?!=\?)[^<>])*)<(?P<address>[^<>]*)>", text)
    name, address = (match["name"], match["address"]) if match else ("", text)
    try:
        return Address(_line(name.strip(' "'), 64) if name.strip() else "", addr_spec=fit_email(address))
    except (UnfitName, ValueError):
        raise ValueError('an address such as "cert@example.org" or "CertBob <cert@example.org>"') from None


def issuer(text: str) -> str:
    """As the provider writes it, to the last slash: it is compared byte for byte (OIDC Discovery 4.3)."""
    match = _ISSUER.fullmatch(text)
    host = match and _host(match["host"])
    if match is None or host is None or int(match["port"] or 443) > 65535:
        raise ValueError('the issuer as the provider names it, such as "https://id.example.org/realms/staff"')
    if match["scheme"] == "http" and not _is_loopback(host):
        raise ValueError("an issuer that begins with https, because plain http is for this machine alone")
    return text


def scope(text: str) -> str:
    """RFC 6749 3.3."""
    if re.fullmatch(r"[!#-\[\]-~]{1,200}", text) is None:
        raise ValueError('scopes without blanks and quotes, such as "openid" and "profile"')
    return text


# Without these no request would be understood.
HTTP_HEADERS = frozenset(
    {
        "accept",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "forwarded",
        "host",
        "hx-request",
        "origin",
        "sec-fetch-site",
        "transfer-encoding",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    }
)


def header_name(text: str) -> str:
    """In lower case. Without `_`, which some proxies take for `-`: whoever sends it is no proxy of ours."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", text) is None:
        raise ValueError('the name of a header, such as "Client-Cert"')
    if text.lower() in HTTP_HEADERS:
        raise ValueError('the name of a header of its own, such as "Client-Cert"')
    return text.lower()


def trust_anchor(text: str, folder: Path) -> str:
    """The SHA-256 of a root certificate in lower-case hex, or the path of a PEM file."""
    digits = re.sub("[: -]", "", text).lower()
    if re.fullmatch("[0-9a-f]{64}", digits):
        return digits
    try:
        file = path(text, folder)
        if b"-----BEGIN CERTIFICATE-----" in file.read_bytes():
            return str(file)
    except (OSError, ValueError):
        pass
    raise ValueError("a SHA-256 fingerprint (64 hex digits), or the path of a readable PEM certificate")


def network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError('an IP address or network such as "10.0.0.0/8" or "fd00::/8"') from None


def contact(text: str) -> str:
    match = _HTTPS_URL.fullmatch(text)
    if match and _host(match["host"]):
        return text
    try:
        return fit_email(text)
    except UnfitName:
        raise ValueError('an e-mail address or an address that begins with "https://"') from None


def email(text: str) -> str:
    try:
        return fit_email(text)
    except UnfitName:
        raise ValueError('a plain e-mail address such as "ada@example.org"') from None


def person(text: str) -> str:
    try:
        return fit_name(text)
    except UnfitName:
        raise ValueError(
            "a name of letters of one script, digits, blanks and . _ ' @ - (at most 64 bytes)"
        ) from None


def username(text: str) -> str:
    """The canonical form: upper and lower case, wide and narrow letters count as the same."""
    name = unicodedata.normalize("NFKC", text).casefold().strip()
    if re.fullmatch(r"[a-z0-9][a-z0-9._@-]{0,63}", name) is None:
        raise ValueError("1 to 64 letters a to z, digits and . _ @ -, a letter or digit first")
    return name


def label(text: str) -> str:
    """X.520 allows 64 characters in an organization's name."""
    return _line(text, 64)


def authority_name(text: str) -> str:
    """Leaves room in a common name for what an authority is (X.520: 64 characters)."""
    return _line(text, 50)


def group(text: str) -> str:
    return _line(text, 256)


def secret(text: str) -> Secret:
    if not text.strip():
        raise ValueError("text that is not empty")
    return Secret(text)


def server_secret(text: str) -> Secret:
    if len(text) < MIN_SERVER_SECRET:
        raise ValueError(f"at least {MIN_SERVER_SECRET} characters")
    return Secret(text)


def user_pairs(text: str) -> list[dict[str, str]]:
    """`ada:$argon2id$... grace:$argon2id$...` as tables of `[[local.users]]`."""
    pairs = [pair.split(":", 1) for pair in text.split()]
    return [dict(zip(("username", "password_hash"), pair, strict=False)) for pair in pairs]


def command_tokens(text: str) -> list[dict[str, str]]:
    """`token` or `team_id:token`, with blanks between them, as tables of `[mattermost] token`."""
    pairs = [pair.rpartition(":") for pair in text.split() or [""]]
    return [{"token": token} | ({"team": team} if colon else {}) for team, colon, token in pairs]


def command_token(text: str) -> Secret:
    if re.fullmatch(r"[A-Za-z0-9_-]{16,128}", text) is None:
        raise ValueError(
            "the token that Mattermost shows for the slash command (26 small letters and digits)"
        )
    return Secret(text)


def access_token(text: str) -> Secret:
    if re.fullmatch(r"[A-Za-z0-9._~+/=-]{8,512}", text) is None:
        raise ValueError("an access token as Mattermost shows it (26 small letters and digits)")
    return Secret(text)


def bearer_token(text: str) -> Secret:
    """RFC 6750 2.1, and too long to be guessed."""
    if re.fullmatch(r"[A-Za-z0-9._~+/-]{16,512}=*", text) is None:
        raise ValueError("at least 16 letters and digits")
    return Secret(text)


def team(text: str) -> str:
    if re.fullmatch(r"[a-z0-9]{26}", text) is None:
        raise ValueError("the id of a team (26 small letters and digits), not its name")
    return text


def chat_url(text: str) -> str:
    """Mattermost's site URL, which may have a path."""
    match = _ISSUER.fullmatch(text)
    host = match and _host(match["host"])
    if match is None or host is None or int(match["port"] or 443) > 65535:
        raise ValueError('an address such as "https://chat.example.org"')
    if match["scheme"] == "http" and not _is_loopback(host):
        raise ValueError("an address that begins with https, because plain http is for this machine alone")
    return text.rstrip("/")


def domain(text: str) -> str:
    try:
        return fit_email(f"x@{text}").partition("@")[2]
    except UnfitName:
        raise ValueError('a domain such as "example.org"') from None


def password_hash(text: str) -> Secret:
    """An Argon2id PHC string that can be verified in bounded time and memory."""
    match = _PHC.fullmatch(text)
    if match is None or not (_is_base64(match["salt"]) and _is_base64(match["hash"])):
        raise ValueError(
            "an Argon2id hash as `certbob hash-password` prints it (shells and compose files eat its $ signs)"
        )
    if int(match["lanes"]) != 1:
        # cryptography 50.0 hangs for ever when two threads verify hashes with more lanes at the same time.
        raise ValueError("an Argon2id hash with p=1: make a new one with `certbob hash-password`")
    if not (
        8 <= int(match["memory"]) <= MAX_ARGON2_MEMORY_KIB and 1 <= int(match["passes"]) <= MAX_ARGON2_PASSES
    ):
        raise ValueError(
            f"an Argon2id hash with m up to {MAX_ARGON2_MEMORY_KIB} and t up to {MAX_ARGON2_PASSES}"
        )
    return Secret(text)


def grant_lifetime(text: str) -> timedelta:
    return _between(text, timedelta(seconds=30), timedelta(hours=1))


def crl_lifetime(text: str) -> timedelta:
    """Shorter ones would end while the service is repaired, longer ones hide a revocation for too long."""
    return _between(text, timedelta(days=1), timedelta(days=10))


def validity(text: str) -> timedelta:
    """At most 825 days, as Apple bounds servers of private authorities: a lost key must not live for ever."""
    return _between(text, timedelta(hours=1), timedelta(days=825))


def renewal_window(text: str) -> timedelta:
    return _between(text, timedelta(hours=1), timedelta(days=90))


def slug(text: str) -> str:
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", text) is None:
        raise ValueError("1 to 40 small letters, digits and -, a letter or digit first")
    return text


def usage(text: str) -> Usage:
    if text in ("serverAuth", "anyExtendedKeyUsage"):
        raise ValueError(
            "usages for people: with serverAuth or anyExtendedKeyUsage they could pose as servers"
        )
    if text not in list(Usage):
        raise ValueError(f"usages among {', '.join(Usage)}")
    return Usage(text)


def way(text: str) -> Way:
    if text not in list(Way):
        raise ValueError(f"ways among {', '.join(Way)}")
    return Way(text)


def key_type(text: str) -> KeyType:
    if text not in list(KeyType):
        raise ValueError(f"key types among {', '.join(KeyType)}")
    return KeyType(text)


def filename(text: str) -> str:
    if _FILENAME.fullmatch(text) is None:
        raise ValueError(
            "letters, digits, - and _, {user} and {device}, then .pfx, .p12 or .{ext} (at most 80 characters)"
        )
    return text


def _host(text: str) -> str | None:
    """In lower case, addresses in their shortest form; None for what only looks like an address."""
    try:
        if text.startswith("["):
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        if text.rpartition(".")[2].isdecimal():
            return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None
    return text.lower() if len(text) <= 253 else None


def _origin(text: str) -> _Origin | None:
    match = _ORIGIN.fullmatch(text)
    host = match and _host(match["host"])
    if match is None or host is None:
        return None
    scheme, port = match["scheme"], match["port"]
    if port is None or int(port) == {"http": 80, "https": 443}[scheme]:
        return _Origin(scheme, host, "")
    return _Origin(scheme, host, f":{port}") if int(port) <= 65535 else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _line(text: str, longest: int) -> str:
    """`isprintable` is False for control, bidi and other invisible characters."""
    line = unicodedata.normalize("NFC", text).strip()
    if not (line.isprintable() and 1 <= len(line) <= longest):
        raise ValueError(f"1 to {longest} characters on one line, none of them invisible")
    return line


def _is_base64(text: str) -> bool:
    """Without padding and in the one canonical spelling, as a PHC string has it."""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return False
    return base64.b64encode(decoded).decode().rstrip("=") == text


def _between(text: str, shortest: timedelta, longest: timedelta) -> timedelta:
    length = parse_duration(text)
    if not shortest <= length <= longest:
        raise ValueError(f"a duration from {format_duration(shortest)} to {format_duration(longest)}")
    return length
