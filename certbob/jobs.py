"""What happens by itself while the service runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from certbob.errors import Problem
from certbob.services import Services

log = logging.getLogger(__name__)

PRUNE_SECONDS = 600
REMINDER_SECONDS = 600
RECONCILE_SECONDS = 60
REVOCATION_SECONDS = 20  # another process may have revoked something
LOOK_SECONDS = 60
PUBLISHED_LIST_SECONDS = 300


async def run(services: Services) -> None:
    """Until cancelled: forget, remind, revoke, reconcile, look, and keep the list of revoked ones fresh."""
    jobs = [
        _every(PRUNE_SECONDS, services.prune, services),
        _every(REVOCATION_SECONDS, services.revocation.revoke_replaced, services),
        _every(RECONCILE_SECONDS, services.reconciliation.reconcile, services),
        _every(LOOK_SECONDS, services.watch.look, services),
    ]
    if services.revocation_list is not None:
        jobs.append(_every(REVOCATION_SECONDS, services.revocation_list.refresh, services))
    if services.published_list is not None:
        jobs.append(_every(PUBLISHED_LIST_SECONDS, services.published_list.fetch, services))
    if services.reminders is not None:
        jobs.append(_every(REMINDER_SECONDS, services.reminders.remind, services))
    await asyncio.gather(*jobs)


async def _every(seconds: float, job: Callable[[], Awaitable[None]], services: Services) -> None:
    """A failure is logged, and the job tried again next time."""
    services.metrics.expect_job(job.__name__)
    while True:
        try:
            await job()
            services.metrics.job_succeeded(job.__name__, services.clock.now())
        except Problem as problem:
            log.warning("%s failed: %s", job.__name__, problem.detail)
        except Exception as error:
            log.exception("%s failed", job.__name__, exc_info=error)
        await asyncio.sleep(seconds)
