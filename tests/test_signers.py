"""Heavy work goes to processes of its own, which live and die with the service."""

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, asynccontextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from certbob.ca.builtin import sign_leaf
from certbob.errors import CABadAnswer, CARefused
from certbob.keys import new_key_and_csr
from certbob.profiles import KeyType, Usage
from certbob.signers import SignerPool
from tests.support import pki

ISSUER = pki.below(pki.root())
# A service in small: it shows the ids of its signers, then waits to be ended.
SERVICE = """
import multiprocessing, signal, sys
from certbob.signers import SignerPool
pool = SignerPool(2)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
if len(sys.argv) > 1:
    pool.close()
    print("closed", flush=True)
    sys.exit()
signal.pause()
"""


@pytest.fixture
async def pool() -> AsyncIterator[SignerPool]:
    pool = SignerPool(2)
    yield pool
    for process in multiprocessing.active_children():
        process.kill()  # those of a test that failed could make the pool wait for ever
    pool.close()


def signers() -> list[int]:
    """The processes of all pools in this test."""
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def kill_one() -> None:
    """Returns when the pool has noticed: then it ends the others too."""
    processes = multiprocessing.active_children()
    processes[0].kill()
    for process in processes:
        assert wait([process.sentinel], timeout=10), "a signer of a broken pool stays"


async def ping_pong(pool: SignerPool, folder: Path) -> tuple[str, str]:
    """Both signers work at once, for each waits for the other."""
    there, back = folder / "there", folder / "back"
    os.mkfifo(there)
    os.mkfifo(back)
    pong, ping = await asyncio.gather(pool.run(_call, there, back), pool.run(_answer, there, back))
    return pong, ping


@asynccontextmanager
async def all_busy(pool: SignerPool, folder: Path) -> AsyncIterator[list[asyncio.Task[str]]]:
    """Both signers read from pipes that nobody writes to."""
    pipes = [Path(tempfile.mkdtemp(dir=folder), "pipe") for _ in range(2)]
    for pipe in pipes:
        os.mkfifo(pipe)
    work = [asyncio.create_task(pool.run(Path.read_text, pipe)) for pipe in pipes]
    await asyncio.sleep(0)
    with ExitStack() as writers:
        for pipe in pipes:
            writers.enter_context(pipe.open("w"))  # waits until it is read from
        yield work


async def test_work_is_done_elsewhere(pool: SignerPool) -> None:
    assert await pool.run(os.getpid) in set(signers()) - {os.getpid()}


async def test_all_signers_are_there_before_any_thread_is(pool: SignerPool) -> None:
    """Forked later, they could inherit a lock that some thread holds."""
    assert len(signers()) == 2
    before = set(signers())

    assert {await pool.run(os.getpid) for _ in range(20)} <= before
    assert set(signers()) == before


async def test_arguments_and_results_cross(pool: SignerPool) -> None:
    new = await pool.run(new_key_and_csr, KeyType.P256, common_name="Zoë 山田")

    assert new.csr
    assert new.private_key


async def test_the_loop_runs_on_while_a_key_is_made(pool: SignerPool) -> None:
    making = asyncio.create_task(pool.run(new_key_and_csr, KeyType.RSA3072, pki.ADA))
    turns = 0
    while not making.done():
        await asyncio.sleep(0)
        turns += 1

    assert making.result().private_key
    # On the loop it would be one or two.
    assert turns > 100


async def test_signers_work_side_by_side(pool: SignerPool, tmp_path: Path) -> None:
    assert await ping_pong(pool, tmp_path) == ("pong", "ping")


async def test_a_refusal_crosses_with_its_detail(pool: SignerPool) -> None:
    wrong = pki.signing_request(usages=(Usage.EAP_OVER_LAN,))

    with pytest.raises(CARefused) as refusal:
        await pool.run(sign_leaf, wrong, now=pki.NOW, issuer=ISSUER.der, issuer_key=ISSUER.key_der)
    assert refusal.value.detail == "clientAuth is not among the usages"


@pytest.mark.parametrize(
    "problem", [CARefused("not this one", status=403), CARefused(), CABadAnswer("wrong key", b"certificate")]
)
async def test_a_problem_crosses_whole(pool: SignerPool, problem: CARefused | CABadAnswer) -> None:
    with pytest.raises(type(problem)) as crossed:
        await pool.run(_raise, problem)

    assert vars(crossed.value) == vars(problem)
    assert str(crossed.value) == str(problem)


async def test_an_error_in_one_piece_of_work_harms_no_other(pool: SignerPool) -> None:
    before = set(signers())
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)

    assert await pool.run(divmod, 7, 2) == (3, 1)
    assert set(signers()) == before


async def test_the_service_goes_on_when_a_signer_dies(
    pool: SignerPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(signers())
    async with all_busy(pool, tmp_path) as work:
        kill_one()
        results = await asyncio.gather(*work, return_exceptions=True)

    assert {type(result) for result in results} == {BrokenProcessPool}
    assert await pool.run(os.getpid) in set(signers())
    assert before.isdisjoint(signers())
    assert len(signers()) == len(before)
    # Two were told, and only one of them started new ones.
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.CRITICAL, "a signer process died; starting new ones")
    ]


async def test_so_it_does_when_a_new_one_dies_too(pool: SignerPool, tmp_path: Path) -> None:
    for _ in range(2):
        async with all_busy(pool, tmp_path) as work:
            kill_one()
            await asyncio.gather(*work, return_exceptions=True)

    assert await pool.run(new_key_and_csr, KeyType.P256, pki.ADA)


async def test_a_pool_whose_signer_died_unseen_can_be_closed(pool: SignerPool) -> None:
    kill_one()
    pool.close()

    assert signers() == []


async def test_signers_end_when_the_pool_is_closed(pool: SignerPool) -> None:
    await pool.run(os.getpid)
    pool.close()

    assert signers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_to_all_does_not_stop_work_in_hand(
    pool: SignerPool, tmp_path: Path, number: signal.Signals
) -> None:
    """A terminal and systemd send it to every process; the service alone decides when signers end."""
    await ping_pong(pool, tmp_path)
    before = set(signers())
    for pid in before:
        os.kill(pid, number)

    assert await pool.run(new_key_and_csr, KeyType.P256, pki.ADA)
    assert set(signers()) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell children of a parent's end")
def test_no_signer_outlives_a_service_that_is_killed(number: signal.Signals) -> None:
    service = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    with service.stdout:
        pids = service.stdout.readline().split()
        os.kill(service.pid, number)
        service.wait(30)
        # The signers hold the other end of this pipe too: it ends when the last of them has.
        ended = wait([service.stdout.fileno()], timeout=10)
        if not ended:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    assert len(pids) == 2
    assert ended


def test_a_closed_service_ends() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SERVICE, "close"], capture_output=True, text=True, timeout=30
    )

    assert (ended.returncode, ended.stdout.splitlines()[1:], ended.stderr) == (0, ["closed"], "")


def _raise(problem: Exception) -> None:
    raise problem


def _call(there: Path, back: Path) -> str:
    there.write_text("ping")
    return back.read_text()


def _answer(there: Path, back: Path) -> str:
    heard = there.read_text()
    back.write_text("pong")
    return heard
