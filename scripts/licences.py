"""Prints the licences of everything that the executable contains. Runs in the venv that built it.

.venv-build/bin/python scripts/licences.py build/libraries.txt > dist/THIRD_PARTY_LICENSES.txt
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEBIAN_DOCS = Path("/usr/share/doc")


def main(libraries: Path) -> None:
    for name, text in (*_python(), *_packages(), *_libraries(libraries.read_text().splitlines()), *_assets()):
        print(f"{'=' * 100}\n{name}\n{'=' * 100}\n\n{text.strip()}\n\n")


def _python() -> Iterator[tuple[str, str]]:
    yield f"Python {sys.version.split()[0]}", (Path(os.__file__).parent / "LICENSE.txt").read_text()


def _packages() -> Iterator[tuple[str, str]]:
    """What is locked for run time, and PyInstaller, whose loader is the executable's first part."""
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    for name in dict.fromkeys([*locked, "pyinstaller"]):  # some are locked once for each Python
        try:
            package = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        yield f"{package.name} {package.version}", "\n\n".join(_texts(package))


def _texts(package: Distribution) -> Iterator[str]:
    files = [
        file
        for file in package.files or ()
        if file.parts[0].endswith(".dist-info") and re.match("LICEN[CS]E|COPYING|NOTICE|AUTHORS", file.name)
    ]
    if not files:
        sys.exit(f"{package.name} has no licence text")
    for file in files:
        yield Path(str(file.locate())).read_text()


def _libraries(paths: list[str]) -> Iterator[tuple[str, str]]:
    """The system's own libraries, whose texts Debian keeps."""
    for path in paths:
        package = _debian_package(path)
        if package is not None:
            yield f"{Path(path).name} ({package})", (DEBIAN_DOCS / package / "copyright").read_text()
        elif not Path(path).name.startswith("libpython"):  # Python's own text stands above
            yield Path(path).name, "Its licence is told by the system that the executable was built on."


def _debian_package(path: str) -> str | None:
    if shutil.which("dpkg-query") is None:
        return None
    for candidate in (path, f"/usr{path}", path.removeprefix("/usr")):  # /lib may be a link to /usr/lib
        found = subprocess.run(["dpkg-query", "--search", candidate], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.partition(":")[0]
    return None


def _assets() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "static").glob("*LICEN*")):
        yield f"static/{path.name}", path.read_text()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
