# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.__main__`: the command where packages of the `cli` extra are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flagtriton_tools.__main__ as command
from tests.support.metadata import installed_modules, requirements

CLI_MODULES = sorted(command._CLI_MODULES)


def run_without(module: str) -> subprocess.CompletedProcess[str]:
    """Run `flagtriton --help` in a process in which one module cannot be imported."""
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['flagtriton', '--help']\n"
        "from flagtriton_tools.__main__ import entry_point; entry_point()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", CLI_MODULES)
def test_a_missing_package_of_the_cli_extra_gives_one_line_and_exit_code_2(module: str) -> None:
    ran = run_without(module)
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [f"flagtriton: the command needs {module}: pip install 'flagtriton[cli]'"]
    assert ran.stdout == ""


def test_another_missing_module_keeps_its_traceback() -> None:
    ran = run_without("tritonclient")
    assert ran.returncode == 1
    assert "ModuleNotFoundError" in ran.stderr
    assert "flagtriton[cli]" not in ran.stderr


def test_with_the_extra_the_command_prints_its_help() -> None:
    ran = run_without("no_such_module")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Usage: flagtriton ")


def test_the_modules_are_those_that_the_extra_adds_to_the_sdk() -> None:
    cli = {requirement.name.replace("-", "_") for requirement in requirements("cli")}
    assert set(CLI_MODULES) == cli & (installed_modules(requirements("cli")) - installed_modules(requirements()))
