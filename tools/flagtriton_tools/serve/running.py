# SPDX-License-Identifier: Apache-2.0
"""Finds servers on this machine that serve a repository, so that commands can print the step that comes next."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver.admin import Admin
from flagtriton_tools.tritonserver.admin_secret import find_secret, state_folder
from flagtriton_tools.tritonserver.options import ServeOptions

__all__ = ["announced", "how_to_load", "how_to_serve", "servers_of", "still_served", "with_url"]

_DEFAULT_URL = "http://localhost:8000"
_ANSWERS_WITHIN_S = 2.0


@contextmanager
def announced(options: ServeOptions) -> Iterator[None]:
    """Let `servers_of` find this process's server while the block runs. A file that cannot be written is no error."""
    told = {"repository": str(options.repository.resolve()), "url": options.http_url, "pid": os.getpid()}
    file = None
    with contextlib.suppress(OSError, ToolError):
        file = state_folder() / f"server-{options.http_port}.json"
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_text(json.dumps(told), encoding="utf-8")
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                file.unlink()


def servers_of(repository: Path) -> list[str]:
    """Return the URLs of this user's `flagtriton serve` processes that have the repository and answer."""
    found = []
    with contextlib.suppress(OSError, ToolError):
        for file in sorted(state_folder().glob("server-*.json")):
            url = _url_of(file, repository.resolve())
            if url is not None and _admin(url).get("/v2/health/live").status == 200:
                found.append(url)
    return found


def serving_name(repository: Path, name: str) -> list[str]:
    """Return the URLs of servers that answer for a deployment: those of its repository, else the one on port 8000.

    The server on port 8000 may have been started by other means. It may also have another repository with a deployment
    of that name.
    """
    return [url for url in servers_of(repository) or [_DEFAULT_URL] if _is_ready(url, name)]


def how_to_load(repository: Path, name: str) -> str:
    """Return the command that makes the running server of a repository load the changes."""
    return with_url(f"flagtriton load {name}", next(iter(servers_of(repository)), _DEFAULT_URL))


def how_to_serve(repository: Path, name: str, *, is_version: bool) -> list[str]:
    """Return the lines to print after a deployment was added."""
    if servers_of(repository):
        return [f"the running server takes it with: {how_to_load(repository, name)}"]
    said = [f"serve it with: flagtriton serve --repository {shlex.quote(str(repository))}"]
    return [*said, f"a running server goes over to it with: flagtriton load {name}"] if is_version else said


def still_served(repository: Path, name: str) -> list[str]:
    """Return the lines to print after a deployment was removed, as a running server still answers from memory."""
    return [
        f"{name} is still served at {url}; end that with: {with_url(f'flagtriton unload {name}', url)}"
        for url in serving_name(repository, name)
    ]


def with_url(command: str, url: str) -> str:
    """Return a `flagtriton` command for the server at a URL, as the user types it."""
    default = url.replace("127.0.0.1", "localhost") == _DEFAULT_URL
    return command if default else f"{command} --url {shlex.quote(url)}"


def _is_ready(url: str, name: str) -> bool:
    try:
        return _admin(url).get(f"/v2/models/{name}/ready").status == 200
    except ToolError:
        return False


def _admin(url: str) -> Admin:
    return Admin(url, find_secret(url, None), timeout_s=_ANSWERS_WITHIN_S)


def _url_of(file: Path, repository: Path) -> str | None:
    """Return the server's URL in a file, or None if it has another repository or its process has ended."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        alive = Path("/proc", str(int(told["pid"]))).exists()
        return str(told["url"]) if alive and Path(told["repository"]) == repository else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
