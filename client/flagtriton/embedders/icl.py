# SPDX-License-Identifier: Apache-2.0
"""`FlagICLModel`: queries behind the caller's few-shot examples (bge-en-icl)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from flagtriton.embedders.base import EncodeCall
from flagtriton.embedders.decoder import FlagLLMModel
from flagtriton.errors import DeploymentWarning
from flagtriton.protocol.examples import (
    DEFAULT_EXAMPLE_FORMAT,
    DEFAULT_SUFFIX,
    Example,
    check_example_format,
    check_examples,
    examples_prefix,
    format_example,
)
from flagtriton.protocol.instructions import check_instruction_format
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton.protocol.text import check_encodable
from flagtriton.remote.compatibility import frames_to_caller
from flagtriton.types import DeviceSpec, EmbedderModelClass, EmbeddingOutput

__all__ = ["FlagICLModel"]


class FlagICLModel(FlagLLMModel):
    r"""An embedder with in-context examples (bge-en-icl); `AbsEmbedder` describes the other arguments.

    The server encodes a query between `prefix`, the text of the examples, and `suffix`; passages get neither. Every
    request carries the examples, so that objects with different examples can share a deployment. Tokens of the examples
    count against the deployment's `max_length`, not against `query_max_length`.

    Args:
        suffix: text behind every query.
        examples_for_task: dicts with the keys `instruct`, `query` and `response`. Without `instruct` an example gets
            the query instruction, or the text `None` if there is none; without `response` an empty one. None makes no
            prefix, an empty list the prefix `"\n\n"`.
        examples_instruction_format: format with three fields: instruction, query, response.

    Attributes:
        prefix: text before every query; every call reads it again.

    Raises:
        TypeError: an example is no dict.
        ValueError: a format has another number of fields.
    """

    MODEL_CLASSES: ClassVar[tuple[str, ...]] = (EmbedderModelClass.DECODER_ONLY_ICL.value,)

    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "<instruct>{}\n<query>{}",
        suffix: str = DEFAULT_SUFFIX,
        devices: DeviceSpec = None,
        examples_for_task: Sequence[Example] | None = None,
        examples_instruction_format: str = DEFAULT_EXAMPLE_FORMAT,
        trust_remote_code: bool | None = False,
        cache_dir: str | None = None,
        batch_size: int = 256,
        query_max_length: int = DEFAULT_MAX_LENGTH,
        passage_max_length: int = DEFAULT_MAX_LENGTH,
        convert_to_numpy: bool = True,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.suffix = suffix
        self.examples_for_task = _check_keys(examples_for_task)
        self.examples_instruction_format = examples_instruction_format.replace("\\n", "\n")
        check_example_format(self.examples_instruction_format, "examples_instruction_format")
        self.query_pool = None
        super().__init__(
            model_name_or_path,
            normalize_embeddings=normalize_embeddings,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_retrieval=query_instruction_for_retrieval,
            query_instruction_format=query_instruction_format.replace("\\n", "\n"),
            devices=devices,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
            batch_size=batch_size,
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            convert_to_numpy=convert_to_numpy,
            truncate_dim=truncate_dim,
            **kwargs,
        )
        self.prefix = self._prefix_of(examples_for_task)

    def set_examples(self, examples_for_task: Sequence[Example] | None = None) -> None:
        """Replace the prefix by that of other examples.

        Args:
            examples_for_task: the examples; None restores the constructor's.

        Raises:
            TypeError: an example is no dict; the message names its index.
        """
        examples = _check_keys(examples_for_task)
        self.prefix = self._prefix_of(self.examples_for_task if examples is None else examples)

    @staticmethod
    def get_detailed_example(instruction_format: str, instruction: str, query: str, response: str) -> str:
        """Return the text of one example."""
        return format_example(instruction_format, instruction, query, response)

    def encode_queries_single_device(
        self,
        queries: str | Iterable[str],
        batch_size: int = 256,
        max_length: int = DEFAULT_MAX_LENGTH,
        convert_to_numpy: bool = True,
        device: str | None = None,
        **kwargs: Any,
    ) -> EmbeddingOutput:
        """Return the result of `encode_queries`; `device` has no effect."""
        return self.encode_queries(queries, batch_size, self._length(None, max_length), convert_to_numpy, **kwargs)

    def stop_self_query_pool(self) -> None:
        """End the worker threads, like `stop_self_pool`."""
        self.stop_self_pool()

    def _query_call(
        self, queries: str | Iterable[str], batch_size: int | None, max_length: int | None, extra: dict[str, Any]
    ) -> EncodeCall:
        # The server applies the instruction: it truncates the query behind its instruction, then adds the suffix.
        instruction = self.query_instruction_for_retrieval
        for name, text in {"the instruction": instruction, "prefix": self.prefix, "suffix": self.suffix}.items():
            check_encodable(text or "", name)
        if instruction is not None:
            check_instruction_format(self.query_instruction_format, "query_instruction_format")
        options = EmbedOptions(
            max_length=self._length(max_length, self.query_max_length),
            input_type="query",
            instruction=instruction,
            instruction_format=None if instruction is None else self.query_instruction_format,
            prefix=self.prefix,
            suffix=self.suffix,
        )
        return self._call(queries, "queries", options, ("{}{}", None), batch_size, extra)

    def _prefix_of(self, examples: Sequence[Example] | None) -> str:
        instruction = self.query_instruction_for_retrieval
        if instruction is None:
            instruction = self.served.deployment.query_instruction
        return examples_prefix(examples, self.examples_instruction_format, instruction)


def _check_keys(examples: Sequence[Example] | None) -> Sequence[Example] | None:
    """Return the examples unchanged; warn of keys without effect."""
    unknown = [] if examples is None else check_examples(examples, "examples_for_task")
    if unknown:
        warnings.warn(
            f"examples_for_task has the key {unknown[0]!r}, which has no effect; "
            "an example has instruct, query and response",
            DeploymentWarning,
            stacklevel=frames_to_caller(),
        )
    return examples
