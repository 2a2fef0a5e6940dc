# SPDX-License-Identifier: Apache-2.0
"""The encoder step of layerwise rerankers: from rows of token ids to vectors at the requested layers. Glue only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.parameters import instance_count, read_settings
from flagtriton.protocol.settings import LayerwiseSettings
from flagtriton.protocol.tensors import HIDDEN_STATES, INPUT_IDS, PASSAGE_END, PASSAGE_START, TensorSpec
from flagtriton_server.backend.process_tuning import keep_freed_memory, lower_priority
from flagtriton_server.backend.requests import PbRequest, StepRequest
from flagtriton_server.backend.responses import PbResponse
from flagtriton_server.backend.server_log import log_info
from flagtriton_server.engines.encode import check_token_ids
from flagtriton_server.heads.transfer import to_bytes
from flagtriton_server.layerwise.encode import LayerwiseRequest, check_parts, encode_layers
from flagtriton_server.layerwise.loading import load_decoder
from flagtriton_server.loading.placement import instance_devices, limit_threads
from flagtriton_server.steps.queued_encoder import QueuedEncoder

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the checkpoint onto this instance's device."""
        self._settings = read_settings(LayerwiseSettings, args)
        self._queued = QueuedEncoder(args, self._settings, self._read, self._run)
        self._queued.start(lambda: self._load(args))

    def _load(self, args: dict[str, str]) -> None:
        (device,) = instance_devices(args)
        threads = limit_threads(instance_count(args["model_config"]))
        self._decoder = replace(
            load_decoder(self._settings, device), on_forward_pass=self._queued.watch.on_forward_pass
        )
        keep_freed_memory()
        log_info(
            f"{self._settings.checkpoint} on {device} in {self._decoder.precision.name}, packed, "
            f"{threads} threads, {self._settings.token_budget} tokens a pass"
        )
        if device.type == "cpu":
            lower_priority()
            self._queued.enable_layer_preemption(self._decoder.module)

    def execute(self, requests: list[PbRequest]) -> list[PbResponse | None]:
        """Queue the requests. Rows of several requests with equal depth run through the model together."""
        return self._queued.execute(requests)

    def is_ready(self) -> bool:
        """Return whether requests are answered. Triton calls it since python_backend's pull request 430."""
        return self._queued.is_ready()

    def finalize(self) -> None:
        """Answer the requests that wait, then stop."""
        self._queued.finalize()

    def _read(self, request: StepRequest) -> LayerwiseRequest:
        input_ids = request.array(INPUT_IDS)
        starts, ends = request.array(PASSAGE_START), request.array(PASSAGE_END)
        spec = self._decoder.spec
        check_token_ids(input_ids, spec.vocab_size, self._settings.max_length)
        check_parts(input_ids, starts, ends)
        options = request.rerank_options(self._settings.model_class)
        return LayerwiseRequest.of(spec, input_ids, starts, ends, options)

    def _run(self, work: list[LayerwiseRequest]) -> list[dict[TensorSpec, NDArray[np.uint8]]]:
        vectors = encode_layers(self._decoder, work, self._queued.pass_budget())
        return [{HIDDEN_STATES: to_bytes(of_request)} for of_request in vectors]
