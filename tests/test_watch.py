"""A list of revoked certificates that is not renewed: what would have warned the operator, and when.

Processes share a data folder, as the service and `certbob doctor` do; a clock is moved, nothing waits.
"""

import functools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from certbob import server, web
from certbob.bootstrap import build_services
from certbob.ca.builtin import sign_crl
from certbob.config import Settings
from certbob.doctor import examine
from certbob.errors import CAUnavailable
from certbob.services import Finding, Services, Verdict
from tests.support.web import InlineSigners, Site, StillClock, settings_for

T = TypeVar("T")

HALF = timedelta(days=3.5)  # of the seven days that a list is good for
HOUR = timedelta(hours=1)


@dataclass
class Signers(InlineSigners):
    """Whose key of the authority can be taken away."""

    has_key: bool = True

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        if function is sign_crl and not self.has_key:
            raise CAUnavailable("the key cannot be read")
        return await super().run(function, *args, **kwargs)


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    return settings_for(data_dir)


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, clock: StillClock, signers: Signers
) -> AsyncIterator[Site]:
    """What `certbob serve` has wired at the moment when it opens its port."""
    wired = functools.partial(build_services, clock=clock, signers=signers)
    monkeypatch.setattr(server, "build_services", wired)
    app: web.Application = server.new_app(settings)
    async with server._running(app, settings) as services:
        yield Site(app, services, clock, settings)


async def doctor(settings: Settings, clock: StillClock) -> Finding:
    """What it says of the list, in a process of its own."""
    services = await build_services(settings, clock=clock, signers=InlineSigners())
    try:
        found = {finding.subject: finding async for finding in examine(services, settings)}
    finally:
        await services.close()
    return found["revocation list"]


def gauge(services: Services, name: str) -> float:
    lines = services.metrics.exposition(services).decode().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def test_doctor_warns_while_the_service_is_stopped_and_at_its_restart_the_list_is_fresh(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, clock: StillClock
) -> None:
    assert (await doctor(settings, clock)).verdict is Verdict.WARNING  # none was signed yet
    async with running(monkeypatch, settings, clock, Signers()) as site:
        assert site.services.revocation_list is not None
    begun = clock.now()

    clock.moment = begun + HALF - HOUR
    assert await doctor(settings, clock) == Finding("revocation list", Verdict.OK, "signed 3 days ago")
    clock.moment = begun + HALF
    warned = await doctor(settings, clock)
    clock.moment = begun + 2 * HALF
    failed = await doctor(settings, clock)

    assert warned.verdict is Verdict.WARNING
    assert "none was signed since 24 November 2026 at" in warned.text
    assert "From 1 December 2026 at" in warned.text
    assert warned.mend.startswith("Is the service running?")
    assert failed.verdict is Verdict.FAILED
    assert "is over since 1 December 2026 at" in failed.text
    clock.moment = begun + 30 * HALF
    async with running(monkeypatch, settings, clock, Signers()) as site:
        known = site.services.revocation_list and site.services.revocation_list.known
        assert known
        assert known.this_update <= clock.now() < known.next_update - 1.9 * HALF
        assert (await site.program().get("/readyz")).status == 200
    assert (await doctor(settings, clock)).verdict is Verdict.OK


async def test_doctor_metrics_and_readiness_warn_while_no_list_can_be_signed(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, clock: StillClock
) -> None:
    signers, begun = Signers(), clock.now()
    async with running(monkeypatch, settings, clock, signers) as site:
        services, own = site.services, site.services.revocation_list
        assert own is not None
        age = gauge(services, "certbob_crl_age_seconds")
        end = gauge(services, "certbob_crl_next_update_timestamp_seconds")
        signers.has_key = False
        seen = []
        for moment in (begun + HALF - HOUR, begun + HALF, begun + 2 * HALF):
            clock.moment = moment
            await own.refresh_if_possible()  # the job, which fails
            ready = await site.program().get("/readyz")
            grown = gauge(services, "certbob_crl_age_seconds") - age
            assert grown == (moment - begun).total_seconds()
            assert gauge(services, "certbob_crl_next_update_timestamp_seconds") == end
            verdict = (await doctor(settings, clock)).verdict
            seen.append((ready.status, json.loads(ready.text)["checks"]["crl"] == "ok", verdict))

        assert seen == [
            (200, True, Verdict.OK),
            (503, False, Verdict.WARNING),
            (503, False, Verdict.FAILED),
        ]
        signers.has_key = True
        await own.refresh()
        assert (await site.program().get("/readyz")).status == 200
        assert gauge(services, "certbob_crl_age_seconds") <= age
        assert (await doctor(settings, clock)).verdict is Verdict.OK


async def test_a_number_that_was_taken_for_a_list_that_failed_deceives_nobody(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, clock: StillClock
) -> None:
    signers = Signers(has_key=False)
    async with running(monkeypatch, settings, clock, signers) as site:
        assert site.services.revocation_list is not None
        await site.services.revocation_list.refresh_if_possible()

        found = await doctor(settings, clock)

    assert (found.verdict, found.text) == (Verdict.WARNING, "none was signed yet")
