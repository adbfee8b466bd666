"""Work that goes on whatever becomes of who began it: a browser that goes away must not stop it half-way."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Keeps what runs; `len` tells how many."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Whoever waited may be gone: an exception that nobody reads must not be reported as forgotten.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def drain(self, seconds: float) -> None:
        """Let them end, for so long at most; called at shutdown."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # What ends may leave work behind: a late answer to take back, a note for the ledger.
        while self._running and (left := deadline - loop.time()) > 0:
            await asyncio.wait(self._running, timeout=left)
