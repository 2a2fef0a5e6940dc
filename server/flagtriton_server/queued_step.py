# SPDX-License-Identifier: Apache-2.0
"""What an encoder step does with Triton's requests: they wait here, and a thread of the step's own answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from torch import nn

from flagtriton_server import triton_io
from flagtriton_server.settings import EncoderSettings, LayeredSettings
from flagtriton_server.triton_io import PbRequest, PbResponse, Reply
from flagtriton_server.work_queue import Job, QueueLimits, WorkQueue
from flagtriton_server.worker import Worker

__all__ = ["QueuedStep", "queue_limits"]


class _Work(Protocol):
    @property
    def tokens(self) -> int: ...


T = TypeVar("T", bound=_Work)

_TURNS_AHEAD = 2
"""What an instance beside others keeps of bulk work, in turns; the rest is left to Triton to hand to any of them."""


def queue_limits(settings: EncoderSettings | LayeredSettings) -> QueueLimits:
    """Return what may wait for an encoder step: what its settings say, else what follows from its token budget."""
    default = QueueLimits.for_budget(settings.token_budget)
    return QueueLimits(
        settings.queue_requests or default.requests,
        settings.queue_tokens or default.tokens,
        settings.queue_timeout_s or default.timeout_s,
    )


class QueuedStep(Generic[T]):
    """Requests of an encoder step, from Triton's `execute` to their answers.

    Args:
        settings: the step's.
        instances: of the step, on all devices.
        read: one request to what `run` works on; may raise `RequestError` or `OptionError`.
        run: the work on several requests, one answer each.
    """

    def __init__(
        self,
        settings: EncoderSettings | LayeredSettings,
        instances: int,
        read: Callable[[PbRequest], T],
        run: Callable[[list[T]], Sequence[Any]],
    ) -> None:
        self._read = read
        self._tokens_ahead = _TURNS_AHEAD * settings.token_budget if instances > 1 else None
        self._queue: WorkQueue[T] = WorkQueue(queue_limits(settings), settings.token_budget)
        self._worker = Worker(self._queue, run, triton_io.log_error)

    def start(self, load: Callable[[], None]) -> None:
        """Load the model in the thread that is to run it, and begin to answer; raise what loading raises."""
        self._worker.start(load)

    def execute(self, requests: Sequence[PbRequest]) -> list[PbResponse | None]:
        """Return what Triton's `execute` is to: an answer for each request that is not bulk, once it is there.

        Nothing could overtake these while they run, so that nothing is lost by waiting; what comes meanwhile waits in
        Triton's queue, and is answered at once should this process die.
        """
        responses = triton_io.respond_later(requests, self._read, self._submit)
        if self._tokens_ahead is not None:
            self._queue.wait_until_below(self._tokens_ahead)
        return responses

    def finalize(self) -> None:
        """End once all requests are answered."""
        self._worker.stop()

    def pause_between_layers(self, module: nn.Module) -> None:
        """Let interactive requests overtake bulk ones before every layer of the module, not only between its passes."""
        for layer in _layers(module):
            layer.register_forward_pre_hook(lambda *_: self._worker.let_interactive_pass())

    def _submit(self, work: T, reply: Reply) -> None:
        self._queue.put(Job(work, work.tokens, reply.send, reply.is_cancelled, reply.bulk, reply.timeout_s))


def _layers(module: nn.Module) -> Sequence[nn.Module]:
    """Return a network's layers: the longest list of modules in it."""
    return max((m for m in module.modules() if isinstance(m, nn.ModuleList)), key=len, default=())
