"""Does anything get slower as the ledger grows? Two services side by side, one with 10 certificates, one with
100 000 of which 10 000 are revoked; the same work in turns, so that the machine's mood falls on both.

    make bench

Prints medians and their ratio, and writes them as JSON. The list of revoked certificates is built while a
ticker looks whether the event loop stays free.
"""

import asyncio
import json
import platform
import sqlite3
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import cryptography

from certbob import web
from certbob.auth.local import hash_password
from certbob.bootstrap import build_services
from certbob.config import Limits, LocalUser, Server, Settings
from certbob.config import Local as LocalSettings
from certbob.devices import Device, Platform
from certbob.identity import Identity
from certbob.paths import resource_root
from certbob.secret import Secret
from certbob.services import Services
from certbob.web.context import WebSettings

SMALL, LARGE, REVOKED = 10, 100_000, 10_000
ROUNDS, PAGES, ISSUES = 9, 60, 25
PASSWORD = "correct horse battery staple"
RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True)
class Side:
    """One service and somebody who is signed in to it."""

    services: Services
    identity: Identity
    get: Callable[[str], Awaitable[bytes]]


def settings_for(data_dir: Path) -> Settings:
    user = LocalUser(username="ada", password_hash=Secret(hash_password(PASSWORD)), name="Ada")
    return Settings(
        server=Server(data_dir=data_dir),
        local=LocalSettings(users=(user,)),
        limits=Limits(certificates_per_hour=1000),
    )


async def open_side(data_dir: Path, certificates: int, stack: AsyncExitStack) -> Side:
    services = await build_services(settings_for(data_dir))
    stack.push_async_callback(services.close)
    identity = await services.local.authenticate("ada", PASSWORD, "127.0.0.1")
    fill(data_dir / "certbob.sqlite3", certificates, identity.subject)
    public = WebSettings("http://127.0.0.1:8000", None, None, direct_download=True, ask_older=True)
    app = web.create_app(public, root=resource_root())
    web.attach(app, services)
    client = app.test_client()
    same = {"Host": "127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    await client.post("/login", form={"username": "ada", "password": PASSWORD}, headers=same)

    async def get(path: str) -> bytes:
        answer = await client.get(path, headers=same)
        assert answer.status_code == 200, answer.status_code
        return await answer.get_data(as_text=False)

    return Side(services, identity, get)


def fill(path: Path, certificates: int, subject: str) -> None:
    """Ten are this person's, the others of people with ten each. One in ten is revoked."""
    now = int(datetime.now(UTC).timestamp())
    rows = (
        (
            f"grant {number}",
            subject if number < 10 else f"person {number // 10}",
            f"Person {number // 10}",
            f"{(1 << 100) + number:x}",
            now - 90_000,
            now - 90_000,
            now + 86_400 * (1 + number % 365),
            now - 80_000 if number % (LARGE // REVOKED) == 0 else None,
        )
        for number in range(certificates)
    )
    with closing(sqlite3.connect(path)) as database:
        database.executemany(
            "INSERT INTO certificates (grant_hash, state, subject, door, account, actor, name, profile,"
            " platform, device, encoding, key_type, validity, csr_sha256, request_id, address, created_at,"
            " closed_at,"
            " serial, not_before, not_after, fingerprint, certificate, revoked_at, revocation_reason)"
            " SELECT ?1, 'issued', ?2, 'local', 'x', ?3, ?3, 'client', 'windows', 'Laptop', 'modern', 'p256',"
            " 7776000, '', '-', '-', ?5, ?5, ?4, ?6, ?7, 'f', x'', ?8, CASE WHEN ?8 IS NULL THEN NULL"
            " ELSE 1 END",
            rows,
        )
        database.execute("ANALYZE")
        database.commit()


async def list_page(side: Side) -> None:
    await side.get("/certificates")


async def issue(side: Side) -> None:
    device = Device(Platform.WINDOWS, "Laptop", older=False)
    validity = side.services.profiles.for_identity(side.identity)[0].validity
    token = await side.services.grants.mint(side.identity, "client", device, validity)
    await side.services.issuance.issue(token)


async def seconds(work: Callable[[Side], Awaitable[None]], side: Side, times: int) -> float:
    """One run of the work, on average."""
    start = time.perf_counter()
    for _ in range(times):
        await work(side)
    return (time.perf_counter() - start) / times


async def compare(
    work: Callable[[Side], Awaitable[None]], small: Side, large: Side, times: int
) -> dict[str, float]:
    for side in (small, large):
        await seconds(work, side, times)  # warm
    pairs = []
    for number in range(ROUNDS):
        first, second = (small, large) if number % 2 else (large, small)
        a, b = await seconds(work, first, times), await seconds(work, second, times)
        pairs.append((a, b) if first is small else (b, a))
    return {
        "small_ms": round(statistics.median(a for a, _ in pairs) * 1000, 3),
        "large_ms": round(statistics.median(b for _, b in pairs) * 1000, 3),
        "ratio": round(statistics.median(b / a for a, b in pairs), 3),
    }


async def crl(large: Side) -> dict[str, float]:
    """How long the list takes, and the longest time that the loop stood still meanwhile."""
    assert large.services.revocation_list is not None
    longest, running = 0.0, True

    async def tick() -> None:
        nonlocal longest
        while running:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - start - 0.001)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    longest = 0.0
    start = time.perf_counter()
    await large.services.revocation_list.refresh()
    built = time.perf_counter() - start
    running = False
    await ticker
    der = (await large.services.revocation_list.current()).der
    fetched = await seconds(lambda side: side.get("/ca/crl"), large, 200)  # type: ignore[arg-type, return-value]
    return {
        "build_s": round(built, 3),
        "loop_stood_still_ms": round(longest * 1000, 1),
        "bytes": len(der),
        "fetches_per_s": round(1 / fetched),
    }


async def main() -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        small = await open_side(folder / "small", SMALL, stack)
        large = await open_side(folder / "large", LARGE, stack)
        results = {
            "list page": await compare(list_page, small, large, PAGES),
            "issuance": await compare(issue, small, large, ISSUES),
            "list of revoked": await crl(large),
        }
    for name, figures in results.items():
        print(f"{name:16} " + "  ".join(f"{key} {value}" for key, value in figures.items()))
    RESULTS.parent.mkdir(exist_ok=True)
    facts = {"python": platform.python_version(), "cryptography": cryptography.__version__}
    RESULTS.write_text(json.dumps({"P8": results, **facts}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
