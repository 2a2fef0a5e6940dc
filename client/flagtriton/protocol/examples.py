# SPDX-License-Identifier: Apache-2.0
"""Few-shot examples, and the text that they become before a query; the same on both sides of the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from flagtriton.protocol.instructions import check_fields

__all__ = [
    "DEFAULT_EXAMPLE_FORMAT",
    "DEFAULT_SUFFIX",
    "Example",
    "check_example_format",
    "check_examples",
    "examples_prefix",
    "format_example",
]

DEFAULT_EXAMPLE_FORMAT = "<instruct>{}\n<query>{}\n<response>{}"
DEFAULT_SUFFIX = "\n<response>"
"""The values of bge-en-icl, which are FlagEmbedding's defaults."""

Example: TypeAlias = Mapping[str, Any]
"""The keys `instruct`, `query` and `response`, each of which may be missing."""

_KEYS = ("instruct", "query", "response")


def format_example(example_format: str, instruction: str | None, query: str, response: str) -> str:
    r"""Return one example as text.

    Args:
        example_format: three positional fields: instruction, query, response. A literal backslash-n is a newline.
        instruction: value of the first field; None becomes the text `None`, as in FlagEmbedding.
        query: value of the second field.
        response: value of the third field.

    Raises:
        IndexError: the format has more than three fields.
    """
    return example_format.replace("\\n", "\n").format(instruction, query, response)


def examples_prefix(examples: Sequence[Example] | None, example_format: str, instruction: str | None) -> str:
    """Return the text before a query.

    An empty line follows each example, the last one included. An empty list gives one empty line, and None gives no
    text (docs/reference-behaviour.md#icl-examples).

    Args:
        examples: examples; a missing `query` or `response` is an empty text.
        example_format: format with three fields.
        instruction: instruction of examples without an `instruct`.
    """
    if examples is None:
        return ""
    written = [
        format_example(
            example_format,
            example.get("instruct", instruction),
            example.get("query", ""),
            example.get("response", ""),
        )
        for example in examples
    ]
    return "\n\n".join(written) + "\n\n"


def check_examples(examples: Any, argument: str, *, strict: bool = False) -> list[str]:  # noqa: ANN401 - unchecked
    """Return the keys of examples that have no meaning, if any.

    Args:
        examples: the value to check.
        argument: its name in messages.
        strict: such keys are an error.

    Raises:
        TypeError: the examples are no list, or an example is no dict; the message has its index.
        ValueError: a key has no meaning, and `strict` is set.
    """
    if isinstance(examples, (str, bytes)) or not isinstance(examples, Sequence):
        raise TypeError(f"{argument} is a {type(examples).__name__}; expected a list of dicts with {', '.join(_KEYS)}")
    unknown: set[str] = set()
    for index, example in enumerate(examples):
        if not isinstance(example, Mapping):
            came = f"{example!r} ({type(example).__name__})"
            raise TypeError(f"{argument}[{index}] is {came}; expected a dict with {', '.join(_KEYS)}")
        unknown |= {str(key) for key in example} - set(_KEYS)
    if unknown and strict:
        raise ValueError(f"{argument} has the key {min(unknown)!r}; an example has {', '.join(_KEYS)}")
    return sorted(unknown)


def check_example_format(example_format: str, what: str) -> None:
    """Raise if a format cannot write an example.

    Args:
        example_format: format with three positional fields.
        what: name of the format in messages.

    Raises:
        ValueError: it does not parse, has other fields than three positional ones, or omits a field.
    """
    check_fields(example_format, _KEYS, what)
