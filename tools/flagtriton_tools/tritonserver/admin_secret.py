# SPDX-License-Identifier: Apache-2.0
"""Secret for the operations that load models, register shared memory or change the log settings of a server.

A client that can load a model can run code. So the launcher makes a secret for each start and keeps it in a file that
only its user can read. The tools read it there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from flagtriton.protocol.runtime_files import private_folder
from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver.options import is_loopback

__all__ = ["find_secret", "hide_from_process_list", "kept_secret", "read_secret", "state_folder"]

_ALPHABET = frozenset(string.ascii_letters + string.digits + "-_.~+/=")
_FIELD_OF_ARG_START, _FIELD_OF_ARG_END = 47, 48  # in /proc/PID/stat, counted from 0


def state_folder() -> Path:
    """Return the folder where logs and secrets persist between commands; without a home folder, one in /tmp.

    Raises:
        ToolError: there is no home folder, and another user has created that folder in /tmp.
    """
    chosen = os.environ.get("XDG_STATE_HOME")
    if chosen:
        return Path(chosen) / "flagtriton"
    try:
        return Path.home() / ".local" / "state" / "flagtriton"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in a container under another user id
        return _without_home()


def _without_home() -> Path:
    try:
        return private_folder()
    except OSError as error:
        raise ToolError(f"no home folder for logs and secrets: {error}; set HOME or XDG_STATE_HOME") from error


@contextmanager
def kept_secret(http_port: int) -> Iterator[str]:
    """Make a secret and keep it where `find_secret` looks, while the block runs.

    Raises:
        ToolError: it cannot be written.
    """
    file = _file_of(http_port)
    secret = secrets.token_urlsafe(32)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.unlink(missing_ok=True)  # others may be able to read an old one
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(secret)
    except OSError as error:
        raise ToolError(
            f"cannot keep the admin secret in {file}: {error}; name a file with --secret-file, or a folder with "
            "XDG_STATE_HOME"
        ) from error
    try:
        yield secret
    finally:
        file.unlink(missing_ok=True)


def read_secret(file: Path) -> str:
    """Return the secret in a file of the user, such as a mounted Kubernetes Secret.

    Raises:
        ToolError: it cannot be read, has fewer than 16 characters, or has characters that a header cannot carry.
    """
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"cannot read the admin secret: {error}") from error
    if len(secret) < 16 or not _ALPHABET.issuperset(secret):
        raise ToolError(
            f"{file} holds no admin secret; expected at least 16 characters of A-Z a-z 0-9 - _ . ~ + / =, as "
            "`openssl rand -hex 32` makes them"
        )
    return secret


def find_secret(url: str, file: Path | None) -> str | None:
    """Return the secret for a server: from the file, else the kept one of a server on this machine, else None."""
    if file is not None:
        return read_secret(file)
    parts = urlsplit(url)
    try:
        kept = _file_of(parts.port or 8000)
    except ValueError:  # a port out of range
        return None
    return read_secret(kept) if is_loopback(parts.hostname or "") and kept.is_file() else None


def hide_from_process_list(process_id: int, secret: str) -> bool:
    """Overwrite a secret in the command line of a child process, and return whether that worked.

    Other users of this machine can read that command line. tritonserver accepts the secret only as a flag. It has
    copied its flags once it answers requests.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The fields before are the process id and the command's name in parentheses, which may contain spaces.
        fields = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        start, end = (int(fields[index - 2]) for index in (_FIELD_OF_ARG_START, _FIELD_OF_ARG_END))
        with open(f"/proc/{process_id}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 - a device file
            memory.seek(start)
            arguments = memory.read(end - start)
            memory.seek(start)
            memory.write(arguments.replace(secret.encode(), b"*" * len(secret)))
        return secret.encode() not in Path(f"/proc/{process_id}/cmdline").read_bytes()
    return False


def _file_of(http_port: int) -> Path:
    return state_folder() / f"admin-{http_port}.secret"
