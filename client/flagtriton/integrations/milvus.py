# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's output as rows for Milvus.

The rows are plain dicts, so no client is needed. They have no ColBERT vectors: a Milvus field holds one vector per row.
Source: Milvus' documentation, pages "Sparse Vector" and "Multi-Vector Hybrid Search".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flagtriton.integrations.rows import DEFAULT_NAMES, FieldNames, by_token_id, check_count, outputs_of_text

__all__ = ["rows", "sparse_row"]


def sparse_row(lexical_weights: Mapping[str, float]) -> dict[int, float]:
    """Return one text's weights for a `SPARSE_FLOAT_VECTOR` field, for insertion and search, by ascending token id.

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
    """Return one row per text of `output`, for `MilvusClient.insert` and `upsert`.

    Args:
        output: BGE-M3's output for the texts.
        ids: primary keys, one per text.
        payloads: dicts of further fields, one per text.
        names: the collection's vector fields.
        id_field: the collection's primary key.

    Raises:
        ValueError: `output` holds neither dense vectors nor weights; the number of ids or payloads is not that of the
            texts; or a payload has a field with the name of the key or of a vector.
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
    """Return a row with its payload; raise if both have a field of the same name."""
    shared = sorted(row.keys() & payload.keys())
    if shared:
        raise ValueError(
            f"payload field {shared[0]!r} is also the key or a vector: rename it, or give names or id_field"
        )
    return {**row, **payload}
