"""Whole answers up to a limit and in time, and work that several wait for."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from certbob.outgoing import HEADERS, MAX_ANSWER, Shared, UnfitAnswer, WholeAnswers, in_time

URL = "https://service.example.org/"


@dataclass
class Pieces(httpx2.AsyncByteStream):
    """A body that comes in pieces of 64 kB, `size` bytes in all; None: for ever."""

    size: int | None
    sent: int = 0
    is_closed: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.size is None or self.sent < self.size:
            piece = bytes(65536 if self.size is None else min(65536, self.size - self.sent))
            self.sent += len(piece)
            yield piece

    async def aclose(self) -> None:
        self.is_closed = True


@dataclass
class Service(httpx2.AsyncBaseTransport):
    """Answers with `body`."""

    body: Pieces
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[httpx2.Request] = field(default_factory=list)
    is_closed: bool = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        return httpx2.Response(200, headers=self.headers, stream=self.body)

    async def aclose(self) -> None:
        self.is_closed = True


async def get(service: Service) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=WholeAnswers(service), headers=HEADERS) as http:
        return await http.get(URL)


@pytest.mark.parametrize("size", [0, 1, MAX_ANSWER])
async def test_an_answer_up_to_a_mebibyte_is_there_as_a_whole(size: int) -> None:
    service = Service(Pieces(size), {"X-Fact": "a"})

    answer = await get(service)

    assert (len(answer.content), answer.headers["X-Fact"]) == (size, "a")
    assert service.body.is_closed
    assert service.asked[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("size", [MAX_ANSWER + 1, None])
async def test_of_a_longer_one_no_more_is_read_than_that(size: int | None) -> None:
    service = Service(Pieces(size))

    with pytest.raises(UnfitAnswer, match=f"more than {MAX_ANSWER} bytes"):
        await get(service)

    assert service.body.sent <= MAX_ANSWER + 65536
    assert service.body.is_closed


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "deflate", "x"])
async def test_of_a_compressed_one_nothing_is_read(encoding: str) -> None:
    service = Service(Pieces(None), {"Content-Encoding": encoding})

    with pytest.raises(UnfitAnswer, match="compressed"):
        await get(service)

    assert service.body.sent == 0
    assert service.body.is_closed


async def test_a_client_that_ends_leaves_the_connections_to_others() -> None:
    service = Service(Pieces(0))
    transport = WholeAnswers(service)
    for _ in "12":
        async with httpx2.AsyncClient(transport=transport) as http:
            await http.get(URL)

    assert not service.is_closed
    await transport.close()
    assert service.is_closed


async def test_time_is_for_all_steps_together() -> None:
    async def dripping() -> None:
        while True:
            await asyncio.sleep(0)  # no step of it is long

    with pytest.raises(TimeoutError):
        await in_time(dripping(), 0.01)


async def test_in_time_there_is_the_result_or_the_error() -> None:
    async def result(problem: Exception | None) -> str:
        if problem is not None:
            raise problem
        return "here"

    assert await in_time(result(None), 30) == "here"
    with pytest.raises(UnfitAnswer):
        await in_time(result(UnfitAnswer()), 30)


class Work:
    """Counts its beginnings, and ends when it may."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.begun = 0
        self.ended = 0
        self.may_end = asyncio.Event()
        self.problem = problem

    async def __call__(self) -> None:
        self.begun += 1
        await self.may_end.wait()
        self.ended += 1
        if self.problem is not None:
            raise self.problem


async def test_all_who_want_it_at_the_same_moment_share_one() -> None:
    work = Work()
    shared = Shared(work)
    waiting = [asyncio.create_task(shared.join()) for _ in range(5)]
    await asyncio.sleep(0)
    assert shared.start() is shared.start()
    assert shared.is_running

    work.may_end.set()
    await asyncio.gather(*waiting)

    assert (work.begun, work.ended) == (1, 1)
    assert not shared.is_running
    await shared.join()
    assert work.begun == 2


async def test_one_that_goes_away_does_not_end_it() -> None:
    work = Work()
    shared = Shared(work)
    gone, staying = (asyncio.create_task(shared.join()) for _ in "12")
    await asyncio.sleep(0)

    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    work.may_end.set()
    await staying

    assert (work.begun, work.ended) == (1, 1)


async def test_a_failure_is_told_to_all_who_wait_and_the_next_begins_anew() -> None:
    work = Work(UnfitAnswer("broken"))
    shared = Shared(work)
    waiting = [asyncio.create_task(shared.join()) for _ in "12"]
    work.may_end.set()

    assert [str(each) for each in await asyncio.gather(*waiting, return_exceptions=True)] == ["broken"] * 2
    work.problem = None
    await shared.join()
    assert work.begun == 2


async def test_a_failure_that_nobody_waited_for_is_no_news() -> None:
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    work = Work(UnfitAnswer("broken"))
    work.may_end.set()
    shared = Shared(work)

    await asyncio.wait({shared.start()})
    del shared
    gc.collect()
    await asyncio.sleep(0)

    assert told == []


async def test_it_can_be_cancelled_at_any_time() -> None:
    work = Work()
    shared = Shared(work)
    await shared.cancel()  # nothing was begun
    shared.start()

    await shared.cancel()
    await shared.cancel()

    assert not shared.is_running
    assert work.ended == 0
