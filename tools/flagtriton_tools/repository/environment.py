# SPDX-License-Identifier: Apache-2.0
"""A Python environment in one file, for servers on which this package is not installed.

Triton's Python backend unpacks it once, sources its `bin/activate` and starts a step's process, which then finds
`bin/python3` first on its path, and beside that a `pyvenv.cfg`: a virtual environment, as `python -m venv` makes them,
that does not know where it lies. It holds what is installed here, so what was tried here is what runs there.
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
"""Files of an environment: where they lie in it, and where they are now."""

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
    """Return the files that the steps need of what is installed here: `flagtriton[server]` and all it requires.

    Args:
        without: packages that the server's machine has itself; what only they require is left out, too.

    Raises:
        ToolError: something is not installed, or is installed as a link to its sources.
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
    """Write an environment as `.tar.gz`, or not at all.

    Args:
        members: what `environment_members` returned.
        target: the file.
        interpreter: the server's, of the same version as this one; None is this one's own.
        system_packages: packages of that interpreter's own are found, too, behind those in here.
        compression: gzip's level, 0 to 9.
        advance: told the bytes of each file that is in.

    Raises:
        ToolError: it cannot be written.
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
    """Return the installed packages that one needs, itself included."""
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
    """Return what a package requires on this machine with some of its extras."""
    every = [Requirement(line) for line in found.requires or ()]
    return [r for r in every if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in (extras or {""}))]


def _own_files() -> Members:
    """Return this package's own, wherever they lie: they may be a link to their sources."""
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
            continue  # programs, of which none is run
        source = Path(str(found.locate_file(path)))
        if source.is_file():
            members[f"{_SITE_PACKAGES}/{inside}"] = source
    return members


def _interpreter() -> Path:
    """Return the interpreter that this environment was made of."""
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
