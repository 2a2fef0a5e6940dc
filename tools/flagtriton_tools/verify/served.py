# SPDX-License-Identifier: Apache-2.0
"""Requests to a deployment: token ids from its tokenizer step, vectors and scores from its ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.options.checks import OptionValue
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.tensors import (
    ALL_COMPONENTS,
    COLBERT_LENGTHS,
    COLBERT_VECS,
    DENSE_VECS,
    INPUT_IDS,
    NO_TOKEN,
    PASSAGE,
    QUERY,
    SCORE,
    SPARSE_IDS,
    SPARSE_WEIGHTS,
    TEXT,
    TOKEN_COUNT,
    TensorSpec,
)
from flagtriton.protocol.text import text_tensor
from flagtriton.remote.model import ServedModel

__all__ = ["ServedDeployment"]

_ROWS_OF_A_REQUEST = 16


@dataclass(frozen=True)
class ServedDeployment:
    """One deployment of a running server."""

    model: ServedModel

    @property
    def deployment(self) -> Deployment:
        """The deployment's description, as the server reports it."""
        return self.model.deployment

    def _parameters(self, options: EmbedOptions) -> dict[str, OptionValue]:
        """Return a request's parameters, with explicit values for options whose default the deployment may change."""
        said: dict[str, OptionValue] = {"normalize": True}
        if self.deployment.truncate_dim is not None:
            said["truncate_dim"] = ALL_COMPONENTS
        if options.input_type is None and self.deployment.default_prompt_name is not None:
            said["prompt_name"] = ""
        return {**options.to_parameters(), **said}

    def token_ids(self, texts: Sequence[str], options: EmbedOptions) -> list[list[int]]:
        """Return the token ids of each text from the tokenizer step."""
        step = self.model.companion(f"{self.model.name}_tokenizer")
        (rows,) = _ask(step, {TEXT: texts}, [INPUT_IDS], self._parameters(options))
        return _without_filling(rows)

    def pair_ids(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Return the token ids of each pair from the tokenizer step, which joins it with the instructions."""
        step = self.model.companion(f"{self.model.name}_tokenizer")
        (rows,) = _ask(step, _sides(pairs), [INPUT_IDS], RerankOptions().to_parameters())
        return _without_filling(rows)

    def dense(self, texts: Sequence[str], options: EmbedOptions) -> NDArray[np.float32]:
        """Return the dense vectors, `[B, D]`."""
        (vectors,) = _ask(self.model, {TEXT: texts}, [DENSE_VECS], self._parameters(options))
        return np.concatenate(vectors)

    def by_default(self, texts: Sequence[str], max_length: int | None) -> NDArray[np.float32]:
        """Return the dense vectors of requests without options, except for `max_length` if it is given."""
        parameters = {} if max_length is None else {"max_length": max_length}
        (vectors,) = _ask(self.model, {TEXT: texts}, [DENSE_VECS], parameters)
        return np.concatenate(vectors)

    def token_counts(self, texts: Sequence[str], options: EmbedOptions) -> list[int]:
        """Return the number of encoded tokens of each text."""
        (counts,) = _ask(self.model, {TEXT: texts}, [TOKEN_COUNT], self._parameters(options))
        return [int(count) for part in counts for count in part[:, 0]]

    def lexical(self, texts: Sequence[str], options: EmbedOptions) -> list[dict[int, float]]:
        """Return the lexical weights of each text by token id."""
        parts = _ask(self.model, {TEXT: texts}, [SPARSE_IDS, SPARSE_WEIGHTS], self._parameters(options))
        return [
            {int(token): float(weight) for token, weight in zip(ids, weights, strict=True) if token != NO_TOKEN}
            for part in zip(*parts, strict=True)
            for ids, weights in zip(*part, strict=True)
        ]

    def colbert(self, texts: Sequence[str], options: EmbedOptions) -> list[NDArray[np.float32]]:
        """Return the ColBERT vectors of each text, `[T - 1, C]`."""
        parts = _ask(self.model, {TEXT: texts}, [COLBERT_VECS, COLBERT_LENGTHS], self._parameters(options))
        return [
            vectors[: int(length[0])].astype(np.float32)
            for part in zip(*parts, strict=True)
            for vectors, length in zip(*part, strict=True)
        ]

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return the raw score of each pair, `[P]`, with the deployment's instructions; the last layer's."""
        (scores,) = _ask(self.model, _sides(pairs), [SCORE], RerankOptions().to_parameters())
        return np.concatenate([part.reshape(len(part), -1)[:, -1] for part in scores])


def _sides(pairs: Sequence[tuple[str, str]]) -> dict[TensorSpec, Sequence[str]]:
    return {QUERY: [query for query, _ in pairs], PASSAGE: [passage for _, passage in pairs]}


def _ask(
    model: ServedModel,
    inputs: Mapping[TensorSpec, Sequence[str]],
    outputs: Sequence[TensorSpec],
    parameters: Mapping[str, Any],
) -> list[list[NDArray[Any]]]:
    """Return the arrays of each output, one for each request."""
    count = len(next(iter(inputs.values())))
    rows = min(_ROWS_OF_A_REQUEST, model.max_batch_size)
    replies = [
        model.infer(
            {spec.name: text_tensor(texts[start : start + rows]) for spec, texts in inputs.items()},
            [output.name for output in outputs],
            parameters,
        )
        for start in range(0, count, rows)
    ]
    return [[reply[output.name] for reply in replies] for output in outputs]


def _without_filling(parts: Sequence[NDArray[Any]]) -> list[list[int]]:
    return [[token for token in row if token != NO_TOKEN] for part in parts for row in part.tolist()]
