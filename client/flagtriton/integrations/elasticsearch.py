# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's output as fields, queries and indices of Elasticsearch and OpenSearch.

The results are plain dicts, so no client is needed. They have no ColBERT vectors, whose fields differ by version.

Lucene's limits hold for both engines. Weights are stored with 9 significant bits, a relative error of up to 0.4 %. A
query may have 1,024 distinct tokens, or the server's `max_clause_count` if that is higher (see `heaviest`). The query
of a text without weights, such as an empty one, finds no document.
Sources: Elasticsearch's documentation, pages "Sparse vector field type", "Rank features field type", "Sparse vector
query", "Rank feature query" and "Dense vector field type"; OpenSearch's, pages "Neural sparse search using raw
vectors", "Neural sparse query", "Neural sparse ANN search" and "k-NN vector".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from flagtriton.integrations.rows import DEFAULT_NAMES, FieldNames, check_weights, outputs_of_text

__all__ = [
    "features",
    "fields",
    "heaviest",
    "mapping",
    "neural_sparse_query",
    "opensearch_index",
    "rank_features_query",
    "sparse_vector_query",
]

_MIN_WEIGHT = float(np.finfo(np.float32).tiny)


def features(lexical_weights: Mapping[str, float]) -> dict[str, float]:
    """Return one text's weights as the value of a `sparse_vector` or `rank_features` field.

    Weights below 1.18e-38 are left out: the engines refuse them, and they do not change a score.

    Raises:
        ValueError: a key has a dot, which the engines read as a path, or a weight is not a positive number.
    """
    weights = check_weights(lexical_weights)
    for token in weights:
        if "." in token:
            raise ValueError(f"{token!r} holds a dot, which rank_features refuses: index token ids, not token texts")
    return {token: weight for token, weight in weights.items() if weight >= _MIN_WEIGHT}


def fields(output: Mapping[str, Any], index: int, names: FieldNames = DEFAULT_NAMES) -> dict[str, Any]:
    """Return the dense (`D` floats) and sparse (token to weight) fields of a document for text `index`.

    Raises:
        ValueError: there is no such text, or `output` holds neither dense vectors nor weights.
    """
    outputs = outputs_of_text(output, index)
    document: dict[str, Any] = {}
    if "dense_vecs" in outputs:
        document[names.dense_vecs] = outputs["dense_vecs"].tolist()
    if "lexical_weights" in outputs:
        document[names.lexical_weights] = features(outputs["lexical_weights"])
    if not document:
        raise ValueError("output holds colbert_vecs alone: encode with return_dense=True or return_sparse=True")
    return document


def heaviest(lexical_weights: Mapping[str, float], count: int = 1024) -> dict[str, float]:
    """Return the `count` highest weights of a text in descending order, to fit a long query to the engines' limit.

    Raises:
        ValueError: a weight is not a positive number.
    """
    ranked = sorted(check_weights(lexical_weights).items(), key=lambda item: item[1], reverse=True)
    return dict(ranked[:count])


def sparse_vector_query(field: str, lexical_weights: Mapping[str, float], boost: float = 1.0) -> dict[str, Any]:
    """Return Elasticsearch's query (8.15 on) that scores by the dot product with a `sparse_vector` field.

    Pruning is off. By default, from 9.1 on, it drops frequent tokens with weights below 0.4, which most of BGE-M3's
    tokens have.

    Raises:
        ValueError: a key has a dot, or a weight is not a positive number.
    """
    vector = features(lexical_weights)
    if not vector:
        return _match_none()
    return {"sparse_vector": {"field": field, "query_vector": vector, "prune": False, "boost": boost}}


def rank_features_query(field: str, lexical_weights: Mapping[str, float], boost: float = 1.0) -> dict[str, Any]:
    """Return the query of either engine that scores by the dot product with a `rank_features` field.

    Raises:
        ValueError: a key has a dot, or a weight is not a positive number.
    """
    clauses = [
        {"rank_feature": {"field": f"{field}.{token}", "linear": {}, "boost": weight}}
        for token, weight in features(lexical_weights).items()
    ]
    if not clauses:  # a query without clauses would find every document
        return _match_none()
    return {"bool": {"should": clauses, "minimum_should_match": 1, "boost": boost}}


def neural_sparse_query(field: str, lexical_weights: Mapping[str, float], boost: float = 1.0) -> dict[str, Any]:
    """Return OpenSearch's query (2.14 on) that scores by the dot product with a `rank_features` field.

    Raises:
        ValueError: a key has a dot, or a weight is not a positive number.
    """
    tokens = features(lexical_weights)
    if not tokens:
        return _match_none()
    return {"neural_sparse": {field: {"query_tokens": tokens, "boost": boost}}}


def mapping(
    dense_size: int | None = None,
    sparse_type: Literal["sparse_vector", "rank_features"] | None = "sparse_vector",
    names: FieldNames = DEFAULT_NAMES,
) -> dict[str, Any]:
    """Return Elasticsearch's `mappings` of an index for `fields`.

    Args:
        dense_size: `D` of the dense vectors, compared by cosine; None leaves them out.
        sparse_type: type of the weights' field; `rank_features` exists before 8.11, too, for `rank_features_query`.
        names: field names of the index.

    Raises:
        ValueError: the index would have no fields.
    """
    properties: dict[str, Any] = {}
    if dense_size is not None:
        properties[names.dense_vecs] = {
            "type": "dense_vector",
            "dims": dense_size,
            "similarity": "cosine",
            "index": True,
        }
    if sparse_type is not None:
        properties[names.lexical_weights] = {"type": sparse_type}
    return {"properties": _require_fields(properties)}


def opensearch_index(
    dense_size: int | None = None, *, sparse: bool = True, names: FieldNames = DEFAULT_NAMES
) -> dict[str, Any]:
    """Return the body that creates OpenSearch's index for `fields`: `settings` and `mappings`.

    Weights go to `rank_features`. OpenSearch's `sparse_vector` (3.3 on) keeps 16 bits of a token id, too few for
    BGE-M3's 250,002.

    Args:
        dense_size: `D` of the dense vectors, compared by cosine; None leaves them out.
        sparse: whether documents have weights.
        names: field names of the index.

    Raises:
        ValueError: the index would have no fields.
    """
    properties: dict[str, Any] = {}
    if dense_size is not None:
        method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
        properties[names.dense_vecs] = {"type": "knn_vector", "dimension": dense_size, "method": method}
    if sparse:
        properties[names.lexical_weights] = {"type": "rank_features"}
    return {
        "settings": {"index": {"knn": dense_size is not None}},
        "mappings": {"properties": _require_fields(properties)},
    }


def _match_none() -> dict[str, Any]:
    """Return the query of either engine that finds no document."""
    return {"match_none": {}}


def _require_fields(properties: dict[str, Any]) -> dict[str, Any]:
    """Return an index's fields; raise if there are none."""
    if not properties:
        raise ValueError("the index would have no fields: give dense_size or a field for the weights")
    return properties
