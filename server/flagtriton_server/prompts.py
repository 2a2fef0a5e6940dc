# SPDX-License-Identifier: Apache-2.0
"""What a deployment puts around a text: an instruction, and few-shot examples. Pure; knows nothing of tokens."""

from __future__ import annotations

from flagtriton.examples import examples_prefix
from flagtriton.instructions import apply_instruction
from flagtriton.options import EmbedOptions
from flagtriton.rerank_options import RerankOptions
from flagtriton_server.settings import TokenizerSettings

__all__ = ["example_text", "instructed", "pairs_instructed"]


def instructed(texts: list[str], options: EmbedOptions, settings: TokenizerSettings) -> list[str]:
    """Return the texts behind the instruction that the request or, failing that, the deployment names.

    Without an `input_type`, or with none of the two instructions, texts stay as they are. An empty instruction
    still applies the format, as in FlagEmbedding.
    """
    instruction = _instruction(options, settings)
    if options.input_type is None or instruction is None:
        return texts
    formats = {"query": settings.query_instruction_format, "passage": settings.passage_instruction_format}
    instruction_format = options.instruction_format or formats[options.input_type]
    return [apply_instruction(instruction_format, instruction, text) for text in texts]


def pairs_instructed(
    queries: list[str], passages: list[str], options: RerankOptions, settings: TokenizerSettings
) -> tuple[list[str], list[str]]:
    """Return both sides of a reranker's pairs behind the instructions of the request, or else of the deployment.

    An empty instruction leaves texts as they are.
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
    """Return what a request's examples put before each of its queries."""
    if options.prefix is not None:
        return options.prefix
    return examples_prefix(options.examples, options.examples_instruction_format, _instruction(options, settings))


def _instruction(options: EmbedOptions, settings: TokenizerSettings) -> str | None:
    if options.instruction is not None:
        return options.instruction
    return settings.passage_instruction if options.input_type == "passage" else settings.query_instruction
