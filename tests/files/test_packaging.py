# SPDX-License-Identifier: Apache-2.0
"""pyproject.toml: what each install brings, and the facts that other files repeat."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

import flagtriton
from flagtriton_tools.tritonserver.options import free_ports
from tests.support.metadata import OWN, built_metadata, installed_modules, requirements
from tests.support.paths import ROOT

REPOSITORY = "https://github.com/flagtriton/flagtriton"
CLIENT = ROOT / "client" / "flagtriton"
OWN_PACKAGES = ("flagtriton", "flagtriton_server", "flagtriton_tools")

SDK = {"numpy>=1.24", "tenacity>=8.2", "tqdm>=4.60", "tritonclient[grpc,http]>=2.40"}
CLI = {"click>=8.1", "packaging>=22", "prometheus-client>=0.20", "protobuf>=3.20", "psutil>=5.9", "rich>=13"}
EXTRAS_WITH_A_COMMAND = {"bench", "cli", "dev", "embedded", "plan", "server"}

SDK_IMPORTS = {"flagtriton", "grpc", "numpy", "rapidjson", "tenacity", "tqdm", "tritonclient"}
"""The modules that the SDK may name; `grpc` and `rapidjson` come with tritonclient."""

OPTIONAL_IMPORTS = {"embedders/base.py": {"torch"}}
"""Modules that a caller's own arguments ask for, and that raise `MissingExtraError` where they are missing."""

LIMITED = """
import importlib, pkgutil, sys

allowed = {*sys.argv.pop(1).split(), *sys.stdlib_module_names}


class Limited:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return self.finder.find_spec(name, path, target) if name.partition(".")[0] in allowed else None


sys.meta_path[:] = [Limited(finder) for finder in sys.meta_path]
"""

USE_THE_SDK = """
for blocked in ("click", "rich", "torch", "flagtriton_server", "flagtriton_tools"):
    try:
        importlib.import_module(blocked)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{blocked} was not blocked")

import flagtriton

for name in flagtriton.__all__:
    getattr(flagtriton, name)
for module in pkgutil.walk_packages(flagtriton.__path__, "flagtriton."):
    importlib.import_module(module.name)
for url in sys.argv[1:]:
    try:
        flagtriton.FlagModel("absent", url=url, retry_s=0)
    except flagtriton.ServerUnavailableError:
        print(url)
"""

USE_THE_COMMAND = "from flagtriton_tools.__main__ import entry_point; entry_point()"


def named(extra: str = "") -> set[str]:
    """Return requirements as pyproject.toml has them, without the marker of their extra."""
    return {str(requirement).partition(";")[0] for requirement in requirements(extra)}


def run_with(modules: set[str], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code where only `modules` and the standard library can be imported."""
    command = [sys.executable, "-c", LIMITED + code, " ".join(sorted(modules)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run_time_imports(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that are imported outside `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        yield from run_time_imports(node)


def test_the_sdk_requires_four_packages() -> None:
    assert named() == SDK


def test_the_cli_extra_is_what_the_command_imports() -> None:
    assert named("cli") == CLI


def test_every_extra_with_a_command_includes_the_cli_extra() -> None:
    extras = built_metadata().provides_extra or []
    assert {extra for extra in extras if named(extra) >= CLI} == EXTRAS_WITH_A_COMMAND


@pytest.mark.parametrize("extra", ["server", "plots", "peft", "plan"])
def test_the_sdk_alone_brings_nothing_of_another_extra(extra: str) -> None:
    names = {requirement.name for requirement in requirements(extra)} - {"protobuf", "packaging"}
    assert not {name.replace("-", "_") for name in names} & installed_modules(requirements())


def test_the_sdk_s_source_names_no_module_outside_its_requirements() -> None:
    strangers = {}
    for file in CLIENT.rglob("*.py"):
        name = str(file.relative_to(CLIENT))
        tops = {module.partition(".")[0] for module in run_time_imports(ast.parse(file.read_text()))}
        unknown = tops - SDK_IMPORTS - sys.stdlib_module_names - OPTIONAL_IMPORTS.get(name, set())
        if unknown:
            strangers[name] = unknown
    assert strangers == {}


def test_the_sdk_works_with_its_requirements_alone_over_both_protocols() -> None:
    port = free_ports(1)[0]
    urls = [f"grpc://127.0.0.1:{port}", f"http://127.0.0.1:{port}"]
    ran = run_with({OWN, *installed_modules(requirements())}, USE_THE_SDK, *urls)
    assert (ran.returncode, ran.stdout.split()) == (0, urls), ran.stderr


def test_the_sdk_does_not_work_without_one_of_them() -> None:
    ran = run_with({OWN, *installed_modules(requirements())} - {"tritonclient"}, USE_THE_SDK)
    assert ran.returncode == 1
    assert "No module named 'tritonclient'" in ran.stderr


def test_the_command_works_with_the_cli_extra_alone() -> None:
    installed = {*OWN_PACKAGES, *installed_modules([*requirements(), *requirements("cli")])}
    ran = run_with(installed, USE_THE_COMMAND, "list", "--json", "--repository", str(ROOT / "model_repository"))
    assert ran.returncode == 0, ran.stderr
    assert '"bge-m3"' in ran.stdout


def test_the_command_without_the_cli_extra_says_what_to_install() -> None:
    ran = run_with({*OWN_PACKAGES, *installed_modules(requirements())}, USE_THE_COMMAND, "--help")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == ["flagtriton: the command needs click: pip install 'flagtriton[cli]'"]


def test_the_version_is_written_once_in_python_and_repeated_where_it_must_be() -> None:
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    assert str(built_metadata().version) == flagtriton.__version__
    chart = yaml.safe_load((ROOT / "docker" / "helm" / OWN / "Chart.yaml").read_text())
    assert chart["appVersion"] == flagtriton.__version__
    image = re.findall(r"/flagtriton:(\d[^\s]*)", (ROOT / "docs" / "kubernetes.md").read_text())
    assert set(image) == {flagtriton.__version__}


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(\d[^]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == flagtriton.__version__


def test_the_urls_are_the_repository_s() -> None:
    urls = built_metadata().project_urls or {}
    assert set(urls) == {"Homepage", "Documentation", "Repository", "Changelog", "Issues"}
    assert all(url == REPOSITORY or url.startswith(f"{REPOSITORY}/") for url in urls.values())


def test_the_urls_of_files_name_files() -> None:
    for url in (built_metadata().project_urls or {}).values():
        if found := re.fullmatch(rf"{REPOSITORY}/(?:tree|blob)/main/(.+)", url):
            assert (ROOT / found[1]).exists()


def test_the_classifiers_are_the_pythons_that_are_allowed() -> None:
    metadata = built_metadata()
    listed = re.findall(r"Python :: (3\.\d+)", " ".join(metadata.classifiers or ()))
    assert metadata.requires_python is not None
    assert listed == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in metadata.requires_python]
