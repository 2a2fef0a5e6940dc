# SPDX-License-Identifier: Apache-2.0
"""How an instruction and a text become one text; the same function on both sides of the wire."""

from __future__ import annotations

__all__ = ["apply_instruction", "check_instruction_format"]


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


def check_instruction_format(instruction_format: str) -> None:
    """Raise where a format cannot join an instruction and a text.

    Raises:
        ValueError: it does not parse, wants other fields than two positional ones, or leaves the text out.
    """
    probe = "\N{BLACK STAR}"
    try:
        joined = apply_instruction(instruction_format, "", probe)
    except (IndexError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{instruction_format!r} has other fields than two '{{}}': {error}") from error
    if probe not in joined:
        raise ValueError(f"{instruction_format!r} leaves the text out; expected two '{{}}', instruction and text")
