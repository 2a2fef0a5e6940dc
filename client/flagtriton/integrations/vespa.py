# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's output as tensors in Vespa's JSON, for documents and for a query's `input.query(…)`.

The tensors are plain dicts, so no client is needed. The schema's fields are `tensor<float>(x[D])` for dense vectors,
`tensor<float>(token{})` for weights and `tensor<float>(token{}, x[C])` for ColBERT vectors. The JSON holds no names of
dimensions, so the schema may use others.
Source: Vespa's documentation, page "Document JSON format reference", section "Tensors".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flagtriton.integrations.rows import DEFAULT_NAMES, FieldNames, check_weights, outputs_of_text
from flagtriton.types import ColBERTVectors

__all__ = ["colbert_tensor", "fields", "sparse_tensor"]


def sparse_tensor(lexical_weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return one text's weights as a tensor with one mapped dimension, labelled by token id.

    Raises:
        ValueError: a weight is not a positive number.
    """
    return {"cells": check_weights(lexical_weights)}


def colbert_tensor(colbert_vecs: ColBERTVectors) -> dict[str, dict[str, list[float]]]:
    """Return one text's ColBERT vectors, `[T - 1, C]`, as a mixed tensor with a block of `C` floats per token.

    The labels are the tokens' positions in the text, from 0, as a token id may occur twice.

    Raises:
        ValueError: the argument is no array of two axes, as without return_colbert_vecs.
    """
    if getattr(colbert_vecs, "ndim", None) != 2:
        raise ValueError(
            f"the colbert_vecs of one text are an array of two axes, but a {type(colbert_vecs).__name__} came: "
            'encode with return_colbert_vecs=True and give output["colbert_vecs"][index]'
        )
    return {"blocks": {str(position): vector for position, vector in enumerate(colbert_vecs.tolist())}}


def fields(output: Mapping[str, Any], index: int, names: FieldNames = DEFAULT_NAMES) -> dict[str, Any]:
    """Return a document's `fields` for text `index`: its dense, sparse and ColBERT outputs without those that are None.

    Raises:
        ValueError: there is no such text, or `output` holds nothing.
    """
    outputs = outputs_of_text(output, index)
    document: dict[str, Any] = {}
    if "dense_vecs" in outputs:
        document[names.dense_vecs] = outputs["dense_vecs"].tolist()
    if "lexical_weights" in outputs:
        document[names.lexical_weights] = sparse_tensor(outputs["lexical_weights"])
    if "colbert_vecs" in outputs:
        document[names.colbert_vecs] = colbert_tensor(outputs["colbert_vecs"])
    return document
