# SPDX-License-Identifier: Apache-2.0
"""Requests for BGE-M3's outputs of texts."""

from __future__ import annotations

from dataclasses import replace

from flagtriton.embedders.base import EncodeCall
from flagtriton.m3.collect import OutputCollector
from flagtriton.m3.output import M3Output
from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.tensors import TEXT
from flagtriton.remote.model import ServedModel

__all__ = ["encode_outputs"]

_COLBERT_BYTES_PER_REPLY = 64 << 20
"""Upper bound for a reply's ColBERT vectors, with one token per byte of text; real texts have 4 to 5 times fewer."""

_DEFAULT_COLBERT_DIM = 4096
"""Assumed components of a ColBERT vector if the deployment does not tell."""


def encode_outputs(served: ServedModel, call: EncodeCall, *, dense: bool, sparse: bool, colbert: bool) -> M3Output:
    """Return the chosen outputs of a call's texts.

    Args:
        served: the deployment of BGE-M3.
        call: the texts and options.
        dense: return dense vectors.
        sparse: return lexical weights.
        colbert: return ColBERT vectors.

    Raises:
        ValueError: no output is chosen.
    """
    collector = OutputCollector(len(call.texts), single=call.single, dense=dense, sparse=sparse, colbert=colbert)
    if not collector.tensors:
        raise ValueError(
            "Must choose one or more from `return_colbert_vecs`, `return_sparse`, `return_dense` to set `True`!"
        )
    max_area = _max_colbert_area(served.deployment) if colbert else None
    return served.collect(
        collector,
        served.plan(call.sent, max_rows=call.max_rows, max_area=max_area),
        {TEXT: call.sent},
        collector.tensors,
        _with_colbert_dtype(call.options, served.deployment) if colbert else call.options,
        show_progress=call.show_progress,
    )


def _with_colbert_dtype(options: EmbedOptions, deployment: Deployment) -> EmbedOptions:
    """Return options that ask for ColBERT vectors in the deployment's dtype."""
    if not deployment.colbert_dtype_by_request or deployment.colbert_dtype is None:
        return options  # a deployment of an earlier version, which lacks the option
    return replace(options, colbert_dtype=deployment.colbert_dtype)


def _max_colbert_area(deployment: Deployment) -> int:
    """Return the number of token vectors that one reply may hold, padding included."""
    dim = deployment.colbert_dim or deployment.hidden_size or _DEFAULT_COLBERT_DIM
    return max(1, _COLBERT_BYTES_PER_REPLY // (dim * (2 if deployment.colbert_dtype == "fp16" else 4)))
