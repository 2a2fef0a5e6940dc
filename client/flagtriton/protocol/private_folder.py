# SPDX-License-Identifier: Apache-2.0
"""A folder of this user's below the temporary one, and links in it for paths that a program cannot take. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from pathlib import Path

__all__ = ["TEMPORARY", "link_to", "private_folder", "readable_path"]

TEMPORARY = Path("/tmp")
"""Not TMPDIR, whose name may be what a program cannot take; Triton's Python backend needs this one in any case."""

_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")
_HASH_DIGITS = 12


def private_folder() -> Path:
    """Return `/tmp/flagtriton-UID`, made if it is not there.

    Raises:
        OSError: it cannot be made, or somebody else could write to it.
    """
    folder = TEMPORARY / f"flagtriton-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} must be a folder that user {os.getuid()} alone can write to; remove it")
    return folder


def link_to(path: Path) -> Path:
    """Return a private link to a path, whose name is ASCII without spaces; the same one for the same path.

    Raises:
        OSError: it cannot be made.
    """
    raw = str(path).encode("utf-8", "surrogateescape")
    name = _UNUSUAL.sub("_", path.name)[:64]
    link = private_folder() / f"{name}-{hashlib.sha256(raw).hexdigest()[:_HASH_DIGITS]}"
    with contextlib.suppress(FileExistsError):  # another process has made it, or an earlier one
        os.symlink(raw, link)  # noqa: PTH211 - Path takes no bytes
    return link


def readable_path(path: str) -> str:
    """Return a path to the same folder that this interpreter and native libraries can open.

    Triton's Python backend starts Python with ASCII names for files, whatever the locale is, so that a folder whose
    name has other letters looks as if it were not there.

    Args:
        path: of a folder, or something else, such as a hub's name, which is returned as it is.

    Raises:
        OSError: no link can be made.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return str(link_to(Path(path))) if os.path.isdir(path.encode()) else path  # noqa: PTH112 - Path takes no bytes
    return path
