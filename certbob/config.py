"""TOML and environment become frozen Settings; all mistakes are reported at once."""

from datetime import timedelta
from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from certbob.devices import EncodingPolicy
from certbob.profiles import KeyType, Profile, Usage
from certbob.secret import Secret


class Server(Struct, frozen=True, kw_only=True):
    listen: str = "127.0.0.1:8000"
    public_url: str = "http://127.0.0.1:8000"
    data_dir: Path = Path("data")
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    secret: Secret | None = None
    contact: str | None = None
    organization: str | None = None


class CA(Struct, frozen=True, kw_only=True):
    backend: Literal["builtin", "stepca"] = "builtin"


class Builtin(Struct, frozen=True, kw_only=True):
    name: str = "CertBob"
    key_type: Literal["p256", "p384", "rsa3072", "rsa4096"] = "p256"
    passphrase: Secret | None = None


class StepCA(Struct, frozen=True, kw_only=True):
    url: str | None = None
    root: str | None = None
    provisioner: str | None = None
    provisioner_password: Secret | None = None
    provisioner_key: Secret | None = None


class LocalUser(Struct, frozen=True, kw_only=True):
    username: str
    password_hash: Secret
    name: str | None = None
    email: str | None = None
    groups: tuple[str, ...] = ()


class Local(Struct, frozen=True, kw_only=True):
    users: tuple[LocalUser, ...] = ()


class Issue(Struct, frozen=True, kw_only=True):
    lifetime: timedelta = timedelta(minutes=5)
    direct_download: bool = True


class PKCS12(Struct, frozen=True, kw_only=True):
    encoding: EncodingPolicy = EncodingPolicy.ASK
    filename: str = "user_cert.pfx"
    include_root: bool = False


class Limits(Struct, frozen=True, kw_only=True):
    certificates_per_hour: int = 20


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


class Settings(Struct, frozen=True, kw_only=True):
    server: Server = field(default_factory=Server)
    ca: CA = field(default_factory=CA)
    builtin: Builtin = field(default_factory=Builtin)
    stepca: StepCA = field(default_factory=StepCA)
    local: Local = field(default_factory=Local)
    issue: Issue = field(default_factory=Issue)
    pkcs12: PKCS12 = field(default_factory=PKCS12)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    profiles: tuple[Profile, ...] = (DEFAULT_PROFILE,)
