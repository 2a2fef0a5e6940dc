# SPDX-License-Identifier: Apache-2.0
"""One builder for each step of a deployment: folder name, `config.pbtxt` and the module that it runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flagtriton.protocol.deployment import Deployment, resolve_precision
from flagtriton.protocol.model_classes import EmbedderModelClass
from flagtriton.protocol.parameters import write_parameters
from flagtriton.protocol.settings import (
    ColbertSettings,
    DenseSparseSettings,
    EncoderSettings,
    LayerwiseSettings,
    PoolerSettings,
    RerankerHeadSettings,
    ScorerSettings,
    TokenizerSettings,
)
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
    PASSAGE_END,
    PASSAGE_IDS,
    PASSAGE_ROWS,
    PASSAGE_START,
    PASSAGE_STATES,
    QUERY,
    QUERY_IDS,
    QUERY_ROWS,
    QUERY_STATES,
    SCORE,
    SCORES,
    SPARSE_IDS,
    SPARSE_WEIGHTS,
    TEXT,
    TOKEN,
    TOKEN_COUNT,
    TOKEN_ID,
    UNWEIGHTED_IDS,
    TensorSpec,
)
from flagtriton_tools.deploy.budgets import queue_settings, token_budget
from flagtriton_tools.deploy.options import AddOptions, Model
from flagtriton_tools.deploy.pbtxt import Device, step_config
from flagtriton_tools.deploy.pooling_options import finishing, prompt_tensors, skips_prompts

__all__ = [
    "PAIR_TENSORS",
    "colbert_step",
    "dense_sparse_step",
    "encoder_step",
    "layerwise_encoder_step",
    "part_tensors",
    "pooler_step",
    "reranker_scorer_step",
    "scorer_step",
    "tokenizer_step",
]

PAIR_TENSORS = (QUERY_IDS, PASSAGE_IDS, QUERY_ROWS, PASSAGE_ROWS)

_WARMUP_TOKENS = (16, 256)


def tokenizer_step(name: str, served: Deployment, options: AddOptions, *, pairs: bool = False) -> Model:
    """Return the step that turns texts into token ids. With `pairs` it also takes pairs and decodes ids.

    A reranker's tokenizer takes only pairs and joins each pair into one row.
    """
    joins = served.task == "rerank"
    further = [*PAIR_TENSORS, UNWEIGHTED_IDS, TOKEN] if pairs else part_tensors(served) if joins else []
    further += prompt_tensors(served)
    settings = TokenizerSettings(
        checkpoint=served.checkpoint,
        max_length=served.max_length,
        model_class=served.model_class,
        revision=served.revision,
        trust_remote_code=served.trust_remote_code,
        query_instruction=served.query_instruction,
        query_instruction_format=served.query_instruction_format,
        passage_instruction=served.passage_instruction,
        passage_instruction_format=served.passage_instruction_format,
        send_unweighted_ids=pairs,
        joins_pairs=joins,
        positions=served.positions,
        max_text_bytes=options.max_text_bytes,
        max_request_bytes=options.max_request_bytes,
        default_max_length=served.default_max_length,
        lower_case=served.lower_case,
        send_prompt_length=skips_prompts(served),
        prompts=served.prompts,
        default_prompt_name=served.default_prompt_name,
        **queue_settings(options),
    )
    config = step_config(
        inputs=[] if pairs else [QUERY, PASSAGE] if joins else [TEXT],
        optional_inputs=[TEXT, QUERY, PASSAGE, TOKEN_ID] if pairs else [],
        outputs=[INPUT_IDS, TOKEN_COUNT, *further],
        max_batch_size=options.rows,
        device=Device(count=options.tokenizer_instances),
        parameters=write_parameters(settings),
    )
    return Model(f"{name}_tokenizer", config, "tokenizer")


def encoder_step(name: str, served: Deployment, options: AddOptions, *, rows: str) -> Model:
    """Return the step that runs the checkpoint. `rows` names the hidden states of a text that leave the step."""
    device = replace(Device.parse(options.device, options.instances), shard=options.shard)
    pairs = served.row.is_encoder_reranker
    settings = EncoderSettings(
        checkpoint=served.checkpoint,
        max_length=served.positions or served.max_length,
        token_budget=token_budget(device, options),
        precision=_precision(served),
        rows=rows,
        pooling_method=served.pooling_method if options.pool_in_encoder else None,
        revision=served.revision,
        trust_remote_code=served.trust_remote_code,
        peft=served.peft,
        shard=",".join(map(str, device.gpus)) if options.shard else None,
        token_types=pairs,
        scores=_scored_in_encoder(served),
        pseudo_moe=served.model_class == EmbedderModelClass.DECODER_ONLY_PSEUDO_MOE,
        definition=served.definition,
        **(finishing(served) if options.pool_in_encoder else {}),
        **queue_settings(options),
    )
    inputs = [INPUT_IDS, PASSAGE_START] if pairs else [INPUT_IDS]
    inputs += prompt_tensors(served) if options.pool_in_encoder else []
    output = DENSE_VECS if options.pool_in_encoder else HIDDEN_STATES
    if served.model_class != EmbedderModelClass.ENCODER_ONLY_M3:
        return _encoder(name, "encoder", inputs, [output], settings, options, device)
    return _encoder(name, "encoder", inputs, [output, PASSAGE_STATES], settings, options, device, [PASSAGE_IDS])


def layerwise_encoder_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that runs a layerwise reranker's checkpoint, up to the layers that requests ask for."""
    device = Device.parse(options.device, options.instances)
    settings = LayerwiseSettings(
        checkpoint=served.checkpoint,
        model_class=served.model_class,
        max_length=served.positions or served.max_length,
        token_budget=token_budget(device, options),
        precision=_precision(served),
        revision=served.revision,
        peft=served.peft,
        **queue_settings(options),
    )
    return _encoder(
        name, "layerwise_encoder", [INPUT_IDS, *part_tensors(served)], [HIDDEN_STATES], settings, options, device
    )


def pooler_step(name: str, served: Deployment, options: AddOptions, *, rows: str) -> Model:
    """Return the step that computes dense vectors from `rows`, the hidden states that the encoder sends."""
    settings = PoolerSettings(
        served.pooling_method,
        _precision(served),
        _encoder_device(served),
        rows,
        pseudo_moe=served.model_class == EmbedderModelClass.DECODER_ONLY_PSEUDO_MOE,
        **finishing(served),
    )
    if settings.modules is not None:
        settings = replace(settings, checkpoint=served.checkpoint, revision=served.revision)
    inputs = [HIDDEN_STATES, INPUT_IDS, *prompt_tensors(served)]
    return _behind_encoder(name, "pooler", inputs, [DENSE_VECS], settings, options, Device())


def dense_sparse_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that computes dense vectors and lexical weights. It runs on the CPU, as its work is small."""
    settings = DenseSparseSettings(**_head(served), pooling_method=served.pooling_method, normalize=served.normalize)
    outputs = [DENSE_VECS, SPARSE_IDS, SPARSE_WEIGHTS, DONE]
    inputs = [HIDDEN_STATES, INPUT_IDS, UNWEIGHTED_IDS]
    return _behind_encoder(name, "dense_sparse", inputs, outputs, settings, options, Device())


def colbert_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that computes ColBERT vectors on the encoder's device."""
    dtype = served.colbert_dtype or "fp32"
    settings = ColbertSettings(**_head(served), colbert_dim=served.colbert_dim, colbert_dtype=dtype)
    outputs = [COLBERT_VECS, COLBERT_LENGTHS]
    device = Device.parse(options.device, 1)
    return _behind_encoder(name, "colbert", [HIDDEN_STATES, INPUT_IDS, AFTER], outputs, settings, options, device)


def reranker_scorer_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that computes a reranker's scores. It runs on the CPU for any encoder, as its work is small."""
    settings = RerankerHeadSettings(
        **_head(served),
        model_class=served.model_class,
        peft=served.peft,
        scored_in_encoder=_scored_in_encoder(served),
    )
    scores = LAYER_SCORES if served.row.layerwise else SCORE
    model = _behind_encoder(name, "scorer", [HIDDEN_STATES], [scores], settings, options, Device())
    return replace(model, step="reranker_scorer")


def scorer_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that scores pairs on the encoder's device."""
    settings = ScorerSettings(**_head(served), pooling_method=served.pooling_method, colbert_dim=served.colbert_dim)
    inputs = [QUERY_STATES, PASSAGE_STATES, *PAIR_TENSORS, UNWEIGHTED_IDS]
    return _behind_encoder(
        name, "scorer", inputs, list(SCORES.values()), settings, options, Device.parse(options.device, 1)
    )


def part_tensors(served: Deployment) -> list[TensorSpec]:
    """Return the tensors that mark the passage tokens of a reranker's rows; empty for other models."""
    if served.row.layerwise:
        return [PASSAGE_START, PASSAGE_END]
    return [PASSAGE_START] if served.row.is_encoder_reranker else []


def _scored_in_encoder(served: Deployment) -> bool:
    """Return whether an encoder reranker runs with its head in the encoder step.

    Only BERT, RoBERTa, XLM-R and CamemBERT have a known head that a separate step can run.
    """
    return served.row.is_encoder_reranker and (served.trust_remote_code or served.attention == "padded")


def _encoder(
    name: str,
    step: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    settings: EncoderSettings | LayerwiseSettings,
    options: AddOptions,
    device: Device,
    optional_inputs: Sequence[TensorSpec] = (),
) -> Model:
    config = step_config(
        inputs=inputs,
        optional_inputs=optional_inputs,
        outputs=outputs,
        max_batch_size=options.rows,
        device=device,
        parameters=write_parameters(settings),
        warmup_tokens=[tokens for tokens in _WARMUP_TOKENS if tokens <= settings.max_length],
    )
    return Model(f"{name}_encoder", config, step)


def _behind_encoder(
    name: str,
    step: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    settings: Any,  # noqa: ANN401 - the settings dataclass of the step
    options: AddOptions,
    device: Device,
) -> Model:
    config = step_config(
        inputs=inputs,
        outputs=outputs,
        max_batch_size=options.rows,
        device=device,
        parameters=write_parameters(settings),
    )
    return Model(f"{name}_{step}", config, step)


def _head(served: Deployment) -> dict[str, Any]:
    return {
        "checkpoint": served.checkpoint,
        "precision": _precision(served),
        "device": _encoder_device(served),
        "revision": served.revision,
    }


def _precision(served: Deployment) -> str:
    """Return the precision in the settings of a step. `auto` is resolved here for GPUs and in the step for CPUs."""
    if _encoder_device(served) == "cpu":
        return served.precision
    return resolve_precision(served.precision, "gpu", decoder=served.row.decoder)


def _encoder_device(served: Deployment) -> str:
    return served.device.partition(":")[0]
