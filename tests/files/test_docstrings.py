# SPDX-License-Identifier: Apache-2.0
"""Docstrings name the arguments and attributes that there are; that none is missing, ruff's D417 checks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FILES = [path for folder in ("client", "server", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
ENTRY = re.compile(r"^ {4}(\*{0,2}\w+):", re.MULTILINE)


def section(docstring: str, title: str) -> list[str]:
    """Return the names that a section of a docstring explains."""
    found = re.search(rf"^{title}:\n((?: {{4}}.*\n|\n)+)", f"{docstring}\n", re.MULTILINE)
    return [] if found is None else [name.lstrip("*") for name in ENTRY.findall(found[1])]


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    return {argument.arg for argument in every if argument is not None}


def fields(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> set[str]:
    """Return the names of a class's fields, properties and attributes, and of its bases' in the same file."""
    own = {ast.unparse(each.target) for each in node.body if isinstance(each, ast.AnnAssign)}
    own |= {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and ast.unparse(each.value) == "self":
            own.add(each.attr)
    bases = [classes[name] for base in node.bases if (name := ast.unparse(base)) in classes]
    return own.union(*(fields(base, classes) for base in bases))


def unknown_names(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        docstring = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            made = next((each for each in node.body if getattr(each, "name", "") == "__init__"), None)
            known = arguments(made) if isinstance(made, ast.FunctionDef) else fields(node, classes)
            outside = any(ast.unparse(base) not in classes for base in node.bases)
            named = {"Args": known, "Attributes": fields(node, classes)}
            if outside and not isinstance(made, ast.FunctionDef):
                continue  # its bases' arguments are elsewhere
        else:
            named = {"Args": arguments(node)}
        for title, there in named.items():
            yield from (f"{node.name}: {name}" for name in section(docstring, title) if name not in there)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_name_no_argument_that_there_is_not(path: Path) -> None:
    assert list(unknown_names(path)) == []
