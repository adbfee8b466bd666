"""What happens by itself while the service runs."""

import asyncio
import logging

from certbob.errors import Problem
from certbob.services import Services

log = logging.getLogger(__name__)

PRUNE_SECONDS = 600


async def run(services: Services) -> None:
    """Until cancelled: forget what has expired. A failure is logged, and tried again next time."""
    while True:
        try:
            await services.prune()
        except Problem as problem:
            log.warning("pruning failed: %s", problem.detail)
        await asyncio.sleep(PRUNE_SECONDS)
