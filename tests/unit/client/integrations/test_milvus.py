# SPDX-License-Identifier: Apache-2.0
"""Milvus' rows, through its own client's conversion and into Milvus Lite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flagtriton.integrations.milvus import rows, sparse_row
from flagtriton.integrations.rows import FieldNames
from tests.support.search_engines import two_texts

WEIGHTS = {"250001": 0.5, "9": 0.25}
TEXTS = [{"text": "a"}, {"text": "b"}]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    """A collection with the two texts as rows 4 and 5, in a Milvus Lite of its own."""
    pytest.importorskip("milvus_lite")
    pymilvus = pytest.importorskip("pymilvus")
    client = pymilvus.MilvusClient(str(tmp_path / "milvus.db"))
    schema = client.create_schema()
    schema.add_field("id", pymilvus.DataType.INT64, is_primary=True)
    schema.add_field("text", pymilvus.DataType.VARCHAR, max_length=8)
    schema.add_field("dense", pymilvus.DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("sparse", pymilvus.DataType.SPARSE_FLOAT_VECTOR)
    index = client.prepare_index_params()
    index.add_index("dense", index_type="FLAT", metric_type="COSINE")
    index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection("texts", schema=schema, index_params=index)
    client.insert("texts", rows(two_texts(), [4, 5], TEXTS))
    yield client
    client.close()


def found(client: Any, field: str, vector: Any) -> list[tuple[int, float]]:
    hits = client.search("texts", data=[vector], anns_field=field, limit=2)[0]
    return [(hit["id"], pytest.approx(hit["distance"], abs=1e-6)) for hit in hits]


def test_a_sparse_row_maps_token_ids_to_weights() -> None:
    assert sparse_row(WEIGHTS) == {9: 0.25, 250001: 0.5}


def test_every_text_becomes_a_row_with_its_payload() -> None:
    assert rows(two_texts(), [4, 5], TEXTS) == [
        {"id": 4, "dense": [1.0, 0.0], "sparse": {9: 0.25, 250001: 0.5}, "text": "a"},
        {"id": 5, "dense": [0.5, 0.5], "sparse": {7: 1.0}, "text": "b"},
    ]


def test_rows_hold_only_what_is_present() -> None:
    assert rows({**two_texts(), "dense_vecs": None}, [4, 5])[1] == {"id": 5, "sparse": {7: 1.0}}


def test_fields_take_other_names() -> None:
    assert rows(two_texts(), ["x", "y"], names=FieldNames("d", "s"), id_field="key")[0].keys() == {"key", "d", "s"}


def test_colbert_vectors_alone_make_no_row() -> None:
    with pytest.raises(ValueError, match="colbert_vecs alone"):
        rows({"colbert_vecs": two_texts()["colbert_vecs"]}, [4, 5])


def test_a_wrong_number_of_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="3 ids came for 2 texts"):
        rows(two_texts(), [1, 2, 3])


def test_a_wrong_number_of_payloads_is_refused() -> None:
    with pytest.raises(ValueError, match="1 payloads came for 2 texts"):
        rows(two_texts(), [1, 2], [{}])


def test_a_payload_must_not_overwrite_a_vector() -> None:
    with pytest.raises(ValueError, match="payload field 'dense'"):
        rows(two_texts(), [4, 5], [{"dense": "yes"}, {}])


def test_milvus_client_packs_a_row_as_ids_and_floats() -> None:
    """A row is pairs of an unsigned 32-bit id and a 32-bit float; its dimension is one more than its greatest id."""
    helper = pytest.importorskip("pymilvus.client.entity_helper")
    packed = helper.sparse_rows_to_proto([sparse_row(WEIGHTS)])
    assert packed.dim == 250002
    assert helper.sparse_proto_to_rows(packed) == [{9: 0.25, 250001: 0.5}]


def test_milvus_lite_searches_dense_vectors_by_cosine(client: Any) -> None:
    assert found(client, "dense", [1.0, 0.0]) == [(4, 1.0), (5, 0.5**0.5)]


def test_milvus_lite_searches_weights_by_dot_product(client: Any) -> None:
    assert found(client, "sparse", sparse_row({"9": 2.0, "7": 0.25})) == [(4, 0.5), (5, 0.25)]


def test_milvus_lite_keeps_the_payload(client: Any) -> None:
    assert client.get("texts", ids=[5], output_fields=["text"])[0]["text"] == "b"
