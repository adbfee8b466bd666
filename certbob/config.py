"""What can be configured: the keys, their defaults and their grammars, as frozen Settings."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from email.headerregistry import Address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import fields

from certbob import grammars, toml
from certbob.devices import EncodingPolicy
from certbob.grammars import InFolder
from certbob.ports import Way
from certbob.profiles import KeyType, Profile, Usage
from certbob.reader import ConfigProblems as ConfigProblems
from certbob.reader import Reader
from certbob.secret import Secret

File = Annotated[Path, InFolder(grammars.path)]
SomeSecret = Annotated[Secret, grammars.secret]
Validity = Annotated[timedelta, grammars.validity]
Groups = tuple[Annotated[str, grammars.group], ...]


class Server(Struct, frozen=True, kw_only=True):
    listen: Annotated[str, grammars.address] = "127.0.0.1:8000"
    public_url: Annotated[str, grammars.public_url] = "http://127.0.0.1:8000"
    data_dir: File = Path("data")
    tls_certificate: File | None = None
    tls_key: File | None = None
    trusted_proxies: tuple[Annotated[str, grammars.network], ...] = ()
    test_listen: Annotated[str, grammars.address] | None = None
    certificate_header: Annotated[str, grammars.header_name] | None = None
    secret: Annotated[Secret, grammars.server_secret] | None = None
    contact: Annotated[str, grammars.contact] | None = None
    organization: Annotated[str, grammars.label] | None = None
    metrics_token: Annotated[Secret, grammars.bearer_token] | None = None

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("both tls_certificate and tls_key, or neither")
        if self.test_listen and not self.tls_certificate:
            raise ValueError("tls_certificate and tls_key beside test_listen: browsers present theirs in TLS")
        if self.test_listen and _port(self.test_listen) == _port(self.listen):
            raise ValueError("another port in test_listen than in listen")
        if self.certificate_header and not self.trusted_proxies:
            raise ValueError("trusted_proxies beside certificate_header: nobody else is believed")

    @property
    def test_origin(self) -> str | None:
        """Where browsers reach `test_listen`: on the host of `public_url`."""
        if self.test_listen is None:
            return None
        host = urlsplit(self.public_url).netloc.removesuffix(f":{urlsplit(self.public_url).port}")
        return grammars.public_url(f"https://{host}:{_port(self.test_listen)}")


class CA(Struct, frozen=True, kw_only=True):
    backend: Literal["builtin", "stepca"] = "builtin"


class Builtin(Struct, frozen=True, kw_only=True):
    name: Annotated[str, grammars.authority_name] = "CertBob"
    key_type: Literal["p256", "p384", "rsa3072", "rsa4096"] = "p256"
    passphrase: SomeSecret | None = None
    crl_lifetime: Annotated[timedelta, grammars.crl_lifetime] = timedelta(days=7)


class StepCA(Struct, frozen=True, kw_only=True):
    """`root`: a SHA-256 in lower-case hex, or the path of a PEM file."""

    url: Annotated[str, grammars.authority_url] | None = None
    root: Annotated[str, InFolder(grammars.trust_anchor)] | None = None
    provisioner: Annotated[str, grammars.group] | None = None
    provisioner_password: SomeSecret | None = None
    provisioner_key: SomeSecret | None = None


class LocalUser(Struct, frozen=True, kw_only=True):
    username: Annotated[str, grammars.username]
    password_hash: Annotated[Secret, grammars.password_hash]
    name: Annotated[str, grammars.person] | None = None
    email: Annotated[str, grammars.email] | None = None
    groups: Groups = ()


class Local(Struct, frozen=True, kw_only=True):
    users: Annotated[tuple[LocalUser, ...], grammars.user_pairs] = ()

    def __post_init__(self) -> None:
        _refuse_twins([user.username for user in self.users], "user name")


class OIDC(Struct, frozen=True, kw_only=True):
    issuer: Annotated[str, grammars.issuer] | None = None
    client_id: Annotated[str, grammars.group] | None = None
    client_secret: SomeSecret | None = None
    label: Annotated[str, grammars.label] = "Single sign-on"
    scopes: tuple[Annotated[str, grammars.scope], ...] = ()
    name_claim: Annotated[str, grammars.group] | None = None
    email_claim: Annotated[str, grammars.group] = "email"
    groups_claim: Annotated[str, grammars.group] = "groups"
    allowed_groups: Groups = ()
    admin_groups: Groups = ()

    def __post_init__(self) -> None:
        if (self.issuer is None) != (self.client_id is None):
            raise ValueError("both issuer and client_id, or neither")
        if self.scopes and "openid" not in self.scopes:
            raise ValueError('"openid" among the scopes')


class SMTP(Struct, frozen=True, kw_only=True):
    host: Annotated[str, grammars.host] | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: Annotated[str, grammars.group] | None = None
    password: SomeSecret | None = None
    sender: Annotated[Address, grammars.sender] | None = None
    attach: bool = True
    tls_ca: File | None = None
    tls_certificate: File | None = None
    tls_key: File | None = None

    def __post_init__(self) -> None:
        if (self.host is None) != (self.sender is None):
            raise ValueError("both host and sender, or neither")
        if (self.username is None) != (self.password is None):
            raise ValueError("both username and password, or neither")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("both tls_certificate and tls_key, or neither")
        if self.security == "none" and (self.password or self.tls_ca or self.tls_certificate):
            raise ValueError('security "starttls" or "tls": with "none" everybody could see the password')


class CommandToken(Struct, frozen=True, kw_only=True):
    """The token of one slash command; `team`: the id of the only team that it is good for."""

    token: Annotated[Secret, grammars.command_token]
    team: Annotated[str, grammars.team] | None = None


class Mattermost(Struct, frozen=True, kw_only=True):
    token: Annotated[tuple[CommandToken, ...], grammars.command_tokens] = ()
    url: Annotated[str, grammars.chat_url] | None = None
    bot_token: Annotated[Secret, grammars.access_token] | None = None
    identity: Literal["username", "email", "link"] = "username"
    email_domain: Annotated[str, grammars.domain] | None = None
    verify_trigger: Literal["auto", "require", "off"] = "auto"
    open: bool = True

    def __post_init__(self) -> None:
        if self.bot_token and not self.url:
            raise ValueError("url, because bot_token is for that server")
        if self.identity == "email" and not self.bot_token:
            raise ValueError('url and bot_token, because identity = "email" asks there for the address')
        if self.identity == "link" and self.email_domain:
            raise ValueError('no email_domain: with identity = "link" the address is that of the web account')
        if self.verify_trigger == "require" and not self.url:
            raise ValueError('url, because verify_trigger = "require" needs the key of that server')


class Issue(Struct, frozen=True, kw_only=True):
    lifetime: Annotated[timedelta, grammars.grant_lifetime] = timedelta(minutes=5)
    direct_download: bool = True


class PKCS12(Struct, frozen=True, kw_only=True):
    encoding: EncodingPolicy = EncodingPolicy.ASK
    filename: Annotated[str, grammars.filename] = "user_cert.pfx"
    include_root: bool = False


class Reminders(Struct, frozen=True, kw_only=True):
    days: tuple[Annotated[int, Meta(ge=1, le=365)], ...] = (30, 14, 3)
    by: tuple[Annotated[Way, grammars.way], ...] = (Way.MAIL, Way.CHAT)

    def __post_init__(self) -> None:
        _refuse_twins(self.days, "day")
        _refuse_twins(self.by, "way")


class Limits(Struct, frozen=True, kw_only=True):
    certificates_per_hour: Annotated[int, Meta(ge=1, le=1000)] = 20


class Log(Struct, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


DEFAULT_PROFILE = Profile(
    id="client",
    label="Client certificate",
    usages=(Usage.CLIENT_AUTH,),
    validity=timedelta(days=90),
    max_validity=timedelta(days=365),
    key_types=(KeyType.P256, KeyType.RSA2048),
)


class ProfileTable(Struct, frozen=True, kw_only=True):
    """One of `[[profiles]]`."""

    id: Annotated[str, grammars.slug]
    label: Annotated[str, grammars.label]
    usages: tuple[Annotated[Usage, grammars.usage], ...] = DEFAULT_PROFILE.usages
    validity: Validity = DEFAULT_PROFILE.validity
    max_validity: Validity | None = None
    key_types: tuple[Annotated[KeyType, grammars.key_type], ...] = DEFAULT_PROFILE.key_types
    groups: Groups = ()
    max_active: Annotated[int, Meta(ge=1, le=1000)] | None = None
    renewal_window: Annotated[timedelta, grammars.renewal_window] = DEFAULT_PROFILE.renewal_window

    def __post_init__(self) -> None:
        if Usage.CLIENT_AUTH not in self.usages:
            raise ValueError("clientAuth among the usages")
        if not self.key_types:
            raise ValueError("at least one of the key_types")
        if self.max_validity is not None and self.max_validity < self.validity:
            raise ValueError("a max_validity that is not shorter than validity")

    def profile(self) -> Profile:
        return Profile(
            self.id,
            self.label,
            self.usages,
            self.validity,
            self.max_validity or self.validity,
            self.key_types,
            self.groups,
            self.max_active,
            self.renewal_window,
        )


class Settings(Struct, frozen=True, kw_only=True):
    server: Server = field(default_factory=Server)
    ca: CA = field(default_factory=CA)
    builtin: Builtin = field(default_factory=Builtin)
    stepca: StepCA = field(default_factory=StepCA)
    oidc: OIDC = field(default_factory=OIDC)
    local: Local = field(default_factory=Local)
    smtp: SMTP = field(default_factory=SMTP)
    mattermost: Mattermost = field(default_factory=Mattermost)
    issue: Issue = field(default_factory=Issue)
    pkcs12: PKCS12 = field(default_factory=PKCS12)
    reminders: Reminders = field(default_factory=Reminders)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    profiles: tuple[Profile, ...] = (DEFAULT_PROFILE,)


def find_config(explicit: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to load: the option, else CERTBOB_CONFIG, else `./config.toml`. None: built-in defaults."""
    if explicit is not None:
        return explicit
    if named := environ.get("CERTBOB_CONFIG"):
        return Path(named)
    usual = Path("config.toml")
    return usual if usual.exists() else None


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of this file (None: the defaults) and environment. Raises ConfigProblems."""
    reader = Reader(path, environ)
    *sections, profiles = fields(Settings)
    reader.refuse_other_sections([section.name for section in (*sections, profiles)])
    found: dict[str, Any] = {section.name: reader.section(section.name, section.type) for section in sections}
    ca: CA | None = found["ca"]
    if ca and ca.backend == "stepca":
        _require_stepca(reader)
    if tables := reader.tables("profiles", ProfileTable):
        found["profiles"] = tuple(table.profile() for table in tables)
        try:
            _refuse_twins([table.id for table in tables], "id")
        except ValueError as error:
            reader.report(("[profiles]",), f"expected {error}")
    reader.finish()
    return Settings(**found)


def redacted(settings: Settings) -> str:
    """The effective configuration as TOML, every secret as `***`."""

    def shown(value: object) -> str:
        return "***" if isinstance(value, Secret) else str(value)

    document = msgspec.to_builtins(settings, builtin_types=(timedelta,), enc_hook=shown)
    return "\n".join(toml.dump(document)).lstrip() + "\n"


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _require_stepca(reader: Reader) -> None:
    for keys in (("url",), ("root",), ("provisioner",), ("provisioner_password", "provisioner_key")):
        if not any(reader.has(StepCA, key) for key in keys):
            reader.report(("[stepca]", " or ".join(keys)), 'is missing, but [ca] backend is "stepca"')


def _refuse_twins(names: Sequence[str | int], what: str) -> None:
    first: dict[str | int, int] = {}
    for number, name in enumerate(names, 1):
        if first.setdefault(name, number) != number:
            raise ValueError(f"every {what} once, but #{first[name]} and #{number} have the same")
