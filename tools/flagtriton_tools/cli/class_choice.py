# SPDX-License-Identifier: Apache-2.0
"""Chooses the model class of an LLM embedder if its files allow two: asks the user, or prints a hint.

An embedder that was trained with few-shot examples, such as bge-en-icl, has the same files as one without them.
Served as the other class, it answers without its examples.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from flagtriton.protocol.model_classes import EmbedderModelClass
from flagtriton_tools.deploy.facts import CheckpointFacts
from flagtriton_tools.deploy.options import AddOptions

__all__ = ["ask_at_terminal", "settle_class"]

_PLAIN = EmbedderModelClass.DECODER_ONLY_BASE.value
_WITH_EXAMPLES = EmbedderModelClass.DECODER_ONLY_ICL.value
_RESPONSE = "<response>"
"""Token before the answer of an example. Models without examples do not need it."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")

Ask = Callable[[str, str], str]
"""Function that takes a question and the default class, and returns a class."""


def settle_class(facts: CheckpointFacts, options: AddOptions, ask: Ask | None) -> tuple[AddOptions, str | None]:
    """Return the options with the chosen class, and a hint for the user if the class was assumed, else None.

    Args:
        facts: facts of the checkpoint.
        options: options of the user.
        ask: function that asks the user; None without a terminal.
    """
    either = facts.model_class == _PLAIN and facts.class_by_files and options.model_class is None
    if not either or (options.task or facts.task) != "embed":
        return options, None
    hinted = _has_response_token(Path(facts.source))
    if ask is not None:
        question = (
            f"{facts.name} is an LLM embedder. Was it trained with few-shot examples, as bge-en-icl was "
            f"({_WITH_EXAMPLES}), or without ({_PLAIN})?"
        )
        return replace(options, model_class=ask(question, _WITH_EXAMPLES if hinted else _PLAIN)), None
    reason = f"its tokenizer has {_RESPONSE}, so it may be" if hinted else "if it was"
    told = f"{facts.name} was taken for {_PLAIN}; {reason} trained with few-shot examples, as bge-en-icl was"
    return options, f"{told}{': ' if hinted else ', '}add it again with --force --model-class {_WITH_EXAMPLES}"


def ask_at_terminal() -> Ask | None:
    """Return a function that asks the user; None if input or messages do not go to a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(question: str, default: str) -> str:
        classes = click.Choice([_PLAIN, _WITH_EXAMPLES])
        return str(click.prompt(question, type=classes, default=default, err=True))

    return ask


def _has_response_token(folder: Path) -> bool:
    return any(_names_response(folder / name) for name in _TOKENIZER_FILES)


def _names_response(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # another reader of the file reports the problem
    if not isinstance(content, dict):
        return False
    parts: list[Any] = [content.get(key) for key in ("added_tokens", "added_tokens_decoder")]
    parts.append(content.get("additional_special_tokens") or content.get("extra_special_tokens"))
    return _RESPONSE in content or f'"{_RESPONSE}"' in json.dumps(parts)
