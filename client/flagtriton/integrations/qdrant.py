# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's output as Qdrant's points and vectors, and the collection that holds them.

Needs the `qdrant` extra, which the first call imports. Sends no requests.
Source: Qdrant's documentation, pages "Vectors", "Collections" and "Hybrid and Multi-Stage Queries".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flagtriton.errors import MissingExtraError
from flagtriton.integrations.rows import DEFAULT_NAMES, FieldNames, by_token_id, check_count, outputs_of_text

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["collection_parameters", "named_vectors", "points", "sparse_vector"]


def sparse_vector(lexical_weights: Mapping[str, float]) -> models.SparseVector:
    """Return one text's weights as a sparse vector: token ids, ascending, and their weights.

    Raises:
        MissingExtraError: qdrant-client is not installed.
        ValueError: a key is no token id, or a weight is not a positive number.
    """
    weights = by_token_id(lexical_weights)
    return _models().SparseVector(indices=list(weights), values=list(weights.values()))


def named_vectors(output: Mapping[str, Any], index: int, names: FieldNames = DEFAULT_NAMES) -> dict[str, Any]:
    """Return the outputs of text `index` by the collection's vector names.

    Dense is `D` floats, sparse a `models.SparseVector`, colbert `T - 1` lists of `C` floats. Together they are a
    point's `vector`; each alone is the `query` of a search that is `using` its name.

    Raises:
        MissingExtraError: qdrant-client is not installed.
        ValueError: there is no such text, or `output` holds nothing.
    """
    return {
        getattr(names, kind): sparse_vector(part) if kind == "lexical_weights" else part.tolist()
        for kind, part in outputs_of_text(output, index).items()
    }


def points(
    output: Mapping[str, Any],
    ids: Sequence[int | str | UUID],
    payloads: Sequence[Mapping[str, Any]] | None = None,
    names: FieldNames = DEFAULT_NAMES,
) -> Iterator[models.PointStruct]:
    """Return an iterator over one point per text of `output`.

    Args:
        output: BGE-M3's output for the texts.
        ids: numbers or UUIDs, one per text.
        payloads: dicts of further fields, one per text.
        names: the collection's vector names.

    Raises:
        MissingExtraError: qdrant-client is not installed.
        ValueError: `output` holds nothing, or the number of ids or payloads is not that of the texts.
    """
    client_models = _models()
    payload_list = [{} for _ in ids] if payloads is None else payloads
    check_count("ids", ids, output)
    check_count("payloads", payload_list, output)
    return (
        client_models.PointStruct(id=id_, vector=named_vectors(output, index, names), payload=dict(payload))
        for index, (id_, payload) in enumerate(zip(ids, payload_list, strict=True))
    )


def collection_parameters(
    dense_size: int | None = None,
    colbert_size: int | None = None,
    *,
    sparse: bool = True,
    names: FieldNames = DEFAULT_NAMES,
) -> dict[str, Any]:
    """Return `vectors_config` and `sparse_vectors_config` for `create_collection`.

    Dense vectors are compared by cosine, sparse ones by dot product, ColBERT vectors by MaxSim. ColBERT vectors get no
    HNSW graph: they rerank the results of the others.

    Args:
        dense_size: `D` of the dense vectors, 1024 for BGE-M3 as published; None leaves them out.
        colbert_size: `C` of the ColBERT vectors, 1024 for BGE-M3 as published; None leaves them out.
        sparse: whether the collection holds sparse vectors.
        names: the collection's vector names.

    Raises:
        MissingExtraError: qdrant-client is not installed.
        ValueError: the collection would have no vectors.
    """
    client_models = _models()
    dense: dict[str, Any] = {}
    if dense_size is not None:
        dense[names.dense_vecs] = client_models.VectorParams(size=dense_size, distance=client_models.Distance.COSINE)
    if colbert_size is not None:
        dense[names.colbert_vecs] = _colbert_parameters(client_models, colbert_size)
    if not dense and not sparse:
        raise ValueError("the collection would hold no vectors: give dense_size, colbert_size or sparse=True")
    sparse_params = {names.lexical_weights: client_models.SparseVectorParams()} if sparse else {}
    return {"vectors_config": dense, "sparse_vectors_config": sparse_params}


def _colbert_parameters(client_models: ModuleType, size: int) -> models.VectorParams:
    """Return parameters for MaxSim over vectors of `size` floats without an index."""
    return client_models.VectorParams(
        size=size,
        distance=client_models.Distance.COSINE,
        multivector_config=client_models.MultiVectorConfig(comparator=client_models.MultiVectorComparator.MAX_SIM),
        hnsw_config=client_models.HnswConfigDiff(m=0),
    )


def _models() -> ModuleType:
    """Return the client's module of request and response types."""
    try:
        return import_module("qdrant_client.models")
    except ImportError as error:
        raise MissingExtraError(
            "Qdrant's vectors are its client's own types: pip install 'flagtriton[qdrant]'"
        ) from error
