# SPDX-License-Identifier: Apache-2.0
"""The encoder step: from ragged token ids to hidden states, or to embeddings if it also pools. Glue only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.parameters import instance_count, read_settings
from flagtriton.protocol.settings import EncoderSettings
from flagtriton.protocol.tensors import (
    DENSE_VECS,
    HIDDEN_STATES,
    INPUT_IDS,
    PASSAGE_IDS,
    PASSAGE_START,
    PASSAGE_STATES,
    PROMPT_LENGTH,
    TensorSpec,
)
from flagtriton_server.backend.process_tuning import keep_freed_memory, lower_priority
from flagtriton_server.backend.requests import PbRequest, StepRequest
from flagtriton_server.backend.responses import PbResponse
from flagtriton_server.backend.server_log import log_info
from flagtriton_server.engines.base import LoadedEncoder
from flagtriton_server.engines.encode import check_token_ids, encode, encode_pooled
from flagtriton_server.engines.pooling import ROW_CHOICES, Pooling, pooling_named, to_embedding
from flagtriton_server.engines.pseudo_moe import use_domain
from flagtriton_server.errors import RequestError, one_by_one
from flagtriton_server.heads.dense import load_chain
from flagtriton_server.heads.transfer import to_bytes
from flagtriton_server.loading.encoder import load_encoder
from flagtriton_server.loading.placement import instance_devices, limit_threads
from flagtriton_server.packing.ragged import token_counts
from flagtriton_server.sentence_transformers.check import check_definition
from flagtriton_server.steps.queued_encoder import QueuedEncoder

__all__ = ["TritonPythonModel"]


@dataclass(frozen=True)
class _EncodeRequest:
    input_ids: NDArray[np.int32]  # [B, T]
    options: EmbedOptions  # defaults if this step reads no options
    second_parts: NDArray[np.int32] | None = None  # [B, 1] index of the first token of a pair's passage
    prompt_lengths: NDArray[np.int32] | None = None  # [B, 1] number of first tokens that are not pooled
    passage_ids: NDArray[np.int32] | None = None  # [B, T'] of passages, if `input_ids` are those of queries

    @property
    def texts(self) -> dict[TensorSpec, NDArray[np.int32]]:
        """The token ids, by the tensor in which their hidden states are sent."""
        passages = {} if self.passage_ids is None else {PASSAGE_STATES: self.passage_ids}
        return {HIDDEN_STATES: self.input_ids, **passages}

    @property
    def rows(self) -> int:
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        return sum(int(token_counts(ids).sum()) for ids in self.texts.values())


_RAISED_BY_MODELS = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""Exceptions that code of a checkpoint raises for an unknown domain."""

_Answer: TypeAlias = "dict[TensorSpec, NDArray[Any]] | RequestError"


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the checkpoint onto this instance's device.

        Raises:
            ValueError: the settings ask for unknown rows or an unknown pooling.
        """
        self._settings = read_settings(EncoderSettings, args)
        self._pool = _reduction(self._settings)
        self._queued = QueuedEncoder(args, self._settings, self._read, self._run)
        self._queued.start(lambda: self._load(args))

    def _load(self, args: dict[str, str]) -> None:
        settings = self._settings
        if not (settings.token_types or settings.scores):  # it is no reranker
            name = args["model_name"].removesuffix("_encoder")
            check_definition(settings.checkpoint, settings.revision, settings.definition, name)
        self._chain = load_chain(settings.modules, settings.checkpoint, settings.revision)
        devices = instance_devices(args, settings.shard)
        threads = limit_threads(instance_count(args["model_config"]))
        self._encoder = replace(
            load_encoder(self._settings, *devices), on_forward_pass=self._queued.watch.on_forward_pass
        )
        keep_freed_memory()  # only now: loading frees half of the weights' size, which would be kept, too
        log_info(
            f"{self._settings.checkpoint} on {', '.join(map(str, devices))} in {self._encoder.precision.name}, "
            f"{'packed' if self._encoder.packed else 'padded'}, "
            f"{threads} threads, {self._settings.token_budget} tokens a pass"
        )
        if self._encoder.device.type == "cpu":
            lower_priority()
        # A domain is a state of the module. Another request must not run in that state.
        if self._encoder.packed and self._encoder.device.type == "cpu" and not self._settings.pseudo_moe:
            self._queued.enable_layer_preemption(self._encoder.module)

    def execute(self, requests: list[PbRequest]) -> list[PbResponse | None]:
        """Queue the requests. Rows of several requests run through the model together."""
        return self._queued.execute(requests)

    def is_ready(self) -> bool:
        """Return whether requests are answered. Triton calls it since python_backend's pull request 430."""
        return self._queued.is_ready()

    def finalize(self) -> None:
        """Answer the requests that wait, then stop."""
        self._queued.finalize()

    def _read(self, request: StepRequest) -> _EncodeRequest:
        input_ids = request.array(INPUT_IDS)
        check_token_ids(input_ids, self._encoder.vocab_size, self._settings.max_length)
        if self._settings.token_types:
            return _EncodeRequest(input_ids, EmbedOptions(), request.array(PASSAGE_START))
        if request.has(PASSAGE_IDS):
            passage_ids = request.array(PASSAGE_IDS)
            check_token_ids(passage_ids, self._encoder.vocab_size, self._settings.max_length)
            return _EncodeRequest(input_ids, EmbedOptions(), passage_ids=passage_ids)
        reads_options = self._settings.pooling_method is not None or self._settings.pseudo_moe
        if not reads_options:
            return _EncodeRequest(input_ids, EmbedOptions())
        prompt_lengths = request.array(PROMPT_LENGTH) if self._settings.skip_prompts else None
        options = request.embed_options(normalize=self._settings.normalize, truncate_dim=self._settings.truncate_dim)
        return _EncodeRequest(input_ids, options, prompt_lengths=prompt_lengths)

    def _run(self, work: list[_EncodeRequest]) -> list[_Answer]:
        answers: dict[int, _Answer] = {}
        for domain in dict.fromkeys(item.options.domain for item in work):
            places = [place for place, item in enumerate(work) if item.options.domain == domain]
            answers.update(zip(places, self._in_domain(domain, [work[place] for place in places]), strict=True))
        return [answers[place] for place in range(len(work))]

    def _in_domain(self, domain: str | None, work: list[_EncodeRequest]) -> Sequence[_Answer]:
        if domain is None:
            return self._answers(self._encoder, work)
        try:
            with use_domain(self._encoder, domain) as encoder:
                return self._answers(encoder, work)
        except _RAISED_BY_MODELS as error:
            return [RequestError(f"option 'domain' is {domain!r}, which this model refuses: {error!r}")] * len(work)

    def _answers(self, encoder: LoadedEncoder, work: list[_EncodeRequest]) -> list[_Answer]:
        budget = self._queued.pass_budget()
        if self._pool is None:
            states = iter(encode(encoder, [ids for item in work for ids in item.texts.values()], budget))
            return [{tensor: to_bytes(next(states)) for tensor in item.texts} for item in work]
        requests = [item.input_ids for item in work]
        second_parts = [item.second_parts for item in work if item.second_parts is not None]
        skipped = [item.prompt_lengths for item in work if item.prompt_lengths is not None]
        vectors = encode_pooled(encoder, requests, budget, self._pool, second_parts or None, skipped or None)
        if self._settings.pooling_method is None:
            return [{HIDDEN_STATES: to_bytes(rows.unsqueeze(1))} for rows in vectors]
        pseudo_moe = self._settings.pseudo_moe
        return one_by_one(
            lambda part: {DENSE_VECS: to_embedding(self._chain(part[0]), part[1].options, pseudo_moe=pseudo_moe)},
            zip(vectors, work, strict=True),
            encoder.precision.name,
        )


def _reduction(settings: EncoderSettings) -> Pooling | None:
    """Return the pooling that reduces a text to one row, or None if all hidden states are sent."""
    if settings.pooling_method is not None:
        return pooling_named(settings.pooling_method)
    if settings.rows not in ROW_CHOICES:
        raise ValueError(f"rows is {settings.rows!r}; expected one of {', '.join(ROW_CHOICES)}")
    return ROW_CHOICES[settings.rows]
