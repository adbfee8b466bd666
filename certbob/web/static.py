"""Static files: few and small, so they are read and compressed once and served from memory."""

import base64
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from quart import Response, request

# Fixed, because the system's own table differs from machine to machine.
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PLAIN_TEXT = "text/plain; charset=utf-8"
COMPRESSIBLE = ("text/", "image/svg+xml")
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    compressed: bytes | None
    media_type: str
    digest: str


class StaticFiles:
    """The files directly below a folder, named with their content's hash in the query."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.name: _read(path) for path in sorted(folder.iterdir()) if path.is_file()}

    def url(self, name: str) -> str:
        return f"/static/{name}?v={self._files[name].digest}"

    def integrity(self, name: str) -> str:
        """For the `integrity` attribute (Subresource Integrity)."""
        return "sha384-" + base64.b64encode(hashlib.sha384(self._files[name].content).digest()).decode()

    def response(self, name: str) -> Response | None:
        """None when there is no such file."""
        file = self._files.get(name)
        if file is None:
            return None
        response = Response(file.content, content_type=file.media_type)
        if file.compressed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.set_data(file.compressed)
            response.headers["Content-Encoding"] = "gzip"
        response.headers["Vary"] = "Accept-Encoding"
        # Only the address with the right hash names this very content.
        current = request.args.get("v") == file.digest
        response.headers["Cache-Control"] = FOR_EVER if current else "no-cache"
        return response


def _read(path: Path) -> _File:
    content = path.read_bytes()
    media_type = MEDIA_TYPES.get(path.suffix, PLAIN_TEXT)
    compressed = gzip.compress(content, mtime=0) if media_type.startswith(COMPRESSIBLE) else None
    return _File(content, compressed, media_type, hashlib.sha256(content).hexdigest()[:16])
