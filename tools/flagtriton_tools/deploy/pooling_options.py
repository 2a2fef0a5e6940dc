# SPDX-License-Identifier: Apache-2.0
"""Settings and inputs of the step that pools, other than the pooling method. Pure."""

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
    """Return the additions of a checkpoint's files to its pooling, each followed by a comma. `add` prints them."""
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
    """Return the tensor with the length of a text's prompt if pooling skips prompts, else nothing."""
    return [PROMPT_LENGTH] if skips_prompts(served) else []


def skips_prompts(served: Deployment) -> bool | None:
    """Return True if pooling skips the tokens of prompts, else None. An absent parameter means false."""
    return True if served.include_prompt is False else None
