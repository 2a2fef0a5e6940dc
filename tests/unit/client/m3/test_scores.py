# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's scores, in front of a fake server that makes them of the texts' lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flagtriton import BGEM3FlagModel, ModelNotServedError
from flagtriton.transport.fake import FakeTransport
from tests.support.fake_models import fake_m3, m3, pairs_of

KEYS = ["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]


def options_of(method: str = "compute_score", deployed: dict[str, Any] | None = None, **call: Any) -> dict[str, Any]:
    """Return the options that a call of an object with lengths of 10 and 20 sends."""
    fake = fake_m3(**{"max_length": 8192, **(deployed or {})})
    getattr(m3(fake, query_max_length=10, passage_max_length=20), method)([("a", "b")], **call)
    return dict(fake.requests[0].parameters)


def sent_pairs(fake: FakeTransport) -> list[list[tuple[str, str]]]:
    return [pairs_of(request) for request in fake.requests]


# What comes in and what comes out. With n = 10 * bytes of the query + bytes of the passage the fake's scores are
# n, 2n, 3n, 4n and 5n.


@pytest.mark.parametrize("pair", [("aa", "b"), ["aa", "b"], np.array(["aa", "b"])])
def test_one_pair_gives_a_dict_of_floats(pair: Any) -> None:
    scores = m3(fake_m3()).compute_score(pair)
    assert list(scores.items()) == list(zip(KEYS, [21, 42, 63, 84, 105], strict=True))
    assert {type(score) for score in scores.values()} == {float}


def test_a_list_of_one_pair_gives_lists_of_one_float() -> None:
    scores = m3(fake_m3()).compute_score([("aa", "b")])
    assert list(scores.items()) == list(zip(KEYS, [[21], [42], [63], [84], [105]], strict=True))
    assert type(scores["dense"][0]) is float


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", "b"), ("aa", "b")],
        (("a", "b"), ("aa", "b")),
        [["a", "b"], ["aa", "b"]],
        np.array([["a", "b"], ["aa", "b"]]),
        (pair for pair in [("a", "b"), ("aa", "b")]),
    ],
)
def test_pairs_can_come_in_any_collection(pairs: Any) -> None:
    assert m3(fake_m3()).compute_score(pairs)["colbert"] == [11, 21]


@pytest.mark.parametrize("nothing", [[], ()])
def test_no_pairs_give_an_empty_list_without_a_request(nothing: Any) -> None:
    fake = fake_m3()
    assert m3(fake).compute_score(nothing) == []
    assert fake.requests == []


def test_scores_of_several_requests_keep_the_order_of_the_pairs() -> None:
    pairs = [("a", "b"), ("aaa", "bb"), ("a", "bbbb"), ("aa", ""), ("aaa", "b")]
    scores = m3(fake_m3(max_batch_size=2)).compute_score(pairs)
    assert (scores["colbert"], scores["sparse"]) == ([11, 32, 14, 20, 31], [22, 64, 28, 40, 62])


def test_pairs_of_one_query_travel_together() -> None:
    fake = fake_m3()
    m3(fake).compute_score([("q", "a"), ("r", "b"), ("q", "cc"), ("r", "dd")], batch_size=2)
    assert sent_pairs(fake) == [[("q", "cc"), ("q", "a")], [("r", "dd"), ("r", "b")]]


@pytest.mark.parametrize(("object_size", "call_size", "sent"), [(1, None, [1, 1]), (2, 1, [1, 1]), (1, 2, [2])])
def test_the_calls_batch_size_goes_before_the_objects(object_size: int, call_size: int | None, sent: list[int]) -> None:
    fake = fake_m3()
    m3(fake, batch_size=object_size).compute_score([("q", "a"), ("q", "b")], batch_size=call_size)
    assert [len(pairs) for pairs in sent_pairs(fake)] == sent


def test_the_scorers_batch_size_splits_a_list_too() -> None:
    fake = fake_m3(max_batch_size=2)
    m3(fake).compute_score([("q", "a"), ("q", "b"), ("q", "c")])
    assert [len(pairs) for pairs in sent_pairs(fake)] == [2, 1]


def test_the_bytes_of_a_request_are_limited() -> None:
    # 1 + 30,000 + 30,000 fit 65,536 bytes, a third passage does not.
    fake = fake_m3()
    m3(fake).compute_score([("q", "x" * 30_000)] * 3)
    assert [len(pairs) for pairs in sent_pairs(fake)] == [2, 1]


def test_all_five_scores_are_asked_of_the_scorer() -> None:
    fake = fake_m3()
    m3(fake).compute_score(("q", "p"))
    [request] = fake.requests
    assert (request.model, set(request.inputs)) == ("bge-m3_score", {"query", "passage"})
    assert set(request.outputs) == {"colbert", "sparse", "dense", "sparse_dense", "colbert_sparse_dense"}


def test_instructions_and_truncate_dim_are_ignored_as_in_flagembedding() -> None:
    fake = fake_m3()
    instructions = {"query_instruction_for_retrieval": "q: ", "passage_instruction_for_retrieval": "p: "}
    m3(fake, truncate_dim=2, **instructions).compute_score(("a", "b"))
    assert (sent_pairs(fake), fake.requests[0].parameters) == (
        [[("a", "b")]],
        {
            "query_max_length": 512,
            "passage_max_length": 512,
        },
    )


# Options.


def test_the_objects_lengths_are_the_default() -> None:
    assert options_of() == {"query_max_length": 10, "passage_max_length": 20}


def test_the_calls_lengths_go_before_the_objects() -> None:
    options = options_of(max_query_length=30, max_passage_length=40)
    assert options == {"query_max_length": 30, "passage_max_length": 40}


@pytest.mark.parametrize(("deployed", "sent"), [(128, 128), (8192, 512)])
@pytest.mark.parametrize("method", ["compute_score", "compute_score_single_device"])
def test_the_default_length_is_512_or_the_deployments_where_that_is_less(method: str, deployed: int, sent: int) -> None:
    fake = fake_m3(max_length=deployed)
    getattr(m3(fake), method)(("a", "b"))
    assert fake.requests[0].parameters == {"query_max_length": sent, "passage_max_length": sent}


def test_raw_vectors_are_asked_for() -> None:
    fake = fake_m3()
    m3(fake, normalize_embeddings=False).compute_score(("a", "b"))
    assert fake.requests[0].parameters["normalize"] is False


@pytest.mark.parametrize("name", ["weights", "weights_for_different_modes"])
def test_weights_are_sent_as_dense_sparse_and_colbert(name: str) -> None:
    assert options_of(**{name: [0.5, 0.25, 0]})["weights"] == "0.5,0.25,0.0"


@pytest.mark.parametrize("weights", [[0.5, 0.25, 1], (0.5, 0.25, 1), np.array([0.5, 0.25, 1])])
def test_weights_can_be_any_sequence(weights: Any) -> None:
    assert options_of(weights=weights)["weights"] == "0.5,0.25,1.0"


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, 1], [], [1, -0.1, 1], [0, 0, 0], [1, float("nan"), 1]])
@pytest.mark.parametrize("name", ["weights", "weights_for_different_modes"])
def test_bad_weights_are_refused_before_anything_is_sent(name: str, weights: list[float]) -> None:
    fake = fake_m3()
    with pytest.raises(ValueError, match="expected three finite numbers, for dense, sparse and ColBERT"):
        m3(fake).compute_score([("a", "b")], **{name: weights})
    assert fake.requests == []


@pytest.mark.parametrize("call", [{"batch_size": 0}, {"weights": [0, 0, 0]}])
def test_bad_arguments_are_refused_without_pairs_too(call: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        m3(fake_m3()).compute_score([], **call)


@pytest.mark.parametrize("name", ["max_length", "foo"])
def test_an_unknown_argument_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        m3(fake_m3()).compute_score([("a", "b")], **{name: 1})


def test_progress_is_counted_in_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    m3(fake_m3(max_batch_size=1)).compute_score([("a", "b"), ("a", "c")], show_progress=True)
    assert "2/2" in (shown := capsys.readouterr().err)
    assert "pair/s" in shown


# What is refused.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ab", r"^sentence_pairs is 'ab' \(str\); expected pairs of str$"),
        (None, r"^sentence_pairs is None \(NoneType\); expected pairs of str$"),
        ([("a", "b"), ("a",)], r"^sentence_pairs\[1\] is \('a',\) \(tuple\); expected a query and a passage, two str$"),
        ([("a", None)], r"^sentence_pairs\[0\] is \('a', None\)"),
    ],
)
def test_what_is_no_pair_is_named(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        m3(fake_m3()).compute_score(given)


def test_a_scorer_that_is_not_served_is_named_with_what_to_do() -> None:
    message = (
        "bge-m3 is served at fake://, but bge-m3_score, which belongs to it, is not; load it, or .*flagtriton serve"
    )
    with pytest.raises(ModelNotServedError, match=message):
        m3(fake_m3(without="bge-m3_score")).compute_score(("a", "b"))


def test_texts_are_encoded_where_the_scorer_is_not_served() -> None:
    assert m3(fake_m3(without="bge-m3_score")).encode("a")["dense_vecs"][0] == 1


# Siblings.


@pytest.mark.parametrize(
    "score",
    [
        lambda model, pairs: model.compute_score_single_device(pairs, device="cuda:3"),
        lambda model, pairs: model.compute_score_multi_process(pairs, model.start_multi_process_pool()),
    ],
)
def test_the_siblings_return_what_compute_score_returns(score: Callable[[BGEM3FlagModel, Any], Any]) -> None:
    pairs = [("a", "b"), ("aa", "b")]
    assert score(m3(fake_m3()), pairs) == m3(fake_m3()).compute_score(pairs)


@pytest.mark.parametrize("method", ["compute_score_single_device", "compute_score_multi_process"])
def test_the_siblings_pass_their_arguments_on(method: str) -> None:
    given = {"max_query_length": 30, "max_passage_length": 40, "weights_for_different_modes": [1, 0, 0]}
    assert options_of(method, **given) == {
        "query_max_length": 30,
        "passage_max_length": 40,
        "weights": "1.0,0.0,0.0",
    }


def test_single_devices_batch_size_is_its_own() -> None:
    fake = fake_m3()
    m3(fake, batch_size=1).compute_score_single_device([("a", "b")] * 3, batch_size=2)
    assert [len(pairs) for pairs in sent_pairs(fake)] == [2, 1]
