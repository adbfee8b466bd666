"""What the doctor finds of Mattermost, each with its mend."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certbob.chat.checkup
from certbob.chat.accounts import IdentityMode
from certbob.chat.checkup import Checkup
from certbob.chat.server import ChatServer
from certbob.chat.trigger import fingerprint
from certbob.secret import Secret
from certbob.services import Finding, Verdict
from certbob.store.chats import SqlChats
from tests.support.hostile_provider import Message, Receive, Send
from tests.support.mattermost import Mattermost
from tests.support.mattermost_api import FAULTS, json_reply
from tests.support.web import StillClock

PUBLIC_URL = "https://8.8.8.8"  # numbers, so that no name has to be looked up


@dataclass
class Front:
    """What answers at the public address: CertBob, or a proxy that does otherwise. `status` None: nobody."""

    status: int | None = 401
    heard: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        self.heard.append((scope["method"], scope["path"], body + message.get("body", b"")))
        if self.status is None:
            await asyncio.Event().wait()
        headers = [(b"location", b"https://login.example.org/"), (b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"<html></html>"})


@dataclass
class Doctor:
    server: ChatServer | None
    store: SqlChats
    clock: StillClock
    mode: IdentityMode = IdentityMode.USERNAME
    verifies: bool = True
    public_url: str = PUBLIC_URL
    front: Front = field(default_factory=Front)

    async def all(self) -> list[Finding]:
        checkup = Checkup(
            self.server,
            self.store,
            clock=self.clock,
            mode=self.mode,
            verifies=self.verifies,
            public_url=self.public_url,
            transport=httpx2.ASGITransport(app=self.front),
        )
        found = [finding async for finding in checkup.examine()]
        for finding in found:
            # What is wrong has a mend, and what is right needs none.
            assert bool(finding.mend) == (finding.verdict is not Verdict.OK), finding
        return found

    async def of(self, subject: str) -> Finding:
        (finding,) = [finding for finding in await self.all() if finding.subject == subject]
        return finding


@pytest.fixture
async def doctor(server: ChatServer, store: SqlChats, clock: StillClock, chat: Mattermost) -> Doctor:
    """All is well."""
    await store.pin_key(chat.site_url, chat.public_key)
    return Doctor(server, store, clock)


async def test_nothing_is_wrong(doctor: Doctor, chat: Mattermost) -> None:
    assert await doctor.all() == [
        Finding("chat to CertBob", Verdict.OK, "8.8.8.8 has a public address"),
        Finding("address for the command", Verdict.OK, "https://8.8.8.8/request"),
        Finding("chat server", Verdict.OK, "is Mattermost 11.6.0"),
        Finding("links in the chat", Verdict.OK, "they lead to https://8.8.8.8"),
        Finding("chat key", Verdict.OK, fingerprint(chat.public_key)),
        Finding("chat bot", Verdict.OK, "is certbob"),
    ]


async def test_nothing_is_changed(doctor: Doctor, chat: Mattermost) -> None:
    await doctor.all()

    assert {request.method for request in chat.requests} == {"GET"}
    assert chat.direct_messages == []


async def test_without_an_address_of_mattermost_little_can_be_said(doctor: Doctor) -> None:
    doctor.server = None

    found = await doctor.all()

    assert [finding.subject for finding in found] == ["chat to CertBob", "address for the command", "chat"]
    assert found[-1].verdict is Verdict.WARNING
    assert "believed by their token alone" in found[-1].text
    assert found[-1].mend == "Set [mattermost] url."


class TestOwnAddress:
    async def test_a_command_with_a_wrong_token_is_sent_to_it(self, doctor: Doctor) -> None:
        await doctor.all()

        assert doctor.front.heard == [("POST", "/request", b"token=doctor")]

    async def test_too_many_wrong_ones_are_as_good(self, doctor: Doctor) -> None:
        doctor.front.status = 429

        assert (await doctor.of("address for the command")).verdict is Verdict.OK

    @pytest.mark.parametrize("status", [200, 204, 301, 302, 307, 308, 400, 403, 404, 405, 500, 502])
    async def test_a_proxy_that_does_otherwise_is_found_and_not_followed(
        self, doctor: Doctor, status: int
    ) -> None:
        doctor.front.status = status

        finding = await doctor.of("address for the command")

        assert finding.verdict is Verdict.FAILED
        assert finding.text == f"https://8.8.8.8/request answers {status} to a wrong token, and not 401"
        assert finding.mend.startswith("Let the proxy in front pass POST /request as it is")
        assert len(doctor.front.heard) == 1

    async def test_one_that_does_not_answer_is_found(
        self, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(certbob.chat.checkup, "SECONDS", 0.05)
        doctor.front.status = None

        finding = await doctor.of("address for the command")

        assert finding.verdict is Verdict.WARNING
        assert finding.text == "https://8.8.8.8/request does not answer from here: TimeoutError"
        assert finding.mend == "Start CertBob; if it runs, check the proxy in front and its certificate."


class TestNetwork:
    @pytest.mark.parametrize(
        ("public_url", "host"),
        [
            ("http://127.0.0.1:8000", "127.0.0.1"),
            ("http://localhost:8000", "localhost"),
            ("http://[::1]:8000", "::1"),
            ("https://10.1.2.3", "10.1.2.3"),
            ("https://172.16.0.1:8443", "172.16.0.1"),
            ("https://192.168.1.1", "192.168.1.1"),
            ("https://169.254.1.1", "169.254.1.1"),
            ("https://100.64.0.1", "100.64.0.1"),
            ("https://[fd00::1]", "fd00::1"),
        ],
    )
    async def test_an_address_that_mattermost_does_not_call_comes_with_the_setting(
        self, doctor: Doctor, public_url: str, host: str
    ) -> None:
        doctor.public_url = public_url

        finding = await doctor.of("chat to CertBob")

        assert finding.verdict is Verdict.WARNING
        assert finding.text == f"{host} has a private address, which Mattermost does not call by itself"
        assert f"MM_SERVICESETTINGS_ALLOWEDUNTRUSTEDINTERNALCONNECTIONS={host}," in finding.mend

    async def test_a_name_that_nobody_knows_is_told(self, doctor: Doctor) -> None:
        doctor.public_url = "https://certbob.invalid"  # RFC 6761 6.4

        finding = await doctor.of("chat to CertBob")

        assert finding.verdict is Verdict.WARNING
        assert finding.text.startswith("the address of certbob.invalid is not known here: ")
        assert finding.mend == "Check [server] public_url and the name service."

    @pytest.mark.parametrize("public_url", ["https://8.8.8.8:8443", "https://[2001:4860:4860::8888]"])
    async def test_others_are_called(self, doctor: Doctor, public_url: str) -> None:
        doctor.public_url = public_url

        assert (await doctor.of("chat to CertBob")).verdict is Verdict.OK


class TestServer:
    @pytest.mark.parametrize("fault", ["401", "404", "429", "500", "redirecting", "2 MB", "cut"])
    async def test_one_that_does_not_answer_as_it_should_ends_the_look(
        self, doctor: Doctor, chat: Mattermost, fault: str
    ) -> None:
        chat.answers[""] = FAULTS[fault]

        last = (await doctor.all())[-1]

        assert (last.subject, last.verdict) == ("chat server", Verdict.FAILED)
        assert last.text.startswith(chat.site_url)
        assert last.mend == "Check [mattermost] url."

    async def test_an_address_of_something_else_is_found(self, doctor: Doctor, chat: Mattermost) -> None:
        chat.answers[""] = FAULTS["HTML"]

        last = (await doctor.all())[-1]

        assert (last.subject, last.verdict) == ("chat server", Verdict.FAILED)
        assert "did not answer a JSON object" in last.text

    @pytest.mark.parametrize(
        ("version", "verdict"),
        [
            ("5.37.0", Verdict.WARNING),
            ("9.11.0", Verdict.WARNING),
            ("10.11.13", Verdict.WARNING),
            ("10.11.14", Verdict.OK),
            ("11.0.0", Verdict.WARNING),
            ("11.5.1", Verdict.WARNING),
            ("11.5.2", Verdict.OK),
            ("11.10.0", Verdict.OK),
            ("12.0.0", Verdict.OK),
        ],
    )
    async def test_versions_with_known_holes_are_told(
        self, doctor: Doctor, chat: Mattermost, version: str, verdict: Verdict
    ) -> None:
        chat.version = version

        finding = await doctor.of("chat server")

        assert finding.verdict is verdict
        assert finding.text.startswith(f"is Mattermost {version}")
        if verdict is not Verdict.OK:
            assert "known holes in slash commands" in finding.text
            assert finding.mend.startswith("Update it to 1")

    @pytest.mark.parametrize("version", ["", "dev", "11.x.0"])
    async def test_one_that_does_not_tell_its_version_passes(
        self, doctor: Doctor, chat: Mattermost, version: str
    ) -> None:
        chat.version = version

        assert await doctor.of("chat server") == Finding(
            "chat server", Verdict.OK, "answers, and does not tell its version"
        )


class TestClock:
    @pytest.mark.parametrize("seconds", [0, 30, -30])
    async def test_half_a_minute_is_no_matter(self, doctor: Doctor, chat: Mattermost, seconds: int) -> None:
        chat.skew = timedelta(seconds=seconds)

        assert "chat clock" not in [finding.subject for finding in await doctor.all()]

    @pytest.mark.parametrize("seconds", [31, -31, 86400])
    async def test_more_is(self, doctor: Doctor, chat: Mattermost, seconds: int) -> None:
        chat.skew = timedelta(seconds=seconds)

        finding = await doctor.of("chat clock")

        assert finding.verdict is Verdict.FAILED
        assert f"{seconds} seconds ahead" in finding.text
        assert finding.text.endswith("a command is refused beyond 60")
        assert finding.mend == "Let both machines set their clocks by NTP."


class TestLinks:
    @pytest.mark.parametrize(
        ("site_url", "public_url"),
        [
            ("https://8.8.8.8", "https://8.8.8.8:8443"),
            ("https://8.8.8.8", "https://8.8.8.8"),
            ("https://chat.example", "https://chat.example.org"),
        ],
    )
    async def test_links_that_the_client_takes_for_its_own_are_found(
        self, doctor: Doctor, chat: Mattermost, site_url: str, public_url: str
    ) -> None:
        chat.site_url, doctor.public_url = site_url, public_url

        finding = await doctor.of("links in the chat")

        assert finding.verdict is Verdict.FAILED
        assert finding.text.startswith(f"{public_url} begins with the site URL of Mattermost")
        assert finding.mend == "Give CertBob a host name of its own, in [server] public_url."

    @pytest.mark.parametrize("site_url", ["", "https://chat.example.org", "https://8.8.8.8/chat"])
    async def test_others_are_in_order(self, doctor: Doctor, chat: Mattermost, site_url: str) -> None:
        chat.site_url = site_url

        assert (await doctor.of("links in the chat")).verdict is Verdict.OK


class TestKey:
    async def test_one_that_was_never_seen_comes_with_the_next_start(
        self, server: ChatServer, store: SqlChats, clock: StillClock, chat: Mattermost
    ) -> None:
        finding = await Doctor(server, store, clock).of("chat key")

        assert finding == Finding("chat key", Verdict.WARNING, "is not known yet", "Start CertBob once.")
        assert await store.key_of(chat.site_url) is None

    async def test_another_one_is_told_with_both_fingerprints_and_the_command(
        self, doctor: Doctor, chat: Mattermost, store: SqlChats
    ) -> None:
        first = chat.public_key
        chat.rotate_key()

        finding = await doctor.of("chat key")

        assert finding.verdict is Verdict.FAILED
        assert fingerprint(first) in finding.text
        assert fingerprint(chat.public_key) in finding.text
        assert "`certbob mattermost accept-key`" in finding.mend
        assert await store.key_of(chat.site_url) == first

    @pytest.mark.parametrize("told", [None, 5, "", "no base64", "AAAA"])
    async def test_a_server_without_one_is_an_old_one(
        self, doctor: Doctor, chat: Mattermost, told: object
    ) -> None:
        chat.answers["config/client"] = json_reply({"AsymmetricSigningPublicKey": told})

        finding = await doctor.of("chat key")

        assert finding.verdict is Verdict.WARNING
        assert finding.text.startswith("commands are not signed in a way that can be checked: ")
        assert finding.mend == "Update Mattermost to 5.37 or newer."

    async def test_where_it_is_not_looked_at_that_is_told(self, doctor: Doctor) -> None:
        doctor.verifies = False

        finding = await doctor.of("chat key")

        assert finding.verdict is Verdict.WARNING
        assert "whoever knows the token can run commands as anybody" in finding.text
        assert finding.mend == 'Set [mattermost] verify_trigger = "auto".'

    async def test_nor_is_one_of_another_curve_a_key(self, doctor: Doctor, chat: Mattermost) -> None:
        chat.signing_key = ec.generate_private_key(ec.SECP384R1())

        assert (await doctor.of("chat key")).verdict is Verdict.WARNING


class TestBot:
    async def test_a_token_that_is_refused_is_told_and_not_shown(
        self, doctor: Doctor, chat: Mattermost, bot_token: Secret
    ) -> None:
        chat.access_tokens.clear()

        finding = await doctor.of("chat bot")

        assert finding.verdict is Verdict.FAILED
        assert "answered 401" in finding.text
        assert finding.mend == "Check [mattermost] bot_token."
        assert bot_token.reveal() not in repr(finding)

    async def test_one_that_was_deactivated_is_told(self, doctor: Doctor, chat: Mattermost) -> None:
        for user in chat.users.values():
            chat.deactivate(user)

        assert (await doctor.of("chat bot")).verdict is Verdict.FAILED

    async def test_without_one_it_is_told_what_is_missing(self, doctor: Doctor, chat: Mattermost) -> None:
        doctor.server = ChatServer(chat.site_url, None, transport=httpx2.ASGITransport(app=chat))

        finding = await doctor.of("chat bot")

        assert finding.verdict is Verdict.WARNING
        assert "guests and bots cannot be told from others" in finding.text
        assert finding.mend == "Set [mattermost] bot_token."
        assert all("authorization" not in request.headers for request in chat.requests)

    async def test_by_address_addresses_must_be_shown(self, doctor: Doctor, chat: Mattermost) -> None:
        """The bot sees its own one in any case."""
        doctor.mode = IdentityMode.EMAIL
        assert await doctor.of("chat addresses") == Finding("chat addresses", Verdict.OK, "can be looked up")

        chat.show_email_address = False
        finding = await doctor.of("chat addresses")

        assert finding.verdict is Verdict.FAILED
        assert 'identity = "email" cannot work' in finding.text
        assert finding.mend == "Set ShowEmailAddress there, or another [mattermost] identity."

    async def test_by_address_a_bot_that_is_refused_is_told(self, doctor: Doctor, chat: Mattermost) -> None:
        doctor.mode = IdentityMode.EMAIL
        chat.access_tokens.clear()

        finding = await doctor.of("chat addresses")

        assert (finding.verdict, finding.mend) == (Verdict.FAILED, "Check [mattermost] bot_token.")

    @pytest.mark.parametrize("mode", [IdentityMode.USERNAME, IdentityMode.LINK])
    async def test_otherwise_they_need_not(
        self, doctor: Doctor, chat: Mattermost, mode: IdentityMode
    ) -> None:
        doctor.mode, chat.show_email_address = mode, False

        assert {finding.verdict for finding in await doctor.all()} == {Verdict.OK}
