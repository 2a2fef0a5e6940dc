# SPDX-License-Identifier: Apache-2.0
"""What one deployment consists of: its ensemble and steps, from the user's options and the checkpoint's facts.

Pure: nothing is written here. A model class is one entry of `_BUILDERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.instructions import check_instruction_format
from flagtriton.parameters import write_parameters
from flagtriton.protocol import (
    DEFAULT_MAX_LENGTH,
    DENSE_VECS,
    HIDDEN_STATES,
    INPUT_IDS,
    TEXT,
    TOKEN_COUNT,
    Deployment,
    Tensor,
)
from flagtriton_server.settings import EncoderSettings, PoolerSettings, TokenizerSettings, attention_path, rows_needed
from flagtriton_tools.checkpoint import CheckpointFacts
from flagtriton_tools.errors import ToolError
from flagtriton_tools.pbtxt import Device, EnsembleStep, QueuePolicy, ensemble_config, step_config

__all__ = ["TOKEN_BUDGETS", "AddOptions", "Model", "build", "describe"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_QUEUE = QueuePolicy(max_queue_size=4096, timeout_us=60_000_000)
TOKEN_BUDGETS = {"cpu": 4_096, "gpu": 65_536}
"""Tokens of one forward pass: what fills a GPU, and on a processor what its matrix kernels do best with."""

_WARMUP_TOKENS = (16, 256)
_DEFAULT_POOLING = "cls"
"""FlagEmbedding's, where nothing else is said or known."""

_PROCESSOR = Device()


@dataclass(frozen=True)
class AddOptions:
    """What the user said; None where the checkpoint's facts decide."""

    name: str | None = None
    task: str | None = None
    model_class: str | None = None
    pooling_method: str | None = None
    device: str = "cpu"
    instances: int = 1
    precision: str = "auto"
    max_length: int | None = None
    max_batch_size: int = 256
    token_budget: int | None = None
    tokenizer_instances: int = 1
    pool_in_encoder: bool = False
    query_instruction: str | None = None
    query_instruction_format: str | None = None
    passage_instruction: str | None = None
    passage_instruction_format: str | None = None
    trust_remote_code: bool | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Model:
    """One folder of a model repository.

    Attributes:
        step: the module of `flagtriton_server` it runs; None for an ensemble.
    """

    name: str
    config: ModelConfig
    step: str | None = None


def describe(facts: CheckpointFacts, options: AddOptions) -> Deployment:
    """Return what is to be served: the user's word first, then what is known of the checkpoint.

    Raises:
        ToolError: something is neither said nor known, or contradicts the checkpoint.
    """
    task = options.task or facts.task
    if task is None:
        raise ToolError(
            f"{facts.source} may be an embedder or a reranker, as far as {facts.known_from} tells; "
            "say --task embed or --task rerank"
        )
    model_class = options.model_class or facts.model_class
    if model_class is None:
        raise ToolError(f"{facts.source} does not tell its model class; say --model-class, e.g. encoder-only-base")
    most = facts.max_length
    if options.max_length is not None and most is not None and options.max_length > most:
        raise ToolError(f"--max-length is {options.max_length}, but {facts.source} has positions for {most} tokens")
    trust_remote_code = _remote_code(facts, options)
    return Deployment(
        task=task,
        model_class=model_class,
        checkpoint=facts.source,
        pooling_method=_pooling(facts, options),
        max_length=options.max_length or most or DEFAULT_MAX_LENGTH,
        precision=options.precision,
        device=str(Device.parse(options.device, options.instances)),
        attention=attention_path(facts.model_type, trust_remote_code) if facts.model_type else None,
        hidden_size=facts.hidden_size,
        revision=options.revision,
        trust_remote_code=trust_remote_code,
        query_instruction=options.query_instruction,
        query_instruction_format=_format("query", options.query_instruction_format, facts.query_instruction_format),
        passage_instruction=options.passage_instruction,
        passage_instruction_format=_format("passage", options.passage_instruction_format, "{}{}"),
    )


def build(facts: CheckpointFacts, options: AddOptions) -> list[Model]:
    """Return the folders of one deployment, the public ensemble first.

    Raises:
        ToolError: as `describe`; an unusable name; a model class that this version does not serve.
    """
    name = facts.name if options.name is None else options.name
    if not _NAME.fullmatch(name):
        raise ToolError(f"the name is {name!r}; expected letters, digits, '.', '_' and '-': pass --name")
    deployment = describe(facts, options)
    builder = _BUILDERS.get((deployment.task, deployment.model_class))
    if builder is None:
        served = ", ".join(f"{task} {model_class}" for task, model_class in _BUILDERS)
        raise ToolError(f"{facts.source} is {deployment.task} {deployment.model_class}; this version serves {served}")
    return builder(name, deployment, options)


def _pooling(facts: CheckpointFacts, options: AddOptions) -> str:
    if options.pooling_method is None and facts.unknown_pooling is not None:
        raise ToolError(
            f"{facts.source} was made for {facts.unknown_pooling} pooling; this version has cls, mean and last_token: "
            "say which with --pooling"
        )
    return options.pooling_method or facts.pooling_method or _DEFAULT_POOLING


def _remote_code(facts: CheckpointFacts, options: AddOptions) -> bool:
    if options.trust_remote_code is None and facts.trust_remote_code:
        raise ToolError(
            f"{facts.source} needs Python code that comes with it; read it, then say --trust-remote-code, "
            "or --no-trust-remote-code where this transformers has the architecture itself"
        )
    return bool(options.trust_remote_code)


def _format(kind: str, asked: str | None, default: str) -> str:
    try:
        check_instruction_format(default if asked is None else asked)
    except ValueError as error:
        raise ToolError(f"--{kind}-instruction-format: {error}") from error
    return default if asked is None else asked


def _encoder_only_embedder(name: str, served: Deployment, options: AddOptions) -> list[Model]:
    tokenizer, encoder, pooler = (f"{name}_{step}" for step in ("tokenizer", "encoder", "pooler"))
    pools = options.pool_in_encoder
    steps = [
        EnsembleStep(tokenizer, _same(TEXT), _same(INPUT_IDS, TOKEN_COUNT)),
        EnsembleStep(encoder, _same(INPUT_IDS), _same(DENSE_VECS if pools else HIDDEN_STATES)),
    ]
    models = [
        Model(tokenizer, _tokenizer_config(served, options), "tokenizer"),
        Model(encoder, _encoder_config(served, options), "encoder"),
    ]
    if not pools:
        steps.append(EnsembleStep(pooler, _same(HIDDEN_STATES, INPUT_IDS), _same(DENSE_VECS)))
        models.append(Model(pooler, _pooler_config(served, options), "pooler"))
    ensemble = ensemble_config(
        inputs=[TEXT],
        outputs=[DENSE_VECS, TOKEN_COUNT],
        max_batch_size=options.max_batch_size,
        steps=steps,
        parameters=write_parameters(served),
    )
    return [Model(name, ensemble), *models]


def _tokenizer_config(served: Deployment, options: AddOptions) -> ModelConfig:
    settings = TokenizerSettings(
        checkpoint=served.checkpoint,
        max_length=served.max_length,
        revision=served.revision,
        trust_remote_code=served.trust_remote_code,
        query_instruction=served.query_instruction,
        query_instruction_format=served.query_instruction_format,
        passage_instruction=served.passage_instruction,
        passage_instruction_format=served.passage_instruction_format,
    )
    return step_config(
        inputs=[TEXT],
        outputs=[INPUT_IDS, TOKEN_COUNT],
        max_batch_size=options.max_batch_size,
        device=Device(count=options.tokenizer_instances),
        parameters=write_parameters(settings),
        queue_policy=_QUEUE,
    )


def _encoder_config(served: Deployment, options: AddOptions) -> ModelConfig:
    device = Device.parse(options.device, options.instances)
    settings = EncoderSettings(
        checkpoint=served.checkpoint,
        max_length=served.max_length,
        token_budget=options.token_budget or TOKEN_BUDGETS["gpu" if device.gpus else "cpu"],
        precision=served.precision,
        rows=rows_needed(served.pooling_method),
        pooling_method=served.pooling_method if options.pool_in_encoder else None,
        revision=served.revision,
        trust_remote_code=served.trust_remote_code,
    )
    return step_config(
        inputs=[INPUT_IDS],
        outputs=[DENSE_VECS if options.pool_in_encoder else HIDDEN_STATES],
        max_batch_size=options.max_batch_size,
        device=device,
        parameters=write_parameters(settings),
        warmup_tokens=[tokens for tokens in _WARMUP_TOKENS if tokens <= served.max_length],
    )


def _pooler_config(served: Deployment, options: AddOptions) -> ModelConfig:
    encoder_device = served.device.partition(":")[0]
    return step_config(
        inputs=[HIDDEN_STATES, INPUT_IDS],
        outputs=[DENSE_VECS],
        max_batch_size=options.max_batch_size,
        device=_PROCESSOR,
        parameters=write_parameters(PoolerSettings(served.pooling_method, served.precision, encoder_device)),
    )


def _same(*tensors: Tensor) -> dict[str, str]:
    return {tensor.name: tensor.name for tensor in tensors}


_BUILDERS: dict[tuple[str, str], Callable[[str, Deployment, AddOptions], list[Model]]] = {
    ("embed", "encoder-only-base"): _encoder_only_embedder,
}
