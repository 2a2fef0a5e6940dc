# SPDX-License-Identifier: Apache-2.0
"""The scorer step: from token vectors of queries and passages to BGE-M3's five scores of each pair. Glue only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.parameters import read_settings
from flagtriton.protocol.settings import ScorerSettings
from flagtriton.protocol.tensors import (
    PASSAGE_IDS,
    PASSAGE_ROWS,
    PASSAGE_STATES,
    QUERY_IDS,
    QUERY_ROWS,
    QUERY_STATES,
    UNWEIGHTED_IDS,
    TensorSpec,
)
from flagtriton_server.backend.requests import PbRequest, StepRequest
from flagtriton_server.backend.responses import PbResponse, respond
from flagtriton_server.engines.finite import check_finite
from flagtriton_server.engines.pooling import pooling_named, to_embedding
from flagtriton_server.errors import RequestError, one_by_one
from flagtriton_server.heads.colbert import colbert_lengths, colbert_vectors
from flagtriton_server.heads.lexical import lexical_weights, token_weights
from flagtriton_server.heads.linear import load_colbert_head, load_sparse_head
from flagtriton_server.heads.m3_scores import EncodedSide, five_scores
from flagtriton_server.heads.transfer import from_bytes
from flagtriton_server.loading.encoder import encoder_precision
from flagtriton_server.loading.placement import instance_devices
from flagtriton_server.packing.ragged import token_counts

__all__ = ["TritonPythonModel"]


@dataclass(frozen=True)
class _Side:
    """One side of a request's P pairs, as its U distinct texts."""

    input_ids: NDArray[np.int32]  # [U, T]
    states: torch.Tensor  # [N, D]
    texts: NDArray[np.int64]  # [P] index of each pair's text among the U


@dataclass(frozen=True)
class _ScoreRequest:
    queries: _Side
    passages: _Side
    unweighted: NDArray[np.int32]
    options: ScoreOptions


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load both heads.

        Raises:
            ValueError: the checkpoint lacks one of them, or there is no such pooling.
        """
        settings = read_settings(ScorerSettings, args)
        precision, device = encoder_precision(settings.precision, settings.device), instance_devices(args)[0]
        self._precision = precision
        self._pool = pooling_named(settings.pooling_method)
        self._sparse_head = load_sparse_head(settings, precision, device)
        self._colbert_head = load_colbert_head(settings, precision, device)
        torch.set_num_threads(1)  # this work is small, and the encoder needs the cores

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Score every request's pairs."""
        return respond(requests, self._read, self._run)

    def _read(self, request: StepRequest) -> _ScoreRequest:
        options = request.score_options()
        return _ScoreRequest(
            self._read_side(request, QUERY_IDS, QUERY_ROWS, QUERY_STATES),
            self._read_side(request, PASSAGE_IDS, PASSAGE_ROWS, PASSAGE_STATES),
            request.array(UNWEIGHTED_IDS)[0],
            options,
        )

    def _read_side(self, request: StepRequest, ids: TensorSpec, rows: TensorSpec, states: TensorSpec) -> _Side:
        input_ids, first_rows = request.array(ids), request.array(rows).reshape(-1)
        distinct, texts = np.unique(first_rows, return_inverse=True)
        counts = token_counts(input_ids)
        if distinct[0] < 0 or distinct[-1] >= len(counts) or counts[distinct].sum() != counts.sum():
            raise RequestError(
                f"{rows.name} names rows {distinct.tolist()} of {len(counts)}; expected all those of {ids.name} that "
                "have tokens"
            )
        vectors = from_bytes(request.array(states), counts, self._precision.computed)
        return _Side(input_ids[distinct], vectors, texts)

    @torch.inference_mode()
    def _run(self, work: list[_ScoreRequest]) -> list[dict[TensorSpec, NDArray[Any]] | RequestError]:
        return one_by_one(self._scores, work, self._precision.name)

    def _scores(self, work: _ScoreRequest) -> dict[TensorSpec, NDArray[Any]]:
        options = EmbedOptions(normalize=work.options.normalize)
        queries, passages = (self._encoded(side, work.unweighted, options) for side in (work.queries, work.passages))
        scores = five_scores(queries, passages, work.options.weights)
        for spec, values in scores.items():
            check_finite(values, f"{spec.name} scores")
        return {spec: values[:, None] for spec, values in scores.items()}

    def _encoded(self, side: _Side, unweighted: NDArray[np.int32], options: EmbedOptions) -> EncodedSide:
        counts = token_counts(side.input_ids)
        vectors = colbert_vectors(side.states, counts, self._colbert_head, options)
        return EncodedSide(
            side.texts,
            to_embedding(self._pool(side.states, torch.from_numpy(counts)), options),
            lexical_weights(side.input_ids, token_weights(side.states, self._sparse_head), unweighted),
            list(vectors.split(colbert_lengths(counts).tolist())),
        )
