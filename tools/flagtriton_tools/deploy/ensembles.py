# SPDX-License-Identifier: Apache-2.0
"""Chains of steps for each model class: the folders of a deployment, with the public ensemble first. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tritonclient.grpc.model_config_pb2 import ModelConfig

from flagtriton.protocol.deployment import Deployment, score_model_name
from flagtriton.protocol.model_classes import ModelClass
from flagtriton.protocol.parameters import write_parameters
from flagtriton.protocol.settings import rows_needed
from flagtriton.protocol.tensors import (
    AFTER,
    COLBERT_LENGTHS,
    COLBERT_VECS,
    DENSE_VECS,
    DONE,
    HIDDEN_STATES,
    INPUT_IDS,
    LAYER_SCORES,
    PASSAGE,
    PASSAGE_IDS,
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
    TensorSpec,
)
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.deploy.pbtxt import EnsembleStep, ensemble_config
from flagtriton_tools.deploy.pooling_options import prompt_tensors
from flagtriton_tools.deploy.steps import (
    PAIR_TENSORS,
    colbert_step,
    dense_sparse_step,
    encoder_step,
    layerwise_encoder_step,
    part_tensors,
    pooler_step,
    reranker_scorer_step,
    scorer_step,
    tokenizer_step,
)
from flagtriton_tools.errors import ToolError

__all__ = ["PART_OF", "builder_of"]

PART_OF = "part_of"
"""Parameter in which an additional ensemble names its deployment."""


def _embedder(name: str, served: Deployment, options: AddOptions) -> list[Model]:
    _refuse_colbert_options(name, options)
    pools, prompts = options.pool_in_encoder, prompt_tensors(served)
    rows = rows_needed(served.pooling_method, skip_prompts=bool(prompts))
    encoder_takes, pooler_takes = (prompts, []) if pools else ([], prompts)
    tokenizer = tokenizer_step(name, served, options)
    encoder = encoder_step(name, served, options, rows=rows)
    pooler = pooler_step(name, served, options, rows=rows)
    chain = [
        EnsembleStep(tokenizer.name, _same(TEXT), _same(INPUT_IDS, TOKEN_COUNT, *prompts)),
        EnsembleStep(encoder.name, _same(INPUT_IDS, *encoder_takes), _same(DENSE_VECS if pools else HIDDEN_STATES)),
        EnsembleStep(pooler.name, _same(HIDDEN_STATES, INPUT_IDS, *pooler_takes), _same(DENSE_VECS)),
    ]
    ensemble = ensemble_config(
        inputs=[TEXT],
        outputs=[DENSE_VECS, TOKEN_COUNT],
        max_batch_size=options.rows,
        steps=chain[:2] if pools else chain,
        parameters=write_parameters(served),
    )
    return [Model(name, ensemble), tokenizer, encoder, *([] if pools else [pooler])]


def _reranker(name: str, served: Deployment, options: AddOptions) -> list[Model]:
    _refuse_colbert_options(name, options)
    _refuse_of_reranker(name, served, options)
    layerwise, llm = served.row.layerwise, served.row.is_llm_reranker
    if layerwise:
        encoder = layerwise_encoder_step(name, served, options)
    else:
        encoder = encoder_step(name, served, options, rows="last" if llm else "first")
    steps = [tokenizer_step(name, served, options), encoder, reranker_scorer_step(name, served, options)]
    scores, parts = LAYER_SCORES if layerwise else SCORE, part_tensors(served)
    ensemble = ensemble_config(
        inputs=[QUERY, PASSAGE],
        outputs=[scores, TOKEN_COUNT],
        max_batch_size=options.rows,
        steps=[
            EnsembleStep(steps[0].name, _same(QUERY, PASSAGE), _same(INPUT_IDS, TOKEN_COUNT, *parts)),
            EnsembleStep(steps[1].name, _same(INPUT_IDS, *parts), _same(HIDDEN_STATES)),
            EnsembleStep(steps[2].name, _same(HIDDEN_STATES), _same(scores)),
        ],
        parameters=write_parameters(served),
    )
    return [Model(name, ensemble), *steps]


def _refuse_of_reranker(name: str, served: Deployment, options: AddOptions) -> None:
    """Raise for options that no reranker has, or that rerankers of this class do not have."""
    for flag, said in {"--pool-in-encoder": options.pool_in_encoder, "--pooling": options.pooling_method}.items():
        if said:
            raise ToolError(f"{flag}: {name} is a reranker, whose own head makes its scores")
    llm = served.row.is_llm_reranker
    if served.trust_remote_code and llm:
        raise ToolError(f"--trust-remote-code: {name} is {served.model_class}, for which no checkpoint's code is run")
    if served.row.layerwise and served.shard:
        raise ToolError(f"--shard: {name} is {served.model_class}, which runs on one device; give each GPU an instance")
    if llm:
        return
    if options.query_instruction is not None or options.passage_instruction is not None:
        raise ToolError(f"{name} is an encoder reranker, to which callers give instructions themselves")
    if served.peft is not None:
        raise ToolError(f"--peft: {name} is an encoder reranker; adapters are for LLM rerankers and decoder embedders")


def _m3_embedder(name: str, served: Deployment, options: AddOptions) -> list[Model]:
    if options.pool_in_encoder:
        raise ToolError(f"--pool-in-encoder: {name} needs its hidden states behind the encoder, for sparse and ColBERT")
    if "+" in served.pooling_method:
        raise ToolError(f"--pooling is {served.pooling_method}: {name} is {served.model_class}, which has one pooling")
    served = replace(
        served,
        colbert_dim=options.colbert_dim or served.hidden_size,
        colbert_dtype=options.colbert_dtype or "fp32",
        colbert_dtype_by_request=True if options.colbert_dtype == "fp16" else None,
    )
    steps = [
        tokenizer_step(name, served, options, pairs=True),
        encoder_step(name, served, options, rows="all"),
        dense_sparse_step(name, served, options),
        colbert_step(name, served, options),
        scorer_step(name, served, options),
    ]
    embed, score = _m3_embed_ensemble(name, served, options), _m3_score_ensemble(name, options)
    return [Model(name, embed), Model(score_model_name(name), score), *steps]


def _m3_embed_ensemble(name: str, served: Deployment, options: AddOptions) -> ModelConfig:
    """Return the ensemble that runs both heads in sequence. A request for ColBERT vectors alone runs both.

    Triton 24.10 ends with signal 11 if two steps become ready together after the client has disconnected.
    """
    states = _same(HIDDEN_STATES, INPUT_IDS)
    return ensemble_config(
        inputs=[TEXT],
        outputs=[DENSE_VECS, SPARSE_IDS, SPARSE_WEIGHTS, COLBERT_VECS, COLBERT_LENGTHS, TOKEN_COUNT],
        max_batch_size=options.rows,
        steps=[
            EnsembleStep(f"{name}_tokenizer", _same(TEXT), _same(INPUT_IDS, TOKEN_COUNT, UNWEIGHTED_IDS)),
            EnsembleStep(f"{name}_encoder", _same(INPUT_IDS), _same(HIDDEN_STATES)),
            EnsembleStep(
                f"{name}_dense_sparse",
                {**states, **_same(UNWEIGHTED_IDS)},
                _same(DENSE_VECS, SPARSE_IDS, SPARSE_WEIGHTS, DONE),
            ),
            EnsembleStep(f"{name}_colbert", {**states, AFTER.name: DONE.name}, _same(COLBERT_VECS, COLBERT_LENGTHS)),
        ],
        parameters=write_parameters(served),
    )


def _m3_score_ensemble(name: str, options: AddOptions) -> ModelConfig:
    ids = {INPUT_IDS.name: QUERY_IDS.name, **_same(PASSAGE_IDS)}
    states = {HIDDEN_STATES.name: QUERY_STATES.name, **_same(PASSAGE_STATES)}
    return ensemble_config(
        inputs=[QUERY, PASSAGE],
        outputs=list(SCORES.values()),
        max_batch_size=options.rows,
        steps=[
            EnsembleStep(f"{name}_tokenizer", _same(QUERY, PASSAGE), _same(*PAIR_TENSORS, UNWEIGHTED_IDS)),
            EnsembleStep(f"{name}_encoder", ids, states),
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


def _same(*tensors: TensorSpec) -> dict[str, str]:
    return {tensor.name: tensor.name for tensor in tensors}


def builder_of(row: ModelClass) -> Callable[[str, Deployment, AddOptions], list[Model]]:
    """Return the function that builds the folders of a deployment of this class."""
    if row.task == "rerank":
        return _reranker
    return _m3_embedder if "colbert" in row.steps else _embedder
