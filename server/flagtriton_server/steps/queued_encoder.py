# SPDX-License-Identifier: Apache-2.0
"""The queue of an encoder step. Interactive requests preempt a bulk batch between two layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from flagtriton.protocol.parameters import all_instances
from flagtriton.protocol.runtime_files import flag_path
from flagtriton.protocol.settings import EncoderSettings, LayerwiseSettings, QueueLimits
from flagtriton_server.backend.backpressure import BackpressureFlag
from flagtriton_server.backend.metrics import StepMetrics
from flagtriton_server.backend.requests import StepRequest
from flagtriton_server.steps.base import QueuedStep, T

__all__ = ["QueuedEncoder", "queue_limits"]

_SHORTER_PASSES = 8
"""Divisor of the token budget of bulk passes while interactive requests arrive, because these wait for one layer."""

_LATELY_S = 1.0
"""Interactive traffic counts as present for this long after the last interactive request, seconds."""


def queue_limits(settings: EncoderSettings | LayerwiseSettings) -> QueueLimits:
    """Return the queue limits of an encoder step: its settings, else limits that follow from its token budget."""
    default = QueueLimits.for_budget(settings.token_budget)
    return QueueLimits(
        settings.queue_requests or default.requests,
        settings.queue_tokens or default.tokens,
        settings.queue_timeout_s or default.timeout_s,
    )


class QueuedEncoder(QueuedStep[T]):
    """Handles the requests of an encoder step, from Triton's `execute` to their answers.

    Args:
        args: the argument of the step's `initialize`.
        settings: settings of the step.
        read: parses one request for `run`; may raise `RequestError` or `OptionError`.
        run: returns one answer for each of several requests.

    Attributes:
        watch: metrics of the step; the step calls its `on_forward_pass`.
    """

    def __init__(
        self,
        args: Mapping[str, str],
        settings: EncoderSettings | LayerwiseSettings,
        read: Callable[[StepRequest], T],
        run: Callable[[list[T]], Sequence[Any]],
    ) -> None:
        instances = all_instances(args["model_config"])
        # Several instances have no flag, because one may be full while another has room.
        self._flag = BackpressureFlag(flag_path(args["model_name"], args["model_version"])) if instances == 1 else None
        tell = (lambda bulk, full: None) if self._flag is None else self._flag.set
        self.watch = StepMetrics(args, encodes=True)
        limits = queue_limits(settings)
        super().__init__(limits, settings.token_budget, instances, read, run, watch=self.watch, tell=tell)
        self._token_budget = settings.token_budget
        self._pauses = False

    def finalize(self) -> None:
        """Stop after all requests are answered."""
        super().finalize()
        if self._flag is not None:
            self._flag.close()

    def enable_layer_preemption(self, module: nn.Module) -> None:
        """Let interactive requests preempt a bulk batch before every layer of the module, not only between batches."""
        self._pauses = True
        for layer in _layers(module):
            layer.register_forward_pre_hook(lambda *_: self._worker.run_interactive_now())

    def pass_budget(self) -> int:
        """Return the token budget of one forward pass of the batch that runs now."""
        shorter = self._pauses and self._worker.is_preemptible and self._queue.had_interactive_within(_LATELY_S)
        return max(1, self._token_budget // _SHORTER_PASSES) if shorter else self._token_budget


def _layers(module: nn.Module) -> Iterable[nn.Module]:
    """Return the layers of a network: the longest list of modules in it."""
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())
