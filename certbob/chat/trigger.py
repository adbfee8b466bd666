"""The signed `trigger_id` of a slash command: proof that the Mattermost server itself sent it.

The command's token is the same in every request and known to whoever may edit the command. This is not: the
server signs the person and the moment with its own key. Mattermost has it from 5.37 on and publishes the key,
but documents neither (server/public/model/integration_action.go).

    trigger_id = base64(data || base64(signature))
    data       = client_id ":" user_id ":" milliseconds ":"
    signature  = ECDSA P-256 with SHA-256, ASN.1 DER
"""

import base64
import hashlib
import logging
import re
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certbob.chat.server import ChatServer, ServerProblem
from certbob.errors import NoKey
from certbob.keys import digest
from certbob.outgoing import Shared
from certbob.ports import ChatStore, Clock

log = logging.getLogger(__name__)

MAX_LENGTH = 1024
MAX_AGE = timedelta(minutes=1)  # and as far from the future: clocks differ
SEEN_FOR = timedelta(minutes=3)  # longer than one can be of age
LOOK_EVERY = timedelta(minutes=1)

_DIGITS = re.compile(r"[0-9]{1,15}", re.ASCII)
_NOTHING = timedelta(0)


class BadTrigger(Exception):
    """Why it proves nothing; for the operator's log."""


def read_key(text: str) -> ec.EllipticCurvePublicKey:
    """From base64 of DER (SubjectPublicKeyInfo). Raises ValueError for anything but a P-256 key."""
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a P-256 key")
    return key


def fingerprint(text: str) -> str:
    """SHA-256 of the DER form of a key, hex."""
    return hashlib.sha256(base64.b64decode(text)).hexdigest()


def verify(trigger_id: str, user_id: str, key: ec.EllipticCurvePublicKey, now: datetime) -> str:
    """What was signed; the same text again is the same command again. Raises BadTrigger."""
    if not 0 < len(trigger_id) <= MAX_LENGTH:
        raise BadTrigger("there is none, or it is too long")
    try:
        parts = base64.b64decode(trigger_id, validate=True).decode("ascii").split(":")
        client_id, signed_user, moment, signature_text = parts
        signature = base64.b64decode(signature_text, validate=True)
    except ValueError as error:
        raise BadTrigger("it is not base64 of four parts") from error
    if signed_user != user_id:
        raise BadTrigger("it is of another person")
    if not _DIGITS.fullmatch(moment):
        raise BadTrigger("its time is not a number")
    age = now.timestamp() - int(moment) / 1000
    if abs(age) > MAX_AGE.total_seconds():
        raise BadTrigger(f"it is {age:.0f} seconds old")
    data = f"{client_id}:{signed_user}:{moment}:"
    try:
        key.verify(signature, data.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise BadTrigger("its signature is not of the known key") from error
    return data


class TriggerCheck:
    """Holds signed ids against the key that the server had when it was first asked.

    A server that has another key now is not believed: an operator says so (`accept_key`). `required`: nothing
    passes before a key is known.
    """

    def __init__(self, server: ChatServer, store: ChatStore, *, clock: Clock, required: bool) -> None:
        self._server = server
        self._store = store
        self._clock = clock
        self._required = required
        self._looked_at: datetime | None = None
        self._look = Shared(self._look_at_key)

    async def check(self, trigger_id: str, user_id: str) -> None:
        """Raises BadTrigger. Waits for no network."""
        known = await self._store.key_of(self._server.url)
        if known is None:
            self.look()
            if self._required:
                raise BadTrigger("the key of the server is not known yet")
            return
        now = self._clock.now()
        try:
            data = verify(trigger_id, user_id, read_key(known), now)
        except BadTrigger:
            self.look()  # perhaps the server has another key, which the operator should hear of
            raise
        if not await self._store.see_once(digest(data), now + SEEN_FOR):
            raise BadTrigger("it was used before")

    async def accept_key(self) -> str:
        """Believe the key that the server has now; its fingerprint. Raises NoKey."""
        try:
            told = await self._server.trigger_key()
            read_key(told)
        except (ServerProblem, ValueError) as problem:
            raise NoKey(str(problem)) from problem
        await self._store.replace_key(self._server.url, told)
        return fingerprint(told)

    def look(self) -> None:
        """Begin to ask the server for its key, once a minute at most."""
        now = self._clock.now()
        if self._looked_at is None or not _NOTHING <= now - self._looked_at < LOOK_EVERY:
            self._looked_at = now
            self._look.start()

    async def close(self) -> None:
        await self._look.cancel()

    async def _look_at_key(self) -> None:
        try:
            told = await self._server.trigger_key()
            read_key(told)
        except (ServerProblem, ValueError) as problem:
            log.warning("the key of %s for slash commands is not known: %s", self._server.url, problem)
            return
        known = await self._store.key_of(self._server.url)
        if known is None:
            await self._store.pin_key(self._server.url, told)
            log.info("slash commands of %s are signed with key %s", self._server.url, fingerprint(told))
        elif known != told:
            log.error(
                "%s has another key now, %s in the place of %s: its commands are refused."
                " If that is right, run `certbob mattermost accept-key`",
                self._server.url,
                fingerprint(told),
                fingerprint(known),
            )
