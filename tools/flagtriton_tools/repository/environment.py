# SPDX-License-Identifier: Apache-2.0
"""Packs a Python environment into one file, for servers on which this package is not installed.

Triton's Python backend unpacks it once, sources its `bin/activate` and starts a step's process. The process finds
`bin/python3` first on its path, and `pyvenv.cfg` one folder up. So it is a virtual environment like those of
`python -m venv`, except that it can lie anywhere. It holds the packages that are installed here.
So the server runs the same versions that were tested here.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flagtriton_tools.errors import ToolError

__all__ = ["Members", "environment_members", "write_environment"]

Members = dict[str, Path]
"""Files of an environment: from the path inside it to the path on this machine."""

_OWN = "flagtriton"
_OWN_PACKAGES = ("flagtriton", "flagtriton_server")
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SITE_PACKAGES = f"lib/{_PYTHON}/site-packages"

_ACTIVATE = """\
# Sourced by Triton's Python backend, in bash, before it starts a step.
VIRTUAL_ENV="$(cd "$(dirname "${{BASH_SOURCE[0]}}")/.." && pwd)"
if [ ! -x "$VIRTUAL_ENV/bin/python3" ]; then
    echo "flagtriton: this environment needs {interpreter}, which is not here; pack one where the server runs" >&2
    return 1
fi
export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
unset PYTHONHOME
"""


def environment_members(without: Iterable[str] = ()) -> Members:
    """Return the installed files that the steps need: `flagtriton[server]` and all its requirements.

    Args:
        without: packages that the server's machine already has. Packages that only they require are left out, too.

    Raises:
        ToolError: a package is not installed, or is installed as a link to its sources.
    """
    left_out = {canonicalize_name(name) for name in without}
    members: Members = {}
    for found in _required(f"{_OWN}[server]", left_out):
        if canonicalize_name(found.name) == _OWN:
            members |= _own_files()
        else:
            members |= _files_of(found)
    return dict(sorted(members.items()))


def write_environment(
    members: Members,
    target: Path,
    *,
    interpreter: Path | None = None,
    system_packages: bool = False,
    compression: int = 6,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Write an environment as `.tar.gz`. On failure no file is left.

    Args:
        members: result of `environment_members`.
        target: path of the file.
        interpreter: Python interpreter on the server, of the same version as this one; None is this interpreter.
        system_packages: also find packages of that interpreter, after the packed ones.
        compression: gzip level, 0 to 9.
        advance: called with the size of each file in bytes once it is packed.

    Raises:
        ToolError: the file cannot be written.
    """
    if not target.name.endswith((".tar.gz", ".tgz")):
        raise ToolError(f"{target} must end in .tar.gz, by which Triton tells that it is to be unpacked")
    interpreter = interpreter or _interpreter()
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(partial, "w:gz", compresslevel=compression) as archive:
            _add_text(archive, "pyvenv.cfg", _config(interpreter, system_packages))
            _add_text(archive, "bin/activate", _ACTIVATE.format(interpreter=interpreter))
            link = _entry("bin/python3")
            link.type, link.linkname = tarfile.SYMTYPE, str(interpreter)
            archive.addfile(link)
            for name, source in members.items():
                _add_file(archive, name, source)
                advance(source.stat().st_size)
        partial.replace(target)
    except OSError as error:
        raise ToolError(f"cannot write {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _required(root: str, without: Collection[str]) -> list[Distribution]:
    """Return the installed packages that a requirement needs, itself included."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(root)]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in without or (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(requirement.name)
        except PackageNotFoundError as error:
            raise ToolError(f"{requirement.name} is not installed here: pip install '{root}' first") from error
        waiting += _requirements(found[name], extras)
    return list(found.values())


def _requirements(found: Distribution, extras: frozenset[str]) -> list[Requirement]:
    """Return the requirements of a package on this machine with some of its extras."""
    every = [Requirement(line) for line in found.requires or ()]
    return [r for r in every if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in (extras or {""}))]


def _own_files() -> Members:
    """Return the files of flagtriton's packages. They may be installed as a link to their sources."""
    members: Members = {}
    for package in _OWN_PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
            for file in folder.rglob("*"):
                if file.is_file() and "__pycache__" not in file.parts:
                    members[f"{_SITE_PACKAGES}/{package}/{file.relative_to(folder)}"] = file
    return members


def _files_of(found: Distribution) -> Members:
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable") or found.files is None:
        raise ToolError(f"{found.name} is installed as a link to its sources; install it whole to have it packed")
    members: Members = {}
    for path in found.files:
        inside = PurePosixPath(path)
        if ".." in inside.parts or inside.is_absolute() or "__pycache__" in inside.parts:
            continue  # scripts, which no step runs
        source = Path(str(found.locate_file(path)))
        if source.is_file():
            members[f"{_SITE_PACKAGES}/{inside}"] = source
    return members


def _interpreter() -> Path:
    """Return the base interpreter of this environment."""
    base = Path(sys.base_prefix, "bin", _PYTHON)
    return base if base.exists() else Path(os.path.realpath(sys.executable))


def _config(interpreter: Path, system_packages: bool) -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    shared = str(system_packages).lower()
    return f"home = {interpreter.parent}\ninclude-system-site-packages = {shared}\nversion = {version}\n"


def _entry(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o755
    return entry


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    entry = _entry(name)
    entry.size = len(text.encode())
    archive.addfile(entry, io.BytesIO(text.encode()))


def _add_file(archive: tarfile.TarFile, name: str, source: Path) -> None:
    entry = _entry(name)
    entry.size = source.stat().st_size
    with source.open("rb") as opened:
        archive.addfile(entry, opened)
