# SPDX-License-Identifier: Apache-2.0
"""What all embedders share: FlagEmbedding's constructor and methods, answered by a server.

Knows what FlagEmbedding's arguments mean; how requests are made and sent is `served`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from flagtriton.protocol.instructions import apply_instruction, check_instruction_format
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH, DENSE_VECS
from flagtriton.protocol.text import check_encodable
from flagtriton.remote.base import ServedObject
from flagtriton.remote.compatibility import refuse_mismatch, warn_of_differences
from flagtriton.remote.encode_call import EncodeCall, as_output, kept_components, progress_wish
from flagtriton.remote.inputs import as_text_list
from flagtriton.types import DeviceSpec, EmbeddingOutput

__all__ = ["AbsEmbedder"]

_PASSAGE_ARGUMENTS = ("passage_instruction_for_retrieval", "passage_instruction_format")


class AbsEmbedder(ServedObject):
    """An embedder of FlagEmbedding's, served by Triton.

    Attributes are read at every call, so changing one (`normalize_embeddings`, say) changes the next answer; only
    the two passage arguments are read from `kwargs`, as FlagEmbedding does.

    Args:
        model_name_or_path: a deployment's name, or the checkpoint it was made from: its last path part counts.
        normalize_embeddings: return unit vectors.
        use_fp16: permits half precision; the deployment's precision holds.
        use_bf16: likewise; a deployment with another precision gets a warning.
        query_instruction_for_retrieval: put before queries. None leaves it to the deployment, which has one
            only if it was added with `--query-instruction`.
        query_instruction_format: two fields, instruction and text.
        devices: compared with the deployment's.
        batch_size: texts of one request, at most.
        query_max_length: tokens of a query, special tokens included; 512 stands for the smaller of 512 and
            what the deployment allows.
        passage_max_length: likewise, for passages and `encode`.
        convert_to_numpy: False returns torch tensors.
        truncate_dim: keep the first so many components, before normalising; negative drops some from the end.
        **kwargs: the fields of `ConnectionSettings` (`url`, `headers`, `ssl`, `timeout_s`, `concurrency`,
            `retries`, `show_progress`), and FlagEmbedding's `passage_instruction_for_retrieval` and
            `passage_instruction_format`. Anything else is kept as an attribute and warned of.

    Raises:
        ModelNotServedError: the server has no such deployment; the message lists what it has.
        DeploymentMismatchError: the deployment would answer another question.
        ServerUnavailableError: the server does not answer.
    """

    DEFAULT_POOLING_METHOD: ClassVar[str]
    MODEL_CLASSES: ClassVar[tuple[str, ...]]
    BF16_BY_DEFAULT: ClassVar[bool] = False

    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: DeviceSpec = None,
        batch_size: int = 256,
        query_max_length: int = DEFAULT_MAX_LENGTH,
        passage_max_length: int = DEFAULT_MAX_LENGTH,
        convert_to_numpy: bool = True,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.model_name_or_path = model_name_or_path
        self.normalize_embeddings = normalize_embeddings
        self.use_fp16 = use_fp16
        self.use_bf16 = use_bf16
        self.query_instruction_for_retrieval = query_instruction_for_retrieval
        self.query_instruction_format = query_instruction_format
        self.batch_size = batch_size
        self.query_max_length = query_max_length
        self.passage_max_length = passage_max_length
        self.convert_to_numpy = convert_to_numpy
        self.truncate_dim = truncate_dim
        self.pool = None
        compare = partial(self._compare_with_deployment, devices)
        self._connect(model_name_or_path, kwargs, compare, ("pooling_method", "trust_remote_code", "cache_dir"))

    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        convert_to_numpy: bool | None = None,
        instruction: str | None = None,
        instruction_format: str | None = None,
        **kwargs: Any,
    ) -> EmbeddingOutput:
        """Return the embeddings of texts as they are, without the deployment's instructions.

        Args:
            sentences: one text, or several.
            batch_size: texts of one request, at most.
            max_length: tokens of a text, special tokens included; None is `passage_max_length`.
            convert_to_numpy: False returns a torch tensor.
            instruction: put before every text.
            instruction_format: two fields, instruction and text; None is `"{}{}"`.
            **kwargs: `show_progress=`.

        Returns:
            float32, `[D]` for a `str`, `[B, D]` for a list.

        Raises:
            TypeError: a text is no `str`; it is named by its index.
            InvalidRequestError: the deployment refused an option, e.g. a `max_length` beyond its own.
        """
        call = self._text_call(sentences, batch_size, max_length, instruction, instruction_format, kwargs)
        return self._dense(call, convert_to_numpy)

    def encode_queries(
        self,
        queries: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        convert_to_numpy: bool | None = None,
        **kwargs: Any,
    ) -> EmbeddingOutput:
        """Return the embeddings of queries, behind `query_instruction_for_retrieval`; see `encode`."""
        return self._dense(self._query_call(queries, batch_size, max_length, kwargs), convert_to_numpy)

    def encode_corpus(
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        convert_to_numpy: bool | None = None,
        **kwargs: Any,
    ) -> EmbeddingOutput:
        """Return the embeddings of passages, behind `passage_instruction_for_retrieval`; see `encode`."""
        return self._dense(self._corpus_call(corpus, batch_size, max_length, kwargs), convert_to_numpy)

    def encode_single_device(
        self,
        sentences: str | Iterable[str],
        batch_size: int = 256,
        max_length: int = DEFAULT_MAX_LENGTH,
        convert_to_numpy: bool = True,
        device: str | None = None,
        **kwargs: Any,
    ) -> EmbeddingOutput:
        """Return what `encode` returns; `device` is the server's business and ignored."""
        return self.encode(sentences, batch_size, self._length(None, max_length), convert_to_numpy, **kwargs)

    @staticmethod
    def get_detailed_instruct(instruction_format: str, instruction: str, sentence: str) -> str:
        """Return `sentence` behind its instruction."""
        return apply_instruction(instruction_format, instruction, sentence)

    def encode_multi_process(
        self, sentences: str | Iterable[str], pool: object = None, **kwargs: Any
    ) -> EmbeddingOutput:
        """Return what `encode` returns."""
        return self.encode(sentences, **kwargs)

    def _compare_with_deployment(
        self,
        devices: DeviceSpec,
        pooling_method: str | None,
        trust_remote_code: bool | None,
        cache_dir: str | None,
    ) -> None:
        lengths = {"query_max_length": self.query_max_length, "passage_max_length": self.passage_max_length}
        refuse_mismatch(
            self.served.name,
            self.served.deployment,
            model_classes=self.MODEL_CLASSES,
            pooling_method=pooling_method,
            max_lengths=lengths,
        )
        warn_of_differences(
            self.served.name,
            self.served.deployment,
            use_fp16=self.use_fp16,
            use_bf16=self.use_bf16,
            bf16_by_default=self.BF16_BY_DEFAULT,
            devices=devices,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            ignored=[name for name in self.kwargs if name not in _PASSAGE_ARGUMENTS],
        )

    def _length(self, asked: int | None, configured: int) -> int:
        if asked is not None:
            return asked
        most = self.served.deployment.max_length
        return min(configured, most) if configured == DEFAULT_MAX_LENGTH else configured

    def _text_call(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None,
        max_length: int | None,
        instruction: str | None,
        instruction_format: str | None,
        extra: dict[str, Any],
    ) -> EncodeCall:
        options = EmbedOptions(max_length=self._length(max_length, self.passage_max_length))
        instruct = (instruction_format or "{}{}", instruction)
        return self._call(sentences, "sentences", options, instruct, batch_size, extra)

    def _query_call(
        self, queries: str | Iterable[str], batch_size: int | None, max_length: int | None, extra: dict[str, Any]
    ) -> EncodeCall:
        options = EmbedOptions(max_length=self._length(max_length, self.query_max_length), input_type="query")
        instruct = (self.query_instruction_format, self.query_instruction_for_retrieval)
        return self._call(queries, "queries", options, instruct, batch_size, extra)

    def _corpus_call(
        self, corpus: str | Iterable[str], batch_size: int | None, max_length: int | None, extra: dict[str, Any]
    ) -> EncodeCall:
        options = EmbedOptions(max_length=self._length(max_length, self.passage_max_length), input_type="passage")
        instruction, instruction_format = (self.kwargs.get(name) for name in _PASSAGE_ARGUMENTS)
        return self._call(corpus, "corpus", options, (instruction_format or "{}{}", instruction), batch_size, extra)

    def _call(
        self,
        sentences: str | Iterable[str],
        argument: str,
        options: EmbedOptions,
        instruct: tuple[str, str | None],
        batch_size: int | None,
        extra: dict[str, Any],
    ) -> EncodeCall:
        show_progress = progress_wish(extra)
        texts, single = as_text_list(sentences, argument)
        instruction_format, instruction = instruct
        if instruction is not None:
            check_encodable(instruction, "the instruction")
            check_instruction_format(instruction_format)
            texts = [apply_instruction(instruction_format, instruction, text) for text in texts]
        options = self._complete(options, instructed=instruction is not None)
        return EncodeCall(texts, single, options, self._rows(batch_size), show_progress)

    def _rows(self, batch_size: int | None) -> int:
        rows = self.batch_size if batch_size is None else batch_size
        if rows < 1:
            raise ValueError(f"batch_size is {rows}, expected at least 1")
        return rows

    def _dense(self, call: EncodeCall, convert_to_numpy: bool | None) -> EmbeddingOutput:
        vectors = self.served.embed(
            call.sent, call.options, DENSE_VECS, max_rows=call.max_rows, show_progress=call.show_progress
        )[: len(call.texts)]
        wanted = self.convert_to_numpy if convert_to_numpy is None else convert_to_numpy
        return as_output(vectors[0] if call.single else vectors, to_numpy=wanted)

    def _complete(self, options: EmbedOptions, *, instructed: bool) -> EmbedOptions:
        """Return the options with this object's own; a text that bears its instruction already gets no other."""
        return replace(
            options,
            input_type=None if instructed else options.input_type,
            normalize=self.normalize_embeddings,
            truncate_dim=kept_components(self.truncate_dim, self.served.deployment.hidden_size),
        )
