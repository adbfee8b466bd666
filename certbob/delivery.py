"""Certificates by mail: the file attached, or a link to it that needs a sign-in. Never the passphrase.

The mail server has accepted the recipient before anything is signed, so what it refuses costs nothing. A
message that it refuses at the very end leaves the file where a download finds it, for two minutes.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from certbob.errors import MailRefused, MailUnavailable, NoMailbox, StorageProblem, TooManyMails
from certbob.grants import Grants
from certbob.issuance import REPEAT_WINDOW, FileOptions, Issuance
from certbob.ledger import HOUR, Ledger
from certbob.pause import Pause
from certbob.ports import Clock, Delivery, Grant, Letters, Mailer, Origin, TryStore

log = logging.getLogger(__name__)

SEND_AGAIN_AFTER = timedelta(minutes=1)
MAILS_PER_HOUR = 40  # to one person


@dataclass(frozen=True, slots=True)
class Sent:
    """`at`: when the mail server took the message; `again_at`: when another one can be sent."""

    recipient: str
    at: datetime

    @property
    def again_at(self) -> datetime:
        return self.at + SEND_AGAIN_AFTER


class MailDelivery:
    """`attach`: files travel in the mail itself; otherwise links do. `site`: where the links lead."""

    def __init__(
        self,
        *,
        mailer: Mailer,
        letters: Letters,
        grants: Grants,
        issuance: Issuance,
        ledger: Ledger,
        pause: Pause,
        tries: TryStore,
        clock: Clock,
        attach: bool,
        site: str,
    ) -> None:
        self._mailer = mailer
        self._letters = letters
        self._grants = grants
        self._issuance = issuance
        self._ledger = ledger
        self._pause = pause
        self._tries = tries
        self._clock = clock
        self._site = site
        self.way = Delivery.MAIL if attach else Delivery.LINK
        self._sendings: dict[tuple[str, str | None], asyncio.Task[Sent]] = {}

    async def send_file(
        self,
        untrusted_token: str,
        *,
        holder: str | None,
        options: FileOptions,
        origin: Origin,
    ) -> Sent:
        """Redeem the grant and mail the file to its owner. Within a minute the same holder sends it once.

        Raises what `Issuance.issue` does, and the MailProblems; of these all but MailUncertain say truly that
        nothing was sent.
        """
        grant = await self._grants.inspect(untrusted_token)
        if self._issuance.take_of(grant, holder) is None:
            self._grants.check_live(grant, holder)  # nobody's quota pays for a dead link
        key = (grant.id_hash, holder)
        task = self._sendings.get(key)
        if task is None or (task.done() and self._clock.now() >= task.result().again_at):
            # A task of its own: a browser that goes away must not stop it between signing and sending.
            task = asyncio.create_task(self._send_file(grant, untrusted_token, holder, options, origin))
            self._sendings[key] = task
            task.add_done_callback(lambda done: self._settle(key, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_report)
            raise

    async def send_link(self, token: str) -> None:
        """Mail the grant's link to its owner, each time. Raises the MailProblems, StorageProblem."""
        grant = await self._grants.inspect(token)
        link = f"{self._site}/issue?{urlencode({'token': token})}"
        async with self._mailer.envelope(await self._recipient(grant)) as envelope:
            await envelope.send(self._letters.with_link(grant, link))

    async def examine(self) -> str | None:
        """None when the mail server can be used, else why not, for the operator."""
        try:
            await self._mailer.reach()
        except MailUnavailable as problem:
            return problem.detail
        return None

    def sent(self, grant: Grant, holder: str | None) -> Sent | None:
        """The mail that this browser has had sent, while its file is at hand."""
        task = self._sendings.get((grant.id_hash, holder))
        return task.result() if task is not None and task.done() else None

    async def drain(self, seconds: float) -> None:
        """Let running mails go out, for so long at most; called at shutdown."""
        running = [task for task in self._sendings.values() if not task.done()]
        if running:
            await asyncio.wait(running, timeout=seconds)

    def _settle(self, key: tuple[str, str | None], task: asyncio.Task[Sent]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._forget(key, task)
        else:
            asyncio.get_running_loop().call_later(REPEAT_WINDOW.total_seconds(), self._forget, key, task)

    def _forget(self, key: tuple[str, str | None], task: asyncio.Task[Sent]) -> None:
        if self._sendings.get(key) is task:
            del self._sendings[key]

    async def _send_file(
        self, grant: Grant, untrusted_token: str, holder: str | None, options: FileOptions, origin: Origin
    ) -> Sent:
        await self._pause.check()  # before the person's quota of mails pays for it
        recipient = await self._recipient(grant)
        # What somebody has already stays theirs, whatever becomes of another mail.
        has_it = self._issuance.is_collected(grant, holder)
        async with self._mailer.envelope(recipient) as envelope:
            issued = await self._issuance.issue(
                untrusted_token, holder=holder, options=options, origin=origin, hand_over=False
            )
            if not has_it:
                await self._note(issued.entry, None)  # until the server has spoken, whatever happens here
            try:
                letter = self._letters.with_file(grant, issued)
                await envelope.send(letter)
            except BaseException as problem:
                if not has_it:
                    self._issuance.expect_collection(grant, holder)
                    if isinstance(problem, MailRefused):
                        await self._note(issued.entry, False)
                raise
        log.info("%s mailed: %s", origin.reference, letter["Message-ID"])
        await self._note(issued.entry, True)
        return Sent(recipient, self._clock.now())

    async def _note(self, entry: int, delivered: bool | None) -> None:
        """What became of the mail is true also where it cannot be written down."""
        with suppress(StorageProblem):
            await self._ledger.delivered(entry, delivered, Delivery.MAIL)

    async def _recipient(self, grant: Grant) -> str:
        """Raises NoMailbox, TooManyMails."""
        if grant.identity.email is None:
            raise NoMailbox
        tries = await self._tries.count_try(
            f"mail:{grant.identity.subject}",
            now=self._clock.now(),
            limit=MAILS_PER_HOUR,
            window=HOUR,
            ban=HOUR,
        )
        if tries.count > MAILS_PER_HOUR:
            raise TooManyMails(tries.until)
        return grant.identity.email


def _report(task: asyncio.Task[Sent]) -> None:
    """Of a mail whose browser has gone: otherwise nobody would hear of it."""
    if not task.cancelled() and (error := task.exception()):
        log.warning("a mail was not sent, and its browser had gone: %r", error)
