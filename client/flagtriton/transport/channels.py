# SPDX-License-Identifier: Apache-2.0
"""The gRPC channel of a transport: replaced when it is silent, closed while its process forks.

gRPC's threads and sockets do not survive a fork: a child that uses them hangs and reads its parent's replies. So no
channel is open during a fork. The fork waits for calls in progress, then cuts off the rest, which are sent again.
Afterwards parent and child each open a new channel for their next call.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import grpc
import tritonclient.grpc as triton

from flagtriton.errors import ForkedProcessError
from flagtriton.transport.forks import notify_on_fork

__all__ = ["Channels"]

_PROCESS = os.getpid()
"""Id of the process that imported gRPC."""

_DRAIN_S = 5.0
"""Seconds that a fork waits for calls in progress; longer ones are cut off and sent again."""

_CUT_OFF_S = 2.0
"""Seconds that a fork waits for calls that it cut off to return; they do so at once if their threads can run."""

_PROBE_S = 2.0
"""Seconds that the probe for a working gRPC may take in a forked process."""

_CANNOT_WORK = (
    "gRPC does not work in this process: it was forked while a gRPC channel was open that is not flagtriton's. Use "
    "Triton's http:// port, start processes by spawn, or set GRPC_ENABLE_FORK_SUPPORT=1 before the program starts"
)

_SETTLE_S = 0.1
"""Seconds that a fork waits for gRPC's own threads to end."""


@dataclass(eq=False)
class _Channel:
    """An open channel and the Triton client that uses it.

    Attributes:
        client: tritonclient's client.
        process: id of the process that opened the channel.
        calls: number of calls in progress.
        answered_at: time of the last reply, by the monotonic clock.
        is_cut_off: whether a fork closed the channel during its calls, which must then be sent again.
    """

    client: triton.InferenceServerClient
    process: int = field(default_factory=os.getpid)
    calls: int = 0
    answered_at: float = 0.0
    is_cut_off: bool = False


class Channels:
    """One channel at a time to one server. Safe to share between threads and across forks.

    Args:
        open_client: function that opens a channel; the channel connects at its first call.
    """

    def __init__(self, open_client: Callable[[], triton.InferenceServerClient]) -> None:
        self._open_client = open_client
        self._changed = threading.Condition()
        self._forks = 0
        self._current: list[_Channel] = [_Channel(open_client())]
        # Closes the channel before interpreter shutdown, where tritonclient's `__del__` fails noisily.
        self._finalizer = weakref.finalize(self, _close, self._current)
        notify_on_fork(self)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive

    @contextmanager
    def client(self) -> Iterator[_Channel]:
        """Yield the channel for one call.

        Raises:
            ForkedProcessError: gRPC cannot work in this process.
        """
        _check_process()
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            channel = self._usable()
            channel.calls += 1
        try:
            yield channel
        finally:
            with self._changed:
                channel.calls -= 1
                is_unused = not channel.calls and channel not in self._current
                self._changed.notify_all()
            if is_unused and channel.process == os.getpid():
                channel.client.close()

    def replace(self, channel: _Channel) -> None:
        """Use a new channel for the next call; close this one when its other calls are done."""
        with self._changed:
            if channel in self._current:
                self._current.remove(channel)

    def close(self) -> None:
        """Close the channel for good."""
        self._finalizer()

    def before_fork(self) -> None:
        """Hold new calls, wait for those in progress, and close the channel."""
        with self._changed:
            self._forks += 1
            opened = list(self._current)

            def is_drained() -> bool:
                return not any(each.calls for each in opened)

            if not self._changed.wait_for(is_drained, _DRAIN_S):
                for each in opened:
                    each.is_cut_off = True
            _close(self._current)
            self._changed.wait_for(is_drained, _CUT_OFF_S)
        if opened:  # a lock that one of gRPC's ending threads holds now would stay locked in the child
            time.sleep(_SETTLE_S)

    def after_fork_in_parent(self) -> None:
        """Admit calls again."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        """Reset the lock and admit calls."""
        self._changed = threading.Condition()
        self._forks = 0

    def _usable(self) -> _Channel:
        if self._current and self._current[0].process != os.getpid():  # forked without Python's knowledge
            _ABANDONED.extend(self._current)
            self._current.clear()
        if not self._current:
            self._current.append(_Channel(self._open_client()))
        return self._current[0]


_ABANDONED: list[_Channel] = []
"""Channels of another process. Closing them here would hang, so they are kept from the garbage collector."""


def _close(current: list[_Channel]) -> None:
    while current:
        channel = current.pop()
        if channel.process == os.getpid():
            channel.client.close()


_WORKS_IN: dict[int, bool] = {_PROCESS: True}
"""Whether gRPC works, by process id."""


def _check_process() -> None:
    """Probe once per forked process whether gRPC works; a call would hang if it does not.

    Raises:
        ForkedProcessError: gRPC does not work in this process.
    """
    process = os.getpid()
    if process not in _WORKS_IN:
        thread = threading.Thread(target=_probe, daemon=True)
        thread.start()
        thread.join(_PROBE_S)
        _WORKS_IN[process] = not thread.is_alive()
    if not _WORKS_IN[process]:
        raise ForkedProcessError(_CANNOT_WORK)


def _probe() -> None:
    """Make a call that fails at once where gRPC works."""
    with grpc.insecure_channel("unix:/nonexistent/flagtriton") as channel, suppress(grpc.RpcError):
        channel.unary_unary("/nobody/Call")(b"", timeout=_PROBE_S / 2)


def _follow_gevent() -> None:
    """Let greenlets run during a call if gevent has patched the standard library."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        from grpc.experimental.gevent import init_gevent

        init_gevent()


_follow_gevent()
