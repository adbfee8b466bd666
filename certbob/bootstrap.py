"""The composition root: Settings become Services. The only file that knows every adapter."""

import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
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
from certbob.config import OIDC, SMTP, LocalUser, Settings
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
    TryStore,
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
from certbob.store.queries import (
    SqlAudit,
    SqlChats,
    SqlGrants,
    SqlLedger,
    SqlPause,
    SqlPeople,
    SqlReminders,
    SqlSessions,
    SqlSignIns,
    SqlTries,
)
from certbob.store.sqlite import Database
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
    stack = AsyncExitStack()
    try:
        return await _build(
            settings,
            clock or SystemClock(),
            ca,
            provider,
            mailer,
            chat_server,
            signers,
            tell_first_account,
            stack,
        )
    except BaseException:
        await stack.aclose()  # an open database would keep the process alive
        raise


async def _build(
    settings: Settings,
    clock: Clock,
    ca: CertificateAuthority | None,
    provider: OpenIDProvider | None,
    mailer: Mailer | None,
    chat_server: ChatServer | None,
    signers: Signers | None,
    tell_first_account: Callable[[str, str], None] | None,
    stack: AsyncExitStack,
) -> Services:
    data_dir = prepare_data_dir(settings.server.data_dir)
    if signers is None:
        signers = pool = SignerPool(os.cpu_count() or 1)
        stack.callback(pool.close)
    secret = settings.server.secret.reveal() if settings.server.secret else server_secret(data_dir)
    ca = ca or _authority(settings, data_dir, clock=clock, signers=signers)
    database = await Database.open(data_dir / "certbob.sqlite3")
    stack.push_async_callback(database.close)
    stack.push_async_callback(ca.close)
    grant_store, people = SqlGrants(database), SqlPeople(database)
    sessions, tries = SqlSessions(database), SqlTries(database)
    grants = Grants(
        grant_store,
        clock=clock,
        secret=secret,
        issuer=settings.server.public_url,
        lifetime=settings.issue.lifetime,
    )
    ledger_store = SqlLedger(database)
    revocation_list = None
    if isinstance(ca, CrlSigner):
        revocation_list = RevocationList(
            ledger_store, ca, clock=clock, lifetime=settings.builtin.crl_lifetime
        )
    metrics = Metrics()
    audit = AuditLog(SqlAudit(database), clock=clock, count=metrics.count_event)
    pause = Pause(SqlPause(database), audit=audit, clock=clock)
    ledger = Ledger(
        ledger_store,
        audit=audit,
        pause=pause,
        clock=clock,
        hourly_limit=settings.limits.certificates_per_hour,
    )
    profiles = Profiles(settings.profiles)
    local = LocalAccounts(
        await _accounts(settings, people, tell_first_account), people=people, tries=tries, clock=clock
    )
    sign_ins, chats = SqlSignIns(database), SqlChats(database)
    oidc = None
    if settings.oidc.issuer and settings.oidc.client_id:
        provider = provider or _provider(settings.oidc, settings.oidc.issuer, settings.oidc.client_id, clock)
        stack.push_async_callback(provider.close)
        oidc = OIDCSignIn(
            provider,
            label=settings.oidc.label,
            rules=_claim_rules(settings.oidc),
            public_url=settings.server.public_url,
            store=sign_ins,
            people=people,
            chats=chats,
            clock=clock,
            key=derive_key(secret, "sign-in"),
        )

    def exists(door: Door, account: str) -> bool:
        match door:
            case Door.LOCAL:
                return local.has(account)
            case Door.OIDC:
                return oidc is not None and oidc.has(account)
            case Door.MATTERMOST:
                # Where people link their accounts they get the names that they have on the web.
                return bool(settings.mattermost.token) and settings.mattermost.identity != "link"
        return True

    def still_knows(identity: Identity) -> bool:
        if identity.door is Door.OIDC:
            return oidc is not None and oidc.still_knows(identity)
        return local.still_knows(identity)

    def is_admin(identity: Identity) -> bool:
        # With none configured, the only local account is the one that CertBob made for whoever runs it.
        is_made = identity.door is Door.LOCAL and not settings.local.users
        return is_made or not set(identity.groups).isdisjoint(settings.oidc.admin_groups)

    async def current(identity: Identity) -> Identity | None:
        if identity.door is Door.LOCAL:
            return await local.identity_of(identity.account)
        return identity if still_knows(identity) else None

    names = Names(people, exists)
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
        letters = Letters(
            resource_root() / "partials" / "mail",
            sender=settings.smtp.sender,
            site=settings.server.public_url,
            contact=settings.server.contact,
            organization=settings.server.organization,
            clock=clock,
        )
        messengers[Way.MAIL] = MailMessenger(mailer, letters)
        mail = MailDelivery(
            mailer=mailer,
            letters=letters,
            grants=grants,
            issuance=issuance,
            ledger=ledger,
            pause=pause,
            tries=tries,
            clock=clock,
            attach=settings.smtp.attach,
            site=settings.server.public_url,
        )
        stack.push_async_callback(mail.drain, DRAIN_SECONDS)
    chat = None
    if settings.mattermost.token:
        server = chat_server or _chat_server(settings.mattermost)
        trigger = _trigger_check(settings.mattermost, server, chats, clock)
        messages = Messages(
            resource_root() / "partials" / "chat",
            site=settings.server.public_url,
            contact=settings.server.contact,
        )
        chat = _chat(settings, server, trigger, chats, people, names, tries, messages, current, clock)
        stack.push_async_callback(chat.close, DRAIN_SECONDS)
        if server is not None and server.has_bot:
            messengers[Way.CHAT] = ChatMessenger(server, chats, messages, site=settings.server.public_url)

    def can_come(door: Door, account: str) -> bool:
        """Whether somebody could replace what they have; who got it from the terminal could not."""
        return door is not Door.TERMINAL and exists(door, account)

    reminders, reminder_store = None, SqlReminders(database)
    ways = [messengers[way] for way in settings.reminders.by if way in messengers]
    if ways and settings.reminders.days:
        reminders = Reminders(
            reminder_store, ways, days=settings.reminders.days, exists=can_come, clock=clock
        )
        stack.push_async_callback(reminders.drain, DRAIN_SECONDS)

    revocation = Revocation(
        ledger=ledger,
        ca=ca,
        revocation_list=revocation_list,
        tokens=Tokens(secret, "revocation", "certbob:revoke", issuer=settings.server.public_url, clock=clock),
        clock=clock,
    )
    stack.push_async_callback(revocation.drain, DRAIN_SECONDS)

    async def storage_health() -> str | None:
        try:
            await tries.count_try("readiness", now=clock.now(), limit=2, window=HOUR, ban=HOUR)
        except StorageProblem as error:
            return error.detail
        return None

    async def prune() -> None:
        now = clock.now()
        await grant_store.prune_grants(now - timedelta(days=1))
        await sessions.prune_sessions(now - timedelta(days=1))
        await sign_ins.prune_sign_ins(now - timedelta(minutes=15))
        await chats.prune_chats(now)
        await reminder_store.prune_reminders(now)
        await tries.prune_tries(now)

    return Services(
        clock=clock,
        ca=ca,
        grants=grants,
        issuance=issuance,
        profiles=profiles,
        people=people,
        sessions=sessions,
        mail=mail,
        local=LocalSignIn(local.authenticate, exists=local.exist),
        single_sign_on=oidc,
        chat=chat,
        chat_links=ChatLinks(chats, audit=audit, clock=clock),
        ledger=ledger,
        audit=audit,
        pause=pause,
        reconciliation=Reconciliation(ledger, clock=clock, is_ours=isinstance(ca, CrlSigner)),
        reminders=reminders,
        revocation_list=revocation_list,
        published_list=PublishedList(ca, clock=clock) if isinstance(ca, CrlSource) else None,
        watch=Watch(ca, storage_health),
        metrics=metrics,
        revocation=revocation,
        still_knows=still_knows,
        is_admin=is_admin,
        session_key=derive_key(secret, "session"),
        storage_health=storage_health,
        prune=prune,
        close=stack.aclose,
    )


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
    trigger: TriggerCheck | None,
    store: ChatStore,
    people: People,
    names: Names,
    tries: TryStore,
    messages: Messages,
    current: Callable[[Identity], Awaitable[Identity | None]],
    clock: Clock,
) -> Mattermost:
    mattermost = settings.mattermost
    mode = IdentityMode(mattermost.identity)
    return Mattermost(
        tokens=[CommandToken(each.token, each.team) for each in mattermost.token],
        trigger=trigger,
        accounts=ChatAccounts(
            mode=mode,
            email_domain=mattermost.email_domain,
            server=server if server and server.has_bot else None,
            store=store,
            people=people,
            names=names,
            current=current,
            clock=clock,
        ),
        mode=mode,
        has_addresses=mode is not IdentityMode.USERNAME or mattermost.email_domain is not None,
        messages=messages,
        checkup=Checkup(
            server,
            store,
            clock=clock,
            mode=mode,
            verifies=trigger is not None,
            public_url=settings.server.public_url,
        ),
        server=server,
        tries=tries,
        clock=clock,
        opens_links=mattermost.open,
    )


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
