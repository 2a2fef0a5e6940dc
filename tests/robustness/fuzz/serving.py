# SPDX-License-Identifier: Apache-2.0
"""The test suite's server outside of pytest: its fixtures, called as the plain functions they wrap."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import conftest

__all__ = ["Target", "test_server"]


@dataclass(frozen=True)
class Target:
    """A server to send requests to.

    Attributes:
        http: host and port; likewise `grpc`.
        pid: its process on this machine; None leaves processes, memory and descriptors out of the checks.
    """

    http: str
    grpc: str
    pid: int | None = None

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port, as a socket takes them."""
        host, _, port = self.http.rpartition(":")
        return host.strip("[]"), int(port)

    @classmethod
    def at(cls, http_url: str, grpc_url: str, pid: int | None) -> Target:
        """Return the server at two URLs, with or without a scheme."""
        return cls(http_url.rpartition("//")[2].rstrip("/"), grpc_url.rpartition("//")[2].rstrip("/"), pid)

    @classmethod
    def of(cls, served: conftest.Served) -> Target:
        """Return the server of a fixture."""
        return cls.at(served.http_url, served.grpc_url, served.server.process.pid)


class _Folders:
    """Stands in for pytest's `tmp_path_factory`."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def mktemp(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=name, dir=self._root))


@contextmanager
def test_server() -> Iterator[conftest.Served]:
    """Make the repository of `tests/conftest.py`, serve it, and stop the server on leaving."""
    with ExitStack() as stack:
        folders = _Folders(stack.enter_context(tempfile.TemporaryDirectory(prefix="flagtriton-tests-")))
        made: dict[str, Any] = {"tmp_path_factory": folders}
        yield _value("served", made, stack)


def _value(fixture: str, made: dict[str, Any], stack: ExitStack) -> Any:
    """Return what one of conftest's fixtures gives, after those that it asks for."""
    if fixture not in made:
        function = inspect.unwrap(getattr(conftest, fixture))
        arguments = {name: _value(name, made, stack) for name in inspect.signature(function).parameters}
        if inspect.isgeneratorfunction(function):
            made[fixture] = stack.enter_context(contextmanager(function)(**arguments))
        else:
            made[fixture] = function(**arguments)
    return made[fixture]
