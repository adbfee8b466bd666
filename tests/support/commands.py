"""CertBob's commands as people run them: the real program in a folder, with hardly an environment."""

import os
import subprocess
import sys
from pathlib import Path

from certbob.bootstrap import build_services
from certbob.config import Server, Settings
from tests.support.core import InlineSigners

CHECKOUT = Path(__file__).resolve().parents[2]
APP = [sys.executable, str(CHECKOUT / "app.py")]


async def found_installation(data_dir: Path) -> None:
    """As the first start leaves it."""
    services = await build_services(Settings(server=Server(data_dir=data_dir)), signers=InlineSigners())
    await services.close()


def bound_by_permissions() -> list[str]:
    """In front of a command, so that root, too, may only do what the modes of files allow.

    For a test marked `needs("setpriv")`.
    """
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **settings}


def certbob(
    folder: Path, *arguments: str, stdin: bytes = b"", before: list[str] | None = None, **settings: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in `folder`; `settings` are environment variables. It never ends in a traceback."""
    done = subprocess.run(
        [*(before or []), *APP, *arguments],
        cwd=folder,
        env=environment(**settings),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    told = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode()
    )
    assert "Traceback" not in told.stdout + told.stderr, told.stderr
    assert done.returncode in (0, 1, 2), told
    return told
