# SPDX-License-Identifier: Apache-2.0
"""Builds the ensembles and steps of one deployment from the user's options and the facts of its checkpoint.

Pure: this module writes nothing. A model class is one row of `flagtriton.protocol.model_classes`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from flagtriton.checkpoints import checkpoint_name
from flagtriton.protocol.architectures import architecture_of, attention_path
from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.instructions import check_instruction_format
from flagtriton.protocol.model_classes import POOLINGS, EmbedderModelClass, ModelClass, check_pooling, model_class_row
from flagtriton.protocol.parameters import MODEL_DIRECTORY
from flagtriton.protocol.tensors import DEFAULT_MAX_LENGTH
from flagtriton_tools.deploy.ensembles import builder_of
from flagtriton_tools.deploy.facts import CheckpointFacts, adapter_source
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.deploy.pbtxt import Device
from flagtriton_tools.deploy.sentence_transformers_overlay import defined_settings, with_reading
from flagtriton_tools.deploy.stub_paths import EXECUTION_ENV, is_one_word
from flagtriton_tools.errors import ToolError

__all__ = ["build", "describe"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DEFAULT_POOLING = "cls"
"""FlagEmbedding's default, for checkpoints that neither the user nor the facts give a pooling."""

_LAST_TOKEN = "last_token"
_ANY_POOLING = EmbedderModelClass.ENCODER_ONLY_BASE.value

_PAIRS_OF_A_REQUEST = 1024
"""Default of `max_batch_size` for rerankers, so that all candidates of a query fit one request."""


def describe(facts: CheckpointFacts, options: AddOptions) -> Deployment:
    """Return the description of a deployment. The user's options come first, then the facts of the checkpoint.

    Raises:
        ToolError: neither options nor facts give a needed value, or an option contradicts the checkpoint.
    """
    facts = with_reading(facts, options)
    task = options.task or facts.task
    if task is None:
        raise ToolError(
            f"{facts.source} may be an embedder or a reranker, as far as {facts.known_from} tells; "
            "say --task embed or --task rerank"
        )
    model_class = options.model_class or facts.model_class
    if model_class is None:
        raise ToolError(f"{facts.source} does not tell its model class; say --model-class, e.g. encoder-only-base")
    row = _row(facts, task, model_class)
    most = facts.max_length
    if options.max_length is not None and most is not None and options.max_length > most:
        raise ToolError(f"--max-length is {options.max_length}, but {facts.source} has positions for {most} tokens")
    trust_remote_code = _remote_code(facts, options, row)
    pooling = _pooling(facts, options, row)
    formats = {
        "query": _format("query", options.query_instruction_format, _query_format(facts, row)),
        "passage": _format("passage", options.passage_instruction_format, "{}{}"),
    }
    served = Deployment(
        task=task,
        model_class=model_class,
        checkpoint=facts.source,
        pooling_method=pooling,
        max_length=options.max_length or most or DEFAULT_MAX_LENGTH,
        positions=_positions(facts, options, row),
        precision=options.precision,
        device=_device(options),
        shard=options.shard,
        attention=_attention(facts, row, trust_remote_code),
        revision=options.revision,
        trust_remote_code=trust_remote_code,
        peft=None if options.peft is None else adapter_source(options.peft),
        query_instruction=_first(options.query_instruction, row.query_instruction),
        query_instruction_format=formats["query"],
        passage_instruction=_first(options.passage_instruction, row.passage_instruction),
        passage_instruction_format=formats["passage"],
    )
    return replace(served, **defined_settings(facts, options, task, model_class, formats, pooling))


def build(facts: CheckpointFacts, options: AddOptions) -> list[Model]:
    """Return the folders of one deployment, with the public ensemble first.

    Raises:
        ToolError: as `describe`, or the name is unusable, or this version does not serve the model class.
    """
    name = facts.name if options.name is None else options.name
    if not _NAME.fullmatch(name):
        raise ToolError(f"the name is {name!r}; expected letters, digits, '.', '_' and '-': pass --name")
    if checkpoint_name(name) != name:
        raise ToolError(
            f"the name is {name!r}, which the SDK would take for a path of {checkpoint_name(name)!r}: "
            "pass another --name"
        )
    deployment = describe(facts, options)
    if deployment.row.is_encoder_reranker and facts.labels not in (None, 1):
        raise ToolError(f"{facts.source} has a head for {facts.labels} labels; a reranker has one, which is its score")
    if deployment.task == "rerank" and options.max_batch_size is None:
        options = replace(options, max_batch_size=_PAIRS_OF_A_REQUEST)
    models = builder_of(deployment.row)(name, deployment, options)
    for model in models if options.execution_env is not None else ():
        if model.step is not None:
            model.config.parameters[EXECUTION_ENV].string_value = _execution_env(options)
    return models


def _execution_env(options: AddOptions) -> str:
    path = options.execution_env or ""
    if not path.startswith(("/", f"{MODEL_DIRECTORY}/")):
        raise ToolError(
            f"--execution-env is {path!r}; say where it lies on the server's machine: an absolute path, or one that "
            f"begins with {MODEL_DIRECTORY}/, which is each step's own folder"
        )
    if not is_one_word(path):
        raise ToolError(
            f"--execution-env is {path!r}; Triton hands it to a shell without quotes: use letters, digits and "
            "_ . / + @ % , : = - alone"
        )
    return path


def _row(facts: CheckpointFacts, task: str, model_class: str) -> ModelClass:
    try:
        return model_class_row(task, model_class)
    except ValueError as error:
        raise ToolError(f"{facts.source} is {error}") from error


def _attention(facts: CheckpointFacts, row: ModelClass, trust_remote_code: bool) -> str | None:
    if row.layerwise:
        return "packed"
    if row.is_encoder_reranker and not architecture_of(facts.model_type).separate_head:
        return "padded" if facts.model_type else None
    return attention_path(facts.model_type, trust_remote_code) if facts.model_type else None


def _first(*choices: str | None) -> str | None:
    """Return the first choice that is not None."""
    return next((choice for choice in choices if choice is not None), None)


def _positions(facts: CheckpointFacts, options: AddOptions, row: ModelClass) -> int | None:
    """Return the row length of an LLM reranker if it exceeds the length that texts may ask for, else None."""
    if not row.is_llm_reranker or options.max_length is None or facts.max_length is None:
        return None
    return facts.max_length if facts.max_length > options.max_length else None


def _device(options: AddOptions) -> str:
    device = Device.parse(options.device, options.instances)
    if options.shard and (len(set(device.gpus)) < 2 or device.count != 1):
        raise ToolError(
            f"--shard spreads one instance over several GPUs, but --device is {options.device} and --instances "
            f"{options.instances}; say for example --shard --device gpu:0,1"
        )
    return str(device)


def _pooling(facts: CheckpointFacts, options: AddOptions, row: ModelClass) -> str:
    if row.decoder:
        return _decoder_pooling(facts, options, row)
    if options.pooling_method is None and facts.unknown_pooling is not None:
        raise ToolError(
            f"{facts.source} was made for {facts.unknown_pooling} pooling; this version has cls, mean and last_token, "
            f"and {', '.join(POOLINGS[3:])}: say which with --pooling, several joined by +"
        )
    pooling = options.pooling_method or facts.pooling_method or _DEFAULT_POOLING
    try:
        check_pooling(pooling, "--pooling")
    except ValueError as error:
        raise ToolError(str(error)) from error
    return pooling


def _decoder_pooling(facts: CheckpointFacts, options: AddOptions, row: ModelClass) -> str:
    asked = options.pooling_method or facts.pooling_method or facts.unknown_pooling or _LAST_TOKEN
    if asked != _LAST_TOKEN:
        raise ToolError(
            f"{facts.source} is {row.name.value}, whose texts are pooled at their last token; {asked} pooling was "
            + ("asked for" if options.pooling_method else "found beside it")
            + f": --model-class {_ANY_POOLING} has the other poolings"
            + ("" if options.pooling_method else f"; --pooling {_LAST_TOKEN} overrules it, against the checkpoint")
        )
    return _LAST_TOKEN


def _remote_code(facts: CheckpointFacts, options: AddOptions, row: ModelClass) -> bool:
    asked = options.trust_remote_code is None and facts.trust_remote_code and not row.layerwise
    if asked and row.is_llm_reranker:
        raise ToolError(
            f"{facts.source} brings Python code of its own, which is not run for LLM rerankers; say "
            "--no-trust-remote-code where this transformers has the architecture itself"
        )
    if asked:
        raise ToolError(
            f"{facts.source} needs Python code that comes with it; read it, then say --trust-remote-code, "
            "or --no-trust-remote-code where this transformers has the architecture itself"
        )
    return bool(options.trust_remote_code)


def _query_format(facts: CheckpointFacts, row: ModelClass) -> str:
    """Return the query format of the checkpoint, or the format of its class if the checkpoint has the plain one."""
    known = facts.query_instruction_format
    return row.query_instruction_format if known == "{}{}" else known


def _format(kind: str, asked: str | None, default: str) -> str:
    chosen = default if asked is None else asked
    try:
        check_instruction_format(chosen, f"--{kind}-instruction-format")
    except ValueError as error:
        raise ToolError(str(error)) from error
    return chosen
