# SPDX-License-Identifier: Apache-2.0
"""The dense and sparse step of BGE-M3: from hidden states to dense vectors and lexical weights. Glue only.

Both take little work compared with the encoder and read the same hidden states, so one process computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.parameters import read_settings
from flagtriton.protocol.settings import DenseSparseSettings
from flagtriton.protocol.tensors import (
    DENSE_VECS,
    DONE,
    HIDDEN_STATES,
    INPUT_IDS,
    SPARSE_IDS,
    SPARSE_WEIGHTS,
    UNWEIGHTED_IDS,
    TensorSpec,
)
from flagtriton_server.backend.requests import PbRequest, StepRequest
from flagtriton_server.backend.responses import PbResponse, done, respond
from flagtriton_server.engines.pooling import pooling_named, to_embedding
from flagtriton_server.errors import RequestError, one_by_one
from flagtriton_server.heads.lexical import lexical_weights, token_weights
from flagtriton_server.heads.linear import load_sparse_head
from flagtriton_server.heads.transfer import from_bytes
from flagtriton_server.loading.encoder import encoder_precision
from flagtriton_server.loading.placement import instance_devices
from flagtriton_server.packing.ragged import token_counts

__all__ = ["TritonPythonModel"]


@dataclass(frozen=True)
class _DenseSparseRequest:
    input_ids: NDArray[np.int32]  # [B, T]
    states: torch.Tensor  # [N, D]
    unweighted: NDArray[np.int32]
    options: EmbedOptions


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Look up the pooling method and load the sparse head.

        Raises:
            ValueError: there is no such method, or the checkpoint has no such head.
        """
        settings = read_settings(DenseSparseSettings, args)
        self._pool, self._normalize = pooling_named(settings.pooling_method), settings.normalize
        self._precision = encoder_precision(settings.precision, settings.device)
        self._head = load_sparse_head(settings, self._precision, instance_devices(args)[0])
        torch.set_num_threads(1)  # a few sums, and a product for each token: the encoder needs the cores

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Pool every request's hidden states and compute the weights of its tokens."""
        return respond(requests, self._read, self._run)

    def _read(self, request: StepRequest) -> _DenseSparseRequest:
        input_ids = request.array(INPUT_IDS)
        states = from_bytes(request.array(HIDDEN_STATES), token_counts(input_ids), self._precision.computed)
        options = request.embed_options(normalize=self._normalize)
        return _DenseSparseRequest(input_ids, states, request.array(UNWEIGHTED_IDS)[0], options)

    @torch.inference_mode()
    def _run(self, work: list[_DenseSparseRequest]) -> list[dict[TensorSpec, NDArray[Any]] | RequestError]:
        return one_by_one(self._answer, work, self._precision.name)

    def _answer(self, work: _DenseSparseRequest) -> dict[TensorSpec, NDArray[Any]]:
        vectors = self._pool(work.states, torch.from_numpy(token_counts(work.input_ids)), None)
        weights = token_weights(work.states, self._head)
        ids, greatest = lexical_weights(work.input_ids, weights, work.unweighted).padded(len(work.input_ids))
        return {
            DENSE_VECS: to_embedding(vectors, work.options),
            SPARSE_IDS: ids,
            SPARSE_WEIGHTS: greatest,
            DONE: done(ids),
        }
