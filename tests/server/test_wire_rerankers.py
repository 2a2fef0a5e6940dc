# SPDX-License-Identifier: Apache-2.0
"""Rerankers over the plain wire, without the SDK: the same scores, options by request, and clear refusals."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from flagtriton import FlagLLMReranker, FlagReranker, LayerWiseFlagLLMReranker, LightWeightFlagLLMReranker
from tests.conftest import Served

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore")]

WIRES = [tritonclient.grpc, tritonclient.http]
BERT, GEMMA, LAYERWISE, LIGHTWEIGHT = (f"reranker-{name}" for name in ("bert", "gemma", "layerwise", "lightweight"))
CLASSES: dict[str, Any] = {
    BERT: FlagReranker,
    GEMMA: FlagLLMReranker,
    LAYERWISE: LayerWiseFlagLLMReranker,
    LIGHTWEIGHT: LightWeightFlagLLMReranker,
}
LLMS, LAYERWISE_CLASSES = [GEMMA, LAYERWISE, LIGHTWEIGHT], [LAYERWISE, LIGHTWEIGHT]
PAIRS = [
    ("what is a fox?", "the quick brown fox jumps over the lazy dog"),
    ("the dog", "人工智能 is an animal"),
    ("a", ""),
]
YES_OR_NO = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
PROMPTS = {
    GEMMA: YES_OR_NO,
    LAYERWISE: YES_OR_NO,
    LIGHTWEIGHT: "Predict whether passage B contains an answer to query A.",
}
BOUND = 2e-5
"""Of a pair in one batch and in another, fp32."""


def tensor(wire: ModuleType, name: str, texts: tuple[str | bytes, ...]) -> Any:
    made = wire.InferInput(name, [len(texts), 1], "BYTES")
    rows = [[text.encode() if isinstance(text, str) else text] for text in texts]
    made.set_data_from_numpy(np.array(rows, dtype=np.object_))
    return made


def infer(
    wire: ModuleType, served: Served, model: str, pairs: list[Any], **options: Any
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return `score` and `token_count`."""
    url = served.grpc_url if wire is tritonclient.grpc else served.http_url
    queries, passages = zip(*pairs, strict=True)
    sides = [tensor(wire, "query", queries), tensor(wire, "passage", passages)]
    with wire.InferenceServerClient(url.split("//")[1]) as client:
        result = client.infer(model, sides, parameters=options)
        return result.as_numpy("score"), result.as_numpy("token_count")


def scores(served: Served, model: str, **options: Any) -> NDArray[np.float32]:
    """Return `[P, K]` for the tests' pairs."""
    return infer(tritonclient.grpc, served, model, PAIRS, **options)[0]


def generate(served: Served, model: str, **fields: Any) -> dict[str, Any]:
    body = json.dumps({"query": PAIRS[0][0], "passage": PAIRS[0][1], **fields}).encode()
    request = urllib.request.Request(
        f"{served.http_url}/v2/models/{model}/generate", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def by_sdk(served: Served, model: str, **arguments: Any) -> NDArray[np.float32]:
    """Return `[P, K]` for the tests' pairs."""
    with CLASSES[model](model, url=served.grpc_url) as sdk:
        found = np.array(sdk.compute_score(PAIRS, **arguments), dtype=np.float32)
    return found.T if found.ndim == 2 else found[:, None]


def close(one: Any, other: Any) -> bool:
    return bool(np.shape(one) == np.shape(other) and np.abs(np.subtract(one, other)).max() <= BOUND)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("model", CLASSES)
def test_a_raw_client_without_options_gets_the_sdks_scores(wire: ModuleType, model: str, served: Served) -> None:
    score, token_count = infer(wire, served, model, PAIRS)
    assert (score.shape, score.dtype, token_count.shape, token_count.dtype) == ((3, 1), np.float32, (3, 1), np.int32)
    assert close(score, by_sdk(served, model))
    assert np.std(score) > 1e-3


@pytest.mark.parametrize("model", CLASSES)
def test_generate_answers_json_with_the_sdks_score(model: str, served: Served) -> None:
    answer = generate(served, model)
    assert close(answer["score"], by_sdk(served, model)[0, 0])
    assert answer["token_count"] == infer(tritonclient.grpc, served, model, PAIRS)[1][0, 0]


@pytest.mark.parametrize("model", LLMS)
def test_the_deployments_instructions_are_there_unless_a_request_brings_its_own(model: str, served: Served) -> None:
    bare = scores(served, model, query_instruction="", passage_instruction="")
    assert not close(scores(served, model), bare)
    written = [(f"A: {query}", f"B: {passage}") for query, passage in PAIRS]
    none = {"query_instruction": "", "passage_instruction": ""}
    assert close(infer(tritonclient.grpc, served, model, written, **none)[0], scores(served, model))
    other = scores(served, model, query_instruction="Q: ")
    assert close(other, scores(served, model, query_instruction="Q: ", passage_instruction="B: "))
    assert not close(other, scores(served, model))


@pytest.mark.parametrize("model", LLMS)
def test_token_count_is_that_of_a_whole_row(model: str, served: Served) -> None:
    tokenizer = Tokenizer.from_file(str(served.checkpoints[model] / "tokenizer.json"))

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    for options, prompt in (({}, PROMPTS[model]), ({"prompt": "why?"}, "why?"), ({"prompt": ""}, "")):
        counts = infer(tritonclient.grpc, served, model, PAIRS, **options)[1]
        expected = [
            [1 + tokens(f"A: {query}") + tokens("\n") + tokens(f"B: {passage}") + tokens("\n") + tokens(prompt)]
            for query, passage in PAIRS
        ]
        assert counts.tolist() == expected


def test_token_count_of_an_encoder_counts_the_special_tokens_of_a_pair(served: Served) -> None:
    counts = infer(tritonclient.grpc, served, BERT, [("the quick", "fox"), ("fox", "")])[1]
    assert counts.tolist() == [[6], [4]]  # [CLS] the quick [SEP] fox [SEP]; [CLS] fox [SEP] [SEP]


@pytest.mark.parametrize("model", LLMS)
def test_another_prompt_is_asked_even_an_empty_one(model: str, served: Served) -> None:
    for prompt in ("Is it so?", ""):
        asked = scores(served, model, prompt=prompt)
        assert close(asked, by_sdk(served, model, prompt=prompt))
        assert not close(asked, scores(served, model))
    assert close(scores(served, model, prompt=PROMPTS[model]), scores(served, model))


@pytest.mark.parametrize("model", LAYERWISE_CLASSES)
@pytest.mark.parametrize("wire", WIRES)
def test_scores_of_several_layers_come_side_by_side(wire: ModuleType, model: str, served: Served) -> None:
    score, _ = infer(wire, served, model, PAIRS, cutoff_layers="2,4")
    assert score.shape == (3, 2)
    assert close(score, by_sdk(served, model, cutoff_layers=[2, 4]))
    assert close(infer(wire, served, model, PAIRS, cutoff_layers=4)[0], by_sdk(served, model, cutoff_layers=[4]))
    assert close(generate(served, model, cutoff_layers="2,4")["score"], score[0])


@pytest.mark.parametrize("model", LAYERWISE_CLASSES)
def test_layers_come_in_ascending_order_and_once_whatever_was_asked_for(model: str, served: Served) -> None:
    ascending = scores(served, model, cutoff_layers="2,4")
    assert not close(ascending, ascending[:, ::-1])
    for asked in ("4,2", " 4 , 2 ", "4,2,2,4"):
        assert close(scores(served, model, cutoff_layers=asked), ascending)
    assert close(scores(served, model, cutoff_layers="6"), scores(served, model))


def test_a_layerwise_layer_has_its_own_head_whichever_others_are_asked_for(served: Served) -> None:
    alone = [scores(served, LAYERWISE, cutoff_layers=layer) for layer in range(2, 7)]
    assert close(scores(served, LAYERWISE, cutoff_layers="6,5,4,3,2"), np.hstack(alone))
    assert close(scores(served, LAYERWISE, cutoff_layers="4,2"), np.hstack([alone[0], alone[2]]))


def test_a_lightweight_layers_head_goes_by_its_place_among_those_asked_for(served: Served) -> None:
    both = scores(served, LIGHTWEIGHT, cutoff_layers="2,4")
    assert close(both[:, :1], scores(served, LIGHTWEIGHT, cutoff_layers=2))
    assert not close(both[:, 1:], scores(served, LIGHTWEIGHT, cutoff_layers=4))


def test_tokens_of_passages_are_merged_where_a_request_says(served: Served) -> None:
    plain = scores(served, LIGHTWEIGHT)
    merged = scores(served, LIGHTWEIGHT, compress_ratio=2, compress_layers="3")
    assert close(merged, by_sdk(served, LIGHTWEIGHT, compress_ratio=2, compress_layers=[3]))
    assert not close(merged, plain)
    assert close(scores(served, LIGHTWEIGHT, compress_ratio=2, compress_layers=3), merged)
    assert close(scores(served, LIGHTWEIGHT, compress_ratio=2, compress_layers="9,3,0,3"), merged)
    assert not close(scores(served, LIGHTWEIGHT, compress_ratio=2, compress_layers="2,4"), merged)
    for without_effect in ({"compress_ratio": 2}, {"compress_layers": "3"}, {"compress_ratio": 1}):
        assert close(scores(served, LIGHTWEIGHT, **without_effect), plain)  # by default before layer 8, of 6


def test_a_ratio_beyond_any_passage_makes_one_token_of_it(served: Served) -> None:
    greatest, large = (
        scores(served, LIGHTWEIGHT, compress_ratio=ratio, compress_layers=3) for ratio in (2**63 - 1, 10**4)
    )
    assert close(greatest, large)


@pytest.mark.parametrize("model", CLASSES)
def test_normalised_scores_are_sigmoids(model: str, served: Served) -> None:
    assert close(scores(served, model, normalize=True), 1 / (1 + np.exp(-scores(served, model))))


REFUSED = [
    (LAYERWISE, {"cutoff_layers": "4,1"}, "option 'cutoff_layers' has 1,", "heads are at layers 2 to 6"),
    (LAYERWISE, {"cutoff_layers": 7}, "option 'cutoff_layers' has 7,", "heads are at layers 2 to 6"),
    (LIGHTWEIGHT, {"cutoff_layers": "2,40"}, "option 'cutoff_layers' has 40,", "heads are at layers 2 to 6"),
    (LIGHTWEIGHT, {"cutoff_layers": ""}, "option 'cutoff_layers' is ''", "whole numbers of at least 0"),
    (LAYERWISE, {"cutoff_layers": -1}, "option 'cutoff_layers' is -1", "whole numbers of at least 0"),
    (LAYERWISE, {"cutoff_layers": True}, "option 'cutoff_layers' is True", "whole numbers of at least 0"),
    (LIGHTWEIGHT, {"compress_ratio": 0}, "option 'compress_ratio' is 0", "a whole number of at least 1"),
    (LIGHTWEIGHT, {"compress_layers": "3,x"}, "option 'compress_layers' is '3,x'", "whole numbers of at least 0"),
    (LIGHTWEIGHT, {"compress_layer": "3"}, "unknown option 'compress_layer'", "compress_layers, compress_ratio,"),
    (LAYERWISE, {"compress_ratio": 2}, "unknown option 'compress_ratio'", "this model has bulk, cutoff_layers,"),
    (GEMMA, {"cutoff_layers": "2"}, "unknown option 'cutoff_layers'", "this model has bulk, max_length,"),
    (BERT, {"prompt": "?"}, "unknown option 'prompt'", "this model has bulk, max_length, normalize, query_max_length"),
    (GEMMA, {"prompt": 3}, "option 'prompt' is 3", "expected a string"),
    (GEMMA, {"prompt": "why? " * 900}, "query 0 takes", "of the prompt leave its passage none"),
    (GEMMA, {"max_length": 2049}, "option 'max_length' is 2049", "to 2048 (tokens"),
    (GEMMA, {"max_length": 8, "truncate": "NONE"}, "pair 0 has", "truncate=NONE"),
    (LIGHTWEIGHT, {"query_max_length": 3, "truncate": "NONE"}, "pair 0 has", "more than the 3 and "),
    (BERT, {"max_length": 12, "truncate": "NONE"}, "pair 0 has", "truncate=NONE"),
]


@pytest.mark.parametrize(("model", "options", "said", "allowed"), REFUSED)
def test_a_bad_request_is_refused_with_what_is_allowed_and_a_good_one_beside_it_is_answered(
    model: str, options: dict[str, Any], said: str, allowed: str, served: Served
) -> None:
    def refusal(wire: ModuleType) -> InferenceServerException:
        with pytest.raises(InferenceServerException) as refused:
            infer(wire, served, model, PAIRS, **options)
        return refused.value

    with ThreadPoolExecutor(8) as callers:
        refusals = [callers.submit(refusal, wire) for wire in WIRES]
        answers = [callers.submit(scores, served, model) for _ in range(3)]
        assert [refused.result().status() for refused in refusals] == ["StatusCode.INVALID_ARGUMENT", "400"]
        assert all(close(answer.result(), answers[0].result()) for answer in answers)
    for refused in refusals:
        assert said in refused.result().message()
        assert allowed in refused.result().message()


@pytest.mark.parametrize("model", CLASSES)
def test_a_text_that_is_cut_where_it_may_be_is_the_same_as_one_that_was_short(model: str, served: Served) -> None:
    cut, count = infer(tritonclient.grpc, served, model, [("fox", "dog " * 3_000)], max_length=100, truncate="END")
    assert count[0, 0] < 300
    assert close(cut, infer(tritonclient.grpc, served, model, [("fox", "dog " * 1_000)], max_length=100)[0])


def test_generate_says_400_and_the_options_name(served: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        generate(served, LAYERWISE, cutoff_layers="1")
    assert refused.value.code == 400
    assert "option 'cutoff_layers' has 1, where this model has no head" in json.load(refused.value)["error"]


@pytest.mark.parametrize("wire", WIRES)
def test_a_text_that_is_not_utf8_is_named_by_side_and_place(wire: ModuleType, served: Served) -> None:
    with pytest.raises(InferenceServerException, match="passage 1 is not valid UTF-8: byte 0xff at position 1"):
        infer(wire, served, LAYERWISE, [("a", "b"), ("a", b"b\xff")])


@pytest.mark.parametrize(
    ("model", "chosen"),
    [
        (LAYERWISE, [{}, {"cutoff_layers": "2"}, {"cutoff_layers": "2,4"}, {"cutoff_layers": "3,4", "prompt": "?"}]),
        (LIGHTWEIGHT, [{}, {"cutoff_layers": "2,4"}, *({"compress_ratio": n, "compress_layers": "3"} for n in (2, 4))]),
        (GEMMA, [{}, {"normalize": True}, {"prompt": ""}, {"query_instruction": "Q: "}]),
    ],
)
def test_callers_with_different_options_at_once_get_their_own(
    model: str, chosen: list[dict[str, Any]], served: Served
) -> None:
    alone = [scores(served, model, **options) for options in chosen]
    with ThreadPoolExecutor(16) as callers:
        asked = [callers.submit(partial(scores, served, model, **chosen[i % 4])) for i in range(32)]
        for i, answer in enumerate(asked):
            assert close(answer.result(), alone[i % 4])


def test_a_query_and_its_1024_candidates_travel_in_one_request(served: Served) -> None:
    score, _ = infer(tritonclient.grpc, served, BERT, [("fox", f"dog {i % 7}") for i in range(1024)])
    assert score.shape == (1024, 1)
    assert close(score[:7], score[7:14])


@pytest.mark.parametrize("option", ["cutoff_layers", "truncate"])
def test_a_value_too_long_to_be_shown_whole_is_refused_as_any_other(option: str, served: Served) -> None:
    with pytest.raises(InferenceServerException, match=f"option '{option}' is") as refused:
        scores(served, LAYERWISE, **{option: "x" * 20_000})  # gRPC carries 8 KB of a refusal
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
