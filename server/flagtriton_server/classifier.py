# SPDX-License-Identifier: Apache-2.0
"""The scorer step of encoder rerankers: a pair's first token vector to its score. Glue only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.options import RerankOptions
from flagtriton.protocol import HIDDEN_STATES, SCORE, Tensor
from flagtriton_server import triton_io
from flagtriton_server.classification import load_classifier
from flagtriton_server.hidden_states import from_bytes
from flagtriton_server.loading import encoder_precision
from flagtriton_server.placement import instance_devices
from flagtriton_server.settings import HeadSettings, read_settings
from flagtriton_server.triton_io import PbRequest, PbResponse

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the head.

        Raises:
            ValueError: the checkpoint has none, or one for several labels.
        """
        settings = read_settings(HeadSettings, args["model_config"])
        precision = encoder_precision(settings.precision, settings.device)
        self._dtype = precision.computed
        torch.set_num_threads(1)  # two small products: threads would only take the encoder's cores
        self._classify = load_classifier(settings, precision, instance_devices(args)[0])

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Score every request's pairs."""
        return triton_io.respond(requests, self._read, self._run)

    def _read(self, request: PbRequest) -> tuple[torch.Tensor, RerankOptions]:
        states = triton_io.array(request, HIDDEN_STATES)
        lengths = np.ones(len(states), dtype=np.int64)
        return from_bytes(states, lengths, self._dtype), triton_io.rerank_options(request)

    @torch.inference_mode()
    def _run(self, work: list[tuple[torch.Tensor, RerankOptions]]) -> list[dict[Tensor, NDArray[Any]]]:
        logits = self._classify(torch.cat([states for states, _ in work])).cpu()  # [P]
        parts = logits.split([len(states) for states, _ in work])
        return [
            {SCORE: (part.sigmoid() if options.normalize else part).numpy()[:, None]}
            for part, (_, options) in zip(parts, work, strict=True)
        ]
