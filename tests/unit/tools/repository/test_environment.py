# SPDX-License-Identifier: Apache-2.0
"""`repository.environment` and `flagtriton pack-env`: an environment in one file, which runs anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.cli.main import main
from flagtriton_tools.deploy.build import build
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository import environment as execution_env
from flagtriton_tools.repository.environment import Members, environment_members, write_environment
from tests.support.folders import facts

SITE_PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
LIGHT = ("torch", "accelerate", "transformers")
"""What makes an environment heavy, and these tests slow."""


@pytest.fixture(scope="module")
def members() -> Members:
    return environment_members(without=LIGHT)


@pytest.fixture(scope="module")
def unpacked(members: Members, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("env")
    write_environment(members, folder / "env.tar.gz", compression=1)
    with tarfile.open(folder / "env.tar.gz") as archive:
        archive.extractall(folder / "somewhere", filter="fully_trusted")
    return folder / "somewhere"


def packages(members: Members) -> set[str]:
    return {name.split("/")[3] for name in members}


def activated(environment: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run something as Triton starts a step, with nothing of this environment's on the path."""
    command = f"source {environment}/bin/activate && exec python3 -c '{code}'"
    return subprocess.run(
        ["bash", "-c", command], env={"PATH": os.defpath}, capture_output=True, text=True, check=False
    )


def test_the_steps_and_the_contract_are_in_and_the_command_is_not(members: Members) -> None:
    assert {"flagtriton", "flagtriton_server", "numpy", "tokenizers"} <= packages(members)
    assert not packages(members) & {"flagtriton_tools", "pytest", "FlagEmbedding", "pytriton"}
    assert f"{SITE_PACKAGES}/flagtriton_server/steps/encoder.py" in members


def test_what_is_left_out_is_left_out_with_what_only_it_needs(members: Members) -> None:
    whole = packages(environment_members())
    assert {"torch", "transformers", "sympy"} <= whole
    assert not packages(members) & {"torch", "transformers", "sympy"}


def test_no_bytecode_and_no_programs_are_in(members: Members) -> None:
    assert not [name for name in members if name.endswith(".pyc") or "/bin/" in name]


def test_unpacked_anywhere_it_is_an_environment_of_its_own(unpacked: Path) -> None:
    code = "import sys, numpy, flagtriton.protocol.settings as s; print(sys.prefix, numpy.__file__, s.__file__)"
    ran = activated(unpacked, code)
    assert ran.returncode == 0, ran.stderr
    prefix, *files = ran.stdout.split()
    assert prefix == str(unpacked)
    assert all(file.startswith(f"{unpacked}/{SITE_PACKAGES}/") for file in files)


def test_packages_of_the_machine_are_found_only_if_wanted(members: Members, tmp_path: Path) -> None:
    for system_packages in (False, True):
        target = tmp_path / f"{system_packages}.tar.gz"
        write_environment({}, target, system_packages=system_packages)
        with tarfile.open(target) as archive:
            config = archive.extractfile("pyvenv.cfg")
            assert config is not None
            assert f"include-system-site-packages = {str(system_packages).lower()}" in config.read().decode()


def test_where_its_interpreter_is_not_there_it_says_which(tmp_path: Path) -> None:
    write_environment({}, tmp_path / "env.tar.gz", interpreter=Path("/nowhere/python3.99"))
    with tarfile.open(tmp_path / "env.tar.gz") as archive:
        archive.extractall(tmp_path / "env", filter="fully_trusted")
    ran = activated(tmp_path / "env", "print(1)")
    assert ran.returncode == 1
    assert "this environment needs /nowhere/python3.99, which is not here; pack one where the server" in ran.stderr


def test_the_file_is_the_same_for_the_same_packages_by_order_owner_and_time(members: Members, tmp_path: Path) -> None:
    few = dict(list(members.items())[:5])
    write_environment(few, tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == ["pyvenv.cfg", "bin/activate", "bin/python3", *few]
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries} == {(0, 0, 0)}


def test_another_name_is_refused_as_triton_would_not_unpack_it(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"env.zip must end in .tar.gz"):
        write_environment({}, tmp_path / "env.zip")


def test_nothing_is_left_of_a_file_that_could_not_be_written(members: Members, tmp_path: Path) -> None:
    name, source = next(iter(members.items()))
    with pytest.raises(ToolError, match="cannot write"):
        write_environment({name: source, "gone": tmp_path / "gone"}, tmp_path / "env.tar.gz")
    assert not list(tmp_path.iterdir())


class Package:
    """An installed package as `importlib.metadata` tells of it."""

    name = "linked"
    requires: tuple[str, ...] = ()
    files: tuple[Any, ...] | None = ()

    def read_text(self, name: str) -> str:
        return '{"url": "file:///sources", "dir_info": {"editable": true}}'


def test_a_package_that_is_a_link_to_its_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_env, "distribution", lambda name: Package())
    with pytest.raises(ToolError, match="linked is installed as a link to its sources; install it whole"):
        environment_members()


def test_what_is_not_installed_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = execution_env.distribution

    def lacking(name: str) -> Any:
        if name == "tokenizers":
            raise execution_env.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(execution_env, "distribution", lacking)
    with pytest.raises(ToolError, match=r"tokenizers is not installed here: pip install 'flagtriton\[server\]' first"):
        environment_members()


def test_the_command_tells_how_much_is_in_it_and_what_to_do_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "env.tar.gz"
    without = [part for name in LIGHT for part in ("--without", name)]
    assert main(["pack-env", str(target), *without, "--compression", "1"]) == 0
    packed, hint = capsys.readouterr().err.strip().splitlines()[-2:]
    assert packed.startswith("packed ")
    assert packed.endswith(f"into {target}: {target.stat().st_size / 1e6:.0f} MB")
    assert "--execution-env" in hint


@pytest.mark.parametrize("path", ["/opt/env.tar.gz", "$$TRITON_MODEL_DIRECTORY/env.tar.gz"])
def test_every_step_is_told_its_environment_and_the_ensemble_none(path: str) -> None:
    ensemble, *steps = build(facts(), AddOptions(name="tiny", execution_env=path))
    assert {step.config.parameters["EXECUTION_ENV_PATH"].string_value for step in steps} == {path}
    assert "EXECUTION_ENV_PATH" not in ensemble.config.parameters


@pytest.mark.parametrize("path", ["", "env.tar.gz", "s3://bucket/env.tar.gz"])
def test_a_path_that_would_mean_another_place_on_the_server_is_refused(path: str) -> None:
    with pytest.raises(ToolError, match=r"--execution-env is .*an absolute path, or one that begins with \$\$TRITON"):
        build(facts(), AddOptions(name="tiny", execution_env=path))
