# SPDX-License-Identifier: Apache-2.0
"""Files outside a repository that the steps of a running server and `flagtriton serve` share.

The private folder has links for paths that a program cannot open. The module does not import torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Final

__all__ = [
    "REQUEST_LOG",
    "TEMPORARY",
    "flag_path",
    "link_to",
    "private_folder",
    "readable_path",
    "remove_abandoned_flags",
    "remove_flags",
]

REQUEST_LOG: Final = "FLAGTRITON_REQUEST_LOG"
"""The environment variable with the file name of the request log."""

FLAG_FOLDER = Path("/dev/shm")
_PREFIX: Final = "flagtriton_busy_"
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def flag_path(model_name: str, version: str) -> Path:
    """Return the file of the backpressure flag that the steps of one version of a deployment share.

    Args:
        model_name: name of a step.
        version: its version, a number.
    """
    return FLAG_FOLDER / f"{_namespace_prefix()}{os.getppid()}_{version}_{model_name.rpartition('_')[0]}"


def remove_flags(server_pid: int) -> None:
    """Remove the flags of a tritonserver process whose steps were killed."""
    for path in FLAG_FOLDER.glob(f"{_namespace_prefix()}{server_pid}_*"):
        _remove(path)


def remove_abandoned_flags() -> None:
    """Remove this user's flags of server processes that have ended."""
    prefix = _namespace_prefix()
    for path in FLAG_FOLDER.glob(f"{prefix}*"):
        server_pid = path.name.removeprefix(prefix).partition("_")[0]
        if server_pid.isdigit() and not Path("/proc", server_pid).exists():
            _remove(path)


def _namespace_prefix() -> str:
    """Return the common beginning of this user's file names in this PID namespace.

    Containers may share the folder while each numbers its processes from 1. Files of other users in that folder can be
    neither opened nor removed.
    """
    return f"{_PREFIX}{os.getuid()}_{_PID_NAMESPACE.stat().st_ino}_"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # another process has removed it
        path.unlink()


TEMPORARY = Path("/tmp")
"""Not TMPDIR, since a program may be unable to open a folder of that name. Triton's Python backend needs this folder in
any case."""

_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")
_HASH_DIGITS = 12


def private_folder() -> Path:
    """Return `/tmp/flagtriton-UID`, and create it if it does not exist.

    Raises:
        OSError: the folder cannot be created, or another user could write to it.
    """
    folder = TEMPORARY / f"flagtriton-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} must be a folder that user {os.getuid()} alone can write to; remove it")
    return folder


def link_to(path: Path) -> Path:
    """Return a private link to a path, with an ASCII name without spaces; the same path gives the same link.

    Raises:
        OSError: the link cannot be created.
    """
    raw = str(path).encode("utf-8", "surrogateescape")
    name = _UNUSUAL.sub("_", path.name)[:64]
    link = private_folder() / f"{name}-{hashlib.sha256(raw).hexdigest()[:_HASH_DIGITS]}"
    with contextlib.suppress(FileExistsError):  # another process has created it, or an earlier one
        os.symlink(raw, link)  # noqa: PTH211 - Path takes no bytes
    return link


def readable_path(path: str) -> str:
    """Return a path to the same folder that this interpreter and native libraries can open.

    Triton's Python backend starts Python with ASCII file names, regardless of the locale. A folder with other letters
    in its name then seems not to exist.

    Args:
        path: path of a folder. Another value, such as a hub name, is returned unchanged.

    Raises:
        OSError: no link can be created.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return str(link_to(Path(path))) if os.path.isdir(path.encode()) else path  # noqa: PTH112 - Path takes no bytes
    return path
