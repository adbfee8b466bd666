"""The signature of a slash command proves who ran it and when, once, and its key is taken on first use."""

import asyncio
import base64
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from certbob.chat.server import ChatServer
from certbob.chat.trigger import (
    LOOK_EVERY,
    MAX_AGE,
    MAX_LENGTH,
    SEEN_FOR,
    BadTrigger,
    TriggerCheck,
    fingerprint,
    read_key,
    verify,
)
from certbob.errors import NoKey
from certbob.store.chats import SqlChats
from certbob.store.sqlite import Database
from tests.support.mattermost import BROKEN_TRIGGER_IDS, Mattermost
from tests.support.mattermost_api import FAULTS, SITE_URL, User, new_id
from tests.support.web import StillClock

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
GIVE_UP = 30  # seconds until a test is red


def sha256(key: str) -> str:
    return hashlib.sha256(base64.b64decode(key)).hexdigest()


def verified(chat: Mattermost, trigger_id: str, user: User) -> str:
    return verify(trigger_id, user.id, read_key(chat.public_key), chat.now())


@contextmanager
def refusing(why: str = "") -> Iterator[None]:
    with pytest.raises(BadTrigger) as refused:
        yield
    assert why in str(refused.value)


class TestVerify:
    def test_a_good_one_says_what_was_signed(self, chat: Mattermost, alice: User) -> None:
        trigger_id = chat.trigger_id(alice)

        data = verified(chat, trigger_id, alice)

        assert base64.b64decode(trigger_id).startswith(data.encode())
        assert data.endswith(f":{alice.id}:{chat.milliseconds()}:")

    @pytest.mark.parametrize("kind", BROKEN_TRIGGER_IDS)
    def test_a_broken_one_proves_nothing(self, chat: Mattermost, alice: User, kind: str) -> None:
        trigger_id = BROKEN_TRIGGER_IDS[kind](chat, alice)

        with refusing():
            verified(chat, trigger_id, alice)

    @pytest.mark.parametrize("off", [MAX_AGE, -MAX_AGE], ids=["old", "of the future"])
    def test_clocks_may_differ_by_a_minute_and_no_millisecond_more(
        self, chat: Mattermost, alice: User, off: timedelta
    ) -> None:
        at = chat.now() - off
        beyond = at - timedelta(milliseconds=1 if off > timedelta() else -1)

        verified(chat, chat.trigger_id(alice, at=at), alice)
        with refusing(f"it is {off.total_seconds():.0f} seconds old"):
            verified(chat, chat.trigger_id(alice, at=beyond), alice)

    def test_it_may_be_of_1024_characters_and_no_more(self, chat: Mattermost, alice: User) -> None:
        rest = f":{alice.id}:{chat.milliseconds()}:"

        def of(length: int) -> str:
            signature = 96  # base64 of 70 to 72 bytes, and hardly ever less
            client_id = "x" * (length // 4 * 3 - signature - len(rest))
            while len(trigger_id := chat.trigger_id(alice, data=f"{client_id}{rest}".encode())) != length:
                pass
            return trigger_id

        verified(chat, of(MAX_LENGTH), alice)
        with refusing("too long"):
            verified(chat, of(MAX_LENGTH + 4), alice)

    @pytest.mark.parametrize("content", [b"", b"\xff:\xff:1:", b":::", b"a:b:1:!", b"a:b:1:AAAA"])
    def test_anything_else_in_base64_is_refused(self, chat: Mattermost, alice: User, content: bytes) -> None:
        with refusing():
            verified(chat, base64.b64encode(content).decode(), alice)

    @pytest.mark.parametrize("text", ["é" * 8, "\ud800", "=", "\0", "a" * 10_000_000])
    def test_what_is_no_base64_is_refused(self, chat: Mattermost, alice: User, text: str) -> None:
        with refusing():
            verified(chat, text, alice)

    @pytest.mark.parametrize("moment", ["9" * 400, "9" * 15, "0", "-1", "1e3", "１２３", "1_000", " 1"])
    def test_a_moment_that_is_none_is_refused(self, chat: Mattermost, alice: User, moment: str) -> None:
        data = f"{new_id()}:{alice.id}:{moment}:".encode()

        with refusing():
            verified(chat, chat.trigger_id(alice, data=data), alice)


class TestKeys:
    def test_a_fingerprint_is_of_the_der_form(self, chat: Mattermost) -> None:
        assert fingerprint(chat.public_key) == sha256(chat.public_key)

    def test_only_a_p256_key_is_one(self, chat: Mattermost) -> None:
        chat.signing_key = ec.generate_private_key(ec.SECP384R1())
        for text in (chat.public_key, "", "AAAA", "no base64!", chat.public_key[:-8], "é"):
            with pytest.raises(ValueError, match=r"."):
                read_key(text)

    def test_nor_is_a_key_of_a_kind_that_nobody_knows(self, chat: Mattermost) -> None:
        der = base64.b64decode(chat.public_key)
        p256 = bytes.fromhex("06082a8648ce3d030107")  # its object identifier
        assert p256 in der
        unknown = der.replace(p256, p256[:-1] + b"\x7f")

        with pytest.raises(ValueError, match=r"."):
            read_key(base64.b64encode(unknown).decode())


@pytest.fixture
async def trigger(server: ChatServer, store: SqlChats, clock: StillClock) -> AsyncIterator[TriggerCheck]:
    """As `verify_trigger = "auto"` has it."""
    trigger = TriggerCheck(server, store, clock=clock, required=False)
    yield trigger
    await trigger.close()


def running() -> set["asyncio.Task[object]"]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def settled() -> None:
    """Whatever was begun is at its end."""
    if tasks := running():
        _, endless = await asyncio.wait(tasks, timeout=GIVE_UP)
        assert not endless


async def looked(trigger: TriggerCheck) -> None:
    trigger.look()
    await settled()


class TestFirstUse:
    async def test_the_first_key_is_kept_and_enforced_from_then_on(
        self,
        trigger: TriggerCheck,
        chat: Mattermost,
        alice: User,
        store: SqlChats,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        await trigger.check("", alice.id)  # nothing is known to hold it against
        await settled()

        assert await store.key_of(chat.site_url) == chat.public_key
        assert f"signed with key {sha256(chat.public_key)}" in caplog.text
        await trigger.check(chat.trigger_id(alice), alice.id)
        with refusing():
            await trigger.check("", alice.id)

    async def test_where_it_is_required_nothing_passes_without_a_key(
        self, server: ChatServer, chat: Mattermost, alice: User, store: SqlChats, clock: StillClock
    ) -> None:
        trigger = TriggerCheck(server, store, clock=clock, required=True)

        with refusing("not known yet"):
            await trigger.check(chat.trigger_id(alice), alice.id)
        await settled()
        await trigger.check(chat.trigger_id(alice), alice.id)

    @pytest.mark.parametrize("fault", sorted(set(FAULTS) - {"silent"}))
    async def test_an_answer_without_a_key_pins_nothing(
        self,
        trigger: TriggerCheck,
        chat: Mattermost,
        store: SqlChats,
        caplog: pytest.LogCaptureFixture,
        fault: str,
    ) -> None:
        chat.answers["config/client"] = FAULTS[fault]

        await looked(trigger)

        assert await store.key_of(chat.site_url) is None
        assert f"the key of {chat.site_url} for slash commands is not known" in caplog.text

    async def test_a_key_of_another_curve_is_not_pinned(
        self, trigger: TriggerCheck, chat: Mattermost, store: SqlChats
    ) -> None:
        chat.signing_key = ec.generate_private_key(ec.SECP384R1())

        await looked(trigger)

        assert await store.key_of(chat.site_url) is None

    async def test_of_two_that_look_at_once_the_first_key_stays(
        self, server: ChatServer, chat: Mattermost, clock: StillClock, tmp_path: Path
    ) -> None:
        class Raced(SqlChats):
            """Between looking and writing another process writes."""

            async def key_of(self, server: str) -> str | None:
                found = await super().key_of(server)
                await super().pin_key(server, "of another process")
                return found

        database = await Database.open(tmp_path / "certbob.sqlite3")
        await looked(TriggerCheck(server, Raced(database), clock=clock, required=False))
        kept = await SqlChats(database).key_of(chat.site_url)
        await database.close()

        assert kept == "of another process"


class TestReplay:
    async def test_one_id_is_one_command(self, trigger: TriggerCheck, chat: Mattermost, alice: User) -> None:
        await looked(trigger)
        trigger_id = chat.trigger_id(alice)
        await trigger.check(trigger_id, alice.id)

        with refusing("used before"):
            await trigger.check(trigger_id, alice.id)
        await trigger.check(chat.trigger_id(alice), alice.id)

    async def test_the_same_signed_text_in_another_spelling_is_the_same_command(
        self, trigger: TriggerCheck, chat: Mattermost, alice: User
    ) -> None:
        """Of (r, s) everybody can make (r, n - s), which is as good a signature."""
        await looked(trigger)
        trigger_id = chat.trigger_id(alice)
        data, signature = base64.b64decode(trigger_id).rsplit(b":", 1)
        r, s = decode_dss_signature(base64.b64decode(signature))
        other = base64.b64encode(encode_dss_signature(r, P256_ORDER - s))
        twin = base64.b64encode(data + b":" + other).decode()
        assert verified(chat, twin, alice)  # it is good
        await trigger.check(trigger_id, alice.id)

        with refusing("used before"):
            await trigger.check(twin, alice.id)

    async def test_processes_of_one_database_agree(
        self,
        trigger: TriggerCheck,
        server: ChatServer,
        chat: Mattermost,
        alice: User,
        clock: StillClock,
        tmp_path: Path,
    ) -> None:
        await looked(trigger)
        database = await Database.open(tmp_path / "certbob.sqlite3")
        other = TriggerCheck(server, SqlChats(database), clock=clock, required=True)
        results = []
        for _ in range(20):
            trigger_id = chat.trigger_id(alice)
            results += await asyncio.gather(
                *(each.check(trigger_id, alice.id) for each in (trigger, other) * 2), return_exceptions=True
            )
        await database.close()

        refused = [result for result in results if result is not None]
        assert len(refused) == 60
        assert {str(each) for each in refused if isinstance(each, BadTrigger)} == {"it was used before"}
        assert all(isinstance(each, BadTrigger) for each in refused)

    def test_a_second_process_of_the_operating_system_agrees(self, tmp_path: Path) -> None:
        script = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from certbob.store.chats import SqlChats
from certbob.store.sqlite import Database

async def main():
    database = await Database.open(Path(sys.argv[1]))
    print(await SqlChats(database).see_once("a" * 64, datetime.now(UTC)))
    await database.close()

asyncio.run(main())
"""
        command = [sys.executable, "-c", script, str(tmp_path / "certbob.sqlite3")]

        first, second = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in "12")

        assert (first.stdout, second.stdout) == ("True\n", "False\n")

    async def test_what_was_seen_is_kept_for_as_long_as_it_could_pass(
        self, trigger: TriggerCheck, chat: Mattermost, alice: User, store: SqlChats, clock: StillClock
    ) -> None:
        await looked(trigger)
        trigger_id = chat.trigger_id(alice, at=clock.now() + MAX_AGE)  # the longest life there is
        await trigger.check(trigger_id, alice.id)
        clock.advance(seconds=2 * MAX_AGE.total_seconds())

        await store.prune_chats(clock.now())

        assert verified(chat, trigger_id, alice)
        with refusing("used before"):
            await trigger.check(trigger_id, alice.id)
        assert SEEN_FOR > 2 * MAX_AGE

    async def test_a_bad_one_uses_nothing_up(
        self, trigger: TriggerCheck, chat: Mattermost, alice: User
    ) -> None:
        await looked(trigger)
        trigger_id = chat.trigger_id(alice)
        with refusing("another person"):
            await trigger.check(trigger_id, new_id())

        await trigger.check(trigger_id, alice.id)


class TestAnotherKey:
    async def test_it_is_refused_and_told_with_both_fingerprints_and_never_taken_silently(
        self,
        trigger: TriggerCheck,
        chat: Mattermost,
        alice: User,
        store: SqlChats,
        clock: StillClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        await looked(trigger)
        old_key, first = chat.signing_key, chat.public_key
        chat.rotate_key()
        clock.advance(minutes=1)

        for _ in range(3):
            with refusing("not of the known key"):
                await trigger.check(chat.trigger_id(alice), alice.id)
            await settled()
            clock.advance(minutes=1)

        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 3
        for words in (sha256(first), sha256(chat.public_key), "certbob mattermost accept-key"):
            assert words in errors[0]
        assert await store.key_of(chat.site_url) == first
        await trigger.check(chat.trigger_id(alice, key=old_key), alice.id)

    async def test_an_operator_accepts_it(
        self, trigger: TriggerCheck, chat: Mattermost, alice: User, clock: StillClock
    ) -> None:
        await looked(trigger)
        old_key = chat.signing_key
        chat.rotate_key()

        assert await trigger.accept_key() == sha256(chat.public_key)

        await trigger.check(chat.trigger_id(alice), alice.id)
        with refusing("not of the known key"):
            await trigger.check(chat.trigger_id(alice, key=old_key), alice.id)

    async def test_the_first_one_can_be_accepted_like_that_too(
        self, trigger: TriggerCheck, chat: Mattermost, store: SqlChats
    ) -> None:
        await trigger.accept_key()

        assert await store.key_of(chat.site_url) == chat.public_key

    @pytest.mark.parametrize("fault", ["500", "HTML", "redirecting"])
    async def test_one_that_is_not_told_leaves_the_old_one(
        self, trigger: TriggerCheck, chat: Mattermost, alice: User, fault: str
    ) -> None:
        await looked(trigger)
        chat.answers["config/client"] = FAULTS[fault]

        with pytest.raises(NoKey) as refused:
            await trigger.accept_key()

        assert chat.site_url in refused.value.text
        await trigger.check(chat.trigger_id(alice), alice.id)

    async def test_one_of_another_curve_cannot_be_accepted(
        self, trigger: TriggerCheck, chat: Mattermost, store: SqlChats
    ) -> None:
        await looked(trigger)
        first = chat.public_key
        chat.signing_key = ec.generate_private_key(ec.SECP384R1())

        with pytest.raises(NoKey):
            await trigger.accept_key()

        assert await store.key_of(chat.site_url) == first

    async def test_each_server_has_its_own(
        self, trigger: TriggerCheck, chat: Mattermost, store: SqlChats, clock: StillClock
    ) -> None:
        await looked(trigger)
        elsewhere = Mattermost(clock, site_url="https://other.example.org")
        server = ChatServer(elsewhere.site_url, None, transport=httpx2.ASGITransport(app=elsewhere))
        other = TriggerCheck(server, store, clock=clock, required=False)
        await looked(other)

        assert await store.key_of(SITE_URL) == chat.public_key
        assert await store.key_of(elsewhere.site_url) == elsewhere.public_key


class TestLooking:
    async def test_the_server_is_asked_once_a_minute_at_most(
        self, trigger: TriggerCheck, chat: Mattermost, clock: StillClock
    ) -> None:
        for asked in range(1, 4):
            for _ in range(5):
                await looked(trigger)
            clock.advance(seconds=LOOK_EVERY.total_seconds() - 1)
            await looked(trigger)

            assert len(chat.asked("config/client")) == asked
            clock.advance(seconds=1)

    async def test_nor_more_often_for_bad_ids_or_when_it_is_away(
        self, trigger: TriggerCheck, chat: Mattermost, alice: User, clock: StillClock
    ) -> None:
        await looked(trigger)
        chat.answers["config/client"] = FAULTS["500"]
        clock.advance(minutes=1)

        for _ in range(20):
            with refusing():
                await trigger.check("", alice.id)
            await settled()

        assert len(chat.asked("config/client")) == 2

    async def test_good_ids_ask_nothing(
        self, trigger: TriggerCheck, chat: Mattermost, alice: User, clock: StillClock
    ) -> None:
        await looked(trigger)
        for _ in range(3):
            clock.advance(minutes=5)
            await trigger.check(chat.trigger_id(alice), alice.id)
        await settled()

        assert len(chat.asked("config/client")) == 1

    async def test_a_clock_that_is_set_back_does_not_stop_it(
        self, trigger: TriggerCheck, chat: Mattermost, clock: StillClock
    ) -> None:
        await looked(trigger)
        clock.advance(days=-1)
        await looked(trigger)

        assert len(chat.asked("config/client")) == 2

    async def test_no_command_waits_for_the_server(
        self, trigger: TriggerCheck, chat: Mattermost, alice: User, store: SqlChats, clock: StillClock
    ) -> None:
        chat.answers["config/client"] = FAULTS["silent"]

        async with asyncio.timeout(GIVE_UP):
            await trigger.check("", alice.id)
            await store.pin_key(chat.site_url, chat.public_key)
            await trigger.check(chat.trigger_id(alice), alice.id)
            with refusing():
                await trigger.check("", alice.id)

        assert running()

    async def test_closing_ends_what_is_still_asked(self, trigger: TriggerCheck, chat: Mattermost) -> None:
        chat.answers["config/client"] = FAULTS["silent"]
        trigger.look()

        await trigger.close()

        assert not running()
