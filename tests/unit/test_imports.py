"""The allowed directions of import, and where the models' engines may be imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "shared": {"shared"},
    "agents": {"agents", "shared"},
    "broker": {"broker", "shared"},
    "gateway": {"gateway", "shared", "broker.submission", "broker.search"},
}
ENGINES = {"torch", "torchvision", "transformers", "open_clip", "xgrammar", "vllm"}
ENGINE_ROOMS = (Path("agents/backends"), Path("agents/training"))


def sources() -> list[Path]:
    return sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Full names of what a file imports, anywhere in it: `from a.b import c` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            module = node.module or ""
            # "from broker import submission" imports broker.submission
            yield from (
                (f"{module}.{alias.name}" for alias in node.names)
                if module in ALLOWED
                else (module,)
            )


def is_within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(f"{allowed}.")


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for module in imported_modules(path):
            if module.split(".")[0] in ALLOWED:
                assert any(is_within(module, allowed) for allowed in ALLOWED[package]), (
                    f"{path.relative_to(ROOT)} imports {module}"
                )


def test_engines_are_imported_only_where_models_live() -> None:
    for path in sources():
        relative = path.relative_to(ROOT)
        if not any(relative.is_relative_to(room) for room in ENGINE_ROOMS):
            found = {module.split(".")[0] for module in imported_modules(path)} & ENGINES
            assert not found, f"{relative} imports {', '.join(found)}"


def test_nothing_unpickles_or_evaluates() -> None:
    forbidden = {"pickle", "cPickle", "dill", "shelve", "marshal"}
    for path in sources():
        relative = path.relative_to(ROOT)
        assert not {module.split(".")[0] for module in imported_modules(path)} & forbidden, relative
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{relative} calls {node.func.id}"
