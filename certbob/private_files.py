"""Files that only the user CertBob runs as may read."""

import os
from pathlib import Path

from certbob.errors import CannotStart


def write_private(path: Path, content: bytes) -> None:
    """A new file, 0600 from its first moment, on the disk when this returns. Raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def require_private(path: Path) -> None:
    """Raises CannotStart when group or others have any right on this file or folder."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        raise CannotStart(
            f"{path} has mode {mode:04o}: others on this machine could use the keys in it.",
            f"Run: chmod {wanted} {path}",
        )
