# SPDX-License-Identifier: Apache-2.0
"""`AbsEmbedder`: the constructor and methods that FlagEmbedding's embedders share, answered by a server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flagtriton.errors import MissingExtraError
from flagtriton.protocol.instructions import apply_instruction, check_instruction_format
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH, DENSE_VECS
from flagtriton.protocol.text import check_encodable
from flagtriton.remote.base import ServedObject
from flagtriton.remote.compatibility import refuse_mismatch, warn_of_differences
from flagtriton.remote.inputs import as_text_list, pop_show_progress, resolve_truncate_dim
from flagtriton.types import DeviceSpec, EmbeddingOutput

__all__ = ["AbsEmbedder", "EncodeCall"]

_PASSAGE_ARGUMENTS = ("passage_instruction_for_retrieval", "passage_instruction_format")


@dataclass(frozen=True)
class EncodeCall:
    """The parsed arguments of one call of `encode`, `encode_queries` or `encode_corpus`.

    Attributes:
        texts: texts behind the caller's instruction.
        single: whether the argument was a single `str`.
        options: options of every request.
        max_rows: texts of one request, at most.
        show_progress: progress bar of this call; None takes the object's setting.
    """

    texts: list[str]
    single: bool
    options: EmbedOptions
    max_rows: int
    show_progress: bool | None

    @property
    def sent(self) -> list[str]:
        """The texts to send: one empty text for an empty list, as the result's width is the server's."""
        return self.texts or [""]


class AbsEmbedder(ServedObject):
    """An embedder with FlagEmbedding's API, served by Triton.

    Every call reads the attributes again, so an assignment such as `normalize_embeddings = False` changes the next
    result. The two passage arguments are read from `kwargs`, as in FlagEmbedding.

    Args:
        model_name_or_path: a deployment's name, or the checkpoint it was made from, whose last path part counts.
        normalize_embeddings: return unit vectors.
        use_fp16: permits half precision; the deployment decides.
        use_bf16: permits bfloat16; a deployment with another precision gets a warning.
        query_instruction_for_retrieval: put before queries; None takes the deployment's instruction, if it has one.
        query_instruction_format: format with two fields, instruction and text.
        devices: compared with the deployment's.
        batch_size: texts of one request, at most.
        query_max_length: tokens of a query, special tokens included; the default means 512 or the deployment's
            maximum, whichever is smaller.
        passage_max_length: tokens of a passage or of a text of `encode`, with the same default.
        convert_to_numpy: False returns torch tensors.
        truncate_dim: number of leading components to keep, before normalisation; a negative number drops trailing ones.
        **kwargs: the fields of `ConnectionSettings`, and FlagEmbedding's `passage_instruction_for_retrieval` and
            `passage_instruction_format`. Others are kept as attributes, with a warning.

    Raises:
        ModelNotServedError: the server has no such deployment; the message lists those there are.
        DeploymentMismatchError: the deployment's results would differ from those that the arguments ask for.
        ServerUnavailableError: the server does not reply.
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
        """Return the embeddings of texts, without the deployment's instructions.

        Args:
            sentences: one text, or several.
            batch_size: texts of one request, at most.
            max_length: tokens of a text, special tokens included; None is `passage_max_length`.
            convert_to_numpy: False returns a torch tensor.
            instruction: put before every text.
            instruction_format: format with two fields, instruction and text; None is `"{}{}"`.
            **kwargs: `show_progress=`.

        Returns:
            float32, `[D]` for a `str`, `[B, D]` for a list of B texts.

        Raises:
            TypeError: a text is no `str`; the message names its index.
            InvalidRequestError: the deployment refused an option, such as a `max_length` beyond its own.
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
        """Return the embeddings of queries behind `query_instruction_for_retrieval`; see `encode`."""
        return self._dense(self._query_call(queries, batch_size, max_length, kwargs), convert_to_numpy)

    def encode_corpus(
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        convert_to_numpy: bool | None = None,
        **kwargs: Any,
    ) -> EmbeddingOutput:
        """Return the embeddings of passages behind `passage_instruction_for_retrieval`; see `encode`."""
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
        """Return the result of `encode`; `device` has no effect."""
        return self.encode(sentences, batch_size, self._length(None, max_length), convert_to_numpy, **kwargs)

    @staticmethod
    def get_detailed_instruct(instruction_format: str, instruction: str, sentence: str) -> str:
        """Return `sentence` behind its instruction."""
        return apply_instruction(instruction_format, instruction, sentence)

    def encode_multi_process(
        self, sentences: str | Iterable[str], pool: object = None, **kwargs: Any
    ) -> EmbeddingOutput:
        """Return the result of `encode`."""
        return self.encode(sentences, **kwargs)

    def _compare_with_deployment(
        self, devices: DeviceSpec, pooling_method: str | None, trust_remote_code: bool | None, cache_dir: str | None
    ) -> None:
        refuse_mismatch(
            self.served.name,
            self.served.deployment,
            model_classes=self.MODEL_CLASSES,
            pooling_method=pooling_method,
            max_lengths={"query_max_length": self.query_max_length, "passage_max_length": self.passage_max_length},
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

    def _length(self, max_length: int | None, default: int) -> int:
        """Return the call's maximal length, else the object's; tokens."""
        if max_length is not None:
            return max_length
        return min(default, self.served.deployment.max_length) if default == DEFAULT_MAX_LENGTH else default

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
        show_progress = pop_show_progress(extra)
        texts, single = as_text_list(sentences, argument)
        instruction_format, instruction = instruct
        if instruction is not None:
            check_encodable(instruction, "the instruction")
            check_instruction_format(instruction_format)
            texts = [apply_instruction(instruction_format, instruction, text) for text in texts]
        options = replace(
            options,
            input_type=options.input_type if instruction is None else None,  # no second instruction by the server
            normalize=self.normalize_embeddings,
            truncate_dim=resolve_truncate_dim(self.truncate_dim, self.served.deployment.hidden_size),
        )
        return EncodeCall(texts, single, options, self._max_rows(batch_size), show_progress)

    def _max_rows(self, batch_size: int | None) -> int:
        max_rows = self.batch_size if batch_size is None else batch_size
        if max_rows < 1:
            raise ValueError(f"batch_size is {max_rows}, expected at least 1")
        return max_rows

    def _dense(self, call: EncodeCall, convert_to_numpy: bool | None) -> EmbeddingOutput:
        vectors = self.served.embed(
            call.sent, call.options, DENSE_VECS, max_rows=call.max_rows, show_progress=call.show_progress
        )[: len(call.texts)]
        to_numpy = self.convert_to_numpy if convert_to_numpy is None else convert_to_numpy
        return _as_numpy_or_torch(vectors[0] if call.single else vectors, to_numpy=to_numpy)


def _as_numpy_or_torch(vectors: NDArray[np.float32], *, to_numpy: bool) -> EmbeddingOutput:
    """Return vectors as they are, or as a torch tensor that shares their memory.

    Raises:
        MissingExtraError: a tensor is asked for and torch is not installed.
    """
    if to_numpy:
        return vectors
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("convert_to_numpy=False returns torch tensors: pip install torch") from error
    return torch.from_numpy(vectors)
