"""The real programs that tests drive, where they are found, and how to get a missing one.

`tests/peers/install` installs them all.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SYSTEM_FOLDERS = "/usr/sbin:/sbin"  # not on everybody's PATH
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "certbob/bin"


@dataclass(frozen=True, slots=True)
class Peer:
    """`names`: what the program may be called, the usual name first. `version`: the argument to ask with."""

    names: tuple[str, ...]
    hint: str
    version: str | None = "--version"

    def find(self) -> Path | None:
        path = os.pathsep.join((str(CACHE), os.environ.get("PATH", os.defpath), SYSTEM_FOLDERS))
        found = (shutil.which(name, path=path) for name in self.names)
        return next((Path(program) for program in found if program), None)

    def describe(self) -> str:
        """What the program says about its version, in a line; else where it is."""
        program = self.find()
        if program is None:
            return "missing"
        if self.version is None:
            return str(program)
        told = subprocess.run([program, self.version], capture_output=True, text=True, timeout=30)
        return (told.stdout or told.stderr).strip().partition("\n")[0]


CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

PEERS = {
    "certtool": Peer(("certtool",), "apt install gnutls-bin"),
    "certutil": Peer(("certutil",), "apt install libnss3-tools", None),
    "chromium": Peer(CHROMIUM, "apt install chromium"),
    "curl": Peer(("curl",), "apt install curl"),
    "git": Peer(("git",), "apt install git"),
    "keytool": Peer(("keytool",), "apt install default-jre-headless", "-J-version"),
    "nginx": Peer(("nginx",), "apt install nginx", "-v"),
    "openssl": Peer(("openssl",), "apt install openssl", "version"),
    "pk12util": Peer(("pk12util",), "apt install libnss3-tools", None),
    "step-ca": Peer(("step-ca",), "tests/peers/install builds it with Go 1.25 or newer", "version"),
}


def path_of(name: str) -> Path:
    """For tests marked `needs(name)`, which are not run without it."""
    program = PEERS[name].find()
    assert program is not None, PEERS[name].hint
    return program
