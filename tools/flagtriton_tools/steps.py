# SPDX-License-Identifier: Apache-2.0
"""One step of a deployment each: its folder's name, its `config.pbtxt`, and the module it runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flagtriton.parameters import write_parameters
from flagtriton.protocol import (
    COLBERT_LENGTHS,
    COLBERT_VECS,
    DENSE_VECS,
    HIDDEN_STATES,
    INPUT_IDS,
    PASSAGE,
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
    Deployment,
    Tensor,
)
from flagtriton.types import EmbedderModelClass
from flagtriton_server.settings import (
    ColbertSettings,
    EncoderSettings,
    HeadSettings,
    PoolerSettings,
    ScorerSettings,
    TokenizerSettings,
)
from flagtriton_tools.add_options import AddOptions, Model
from flagtriton_tools.pbtxt import Device, QueuePolicy, step_config

__all__ = [
    "PAIR_TENSORS",
    "TOKEN_BUDGETS",
    "classifier_step",
    "colbert_step",
    "encoder_step",
    "pooler_step",
    "scorer_step",
    "sparse_step",
    "tokenizer_step",
]

TOKEN_BUDGETS = {"cpu": 4_096, "gpu": 65_536}
"""Tokens of one forward pass: what fills a GPU, and on a processor what its matrix kernels do best with."""

PAIR_TENSORS = (QUERY_IDS, PASSAGE_IDS, QUERY_ROWS, PASSAGE_ROWS)

_QUEUE = QueuePolicy(max_queue_size=4096, timeout_us=60_000_000)
_WARMUP_TOKENS = (16, 256)


def tokenizer_step(name: str, served: Deployment, options: AddOptions, *, pairs: bool = False) -> Model:
    """Return the step that makes token ids; with `pairs` it takes pairs, and decodes ids, too.

    A reranker's takes pairs alone, and joins each into one row.
    """
    joins = served.task == "rerank"
    further = [*PAIR_TENSORS, UNWEIGHTED_IDS, TOKEN] if pairs else [PASSAGE_START] if joins else []
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
    )
    config = step_config(
        inputs=[TEXT, QUERY, PASSAGE, TOKEN_ID] if pairs else [QUERY, PASSAGE] if joins else [TEXT],
        outputs=[INPUT_IDS, TOKEN_COUNT, *further],
        max_batch_size=options.max_batch_size,
        device=Device(count=options.tokenizer_instances),
        parameters=write_parameters(settings),
        queue_policy=_QUEUE,
        inputs_are_optional=pairs,
    )
    return Model(f"{name}_tokenizer", config, "tokenizer")


def encoder_step(name: str, served: Deployment, options: AddOptions, *, rows: str) -> Model:
    """Return the step that runs the checkpoint; `rows` of a text's hidden states leave it."""
    device = replace(Device.parse(options.device, options.instances), shard=options.shard)
    pairs = served.task == "rerank"
    settings = EncoderSettings(
        checkpoint=served.checkpoint,
        max_length=served.max_length,
        token_budget=options.token_budget or TOKEN_BUDGETS["gpu" if device.gpus else "cpu"],
        precision=_precision(served),
        rows=rows,
        pooling_method=served.pooling_method if options.pool_in_encoder else None,
        revision=served.revision,
        trust_remote_code=served.trust_remote_code,
        peft=served.peft,
        shard=",".join(map(str, device.gpus)) if options.shard else None,
        token_types=pairs,
        pseudo_moe=_is_pseudo_moe(served),
    )
    config = step_config(
        inputs=[INPUT_IDS, PASSAGE_START] if pairs else [INPUT_IDS],
        outputs=[DENSE_VECS if options.pool_in_encoder else HIDDEN_STATES],
        max_batch_size=options.max_batch_size,
        device=device,
        parameters=write_parameters(settings),
        warmup_tokens=[tokens for tokens in _WARMUP_TOKENS if tokens <= served.max_length],
    )
    return Model(f"{name}_encoder", config, "encoder")


def pooler_step(name: str, served: Deployment, options: AddOptions, *, rows: str) -> Model:
    """Return the step that makes dense vectors of `rows`, which is what the encoder sends."""
    settings = PoolerSettings(
        served.pooling_method,
        _precision(served),
        _encoder_device(served),
        rows,
        pseudo_moe=_is_pseudo_moe(served),
    )
    return _behind_encoder(name, "pooler", [HIDDEN_STATES, INPUT_IDS], [DENSE_VECS], settings, options, Device())


def sparse_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that makes lexical weights; so little work that a processor does it for any encoder."""
    settings = HeadSettings(**_head(served))
    outputs = [SPARSE_IDS, SPARSE_WEIGHTS]
    inputs = [HIDDEN_STATES, INPUT_IDS, UNWEIGHTED_IDS]
    return _behind_encoder(name, "sparse", inputs, outputs, settings, options, Device())


def colbert_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that makes ColBERT vectors, beside the encoder."""
    dtype = served.colbert_dtype or "fp32"
    settings = ColbertSettings(**_head(served), colbert_dim=served.colbert_dim, colbert_dtype=dtype)
    outputs = [replace(COLBERT_VECS, datatype=dtype.upper()), COLBERT_LENGTHS]
    device = Device.parse(options.device, 1)
    return _behind_encoder(name, "colbert", [HIDDEN_STATES, INPUT_IDS], outputs, settings, options, device)


def classifier_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that makes scores of pairs' first token vectors."""
    settings = HeadSettings(**_head(served))
    model = _behind_encoder(name, "scorer", [HIDDEN_STATES], [SCORE], settings, options, Device())
    return replace(model, step="classifier")


def scorer_step(name: str, served: Deployment, options: AddOptions) -> Model:
    """Return the step that scores pairs, beside the encoder."""
    settings = ScorerSettings(**_head(served), pooling_method=served.pooling_method, colbert_dim=served.colbert_dim)
    inputs = [QUERY_STATES, PASSAGE_STATES, *PAIR_TENSORS, UNWEIGHTED_IDS]
    return _behind_encoder(
        name, "scorer", inputs, list(SCORES.values()), settings, options, Device.parse(options.device, 1)
    )


def _behind_encoder(
    name: str,
    step: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    settings: Any,  # noqa: ANN401 - the step's own dataclass
    options: AddOptions,
    device: Device,
) -> Model:
    config = step_config(
        inputs=inputs,
        outputs=outputs,
        max_batch_size=options.max_batch_size,
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
    """Return what the steps are told: on a GPU `auto` is bf16 for decoders, whose values may pass what fp16 holds."""
    decoder_on_gpu = served.model_class.startswith("decoder-only") and _encoder_device(served) == "gpu"
    return "bf16" if served.precision == "auto" and decoder_on_gpu else served.precision


def _is_pseudo_moe(served: Deployment) -> bool:
    return served.model_class == EmbedderModelClass.DECODER_ONLY_PSEUDO_MOE.value


def _encoder_device(served: Deployment) -> str:
    return served.device.partition(":")[0]
