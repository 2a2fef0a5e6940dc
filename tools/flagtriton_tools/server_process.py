# SPDX-License-Identifier: Apache-2.0
"""One `tritonserver` process: started so that it cannot be left behind, and stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from flagtriton_tools.embedded import Tritonserver
from flagtriton_tools.errors import ToolError
from flagtriton_tools.repository import with_ensembles
from flagtriton_tools.server_log import log_excerpt, opened_log
from flagtriton_tools.serving import ServeOptions

__all__ = ["RunningServer", "start_server"]

_EXIT_TIMEOUT_S = 10
"""How long the server waits for requests, and for clients' idle HTTP connections, before it ends without them."""

_STOP_TIMEOUT_S = 40.0
"""As long as Triton's own grace period of 30 s, which a flag may bring back, and some."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
"""Loaded here because nothing may be loaded between fork and exec."""

_SHARED_MEMORY = Path("/dev/shm")


@dataclass
class RunningServer:
    """A server that was started.

    Attributes:
        process: the server itself, first of its process group; its Python stubs are the others.
        shared_memory: what the names of its files in `/dev/shm` begin with.
        version: what it calls itself once it has answered.
    """

    options: ServeOptions
    process: subprocess.Popen[bytes]
    shared_memory: str
    version: str = "unknown"

    @property
    def exit_code(self) -> int | None:
        """The server's exit code, None while it runs; one ended by signal n gives 128 + n."""
        code = self.process.poll()
        return None if code is None else _exit_code(code)

    def wait(self) -> int:
        """Return the server's exit code, once it ends."""
        return _exit_code(self.process.wait())

    def stop(self) -> int:
        """Ask the server to end, kill it where it does not, and return its exit code."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()
        return self.wait()

    def kill(self) -> None:
        """End at once what is left of the server and its stubs, and free their shared memory."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for file in _SHARED_MEMORY.glob(f"{self.shared_memory}*"):
            file.unlink(missing_ok=True)

    def last_words(self) -> str:
        """Return, for a message, where the log is and how it ends."""
        return log_excerpt(self.options.log_file)


def start_server(binary: Tritonserver, options: ServeOptions, work_folder: Path) -> RunningServer:
    """Start the server and return at once.

    It ends with the thread that calls this, if that ends first.

    Args:
        binary: which server.
        options: what it serves.
        work_folder: where it runs: a folder without anything that could be imported.

    Raises:
        ToolError: the binary cannot be run, or its log not be written.
    """
    shared_memory = f"flagtriton_{os.getpid()}_{options.http_port}_"
    loaded = with_ensembles(options.load, options.repository) if options.load else ()
    control = ("--model-control-mode=explicit", *(f"--load-model={name}" for name in loaded))
    command = [
        str(binary.binary),
        *binary.arguments,
        f"--model-repository={options.repository.resolve()}",
        f"--http-address={options.host}",
        f"--http-port={options.http_port}",
        f"--grpc-address={options.host}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-address={options.host}",
        f"--metrics-port={options.metrics_port}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
        f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
        *(control if options.load else ()),
        *options.extra,
    ]
    try:
        with opened_log(options.log_file) as log:
            process = subprocess.Popen(
                command,
                cwd=work_folder,  # first on the stubs' sys.path, so it must hold nothing that could be imported
                env={**os.environ, **binary.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C reaches this process alone, which then stops the server in order
                preexec_fn=_die_with_parent,
            )
    except OSError as error:
        raise ToolError(f"cannot start {binary.binary}: {error}") from error
    return RunningServer(options, process, shared_memory)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _exit_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode
