# SPDX-License-Identifier: Apache-2.0
"""How an encoder step's requests wait: bulk work makes way for interactive requests between two of its layers."""

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
"""By how much bulk work's forward passes are shorter where interactive requests come, as these wait for a layer."""

_LATELY_S = 1.0
"""They come if one has come so lately."""


def queue_limits(settings: EncoderSettings | LayerwiseSettings) -> QueueLimits:
    """Return what may wait for an encoder step: what its settings say, else what follows from its token budget."""
    default = QueueLimits.for_budget(settings.token_budget)
    return QueueLimits(
        settings.queue_requests or default.requests,
        settings.queue_tokens or default.tokens,
        settings.queue_timeout_s or default.timeout_s,
    )


class QueuedEncoder(QueuedStep[T]):
    """Requests of an encoder step, from Triton's `execute` to their answers.

    Args:
        args: what Triton tells the step's `initialize`.
        settings: the step's.
        read: one request to what `run` works on; may raise `RequestError` or `OptionError`.
        run: the work on several requests, one answer each.

    Attributes:
        watch: to be told of forward passes.
    """

    def __init__(
        self,
        args: Mapping[str, str],
        settings: EncoderSettings | LayerwiseSettings,
        read: Callable[[StepRequest], T],
        run: Callable[[list[T]], Sequence[Any]],
    ) -> None:
        instances = all_instances(args["model_config"])
        # One of several may be full while another has room.
        self._flag = BackpressureFlag(flag_path(args["model_name"], args["model_version"])) if instances == 1 else None
        tell = (lambda bulk, full: None) if self._flag is None else self._flag.set
        self.watch = StepMetrics(args, encodes=True)
        limits = queue_limits(settings)
        super().__init__(limits, settings.token_budget, instances, read, run, watch=self.watch, tell=tell)
        self._token_budget = settings.token_budget
        self._pauses = False

    def finalize(self) -> None:
        """End once all requests are answered."""
        super().finalize()
        if self._flag is not None:
            self._flag.close()

    def enable_layer_preemption(self, module: nn.Module) -> None:
        """Let interactive requests overtake bulk ones before every layer of the module, not only between its passes."""
        self._pauses = True
        for layer in _layers(module):
            layer.register_forward_pre_hook(lambda *_: self._worker.run_interactive_now())

    def pass_budget(self) -> int:
        """Return how many tokens one forward pass of the work that runs now may take."""
        shorter = self._pauses and self._worker.is_preemptible and self._queue.had_interactive_within(_LATELY_S)
        return max(1, self._token_budget // _SHORTER_PASSES) if shorter else self._token_budget


def _layers(module: nn.Module) -> Iterable[nn.Module]:
    """Return a network's layers: the longest list of modules in it."""
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)]
    return max(lists, key=len, default=nn.ModuleList())
