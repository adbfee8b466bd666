"""What happens by itself while the service runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from certbob.errors import Problem
from certbob.services import Services

log = logging.getLogger(__name__)

PRUNE_SECONDS = 600
REMINDER_SECONDS = 600
REVOCATION_SECONDS = 20  # another process may have revoked something


async def run(services: Services) -> None:
    """Until cancelled: forget what has expired, remind people of what is about to, revoke what was replaced,
    keep the list of revoked ones fresh.
    """
    jobs = [
        _every(PRUNE_SECONDS, services.prune),
        _every(REVOCATION_SECONDS, services.revocation.revoke_replaced),
    ]
    if services.revocation_list is not None:
        jobs.append(_every(REVOCATION_SECONDS, services.revocation_list.refresh))
    if services.reminders is not None:
        jobs.append(_every(REMINDER_SECONDS, services.reminders.remind))
    await asyncio.gather(*jobs)


async def _every(seconds: float, job: Callable[[], Awaitable[None]]) -> None:
    """A failure is logged, and the job tried again next time."""
    while True:
        try:
            await job()
        except Problem as problem:
            log.warning("%s failed: %s", job.__name__, problem.detail)
        except Exception as error:
            log.exception("%s failed", job.__name__, exc_info=error)
        await asyncio.sleep(seconds)
