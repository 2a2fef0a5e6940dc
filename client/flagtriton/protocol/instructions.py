# SPDX-License-Identifier: Apache-2.0
"""Joins an instruction and a text into one text; the same function on both sides of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

__all__ = ["apply_instruction", "check_fields", "check_instruction_format"]


def apply_instruction(instruction_format: str, instruction: str, text: str) -> str:
    r"""Return `text` after its instruction.

    Args:
        instruction_format: two positional fields, e.g. `"Instruct: {}\nQuery: {}"`. A literal backslash-n, which
            command lines and configuration files give, is a newline.
        instruction: value of the first field, unchanged. An empty instruction still applies the format.
        text: value of the second field.

    Raises:
        IndexError: the format has more than two fields.

    The rule is that of `get_detailed_instruct` in FlagEmbedding 1.4.2.
    """
    return instruction_format.replace("\\n", "\n").format(instruction, text)


def check_instruction_format(instruction_format: str, what: str = "the instruction format") -> None:
    """Raise if a format cannot join an instruction and a text.

    Args:
        instruction_format: format with two positional fields.
        what: name of the format in messages.

    Raises:
        ValueError: it does not parse, has other fields than two positional ones, or omits the text.
    """
    check_fields(instruction_format, ("instruction", "text"), what, needed=("text",))


def check_fields(text_format: str, fields: Sequence[str], what: str, needed: Sequence[str] | None = None) -> None:
    """Raise if a format has other fields than the given plain, positional ones.

    Args:
        text_format: a format for `str.format`.
        fields: meanings of its `{}`, in order.
        what: name of the format in messages.
        needed: fields that must be present; None for all of them.

    Raises:
        ValueError: it does not parse, omits a field, or has another field. Such a field is one too many, or one with a
            name, a width, a conversion or an attribute.
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
