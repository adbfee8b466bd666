"""Where the files that belong to the program lie."""

import sys
from pathlib import Path


def resource_root() -> Path:
    """The folder of `partials/` and `static/`: the checkout, or where the executable has unpacked itself."""
    return Path(getattr(sys, "_MEIPASS", Path(__file__).resolve().parent.parent))
