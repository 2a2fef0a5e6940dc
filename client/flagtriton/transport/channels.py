# SPDX-License-Identifier: Apache-2.0
"""The gRPC channel of a transport: replaced where it went silent, closed while its process forks.

gRPC's threads and sockets do not survive a fork: a child that touches them hangs, and takes its parent's answers. So
there is no open channel while a process forks: it waits for the calls that are under way, cuts off and sends again
what takes too long, and parent and child open channels of their own when they next need one.
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
from flagtriton.transport.forks import across_forks

__all__ = ["Channels", "OpenClient"]

_PROCESS = os.getpid()
"""The process that imported gRPC."""

_CALLS_END_S = 5.0
"""How long a fork waits for calls that are under way; those that take longer are cut off, to be sent again."""

_CUT_OFF_S = 2.0
"""How long a fork waits for calls that it cut off to notice; they do so at once unless their threads cannot run."""

_PROBE_S = 2.0
_CANNOT_WORK = (
    "gRPC does not work in this process: it was forked while a gRPC channel was open that is not flagtriton's. Use "
    "Triton's http:// port, start processes by spawn, or set GRPC_ENABLE_FORK_SUPPORT=1 before the program starts"
)

_SETTLE_S = 0.1


@dataclass(eq=False)
class OpenClient:
    """A channel with Triton's client on it.

    Attributes:
        process: the one that opened it.
        calls: under way on it.
        answered_at: when an answer last came on it, by the monotonic clock.
        is_cut_off: whether a fork closed it in the middle of its calls, which are then to be sent again.
    """

    client: triton.InferenceServerClient
    process: int = field(default_factory=os.getpid)
    calls: int = 0
    answered_at: float = 0.0
    is_cut_off: bool = False


class Channels:
    """One channel at a time to one server. Safe to share between threads, and across forks.

    Args:
        open_client: opens a channel; it connects when it is used.
    """

    def __init__(self, open_client: Callable[[], triton.InferenceServerClient]) -> None:
        self._open_client = open_client
        self._changed = threading.Condition()
        self._forks = 0
        self._current: list[OpenClient] = [OpenClient(open_client())]
        # Closed at exit before modules are torn down: tritonclient's own `__del__` would then fail noisily.
        self._finalizer = weakref.finalize(self, _close, self._current)
        across_forks(self)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive

    @contextmanager
    def client(self) -> Iterator[OpenClient]:
        """Yield the channel for one call.

        Raises:
            ForkedProcessError: gRPC cannot work in this process.
        """
        _check_process()
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            opened = self._usable()
            opened.calls += 1
        try:
            yield opened
        finally:
            with self._changed:
                opened.calls -= 1
                is_over = not opened.calls and opened not in self._current
                self._changed.notify_all()
            if is_over and opened.process == os.getpid():
                opened.client.close()

    def replace(self, opened: OpenClient) -> None:
        """Make the next call on a new channel; this one is closed once its other calls are done."""
        with self._changed:
            if opened in self._current:
                self._current.remove(opened)

    def close(self) -> None:
        """Close the channel, for good."""
        self._finalizer()

    def before_fork(self) -> None:
        """Let no call begin, wait for those that are under way, and close the channel."""
        with self._changed:
            self._forks += 1
            opened = list(self._current)

            def are_over() -> bool:
                return not any(each.calls for each in opened)

            if not self._changed.wait_for(are_over, _CALLS_END_S):
                for each in opened:
                    each.is_cut_off = True
            _close(self._current)
            self._changed.wait_for(are_over, _CUT_OFF_S)
        if opened:  # gRPC ends its threads by and by, and a lock that one holds now would be held in the child for ever
            time.sleep(_SETTLE_S)

    def after_fork_in_parent(self) -> None:
        """Let calls begin."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        self._changed = threading.Condition()
        self._forks = 0

    def _usable(self) -> OpenClient:
        if self._current and self._current[0].process != os.getpid():  # forked without Python's knowledge
            _LEFT_ALONE.extend(self._current)
            self._current.clear()
        if not self._current:
            self._current.append(OpenClient(self._open_client()))
        return self._current[0]


_LEFT_ALONE: list[OpenClient] = []
"""Another process' channels, which nobody may even close here."""


def _close(current: list[OpenClient]) -> None:
    while current:
        opened = current.pop()
        if opened.process == os.getpid():
            opened.client.close()


_WORKS_IN: dict[int, bool] = {_PROCESS: True}


def _check_process() -> None:
    """Try, once in a process that was forked from one with gRPC, whether it works; it hangs where it does not.

    Raises:
        ForkedProcessError: it does not.
    """
    process = os.getpid()
    if process not in _WORKS_IN:
        thread = threading.Thread(target=_call_nobody, daemon=True)
        thread.start()
        thread.join(_PROBE_S)
        _WORKS_IN[process] = not thread.is_alive()
    if not _WORKS_IN[process]:
        raise ForkedProcessError(_CANNOT_WORK)


def _call_nobody() -> None:
    with grpc.insecure_channel("unix:/nonexistent/flagtriton") as channel, suppress(grpc.RpcError):
        channel.unary_unary("/nobody/Call")(b"", timeout=_PROBE_S / 2)


def _follow_gevent() -> None:
    """Let greenlets run while one waits for an answer, in a program that has gevent replace the standard library."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        from grpc.experimental.gevent import init_gevent

        init_gevent()


_follow_gevent()
