# SPDX-License-Identifier: Apache-2.0
"""Finds `tritonserver`, and sets up the one inside the nvidia-pytriton wheel.

The wheel's server expects its Python stub, its libraries and the Python interpreter in fixed places. The functions here
provide them there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flagtriton_tools.deploy.stub_paths import plain_path
from flagtriton_tools.errors import ToolError

__all__ = ["Tritonserver", "check_numpy", "find_tritonserver"]

_EMBEDDED_VERSION = "2.51.0"
_FIRST_WITH_NUMPY_2 = (2, 52)
"""Triton's version in release 24.11. Python stubs of earlier releases lose text and outputs with NumPy 2."""


@dataclass(frozen=True)
class Tritonserver:
    """A server binary and its start options.

    Attributes:
        origin: place where it was found, for messages.
        arguments: arguments before all others.
        environment: variables on top of the caller's environment.
    """

    binary: Path
    origin: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def find_tritonserver(asked: str | None, work_folder: Path) -> Tritonserver:
    """Return the server at `asked`, else the one on `PATH`, else the embedded one.

    Args:
        asked: value of `--tritonserver`.
        work_folder: folder in which the backend folder of the embedded server is created.

    Raises:
        ToolError: there is none of the three, `asked` is not executable, or the embedded one cannot run with this
            interpreter.
    """
    path = {"PATH": _path_with_this_python()}
    if asked is not None:
        binary = shutil.which(asked)
        if binary is None:
            raise ToolError(f"--tritonserver is {asked}, which is no executable file")
        return Tritonserver(Path(binary).absolute(), "--tritonserver", environment=path)
    binary = shutil.which("tritonserver")
    if binary is not None:
        return Tritonserver(Path(binary).absolute(), "PATH", environment=path)
    wheel = importlib.util.find_spec("pytriton")
    if wheel is None or not wheel.submodule_search_locations:
        raise ToolError(
            "no tritonserver: none on PATH and none embedded; run inside an NGC Triton image, "
            "or: pip install 'flagtriton[embedded]'"
        )
    return _embedded(Path(wheel.submodule_search_locations[0]), work_folder, path)


def check_numpy(numpy_version: str, triton_version: str) -> None:
    """Refuse a pair of versions that would crash on text and return empty tensors without an error.

    Raises:
        ToolError: NumPy 2 with a Triton before release 24.11.
    """
    triton = tuple(int(part) for part in triton_version.split(".")[:2] if part.isdecimal())
    if int(numpy_version.partition(".")[0]) >= 2 and triton < _FIRST_WITH_NUMPY_2:
        raise ToolError(
            f"NumPy is {numpy_version}, but Triton {triton_version} crashes on text with NumPy 2: "
            "pip install 'numpy<2', or use a Triton of release 24.11 or later"
        )


def _embedded(package: Path, work_folder: Path, path: dict[str, str]) -> Tritonserver:
    check_numpy(importlib.metadata.version("numpy"), _EMBEDDED_VERSION)
    libpython = _shared_libpython()
    server = package / "tritonserver"
    libraries = [  # a shell reads these, too, if a model has an EXECUTION_ENV_PATH
        str(plain_path(package.parent / "nvidia_pytriton.libs", work_folder / "libraries-of-triton")),
        str(plain_path(libpython.parent, work_folder / "libraries-of-python")),
        os.environ.get("LD_LIBRARY_PATH"),
    ]
    return Tritonserver(
        server / "bin" / "tritonserver",
        f"embedded in nvidia-pytriton {importlib.metadata.version('nvidia-pytriton')} ({_EMBEDDED_VERSION})",
        (
            f"--backend-directory={_backend_folder(server, work_folder)}",
            f"--cache-directory={server / 'caches'}",
        ),
        {**path, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))},
    )


def _backend_folder(server: Path, work_folder: Path) -> Path:
    """Create a backend folder that has the stub for this Python where the server expects it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise ToolError(f"the embedded Triton has no stub for Python {version}; use Python 3.10, 3.11 or 3.12")
    python_backend = work_folder / "backends" / "python"
    python_backend.mkdir(parents=True)
    for file in (server / "backends" / "python").iterdir():
        if file.is_file():
            (python_backend / file.name).symlink_to(file)
    (python_backend / stub.name).symlink_to(stub)
    return python_backend.parent


def _path_with_this_python() -> str:
    """Return a `PATH` on which the stub finds this interpreter first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _shared_libpython() -> Path:
    """Return the shared library of the interpreter."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folders = [sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("LIBPL") or ""]
    folders.append(str(Path(folders[0]) / (sysconfig.get_config_var("MULTIARCH") or "")))
    for folder in folders:
        library = Path(folder) / name
        if ".so" in name and library.is_file():
            return library
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise ToolError(
        f"{sys.executable} has no shared libpython{version}.so, which Triton's Python backend loads: "
        f"on Debian and Ubuntu `apt-get install libpython{version}`; a Python built by hand needs --enable-shared"
    )
