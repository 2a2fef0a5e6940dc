# SPDX-License-Identifier: Apache-2.0
"""What the step that pools does beside pooling, as its settings and its inputs have it. Pure."""

from __future__ import annotations

from typing import Any

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.tensors import PROMPT_LENGTH, TensorSpec

__all__ = ["finishing", "finishing_said", "prompt_tensors", "skips_prompts"]


def finishing(served: Deployment) -> dict[str, Any]:
    """Return those settings by name."""
    return {
        "modules": served.modules,
        "normalize": served.normalize,
        "truncate_dim": served.truncate_dim,
        "skip_prompts": skips_prompts(served),
    }


def finishing_said(served: Deployment) -> str:
    """Return what a checkpoint's files add to its pooling, each with a comma behind it, for `add` to print."""
    if served.task != "embed":
        return ""
    parts = {
        str(served.modules): served.modules is not None,
        "not normalised unless a request asks for it": served.normalize is False,
        f"{served.truncate_dim} components unless a request asks for more": served.truncate_dim is not None,
        "prompts' tokens not pooled": served.include_prompt is False,
        "lower-cased": bool(served.lower_case),
        f"{served.default_max_length} tokens unless a request asks for more": served.default_max_length is not None,
        f"default prompt {served.default_prompt_name!r}": served.default_prompt_name is not None,
        f"query instruction {served.query_instruction!r}": served.query_instruction is not None,
        f"passage instruction {served.passage_instruction!r}": served.passage_instruction is not None,
    }
    return "".join(f"{part}, " for part, holds in parts.items() if holds)


def prompt_tensors(served: Deployment) -> list[TensorSpec]:
    """Return the tensor that tells pooling which tokens are a prompt's, where they are left out."""
    return [PROMPT_LENGTH] if skips_prompts(served) else []


def skips_prompts(served: Deployment) -> bool | None:
    """Return whether they are; None, as an absent parameter, is false."""
    return True if served.include_prompt is False else None
