"""The rooms of the house and the arrows between them, and what in a tree breaks them."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Room:
    """`modules` are below `certbob`; a package's name stands for all in it.

    `rooms` is what they may import beside their own, `libraries` beside the standard library.
    """

    modules: frozenset[str]
    rooms: frozenset[str] = frozenset()
    libraries: frozenset[str] = frozenset()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _room(modules: str, rooms: str = "", libraries: str = "") -> Room:
    return Room(_names(modules), _names(rooms), _names(libraries))


CORE = (
    "errors identity profiles devices ports words secret strict_json tasks names tokens grants keys bundles"
    " lint audit pause ledger reconciliation issuance delivery revocation revocation_list calendar_entry"
    " reminders chat_links presented watch services"
)
# Of the standard library, what the core leaves to adapters and front doors.
OUTSIDE = _names("dbm ftplib http imaplib poplib smtplib socket socketserver sqlite3 ssl urllib")

ROOMS = {
    "core": _room(CORE, libraries="cryptography jwt"),
    "files": _room("private_files", "core"),
    "outgoing": _room("outgoing", libraries="httpx2"),
    # Adapters: each implements ports, and none knows another.
    "ca": _room("ca", "core files", "cryptography jwt httpx2"),
    "store": _room("store", "core", "cryptography aiosqlite"),
    "auth": _room("auth", "core outgoing", "cryptography authlib joserfc httpx2"),
    "chat": _room("chat", "core outgoing", "cryptography httpx2 jinja2"),
    "mail": _room("mail", "core", "aiosmtplib jinja2 truststore"),
    # Front doors.
    "web": _room("web", "core", "quart werkzeug jinja2 cryptography"),
    # The process.
    "logs": _room("logs"),
    "paths": _room("paths"),
    "signers": _room("signers", "core"),
    "config": _room("config reader grammars toml", "core", "msgspec cryptography"),
    "metrics": _room("metrics", "core", "prometheus_client"),
    "bootstrap": _room("bootstrap", "core files ca store auth chat mail config metrics signers paths"),
    "jobs": _room("jobs", "core"),
    "doctor": _room("doctor", "core config", "cryptography"),
    "snippets": _room("snippets", "paths", "jinja2"),
    "listener": _room("listener", "core", "hypercorn cryptography"),
    "server": _room("server", "core web config bootstrap jobs listener logs paths", "hypercorn cryptography"),
    "cli": _room(
        "cli", "core files auth chat config bootstrap jobs doctor server logs snippets", "click cryptography"
    ),
    "app": _room("app", "cli server web"),
}


def violations(root: Path) -> list[str]:
    """One line for each import that breaks a rule, each module without a room, each cycle."""
    modules = dict(_modules(root))
    imports = {name: set(_imports(name, path, modules)) for name, path in modules.items()}
    found = [
        problem
        for name in sorted(modules)
        for problem in _broken_rules(name, sorted(imports[name]), own=frozenset(modules))
    ]
    graph = {name: {target for target in targets if target in modules} for name, targets in imports.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a cycle: {' <- '.join(error.args[1])}")
    return found


def room_of(module: str) -> str | None:
    """None when it has none. `certbob` itself, which holds the version, is open to all."""
    top = module.split(".")[1] if module.startswith("certbob.") else module
    return next((name for name, room in ROOMS.items() if top in room.modules), None)


def _modules(root: Path) -> Iterator[tuple[str, Path]]:
    yield "app", root / "app.py"
    for path in (root / "certbob").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imports(module: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Whole names: modules of ours, else whatever stands there. Imports inside functions count, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package=path.name == "__init__.py")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in modules else base


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    above = module.split(".")
    kept = above[: len(above) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _broken_rules(module: str, imported: list[str], *, own: frozenset[str]) -> Iterator[str]:
    name = room_of(module)
    if name is None and module != "certbob":
        yield f"{module} is in no room"
        return
    room = ROOMS.get(name or "", Room(frozenset()))
    for target in imported:
        top = target.partition(".")[0]
        if target in own or top == "certbob":
            if target != "certbob" and room_of(target) not in {name, *room.rooms}:
                yield f"{module} imports {target}: no arrow from {name} to {room_of(target)}"
        elif top not in sys.stdlib_module_names | room.libraries or (name == "core" and _is_outside(target)):
            yield f"{module} imports {target}: not for {name}"


def _is_outside(library: str) -> bool:
    return library.partition(".")[0] in OUTSIDE and library != "urllib.parse"
