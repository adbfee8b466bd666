"""`/metrics`: who may read it, and what it tells; nothing of people is in it."""

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client.parser import text_string_to_metric_families

from certbob import __version__, jobs
from certbob.errors import CAUnavailable
from certbob.secret import Secret
from certbob.services import Services
from tests.support import pki
from tests.support.commands import APP, CHECKOUT, environment
from tests.support.web import (
    ADA,
    HTTPS_URL,
    LOOPBACK_URL,
    Answer,
    FakeCA,
    Site,
    StillClock,
    open_site,
)

GUIDE = (CHECKOUT / "docs/operating.md").read_text()
TOKEN = "Zm9yIHRoZSB0ZXN0cyBvbmx5"
JOBS = "certbob_job_last_success_timestamp_seconds"
LOCAL = {"Host": "127.0.0.1:8000"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: Samples, metric: str, /, **labels: str) -> float:
    return found[metric, frozenset(labels.items())]


def names(found: Samples) -> set[str]:
    return {name for name, _ in found}


async def scrape(
    site: Site, address: str = "127.0.0.1", headers: Mapping[str, str | None] | None = None
) -> Answer:
    program = site.program()
    program.address = address
    return await program.get("/metrics", LOCAL | dict(headers or {}))


async def scraped(site: Site) -> Samples:
    answer = await scrape(site)
    assert answer.status == 200
    return samples(answer.text)


# Who may read it


@pytest.mark.parametrize("url", [LOOPBACK_URL, HTTPS_URL])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
async def test_programs_on_this_machine_read_it(
    data_dir: Path, clock: StillClock, url: str, address: str
) -> None:
    async with open_site(data_dir, clock, public_url=url) as site:
        answer = await scrape(site, address)

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "<local>"])
async def test_for_all_others_there_is_no_such_page(site: Site, address: str) -> None:
    answer = await scrape(site, address)

    assert answer.status == 404
    assert "certbob_" not in answer.text


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "x-forwarded-anything",
        "X-Forwarded",
        "Forwarded",
        "Via",
        "X-Real-IP",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", "", "for=127.0.0.1"])
@pytest.mark.parametrize("proxies", [(), ("127.0.0.1/32",)], ids=["unknown proxy", "trusted proxy"])
async def test_whoever_comes_through_a_proxy_on_this_machine_is_not_on_it(
    data_dir: Path, clock: StillClock, header: str, value: str, proxies: tuple[str, ...]
) -> None:
    async with open_site(data_dir, clock, trusted_proxies=proxies) as site:
        assert (await scrape(site, headers={header: value})).status == 404
        assert (await scrape(site)).status == 200


async def test_a_proxy_that_tells_nothing_but_leaves_the_host_is_known_by_it(
    data_dir: Path, clock: StillClock
) -> None:
    async with open_site(data_dir, clock, public_url=HTTPS_URL) as site:
        answer = await scrape(site, headers={"Host": "cert.example.org"})

    assert answer.status == 404


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 404),
        (f"Bearer {TOKEN[:-1]}", 404),
        (f"Bearer {TOKEN.lower()}", 404),
        (f"Basic {TOKEN}", 404),
        (TOKEN, 404),
        ("Bearer ", 404),
        ("Bearer é", 404),
        ("", 404),
        (None, 404),
    ],
)
@pytest.mark.parametrize("forwarded", [None, "192.0.2.9"])
async def test_from_afar_only_with_the_token(
    data_dir: Path, clock: StillClock, sent: str | None, status: int, forwarded: str | None
) -> None:
    async with open_site(data_dir, clock, public_url=HTTPS_URL, metrics_token=Secret(TOKEN)) as site:
        headers = {"Authorization": sent, "Host": "cert.example.org", "X-Forwarded-For": forwarded}
        answer = await scrape(site, "192.0.2.7", headers)

    assert answer.status == status


@pytest.mark.parametrize("sent", ["Bearer ", "Bearer None", "Bearer"])
async def test_without_a_token_none_is_right(site: Site, sent: str) -> None:
    assert (await scrape(site, "192.0.2.7", {"Authorization": sent})).status == 404


async def test_signed_in_or_not_it_is_no_page_for_people(site: Site) -> None:
    assert (await (await site.signed_in()).get("/metrics")).status == 404


# What it tells


async def test_it_tells_nothing_of_people(site: Site) -> None:
    token = await site.mint(device="Ada's secret phone")
    browser = site.browser()
    form = (await browser.get(f"/issue?token={token}")).page.form("/issue")
    issued = await browser.submit(form)
    await browser.get(f"/{token}/{ADA.email}?q={ADA.name}")
    await site.program().get(f"/certificates/{site.ledger('serial')[0]}/revoke?token={token}")
    await site.signed_in()
    await run_jobs(site.services)

    answer = await scrape(site)

    assert issued.status == 200
    assert samples(answer.text)
    serial, fingerprint, subject = site.ledger("serial, fingerprint, subject")[0]
    trust = await site.services.ca.trust()
    secrets = [token, form.fields["token"], *browser.cookies.values(), ADA.password, "192.0.2.7"]
    people = [ADA.name, ADA.username, ADA.email or "", "phone", serial, fingerprint, subject]
    authority = [trust.root.subject.rfc4514_string(), f"{trust.root.serial_number:x}"]
    found = answer.text.lower()
    assert [text for text in (*secrets, *people, *authority) if text.lower() in found] == []


async def run_jobs(services: Services) -> None:
    """Until each has succeeded once."""
    running = asyncio.create_task(jobs.run(services))
    try:
        async with asyncio.timeout(20):
            while not all(successes(services)):
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


def successes(services: Services) -> list[float]:
    found = samples(services.metrics.exposition(services).decode())
    return [value for (name, _), value in found.items() if name == JOBS] or [0]


async def test_requests_are_counted_by_route_and_timed(site: Site) -> None:
    program = site.program()
    for path in ("/ca", "/ca", "/nothing", "/other", "/certificates/abc/revoke"):
        await program.get(path)

    found = await scraped(site)

    assert of(found, "certbob_requests_total", route="/ca", method="GET", status="2xx") == 2
    assert of(found, "certbob_requests_total", route="-", method="GET", status="4xx") == 2
    rule = "/certificates/<serial>/revoke"
    assert of(found, "certbob_requests_total", route=rule, method="GET", status="3xx") == 1
    assert of(found, "certbob_request_seconds_count", route="/ca", method="GET") == 2
    assert of(found, "certbob_request_seconds_bucket", route="/ca", method="GET", le="+Inf") == 2
    assert not [name for name in names(found) if name.endswith("_created")]


async def test_labels_stay_few_whatever_is_asked(site: Site) -> None:
    await scraped(site)
    before = len(await scraped(site))
    for number in range(50):
        await site.program().get(f"/{number}")
        await site.program().get(f"/certificates/{number}/revoke")

    after = len(await scraped(site))

    assert after - before <= 2 * 10


async def test_what_the_audit_log_gets_is_counted(site: Site) -> None:
    await site.signed_in()
    browser = site.browser()
    form = (await browser.get(f"/issue?token={await site.mint()}")).page.form("/issue")
    await browser.submit(form)

    found = await scraped(site)

    assert of(found, "certbob_events_total", action="signed_in", door="local") == 1
    assert of(found, "certbob_events_total", action="issued", door="local") == 1


async def test_events_are_counted(site: Site) -> None:
    for door in ("local", "local", "mattermost"):
        site.services.metrics.count_event("revoked", door)

    found = await scraped(site)

    assert of(found, "certbob_events_total", action="revoked", door="local") == 2
    assert of(found, "certbob_events_total", action="revoked", door="mattermost") == 1


async def test_the_version_that_runs_is_told(site: Site) -> None:
    assert of(await scraped(site), "certbob_build_info", version=__version__) == 1


async def test_what_nobody_has_looked_at_is_left_out(site: Site) -> None:
    found = names(await scraped(site))

    up = {"certbob_authority_up", "certbob_storage_up"}
    ends = {"certbob_ca_expiration_timestamp_seconds", "certbob_tls_certificate_expiration_timestamp_seconds"}
    assert not found & (up | ends)


async def test_authority_and_database_are_up_or_down(data_dir: Path, clock: StillClock) -> None:
    ca = FakeCA(data_dir, clock)
    async with open_site(data_dir, clock, ca=ca) as site:
        await site.services.watch.look()
        up = await scraped(site)
        ca.broken, ca.problem = "on holiday", CAUnavailable("on holiday")
        await site.services.close()
        await site.services.watch.look()
        down = await scraped(site)

    for name in ("certbob_authority_up", "certbob_storage_up"):
        assert (of(up, name), of(down, name)) == (1, 0)
    trust = await FakeCA(data_dir, clock).trust()
    for which, certificate in (("root", trust.root), ("intermediate", trust.intermediates[0])):
        for found in (up, down):  # what was seen once stays known
            end = of(found, "certbob_ca_expiration_timestamp_seconds", which=which)
            assert end == certificate.not_valid_after_utc.timestamp()


async def test_the_end_of_the_own_tls_certificate_is_told(site: Site, clock: StillClock) -> None:
    site.services.metrics.tls_certificate_ends(clock.now())

    found = await scraped(site)

    assert of(found, "certbob_tls_certificate_expiration_timestamp_seconds") == clock.now().timestamp()


async def test_the_age_of_our_list_grows_until_there_is_a_new_one(site: Site, clock: StillClock) -> None:
    fresh = await scraped(site)
    clock.advance(hours=2)
    old = await scraped(site)

    age, end = "certbob_crl_age_seconds", "certbob_crl_next_update_timestamp_seconds"
    assert of(old, age) - of(fresh, age) == 7200
    assert of(fresh, end) == of(old, end) == fresh_end(site).timestamp()


def fresh_end(site: Site) -> datetime:
    assert site.services.revocation_list is not None
    known = site.services.revocation_list.known
    assert known is not None
    return known.next_update


async def test_a_job_is_told_with_its_last_success(site: Site, clock: StillClock) -> None:
    await run_jobs(site.services)

    found = await scraped(site)

    for job in ("prune", "revoke_replaced", "look", "refresh"):
        assert success(found, job) == clock.now().timestamp()


async def test_a_job_that_never_succeeded_is_told_too(site: Site) -> None:
    site.services.metrics.expect_job("prune")

    assert success(await scraped(site), "prune") == 0


def success(found: Samples, job: str) -> float:
    return of(found, JOBS, name=job)


async def test_the_guide_names_all_and_nothing_else(site: Site, clock: StillClock) -> None:
    site.services.metrics.tls_certificate_ends(clock.now())
    site.services.metrics.count_event("issued", "local")
    await run_jobs(site.services)
    await scrape(site)

    told = {re.sub("_(bucket|count|sum)$", "", name) for name in names(await scraped(site))}

    assert set(re.findall(r"\bcertbob_\w+", GUIDE)) == told


# The process with its own TLS certificate


def write_pair(folder: Path, days: int) -> int:
    """A certificate for this machine and its key; when it ends, in epoch seconds."""
    authority = pki.root()
    leaf = replace(
        pki.draft_authority("127.0.0.1", authority.key, path_length=0), end=pki.NOW + timedelta(days=days)
    )
    certificate = leaf.signed_by(authority)
    (folder / "tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(
        authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return int(certificate.not_valid_after_utc.timestamp())


def end_of_tls(port: int) -> float | None:
    """What the process tells; None while it is not there yet."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(
            f"https://127.0.0.1:{port}/metrics", context=context, timeout=5
        ) as answer:
            return of(samples(answer.read().decode()), "certbob_tls_certificate_expiration_timestamp_seconds")
    except OSError:
        return None


def test_after_a_renewal_the_end_of_the_new_tls_certificate_is_told(tmp_path: Path) -> None:
    first = write_pair(tmp_path, 10)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "SERVER_LISTEN": f"127.0.0.1:{port}",
        "SERVER_PUBLIC_URL": f"https://127.0.0.1:{port}",
        "SERVER_TLS_CERTIFICATE": "tls.pem",
        "SERVER_TLS_KEY": "tls.key",
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*APP, "serve"], cwd=tmp_path, env=environment(**settings), stdout=log, stderr=log
        )
    try:
        assert eventually(lambda: end_of_tls(port), first), (tmp_path / "log").read_text()
        second = write_pair(tmp_path, 20)
        assert end_of_tls(port) == first  # which is still the one it serves with
        process.send_signal(signal.SIGHUP)
        assert eventually(lambda: end_of_tls(port), second), (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(30)


def eventually(look: Callable[[], float | None], wanted: float) -> bool:
    give_up = time.monotonic() + 30
    while look() != wanted:
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True
