# SPDX-License-Identifier: Apache-2.0
"""Settings of a deployment from sentence-transformers' files, which the user's options override."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flagtriton.protocol.model_classes import EmbedderModelClass
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton_server.sentence_transformers.check import IGNORED, unread
from flagtriton_server.sentence_transformers.definition import DefinitionError, EmbedderDefinition
from flagtriton_tools.deploy.facts import CheckpointFacts, with_definition
from flagtriton_tools.deploy.options import AddOptions
from flagtriton_tools.deploy.sentence_transformers_files import read_files
from flagtriton_tools.errors import ToolError

__all__ = ["defined_settings", "with_reading"]

_M3 = EmbedderModelClass.ENCODER_ONLY_M3

_QUERY_PROMPTS = ("query",)
_PASSAGE_PROMPTS = ("document", "passage", "corpus")
"""Prompts of sentence-transformers that become instructions. The first one that is not empty counts."""


def with_reading(facts: CheckpointFacts, options: AddOptions) -> CheckpointFacts:
    """Return the facts together with the files of a hub name, if the files matter and can be read.

    A name in the model table needs the files only if the user asks for prompts.
    """
    if facts.reading is not None or not (facts.name_alone or options.prompts) or not options.modules:
        return facts
    reading = read_files(facts.source, options.revision, by_table=facts.by_table)
    return replace(facts, reading=reading) if facts.by_table else with_definition(facts, reading, None)


def defined_settings(
    facts: CheckpointFacts, options: AddOptions, task: str, model_class: str, formats: Mapping[str, str], pooling: str
) -> dict[str, Any]:
    """Return the fields of a `Deployment` that the files settle, by name.

    Args:
        facts: facts with the content of the files.
        options: options of the user.
        task: task of the deployment.
        model_class: model class of the deployment.
        formats: formats of its instructions, by `query` and `passage`.
        pooling: pooling method of the deployment.

    Raises:
        ToolError: the files define something that is not served, or that contradicts the options.
    """
    if task == "rerank":
        return _of_reranker(facts, options)
    reading = facts.reading
    plain = EmbedderDefinition(pooling)
    if not options.modules:
        return {"definition": IGNORED, "hidden_size": plain.width(facts.hidden_size)}
    if reading is None or not reading.available:
        if options.prompts:
            raise ToolError(f"--prompts: the files of {facts.source} cannot be read here; add a folder that has them")
        assumed = {"definition": unread(pooling)} if facts.name_alone else {}
        return {**assumed, "hidden_size": plain.width(facts.hidden_size)}
    if reading.definition is None:
        raise ToolError(f"{facts.source}: {reading.problem}; {_WITHOUT}")
    defined = replace(reading.definition, pooling=pooling)
    _check_class(facts, defined, model_class)
    try:
        width = defined.width(facts.hidden_size)
    except DefinitionError as error:
        raise ToolError(f"{facts.source}: {error}; {_WITHOUT}") from error
    return {
        "definition": reading.summary,
        "hidden_size": width,
        "normalize": None if defined.normalize or model_class == _M3 else False,
        "truncate_dim": defined.truncate_dim,
        "modules": defined.modules,
        "lower_case": True if defined.lower_case else None,
        "include_prompt": None if defined.include_prompt else False,
        "default_max_length": _default_length(facts, options, defined),
        **_prompts(facts, options, defined, formats),
    }


_WITHOUT = "--no-modules leaves out what sentence-transformers' files say, as FlagEmbedding does"


def _of_reranker(facts: CheckpointFacts, options: AddOptions) -> dict[str, Any]:
    kinds = () if facts.reading is None or facts.by_table else facts.reading.kinds
    further = [kind for kind in kinds if kind != "Transformer"]
    if further and options.modules:
        raise ToolError(
            f"{facts.source} is a reranker whose modules.json has {', '.join(further)}, for which there is no step; "
            "--no-modules serves it with its own head alone, as FlagEmbedding does"
        )
    return {"hidden_size": facts.hidden_size, **({"definition": IGNORED} if further else {})}


def _check_class(facts: CheckpointFacts, defined: EmbedderDefinition, model_class: str) -> None:
    """Raise if the files define something that the model class cannot do."""
    m3 = model_class == _M3
    cut = None if defined.truncate_dim is None else f"truncate_dim {defined.truncate_dim}"
    if m3 and (cut or defined.modules) is not None:
        raise ToolError(
            f"{facts.source} has {cut or defined.modules} behind its pooling, for which {model_class} has no place; "
            f"--model-class encoder-only-base serves its dense vectors. {_WITHOUT}"
        )
    if not defined.include_prompt and (m3 or model_class == EmbedderModelClass.DECODER_ONLY_ICL):
        raise ToolError(f"{facts.source} has include_prompt false, which {model_class} cannot honour; {_WITHOUT}")


def _default_length(facts: CheckpointFacts, options: AddOptions, defined: EmbedderDefinition) -> int | None:
    """Return the default length of texts if the files give one below the maximum, else None."""
    most = facts.max_length or DEFAULT_MAX_LENGTH
    length = defined.max_seq_length
    return length if options.max_length is None and length is not None and length < most else None


def _prompts(
    facts: CheckpointFacts, options: AddOptions, defined: EmbedderDefinition, formats: Mapping[str, str]
) -> dict[str, Any]:
    prompts = dict(defined.prompts)
    fields: dict[str, Any] = {"prompts": json.dumps(prompts, ensure_ascii=False) if prompts else None}
    used = not facts.by_table if options.prompts is None else options.prompts
    if not used:
        return fields
    fields["default_prompt_name"] = defined.default_prompt_name
    for kind, names in {"query": _QUERY_PROMPTS, "passage": _PASSAGE_PROMPTS}.items():
        prompt = next((prompts[name] for name in names if prompts.get(name)), None)
        if prompt is not None and getattr(options, f"{kind}_instruction") is None:
            fields[f"{kind}_instruction"] = _within(prompt, kind, formats[kind], facts.source)
    return fields


def _within(prompt: str, kind: str, instruction_format: str, source: str) -> str:
    """Return the instruction from which a format makes a prompt.

    Raises:
        ToolError: the format cannot make this prompt.
    """
    before, _, behind = instruction_format.replace("\\n", "\n").format("\0", "\1").partition("\0")
    middle, text, end = behind.partition("\1")
    fits = text and not end and prompt.startswith(before) and prompt.endswith(middle)
    if not fits or len(prompt) < len(before) + len(middle):
        raise ToolError(
            f"{source} has the {kind} prompt {prompt!r}, which --{kind}-instruction-format {instruction_format!r} does "
            f"not make; say --{kind}-instruction, --{kind}-instruction-format '{{}}{{}}', or --no-prompts"
        )
    return prompt[len(before) : len(prompt) - len(middle)]
