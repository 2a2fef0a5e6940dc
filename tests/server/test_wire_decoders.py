# SPDX-License-Identifier: Apache-2.0
"""Few-shot examples and domains over the plain wire, without the SDK: the same answers, and clear refusals."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest

from flagtriton import FlagICLModel, FlagPseudoMoEModel
from tests.conftest import Served

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore")]

EXAMPLES = [{"query": "what is a fox", "response": "🙂 an animal"}, {"instruct": "Find it.", "query": "人工智能"}]


def generate(served: Served, model: str, **fields: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{served.http_url}/v2/models/{model}/generate",
        json.dumps(fields).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def refusal(served: Served, model: str, **fields: Any) -> str:
    with pytest.raises(urllib.error.HTTPError) as caught:
        generate(served, model, **fields)
    assert caught.value.code == 400
    return str(json.load(caught.value)["error"])


def test_examples_as_json_give_the_sdks_vector(served: Served) -> None:
    answer = generate(
        served, "icl", text="dog", input_type="query", instruction="Answer it.", examples=json.dumps(EXAMPLES)
    )
    with FlagICLModel(
        "icl",
        url=served.grpc_url,
        use_fp16=False,
        query_instruction_for_retrieval="Answer it.",
        examples_for_task=EXAMPLES,
    ) as sdk:
        assert np.allclose(answer["dense_vecs"], sdk.encode_queries("dog"), atol=1e-6)
        assert not np.allclose(answer["dense_vecs"], sdk.encode("dog"), atol=0.01)


def test_a_query_without_examples_has_its_suffix_and_a_passage_has_none(served: Served) -> None:
    with FlagICLModel("icl", url=served.grpc_url, use_fp16=False) as sdk:
        query = generate(served, "icl", text="dog", input_type="query")["dense_vecs"]
        passage = generate(served, "icl", text="dog")["dense_vecs"]
        assert np.allclose(query, sdk.encode_queries("dog"), atol=1e-6)
        assert np.allclose(passage, sdk.encode("dog"), atol=1e-6)


def test_a_domain_is_an_option(served: Served) -> None:
    with FlagPseudoMoEModel("domains", url=served.grpc_url) as sdk:
        coding = generate(served, "domains", text="dog", domain="coding")["dense_vecs"]
        assert np.allclose(coding, sdk.encode("dog", domain="coding"), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("icl", {"examples": "[]"}, "option 'examples' came without 'input_type' 'query'"),
        ("icl", {"input_type": "query", "examples": "{}"}, "option 'examples' is no JSON list of objects"),
        ("icl", {"input_type": "query", "examples": '["dog"]'}, "examples[0] is 'dog' (str); expected a dict"),
        ("icl", {"input_type": "query", "examples": '[{"answer": "dog"}]'}, "has the key 'answer'"),
        ("icl", {"input_type": "query", "examples": "[]", "prefix": "p"}, "came both"),
        ("icl", {"input_type": "query", "instruction": "i", "instruction_format": "{}"}, "leaves the text out"),
        ("icl", {"input_type": "query", "prefix": "fox " * 600}, "this deployment takes 512 in all"),
        ("icl", {"domain": "coding"}, "unknown option 'domain'"),
        ("mistral", {"input_type": "query", "examples": "[]"}, "unknown option 'examples'"),
        ("domains", {"domain": "cooking"}, "option 'domain' is 'cooking', which this model refuses"),
    ],
)
def test_a_bad_option_is_refused_with_what_is_allowed(
    served: Served, model: str, fields: dict[str, Any], message: str
) -> None:
    assert message in refusal(served, model, text="dog", **fields)
