# SPDX-License-Identifier: Apache-2.0
"""The pooler step: from token vectors to embeddings. Glue only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.parameters import read_settings
from flagtriton.protocol.settings import PoolerSettings
from flagtriton.protocol.tensors import DENSE_VECS, HIDDEN_STATES, INPUT_IDS, PROMPT_LENGTH, TensorSpec
from flagtriton_server.backend.requests import PbRequest, StepRequest
from flagtriton_server.backend.responses import PbResponse, respond
from flagtriton_server.engines.pooling import pooling_named, to_embedding
from flagtriton_server.errors import RequestError, one_by_one
from flagtriton_server.heads.dense import load_chain
from flagtriton_server.heads.transfer import from_bytes
from flagtriton_server.loading.encoder import encoder_precision
from flagtriton_server.packing.ragged import token_counts

__all__ = ["TritonPythonModel"]


@dataclass(frozen=True)
class _PoolRequest:
    states: torch.Tensor  # [N, D]
    lengths: NDArray[np.int64]  # [B] rows of each text
    options: EmbedOptions
    prompt_lengths: NDArray[np.int32] | None = None  # [B] number of first rows that are not pooled


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Look up the pooling method, and load the modules that follow it.

        Raises:
            ValueError: there is no such method, or the files of a module do not fit.
        """
        settings = read_settings(PoolerSettings, args)
        self._pool = pooling_named(settings.pooling_method)
        self._chain = load_chain(settings.modules, settings.checkpoint, settings.revision)
        self._normalize, self._truncate_dim = settings.normalize, settings.truncate_dim
        self._skips_prompts = settings.skip_prompts
        self._pseudo_moe = settings.pseudo_moe
        self._one_row = settings.rows != "all"
        self._precision = encoder_precision(settings.precision, settings.device)
        torch.set_num_threads(1)  # a few sums: more threads would only take the encoder's cores

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Pool every request's token vectors."""
        return respond(requests, self._read, self._run)

    def _read(self, request: StepRequest) -> _PoolRequest:
        lengths = token_counts(request.array(INPUT_IDS))
        if self._one_row:
            lengths = np.ones_like(lengths)  # a text without tokens also has one row, of zeros
        states = from_bytes(request.array(HIDDEN_STATES), lengths, self._precision.computed)
        prompt_lengths = request.array(PROMPT_LENGTH).reshape(-1) if self._skips_prompts else None
        options = request.embed_options(normalize=self._normalize, truncate_dim=self._truncate_dim)
        return _PoolRequest(states, lengths, options, prompt_lengths)

    @torch.inference_mode()
    def _run(self, work: list[_PoolRequest]) -> list[dict[TensorSpec, NDArray[np.float32]] | RequestError]:
        return one_by_one(self._answer, work, self._precision.name)

    def _answer(self, work: _PoolRequest) -> dict[TensorSpec, NDArray[np.float32]]:
        skipped = None if work.prompt_lengths is None else torch.from_numpy(work.prompt_lengths)
        vectors = self._pool(work.states, torch.from_numpy(work.lengths), skipped)
        return {DENSE_VECS: to_embedding(self._chain(vectors), work.options, pseudo_moe=self._pseudo_moe)}
