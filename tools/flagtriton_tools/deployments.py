# SPDX-License-Identifier: Apache-2.0
"""What one deployment consists of: its ensemble and steps, from the user's options and the checkpoint's facts.

Pure: nothing is written here. A model class is one entry of `_BUILDERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.instructions import check_instruction_format
from flagtriton.parameters import write_parameters
from flagtriton.protocol import (
    COLBERT_LENGTHS,
    COLBERT_VECS,
    DEFAULT_MAX_LENGTH,
    DENSE_VECS,
    HIDDEN_STATES,
    INPUT_IDS,
    PASSAGE,
    PASSAGE_IDS,
    PASSAGE_START,
    PASSAGE_STATES,
    QUERY,
    QUERY_IDS,
    QUERY_STATES,
    SCORE,
    SCORES,
    SPARSE_IDS,
    SPARSE_WEIGHTS,
    TEXT,
    TOKEN_COUNT,
    UNWEIGHTED_IDS,
    Deployment,
    Tensor,
    score_model_name,
)
from flagtriton.types import EmbedderModelClass
from flagtriton_server.settings import attention_path, rows_needed
from flagtriton_tools.add_options import AddOptions, Model
from flagtriton_tools.checkpoint import CheckpointFacts, adapter_source
from flagtriton_tools.errors import ToolError
from flagtriton_tools.pbtxt import Device, EnsembleStep, ensemble_config
from flagtriton_tools.steps import (
    PAIR_TENSORS,
    TOKEN_BUDGETS,
    classifier_step,
    colbert_step,
    encoder_step,
    pooler_step,
    row_tokenizer_step,
    scorer_step,
    sparse_step,
    tokenizer_step,
)

__all__ = ["PART_OF", "TOKEN_BUDGETS", "AddOptions", "Model", "build", "describe"]

PART_OF = "part_of"
"""The parameter by which a further ensemble names the deployment that it belongs to."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DEFAULT_POOLING = "cls"
"""FlagEmbedding's, where nothing else is said or known."""

_LAST_TOKEN = "last_token"


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
        pooling_method=_pooling(facts, options, model_class),
        max_length=options.max_length or most or DEFAULT_MAX_LENGTH,
        precision=options.precision,
        device=_device(options),
        shard=options.shard,
        attention=attention_path(facts.model_type, trust_remote_code) if facts.model_type else None,
        hidden_size=facts.hidden_size,
        revision=options.revision,
        trust_remote_code=trust_remote_code,
        peft=None if options.peft is None else adapter_source(options.peft),
        query_instruction=options.query_instruction,
        query_instruction_format=_format("query", options.query_instruction_format, _query_format(facts, model_class)),
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
    if deployment.task == "rerank" and facts.labels not in (None, 1):
        raise ToolError(f"{facts.source} has a head for {facts.labels} labels; a reranker has one, which is its score")
    return builder(name, deployment, options)


def _device(options: AddOptions) -> str:
    device = Device.parse(options.device, options.instances)
    if options.shard and (len(set(device.gpus)) < 2 or device.count != 1):
        raise ToolError(
            f"--shard spreads one instance over several GPUs, but --device is {options.device} and --instances "
            f"{options.instances}; say for example --shard --device gpu:0,1"
        )
    return str(device)


def _pooling(facts: CheckpointFacts, options: AddOptions, model_class: str) -> str:
    if model_class.startswith("decoder-only"):
        return _decoder_pooling(facts, options, model_class)
    if options.pooling_method is None and facts.unknown_pooling is not None:
        raise ToolError(
            f"{facts.source} was made for {facts.unknown_pooling} pooling; this version has cls, mean and last_token: "
            "say which with --pooling"
        )
    return options.pooling_method or facts.pooling_method or _DEFAULT_POOLING


def _decoder_pooling(facts: CheckpointFacts, options: AddOptions, model_class: str) -> str:
    asked = options.pooling_method or facts.pooling_method or facts.unknown_pooling or _LAST_TOKEN
    if asked != _LAST_TOKEN:
        raise ToolError(
            f"{facts.source} is {model_class}, whose texts are pooled at their last token; {asked} pooling was "
            + ("asked for" if options.pooling_method else "found beside it: say --pooling last_token to overrule it")
        )
    return _LAST_TOKEN


def _remote_code(facts: CheckpointFacts, options: AddOptions) -> bool:
    if options.trust_remote_code is None and facts.trust_remote_code:
        raise ToolError(
            f"{facts.source} needs Python code that comes with it; read it, then say --trust-remote-code, "
            "or --no-trust-remote-code where this transformers has the architecture itself"
        )
    return bool(options.trust_remote_code)


def _query_format(facts: CheckpointFacts, model_class: str) -> str:
    """Return the checkpoint's own format; where none is known, a model that takes examples has that of its class."""
    if facts.query_instruction_format == "{}{}" and model_class == EmbedderModelClass.DECODER_ONLY_ICL.value:
        return "<instruct>{}\n<query>{}"
    return facts.query_instruction_format


def _format(kind: str, asked: str | None, default: str) -> str:
    chosen = default if asked is None else asked
    try:
        check_instruction_format(chosen, f"--{kind}-instruction-format")
    except ValueError as error:
        raise ToolError(str(error)) from error
    return chosen


def _embedder(name: str, served: Deployment, options: AddOptions) -> list[Model]:
    _refuse_colbert_options(name, options)
    rows, pools = rows_needed(served.pooling_method), options.pool_in_encoder
    tokenizer = tokenizer_step(name, served, options)
    encoder = encoder_step(name, served, options, rows=rows)
    pooler = pooler_step(name, served, options, rows=rows)
    chain = [
        EnsembleStep(tokenizer.name, _same(TEXT), _same(INPUT_IDS, TOKEN_COUNT)),
        EnsembleStep(encoder.name, _same(INPUT_IDS), _same(DENSE_VECS if pools else HIDDEN_STATES)),
        EnsembleStep(pooler.name, _same(HIDDEN_STATES, INPUT_IDS), _same(DENSE_VECS)),
    ]
    ensemble = ensemble_config(
        inputs=[TEXT],
        outputs=[DENSE_VECS, TOKEN_COUNT],
        max_batch_size=options.max_batch_size,
        steps=chain[:2] if pools else chain,
        parameters=write_parameters(served),
    )
    return [Model(name, ensemble), tokenizer, encoder, *([] if pools else [pooler])]


def _encoder_reranker(name: str, served: Deployment, options: AddOptions) -> list[Model]:
    _refuse_colbert_options(name, options)
    for flag, said in {"--pool-in-encoder": options.pool_in_encoder, "--pooling": options.pooling_method}.items():
        if said:
            raise ToolError(f"{flag}: {name} is a reranker, whose own head makes its scores")
    if options.query_instruction is not None or options.passage_instruction is not None:
        raise ToolError(f"{name} is a reranker, to which callers give instructions themselves; add it without any")
    if served.trust_remote_code:
        raise ToolError(f"{served.checkpoint} brings code of its own, whose head this version cannot serve")
    steps = [
        row_tokenizer_step(name, served, options),
        encoder_step(name, served, options, rows="first"),
        classifier_step(name, served, options),
    ]
    ensemble = ensemble_config(
        inputs=[QUERY, PASSAGE],
        outputs=[SCORE, TOKEN_COUNT],
        max_batch_size=options.max_batch_size,
        steps=[
            EnsembleStep(steps[0].name, _same(QUERY, PASSAGE), _same(INPUT_IDS, TOKEN_COUNT, PASSAGE_START)),
            EnsembleStep(steps[1].name, _same(INPUT_IDS, PASSAGE_START), _same(HIDDEN_STATES)),
            EnsembleStep(steps[2].name, _same(HIDDEN_STATES), _same(SCORE)),
        ],
        parameters=write_parameters(served),
    )
    return [Model(name, ensemble), *steps]


def _m3_embedder(name: str, served: Deployment, options: AddOptions) -> list[Model]:
    if options.pool_in_encoder:
        raise ToolError(f"--pool-in-encoder: {name} needs its hidden states behind the encoder, for sparse and ColBERT")
    served = replace(
        served,
        colbert_dim=options.colbert_dim or served.hidden_size,
        colbert_dtype=options.colbert_dtype or "fp32",
    )
    steps = [
        tokenizer_step(name, served, options, pairs=True),
        encoder_step(name, served, options, rows="all"),
        pooler_step(name, served, options, rows="all"),
        sparse_step(name, served, options),
        colbert_step(name, served, options),
        scorer_step(name, served, options),
    ]
    embed, score = _m3_embed_ensemble(name, served, options), _m3_score_ensemble(name, options)
    return [Model(name, embed), Model(score_model_name(name), score), *steps]


def _m3_embed_ensemble(name: str, served: Deployment, options: AddOptions) -> ModelConfig:
    states = _same(HIDDEN_STATES, INPUT_IDS)
    colbert = replace(COLBERT_VECS, datatype=(served.colbert_dtype or "").upper())
    return ensemble_config(
        inputs=[TEXT],
        outputs=[DENSE_VECS, SPARSE_IDS, SPARSE_WEIGHTS, colbert, COLBERT_LENGTHS, TOKEN_COUNT],
        max_batch_size=options.max_batch_size,
        steps=[
            EnsembleStep(f"{name}_tokenizer", _same(TEXT), _same(INPUT_IDS, TOKEN_COUNT, UNWEIGHTED_IDS)),
            EnsembleStep(f"{name}_encoder", _same(INPUT_IDS), _same(HIDDEN_STATES)),
            EnsembleStep(f"{name}_pooler", states, _same(DENSE_VECS)),
            EnsembleStep(f"{name}_sparse", {**states, **_same(UNWEIGHTED_IDS)}, _same(SPARSE_IDS, SPARSE_WEIGHTS)),
            EnsembleStep(f"{name}_colbert", states, _same(COLBERT_VECS, COLBERT_LENGTHS)),
        ],
        parameters=write_parameters(served),
    )


def _m3_score_ensemble(name: str, options: AddOptions) -> ModelConfig:
    encoder = f"{name}_encoder"
    return ensemble_config(
        inputs=[QUERY, PASSAGE],
        outputs=list(SCORES.values()),
        max_batch_size=options.max_batch_size,
        steps=[
            EnsembleStep(f"{name}_tokenizer", _same(QUERY, PASSAGE), _same(*PAIR_TENSORS, UNWEIGHTED_IDS)),
            EnsembleStep(encoder, {INPUT_IDS.name: QUERY_IDS.name}, {HIDDEN_STATES.name: QUERY_STATES.name}),
            EnsembleStep(encoder, {INPUT_IDS.name: PASSAGE_IDS.name}, {HIDDEN_STATES.name: PASSAGE_STATES.name}),
            EnsembleStep(
                f"{name}_scorer",
                _same(QUERY_STATES, PASSAGE_STATES, *PAIR_TENSORS, UNWEIGHTED_IDS),
                _same(*SCORES.values()),
            ),
        ],
        parameters={PART_OF: name},
    )


def _refuse_colbert_options(name: str, options: AddOptions) -> None:
    for flag, value in {"--colbert-dim": options.colbert_dim, "--colbert-dtype": options.colbert_dtype}.items():
        if value is not None:
            raise ToolError(f"{flag} is {value}, but {name} has no ColBERT vectors; encoder-only-m3 has")


def _same(*tensors: Tensor) -> dict[str, str]:
    return {tensor.name: tensor.name for tensor in tensors}


_BUILDERS: dict[tuple[str, str], Callable[[str, Deployment, AddOptions], list[Model]]] = {
    ("embed", "encoder-only-base"): _embedder,
    ("embed", "encoder-only-m3"): _m3_embedder,
    ("embed", "decoder-only-base"): _embedder,
    ("embed", "decoder-only-icl"): _embedder,
    ("embed", "decoder-only-pseudo_moe"): _embedder,
    ("rerank", "encoder-only-base"): _encoder_reranker,
}
