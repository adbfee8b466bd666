"""Local accounts: Argon2id passwords, and a limiter that neither spelling nor parallel tries get around.

Order of a sign-in: is the address blocked?; take a hashing slot, and ask again; count the try for the name,
before the password is looked at; verify, for an unknown name against a dummy hash of the same cost; a success
takes the name's count back, a failure counts for the address. So one name gets at most three verifications in
its window however many tries arrive at once, and a success never counts against people behind one address.
"""

import asyncio
import functools
import ipaddress
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from certbob.errors import Busy, SignInBlocked, SignInRefused
from certbob.identity import Door, Identity
from certbob.keys import digest
from certbob.ports import Clock, People, Tries, TryStore

NAME_LIMIT = 3
ADDRESS_LIMIT = 20  # an office behind one address mistypes more often than one person does
WINDOW = timedelta(minutes=2)
BAN = timedelta(minutes=5)
MAX_PASSWORD_BYTES = 1024
MAX_NAME_LENGTH = 256
MAX_WAITING = 100
# OWASP's minimum: 19 MiB, 2 passes. One lane only: cryptography 50.0 hangs for ever when two threads
# verify a hash with more lanes at the same time.
_MEMORY_KIB, _PASSES, _LANES, _SALT_BYTES, _HASH_BYTES = 19 * 1024, 2, 1, 16, 32
_CONCURRENT_HASHES = 2


@dataclass(frozen=True, slots=True)
class Account:
    """`username` in its canonical form; `name`, `email` checked by `certbob.identity`."""

    username: str
    password_hash: str
    name: str
    email: str | None
    groups: tuple[str, ...]


class LocalAccounts:
    def __init__(self, accounts: Sequence[Account], *, people: People, tries: TryStore, clock: Clock) -> None:
        self._accounts = {account.username: account for account in accounts}
        self._people = people
        self._tries = tries
        self._clock = clock
        self._slots = asyncio.Semaphore(_CONCURRENT_HASHES)
        self._waiting = 0
        self._dummy_hash = _nobodys_hash()

    async def authenticate(self, username: str, password: str, address: str) -> Identity:
        """Who this is. `address`: the client's IP address. Raises SignInRefused, SignInBlocked, Busy."""
        name = canonical(username[:MAX_NAME_LENGTH])
        # Hashed, because people type their password into the wrong field now and then.
        name_bucket = f"name:{digest(name)}"
        address_bucket = f"address:{network_of(address)}"
        await self._check_address(address_bucket)
        if self._waiting >= MAX_WAITING:
            raise Busy("too many sign-ins at once")
        self._waiting += 1
        try:
            return await self._verified(name, password, name_bucket, address_bucket)
        finally:
            self._waiting -= 1

    async def _verified(self, name: str, password: str, name_bucket: str, address_bucket: str) -> Identity:
        async with self._slots:
            await self._check_address(address_bucket)
            tries = await self._count(name_bucket, NAME_LIMIT)
            if tries.count > NAME_LIMIT:
                raise SignInBlocked(tries.until, "too many tries for one name")
            account = self._accounts.get(name)
            password_hash = account.password_hash if account else self._dummy_hash
            fits = await asyncio.to_thread(verify_password, password, password_hash)
        if account is None or not fits:
            await self._count(address_bucket, ADDRESS_LIMIT)
            raise SignInRefused
        await self._tries.forget_tries(name_bucket)
        return await self._identity(account)

    @property
    def exist(self) -> bool:
        return bool(self._accounts)

    def has(self, username: str) -> bool:
        return username in self._accounts

    async def identity_of(self, username: str) -> Identity | None:
        """As the configuration has the account now."""
        account = self._accounts.get(username)
        return await self._identity(account) if account else None

    async def identities(self) -> list[Identity]:
        """Everybody who can sign in like that."""
        return [await self._identity(account) for account in self._accounts.values()]

    def still_knows(self, identity: Identity) -> bool:
        """False once the account is not what it was at the sign-in: gone, or of another name or groups."""
        account = self._accounts.get(identity.account)
        return account is not None and identity == self._identity_of(account, identity.subject)

    async def _identity(self, account: Account) -> Identity:
        return self._identity_of(account, await self._people.subject_for(Door.LOCAL, account.username))

    def _identity_of(self, account: Account, subject: str) -> Identity:
        return Identity(subject, account.name, account.email, account.groups, Door.LOCAL, account.username)

    async def _check_address(self, bucket: str) -> None:
        tries = await self._tries.tries(bucket, now=self._clock.now())
        if tries is not None and tries.count >= ADDRESS_LIMIT:
            raise SignInBlocked(tries.until, "too many tries from one address")

    async def _count(self, bucket: str, limit: int) -> Tries:
        return await self._tries.count_try(bucket, now=self._clock.now(), limit=limit, window=WINDOW, ban=BAN)


def canonical(username: str) -> str:
    """One spelling for every way to write a name: NFKC, casefold, no blanks around."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold()).strip()


def network_of(address: str) -> str:
    """Whose tries are counted together: an IPv4 address, or the /64 that one IPv6 customer gets."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((ip, 64), strict=False))
        ip = ip.ipv4_mapped
    return str(ip)


@functools.cache
def _nobodys_hash() -> str:
    """Checked for names that do not exist, which then cost as much time as others; one for the process."""
    return hash_password(secrets.token_urlsafe())


def hash_password(password: str) -> str:
    """An Argon2id PHC string. CPU-heavy: run it in a thread."""
    return Argon2id(
        salt=secrets.token_bytes(_SALT_BYTES),
        length=_HASH_BYTES,
        iterations=_PASSES,
        lanes=_LANES,
        memory_cost=_MEMORY_KIB,
    ).derive_phc_encoded(password.encode())


def verify_password(password: str, password_hash: str) -> bool:
    """CPU-heavy: run it in a thread."""
    secret = password.encode("utf-8", "surrogatepass")
    try:
        Argon2id.verify_phc_encoded(secret if len(secret) <= MAX_PASSWORD_BYTES else b"", password_hash)
    except InvalidKey:
        return False
    return True


def new_password() -> str:
    """A random password that can be typed: 20 letters and digits in groups of five, 103 bits or more."""
    alphabet = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))
