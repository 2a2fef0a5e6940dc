# SPDX-License-Identifier: Apache-2.0
"""What importing the package costs, and what its modules declare."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import flagtriton

FOUND = pkgutil.walk_packages(flagtriton.__path__, "flagtriton.")
MODULES = ["flagtriton", *(module.name for module in FOUND if not module.ispkg)]
HEAVY = {"gevent", "grpc", "tenacity", "torch", "tqdm", "transformers", "tritonclient"}
LONGEST_IMPORT_S = 0.3

IMPORT = """
import json, sys, time
start = time.perf_counter()
import flagtriton
print(json.dumps({"seconds": time.perf_counter() - start, "modules": list(sys.modules)}))
"""


def imported() -> tuple[float, set[str]]:
    """Return the seconds that `import flagtriton` took in a new process, and the modules loaded after it."""
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    return report["seconds"], set(report["modules"])


def isort_order(name: str) -> tuple[int, str]:
    """Return ruff's order of `__all__` (RUF022): CONSTANTS, then Classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_importing_the_package_loads_nothing_heavy() -> None:
    _, modules = imported()
    assert not modules & HEAVY


@pytest.mark.alone
def test_importing_the_package_takes_a_moment() -> None:
    assert min(imported()[0] for _ in range(3)) < LONGEST_IMPORT_S


@pytest.mark.parametrize("name", MODULES)
def test_every_module_declares_its_names_in_order(name: str) -> None:
    names = importlib.import_module(name).__all__
    assert names == sorted(names, key=isort_order)


@pytest.mark.parametrize("name", MODULES)
def test_every_declared_name_exists(name: str) -> None:
    module = importlib.import_module(name)
    assert [declared for declared in module.__all__ if not hasattr(module, declared)] == []


@pytest.mark.parametrize("name", MODULES)
def test_no_name_is_declared_twice(name: str) -> None:
    names = importlib.import_module(name).__all__
    assert len(names) == len(set(names))


# Imports, by reading the sources; `make lint` checks the layers.


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> list[tuple[str, str]]:
    """Return the module and the name of every `from flagtriton… import …` in a file."""
    return [
        (node.module, alias.name)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "flagtriton"
        for alias in node.names
    ]


def path_of(name: str) -> Path:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    return Path(module.__file__)


def test_no_modules_import_each_other() -> None:
    graph = {
        name: {f"{m}.{n}" if m == "flagtriton" else m for m, n in imports_of(path_of(name))}
        for name in MODULES
        if name != "flagtriton"
    }
    assert list(TopologicalSorter(graph).static_order())
