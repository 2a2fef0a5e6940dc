# SPDX-License-Identifier: Apache-2.0
"""The text that a deployment adds to an input: instructions, prompts and few-shot examples. Pure; handles no tokens."""

from __future__ import annotations

import json
from functools import lru_cache

from flagtriton.protocol.examples import examples_prefix
from flagtriton.protocol.instructions import apply_instruction
from flagtriton.protocol.options.checks import OptionError
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.settings import TokenizerSettings
from flagtriton.protocol.text import shown

__all__ = ["example_text", "instructed", "pairs_instructed", "prompt_before"]


def instructed(texts: list[str], options: EmbedOptions, settings: TokenizerSettings) -> list[str]:
    """Return the texts after the prompt or instruction of the request or, if it names none, of the deployment.

    The default prompt of the deployment applies to a request without `prompt_name` and without `input_type`. Texts do
    not change if there is neither a prompt nor an instruction. An instruction needs an `input_type`. An empty
    instruction still applies the format, as in FlagEmbedding.

    Raises:
        OptionError: the checkpoint has no prompt of that name; the message lists its prompts.
    """
    chosen = _chosen(options, settings)
    return texts if chosen is None else [apply_instruction(*chosen, text) for text in texts]


def prompt_before(options: EmbedOptions, settings: TokenizerSettings) -> str:
    """Return the text that `instructed` puts before an input; empty if there is none.

    Raises:
        OptionError: as for `instructed`.
    """
    chosen = _chosen(options, settings)
    if chosen is None:
        return ""
    one, other = (apply_instruction(*chosen, text) for text in ("a", "b"))
    return one[: next(place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)]


def _chosen(options: EmbedOptions, settings: TokenizerSettings) -> tuple[str, str] | None:
    """Return the format and the instruction for the texts of a request, or None if there are none."""
    name = options.prompt_name
    if name is None and options.input_type is None:
        name = settings.default_prompt_name
    if name is not None:
        return ("{}{}", _prompt_named(name, settings.prompts)) if name else None
    instruction = _instruction(options, settings)
    if options.input_type is None or instruction is None:
        return None
    formats = {"query": settings.query_instruction_format, "passage": settings.passage_instruction_format}
    return options.instruction_format or formats[options.input_type], instruction


def _prompt_named(name: str, prompts: str | None) -> str:
    known = _parsed(prompts)
    if name not in known:
        have = f"expected one of {', '.join(map(repr, sorted(known)))}" if known else "this deployment has no prompts"
        raise OptionError(f"option 'prompt_name' is {shown(name)}; {have}")
    return known[name]


@lru_cache(maxsize=8)
def _parsed(prompts: str | None) -> dict[str, str]:
    return {} if prompts is None else json.loads(prompts)


def pairs_instructed(
    queries: list[str], passages: list[str], options: RerankOptions, settings: TokenizerSettings
) -> tuple[list[str], list[str]]:
    """Return both sides of the pairs of a reranker, with instructions of the request or else of the deployment.

    An empty instruction leaves the texts unchanged.
    """
    query = settings.query_instruction if options.query_instruction is None else options.query_instruction
    passage = settings.passage_instruction if options.passage_instruction is None else options.passage_instruction
    sides = (
        (queries, query, settings.query_instruction_format),
        (passages, passage, settings.passage_instruction_format),
    )
    instructed_queries, instructed_passages = (
        [apply_instruction(instruction_format, instruction, text) for text in texts] if instruction else texts
        for texts, instruction, instruction_format in sides
    )
    return instructed_queries, instructed_passages


def example_text(options: EmbedOptions, settings: TokenizerSettings) -> str:
    """Return the text that the examples of a request put before each of its queries."""
    if options.prefix is not None:
        return options.prefix
    return examples_prefix(options.examples, options.examples_instruction_format, _instruction(options, settings))


def _instruction(options: EmbedOptions, settings: TokenizerSettings) -> str | None:
    if options.instruction is not None:
        return options.instruction
    return settings.passage_instruction if options.input_type == "passage" else settings.query_instruction
