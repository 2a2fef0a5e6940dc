# SPDX-License-Identifier: Apache-2.0
"""The pooler step: token vectors to embeddings. Glue only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol import DENSE_VECS, HIDDEN_STATES, INPUT_IDS, PAST_END, EmbedOptions, Tensor
from flagtriton_server import triton_io
from flagtriton_server.pooling import POOLING_METHODS, to_embedding
from flagtriton_server.rejection import RequestError
from flagtriton_server.settings import PoolerSettings, read_settings
from flagtriton_server.triton_io import PbRequest, PbResponse

__all__ = ["TritonPythonModel"]

_NO_LIMIT = 2**31


@dataclass(frozen=True)
class _PoolRequest:
    hidden_states: NDArray[np.float32]  # [B, T, D]
    input_ids: NDArray[np.int32]  # [B, T]
    options: EmbedOptions


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Look up the pooling method.

        Raises:
            ValueError: there is no such method.
        """
        method = read_settings(PoolerSettings, args["model_config"]).pooling_method
        if method not in POOLING_METHODS:
            raise ValueError(f"pooling_method is {method!r}; expected one of {', '.join(POOLING_METHODS)}")
        self._pool = POOLING_METHODS[method]
        torch.set_num_threads(1)  # a few sums: threads would only take the encoder's cores

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Pool every request's token vectors."""
        return triton_io.respond(requests, _read, self._run)

    @torch.inference_mode()
    def _run(self, work: list[_PoolRequest]) -> list[dict[Tensor, NDArray[np.float32]]]:
        return [{DENSE_VECS: self._embeddings(item)} for item in work]

    def _embeddings(self, work: _PoolRequest) -> NDArray[np.float32]:
        mask = torch.from_numpy(work.input_ids != PAST_END)  # [B, T]
        vectors = self._pool(torch.from_numpy(work.hidden_states), mask)  # [B, D]
        options = work.options
        return to_embedding(vectors, truncate_dim=options.truncate_dim, normalize=options.normalize).numpy()


def _read(request: PbRequest) -> _PoolRequest:
    # The tokenizer step has already checked the lengths against the deployment's.
    options = EmbedOptions.from_parameters(triton_io.options(request), min_length=1, max_length=_NO_LIMIT)
    hidden_states, input_ids = triton_io.array(request, HIDDEN_STATES), triton_io.array(request, INPUT_IDS)
    if hidden_states.shape[:2] != input_ids.shape or not hidden_states.size:
        raise RequestError(
            f"hidden_states is {list(hidden_states.shape)} and input_ids {list(input_ids.shape)}; "
            "expected [B, T, D] and [B, T], T and D at least 1"
        )
    return _PoolRequest(hidden_states, input_ids, options)
