# SPDX-License-Identifier: Apache-2.0
"""Qdrant's points and collections, and a hybrid search by its own local mode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flagtriton.errors import MissingExtraError
from flagtriton.integrations.qdrant import collection_parameters, named_vectors, points, sparse_vector
from flagtriton.integrations.rows import FieldNames
from tests.support.search_engines import two_texts

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

qdrant_client = pytest.importorskip("qdrant_client")
models = qdrant_client.models

OTHER_NAMES = FieldNames("d", "s", "c")

DOCUMENTS: dict[str, Any] = {
    "dense_vecs": np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], dtype=np.float32),
    "lexical_weights": [{"3": 1.0}, {"5": 0.5}, {"5": 0.5, "7": 0.5}, {"4": 1.0}],
    "colbert_vecs": [
        np.array(vectors, dtype=np.float32) for vectors in ([[1, 0]], [[0.6, 0.8]], [[1, 0], [0, 1]], [[1, 0], [0, 1]])
    ],
}
QUERY: dict[str, Any] = {
    "dense_vecs": np.array([[1, 0]], dtype=np.float32),
    "lexical_weights": [{"5": 1.0, "7": 1.0}],
    "colbert_vecs": [np.array([[1, 0], [0, 1]], dtype=np.float32)],
}


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    """A collection of four documents with the ids 0 to 3."""
    client = qdrant_client.QdrantClient(":memory:")
    client.create_collection("texts", **collection_parameters(dense_size=2, colbert_size=2))
    client.upsert("texts", list(points(DOCUMENTS, [0, 1, 2, 3], [{"text": letter} for letter in "abcd"])))
    yield client
    client.close()


def found(answer: Any) -> list[tuple[int, float]]:
    return [(point.id, pytest.approx(point.score, abs=1e-6)) for point in answer.points]


def candidates() -> Any:
    """Return the two best by each of dense and sparse, fused."""
    query = named_vectors(QUERY, 0)
    searches = [models.Prefetch(query=query[name], using=name, limit=2) for name in ("dense", "sparse")]
    return models.Prefetch(prefetch=searches, query=models.FusionQuery(fusion=models.Fusion.RRF), limit=4)


def test_a_sparse_vector_has_token_ids_and_weights() -> None:
    assert sparse_vector({"250001": 0.5, "9": 0.25}) == models.SparseVector(indices=[9, 250001], values=[0.25, 0.5])


def test_a_text_without_weights_has_an_empty_sparse_vector() -> None:
    assert sparse_vector({}) == models.SparseVector(indices=[], values=[])


def test_named_vectors_are_of_one_text() -> None:
    assert named_vectors(two_texts(), 0) == {
        "dense": [1.0, 0.0],
        "sparse": models.SparseVector(indices=[9, 250001], values=[0.25, 0.5]),
        "colbert": [[1.0, 0.0], [0.0, 1.0]],
    }


def test_named_vectors_hold_only_what_is_present() -> None:
    assert named_vectors({**two_texts(), "lexical_weights": None, "colbert_vecs": None}, 1) == {"dense": [0.5, 0.5]}


def test_vectors_take_other_names() -> None:
    assert named_vectors(two_texts(), 0, OTHER_NAMES).keys() == {"d", "s", "c"}


def test_every_text_becomes_a_point_with_its_payload() -> None:
    assert list(points(two_texts(), [4, 5], [{"text": "a"}, {"text": "b"}])) == [
        models.PointStruct(id=4, vector=named_vectors(two_texts(), 0), payload={"text": "a"}),
        models.PointStruct(id=5, vector=named_vectors(two_texts(), 1), payload={"text": "b"}),
    ]


def test_points_are_made_as_they_are_taken() -> None:
    assert next(points(two_texts(), [4, 5])).id == 4


def test_no_texts_make_no_points() -> None:
    assert list(points({"lexical_weights": []}, [])) == []


def test_a_wrong_number_of_ids_is_refused_before_any_point_is_made() -> None:
    with pytest.raises(ValueError, match="1 ids came for 2 texts"):
        points(two_texts(), [4])


def test_a_wrong_number_of_payloads_is_refused() -> None:
    with pytest.raises(ValueError, match="3 payloads came for 2 texts"):
        points(two_texts(), [4, 5], [{}, {}, {}])


def test_colbert_vectors_get_max_sim_and_no_graph() -> None:
    of_colbert = collection_parameters(colbert_size=1024)["vectors_config"]["colbert"]
    assert of_colbert.multivector_config.comparator == models.MultiVectorComparator.MAX_SIM
    assert of_colbert.hnsw_config.m == 0


def test_a_collection_holds_only_the_kinds_it_was_given_a_size_for() -> None:
    parameters = collection_parameters(dense_size=1024, sparse=False)
    assert parameters["vectors_config"].keys() == {"dense"}
    assert parameters["sparse_vectors_config"] == {}


def test_a_collection_takes_other_names() -> None:
    parameters = collection_parameters(2, 2, names=OTHER_NAMES)
    assert parameters["vectors_config"].keys() == {"d", "c"}
    assert parameters["sparse_vectors_config"].keys() == {"s"}


def test_a_collection_without_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="no vectors: give dense_size"):
        collection_parameters(sparse=False)


def test_a_missing_client_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client.models", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flagtriton\[qdrant\]'"):
        sparse_vector({"7": 1.0})


def test_dense_search_scores_by_cosine(client: QdrantClient) -> None:
    answer = client.query_points("texts", query=named_vectors(QUERY, 0)["dense"], using="dense")
    assert found(answer) == [(0, 1.0), (1, 0.8), (2, 0.6), (3, 0.0)]


def test_sparse_search_scores_by_dot_product(client: QdrantClient) -> None:
    answer = client.query_points("texts", query=named_vectors(QUERY, 0)["sparse"], using="sparse")
    assert found(answer) == [(2, 1.0), (1, 0.5)]  # 0 and 3 share no token with the query


def test_colbert_search_scores_by_max_sim(client: QdrantClient) -> None:
    answer = client.query_points("texts", query=named_vectors(QUERY, 0)["colbert"], using="colbert")
    assert sorted(found(answer), key=lambda item: item[0]) == [(0, 1.0), (1, 1.4), (2, 2.0), (3, 2.0)]


def test_fusion_prefers_what_both_searches_found(client: QdrantClient) -> None:
    """The best two are 0 and 1 by dense vectors, 2 and 1 by weights."""
    prefetch = candidates()
    answer = client.query_points("texts", query=prefetch.query, prefetch=prefetch.prefetch)
    assert answer.points[0].id == 1
    assert {point.id for point in answer.points} == {0, 1, 2}


def test_colbert_reranks_what_dense_and_sparse_search_found(client: QdrantClient) -> None:
    """MaxSim of 0, 1, 2 is 1, 0.6 + 0.8 and 1 + 1; 3 would have 2 as well, but neither search found it."""
    answer = client.query_points(
        "texts", query=named_vectors(QUERY, 0)["colbert"], using="colbert", prefetch=candidates()
    )
    assert found(answer) == [(2, 2.0), (1, 1.4), (0, 1.0)]
    assert [point.payload["text"] for point in answer.points] == ["c", "b", "a"]
