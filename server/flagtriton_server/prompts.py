# SPDX-License-Identifier: Apache-2.0
"""Which instruction a deployment puts before a text. Pure; knows nothing of tokens."""

from __future__ import annotations

from flagtriton.instructions import apply_instruction
from flagtriton.options import EmbedOptions
from flagtriton_server.settings import TokenizerSettings

__all__ = ["instructed"]


def instructed(texts: list[str], options: EmbedOptions, settings: TokenizerSettings) -> list[str]:
    """Return the texts behind the instruction that the request or, failing that, the deployment names.

    Without an `input_type`, or with none of the two instructions, texts stay as they are. An empty instruction
    still applies the format, as in FlagEmbedding.
    """
    if options.input_type is None:
        return texts
    defaults = {
        "query": (settings.query_instruction_format, settings.query_instruction),
        "passage": (settings.passage_instruction_format, settings.passage_instruction),
    }
    instruction_format, default = defaults[options.input_type]
    instruction = default if options.instruction is None else options.instruction
    if instruction is None:
        return texts
    return [apply_instruction(instruction_format, instruction, text) for text in texts]
