# SPDX-License-Identifier: Apache-2.0
"""The encoder step: ragged token ids to hidden states. Glue only."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from flagtriton.protocol import HIDDEN_STATES, INPUT_IDS, Tensor
from flagtriton_server import triton_io
from flagtriton_server.encoding import check_token_ids, encode_rows
from flagtriton_server.loading import load_encoder, share_cores
from flagtriton_server.settings import EncoderSettings, instance_count, read_settings
from flagtriton_server.triton_io import PbRequest, PbResponse

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the checkpoint onto this instance's device."""
        self._settings = read_settings(EncoderSettings, args["model_config"])
        gpu = args["model_instance_kind"] == "GPU"
        device = torch.device("cuda", int(args["model_instance_device_id"])) if gpu else torch.device("cpu")
        threads = share_cores(instance_count(args["model_config"]))
        self._encoder = load_encoder(self._settings, device)
        triton_io.log_info(
            f"{self._settings.checkpoint} on {device} in {self._encoder.precision.name}, {threads} threads, "
            f"{self._settings.token_budget} tokens a pass"
        )

    def execute(self, requests: list[PbRequest]) -> list[PbResponse]:
        """Run all requests' rows through the model together."""
        return triton_io.respond(requests, self._read, self._run)

    def _read(self, request: PbRequest) -> NDArray[np.int32]:
        input_ids = triton_io.array(request, INPUT_IDS)
        check_token_ids(input_ids, self._encoder.vocab_size, self._settings.max_length)
        return input_ids

    def _run(self, requests: list[NDArray[np.int32]]) -> list[dict[Tensor, NDArray[np.float32]]]:
        outputs = encode_rows(self._encoder, requests, self._settings.token_budget)
        return [{HIDDEN_STATES: hidden_states} for hidden_states in outputs]
