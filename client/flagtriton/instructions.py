# SPDX-License-Identifier: Apache-2.0
"""How an instruction and a text become one text; the same function on both sides of the wire."""

from __future__ import annotations

__all__ = ["apply_instruction"]


def apply_instruction(instruction_format: str, instruction: str, text: str) -> str:
    r"""Return `text` behind its instruction.

    Args:
        instruction_format: two positional fields, e.g. `"Instruct: {}\nQuery: {}"`. A literal backslash-n in
            it, as command lines and configuration files hand it over, is a newline.
        instruction: put into the first field as it is. An empty one still applies the format.
        text: put into the second field.

    Raises:
        IndexError: the format has more than two fields.

    The rule is that of `get_detailed_instruct` in FlagEmbedding 1.4.2.
    """
    return instruction_format.replace("\\n", "\n").format(instruction, text)
