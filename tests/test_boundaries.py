"""Data flows one way between the rooms: each import statement is read and checked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("muster", "server", "rankcore", "training", "drills", "benchmarks", "examples")

# room -> what it may import besides itself; a dotted name allows that package and what is below it.
ALLOWED: dict[str, tuple[str, ...]] = {
    "muster": (),
    "rankcore": (),
    "server": ("muster", "rankcore"),
    "training": ("muster.bundle", "muster.durations", "muster.products", "muster.v1", "rankcore"),
    "drills": (
        "muster.privacy",
        "muster.autoscale",
        "muster.bundle",
        "muster.client",
        "muster.durations",
        "muster.products",
        "muster.v1",
    ),
    # What a build and a search cost inside a process is seen only there: benchmarks measure the parts as
    # well. training: the student that all compared servers share is made by the project's own pipeline.
    "benchmarks": (
        "muster.bundle",
        "muster.client",
        "muster.products",
        "muster.v1",
        "drills",
        "rankcore",
        "server.catalogue.log",
        "server.catalogue.retention",
        "server.catalogue.opening",
        "server.catalogue.store",
        "server.generation",
        "server.standby.lease",
        "training",
    ),
    "examples": ("muster.client", "muster.v1"),
}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) of each absolute import; `from a import b` yields `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def broken_arrows(room: str, path: Path, source: str) -> list[str]:
    """Imports of `source` that point from `room` to a room it may not know."""
    broken = []
    for line, module in imports(source):
        target = module.split(".")[0]
        if target == room or target not in ROOMS:
            continue
        if not any(module == allowed or module.startswith(allowed + ".") for allowed in ALLOWED[room]):
            broken.append(f"{path}:{line}: {room} -> {module}")
    return broken


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_against_the_flow(room: str) -> None:
    broken = []
    for path in sorted((ROOT / room).rglob("*.py")):
        relative = path.relative_to(ROOT)
        if relative.parts[:2] != ("muster", "v1"):
            broken += broken_arrows(room, relative, path.read_text(encoding="utf-8"))
    assert not broken, "\n".join(broken)


def test_the_package_muster_is_empty_so_a_drill_needs_no_compiler() -> None:
    assert (ROOT / "muster" / "__init__.py").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("name", ["utils", "common", "helpers"])
def test_no_module_is_named_for_leftovers(name: str) -> None:
    found = [
        path for room in ROOMS for path in (ROOT / room).rglob(f"{name}*") if "__pycache__" not in path.parts
    ]
    assert not found


def test_a_planted_wrong_import_is_found() -> None:
    assert broken_arrows("drills", Path("drills/x.py"), "from server.app import serve\n") == [
        "drills/x.py:1: drills -> server.app.serve"
    ]
    allowed = "import rankcore\nfrom muster.v1 import admin_pb2\n"
    assert broken_arrows("server", Path("server/x.py"), allowed) == []
