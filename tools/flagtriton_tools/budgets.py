# SPDX-License-Identifier: Apache-2.0
"""How many tokens a deployment computes at once, and how many requests may wait for that. Pure."""

from __future__ import annotations

from typing import Any

from flagtriton_server.work_queue import QueueLimits
from flagtriton_tools.add_options import AddOptions
from flagtriton_tools.pbtxt import Device, QueuePolicy

__all__ = ["TOKEN_BUDGETS", "encoder_queue", "encoder_queue_policy", "token_budget", "tokenizer_queue"]

TOKEN_BUDGETS = {"cpu": 4_096, "gpu": 65_536}
"""Tokens of one forward pass: what fills a GPU, and on a processor what its matrix kernels do best with."""


def token_budget(device: Device, options: AddOptions) -> int:
    """Return the tokens of one forward pass."""
    return options.token_budget or TOKEN_BUDGETS["gpu" if device.gpus else "cpu"]


def encoder_queue(device: Device, options: AddOptions) -> dict[str, Any]:
    """Return what may wait for an encoder, as its settings name it."""
    limits = _limits(device, options)
    return {
        "queue_requests": limits.requests,
        "queue_tokens": limits.tokens,
        "queue_timeout_s": limits.timeout_s,
    }


def encoder_queue_policy(device: Device, options: AddOptions) -> QueuePolicy:
    """Return the policy of Triton's queue before an encoder, which the encoder empties unless it is at work.

    In the order they came, so that bulk requests reach the encoder's own queue, where they have their share.
    """
    limits = _limits(device, options)
    return QueuePolicy(limits.requests, int(limits.timeout_s * 1e6), priorities=0)


def tokenizer_queue(options: AddOptions) -> QueuePolicy:
    """Return the policy of the queue before the tokenizer, where tokens are not known yet."""
    limits = _limits(Device.parse(options.device, options.instances), options)
    return QueuePolicy(limits.requests, int(limits.timeout_s * 1e6))


def _limits(device: Device, options: AddOptions) -> QueueLimits:
    limits = QueueLimits.for_budget(token_budget(device, options))
    return QueueLimits(
        options.queue_requests or limits.requests,
        options.queue_tokens or limits.tokens,
        options.queue_timeout or limits.timeout_s,
    )
