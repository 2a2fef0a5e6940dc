# SPDX-License-Identifier: Apache-2.0
"""What a public ensemble says of itself in its `config.pbtxt`."""

from __future__ import annotations

from dataclasses import dataclass

from flagtriton.protocol.model_classes import MODEL_CLASSES, ModelClass, model_class_row

__all__ = ["DEPLOYMENT_KEYS", "Deployment", "resolve_precision", "score_model_name"]

DEPLOYMENT_KEYS = frozenset({"task", "model_class", "checkpoint"})
"""What tells a public ensemble's parameters from those of a step and of other people's models."""


@dataclass(frozen=True)
class Deployment:
    """What one public ensemble serves, as its `config.pbtxt` parameters say.

    Attributes:
        task: `embed` or `rerank`.
        model_class: FlagEmbedding's name of the class, e.g. `encoder-only-base`.
        checkpoint: local folder or hub name the weights come from.
        pooling_method: `cls`, `mean`, `last_token`, `max`, `mean_sqrt_len` or `weightedmean`, or several joined by `+`.
        max_length: the most tokens of a text, special tokens included, that a request may ask for.
        positions: the most tokens of a whole row, an LLM reranker's prompt included, where that is more.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        device: `cpu`, or `gpu:` and the GPUs' numbers.
        shard: one instance is spread over all those GPUs, rather than one on each.
        attention: `packed` where texts go through the model end to end, `padded` where they are filled up to the
            longest beside them; None where the checkpoint was not at hand when it was added.
        hidden_size: D, components of a whole vector; None where the checkpoint was not at hand when it was
            added.
        colbert_dim: C, components of a ColBERT vector, of `encoder-only-m3`.
        colbert_dtype: `fp32` or `fp16`, in which the SDK has ColBERT vectors travel.
        colbert_dtype_by_request: requests say which; otherwise all ColBERT vectors travel so.
        peft: the adapter that is merged into the checkpoint's weights.
        query_instruction: put before texts sent with `input_type=query`; likewise `passage_instruction`.
        default_max_length: tokens of a text whose request does not say; None is `max_length`.
        normalize: whether vectors are normalised whose request does not say; None is true.
        truncate_dim: components that are sent to requests that do not say; None is all.
        modules: what follows pooling, e.g. `Dense:2_Dense`; None is nothing.
        lower_case: texts are lower-cased before they are tokenised; None is false.
        include_prompt: a prompt's tokens are pooled, too; None is true.
        prompts: those that `prompt_name` chooses from, a JSON object of strings by name.
        default_prompt_name: of the prompt before texts whose request names none and has no `input_type`.
        definition: what sentence-transformers' files said when it was added, or `ignored`.
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
        """The precision that it computes in; `auto` on a processor is what this machine's computes in."""
        row = MODEL_CLASSES.get((self.task, self.model_class))
        return resolve_precision(self.precision, self.device, decoder=row is not None and row.decoder)


def score_model_name(name: str) -> str:
    """Return what the ensemble is called that scores pairs for the deployment `name`."""
    return f"{name}_score"


def best_cpu_precision() -> str:
    """Return what `auto` is on a processor: `bf16` where it computes in that (AMX or AVX512-BF16), else `fp32`."""
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:  # noqa: PTH123 - a device file, read once
        flags = next((line for line in cpuinfo if line.startswith("flags")), "").split()
    return "bf16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "fp32"


def resolve_precision(precision: str, device: str, *, decoder: bool = False) -> str:
    """Return the precision that a setting stands for on a device.

    Args:
        precision: `fp32`, `fp16`, `bf16`, which are returned as they are, or `auto`.
        device: `cpu`, or a name that begins with `gpu` or `cuda`. On a processor, this machine's decides.
        decoder: hidden states of decoders exceed the range of fp16, so that `auto` is bf16 on a GPU.
    """
    if precision != "auto":
        return precision
    if device.startswith(("gpu", "cuda")):
        return "bf16" if decoder else "fp16"
    return best_cpu_precision()
