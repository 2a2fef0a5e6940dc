# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's scores of outputs that are here already, and `rerank`, which is made of scores."""

from __future__ import annotations

import inspect
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flagtriton import BGEM3FlagModel
from tests.support.fake_models import fake_m3, m3, pairs_of

DENSE_AND_SPARSE = {"return_dense": True, "return_sparse": True}
SPARSE_LISTS = [
    ([{"1": 0.5}, {"2": 0.25, "3": 1.0}], [{"2": 2.0}, {"1": 4.0, "3": 0.5}, {}]),
    ([], [{"1": 0.5}]),
    ([{"1": 0.5}], []),
    ([], []),
    ([{}], [{}]),
]


# Two outputs in place of pairs.


def test_two_outputs_give_one_float_without_a_request() -> None:
    fake = fake_m3()
    model = m3(fake)
    query, passage = model.encode("a", **DENSE_AND_SPARSE), model.encode("aab", **DENSE_AND_SPARSE)
    fake.requests.clear()
    # Dense [1, 97, 97, 97] times [3, 97, 98, 292]: 3 + 97 * (97 + 98 + 292) = 47,242; sparse: a once times a twice.
    assert model.compute_score(query, passage) == (47_242 + 2) / 2
    assert fake.requests == []


@pytest.mark.parametrize("name", ["weights", "weights_for_different_modes"])
def test_the_scores_of_two_outputs_are_weighted(name: str) -> None:
    model = m3(fake_m3(), **DENSE_AND_SPARSE)
    scored = model.compute_score(model.encode("a"), model.encode("aab"), **{name: [1, 3, 0]})
    assert scored == (47_242 + 3 * 2) / 4


@pytest.mark.parametrize(
    ("second", "kind"), [(None, "NoneType"), (256, "int"), ({"dense_vecs": None}, "dict"), ("p", "str")]
)
def test_an_output_and_something_else_are_refused(second: Any, kind: str) -> None:
    model = m3(fake_m3())
    with pytest.raises(TypeError, match=f"^the arguments are M3Output and {kind}; pass two M3Output"):
        model.compute_score(model.encode("a"), second)


@pytest.mark.parametrize("first", ["a", ("a", "b"), [("a", "b")], {"dense_vecs": None}])
def test_something_else_and_an_output_are_refused(first: Any) -> None:
    model = m3(fake_m3())
    with pytest.raises(TypeError, match=r"^the arguments are \w+ and M3Output; pass two M3Output, or pairs of str$"):
        model.compute_score(first, model.encode("a"))


@pytest.mark.parametrize("further", [{"max_query_length": 3}, {"max_passage_length": 3}, {"show_progress": True}])
def test_what_two_outputs_have_no_use_for_is_refused(further: dict[str, Any]) -> None:
    model = m3(fake_m3())
    with pytest.raises(TypeError, match=r"^two outputs are scored as they are: beside them there is weights= alone$"):
        model.compute_score(model.encode("a"), model.encode("b"), **further)


def test_weights_in_third_place_are_refused_beside_two_outputs() -> None:
    model = m3(fake_m3())
    with pytest.raises(TypeError, match="two outputs are scored as they are"):
        model.compute_score(model.encode("a"), model.encode("b"), [0, 1, 0])


@pytest.mark.parametrize(("query", "top_k"), [(None, 1), (["q"], 1), ("q", -1)])
def test_rerank_refuses_no_query_and_a_negative_top_k(query: Any, top_k: int) -> None:
    with pytest.raises(ValueError, match=r"^query is .* and top_k -?1; expected a str, and at least 0 or None$"):
        m3(fake_m3()).rerank(query, [], top_k=top_k)


# rerank: with a query of 1 byte the fake's combined score is 5 * (10 + bytes of the passage).


def test_rerank_returns_index_score_and_text_the_best_first() -> None:
    assert m3(fake_m3()).rerank("q", ["b", "ccc", "aa"]) == [(1, 65, "ccc"), (2, 60, "aa"), (0, 55, "b")]


@pytest.mark.parametrize(("top_k", "indices"), [(None, [1, 2, 0]), (2, [1, 2]), (1, [1]), (0, []), (9, [1, 2, 0])])
def test_rerank_returns_top_k(top_k: int | None, indices: list[int]) -> None:
    ranked = m3(fake_m3()).rerank("q", ["b", "ccc", "aa"], top_k=top_k)
    assert [index for index, _, _ in ranked] == indices


def test_rerank_keeps_the_order_of_ties() -> None:
    ranked = m3(fake_m3()).rerank("q", ["x", "yy", "a", "zz"])
    assert [(index, text) for index, _, text in ranked] == [(1, "yy"), (3, "zz"), (0, "x"), (2, "a")]


def test_rerank_of_no_passages_is_empty() -> None:
    fake = fake_m3()
    assert m3(fake).rerank("q", []) == []
    assert fake.requests == []


def test_rerank_takes_passages_from_a_generator() -> None:
    assert m3(fake_m3()).rerank("q", (text for text in ["b"])) == [(0, 55, "b")]


def test_rerank_sends_the_query_with_every_passage_in_one_request() -> None:
    fake = fake_m3()
    m3(fake).rerank("q", ["b", "ccc"])
    assert [pairs_of(request) for request in fake.requests] == [[("q", "ccc"), ("q", "b")]]


def test_rerank_passes_its_arguments_on() -> None:
    fake = fake_m3()
    m3(fake).rerank("q", ["b"], max_query_length=7, weights=[1, 0, 0])
    assert fake.requests[0].parameters == {"query_max_length": 7, "passage_max_length": 512, "weights": "1.0,0.0,0.0"}


def test_rerank_names_a_passage_that_is_no_str() -> None:
    with pytest.raises(TypeError, match=r"^passages\[1\] is None"):
        m3(fake_m3()).rerank("q", ["b", None])  # type: ignore[list-item]


# FlagEmbedding's helpers.


def test_two_texts_weights_give_a_number() -> None:
    assert BGEM3FlagModel.compute_lexical_matching_score({"1": 0.5, "2": 3.0}, {"2": 0.25, "1": 2.0}) == 1.75


def test_two_lists_of_weights_give_a_table() -> None:
    # 2 and 3 meet in the second text: 0.25 * 2, and 1 * 0.5.
    scores = BGEM3FlagModel.compute_lexical_matching_score(*SPARSE_LISTS[0])
    np.testing.assert_array_equal(scores, [[0, 2, 0], [0.5, 0.5, 0]])


@pytest.mark.parametrize(("one", "other", "shape"), [(0, 0, (0,)), (0, 2, (0,)), (2, 0, (2, 0)), (1, 2, (1, 2))])
def test_tables_of_empty_lists_have_numpys_shape_of_a_nested_list(one: int, other: int, shape: Any) -> None:
    scores: Any = BGEM3FlagModel.compute_lexical_matching_score([{"1": 1.0}] * one, [{"1": 1.0}] * other)
    assert scores.shape == shape


@pytest.mark.parametrize(("one", "other"), [({}, []), ([], {}), (({},), ({},)), (None, None)])
def test_a_text_and_a_list_are_refused_as_in_flagembedding(one: Any, other: Any) -> None:
    with pytest.raises(ValueError, match=r"^The input format of lexical_weights is not correct\.$"):
        BGEM3FlagModel.compute_lexical_matching_score(one, other)


def test_colbert_score_is_the_mean_of_the_best_products() -> None:
    # [1, 0] is nearest to [0.5, 1]: 0.5; [0, 2] too: 2. Their mean is 1.25.
    query, passage = np.float32([[1, 0], [0, 2]]), np.float32([[0.5, 1], [0.25, 0.5]])
    assert m3(fake_m3()).colbert_score(query, passage) == 1.25


# Beside FlagEmbedding 1.4.2 itself.


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["compute_score", "compute_score_single_device"])
def test_the_reference_has_the_same_signature(method: str) -> None:
    from FlagEmbedding import BGEM3FlagModel as Reference

    ours, theirs = (
        [(one.name, one.kind, one.default) for one in inspect.signature(getattr(cls, method)).parameters.values()]
        for cls in (BGEM3FlagModel, Reference)
    )
    assert ours == theirs


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("one", "other"),
    [*SPARSE_LISTS, ({"1": 0.5}, {"1": 2.0}), ({"1": 0.5}, {}), (defaultdict(int, {"1": 0.5}), {"1": 2.0, "2": 1.0})],
)
def test_the_reference_gives_the_same_lexical_scores(one: Any, other: Any) -> None:
    from FlagEmbedding import BGEM3FlagModel as Reference

    theirs = Reference.compute_lexical_matching_score(object(), one, other)
    ours = BGEM3FlagModel.compute_lexical_matching_score(one, other)
    assert np.shape(ours) == np.shape(theirs)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_gives_the_same_colbert_score() -> None:
    from FlagEmbedding import BGEM3FlagModel as Reference

    rng = np.random.default_rng(0)
    query, passage = (rng.standard_normal((rows, 8)).astype(np.float32) for rows in (5, 7))
    theirs = Reference.colbert_score(SimpleNamespace(), query, passage)
    assert BGEM3FlagModel.colbert_score(query, passage) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_reference_refuses_lists_of_vectors_in_the_same_words() -> None:
    from FlagEmbedding import BGEM3FlagModel as Reference

    with pytest.raises(TypeError) as theirs:
        Reference.colbert_score(SimpleNamespace(), [[1.0]], [[1.0]])
    with pytest.raises(TypeError) as ours:
        BGEM3FlagModel.colbert_score([[1.0]], [[1.0]])  # type: ignore[arg-type]
    assert str(ours.value) == str(theirs.value)
