"""The real programs that tests drive: where they are found, what a test does without one, how to get it.

A test says `@pytest.mark.needs("nginx")`. `tests/peers/install` installs them all.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

SYSTEM_FOLDERS = "/usr/sbin:/sbin"  # not on everybody's PATH
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "certbob"
OIDC_PROVIDER = CACHE / "oidc-provider"  # its packages; the program is node


@dataclass(frozen=True, slots=True)
class Peer:
    """`names`: what the program may be called, the usual name first. `version`: the argument to ask with.

    `file`: one that must be there, too. `root`: whether nobody else can run it.
    """

    names: tuple[str, ...]
    hint: str
    version: str | None = "--version"
    file: Path | None = None
    root: bool = False

    def find(self) -> Path | None:
        if self.root and os.geteuid() != 0:
            return None
        if self.file is not None and not self.file.exists():
            return None
        path = os.pathsep.join((str(CACHE / "bin"), os.environ.get("PATH", os.defpath), SYSTEM_FOLDERS))
        found = (shutil.which(name, path=path) for name in self.names)
        return next((Path(program) for program in found if program), None)

    def describe(self) -> str:
        """What the program says about its version, in a line; else where it is."""
        program = self.find()
        if program is None:
            return "missing"
        if self.version is None:
            return str(program)
        told = subprocess.run(
            [program, self.version], capture_output=True, text=True, timeout=30, check=False
        )
        return (told.stdout or told.stderr).strip().partition("\n")[0]


_OIDC_PROVIDER_MANIFEST = OIDC_PROVIDER / "node_modules/oidc-provider/package.json"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

PEERS = {
    "apache2": Peer(("apache2",), "apt install apache2-bin", "-v"),
    "caddy": Peer(("caddy",), "apt install caddy", "version"),
    "certtool": Peer(("certtool",), "apt install gnutls-bin"),
    "certutil": Peer(("certutil",), "apt install libnss3-tools", None),
    "chromium": Peer(CHROMIUM, "apt install chromium"),
    "curl": Peer(("curl",), "apt install curl"),
    "eapol_test": Peer(("eapol_test",), "apt install eapoltest", None),
    "envoy": Peer(("envoy",), "tests/peers/install fetches it with pip"),
    "freeradius": Peer(("freeradius",), "apt install freeradius", "-v"),
    "git": Peer(("git",), "apt install git"),
    "haproxy": Peer(("haproxy",), "apt install haproxy", "-v"),
    "keytool": Peer(("keytool",), "apt install default-jre-headless", "-J-version"),
    "nginx": Peer(("nginx",), "apt install nginx", "-v"),
    "oidc-provider": Peer(
        ("node",),
        "tests/peers/install fetches it with Node 20.19 or newer and npm",
        f"--eval=console.log(require('{_OIDC_PROVIDER_MANIFEST}').version, 'on Node', process.version)",
        _OIDC_PROVIDER_MANIFEST,
    ),
    "openssl": Peer(("openssl",), "apt install openssl", "version"),
    "openvpn": Peer(("openvpn",), "apt install openvpn"),
    "pk12util": Peer(("pk12util",), "apt install libnss3-tools", None),
    "postfix": Peer(("postfix",), "apt install postfix, and run the tests as root", None, root=True),
    "saslpasswd2": Peer(("saslpasswd2",), "apt install sasl2-bin libsasl2-modules", None),
    "setpriv": Peer(("setpriv",), "apt install util-linux"),
    "step-ca": Peer(("step-ca",), "tests/peers/install builds it with Go 1.25 or newer", "version"),
}


def path_of(name: str) -> Path:
    """For a test marked `needs(name)`, which does not run without it."""
    program = PEERS[name].find()
    assert program is not None, PEERS[name].hint
    return program


def pytest_report_collectionfinish(items: list[pytest.Item]) -> list[str]:
    """The versions of what the tests at hand drive."""
    names = sorted({name for item in items for name in _needed(item)})
    with ThreadPoolExecutor() as pool:
        versions = pool.map(lambda name: PEERS[name].describe(), names)
    return [f"{name}: {version}" for name, version in zip(names, versions, strict=True)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [name for name in _needed(item) if PEERS[name].find() is None]
    if missing:
        hints = "; ".join(f"{name} is missing: {PEERS[name].hint}" for name in missing)
        if os.environ.get("CI") == "true":
            pytest.fail(hints, pytrace=False)
        pytest.skip(hints)


def _needed(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("needs"):
        if unknown := set(marker.args) - set(PEERS):
            raise pytest.UsageError(
                f"{item.nodeid} needs {unknown}, which tests/support/peers.py does not know"
            )
        yield from marker.args
