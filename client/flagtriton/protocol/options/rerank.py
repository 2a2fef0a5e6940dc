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
"""FlagEmbedding's, which has an effect only beside a `compress_ratio` above 1."""

_LISTS: Final = {"cutoff_layers", "compress_layers"}

_CHECKS: Final[dict[str, Check]] = {
    "prompt": a_string,
    "query_instruction": a_string,
    "passage_instruction": a_string,
    "cutoff_layers": whole_numbers(0),
    "compress_layers": whole_numbers(0),
    "compress_ratio": a_whole_number(1, None, "tokens that become one; 1 leaves them"),
}
"""The options that some classes have; the rows of `model_classes` list them."""


@dataclass(frozen=True)
class RerankOptions:
    """The options of one request to a reranker.

    Attributes:
        query_max_length: tokens of a query that are read; None is three quarters of `max_length`.
        max_length: None is the deployment's own. Of an encoder reranker, tokens of a pair, special tokens included; of
            an LLM reranker, tokens of a passage; query and passage together have as many more as the prompt has.
        normalize: send the sigmoid of each score.
        truncate: `END` cuts longer passages (and queries), `NONE` refuses them.
        prompt: what an LLM is asked behind each pair; None is its class's own.
        query_instruction: put before each query; None is the deployment's. Only of LLM rerankers, as what follows.
        passage_instruction: likewise.
        cutoff_layers: the layers whose scores are sent, of the layerwise and the lightweight class; None is the last
            one. As a parameter it is a string such as `8,16`, as is `compress_layers`.
        compress_ratio: neighbouring tokens of a passage that become one, of the lightweight class; 1 leaves them.
        compress_layers: the layers before which that happens.
        bulk: the request is part of a long job, which interactive requests may overtake.
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
            parameters: the request's parameters, as Triton hands them over.
            min_length: the least `max_length` allowed.
            max_length: the greatest allowed: the deployment's.
            model_class: FlagEmbedding's name of it; options that only others have are unknown.

        Raises:
            OptionError: names the option, what came, and what is allowed.
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
