# SPDX-License-Identifier: Apache-2.0
"""A definition as text. A deployment records it when it is added, and compares it when it loads. Pure."""

from __future__ import annotations

import json

from flagtriton_server.sentence_transformers.definition import EmbedderDefinition

__all__ = ["former_summary_of", "summary_of"]


def summary_of(defined: EmbedderDefinition) -> str:
    """Return all parts of a definition that affect answers; equal definitions give equal text."""
    return _said(
        defined, ", ".join(f"{name} {json.dumps(text, ensure_ascii=False)}" for name, text in _prompts(defined))
    )


def former_summary_of(defined: EmbedderDefinition) -> str:
    """Return the text that older deployments recorded, which has the names of prompts but not their texts."""
    return _said(defined, ", ".join(name for name, _ in _prompts(defined)))


def _prompts(defined: EmbedderDefinition) -> list[tuple[str, str]]:
    return sorted((name, text) for name, text in defined.prompts if text)


def _said(defined: EmbedderDefinition, prompts: str) -> str:
    parts = {
        "lower-cased": defined.lower_case,
        f"{defined.max_seq_length} tokens": defined.max_seq_length is not None,
        f"{defined.pooling} pooling": defined.pooling is not None,
        "without prompts' tokens": not defined.include_prompt,
        str(defined.modules): defined.modules is not None,
        "normalised" if defined.normalize else "not normalised": defined.pooling is not None,
        f"{defined.truncate_dim} components": defined.truncate_dim is not None,
        f"prompts {prompts}": bool(prompts),
        f"default prompt {defined.default_prompt_name}": defined.default_prompt_name is not None,
    }
    return "; ".join(text for text, holds in parts.items() if holds) or "nothing"
