# SPDX-License-Identifier: Apache-2.0
"""Vespa's tensors as JSON, and how its own client feeds and queries with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flagtriton.integrations.rows import FieldNames
from flagtriton.integrations.vespa import colbert_tensor, fields, sparse_tensor
from tests.support.search_engines import RecordingServer, recording_server, two_texts

FIELDS = {
    "dense": [1.0, 0.0],
    "sparse": {"cells": {"9": 0.25, "250001": 0.5}},
    "colbert": {"blocks": {"0": [1.0, 0.0], "1": [0.0, 1.0]}},
}


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with recording_server({"id": "id:texts:text::1", "root": {"children": []}}) as server:
        yield server


@pytest.fixture
def vespa(server: RecordingServer) -> Any:
    return pytest.importorskip("vespa.application").Vespa(server.url)


def test_weights_are_cells_by_token_id() -> None:
    assert sparse_tensor({"9": np.float32(0.25)}) == {"cells": {"9": 0.25}}


def test_a_text_without_weights_is_a_tensor_without_cells() -> None:
    assert sparse_tensor({}) == {"cells": {}}


def test_colbert_vectors_are_blocks_by_place() -> None:
    assert colbert_tensor(two_texts()["colbert_vecs"][0]) == {"blocks": {"0": [1.0, 0.0], "1": [0.0, 1.0]}}


@pytest.mark.parametrize(("vectors", "name"), [(None, "NoneType"), (two_texts()["colbert_vecs"], "list")])
def test_what_is_not_one_texts_vectors_is_refused_by_type(vectors: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"a {name} came: encode with return_colbert_vecs=True"):
        colbert_tensor(vectors)


def test_a_documents_fields_are_those_present() -> None:
    assert fields(two_texts(), 0) == FIELDS
    assert fields({**two_texts(), "dense_vecs": None, "colbert_vecs": None}, 1) == {"sparse": {"cells": {"7": 1.0}}}


def test_fields_take_other_names() -> None:
    assert fields(two_texts(), 0, FieldNames("d", "s", "c")).keys() == {"d", "s", "c"}


def test_fields_are_plain_json() -> None:
    assert json.loads(json.dumps(fields(two_texts(), 0))) == FIELDS


def test_vespas_client_feeds_the_fields(vespa: Any, server: RecordingServer) -> None:
    vespa.feed_data_point(schema="text", data_id="1", fields=fields(two_texts(), 0))
    assert server.sent[-1].path == "/document/v1/text/text/docid/1"
    assert server.last_body == {"fields": FIELDS}


def test_vespas_client_queries_with_the_tensors(vespa: Any, server: RecordingServer) -> None:
    inputs = {f"input.query({name})": tensor for name, tensor in fields(two_texts(), 0).items()}
    vespa.query({"yql": "select * from text where true", **inputs})
    assert server.last_body == {"yql": "select * from text where true", **inputs}
