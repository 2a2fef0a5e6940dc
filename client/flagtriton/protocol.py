# SPDX-License-Identifier: Apache-2.0
"""The contract between SDK, server and repository: tensors, deployment parameters, request options.

All three import this one module. It knows nothing of torch, tritonclient or Triton's Python backend.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "DEFAULT_MAX_LENGTH",
    "DENSE_VECS",
    "HIDDEN_STATES",
    "INPUT_IDS",
    "PAST_END",
    "TEXT",
    "TOKEN_COUNT",
    "Deployment",
    "EmbedOptions",
    "OptionError",
    "OptionValue",
    "Tensor",
]

OptionValue: TypeAlias = str | int | bool
"""What a Triton request parameter can hold."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the contract; `dims` without the batch dimension, -1 where the length varies."""

    name: str
    datatype: str
    dims: tuple[int, ...]


TEXT = Tensor("text", "BYTES", (1,))
"""One text a row, UTF-8."""

TOKEN_COUNT = Tensor("token_count", "INT32", (1,))
"""How many tokens of a text were encoded, its special tokens included."""

INPUT_IDS = Tensor("input_ids", "INT32", (-1,))
"""`[B, T]` token ids, each row filled up with `PAST_END` behind its last token."""

HIDDEN_STATES = Tensor("hidden_states", "UINT8", (-1, -1))
"""`[B, R, D * itemsize]` last hidden states as bytes, in the dtype the encoder computes in.

The vectors of a request's B texts lie end to end as its first B times R rows. How many a text has is the pair of
steps' own affair: all its tokens, or the one that pooling reads.
"""

DENSE_VECS = Tensor("dense_vecs", "FP32", (-1,))
"""`[B, D]` embeddings; unit vectors unless `normalize` is false."""

PAST_END = -1
DEFAULT_MAX_LENGTH = 512

# What Triton itself puts among, or reserves in, a request's parameters.
_TRITONS_PREFIXES = ("sequence_", "triton_")
_TRITONS_NAMES = frozenset({"binary_data_output", "headers", "id", "priority", "timeout"})


Check: TypeAlias = Callable[[str, object], None]
"""Takes an option's name and the value that came; raises `OptionError` where it is not allowed."""


class OptionError(ValueError):
    """A request option is unknown, or its value is not allowed."""


@dataclass(frozen=True)
class Deployment:
    """What one public ensemble serves, as its `config.pbtxt` parameters say.

    Attributes:
        task: `embed` or `rerank`.
        model_class: FlagEmbedding's name of the class, e.g. `encoder-only-base`.
        checkpoint: local folder or hub name the weights come from.
        pooling_method: `cls`, `mean` or `last_token`.
        max_length: the most tokens of a text, special tokens included, that a request may ask for.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        device: `cpu`, or `gpu:` and the GPUs' numbers.
        attention: `packed` where texts go through the model end to end, `padded` where they are filled up to the
            longest beside them; None where the checkpoint was not at hand when it was added.
        hidden_size: D; None where the checkpoint was not at hand when it was added.
        query_instruction: put before texts sent with `input_type=query`; likewise `passage_instruction`.
    """

    task: str
    model_class: str
    checkpoint: str
    pooling_method: str
    max_length: int
    precision: str
    device: str
    attention: str | None = None
    hidden_size: int | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    query_instruction: str | None = None
    query_instruction_format: str = "{}{}"
    passage_instruction: str | None = None
    passage_instruction_format: str = "{}{}"


@dataclass(frozen=True)
class EmbedOptions:
    """The options of one embedding request, which travel as Triton request parameters.

    Attributes:
        max_length: tokens of a text that are encoded, special tokens included; None is the deployment's own.
        input_type: `query` or `passage` puts the deployment's instruction for it before every text.
        instruction: replaces the deployment's instruction; needs an `input_type`, whose format it is put into.
        normalize: L2-normalise the vectors.
        truncate_dim: keep the first so many components, before normalising.
        truncate: `END` cuts longer texts behind `max_length` tokens, `NONE` refuses them.
    """

    max_length: int | None = None
    input_type: str | None = None
    instruction: str | None = None
    normalize: bool = True
    truncate_dim: int | None = None
    truncate: str = "END"

    def to_parameters(self) -> dict[str, OptionValue]:
        """Return the options that differ from their defaults, by name."""
        fields = dataclasses.fields(self)
        return {f.name: value for f in fields if (value := getattr(self, f.name)) != f.default}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], *, min_length: int, max_length: int) -> EmbedOptions:
        """Return the options of a request.

        Args:
            parameters: the request's parameters, as Triton hands them over.
            min_length: the least `max_length` allowed: the tokenizer's special tokens, or 1.
            max_length: the greatest allowed: the deployment's.

        Raises:
            OptionError: names the option, what came, and what is allowed.
        """
        checks: dict[str, Check] = {
            "max_length": _whole_number(min_length, max_length, "tokens, this deployment's limits"),
            "input_type": _one_of("query", "passage"),
            "instruction": _text,
            "normalize": _true_or_false,
            "truncate_dim": _whole_number(1, None, "components"),
            "truncate": _one_of("END", "NONE"),
        }
        given = {name: value for name, value in parameters.items() if not _is_tritons(name)}
        for name, value in given.items():
            if name not in checks:
                raise OptionError(f"unknown option {name!r}; this model has {', '.join(sorted(checks))}")
            checks[name](name, value)
        options = cls(**given)
        if options.instruction is not None and options.input_type is None:
            raise OptionError("option 'instruction' came without 'input_type'; send 'query' or 'passage' with it")
        return options


def _is_tritons(name: str) -> bool:
    return name in _TRITONS_NAMES or name.startswith(_TRITONS_PREFIXES)


def _whole_number(least: int, most: int | None, unit: str) -> Check:
    allowed = f"from {least} to {most}" if most is not None else f"of at least {least}"
    limit = math.inf if most is None else most

    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= limit:
            raise OptionError(f"option {name!r} is {value!r}; expected a whole number {allowed} ({unit})")

    return check


def _one_of(*choices: str) -> Check:
    def check(name: str, value: object) -> None:
        if value not in choices:
            raise OptionError(f"option {name!r} is {value!r}; expected one of {', '.join(map(repr, choices))}")

    return check


def _true_or_false(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise OptionError(f"option {name!r} is {value!r}; expected true or false, as a boolean")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise OptionError(f"option {name!r} is {value!r}; expected a string")
