# SPDX-License-Identifier: Apache-2.0
"""The sparse step: token vectors to lexical weights. Glue only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol.settings import HeadSettings, read_settings
from flagtriton.protocol.tensors import (
    DONE,
    HIDDEN_STATES,
    INPUT_IDS,
    SPARSE_IDS,
    SPARSE_WEIGHTS,
    UNWEIGHTED_IDS,
    Tensor,
)
from flagtriton_server.backend import triton_io
from flagtriton_server.backend.triton_io import PbRequest, PbResponse
from flagtriton_server.errors import RequestError, one_by_one
from flagtriton_server.heads.lexical import lexical_weights, token_weights
from flagtriton_server.heads.linear import load_sparse_head
from flagtriton_server.heads.transfer import from_bytes
from flagtriton_server.loading.encoder import encoder_precision
from flagtriton_server.loading.placement import instance_devices
from flagtriton_server.packing.ragged import token_counts

__all__ = ["TritonPythonModel"]


@dataclass(frozen=True)
class _SparseRequest:
    input_ids: NDArray[np.int32]  # [B, T]
    states: torch.Tensor  # [N, D]
    unweighted: NDArray[np.int32]


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the head.

        Raises:
            ValueError: the checkpoint has no such head.
        """
        settings = read_settings(HeadSettings, args)
        self._precision = encoder_precision(settings.precision, settings.device)
        self._head = load_sparse_head(settings, self._precision, instance_devices(args)[0])
        torch.set_num_threads(1)  # one product a token: threads would only take the encoder's cores

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Weigh every request's tokens."""
        return triton_io.respond(requests, self._read, self._run)

    def _read(self, request: PbRequest) -> _SparseRequest:
        input_ids = triton_io.array(request, INPUT_IDS)
        states = from_bytes(triton_io.array(request, HIDDEN_STATES), token_counts(input_ids), self._precision.computed)
        return _SparseRequest(input_ids, states, triton_io.array(request, UNWEIGHTED_IDS)[0])

    @torch.inference_mode()
    def _run(self, work: list[_SparseRequest]) -> list[dict[Tensor, NDArray[Any]] | RequestError]:
        return one_by_one(self._weights, work, self._precision.name)

    def _weights(self, work: _SparseRequest) -> dict[Tensor, NDArray[Any]]:
        weights = token_weights(work.states, self._head)
        ids, greatest = lexical_weights(work.input_ids, weights, work.unweighted).padded(len(work.input_ids))
        return {SPARSE_IDS: ids, SPARSE_WEIGHTS: greatest, DONE: triton_io.done(ids)}
