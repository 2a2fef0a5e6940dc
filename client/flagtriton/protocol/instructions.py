# SPDX-License-Identifier: Apache-2.0
"""How an instruction and a text become one text; the same function on both sides of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

__all__ = ["apply_instruction", "check_fields", "check_instruction_format"]


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


def check_instruction_format(instruction_format: str, what: str = "the instruction format") -> None:
    """Raise where a format cannot join an instruction and a text.

    Args:
        instruction_format: two positional fields.
        what: what messages call it.

    Raises:
        ValueError: it does not parse, wants other fields than two positional ones, or leaves the text out.
    """
    check_fields(instruction_format, ("instruction", "text"), what, needed=("text",))


def check_fields(text_format: str, fields: Sequence[str], what: str, needed: Sequence[str] | None = None) -> None:
    """Raise where a format has other fields than these, plain and positional.

    Args:
        text_format: for `str.format`.
        fields: what its `{}` are, in order.
        what: what messages call it.
        needed: those that must not be left out; None is all of them.

    Raises:
        ValueError: it does not parse, leaves a field out, or has another: one more, one with a name, a width, a
            conversion or an attribute.
    """
    expected = f"expected {len(fields)} '{{}}': {', '.join(fields)}"
    try:
        filled = [part[1:] for part in Formatter().parse(text_format) if part[1] is not None]
        if any(width or conversion or (name and not name.isdecimal()) for name, width, conversion in filled):
            raise ValueError("plain ones only")
        text_format.format(*fields)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{what} is {text_format!r}, which has other fields ({error}); {expected}") from error
    numbers = {int(name) if name else place for place, (name, _, _) in enumerate(filled)}
    for number, name in enumerate(fields):
        if number not in numbers and (needed is None or name in needed):
            raise ValueError(f"{what} is {text_format!r}, which leaves the {name} out; {expected}")
