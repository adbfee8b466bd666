"""`certbob doctor`: everything that CertBob depends on, in order or not, and how to mend it."""

import asyncio
import dataclasses
import json
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace

from certbob.bootstrap import SystemClock
from certbob.config import SMTP, CommandToken
from certbob.config import Mattermost as Settings
from certbob.doctor import examine
from certbob.errors import MailUnavailable
from certbob.ports import Actor
from certbob.secret import Secret
from certbob.services import Finding, Verdict
from tests.support import pki
from tests.support.commands import certbob, found_installation
from tests.support.core import DATABASE
from tests.support.fake_stepca import Answer, FakeStepCA, crl_reply, refusal, sign_crl
from tests.support.hostile_provider import (
    CLIENT_SECRET,
    HostileProvider,
    Reply,
    serve_provider,
)
from tests.support.mail_server import SENDER, mail_server
from tests.support.mattermost import Mattermost, serve_mattermost
from tests.support.mattermost_api import new_id
from tests.support.post import FakeMailer
from tests.support.served import serve
from tests.support.single_sign_on import open_single_sign_on
from tests.support.stepca import PASSWORD, make_pki
from tests.support.web import FakeCA, Site, StillClock, open_site

OK, WARNING, FAILED = Verdict.OK, Verdict.WARNING, Verdict.FAILED
AUTHORITY = ("root certificate", "intermediate certificate", "revocation list")
EMBEDDED = dict.fromkeys(("database", "authority", *AUTHORITY), OK)
OVER = {"authority": FAILED, "intermediate certificate": FAILED}
DAY = timedelta(days=1)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def findings_of(site: Site, tls: Path | None = None) -> dict[str, Finding]:
    """`tls`: the certificate that is configured."""
    server = replace(site.settings.server, tls_certificate=tls, tls_key=tls)
    configured = replace(site.settings, server=server)
    return {finding.subject: finding async for finding in examine(site.services, configured)}


def verdicts(found: dict[str, Finding]) -> dict[str, Verdict]:
    return {subject: finding.verdict for subject, finding in found.items()}


# Each part, in this process


async def test_only_what_is_configured_is_looked_at(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock) as site:
        found = await findings_of(site)

    assert verdicts(found) == EMBEDDED
    assert {finding.mend for finding in found.values()} == {""}


async def test_a_database_that_cannot_be_written(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock) as site:
        with closing(sqlite3.connect(data_dir / DATABASE)) as other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON tries BEGIN SELECT RAISE(FAIL, 'canary'); END"
            )
        found = await findings_of(site)

    assert verdicts(found) == EMBEDDED | {"database": FAILED}
    assert "canary" in found["database"].text
    assert "disk space" in found["database"].mend


async def test_an_authority_that_cannot_sign(data_dir: Path, clock: StillClock) -> None:
    ca = FakeCA(data_dir, clock)
    ca.broken = "its own certificate ends within a day"
    async with open_site(data_dir, clock, ca=ca) as site:
        found = await findings_of(site)

    assert found["authority"].verdict is FAILED
    assert found["authority"].text == ca.broken
    assert "[ca]" in found["authority"].mend


async def test_a_mail_server_that_does_not_answer(data_dir: Path, clock: StillClock) -> None:
    mailer = FakeMailer()
    smtp = SMTP(host="mail.example.org", sender=SENDER)
    async with open_site(data_dir, clock, smtp=smtp, mailer=mailer) as site:
        good = await findings_of(site)
        mailer.refusal = lambda: MailUnavailable("connection refused")
        bad = await findings_of(site)

    assert verdicts(good) == EMBEDDED | {"mail server": OK}
    assert bad["mail server"] == Finding("mail server", FAILED, "connection refused", "Check [smtp].")
    assert mailer.letters == []


@pytest.mark.parametrize("change", [None, Reply(503), Reply(200, b"<html>")], ids=["good", "away", "no JSON"])
async def test_a_sign_in_service_is_asked_before_it_is_judged(
    data_dir: Path, clock: StillClock, change: Reply | None
) -> None:
    provider = HostileProvider(clock)
    if change is not None:
        provider.answers["discovery"] = change
    async with open_single_sign_on(data_dir, clock, provider) as on:
        found = await findings_of(on.site)

    assert provider.asked("discovery")
    assert found["sign-in service"].verdict is (OK if change is None else FAILED)
    assert found["sign-in service"].mend == ("" if change is None else "Check [oidc].")


@pytest.mark.parametrize(
    ("years", "before", "expected"),
    [
        (10, 31 * DAY, {}),
        (10, 29 * DAY, {"intermediate certificate": WARNING}),
        (10, -DAY, {"authority": FAILED, "intermediate certificate": FAILED}),
        (
            20,
            29 * DAY,
            {"authority": FAILED, "intermediate certificate": FAILED, "root certificate": WARNING},
        ),
        (20, -DAY, {"authority": FAILED, "intermediate certificate": FAILED, "root certificate": FAILED}),
    ],
)
async def test_an_authority_that_ends_is_told_a_month_before(
    data_dir: Path, clock: StillClock, years: int, before: timedelta, expected: dict[str, Verdict]
) -> None:
    async with open_site(data_dir, clock) as site:
        clock.moment += years * 365 * DAY - before
        assert site.services.revocation_list is not None
        await site.services.revocation_list.refresh()
        found = await findings_of(site)

    assert verdicts(found) == EMBEDDED | expected
    assert all(finding.mend for finding in found.values() if finding.verdict is not OK)


def own_certificate(folder: Path, start: datetime, *names: x509.GeneralName) -> Path:
    """For 90 days, as a web server has it: its chain behind it, and its key."""
    issuer = pki.root()
    key = ec.generate_private_key(ec.SECP256R1())
    draft = pki.draft_authority("Somebody", key, path_length=0)
    leaf = dataclasses.replace(draft, start=start, end=start + 90 * DAY)
    if names:
        leaf = leaf.put(x509.SubjectAlternativeName(names))
    file = folder / "tls.pem"
    chain = (leaf.signed_by(issuer), issuer.certificate)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain) + pem)
    return file


def dns(name: str) -> x509.DNSName:
    return x509.DNSName(name)


@pytest.mark.parametrize(
    ("left", "verdict", "words"),
    [
        (15 * DAY, OK, "valid until"),
        (13 * DAY, WARNING, "it ends on"),
        (timedelta(0), FAILED, "it ended on"),
    ],
)
async def test_the_own_tls_certificate_is_told_two_weeks_before(
    data_dir: Path, tmp_path: Path, clock: StillClock, left: timedelta, verdict: Verdict, words: str
) -> None:
    file = own_certificate(tmp_path, clock.now(), dns("cert.example.org"))
    async with open_site(data_dir, clock, public_url="https://cert.example.org") as site:
        clock.moment += 90 * DAY - left
        found = (await findings_of(site, file))["TLS certificate"]

    assert (found.verdict, found.text[: len(words)]) == (verdict, words)
    assert ("SIGHUP" in found.mend) == (verdict is not OK)


@pytest.mark.parametrize(
    ("url", "names", "verdict"),
    [
        ("https://cert.example.org", [dns("other.example.org"), dns("cert.example.org")], OK),
        ("https://cert.example.org:8443", [dns("CERT.example.org")], OK),
        ("https://cert.example.org", [dns("*.example.org")], OK),
        ("https://cert.example.org", [dns("*.org")], FAILED),
        ("https://a.cert.example.org", [dns("*.example.org")], FAILED),
        ("https://example.org", [dns("*.example.org")], FAILED),
        ("https://cert.example.org", [dns("other.example.org")], FAILED),
        ("https://cert.example.org", [], FAILED),
        ("https://192.0.2.7", [x509.IPAddress(ip_address("192.0.2.7"))], OK),
        ("https://192.0.2.7", [dns("192.0.2.7")], FAILED),
        ("https://[2001:db8::7]", [x509.IPAddress(ip_address("2001:db8::7"))], OK),
    ],
)
async def test_the_own_tls_certificate_is_for_the_host_of_public_url(
    data_dir: Path,
    tmp_path: Path,
    clock: StillClock,
    url: str,
    names: list[x509.GeneralName],
    verdict: Verdict,
) -> None:
    file = own_certificate(tmp_path, clock.now(), *names)
    async with open_site(data_dir, clock, public_url=url) as site:
        found = (await findings_of(site, file))["TLS certificate"]

    assert found.verdict is verdict
    assert ("public_url" in found.mend) == (verdict is FAILED)


async def test_a_tls_certificate_whose_key_is_another(
    data_dir: Path, tmp_path: Path, clock: StillClock
) -> None:
    """The next start would refuse the pair."""
    (tmp_path / "other").mkdir()
    mine, other = (
        own_certificate(folder, clock.now(), dns("a.org")) for folder in (tmp_path, tmp_path / "other")
    )
    key = other.read_bytes().partition(b"-----BEGIN PRIVATE KEY")
    mine.write_bytes(mine.read_bytes().partition(b"-----BEGIN PRIVATE KEY")[0] + key[1] + key[2])
    async with open_site(data_dir, clock, public_url="https://a.org") as site:
        found = (await findings_of(site, mine))["TLS certificate"]

    assert (found.verdict, "belong together" in found.mend) == (FAILED, True)


async def test_a_tls_certificate_that_is_not_valid_yet(
    data_dir: Path, tmp_path: Path, clock: StillClock
) -> None:
    file = own_certificate(tmp_path, clock.now() + 3 * DAY, dns("a.org"))
    async with open_site(data_dir, clock, public_url="https://a.org") as site:
        found = (await findings_of(site, file))["TLS certificate"]

    assert (found.verdict, "it begins on" in found.text) == (FAILED, True)


async def test_that_issuing_is_stopped_is_told(data_dir: Path, clock: StillClock) -> None:
    async with open_site(data_dir, clock) as site:
        assert "issuing" not in await findings_of(site)
        await site.services.pause.pause(Actor("terminal", "root", "root"), "Moving until two.")
        found = (await findings_of(site))["issuing"]

    assert found.verdict is WARNING
    assert "root stopped it on" in found.text
    assert "Moving until two." in found.text


async def test_a_tls_certificate_that_cannot_be_read(
    data_dir: Path, tmp_path: Path, clock: StillClock
) -> None:
    (tmp_path / "garbage.pem").write_text("garbage")
    async with open_site(data_dir, clock) as site:
        for name in ("garbage.pem", "missing.pem"):
            found = await findings_of(site, tmp_path / name)
            assert found["TLS certificate"].verdict is FAILED


def over(authority: FakeStepCA) -> Answer:
    return crl_reply(sign_crl(authority.pki, authority.clock.now() - 2 * DAY))


def of_somebody_else(authority: FakeStepCA) -> Answer:
    return crl_reply(sign_crl(make_pki("Other"), authority.clock.now()))


def elsewhere(authority: FakeStepCA) -> Answer:
    authority.provisioner["options"] = {"x509": {"templateData": {"crlURL": "http://old.example.org/crl"}}}
    return authority.good


def switched_off(authority: FakeStepCA) -> Answer:
    authority.publishes_crl = False
    return authority.good


@pytest.mark.parametrize(
    ("prepare", "verdict", "words"),
    [
        (lambda authority: authority.good, OK, "made less than an hour ago, for https://127.0.0.1"),
        (switched_off, WARNING, "services believe a revoked certificate until it ends"),
        (elsewhere, WARNING, "certificates name http://old.example.org/crl"),
        (lambda _: refusal(500, "no"), WARNING, "was answered 500"),
        (over, FAILED, "is over since"),
        (of_somebody_else, FAILED, "it is not signed by the authority's intermediate"),
    ],
)
async def test_the_list_of_step_ca_is_fetched_and_judged(
    data_dir: Path, prepare: Callable[[FakeStepCA], Answer], verdict: Verdict, words: str
) -> None:
    async with FakeStepCA() as authority:
        authority.answers["/1.0/crl"] = prepare(authority)
        clock = StillClock(authority.clock.now())
        async with open_site(data_dir, clock, ca=authority.client()) as site:
            found = await findings_of(site)

    assert verdicts(found) == EMBEDDED | {"revocation list": verdict}
    assert words in found["revocation list"].text
    assert bool(found["revocation list"].mend) == (verdict is not OK)


# The command, with everything on sockets


@dataclass(frozen=True, slots=True)
class Clinic:
    """CertBob serves on loopback; what it depends on does, too."""

    folder: Path
    chat: Mattermost
    authority: FakeStepCA
    provider: HostileProvider
    settings: dict[str, str]

    async def run(
        self, *arguments: str, expect: int = 0, **changes: str
    ) -> "subprocess.CompletedProcess[str]":
        """`certbob ...`; `changes` to its settings."""
        settings: dict[str, Any] = self.settings | changes
        told = await asyncio.to_thread(certbob, self.folder, *arguments, **settings)
        assert told.returncode == expect, told.stdout + told.stderr
        secrets = [PASSWORD, CLIENT_SECRET, *self.chat.access_tokens]
        assert not [secret for secret in secrets if secret in told.stdout + told.stderr]
        return told

    async def verdicts(self, expect: int = 0, **changes: str) -> dict[str, str]:
        told = await self.run("doctor", "--json", expect=expect, **changes)
        return {finding["subject"]: finding["verdict"] for finding in json.loads(told.stdout)}


IN_ORDER = {
    "database": "ok",
    "authority": "ok",
    "root certificate": "ok",
    "intermediate certificate": "ok",
    "revocation list": "ok",
    "sign-in service": "ok",
    "mail server": "ok",
    "chat to CertBob": "warning",  # loopback is a private address
    "address for the command": "ok",
    "chat server": "ok",
    "links in the chat": "ok",
    "chat key": "ok",
    "chat bot": "ok",
}


@asynccontextmanager
async def opened_clinic(folder: Path, clock: StillClock) -> AsyncIterator[Clinic]:
    async with AsyncExitStack() as stack:
        now = SystemClock()
        chat = await stack.enter_async_context(serve_mattermost(now))
        bot_token = chat.new_access_token(chat.add_bot("certbob"))
        provider = await stack.enter_async_context(serve_provider(now))
        mail = await stack.enter_async_context(mail_server())
        authority = await stack.enter_async_context(FakeStepCA())
        token = new_id()
        command = Settings(token=(CommandToken(token=Secret(token)),))
        served = await stack.enter_async_context(serve(folder / "other", clock, mattermost=command))
        yield Clinic(
            folder,
            chat,
            authority,
            provider,
            {
                "SERVER_PUBLIC_URL": served.site.url,
                "CA_BACKEND": "stepca",
                "STEPCA_URL": authority.url,
                "STEPCA_ROOT": authority.pki.fingerprint,
                "STEPCA_PROVISIONER": "certbob",
                "STEPCA_PROVISIONER_PASSWORD": PASSWORD,
                "OIDC_ISSUER": provider.issuer,
                "OIDC_CLIENT_ID": provider.client_id,
                "OIDC_CLIENT_SECRET": CLIENT_SECRET,
                "SMTP_HOST": "localhost",
                "SMTP_PORT": str(mail.port),
                "SMTP_SECURITY": "none",
                "SMTP_SENDER": "certbob@example.org",
                "MATTERMOST_URL": chat.site_url,
                "MATTERMOST_TOKEN": token,
                "MATTERMOST_BOT_TOKEN": bot_token,
            },
        )


@pytest.fixture
async def clinic(tmp_path: Path, clock: StillClock) -> AsyncIterator[Clinic]:
    folder = tmp_path / "work"
    folder.mkdir()
    await found_installation(folder / "data")
    async with opened_clinic(folder, clock) as opened:
        await opened.run("mattermost", "accept-key")
        yield opened


async def test_with_all_in_order_the_status_is_zero(clinic: Clinic) -> None:
    told = await clinic.run("doctor")

    lines = told.stdout.splitlines()
    assert [line.split(": ")[0].split(maxsplit=1) for line in lines if "->" not in line] == [
        [verdict, subject] for subject, verdict in IN_ORDER.items()
    ]
    assert [line.split()[0] for line in lines if line.startswith(" ")] == ["->"]
    assert told.stderr == ""
    assert await clinic.verdicts() == IN_ORDER


async def test_programs_get_everything_as_json(clinic: Clinic) -> None:
    told = await clinic.run("doctor", "--json")

    findings = json.loads(told.stdout)
    assert [finding.keys() for finding in findings] == [{"subject", "verdict", "text", "mend"}] * len(
        IN_ORDER
    )
    assert [finding["subject"] for finding in findings if finding["mend"]] == ["chat to CertBob"]


async def test_looking_changes_nothing_elsewhere(clinic: Clinic) -> None:
    clinic.chat.requests.clear()

    await clinic.run("doctor")

    assert {request.method for request in clinic.chat.requests} == {"GET"}
    assert clinic.chat.direct_messages == []
    assert clinic.authority.asked("/1.0/sign") == []
    assert clinic.authority.issued == []


NOBODY = "http://127.0.0.1:9"
BROKEN: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "authority": ({"STEPCA_URL": "https://127.0.0.1:9"}, {"authority": "failed"}),
    "authority of somebody else": ({"STEPCA_ROOT": "0" * 64}, {"authority": "failed"}),
    "sign-in service": ({"OIDC_ISSUER": NOBODY}, {"sign-in service": "failed"}),
    "mail server": ({"SMTP_PORT": "9"}, {"mail server": "failed"}),
    "bot": ({"MATTERMOST_BOT_TOKEN": "an-old-token-of-the-bot"}, {"chat bot": "failed"}),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_one_part_that_fails_is_status_one_and_the_others_are_told(clinic: Clinic, name: str) -> None:
    changes, worse = BROKEN[name]

    unknown = AUTHORITY if "authority" in worse else ()
    expected = {subject: verdict for subject, verdict in IN_ORDER.items() if subject not in unknown}
    assert await clinic.verdicts(expect=1, **changes) == expected | worse


async def test_what_fails_is_told_with_what_to_do(clinic: Clinic) -> None:
    told = await clinic.run("doctor", expect=1, MATTERMOST_BOT_TOKEN="an-old-token-of-the-bot")

    lines = told.stdout.splitlines()
    assert [line.split(":")[0].split() for line in lines if line.startswith("failed")] == [
        ["failed", "chat", "bot"]
    ]
    assert lines[-1].split(maxsplit=1) == ["->", "Check [mattermost] bot_token."]
    assert told.stderr == ""


async def test_a_chat_that_is_away_is_told_once(clinic: Clinic) -> None:
    missing = ("links in the chat", "chat key", "chat bot")

    found = await clinic.verdicts(expect=1, MATTERMOST_URL=NOBODY)

    expected = IN_ORDER | {"chat server": "failed"}
    assert found == {subject: verdict for subject, verdict in expected.items() if subject not in missing}


async def test_warnings_alone_are_status_zero(clinic: Clinic) -> None:
    warned = {"address for the command": "warning"}

    assert await clinic.verdicts(SERVER_PUBLIC_URL=NOBODY) == IN_ORDER | warned


async def test_a_key_that_was_changed_is_status_one_until_it_is_accepted(clinic: Clinic) -> None:
    clinic.chat.rotate_key()
    assert await clinic.verdicts(expect=1) == IN_ORDER | {"chat key": "failed"}

    await clinic.run("mattermost", "accept-key")

    assert await clinic.verdicts() == IN_ORDER


async def test_a_broken_configuration_is_told_before_anything_is_asked(clinic: Clinic) -> None:
    asked = len(clinic.chat.requests)

    told = await clinic.run("doctor", expect=2, MATTERMOST_IDENTITY="somebody")

    assert "MATTERMOST_IDENTITY" in told.stderr
    assert told.stdout == ""
    assert len(clinic.chat.requests) == asked


@pytest.mark.parametrize("token", ["canary-bot-token x", "canary-é", "canary-bot-token\x7f"])
async def test_a_bot_token_that_cannot_be_one_is_not_shown(clinic: Clinic, token: str) -> None:
    settings: dict[str, Any] = {**clinic.settings, "MATTERMOST_BOT_TOKEN": token}

    told = await asyncio.to_thread(certbob, clinic.folder, "doctor", **settings)

    assert told.returncode == 2
    assert "canary" not in told.stdout + told.stderr
    assert "MATTERMOST_BOT_TOKEN: expected an access token" in told.stderr


@pytest.mark.parametrize("path", [".", "secret", "ca", "ca/root.key", "ca/intermediate.key"])
async def test_what_others_could_read_is_named(tmp_path: Path, path: str) -> None:
    await found_installation(tmp_path / "data")
    file = tmp_path / "data" / path
    file.chmod(file.stat().st_mode | 0o040)

    told = await asyncio.to_thread(certbob, tmp_path, "doctor")

    assert told.returncode == 1
    assert f"{Path('data') / path} has mode 0" in told.stderr
    assert "Run: chmod " in told.stderr


@pytest.mark.parametrize("command", [["doctor"], ["mattermost", "forget", "x"], ["mattermost", "accept-key"]])
def test_looking_founds_nothing(tmp_path: Path, command: list[str]) -> None:
    told = certbob(tmp_path, *command)

    assert told.returncode == 1
    assert list(tmp_path.iterdir()) == []
    assert "Start CertBob once" in told.stderr
