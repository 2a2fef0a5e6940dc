# SPDX-License-Identifier: Apache-2.0
"""The parameters of a public ensemble in its `config.pbtxt`."""

from __future__ import annotations

from dataclasses import dataclass

from flagtriton.protocol.model_classes import MODEL_CLASSES, ModelClass, model_class_row

__all__ = ["DEPLOYMENT_KEYS", "Deployment", "resolve_precision", "score_model_name"]

DEPLOYMENT_KEYS = frozenset({"task", "model_class", "checkpoint"})
"""Parameters that distinguish a public ensemble from a step and from models of other origin."""


@dataclass(frozen=True)
class Deployment:
    """One deployment, as the `config.pbtxt` parameters of its public ensemble describe it.

    Attributes:
        task: `embed` or `rerank`.
        model_class: FlagEmbedding's name of the class, for example `encoder-only-base`.
        checkpoint: local folder or hub name of the weights.
        pooling_method: `cls`, `mean`, `last_token`, `max`, `mean_sqrt_len` or `weightedmean`, or several joined by `+`.
        max_length: largest number of tokens of a text, special tokens included, that a request may ask for.
        positions: largest number of tokens of a whole row, prompt of an LLM reranker included, if greater than
            `max_length`.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        device: `cpu`, or `gpu:` and the numbers of the GPUs.
        shard: one instance is spread over all those GPUs; otherwise each GPU has an instance.
        attention: `packed` if texts pass through the model end to end, `padded` if each is filled up to the longest
            text of its micro-batch. None if the checkpoint was not available when it was added.
        hidden_size: D, components of a whole vector; None if the checkpoint was not available when it was added.
        colbert_dim: C, components of a ColBERT vector; only for `encoder-only-m3`.
        colbert_dtype: `fp32` or `fp16`, the dtype of ColBERT vectors that the SDK requests.
        colbert_dtype_by_request: each request chooses the dtype; otherwise all ColBERT vectors travel in
            `colbert_dtype`.
        peft: the adapter that is merged into the weights of the checkpoint.
        query_instruction: text before inputs with `input_type=query`; `passage_instruction` is its counterpart for
            passages.
        default_max_length: number of tokens of a text if the request sets none; None for `max_length`.
        normalize: whether vectors are normalized if the request does not set it; None for true.
        truncate_dim: number of components that are sent if the request sets none; None for all.
        modules: modules after pooling, for example `Dense:2_Dense`; None if there are none.
        lower_case: texts are lower-cased before they are tokenized; None for false.
        include_prompt: the tokens of a prompt are pooled, too; None for true.
        prompts: prompts for the choice by `prompt_name`, as a JSON object of strings by name.
        default_prompt_name: name of the prompt for a request without `prompt_name` and `input_type`.
        definition: summary of sentence-transformers' files when the deployment was added, or `ignored`.
    """

    task: str
    model_class: str
    checkpoint: str
    pooling_method: str
    max_length: int
    precision: str
    device: str
    attention: str | None = None
    hidden_size: int | None = None
    shard: bool = False
    colbert_dim: int | None = None
    colbert_dtype: str | None = None
    colbert_dtype_by_request: bool | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    peft: str | None = None
    positions: int | None = None
    query_instruction: str | None = None
    query_instruction_format: str = "{}{}"
    passage_instruction: str | None = None
    passage_instruction_format: str = "{}{}"
    default_max_length: int | None = None
    normalize: bool | None = None
    truncate_dim: int | None = None
    modules: str | None = None
    lower_case: bool | None = None
    include_prompt: bool | None = None
    prompts: str | None = None
    default_prompt_name: str | None = None
    definition: str | None = None

    @property
    def row(self) -> ModelClass:
        """The row of its model class.

        Raises:
            ValueError: this version does not know the class.
        """
        return model_class_row(self.task, self.model_class)

    @property
    def resolved_precision(self) -> str:
        """The precision of the computation; on a CPU, `auto` is the best precision of this machine."""
        row = MODEL_CLASSES.get((self.task, self.model_class))
        return resolve_precision(self.precision, self.device, decoder=row is not None and row.decoder)


def score_model_name(name: str) -> str:
    """Return the name of the ensemble that scores pairs for the deployment `name`."""
    return f"{name}_score"


def best_cpu_precision() -> str:
    """Return the precision `auto` on a CPU: `bf16` if the CPU computes in it (AMX or AVX512-BF16), else `fp32`."""
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:  # noqa: PTH123 - a device file, read once
        flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    return "bf16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "fp32"


def resolve_precision(precision: str, device: str, *, decoder: bool = False) -> str:
    """Return the precision that a setting means on a device.

    Args:
        precision: `fp32`, `fp16` or `bf16`, which are returned unchanged, or `auto`.
        device: `cpu`, or a name that begins with `gpu` or `cuda`. On a CPU, the CPU of this machine decides.
        decoder: hidden states of decoders exceed the range of fp16, so `auto` is bf16 on a GPU.
    """
    if precision != "auto":
        return precision
    if device.startswith(("gpu", "cuda")):
        return "bf16" if decoder else "fp16"
    return best_cpu_precision()
