# SPDX-License-Identifier: Apache-2.0
"""The scorer step of rerankers: from the vectors of a pair to its scores. Glue only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.parameters import read_settings
from flagtriton.protocol.settings import RerankerHeadSettings
from flagtriton.protocol.tensors import HIDDEN_STATES, SCORE, TensorSpec
from flagtriton_server.backend.requests import PbRequest, StepRequest
from flagtriton_server.backend.responses import PbResponse, respond
from flagtriton_server.engines.finite import check_finite
from flagtriton_server.errors import RequestError, one_by_one
from flagtriton_server.heads.transfer import from_bytes
from flagtriton_server.loading.encoder import encoder_precision
from flagtriton_server.loading.placement import instance_devices
from flagtriton_server.steps.reranker_heads import load_reranker_head

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the head.

        Raises:
            ValueError: the checkpoint has no head, a head for several labels, or no token for an LLM's answer.
        """
        self._settings = read_settings(RerankerHeadSettings, args)
        self._precision = precision = encoder_precision(self._settings.precision, self._settings.device)
        self._dtype = torch.float32 if self._settings.scored_in_encoder else precision.computed
        torch.set_num_threads(1)  # small products: more threads would only take the encoder's cores
        self._logits = load_reranker_head(self._settings, precision, instance_devices(args)[0])

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Score every request's pairs."""
        return respond(requests, self._read, self._run)

    def _read(self, request: StepRequest) -> tuple[torch.Tensor, RerankOptions]:
        states = request.array(HIDDEN_STATES)  # [P, K, D * itemsize]
        layers = np.full(len(states), states.shape[1], dtype=np.int64)
        vectors = from_bytes(states, layers, self._dtype).unflatten(0, (len(states), -1))
        return vectors, request.rerank_options(self._settings.model_class)

    @torch.inference_mode()
    def _run(
        self, work: list[tuple[torch.Tensor, RerankOptions]]
    ) -> list[dict[TensorSpec, NDArray[Any]] | RequestError]:
        return one_by_one(lambda item: self._scores(*item), work, self._precision.name)

    def _scores(self, vectors: torch.Tensor, options: RerankOptions) -> dict[TensorSpec, NDArray[Any]] | RequestError:
        try:
            logits = self._logits(vectors, options).cpu()
        except RequestError as error:
            return error
        check_finite(logits, "scores")  # before the sigmoid, which hides an infinity
        return {SCORE: (logits.sigmoid() if options.normalize else logits).numpy()}
