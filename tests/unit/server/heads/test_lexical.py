# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.heads.lexical`: the greatest weight of each token id of a text, in the order they first occur."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flagtriton_server.engines.torch_packed.fused_bert import FusedLinear
from flagtriton_server.heads.lexical import LexicalWeights, lexical_weights, token_weights
from flagtriton_server.heads.linear import Head
from tests.support.steps.fake_backend import ids


def weighed(texts: list[list[int]], weights: list[float], unweighted: tuple[int, ...] = ()) -> LexicalWeights:
    """Return lexical weights of texts as token ids, with all tokens' weights end to end."""
    return lexical_weights(ids(*texts), np.array(weights, dtype=np.float32), np.array(unweighted, dtype=np.int32))


def by_text(found: LexicalWeights, count: int) -> list[dict[int, float]]:
    """Return each text's weights by id, in their order."""
    pairs: list[dict[int, float]] = [{} for _ in range(count)]
    for text, token, weight in zip(found.texts, found.ids, found.weights, strict=True):
        assert token not in pairs[text]
        pairs[text][int(token)] = float(weight)
    return pairs


def test_an_id_that_occurs_once_has_its_tokens_weight() -> None:
    assert by_text(weighed([[7, 5]], [0.5, 0.25]), 1) == [{7: 0.5, 5: 0.25}]


def test_an_id_that_occurs_again_has_the_greatest_weight() -> None:
    assert by_text(weighed([[7, 7, 7]], [0.25, 0.75, 0.5]), 1) == [{7: 0.75}]


def test_ids_stand_in_the_order_of_their_first_occurrence() -> None:
    found = weighed([[9, 2, 9, 5, 2]], [0.5, 0.5, 0.25, 0.5, 1])
    assert list(by_text(found, 1)[0].items()) == [(9, 0.5), (2, 1), (5, 0.5)]


def test_an_occurrence_without_weight_is_no_first_one() -> None:
    # 9 comes first, but weighs nothing there; FlagEmbedding's dict gets its key at the second 9
    found = weighed([[9, 2, 9]], [0, 0.5, 0.25])
    assert list(by_text(found, 1)[0].items()) == [(2, 0.5), (9, 0.25)]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_an_id_without_a_positive_weight_is_left_out(weight: float) -> None:
    assert by_text(weighed([[7, 5]], [weight, 0.25]), 1) == [{5: 0.25}]


def test_unweighted_ids_are_left_out_wherever_they_stand() -> None:
    assert by_text(weighed([[0, 7, 3, 2], [0, 3, 2]], [1] * 7, unweighted=(0, 2, 3)), 2) == [{7: 1}, {}]


def test_an_id_of_two_texts_is_weighed_in_each() -> None:
    # The second text begins behind the first one's two tokens, not at a new column of the array
    assert by_text(weighed([[7, 5], [5, 7, 9]], [1, 2, 3, 4, 5]), 2) == [{7: 1, 5: 2}, {5: 3, 7: 4, 9: 5}]


def test_texts_without_a_token_are_passed_over() -> None:
    assert by_text(weighed([[], [7], [], [5]], [1, 2]), 4) == [{}, {7: 1}, {}, {5: 2}]


def test_the_id_0_may_bear_weight() -> None:
    assert by_text(weighed([[0], [0, 1]], [1, 2, 3]), 2) == [{0: 1}, {0: 2, 1: 3}]


def test_the_greatest_id_of_one_text_and_0_of_the_next_are_told_apart() -> None:
    assert by_text(weighed([[9], [0, 9]], [1, 2, 3]), 2) == [{9: 1}, {0: 2, 9: 3}]


def test_nothing_is_left_of_texts_without_weight() -> None:
    found = weighed([[7], [5]], [0, 0])
    assert [len(array) for array in (found.texts, found.ids, found.weights)] == [0, 0, 0]


def test_many_texts_are_weighed_as_the_definition_says() -> None:
    generator = np.random.default_rng(3)
    texts = [generator.integers(0, 12, size=size).tolist() for size in (9, 1, 0, 30, 4)]
    weights = np.maximum(generator.normal(size=44), 0).astype(np.float32)
    expected: list[list[tuple[int, float]]] = []
    rest = iter(weights.tolist())
    for text in texts:  # FlagEmbedding's own loop, docs/reference-behaviour.md#m3-encode
        result: dict[int, float] = {}
        for token in text:
            weight = next(rest)
            if token not in (0, 2) and weight > result.get(token, 0):
                result[token] = weight
        expected.append(list(result.items()))
    found = by_text(weighed(texts, weights.tolist(), unweighted=(0, 2)), len(texts))
    assert [list(each.items()) for each in found] == expected


def test_shorter_texts_are_filled_up_behind_their_last_weight() -> None:
    token_ids, weights = weighed([[7, 5, 9], [], [4]], [1, 2, 3, 4]).padded(3)
    assert token_ids.tolist() == [[7, 5, 9], [-1, -1, -1], [4, -1, -1]]
    assert weights.tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]


def test_filled_up_arrays_have_the_dtypes_of_their_tensors() -> None:
    token_ids, weights = weighed([[7]], [1]).padded(1)
    assert (token_ids.dtype, weights.dtype) == (np.int32, np.float32)


def test_texts_without_any_weight_still_have_a_column() -> None:
    token_ids, weights = weighed([[7], [5]], [0, 0]).padded(2)
    assert (token_ids.tolist(), weights.tolist()) == ([[-1], [-1]], [[0], [0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tokens_weight_is_the_positive_part_of_the_heads_number(dtype: torch.dtype) -> None:
    linear = nn.Linear(2, 1)
    linear.weight.data, linear.bias.data = torch.tensor([[1.0, 2]]), torch.tensor([-3.0])
    head = Head(FusedLinear([linear.to(dtype)]), torch.device("cpu"), dtype)
    # 1 + 4 - 3, 1 + 2 - 3, 1 - 3
    weights = token_weights(torch.tensor([[1.0, 2], [1, 1], [1, 0]]), head)
    assert (weights.dtype, weights.tolist()) == (np.float32, [2, 0, 0])
