# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_tools.tritonserver.embedded`: which server is run, and what the embedded one is given."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver.embedded import Tritonserver, find_tritonserver
from tests.support.folders import executable

STUB = "triton_python_backend_stub"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SHARED_LIBRARY = f"libpython{PYTHON}.so.1.0"


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the servers of the machine that the tests run on."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    without_wheel(monkeypatch)


def without_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a made-up nvidia-pytriton that this made-up interpreter can run."""
    package = tmp_path / "site-packages" / "pytriton"
    server = package / "tritonserver"
    executable(server / "bin" / "tritonserver", "#!/bin/sh\n")
    executable(server / "python_backend_stubs" / PYTHON / STUB, "#!/bin/sh\n")
    (server / "backends" / "python").mkdir(parents=True)
    (server / "backends" / "python" / "libtriton_python.so").touch()
    spec = importlib.machinery.ModuleSpec("pytriton", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    installed(monkeypatch, numpy="1.26.4")
    library = tmp_path / "python" / "lib" / SHARED_LIBRARY
    library.parent.mkdir(parents=True)
    library.touch()
    built_with(monkeypatch, INSTSONAME=SHARED_LIBRARY, LIBDIR=str(library.parent))
    return package


def installed(monkeypatch: pytest.MonkeyPatch, numpy: str) -> None:
    versions = {"numpy": numpy, "nvidia-pytriton": "0.7.0"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)


def built_with(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", variables.get)


def server_on_path(tmp_path: Path) -> Path:
    return executable(tmp_path / "bin" / "tritonserver", "#!/bin/sh\n")


def work_folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.usefixtures("wheel")
def test_the_server_that_was_asked_for_comes_first(tmp_path: Path) -> None:
    server_on_path(tmp_path)
    asked = executable(tmp_path / "mine", "#!/bin/sh\n")
    found = find_tritonserver(str(asked), tmp_path)
    assert (found.binary, found.origin) == (asked, "--tritonserver")


@pytest.mark.usefixtures("wheel")
def test_the_server_on_the_path_comes_second(tmp_path: Path) -> None:
    on_path = server_on_path(tmp_path)
    found = find_tritonserver(None, tmp_path)
    assert (found.binary, found.origin) == (on_path, "PATH")


def test_the_embedded_server_comes_last(wheel: Path, tmp_path: Path) -> None:
    found = find_tritonserver(None, work_folder(tmp_path))
    assert found.binary == wheel / "tritonserver" / "bin" / "tritonserver"
    assert found.origin == "embedded in nvidia-pytriton 0.7.0 (2.51.0)"


def test_no_server_at_all_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"none on PATH and none embedded; .*pip install 'flagtriton\[embedded\]'"):
        find_tritonserver(None, tmp_path)


@pytest.mark.usefixtures("wheel")
def test_a_server_that_was_asked_for_is_never_replaced_by_another(tmp_path: Path) -> None:
    server_on_path(tmp_path)
    with pytest.raises(ToolError, match=r"--tritonserver is .*gone, which is no executable file"):
        find_tritonserver(str(tmp_path / "gone"), tmp_path)


def test_a_file_that_cannot_be_run_is_no_server(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a program", encoding="utf-8")
    with pytest.raises(ToolError, match="which is no executable file"):
        find_tritonserver(str(tmp_path / "text"), tmp_path)


def test_a_server_may_be_asked_for_by_its_name_on_the_path(tmp_path: Path) -> None:
    mine = executable(tmp_path / "bin" / "my-triton", "#!/bin/sh\n")
    assert find_tritonserver("my-triton", tmp_path).binary == mine


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The server is started from another folder, where the relative path leads nowhere.
    mine = executable(tmp_path / "mine", "#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)
    assert find_tritonserver("./mine", tmp_path).binary == mine


def found_in_each_way(tmp_path: Path) -> list[Tritonserver]:
    embedded = find_tritonserver(None, work_folder(tmp_path))
    asked = find_tritonserver(str(executable(tmp_path / "mine", "#!/bin/sh\n")), tmp_path)
    server_on_path(tmp_path)
    return [asked, find_tritonserver(None, tmp_path), embedded]


@pytest.mark.usefixtures("wheel")
def test_every_server_finds_this_interpreter_first(tmp_path: Path) -> None:
    expected = os.pathsep.join([str(Path(sys.executable).parent), str(tmp_path / "bin")])
    assert [found.environment["PATH"] for found in found_in_each_way(tmp_path)] == [expected] * 3


@pytest.mark.usefixtures("wheel")
def test_only_the_embedded_server_gets_folders_of_its_own(tmp_path: Path) -> None:
    asked, on_path, embedded = found_in_each_way(tmp_path)
    assert asked.arguments == on_path.arguments == ()
    assert [argument.partition("=")[0] for argument in embedded.arguments] == [
        "--backend-directory",
        "--cache-directory",
    ]


def test_the_embedded_servers_backend_has_the_stub_of_this_python(wheel: Path, tmp_path: Path) -> None:
    found = find_tritonserver(None, work_folder(tmp_path))
    backend = Path(found.arguments[0].partition("=")[2]) / "python"
    assert (backend / STUB).resolve() == wheel / "tritonserver" / "python_backend_stubs" / PYTHON / STUB
    assert (backend / "libtriton_python.so").exists()


def test_the_embedded_server_finds_its_own_libraries_and_this_interpreters(wheel: Path, tmp_path: Path) -> None:
    found = find_tritonserver(None, work_folder(tmp_path))
    assert found.environment["LD_LIBRARY_PATH"].split(os.pathsep) == [
        str(wheel.parent / "nvidia_pytriton.libs"),
        str(tmp_path / "python" / "lib"),
    ]


@pytest.mark.usefixtures("wheel")
def test_the_users_own_library_path_stays_behind_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/theirs")
    found = find_tritonserver(None, work_folder(tmp_path))
    assert found.environment["LD_LIBRARY_PATH"].split(os.pathsep)[2:] == ["/opt/theirs"]


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("version", ["2.0.0", "2.3.1", "10.0"])
def test_the_embedded_server_refuses_numpy_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    installed(monkeypatch, numpy=version)
    with pytest.raises(ToolError, match=rf"NumPy is {version}.*pip install 'numpy<2'"):
        find_tritonserver(None, tmp_path)


@pytest.mark.usefixtures("wheel")
def test_another_server_runs_with_numpy_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, numpy="2.3.1")
    on_path = server_on_path(tmp_path)
    assert find_tritonserver(None, tmp_path).binary == on_path


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize(
    "variables",
    [
        {"INSTSONAME": f"libpython{PYTHON}.a", "LIBDIR": "lib"},  # built without --enable-shared
        {"INSTSONAME": SHARED_LIBRARY, "LIBDIR": "gone"},  # Debian's, without its libpython package
        {},
    ],
)
def test_an_interpreter_without_a_shared_library_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / f"libpython{PYTHON}.a").touch()
    monkeypatch.chdir(tmp_path)
    built_with(monkeypatch, **variables)
    with pytest.raises(ToolError, match=r"no shared libpython.*apt-get install libpython.*--enable-shared"):
        find_tritonserver(None, tmp_path)


@pytest.mark.usefixtures("wheel")
def test_the_shared_library_may_be_in_the_architectures_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "usr" / "x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (folder / SHARED_LIBRARY).touch()
    variables: dict[str, Any] = {"LIBDIR": str(tmp_path / "usr"), "MULTIARCH": "x86_64-linux-gnu"}
    built_with(monkeypatch, INSTSONAME=SHARED_LIBRARY, **variables)
    found = find_tritonserver(None, work_folder(tmp_path))
    assert found.environment["LD_LIBRARY_PATH"].split(os.pathsep)[1] == str(folder)


def test_a_python_that_the_wheel_has_no_stub_for_is_refused(wheel: Path, tmp_path: Path) -> None:
    (wheel / "tritonserver" / "python_backend_stubs" / PYTHON / STUB).unlink()
    with pytest.raises(ToolError, match=rf"no stub for Python {PYTHON}"):
        find_tritonserver(None, work_folder(tmp_path))
