# SPDX-License-Identifier: Apache-2.0
"""Fields, queries and indices of Elasticsearch and OpenSearch, and how their own clients send them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flagtriton.integrations.elasticsearch import (
    features,
    fields,
    heaviest,
    mapping,
    neural_sparse_query,
    opensearch_index,
    rank_features_query,
    sparse_vector_query,
)
from flagtriton.integrations.rows import FieldNames
from tests.support.search_engines import RecordingServer, recording_server, two_texts

WEIGHTS = {"9": np.float32(0.25), "250001": np.float32(0.5)}
SENT_WEIGHTS = {"9": 0.25, "250001": 0.5}

QUERIES = [
    (
        sparse_vector_query,
        {"sparse_vector": {"field": "sparse", "query_vector": SENT_WEIGHTS, "prune": False, "boost": 1.0}},
    ),
    (neural_sparse_query, {"neural_sparse": {"sparse": {"query_tokens": SENT_WEIGHTS, "boost": 1.0}}}),
    (
        rank_features_query,
        {
            "bool": {
                "should": [
                    {"rank_feature": {"field": "sparse.9", "linear": {}, "boost": 0.25}},
                    {"rank_feature": {"field": "sparse.250001", "linear": {}, "boost": 0.5}},
                ],
                "minimum_should_match": 1,
                "boost": 1.0,
            }
        },
    ),
]


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with recording_server({"acknowledged": True, "hits": {"hits": []}}) as server:
        yield server


@pytest.fixture
def elasticsearch(server: RecordingServer) -> Iterator[Any]:
    with pytest.importorskip("elasticsearch").Elasticsearch(server.url) as client:
        yield client


@pytest.fixture
def opensearch(server: RecordingServer) -> Iterator[Any]:
    client = pytest.importorskip("opensearchpy").OpenSearch(server.url)
    yield client
    client.close()


def test_weights_are_a_dict_of_floats() -> None:
    assert features(WEIGHTS) == SENT_WEIGHTS


def test_a_weight_below_the_least_normal_float_is_left_out() -> None:
    assert features({"7": 1.17e-38, "9": 1.18e-38}) == {"9": 1.18e-38}


def test_a_dot_in_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'a\.b' holds a dot"):
        features({"a.b": 1.0})


def test_a_documents_fields_are_dense_and_sparse() -> None:
    assert fields(two_texts(), 1) == {"dense": [0.5, 0.5], "sparse": {"7": 1.0}}


def test_a_document_has_only_the_fields_that_are_present() -> None:
    assert fields({**two_texts(), "dense_vecs": None}, 1) == {"sparse": {"7": 1.0}}


def test_a_documents_fields_take_other_names() -> None:
    assert fields(two_texts(), 0, FieldNames("d", "s")).keys() == {"d", "s"}


def test_colbert_vectors_alone_make_no_document() -> None:
    with pytest.raises(ValueError, match="colbert_vecs alone"):
        fields({"colbert_vecs": two_texts()["colbert_vecs"]}, 0)


def test_the_heaviest_come_first() -> None:
    assert list(heaviest({"1": 0.25, "2": 1.0, "3": 0.5}, 2).items()) == [("2", 1.0), ("3", 0.5)]


def test_by_default_as_many_stay_as_every_server_takes() -> None:
    assert len(heaviest({str(token): 1.0 for token in range(1025)})) == 1024


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_queries_hold_the_weights(query: Any, expected: Any) -> None:
    assert query("sparse", WEIGHTS) == expected


@pytest.mark.parametrize("query", [sparse_vector_query, neural_sparse_query, rank_features_query])
def test_queries_refuse_dots(query: Any) -> None:
    with pytest.raises(ValueError, match="holds a dot"):
        query("sparse", {".": 1.0})


def test_elasticsearch_maps_dense_and_sparse_vectors() -> None:
    assert mapping(1024)["properties"] == {
        "dense": {"type": "dense_vector", "dims": 1024, "similarity": "cosine", "index": True},
        "sparse": {"type": "sparse_vector"},
    }


def test_elasticsearch_maps_rank_features_under_another_name() -> None:
    expected = {"weights": {"type": "rank_features"}}
    assert mapping(None, "rank_features", FieldNames(lexical_weights="weights"))["properties"] == expected


def test_a_mapping_without_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="no fields"):
        mapping(None, None)


def test_opensearch_switches_vector_search_on_for_dense_vectors() -> None:
    index = opensearch_index(1024)
    assert index["settings"] == {"index": {"knn": True}}
    assert index["mappings"]["properties"] == {
        "dense": {
            "type": "knn_vector",
            "dimension": 1024,
            "method": {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"},
        },
        "sparse": {"type": "rank_features"},
    }


def test_opensearch_needs_no_vector_search_for_weights_alone() -> None:
    assert opensearch_index()["settings"] == {"index": {"knn": False}}


def test_an_opensearch_index_without_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="no fields"):
        opensearch_index(sparse=False)


def test_elasticsearchs_client_sends_the_mapping(elasticsearch: Any, server: RecordingServer) -> None:
    elasticsearch.indices.create(index="texts", mappings=mapping(2))
    assert server.last_body == {"mappings": mapping(2)}


def test_elasticsearchs_client_sends_the_document(elasticsearch: Any, server: RecordingServer) -> None:
    elasticsearch.index(index="texts", id="1", document=fields(two_texts(), 0))
    assert server.sent[-1].path == "/texts/_doc/1"
    assert server.last_body == {"dense": [1.0, 0.0], "sparse": SENT_WEIGHTS}


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_elasticsearchs_client_sends_the_query(
    elasticsearch: Any, server: RecordingServer, query: Any, expected: Any
) -> None:
    elasticsearch.search(index="texts", query=query("sparse", WEIGHTS))
    assert server.last_body == {"query": expected}


def test_opensearchs_client_sends_the_index(opensearch: Any, server: RecordingServer) -> None:
    opensearch.indices.create(index="texts", body=opensearch_index(2))
    assert server.last_body == opensearch_index(2)


def test_opensearchs_client_sends_the_document(opensearch: Any, server: RecordingServer) -> None:
    opensearch.index(index="texts", id="1", body=fields(two_texts(), 0))
    assert server.sent[-1].path == "/texts/_doc/1"
    assert server.last_body == {"dense": [1.0, 0.0], "sparse": SENT_WEIGHTS}


@pytest.mark.parametrize(("query", "expected"), QUERIES[1:])
def test_opensearchs_client_sends_the_query(
    opensearch: Any, server: RecordingServer, query: Any, expected: Any
) -> None:
    opensearch.search(index="texts", body={"query": query("sparse", WEIGHTS)})
    assert server.last_body == {"query": expected}


@pytest.mark.parametrize("query", [sparse_vector_query, rank_features_query, neural_sparse_query])
@pytest.mark.parametrize("weights", [{}, {"5": 1e-40}], ids=["none", "too small to store"])
def test_a_text_without_weights_makes_a_query_that_finds_nothing(query: Any, weights: dict[str, float]) -> None:
    assert query("sparse", weights) == {"match_none": {}}
