"""The rooms of the package: each imports from the floors below it, in no circle, and no private part of another.

Imports inside functions and for type checkers count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import i2moe

PACKAGE = Path(i2moe.__path__[0])
FLOORS: tuple[set[str], ...] = (
    {"_common"},
    {"losses", "perturbations", "missing", "categorization", "pid"},
    {"moe"},
    {"backbones", "interpretation", "mmoe"},
    {"training"},
    {"estimators"},
    {"__init__", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def imports_of(path: Path) -> Iterator[str]:
    """Name the modules of the package that a file imports, and those whose names it takes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (module if module in MODULES else node.module for module in submodules)


def loaded_by(module: str) -> set[str]:
    """Return what a module imports, with the packages that Python enters on the way to it."""
    on_the_way = {parent for imported in imports_of(MODULES[module]) for parent in packages_of(imported)}
    return on_the_way - {module, *packages_of(module)}


def packages_of(module: str) -> list[str]:
    """Return a module and the packages around it, without the whole."""
    parts = module.split(".")
    return [".".join(parts[:depth]) for depth in range(2, len(parts) + 1)]


GRAPH = {module: loaded_by(module) for module in MODULES}
ARROWS = [(module, imported) for module, imports in GRAPH.items() for imported in sorted(imports)]


def room_of(module: str) -> str:
    return f"{module}.__init__".split(".")[1]


def test_every_room_has_a_floor() -> None:
    assert {room_of(module) for module in MODULES} == set(FLOOR)


def test_a_folder_has_few_entries() -> None:
    for folder in (PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__")):
        entries = {path.name for path in folder.iterdir()} - {"__init__.py", "__main__.py", "__pycache__", "py.typed"}
        assert len(entries) <= (12 if folder == PACKAGE else 9), f"{folder.name} has {len(entries)} entries"


def test_imports_form_no_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


def test_no_import_runs_up_a_floor() -> None:
    up = [f"{a} -> {b}" for a, b in ARROWS if FLOOR[room_of(a)] < FLOOR[room_of(b)]]
    beside = [f"{a} -> {b}" for a, b in ARROWS if FLOOR[room_of(a)] == FLOOR[room_of(b)] and room_of(a) != room_of(b)]
    assert not up
    assert not beside


def test_private_modules_stay_in_their_room() -> None:
    """`_common` is every room's."""
    for module, imported in ARROWS:
        parts = imported.split(".")
        for depth in (i for i, part in enumerate(parts) if part.startswith("_") and i > 1):
            owner = ".".join(parts[:depth])
            assert module == owner or module.startswith(f"{owner}."), f"{module} imports {imported}"
