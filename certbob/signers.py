"""A small pool of processes for keys, signatures and PKCS #12.

Processes, because writing PKCS #12 holds the interpreter's lock; forked once before any thread starts,
because forks share memory. Keys cross pipes only, never a file.
"""

import asyncio
import ctypes
import functools
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkContext, ForkProcess, SpawnContext, SpawnProcess
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # prctl(2)


# When one process dies, the executor terminates the others and waits for them. Signers ignore SIGTERM
# (see `_settle_in`), so it would wait for ever.
class _ForkedSigner(ForkProcess):
    terminate = ForkProcess.kill


class _SpawnedSigner(SpawnProcess):
    terminate = SpawnProcess.kill


class _Fork(ForkContext):
    Process = _ForkedSigner


class _Spawn(SpawnContext):
    Process = _SpawnedSigner


class SignerPool:
    """Implements `ports.Signers`. Make it before any thread runs."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        # In a thread-free process fork is safe and cheap; a pool that replaces a broken one must spawn.
        self._pool = self._new_pool(_Fork())

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        pool = self._pool
        work = functools.partial(function, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except BrokenProcessPool:
            if self._pool is pool:
                log.critical("a signer process died; starting new ones")
                self._pool = self._new_pool(_Spawn())
            raise

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _new_pool(self, context: _Fork | _Spawn) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            self._processes, mp_context=context, initializer=_settle_in, initargs=(os.getpid(),)
        )
        for _ in range(self._processes):
            pool.submit(os.getpid)  # starts one, or forks all of them, now
        return pool


def _settle_in(parent: int) -> None:
    """The parent alone decides about the end, and if it dies so does the signer. Pages come first: nice."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before it was asked to tell
