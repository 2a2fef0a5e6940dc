# SPDX-License-Identifier: Apache-2.0
"""`__all__` of every module is exactly what other modules and tests import from it, by reading the sources."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = {"flagtriton": "client", "flagtriton_server": "server", "flagtriton_tools": "tools"}
IMPORTERS = ("client", "server", "tools", "tests", "docker", "docs", "model_repository")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path, ROOT / folder): path
    for package, folder in PACKAGES.items()
    for path in sorted((ROOT / folder / package).rglob("*.py"))
}
MODULES = [name for name, path in SOURCES.items() if path.name != "__init__.py"]

PUBLIC = {"flagtriton.types", "flagtriton_tools.__main__", "flagtriton_tools.cli.container"} | {
    name for name in MODULES if name.startswith(("flagtriton.integrations.", "flagtriton_server.steps."))
}
"""Modules whose names are imported from outside of the repository: by users, models' files and scripts."""


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def declared_names(name: str) -> list[str] | None:
    """Return a module's `__all__`, None where it has none."""
    for node in tree_of(SOURCES[name]).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if target is not None and ast.unparse(target) == "__all__":
            names: list[str] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
            return names
    return None


@functools.cache
def imported_names() -> dict[str, set[str]]:
    """Return the public names that other files of the repository import, or read of a module, by module."""
    found: dict[str, set[str]] = {name: set() for name in MODULES}
    for folder in IMPORTERS:
        for path in (ROOT / folder).rglob("*.py"):
            aliases: dict[str, str] = {}
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.ImportFrom) and node.module is not None:
                    for alias in node.names:
                        found.get(node.module, set()).add(alias.name)
                        aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    found.get(aliases.get(node.value.id, ""), set()).add(node.attr)
    return {name: {each for each in names if not each.startswith("_")} for name, names in found.items()}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_declares_its_names(name: str) -> None:
    assert declared_names(name) is not None


@pytest.mark.parametrize("name", [name for name in MODULES if name not in PUBLIC])
def test_every_declared_name_is_imported_somewhere(name: str) -> None:
    assert sorted(set(declared_names(name) or ()) - imported_names()[name]) == []


@pytest.mark.parametrize("name", MODULES)
def test_every_imported_name_is_declared(name: str) -> None:
    defined = {
        getattr(node, "name", None) or ast.unparse(getattr(node, "target", None) or node.targets[0])  # type: ignore[attr-defined]
        for node in tree_of(SOURCES[name]).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign))
    }
    assert sorted((imported_names()[name] & defined) - set(declared_names(name) or ())) == []


@pytest.mark.parametrize("package", [name for name, path in SOURCES.items() if path.name == "__init__.py"])
def test_a_packages_init_has_no_logic(package: str) -> None:
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    assert [type(node).__name__ for node in tree_of(SOURCES[package]).body if not isinstance(node, allowed)] == []
