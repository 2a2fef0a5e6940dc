# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.heads.m3_scores`: BGE-M3's five scores of a pair, by numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flagtriton.protocol.tensors import (
    COLBERT_SCORE,
    COLBERT_SPARSE_DENSE_SCORE,
    DENSE_SCORE,
    SPARSE_DENSE_SCORE,
    SPARSE_SCORE,
    TensorSpec,
)
from flagtriton_server.heads.lexical import LexicalWeights
from flagtriton_server.heads.m3_scores import EncodedSide, five_scores

ONES = (1.0, 1.0, 1.0)


def side(
    texts: list[int],
    dense: list[list[float]],
    lexical: list[dict[int, float]],
    colbert: list[list[list[float]]],
) -> EncodedSide:
    """Return one side of pairs: which distinct text each pair has, and the distinct texts' three outputs."""
    rows = [(text, token, weight) for text, weights in enumerate(lexical) for token, weight in weights.items()]
    of_texts, of_ids, of_weights = zip(*rows, strict=True) if rows else ((), (), ())
    return EncodedSide(
        np.array(texts),
        np.array(dense, dtype=np.float32),
        LexicalWeights(
            np.array(of_texts, dtype=np.int64), np.array(of_ids, dtype=np.int64), np.array(of_weights, dtype=np.float32)
        ),
        [torch.tensor(vectors, dtype=torch.float32).reshape(-1, 2) for vectors in colbert],
    )


def one(
    dense: tuple[float, float] = (0, 0),
    lexical: dict[int, float] | None = None,
    colbert: list[list[float]] | None = None,
) -> EncodedSide:
    """Return a side of one pair."""
    return side([0], [list(dense)], [lexical or {}], [[[0.0, 0]] if colbert is None else colbert])


def score(
    spec: TensorSpec, queries: EncodedSide, passages: EncodedSide, weights: tuple[float, ...] = ONES
) -> list[float]:
    dense, sparse, colbert = weights
    return five_scores(queries, passages, (dense, sparse, colbert))[spec].tolist()


# A pair whose dense score is 2 * 3 = 6, whose sparse score is 0.5 * 4 = 2, and whose ColBERT score is 1 * 10 = 10.
QUERY = one((2, 0), {7: 0.5}, [[1, 0]])
PASSAGE = one((3, 9), {7: 4}, [[10, 0]])


def test_the_scores_stand_in_the_references_terms_and_are_float32() -> None:
    scores = five_scores(QUERY, PASSAGE, ONES)
    assert {spec.name: values.tolist() for spec, values in scores.items()} == {
        "dense": [6],
        "sparse": [2],
        "colbert": [10],
        "sparse_dense": [4],  # (2 + 6) / 2
        "colbert_sparse_dense": [6],  # (10 + 2 + 6) / 3
    }
    assert {values.dtype for values in scores.values()} == {np.dtype(np.float32)}


def test_the_dense_score_is_the_product_of_both_vectors() -> None:
    assert score(DENSE_SCORE, one((1, 2)), one((3, 4))) == [11]


def test_the_sparse_score_sums_products_over_shared_ids_alone() -> None:
    # 7: 0.5 * 2, 4: 2 * 8; 5 and 9 stand on one side each
    query, passage = one(lexical={7: 0.5, 5: 1, 4: 2}), one(lexical={9: 1, 4: 8, 7: 2})
    assert score(SPARSE_SCORE, query, passage) == [17]


@pytest.mark.parametrize(("mine", "theirs"), [({7: 1}, {5: 1}), ({}, {5: 1}), ({7: 1}, {}), ({}, {})])
def test_the_sparse_score_is_0_where_nothing_is_shared(mine: dict[int, float], theirs: dict[int, float]) -> None:
    assert score(SPARSE_SCORE, one(lexical=mine), one(lexical=theirs)) == [0]


def test_the_colbert_score_is_the_mean_over_query_vectors_of_the_greatest_product() -> None:
    # first: max(1, 3) = 3; second: max(2, -4) = 2; their mean
    assert score(COLBERT_SCORE, one(colbert=[[1, 0], [0, 1]]), one(colbert=[[1, 2], [3, -4]])) == [2.5]


def test_the_colbert_score_is_not_symmetric() -> None:
    # each of both query vectors finds the one of the passage: (1 + 0) / 2; the other way round it finds the first
    few, many = one(colbert=[[1, 0]]), one(colbert=[[1, 0], [0, 1]])
    assert (score(COLBERT_SCORE, many, few), score(COLBERT_SCORE, few, many)) == ([0.5], [1])


def test_a_query_vector_unlike_all_of_its_passage_counts_below_0() -> None:
    # FlagEmbedding makes this 0 where the passage is filled up beside a longer one
    assert score(COLBERT_SCORE, one(colbert=[[1, 0]]), one(colbert=[[-3, 0], [-2, 0]])) == [-2]


@pytest.mark.parametrize(("mine", "theirs"), [([], [[1, 0]]), ([[1, 0]], []), ([], [])])
def test_the_colbert_score_is_0_where_a_text_has_no_vector(mine: list[list[float]], theirs: list[list[float]]) -> None:
    assert score(COLBERT_SCORE, one(colbert=mine), one(colbert=theirs)) == [0]


def test_weights_are_those_of_dense_sparse_and_colbert_in_this_order() -> None:
    # dense 6, sparse 2, colbert 10, weighted 1, 2, 5: (6 + 4) / 3 and (6 + 4 + 50) / 8
    assert score(SPARSE_DENSE_SCORE, QUERY, PASSAGE, (1, 2, 5)) == [pytest.approx(10 / 3)]
    assert score(COLBERT_SPARSE_DENSE_SCORE, QUERY, PASSAGE, (1, 2, 5)) == [7.5]


def test_weights_change_no_score_but_the_means() -> None:
    scores = five_scores(QUERY, PASSAGE, (0.5, 2, 5))
    assert [scores[spec].tolist() for spec in (DENSE_SCORE, SPARSE_SCORE, COLBERT_SCORE)] == [[6], [2], [10]]


def test_a_mean_whose_weights_are_all_0_is_0() -> None:
    scores = five_scores(QUERY, PASSAGE, (0, 0, 2))
    assert scores[SPARSE_DENSE_SCORE].tolist() == [0]
    assert scores[COLBERT_SPARSE_DENSE_SCORE].tolist() == [10]


@pytest.mark.parametrize(("weights", "mean"), [((1, 0, 0), 6), ((0, 1, 0), 2)])
def test_a_single_weight_leaves_its_score_alone(weights: tuple[float, ...], mean: float) -> None:
    assert score(SPARSE_DENSE_SCORE, QUERY, PASSAGE, weights) == [mean]
    assert score(COLBERT_SPARSE_DENSE_SCORE, QUERY, PASSAGE, weights) == [mean]


def test_every_pair_has_the_texts_it_names() -> None:
    # Pairs (1, 0), (0, 0), (1, 1) of two queries and two passages
    queries = side([1, 0, 1], [[1, 0], [0, 1]], [{7: 1}, {7: 2, 9: 1}], [[[1, 0]], [[0, 1]]])
    passages = side([0, 0, 1], [[3, 4], [5, 6]], [{7: 10}, {9: 100}], [[[7, 8]], [[9, 1]]])
    assert score(DENSE_SCORE, queries, passages) == [4, 3, 6]
    assert score(SPARSE_SCORE, queries, passages) == [20, 10, 100]
    assert score(COLBERT_SCORE, queries, passages) == [8, 7, 1]


@pytest.mark.parametrize("bare", [0, 1, 2], ids=["first", "between", "last"])
def test_a_text_without_lexical_weights_leaves_its_neighbours_theirs(bare: int) -> None:
    lexical = [{7: 1.0}, {7: 2.0}, {7: 3.0}]
    lexical[bare] = {}
    queries = side([0, 1, 2], [[0, 0]] * 3, lexical, [[]] * 3)
    passages = side([0, 0, 0], [[0, 0]], [{7: 1}], [[]])
    assert score(SPARSE_SCORE, queries, passages) == [0 if text == bare else text + 1 for text in range(3)]


def random_side(generator: np.random.Generator, pairs: int) -> EncodedSide:
    lexical = [
        {int(token): float(generator.random()) for token in generator.permutation(20)[:size]}
        for size in generator.integers(0, 9, size=pairs)
    ]
    vectors = [generator.normal(size=(size, 2)).tolist() for size in generator.integers(0, 9, size=pairs)]
    return side(list(range(pairs)), generator.normal(size=(pairs, 2)).tolist(), lexical, vectors)


def pair_alone(encoded: EncodedSide, text: int) -> EncodedSide:
    own: NDArray[np.bool_] = encoded.lexical.texts == text
    lexical = LexicalWeights(encoded.lexical.texts[own] * 0, encoded.lexical.ids[own], encoded.lexical.weights[own])
    return EncodedSide(np.array([0]), encoded.dense[[text]], lexical, [encoded.colbert[text]])


def test_a_pairs_scores_are_the_same_alone_and_in_company() -> None:
    generator = np.random.default_rng(5)
    queries, passages = random_side(generator, 12), random_side(generator, 12)
    together = five_scores(queries, passages, (1, 0.3, 2))
    for pair in range(12):
        alone = five_scores(pair_alone(queries, pair), pair_alone(passages, pair), (1, 0.3, 2))
        assert {spec.name: values[0] for spec, values in alone.items()} == {
            spec.name: values[pair] for spec, values in together.items()
        }


@pytest.mark.parametrize("size", [1e308, 1e-50])
def test_only_the_ratio_of_the_weights_matters(size: float) -> None:
    weights = (size, size, size)
    assert score(SPARSE_DENSE_SCORE, QUERY, PASSAGE, weights) == [4]
    assert score(COLBERT_SPARSE_DENSE_SCORE, QUERY, PASSAGE, weights) == [6]
