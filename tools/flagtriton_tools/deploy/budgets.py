# SPDX-License-Identifier: Apache-2.0
"""How many tokens a deployment computes at once, and how many requests may wait for that. Pure."""

from __future__ import annotations

from typing import Any

from flagtriton.protocol.settings import QueueLimits
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.deploy.pbtxt import Device

__all__ = ["TOKEN_BUDGETS", "queue_settings", "token_budget"]

TOKEN_BUDGETS = {"cpu": 4_096, "gpu": 65_536}
"""Tokens of one forward pass: what fills a GPU, and on a processor what its matrix kernels do best with."""


def token_budget(device: Device, options: AddOptions) -> int:
    """Return the tokens of one forward pass."""
    return options.token_budget or TOKEN_BUDGETS["gpu" if device.gpus else "cpu"]


def queue_settings(options: AddOptions) -> dict[str, Any]:
    """Return what may wait for an encoder, and for the tokenizer before it, as their settings name it."""
    limits = QueueLimits.for_budget(token_budget(Device.parse(options.device, options.instances), options))
    return {
        "queue_requests": options.queue_requests or limits.requests,
        "queue_tokens": options.queue_tokens or limits.tokens,
        "queue_timeout_s": options.queue_timeout or limits.timeout_s,
    }
