# SPDX-License-Identifier: Apache-2.0
"""Options of `flagtriton add` that choose the parts of sentence-transformers' files to serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["definition_options"]

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--pooling",
        "pooling_method",
        metavar="METHOD",
        help="cls, mean, last_token, max, mean_sqrt_len, weightedmean; several joined by +.  "
        "[default: the checkpoint's]",
    ),
    click.option(
        "--no-modules",
        "modules",
        is_flag=True,
        flag_value=False,
        default=True,
        help="As FlagEmbedding, leave out what sentence-transformers' files say, except how texts are pooled.",
    ),
    click.option(
        "--prompts/--no-prompts",
        default=None,
        help="Make the checkpoint's query and document prompts its instructions.  "
        "[default: unless the model table has its name]",
    ),
)


def definition_options(command: F) -> F:
    """Return the command with these options added."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
