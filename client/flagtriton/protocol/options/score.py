# SPDX-License-Identifier: Apache-2.0
"""The options of a request for BGE-M3's scores of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flagtriton.protocol.options.checks import (
    OptionError,
    OptionValue,
    a_boolean,
    a_string,
    checked,
    different,
    one_of,
    tokens,
)

__all__ = ["ScoreOptions", "check_weights"]


@dataclass(frozen=True)
class ScoreOptions:
    """The options of one request for BGE-M3's scores of pairs.

    Attributes:
        query_max_length: largest number of tokens of a query, special tokens included; None for the default of the
            deployment.
        passage_max_length: largest number of tokens of a passage, special tokens included; None for the default of the
            deployment.
        weights: weights of the dense, the sparse and the ColBERT score in the two means. The parameter is a string such
            as `1,0.3,1`.
        normalize: L2-normalize dense and ColBERT vectors before they are compared.
        truncate: `END` cuts longer texts, `NONE` refuses them.
        bulk: the request is part of a long job, and interactive requests may overtake it.
    """

    query_max_length: int | None = None
    passage_max_length: int | None = None
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    normalize: bool = True
    truncate: str = "END"
    bulk: bool = False

    def to_parameters(self) -> dict[str, OptionValue]:
        """Return the options that differ from their defaults, by name."""
        parameters = different(self)
        if "weights" in parameters:
            parameters["weights"] = ",".join(map(repr, self.weights))
        return parameters

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], *, min_length: int, max_length: int) -> ScoreOptions:
        """Return the options of a request; the arguments are those of `EmbedOptions.from_parameters`.

        Raises:
            OptionError: an option is unknown or not allowed; the message has its name, its value and the allowed
                values.
        """
        length = tokens(min_length, max_length)
        given = checked(
            parameters,
            {
                "query_max_length": length,
                "passage_max_length": length,
                "weights": a_string,
                "normalize": a_boolean,
                "truncate": one_of("END", "NONE"),
                "bulk": a_boolean,
            },
        )
        if "weights" in given:
            given["weights"] = _weights(given["weights"])
        return cls(**given)


def check_weights(weights: Sequence[float]) -> tuple[float, float, float]:
    """Return the weights of the dense, the sparse and the ColBERT score, in this order.

    Raises:
        ValueError: the weights are not three finite numbers of at least 0, or all of them are 0.
    """
    expected = "expected three finite numbers, for dense, sparse and ColBERT, none below 0 and not all of them 0"
    try:
        numbers = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise ValueError(f"weights are {weights!r}; {expected}") from error
    if len(numbers) != 3 or not all(0 <= number < math.inf for number in numbers) or not any(numbers):
        raise ValueError(f"weights are [{', '.join(map(str, weights))}]; {expected}")
    return numbers[0], numbers[1], numbers[2]


def _weights(text: str) -> tuple[float, float, float]:
    try:
        return check_weights([float(number) for number in text.split(",")])
    except ValueError as error:
        raise OptionError(f"option 'weights' is {text!r}; {error}; send them as '1,0.3,1'") from error
