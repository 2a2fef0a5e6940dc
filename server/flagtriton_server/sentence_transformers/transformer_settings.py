# SPDX-License-Identifier: Apache-2.0
"""Reads sentence-transformers' files other than the modules: tokenization settings and prompts. Reads JSON only.

The rules are those of sentence-transformers 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flagtriton_server.checkpoint.lookup import FileFinder
from flagtriton_server.sentence_transformers.definition import (
    NORMALIZE,
    DefinitionError,
    EmbedderDefinition,
    ListedModule,
    pooled_chain,
    read_json,
)

__all__ = ["embedder_definition", "with_prompts"]

_FILES = [
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
"""The names of the transformer's own file, in the order of the search."""

_PROMPTS_FILE = "config_sentence_transformers.json"
_EMPTY_BY_DEFAULT = ("query", "document")
"""Prompts that every checkpoint has; they are empty unless its file sets them."""

_NO_NUMBERS = frozenset(["modality_config", "module_output_name", "unpad_inputs", "backend"])
"""Keys that are checked elsewhere, or that change no number."""

_ARGUMENTS = ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs")
_HARMLESS_ARGUMENTS = frozenset(
    [
        "add_pooling_layer",
        "attn_implementation",
        "device_map",
        "dtype",
        "low_cpu_mem_usage",
        "model_max_length",
        "padding_side",
        "revision",
        "torch_dtype",
        "trust_remote_code",
        "unpad_inputs",
        "use_cache",
        "use_fast",
        "use_memory_efficient_attention",
    ]
)
"""Arguments for transformers that change no number, that the deployment's options set, or that this module reads."""


def embedder_definition(find: FileFinder, modules: list[ListedModule]) -> EmbedderDefinition:
    """Return the embedder that sentence-transformers builds from a checkpoint; an empty one without `modules.json`.

    Raises:
        DefinitionError: the files define something that is not served; the message names it.
    """
    if not modules:
        return EmbedderDefinition()
    return with_prompts(find, _with_cut(find, _with_transformer(find, pooled_chain(find, modules))))


def with_prompts(find: FileFinder, defined: EmbedderDefinition) -> EmbedderDefinition:
    """Return a definition with the prompts of `config_sentence_transformers.json`.

    Raises:
        DefinitionError: the prompts are no strings by name, or the default is not one of them.
    """
    content = read_json(find, _PROMPTS_FILE) or {}
    prompts = content.get("prompts") or {} if isinstance(content, dict) else None
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise DefinitionError(f"{_PROMPTS_FILE} has no prompts that are strings by name")
    default = content.get("default_prompt_name")
    if default in _EMPTY_BY_DEFAULT and default not in prompts:
        default = None
    if default is not None and default not in prompts:
        raise DefinitionError(f"{_PROMPTS_FILE} has default_prompt_name {default!r}, which is none of its prompts")
    pairs = tuple((name, text or "") for name, text in prompts.items())
    return replace(defined, prompts=pairs, default_prompt_name=default)


def _with_cut(find: FileFinder, defined: EmbedderDefinition) -> EmbedderDefinition:
    """Return a definition with `truncate_dim` of the file, which applies after a final `Normalize`, not before it."""
    content = read_json(find, _PROMPTS_FILE)
    kept = content.get("truncate_dim") if isinstance(content, dict) else None
    if kept is None:
        return defined
    if isinstance(kept, bool) or not isinstance(kept, int) or kept < 1:
        raise DefinitionError(
            f"{_PROMPTS_FILE} has truncate_dim {kept!r}; expected a whole number of at least 1, or null for all"
        )
    chain = (*defined.chain, NORMALIZE) if defined.normalize else defined.chain
    return replace(defined, chain=chain, normalize=False, truncate_dim=kept)


def _with_transformer(find: FileFinder, defined: EmbedderDefinition) -> EmbedderDefinition:
    name, content = next(((name, found) for name in _FILES if (found := read_json(find, name))), ("", {}))
    if not isinstance(content, dict):
        raise DefinitionError(f"{name} is no object")
    _check_task(name, content)
    settings = {key: value for key, value in content.items() if key not in _NO_NUMBERS}
    settings.pop("transformer_task", None)
    lower_case = settings.pop("do_lower_case", False) or False
    lengths = [settings.pop("max_seq_length", None)]
    for argument in _ARGUMENTS:
        lengths.append(_from_arguments(name, argument, settings.pop(argument, None)))
    left = sorted(key for key, value in settings.items() if value not in (None, False, "", [], {}))
    if left:
        raise DefinitionError(f"{name} has {left[0]}, which is not served")
    length = next((length for length in reversed(lengths) if length is not None), None)
    if not isinstance(lower_case, bool) or isinstance(length, bool) or not isinstance(length, int | None):
        raise DefinitionError(f"{name} has do_lower_case {lower_case!r} and max_seq_length {length!r}")
    return replace(defined, lower_case=lower_case, max_seq_length=length)


def _check_task(name: str, content: Mapping[str, Any]) -> None:
    """Raise if the output of the transformer is not the last hidden states of a text."""
    task = content.get("transformer_task", "feature-extraction")
    output = content.get("module_output_name", "token_embeddings")
    if task != "feature-extraction" or output != "token_embeddings":
        raise DefinitionError(f"{name} has transformer_task {task!r} with {output!r}; expected token embeddings")
    text = (content.get("modality_config") or {"text": {}}).get("text")
    expected = {"method": "forward", "method_output_name": "last_hidden_state"}
    if text is None or {**expected, **text} != expected:
        raise DefinitionError(f"{name} has modality_config text {text}; expected {expected}")


def _from_arguments(name: str, argument: str, values: object) -> Any:  # noqa: ANN401 - checked by the caller
    """Return `model_max_length` from the arguments for transformers, None if it is not set."""
    if not values:
        return None
    strange = sorted(set(values) - _HARMLESS_ARGUMENTS) if isinstance(values, dict) else [str(values)]
    if strange:
        raise DefinitionError(f"{name} has {strange[0]} in {argument}, which is not served")
    return values.get("model_max_length") if isinstance(values, dict) else None
