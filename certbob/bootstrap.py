"""The composition root: Settings become Services. The only file that knows every adapter."""

import logging
import os
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from email.headerregistry import Address
from pathlib import Path
from urllib.parse import urlsplit

from certbob.audit import AuditLog
from certbob.auth.claims import ClaimRules
from certbob.auth.local import Account, LocalAccounts, hash_password, new_password
from certbob.auth.oidc import OIDCSignIn
from certbob.auth.provider import OpenIDProvider
from certbob.bundles import FileNames
from certbob.ca.builtin import BuiltinCA, open_authority
from certbob.ca.stepca import StepCA
from certbob.chat.accounts import ChatAccounts, IdentityMode
from certbob.chat.checkup import Checkup
from certbob.chat.mattermost import CommandToken, Mattermost
from certbob.chat.messages import Messages
from certbob.chat.reminders import ChatMessenger
from certbob.chat.server import ChatServer
from certbob.chat.trigger import TriggerCheck
from certbob.chat_links import ChatLinks
from certbob.config import OIDC, SMTP, LocalUser, Server, Settings
from certbob.config import Mattermost as MattermostSettings
from certbob.delivery import MailDelivery
from certbob.errors import CannotStart, NameTaken, StorageProblem
from certbob.grants import Grants
from certbob.identity import Door, Identity
from certbob.issuance import Issuance
from certbob.keys import derive_key
from certbob.ledger import HOUR, Ledger
from certbob.mail.letters import Letters
from certbob.mail.smtp import SMTPMailer, tls_context
from certbob.metrics import Metrics
from certbob.names import Names
from certbob.paths import resource_root
from certbob.pause import Pause
from certbob.ports import (
    CertificateAuthority,
    ChatStore,
    Clock,
    CrlSigner,
    CrlSource,
    Mailer,
    Messenger,
    People,
    Signers,
    Way,
)
from certbob.private_files import require_private, write_private
from certbob.profiles import KeyType, Profiles
from certbob.reconciliation import Reconciliation
from certbob.reminders import MailMessenger, Reminders
from certbob.revocation import Revocation
from certbob.revocation_list import RevocationList
from certbob.services import LocalSignIn, Services
from certbob.signers import SignerPool
from certbob.store.sqlite import Database
from certbob.store.stores import Stores
from certbob.tokens import Tokens
from certbob.watch import PublishedList, Watch

ADMIN = "admin"
DRAIN_SECONDS = 20

log = logging.getLogger(__name__)


class SystemClock:
    """Implements `ports.Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)


async def build_services(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ca: CertificateAuthority | None = None,
    provider: OpenIDProvider | None = None,
    mailer: Mailer | None = None,
    chat_server: ChatServer | None = None,
    signers: Signers | None = None,
    tell_first_account: Callable[[str, str], None] | None = None,
) -> Services:
    """Everything wired as configured; tests may swap a port. Raises CannotStart.

    `tell_first_account(username, password)` is called once in the life of a data folder, when nobody could
    sign in otherwise; without it no account is made.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:  # an open database would keep the process alive
        data_dir = prepare_data_dir(settings.server.data_dir)
        if signers is None:
            signers = pool = SignerPool(os.cpu_count() or 1)
            stack.callback(pool.close)
        secret = settings.server.secret.reveal() if settings.server.secret else server_secret(data_dir)
        ca = ca or _authority(settings, data_dir, clock=clock, signers=signers)
        database = await Database.open(data_dir / "certbob.sqlite3")
        stack.push_async_callback(database.close)
        stack.push_async_callback(ca.close)
        stores = Stores(database)
        metrics = Metrics()
        audit = AuditLog(stores.audit, clock=clock, count=metrics.count_event)
        pause = Pause(stores.pause, audit=audit, clock=clock)
        grants = Grants(
            stores.grants,
            clock=clock,
            secret=secret,
            issuer=settings.server.public_url,
            lifetime=settings.issue.lifetime,
        )
        ledger = Ledger(
            stores.ledger,
            audit=audit,
            pause=pause,
            clock=clock,
            hourly_limit=settings.limits.certificates_per_hour,
        )
        profiles = Profiles(settings.profiles)
        accounts = await _accounts(settings, stores.people, tell_first_account)
        local = LocalAccounts(accounts, people=stores.people, tries=stores.tries, clock=clock)
        oidc = _single_sign_on(settings, provider, stores, secret, clock)
        if oidc is not None:
            stack.push_async_callback(oidc.close)
        doors = _Doors(settings, local, oidc)
        names = Names(stores.people, doors.exist)
        await _reserve_names(names, local)
        issuance = Issuance(
            grants=grants,
            ledger=ledger,
            names=names,
            pause=pause,
            ca=ca,
            signers=signers,
            profiles=profiles,
            clock=clock,
            organization=settings.server.organization,
            encodings=settings.pkcs12.encoding,
            file_names=FileNames(settings.pkcs12.filename),
            include_root=settings.pkcs12.include_root,
        )
        stack.push_async_callback(issuance.drain, DRAIN_SECONDS)
        mail, messengers = None, dict[Way, Messenger]()
        if settings.smtp.host and settings.smtp.sender:
            mailer = mailer or _mailer(settings.smtp, settings.smtp.host, settings.server.public_url)
            letters = _letters(settings.server, settings.smtp.sender, clock)
            messengers[Way.MAIL] = MailMessenger(mailer, letters)
            mail = MailDelivery(
                mailer=mailer,
                letters=letters,
                grants=grants,
                issuance=issuance,
                ledger=ledger,
                pause=pause,
                tries=stores.tries,
                clock=clock,
                attach=settings.smtp.attach,
                site=settings.server.public_url,
            )
            stack.push_async_callback(mail.drain, DRAIN_SECONDS)
        chat = None
        if settings.mattermost.token:
            server = chat_server or _chat_server(settings.mattermost)
            messages = _messages(settings.server)
            chat = _chat(settings, server, stores, names, messages, doors, clock)
            stack.push_async_callback(chat.close, DRAIN_SECONDS)
            if server is not None and server.has_bot:
                messengers[Way.CHAT] = ChatMessenger(
                    server, stores.chats, messages, site=settings.server.public_url
                )
        reminders = None
        ways = [messengers[way] for way in settings.reminders.by if way in messengers]
        if ways and settings.reminders.days:
            reminders = Reminders(
                stores.reminders, ways, days=settings.reminders.days, exists=doors.can_come, clock=clock
            )
            stack.push_async_callback(reminders.drain, DRAIN_SECONDS)
        revocation_list = None
        if isinstance(ca, CrlSigner):
            revocation_list = RevocationList(
                stores.ledger, ca, clock=clock, lifetime=settings.builtin.crl_lifetime
            )
        revocation = Revocation(
            ledger=ledger,
            grants=grants,
            ca=ca,
            revocation_list=revocation_list,
            tokens=Tokens(
                secret, "revocation", "certbob:revoke", issuer=settings.server.public_url, clock=clock
            ),
            clock=clock,
        )
        stack.push_async_callback(revocation.drain, DRAIN_SECONDS)

        async def storage_health() -> str | None:
            try:
                await stores.tries.count_try("readiness", now=clock.now(), limit=2, window=HOUR, ban=HOUR)
            except StorageProblem as error:
                return error.detail
            return None

        async def prune() -> None:
            await stores.prune(clock.now())

        return Services(
            clock=clock,
            ca=ca,
            grants=grants,
            issuance=issuance,
            profiles=profiles,
            people=stores.people,
            sessions=stores.sessions,
            mail=mail,
            local=LocalSignIn(local.authenticate, exists=local.exist),
            single_sign_on=oidc,
            chat=chat,
            chat_links=ChatLinks(stores.chats, audit=audit, clock=clock),
            ledger=ledger,
            audit=audit,
            pause=pause,
            reconciliation=Reconciliation(ledger, clock=clock, is_ours=isinstance(ca, CrlSigner)),
            reminders=reminders,
            revocation_list=revocation_list,
            published_list=PublishedList(ca, clock=clock) if isinstance(ca, CrlSource) else None,
            watch=Watch(ca, pause, storage_health),
            metrics=metrics,
            revocation=revocation,
            still_knows=doors.still_know,
            is_admin=doors.is_admin,
            session_key=derive_key(secret, "session"),
            storage_health=storage_health,
            prune=prune,
            close=stack.pop_all().aclose,
        )


class _Doors:
    """Who can come in, by any of them."""

    def __init__(self, settings: Settings, local: LocalAccounts, oidc: OIDCSignIn | None) -> None:
        self._settings = settings
        self._local = local
        self._oidc = oidc

    def exist(self, door: Door, account: str) -> bool:
        match door:
            case Door.LOCAL:
                return self._local.has(account)
            case Door.OIDC:
                return self._oidc is not None and self._oidc.has(account)
            case Door.MATTERMOST:
                # Where people link their accounts they get the names that they have on the web.
                mattermost = self._settings.mattermost
                return bool(mattermost.token) and mattermost.identity != "link"
        return True

    def can_come(self, door: Door, account: str) -> bool:
        """Whether somebody could replace what they have; who got it from the terminal could not."""
        return door is not Door.TERMINAL and self.exist(door, account)

    def still_know(self, identity: Identity) -> bool:
        if identity.door is Door.OIDC:
            return self._oidc is not None and self._oidc.still_knows(identity)
        return self._local.still_knows(identity)

    def is_admin(self, identity: Identity) -> bool:
        # With none configured, the only local account is the one that CertBob made for whoever runs it.
        is_made = identity.door is Door.LOCAL and not self._settings.local.users
        return is_made or not set(identity.groups).isdisjoint(self._settings.oidc.admin_groups)

    async def current(self, identity: Identity) -> Identity | None:
        """As they are now; None when they are not known any more."""
        if identity.door is Door.LOCAL:
            return await self._local.identity_of(identity.account)
        return identity if self.still_know(identity) else None


def prepare_data_dir(path: Path) -> Path:
    """The data folder, made 0700 if it does not exist. Raises CannotStart."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private(path)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError("it cannot be written")
    except OSError as error:
        raise CannotStart(
            f"The data folder {path} cannot be used: {error.strerror or error}.",
            "Give it to the user CertBob runs as, or set [server] data_dir to another one.",
        ) from error
    return path


def server_secret(data_dir: Path) -> str:
    """What all keys of this service are derived from; made at the first start. Raises CannotStart."""
    path = data_dir / "secret"
    try:
        if not path.exists():
            draft = data_dir / f".secret-{secrets.token_hex(8)}"
            write_private(draft, secrets.token_urlsafe(48).encode())
            # Linked, so that of two processes that start at once both read the same, whole secret.
            with suppress(FileExistsError):
                path.hardlink_to(draft)
            draft.unlink()
        require_private(path)
        secret = path.read_text().strip()
    except OSError as error:
        raise CannotStart(
            f"{path} cannot be used: {error.strerror}.", "Give it to the user CertBob runs as."
        ) from error
    if len(secret) < 32:
        raise CannotStart(
            f"{path} is damaged.", "Restore it from your last backup, or remove it to make a new one."
        )
    return secret


def _authority(settings: Settings, data_dir: Path, *, clock: Clock, signers: Signers) -> CertificateAuthority:
    if settings.ca.backend == "stepca":
        stepca = settings.stepca
        return StepCA(
            url=stepca.url or "",
            root=stepca.root or "",
            provisioner=stepca.provisioner or "",
            password=stepca.provisioner_password,
            key=stepca.provisioner_key,
            clock=clock,
        )
    authority = open_authority(
        data_dir / "ca",
        name=settings.builtin.name,
        organization=settings.server.organization,
        key_type=KeyType(settings.builtin.key_type),
        passphrase=settings.builtin.passphrase,
        now=clock.now(),
    )
    return BuiltinCA(authority, signers=signers, clock=clock, crl_url=f"{settings.server.public_url}/ca/crl")


def _mailer(smtp: SMTP, host: str, public_url: str) -> SMTPMailer:
    """Raises CannotStart."""
    if smtp.security == "none":
        log.warning('[smtp] security is "none": whoever sees the traffic can read and change the mails')
    for file in (smtp.tls_ca, smtp.tls_certificate, smtp.tls_key):
        if file is not None and not os.access(file, os.R_OK):
            raise CannotStart(
                f"{file}, which [smtp] names, cannot be read.", "Check its path and its rights."
            )
    try:
        tls = tls_context(smtp.tls_ca, smtp.tls_certificate, smtp.tls_key)
    except OSError as error:
        raise CannotStart(
            f"The certificates of [smtp] cannot be used: {error}.",
            "Check tls_ca, tls_certificate and tls_key, and that the key belongs to the certificate.",
        ) from error
    return SMTPMailer(
        host=host,
        port=smtp.port,
        security=smtp.security,
        username=smtp.username,
        password=smtp.password,
        sender=smtp.sender.addr_spec if smtp.sender else "",
        name=urlsplit(public_url).hostname or "localhost",
        tls=tls,
    )


def _chat_server(mattermost: MattermostSettings) -> ChatServer | None:
    if mattermost.url is None:
        return None
    if mattermost.url.startswith("http://"):
        log.warning("[mattermost] url is plain http: whoever sees the traffic can run commands as anybody")
    return ChatServer(mattermost.url, mattermost.bot_token)


def _trigger_check(
    mattermost: MattermostSettings, server: ChatServer | None, store: ChatStore, clock: Clock
) -> TriggerCheck | None:
    if mattermost.verify_trigger == "off" or server is None:
        log.warning(
            "slash commands of Mattermost are believed by their token alone, because [mattermost] %s",
            "url is not set" if server is None else 'verify_trigger is "off"',
        )
        return None
    return TriggerCheck(server, store, clock=clock, required=mattermost.verify_trigger == "require")


def _chat(
    settings: Settings,
    server: ChatServer | None,
    stores: Stores,
    names: Names,
    messages: Messages,
    doors: _Doors,
    clock: Clock,
) -> Mattermost:
    mattermost = settings.mattermost
    mode = IdentityMode(mattermost.identity)
    trigger = _trigger_check(mattermost, server, stores.chats, clock)
    return Mattermost(
        tokens=[CommandToken(each.token, each.team) for each in mattermost.token],
        trigger=trigger,
        accounts=ChatAccounts(
            mode=mode,
            email_domain=mattermost.email_domain,
            server=server if server and server.has_bot else None,
            store=stores.chats,
            people=stores.people,
            names=names,
            current=doors.current,
            clock=clock,
        ),
        mode=mode,
        has_addresses=mode is not IdentityMode.USERNAME or mattermost.email_domain is not None,
        messages=messages,
        checkup=Checkup(
            server,
            stores.chats,
            clock=clock,
            mode=mode,
            verifies=trigger is not None,
            public_url=settings.server.public_url,
        ),
        server=server,
        tries=stores.tries,
        clock=clock,
        opens_links=mattermost.open,
    )


def _single_sign_on(
    settings: Settings, provider: OpenIDProvider | None, stores: Stores, secret: str, clock: Clock
) -> OIDCSignIn | None:
    oidc = settings.oidc
    if not (oidc.issuer and oidc.client_id):
        return None
    return OIDCSignIn(
        provider or _provider(oidc, oidc.issuer, oidc.client_id, clock),
        label=oidc.label,
        rules=_claim_rules(oidc),
        public_url=settings.server.public_url,
        store=stores.sign_ins,
        people=stores.people,
        chats=stores.chats,
        clock=clock,
        key=derive_key(secret, "sign-in"),
    )


def _letters(server: Server, sender: Address, clock: Clock) -> Letters:
    return Letters(
        resource_root() / "partials" / "mail",
        sender=sender,
        site=server.public_url,
        contact=server.contact,
        organization=server.organization,
        clock=clock,
    )


def _messages(server: Server) -> Messages:
    return Messages(resource_root() / "partials" / "chat", site=server.public_url, contact=server.contact)


def _provider(oidc: OIDC, issuer: str, client_id: str, clock: Clock) -> OpenIDProvider:
    if issuer.startswith("http://"):
        log.warning("[oidc] issuer is plain http: whoever sees the traffic can sign in as anybody")
    return OpenIDProvider(
        issuer=issuer, client_id=client_id, client_secret=oidc.client_secret, scopes=oidc.scopes, clock=clock
    )


def _claim_rules(oidc: OIDC) -> ClaimRules:
    return ClaimRules(
        name=(oidc.name_claim,) if oidc.name_claim else ("preferred_username", "name"),
        email=oidc.email_claim,
        groups=oidc.groups_claim,
        allowed_groups=oidc.allowed_groups,
        admin_groups=oidc.admin_groups,
    )


async def _reserve_names(names: Names, local: LocalAccounts) -> None:
    """So that nobody who chooses a name elsewhere gets a certificate as one of the configured people."""
    for identity in await local.identities():
        try:
            await names.claim(identity)
        except NameTaken:
            log.warning(
                "the name %r of account %s belongs to another account, so it can get no certificate",
                identity.name,
                identity.account,
            )


async def _accounts(
    settings: Settings, people: People, tell_first_account: Callable[[str, str], None] | None
) -> list[Account]:
    """The configured accounts; the generated one counts only while there is no other way to sign in."""
    if settings.local.users or settings.oidc.issuer:
        return [_account(user) for user in settings.local.users]
    known = await people.accounts()
    if not known and tell_first_account is not None:
        password = new_password()
        if await people.add_account(ADMIN, hash_password(password)):
            tell_first_account(ADMIN, password)
        known = await people.accounts()
    return [Account(username, password_hash, username, None, ()) for username, password_hash in known.items()]


def _account(user: LocalUser) -> Account:
    name = user.name or user.username
    return Account(user.username, user.password_hash.reveal(), name, user.email, user.groups)
