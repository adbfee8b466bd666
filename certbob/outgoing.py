"""Talking to other services: whole answers up to a limit, in time, never redirected, never decompressed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2

T = TypeVar("T")

MAX_ANSWER = 1024 * 1024
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


class UnfitAnswer(Exception):
    """The service answered with something that nobody should read; the message is for the operator's log."""


class WholeAnswers(httpx2.AsyncBaseTransport):
    """Reads whole answers up to a limit, and outlives the clients that use it. Raises UnfitAnswer."""

    def __init__(self, inner: httpx2.AsyncBaseTransport | None = None) -> None:
        self._inner = inner or httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        try:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise UnfitAnswer("it answers compressed, which nobody asked for")
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > MAX_ANSWER:
                    raise UnfitAnswer(f"it answers with more than {MAX_ANSWER} bytes")
        finally:
            await response.aclose()
        return httpx2.Response(
            response.status_code, headers=response.headers, content=bytes(body), request=request
        )

    async def aclose(self) -> None:
        """Nothing: a client that ends must not close the connections of the others."""

    async def close(self) -> None:
        await self._inner.aclose()


async def in_time(request: Awaitable[T], seconds: float) -> T:
    """The time-outs of httpx2 are for each step; this one is for all of them together.

    Raises TimeoutError, OSError, httpx2.HTTPError, UnfitAnswer.
    """
    async with asyncio.timeout(seconds):
        return await request


class Shared:
    """Work that all who want it at the same moment share; one that goes away does not end it."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> asyncio.Task[None]:
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._work())
            # Perhaps nobody waits: an exception that nobody reads must not be reported as forgotten.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._task

    async def join(self) -> None:
        await asyncio.shield(self.start())

    async def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
