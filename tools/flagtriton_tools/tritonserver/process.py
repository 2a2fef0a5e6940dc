# SPDX-License-Identifier: Apache-2.0
"""Starts and stops one `tritonserver` process.

The process ends if its parent dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flagtriton.protocol.runtime_files import REQUEST_LOG, remove_flags
from flagtriton_tools.deploy.stub_paths import hub_cache, plain_path
from flagtriton_tools.errors import ToolError
from flagtriton_tools.tritonserver.embedded import Tritonserver
from flagtriton_tools.tritonserver.flags import server_flags
from flagtriton_tools.tritonserver.log import log_excerpt, opened_log
from flagtriton_tools.tritonserver.machine import SHARED_MEMORY
from flagtriton_tools.tritonserver.options import ServeOptions

__all__ = ["RunningServer", "start_server"]

_STOP_TIMEOUT_S = 40.0
"""Seconds: Triton's default grace period of 30 s, which an extra flag may restore, plus 10 s."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
"""Loaded here, because nothing may be loaded between fork and exec."""


@dataclass
class RunningServer:
    """A server that was started.

    Attributes:
        process: tritonserver, the leader of its process group. Its Python stubs are the other members.
        shared_memory: prefix of the names of its files in `/dev/shm`.
        secret: secret for admin operations; None if they need none.
        log_start: start of this server's part in the log, bytes.
        version: version that the server reports once it answers.
        failed: reason of each deployment that did not load, by its name.
    """

    options: ServeOptions
    process: subprocess.Popen[bytes]
    shared_memory: str
    secret: str | None = field(default=None, repr=False)
    log_start: int = 0
    version: str = "unknown"
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int | None:
        """Exit code of the server, None while it runs. A server that signal n ended gives 128 + n."""
        code = self.process.poll()
        return None if code is None else _exit_code(code)

    def wait(self) -> int:
        """Wait until the server ends, and return its exit code."""
        return _exit_code(self.process.wait())

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """Terminate the server, kill it after `timeout_s` seconds if it still runs, and return its exit code."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()
        return self.wait()

    def kill(self) -> None:
        """Kill the server and its stubs at once, and free their shared memory."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for file in SHARED_MEMORY.glob(f"{self.shared_memory}*"):
            file.unlink(missing_ok=True)
        remove_flags(self.process.pid)

    def last_words(self) -> str:
        """Return the log's path and last lines, for a message."""
        return log_excerpt(self.options.log_file)


def start_server(
    binary: Tritonserver,
    options: ServeOptions,
    work_folder: Path,
    models: Sequence[str],
    secret: str | None = None,
    *,
    again: bool = False,
    auto_complete: bool = False,
) -> RunningServer:
    """Start the server and return at once.

    The server ends if the thread that calls this ends first.

    Args:
        binary: server binary.
        options: repository and addresses.
        work_folder: working directory of the server; a folder without any module that could be imported.
        models: models to load.
        secret: secret for admin operations; None leaves them open.
        again: continue the log of the previous server.
        auto_complete: True if the configurations of some models are incomplete.

    Raises:
        ToolError: the binary cannot be run, or its log cannot be written.
    """
    shared_memory = f"flagtriton_{os.getpid()}_{options.http_port}_"
    served = replace(options, repository=plain_path(options.repository, work_folder / "model-repository"))
    flags = server_flags(served, models, secret, shared_memory, auto_complete=auto_complete)
    command = [str(binary.binary), *binary.arguments, *flags]
    try:
        with opened_log(options.log_file, again=again) as log:
            log_start = 0 if log is None else log.tell()
            process = subprocess.Popen(
                command,
                cwd=work_folder,  # first on the stubs' sys.path, so it must hold no module that could be imported
                env={**os.environ, **binary.environment, **hub_cache(), **_request_log(options)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only this process, which then stops the server in order
                preexec_fn=_die_with_parent,
            )
    except OSError as error:
        raise ToolError(f"cannot start {binary.binary}: {error}") from error
    return RunningServer(options, process, shared_memory, secret, log_start)


def _request_log(options: ServeOptions) -> dict[str, str]:
    return {} if options.request_log is None else {REQUEST_LOG: str(options.request_log.resolve())}


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode
