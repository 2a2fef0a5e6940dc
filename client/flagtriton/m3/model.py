# SPDX-License-Identifier: Apache-2.0
"""BGE-M3: dense, sparse and ColBERT outputs of one request, and hybrid scores of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from flagtriton.errors import DeploymentMismatchError
from flagtriton.m3.collect import CollectedOutputs
from flagtriton.m3.output import M3Output
from flagtriton.m3.scores import M3Scorer
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH, TEXT, TOKEN, TOKEN_ID
from flagtriton.remote.encode_call import EncodeCall
from flagtriton.remote.model import ServedModel
from flagtriton.types import DeviceSpec, EmbedderModelClass, PoolingMethod, SparseWeights

__all__ = ["BGEM3FlagModel"]

_COLBERT_BYTES_PER_REPLY = 64 << 20
"""ColBERT vectors of one reply at most, were every byte of text a token; some 4 or 5 times fewer come."""

_WIDEST = 4096
"""Components that a ColBERT vector is taken to have where the deployment does not say."""


class BGEM3FlagModel(M3Scorer):
    """BGE-M3; `AbsEmbedder` describes the arguments that are not named here.

    Args:
        pooling_method: of the dense vectors; it must be what is served (None takes that).
        trust_remote_code: compared with the deployment's.
        cache_dir: has no effect: the server loads the weights.
        colbert_dim: components of a ColBERT vector; above 0 it must be what is served.
        return_dense: what the methods return unless a call says otherwise; likewise `return_sparse` and
            `return_colbert_vecs`.
    """

    DEFAULT_POOLING_METHOD: ClassVar[str] = PoolingMethod.CLS.value
    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (EmbedderModelClass.ENCODER_ONLY_M3.value,)

    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: DeviceSpec = None,
        pooling_method: str | None = "cls",
        trust_remote_code: bool | None = False,
        cache_dir: str | None = None,
        colbert_dim: int = -1,
        batch_size: int = 256,
        query_max_length: int = DEFAULT_MAX_LENGTH,
        passage_max_length: int = DEFAULT_MAX_LENGTH,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("convert_to_numpy", None)  # FlagEmbedding takes it, and returns arrays
        super().__init__(
            model_name_or_path,
            normalize_embeddings=normalize_embeddings,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_retrieval=query_instruction_for_retrieval,
            query_instruction_format=query_instruction_format,
            devices=devices,
            batch_size=batch_size,
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            truncate_dim=truncate_dim,
            pooling_method=pooling_method,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            **kwargs,
        )
        self.pooling_method = pooling_method or self.served.deployment.pooling_method
        self.colbert_dim = colbert_dim
        self.return_dense = return_dense
        self.return_sparse = return_sparse
        self.return_colbert_vecs = return_colbert_vecs
        self._tokens: dict[int, str] = {}
        served = self.served.deployment.colbert_dim
        if colbert_dim > 0 and served is not None and colbert_dim != served:
            self.close()
            raise DeploymentMismatchError(
                f"colbert_dim={colbert_dim}, but {self.served.name} is served with {served}: pass that, or -1"
            )

    def encode(  # type: ignore[override]
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        instruction: str | None = None,
        instruction_format: str | None = None,
        **kwargs: Any,
    ) -> M3Output:
        """Return the chosen outputs of texts as they are, without the deployment's instructions.

        Args:
            sentences: one text, or several.
            batch_size: texts of one request, at most.
            max_length: tokens of a text, special tokens included; None is `passage_max_length`.
            return_dense: None takes the object's own choice.
            return_sparse: likewise.
            return_colbert_vecs: likewise.
            instruction: put before every text.
            instruction_format: two fields, instruction and text; None is `"{}{}"`.
            **kwargs: `show_progress=`.

        Raises:
            TypeError: a text is no `str`; it is named by its index.
            ValueError: no output is chosen.
            InvalidRequestError: the deployment refused an option, e.g. a `max_length` beyond its own.
        """
        call = self._text_call(
            sentences, batch_size, max_length, instruction, instruction_format, _without_numpy(kwargs)
        )
        return self._outputs(call, return_dense, return_sparse, return_colbert_vecs)

    def encode_queries(  # type: ignore[override]
        self,
        queries: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        **kwargs: Any,
    ) -> M3Output:
        """Return the chosen outputs of queries, behind `query_instruction_for_retrieval`; see `encode`."""
        call = self._query_call(queries, batch_size, max_length, _without_numpy(kwargs))
        return self._outputs(call, return_dense, return_sparse, return_colbert_vecs)

    def encode_corpus(  # type: ignore[override]
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        **kwargs: Any,
    ) -> M3Output:
        """Return the chosen outputs of passages, behind `passage_instruction_for_retrieval`; see `encode`."""
        call = self._corpus_call(corpus, batch_size, max_length, _without_numpy(kwargs))
        return self._outputs(call, return_dense, return_sparse, return_colbert_vecs)

    def encode_single_device(  # type: ignore[override]
        self,
        sentences: str | Iterable[str],
        batch_size: int = 256,
        max_length: int = DEFAULT_MAX_LENGTH,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        device: str | None = None,
        **kwargs: Any,
    ) -> M3Output:
        """Return what `encode` returns; `device` is the server's business and ignored."""
        length = self._length(None, max_length)
        return self.encode(sentences, batch_size, length, return_dense, return_sparse, return_colbert_vecs, **kwargs)

    def convert_id_to_token(
        self, lexical_weights: SparseWeights | list[SparseWeights]
    ) -> dict[str, float] | list[dict[str, float]]:
        """Return the weights by token in place of token id; the deployment's tokenizer knows the tokens.

        Returns:
            A dict for one text and, as in FlagEmbedding, for a list of one; else a list of dicts.
        """
        listed = [lexical_weights] if isinstance(lexical_weights, Mapping) else list(lexical_weights)
        self._learn_tokens({int(key) for weights in listed for key in weights})
        converted = [{self._tokens[int(key)]: weight for key, weight in weights.items()} for weights in listed]
        return converted[0] if len(converted) == 1 else converted

    @cached_property
    def _tokenizer(self) -> ServedModel:
        return self.served.companion(f"{self.served.name}_tokenizer")

    def _learn_tokens(self, token_ids: set[int]) -> None:
        unknown = np.array(sorted(token_ids - self._tokens.keys()), dtype=np.int32)
        rows = self._tokenizer.max_batch_size if len(unknown) else 1
        for start in range(0, len(unknown), rows):
            asked = unknown[start : start + rows]
            reply = self._tokenizer.infer({TOKEN_ID.name: asked[:, None]}, [TOKEN.name], {})
            tokens = (data.decode() for data in reply[TOKEN.name].reshape(-1))
            self._tokens.update(zip(asked.tolist(), tokens, strict=True))

    def _outputs(self, call: EncodeCall, dense: bool | None, sparse: bool | None, colbert: bool | None) -> M3Output:
        wants_colbert = _chosen(colbert, self.return_colbert_vecs)
        collected = CollectedOutputs(
            len(call.sent),
            dense=_chosen(dense, self.return_dense),
            sparse=_chosen(sparse, self.return_sparse),
            colbert=wants_colbert,
        )
        if not collected.tensors:
            raise ValueError(
                "Must choose one or more from `return_colbert_vecs`, `return_sparse`, `return_dense` to set `True`!"
            )
        max_area = self._colbert_area() if wants_colbert else None
        self.served.collect(
            collected.add,
            self.served.plan(call.sent, max_rows=call.max_rows, max_area=max_area),
            {TEXT: call.sent},
            collected.tensors,
            self._in_deployed_dtype(call.options) if wants_colbert else call.options,
            show_progress=call.show_progress,
        )
        return collected.output(len(call.texts), single=call.single)

    def _in_deployed_dtype(self, options: EmbedOptions) -> EmbedOptions:
        """Return options that ask for ColBERT vectors in the deployment's dtype."""
        served = self.served.deployment
        if not served.colbert_dtype_by_request or served.colbert_dtype is None:
            return options  # by an earlier version, which does not have the option
        return replace(options, colbert_dtype=served.colbert_dtype)

    def _colbert_area(self) -> int:
        """Return how many tokens' vectors one reply may hold, padding included."""
        served = self.served.deployment
        width = served.colbert_dim or served.hidden_size or _WIDEST
        return max(1, _COLBERT_BYTES_PER_REPLY // (width * (2 if served.colbert_dtype == "fp16" else 4)))


def _chosen(asked: bool | None, configured: bool) -> bool:
    return configured if asked is None else bool(asked)


def _without_numpy(extra: dict[str, Any]) -> dict[str, Any]:
    """Return a method's extra arguments without the one that FlagEmbedding takes and ignores here."""
    return {name: value for name, value in extra.items() if name != "convert_to_numpy"}
