# SPDX-License-Identifier: Apache-2.0
"""The options of a request to a reranker, which travel as Triton request parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flagtriton.protocol.model_classes import model_class_row
from flagtriton.protocol.options.checks import (
    Check,
    OptionValue,
    a_boolean,
    a_string,
    a_whole_number,
    checked,
    different,
    numbers_in,
    one_of,
    tokens,
    whole_numbers,
)

__all__ = ["DEFAULT_COMPRESS_LAYERS", "RerankOptions"]

DEFAULT_COMPRESS_LAYERS: Final = (8,)
"""FlagEmbedding's default, which has an effect only with a `compress_ratio` above 1."""

_LISTS: Final = {"cutoff_layers", "compress_layers"}

_CHECKS: Final[dict[str, Check]] = {
    "prompt": a_string,
    "query_instruction": a_string,
    "passage_instruction": a_string,
    "cutoff_layers": whole_numbers(0),
    "compress_layers": whole_numbers(0),
    "compress_ratio": a_whole_number(1, None, "tokens that become one; 1 leaves them"),
}
"""The options that rerankers of some classes have; the rows of `model_classes` list them."""


@dataclass(frozen=True)
class RerankOptions:
    """The options of one request to a reranker.

    Attributes:
        query_max_length: largest number of tokens of a query; None for three quarters of `max_length`.
        max_length: None for the default of the deployment. For an encoder reranker, the limit of a pair, special tokens
            included. For an LLM reranker, the limit of a passage; query and passage together may exceed it by the
            tokens of the prompt.
        normalize: send the sigmoid of each score.
        truncate: `END` cuts longer passages (and queries), `NONE` refuses them.
        prompt: question to an LLM after each pair; None for the default of its class.
        query_instruction: text before each query; None for that of the deployment. This option and the following belong
            to LLM rerankers.
        passage_instruction: text before each passage; None for that of the deployment.
        cutoff_layers: layers whose scores are sent, for the layerwise and the lightweight class; None for the last
            layer. The parameter is a string such as `8,16`, like that of `compress_layers`.
        compress_ratio: number of neighbouring tokens of a passage that become one, for the lightweight class; 1 for no
            change.
        compress_layers: layers before which the tokens are compressed.
        bulk: the request is part of a long job, and interactive requests may overtake it.
    """

    query_max_length: int | None = None
    max_length: int | None = None
    normalize: bool = False
    truncate: str = "END"
    prompt: str | None = None
    query_instruction: str | None = None
    passage_instruction: str | None = None
    cutoff_layers: tuple[int, ...] | None = None
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = DEFAULT_COMPRESS_LAYERS
    bulk: bool = False

    def to_parameters(self) -> dict[str, OptionValue]:
        """Return the options that differ from their defaults, by name."""
        parameters = different(self)
        for name in _LISTS & parameters.keys():
            parameters[name] = ",".join(map(str, parameters[name]))
        return parameters

    @classmethod
    def from_parameters(
        cls, parameters: Mapping[str, Any], *, min_length: int, max_length: int, model_class: str
    ) -> RerankOptions:
        """Return the options of a request.

        Args:
            parameters: the request's parameters, as Triton provides them.
            min_length: smallest `max_length` allowed.
            max_length: largest `max_length` allowed: that of the deployment.
            model_class: FlagEmbedding's name of the class; options that only other classes have are unknown.

        Raises:
            OptionError: an option is unknown or not allowed; the message has its name, its value and the allowed
                values.
        """
        given = checked(
            parameters,
            {
                "query_max_length": tokens(1, max_length),
                "max_length": tokens(min_length, max_length),
                "normalize": a_boolean,
                "truncate": one_of("END", "NONE"),
                "bulk": a_boolean,
                **{name: _CHECKS[name] for name in model_class_row("rerank", model_class).options},
            },
        )
        for name in _LISTS & given.keys():
            given[name] = numbers_in(given[name])
        return cls(**given)
