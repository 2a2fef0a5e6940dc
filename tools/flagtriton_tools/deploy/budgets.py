# SPDX-License-Identifier: Apache-2.0
"""Token budget of a deployment, and limits of the queues before it. Pure."""

from __future__ import annotations

from typing import Any

from flagtriton.protocol.settings import QueueLimits
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.deploy.pbtxt import Device

__all__ = ["TOKEN_BUDGETS", "queue_settings", "token_budget"]

TOKEN_BUDGETS = {"cpu": 4_096, "gpu": 65_536}
"""Tokens of one forward pass. The GPU value fills a GPU; the CPU value suits the CPU's matrix kernels best."""


def token_budget(device: Device, options: AddOptions) -> int:
    """Return the maximum number of tokens of one forward pass."""
    return options.token_budget or TOKEN_BUDGETS["gpu" if device.gpus else "cpu"]


def queue_settings(options: AddOptions) -> dict[str, Any]:
    """Return the queue limits of the encoder and of the tokenizer before it, by the names of their settings."""
    limits = QueueLimits.for_budget(token_budget(Device.parse(options.device, options.instances), options))
    return {
        "queue_requests": options.queue_requests or limits.requests,
        "queue_tokens": options.queue_tokens or limits.tokens,
        "queue_timeout_s": options.queue_timeout or limits.timeout_s,
    }
