# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's output as rows for Milvus.

Makes plain dicts, so it needs no client. ColBERT vectors are left out: a Milvus field holds one vector a row.
Source: Milvus' documentation, pages "Sparse Vector" and "Multi-Vector Hybrid Search".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flagtriton.integrations.rows import DEFAULT_NAMES, FieldNames, by_token_id, check_count, outputs_of_text

__all__ = ["rows", "sparse_row"]


def sparse_row(lexical_weights: Mapping[str, float]) -> dict[int, float]:
    """Return one text's weights for a `SPARSE_FLOAT_VECTOR` field, to insert or to search with; by ascending token id.

    Raises:
        ValueError: a key is no token id, or a weight is not a positive number.
    """
    return by_token_id(lexical_weights)


def rows(
    output: Mapping[str, Any],
    ids: Sequence[int | str],
    payloads: Sequence[Mapping[str, Any]] | None = None,
    names: FieldNames = DEFAULT_NAMES,
    id_field: str = "id",
) -> list[dict[str, Any]]:
    """Return a row for every text of `output`, as `MilvusClient.insert` and `upsert` take them.

    Args:
        output: what BGE-M3 returned for the texts.
        ids: the primary key of every text.
        payloads: a dict of further fields for every text.
        names: the collection's vector fields.
        id_field: the collection's primary key.

    Raises:
        ValueError: `output` holds neither dense vectors nor weights, there is not one id, or not one payload, a text,
            or a payload has a field of the same name as the key or a vector.
    """
    payload_list = [{} for _ in ids] if payloads is None else payloads
    check_count("ids", ids, output)
    check_count("payloads", payload_list, output)
    return [
        _joined({id_field: id_, **_vectors(output, index, names)}, payload)
        for index, (id_, payload) in enumerate(zip(ids, payload_list, strict=True))
    ]


def _vectors(output: Mapping[str, Any], index: int, names: FieldNames) -> dict[str, Any]:
    """Return the dense (`D` floats) and sparse fields of text `index`."""
    outputs = outputs_of_text(output, index)
    vectors: dict[str, Any] = {}
    if "dense_vecs" in outputs:
        vectors[names.dense_vecs] = outputs["dense_vecs"].tolist()
    if "lexical_weights" in outputs:
        vectors[names.lexical_weights] = sparse_row(outputs["lexical_weights"])
    if not vectors:
        raise ValueError("output holds colbert_vecs alone: encode with return_dense=True or return_sparse=True")
    return vectors


def _joined(row: dict[str, Any], payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its payload, which must not have a field of it."""
    both = sorted(row.keys() & payload.keys())
    if both:
        raise ValueError(f"payload field {both[0]!r} is also the key or a vector: rename it, or give names or id_field")
    return {**row, **payload}
