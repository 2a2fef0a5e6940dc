# SPDX-License-Identifier: Apache-2.0
"""The ColBERT step: from token vectors to one ColBERT vector for every token except the first. Glue only.

The configuration declares the vectors as FP32. If a request asks for FP16, Triton forwards the FP16 vectors unchanged.
JSON has no FP16, so `generate` could return no vectors if the configuration declared FP16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.parameters import read_settings
from flagtriton.protocol.settings import ColbertSettings
from flagtriton.protocol.tensors import COLBERT_LENGTHS, COLBERT_VECS, HIDDEN_STATES, INPUT_IDS, TensorSpec
from flagtriton_server.backend.requests import PbRequest, StepRequest
from flagtriton_server.backend.responses import PbResponse, respond
from flagtriton_server.errors import RequestError, one_by_one
from flagtriton_server.heads.colbert import colbert_lengths, colbert_vectors, padded_vectors
from flagtriton_server.heads.linear import load_colbert_head
from flagtriton_server.heads.transfer import from_bytes
from flagtriton_server.loading.encoder import encoder_precision
from flagtriton_server.loading.placement import instance_devices
from flagtriton_server.packing.ragged import token_counts

__all__ = ["TritonPythonModel"]

_WIRE_DTYPES: dict[str, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}


@dataclass(frozen=True)
class _ColbertRequest:
    states: torch.Tensor  # [N, D]
    token_counts: NDArray[np.int64]  # [B]
    options: EmbedOptions


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the head.

        Raises:
            ValueError: the checkpoint has no such head, the head has another shape, or the wire's dtype is unknown.
        """
        settings = read_settings(ColbertSettings, args)
        if settings.colbert_dtype not in _WIRE_DTYPES:
            raise ValueError(f"colbert_dtype is {settings.colbert_dtype!r}; expected {' or '.join(_WIRE_DTYPES)}")
        self._precision = encoder_precision(settings.precision, settings.device)
        self._head = load_colbert_head(settings, self._precision, instance_devices(args)[0])
        torch.set_num_threads(1)  # this work is small, and the encoder needs the cores

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Project every request's token vectors."""
        return respond(requests, self._read, self._run)

    def _read(self, request: StepRequest) -> _ColbertRequest:
        counts = token_counts(request.array(INPUT_IDS))
        states = from_bytes(request.array(HIDDEN_STATES), counts, self._precision.computed)
        return _ColbertRequest(states, counts, request.embed_options())

    @torch.inference_mode()
    def _run(self, work: list[_ColbertRequest]) -> list[dict[TensorSpec, NDArray[Any]] | RequestError]:
        return one_by_one(self._answer, work, self._precision.name)

    def _answer(self, work: _ColbertRequest) -> dict[TensorSpec, NDArray[Any]] | RequestError:
        lengths = colbert_lengths(work.token_counts)
        vectors = colbert_vectors(work.states, work.token_counts, self._head, work.options).cpu().numpy()
        try:
            padded = padded_vectors(vectors, lengths, _WIRE_DTYPES[work.options.colbert_dtype])
        except RequestError as error:
            return error
        return {COLBERT_VECS: padded, COLBERT_LENGTHS: lengths.astype(np.int32)[:, None]}
