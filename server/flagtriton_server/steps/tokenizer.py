# SPDX-License-Identifier: Apache-2.0
"""The tokenizer step: from texts or pairs of texts to ragged token ids, and from token ids to tokens. Glue only."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flagtriton.protocol.model_classes import EmbedderModelClass
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.rerank import RerankOptions
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.parameters import all_instances, read_settings
from flagtriton.protocol.runtime_files import flag_path
from flagtriton.protocol.settings import QueueLimits, TokenizerSettings
from flagtriton.protocol.tensors import (
    INPUT_IDS,
    PASSAGE,
    PASSAGE_IDS,
    PROMPT_LENGTH,
    QUERY,
    QUERY_IDS,
    TEXT,
    TOKEN,
    TOKEN_ID,
    UNWEIGHTED_IDS,
    TensorSpec,
)
from flagtriton.protocol.text import text_tensor
from flagtriton_server.backend.backpressure import BackpressureFlag
from flagtriton_server.backend.metrics import StepMetrics
from flagtriton_server.backend.requests import PbRequest, StepRequest
from flagtriton_server.backend.responses import PbResponse
from flagtriton_server.backend.server_log import log_info
from flagtriton_server.errors import RequestError
from flagtriton_server.steps.base import QueuedStep
from flagtriton_server.tokenize.cross_encoder_inputs import RerankBatch, encode_pairs
from flagtriton_server.tokenize.distinct_pairs import DistinctTexts, PairBatch
from flagtriton_server.tokenize.icl_queries import QueryBatch, encode_queries
from flagtriton_server.tokenize.instructions import example_text, instructed, pairs_instructed, prompt_before
from flagtriton_server.tokenize.llm_reranker_inputs import PromptedBatch, encode_prompted_pairs, first_ids
from flagtriton_server.tokenize.prompt_length import prompt_length
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer
from flagtriton_server.tokenize.truncation import TextSize

__all__ = ["TritonPythonModel"]

_Work: TypeAlias = TextBatch | QueryBatch | PairBatch | RerankBatch | list[int]
"""Content of one request: texts, queries with examples, pairs to embed or to read together, or token ids."""

_Answer: TypeAlias = "dict[TensorSpec, NDArray[Any]] | RequestError"

_KINDS = {INPUT_IDS: "text", QUERY_IDS: "query", PASSAGE_IDS: "passage"}
"""Names of one row of token ids in error messages."""

_BATCH_TOKEN_BUDGET = 8_192
"""Tokens of a batch. They take about 20 ms, and a request that arrives meanwhile waits for that time."""

_CHARACTERS_OF_A_TOKEN = 4

_SWITCH_S = 5e-4
"""Python's thread switch interval, seconds. A thread that decodes a long text blocks others this long at a time."""

_BYTES_AT_ONCE = 262_144
"""Bytes of a request that are decoded while others wait, in about 1 ms; longer requests go to a reader thread."""


@dataclass(frozen=True)
class _Request:
    work: _Work
    rows: int  # number of texts; a pair has two
    tokens: int  # an estimate, because the texts are not tokenized yet


class TritonPythonModel:
    """Triton's entry point."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer.

        Raises:
            ValueError: the deployment's `max_length` has no room for the special tokens.
        """
        self._settings = read_settings(TokenizerSettings, args)
        if not self._settings.trust_remote_code:  # code of a checkpoint may import any module
            _do_without_torch()
        self._tokenizer = TextTokenizer.from_checkpoint(
            self._settings.checkpoint, self._settings.revision, self._settings.trust_remote_code
        )
        if self._tokenizer.unembedded is not None:
            log_info(f"{self._settings.checkpoint}: {self._tokenizer.unembedded.warning}")
        if self._settings.lower_case:
            self._tokenizer.lower_case()
        if self._settings.max_length < self._tokenizer.special_count:
            raise ValueError(
                f"max_length is {self._settings.max_length}, but {self._settings.checkpoint} puts "
                f"{self._tokenizer.special_count} special tokens to every text; add it again with a greater one"
            )
        if self._settings.row.is_llm_reranker:
            self._first_ids = first_ids(self._tokenizer, self._settings.model_class, self._settings.checkpoint)
        self._limits: dict[str, Any] = {
            "min_length": max(1, self._tokenizer.special_count),
            "max_length": self._settings.max_length,
        }
        sys.setswitchinterval(_SWITCH_S)
        self._watch = StepMetrics(args, encodes=False)
        self._flag = BackpressureFlag(flag_path(args["model_name"], args["model_version"]))
        self._queued = QueuedStep(
            QueueLimits(self._settings.queue_requests, self._settings.queue_tokens, self._settings.queue_timeout_s),
            _BATCH_TOKEN_BUDGET,
            all_instances(args["model_config"]),
            self._read,
            self._run,
            watch=self._watch,
            is_long=_is_long,
            admits=lambda bulk: not self._flag.is_set(bulk),
        )
        self._truncated_told = 0
        self._tokenizer.on_between_texts(self._queued.run_short_now)
        self._queued.start()

    def execute(self, requests: list[PbRequest]) -> list[PbResponse | None]:
        """Queue the requests. Texts of several requests are tokenized together."""
        return self._queued.execute(requests)

    def is_ready(self) -> bool:
        """Return whether requests are answered. Triton calls it since python_backend's pull request 430."""
        return self._queued.is_ready()

    def finalize(self) -> None:
        """Answer the requests that wait, then stop."""
        self._queued.finalize()
        self._flag.close()

    def _read(self, request: StepRequest) -> _Request:
        work = self._read_work(request)
        if isinstance(work, list):
            return _Request(work, 0, len(work))
        sides = _sides(work)
        characters = sum(self._tokenizer.characters(texts, max_length) for texts, max_length in sides)
        rows = sum(len(texts) for texts, _ in sides)
        return _Request(work, rows, rows + characters // _CHARACTERS_OF_A_TOKEN)

    def _read_work(self, request: StepRequest) -> _Work:
        if self._settings.joins_pairs:
            return self._read_rows(request)
        if request.has(TOKEN_ID):
            return request.array(TOKEN_ID).reshape(-1).tolist()
        if request.has(QUERY) or request.has(PASSAGE):
            return self._read_pairs(request)
        options = EmbedOptions.from_parameters(
            request.context.options, **self._limits, model_class=self._settings.model_class
        )
        texts = instructed(self._texts(request, TEXT), options, self._settings)
        size = self._size(*instructed([""], options, self._settings))
        most, refuse_longer = self._settings.max_length, options.truncate == "NONE"
        max_length = options.max_length or self._settings.default_max_length or most
        if options.input_type == "query" and self._settings.model_class == EmbedderModelClass.DECODER_ONLY_ICL:
            prefix = example_text(options, self._settings)
            return QueryBatch(texts, prefix, options.suffix, max_length, most, refuse_longer, size)
        prompt = prompt_before(options, self._settings) if self._settings.send_prompt_length else ""
        return TextBatch(texts, max_length, refuse_longer, prompt=prompt, size=size)

    def _texts(self, request: StepRequest, spec: TensorSpec) -> list[str]:
        return request.texts(spec, max_total_bytes=self._settings.max_request_bytes)

    def _size(self, instruction: str = "") -> TextSize:
        return TextSize(self._settings.max_text_bytes, len(instruction.encode()))

    def _read_pairs(self, request: StepRequest) -> PairBatch:
        options = ScoreOptions.from_parameters(request.context.options, **self._limits)
        queries, passages = (DistinctTexts.of(self._texts(request, side)) for side in (QUERY, PASSAGE))
        longest = self._settings.default_max_length or self._settings.max_length
        return PairBatch(queries, passages, options, longest, self._size())

    def _read_rows(self, request: StepRequest) -> RerankBatch:
        settings = self._settings
        prompt = settings.row.prompt
        marks = 0 if prompt is not None else sum(map(len, self._tokenizer.pair_marks))
        options = RerankOptions.from_parameters(
            request.context.options,
            min_length=marks + 2,
            max_length=settings.max_length,
            model_class=settings.model_class,
        )
        texts = self._texts(request, QUERY), self._texts(request, PASSAGE)
        queries, passages = pairs_instructed(*texts, options, settings)
        both = pairs_instructed([""], [""], options, settings)
        query_size, passage_size = (self._size(instruction) for (instruction,) in both)
        max_length = options.max_length or settings.max_length
        lengths = options.query_max_length or max_length * 3 // 4, max_length
        refuse_longer = options.truncate == "NONE"
        if prompt is None:
            return RerankBatch(
                queries, passages, *lengths, refuse_longer, query_size=query_size, passage_size=passage_size
            )
        prompt = prompt if options.prompt is None else options.prompt
        most = settings.positions or settings.max_length
        return PromptedBatch(
            queries,
            passages,
            *lengths,
            refuse_longer,
            query_size=query_size,
            passage_size=passage_size,
            prompt=prompt,
            first=self._first_ids,
            most=most,
        )

    def _run(self, requests: list[_Request]) -> list[_Answer]:
        work = [request.work for request in requests]
        batches = [batch for item in work for batch in _text_batches(item)]
        encoded = iter(self._tokenizer.encode(batches))
        answers = [
            self._checked(item, self._answer(item, [next(encoded) for _ in _text_batches(item)])) for item in work
        ]
        truncated = self._tokenizer.truncated_count
        self._watch.truncated(truncated - self._truncated_told)  # nested calls have counted the rest
        self._truncated_told = truncated
        return answers

    def _answer(self, work: _Work, encoded: list[dict[TensorSpec, NDArray[np.int32]] | RequestError]) -> _Answer:
        accepted = []
        for side, answer in enumerate(encoded):
            if isinstance(answer, RequestError):
                return work.refusal(side, answer) if isinstance(work, PairBatch) else answer
            accepted.append(answer)
        try:
            if isinstance(work, QueryBatch):
                return encode_queries(self._tokenizer, work)
            if isinstance(work, PromptedBatch):
                return encode_prompted_pairs(self._tokenizer, work)
            if isinstance(work, RerankBatch):
                return encode_pairs(self._tokenizer, work)
            if isinstance(work, list):
                return {TOKEN: text_tensor(self._tokenizer.decode(work))}
        except RequestError as error:
            return error
        answer = work.answer(*accepted) if isinstance(work, PairBatch) else dict(accepted[0])
        if self._settings.send_prompt_length and isinstance(work, TextBatch):
            length = prompt_length(self._tokenizer, work.prompt, work.max_length)
            answer[PROMPT_LENGTH] = np.full((len(work.texts), 1), length, dtype=np.int32)
        if self._settings.send_unweighted_ids:
            rows = len(work.queries.rows) if isinstance(work, PairBatch) else len(work.texts)
            answer[UNWEIGHTED_IDS] = np.tile(self._tokenizer.unweighted_ids, (rows, 1))
        return answer

    def _checked(self, work: _Work, answer: _Answer) -> _Answer:
        """Return the answer, or an error if the answer contains a token without an embedding."""
        unembedded = self._tokenizer.unembedded
        if unembedded is None or isinstance(answer, RequestError):
            return answer
        try:
            for tensor, kind in _KINDS.items():
                if tensor in answer:
                    unembedded.check(answer[tensor], "pair" if isinstance(work, RerankBatch) else kind)
        except RequestError as error:
            return error
        return answer


def _is_long(request: StepRequest) -> bool:
    return request.byte_count((TEXT, QUERY, PASSAGE)) > _BYTES_AT_ONCE


def _do_without_torch() -> None:
    """Keep torch out of this process. transformers imports torch wherever it is installed: 1.5 s and 200 MB.

    None in `sys.modules` is Python's own marker for a module that cannot be imported.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]


def _text_batches(work: _Work) -> list[TextBatch]:
    if isinstance(work, PairBatch):
        return work.text_batches
    return [work] if isinstance(work, TextBatch) else []


def _sides(work: TextBatch | QueryBatch | PairBatch | RerankBatch) -> list[tuple[list[str], int]]:
    """Return the texts of each side of a request, and the number of tokens that are kept of each text."""
    if isinstance(work, PairBatch):
        return [(batch.texts, batch.max_length) for batch in work.text_batches]
    if isinstance(work, RerankBatch):
        return [(work.queries, work.query_max_length), (work.passages, work.max_length)]
    return [(work.texts, work.max_length)]
