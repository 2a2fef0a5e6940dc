# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's replies, put together in the order of the texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flagtriton.m3.collect import OutputCollector, ScoreCollector
from flagtriton.m3.output import M3Output
from flagtriton.protocol.tensors import SCORES
from flagtriton.transport.base import InferenceReply

ALL = {"dense": True, "sparse": True, "colbert": True}
SCORE_TENSORS = ["colbert", "sparse", "dense", "sparse_dense", "colbert_sparse_dense"]


def reply(texts: list[int], padded_to: int = 4) -> InferenceReply:
    """Return the outputs of texts: n has the dense vector [n], n token ids of the weight n, and n vectors [n, n]."""
    ids = [list(range(number)) + [-1] * (padded_to - number) for number in texts]
    weights = [[float(number)] * number + [0.0] * (padded_to - number) for number in texts]
    vectors = np.zeros((len(texts), padded_to, 2), np.float16)
    for row, number in enumerate(texts):
        vectors[row, :number] = number
    return {
        "dense_vecs": np.float32(texts)[:, None],
        "sparse_ids": np.int32(ids),
        "sparse_weights": np.float32(weights),
        "colbert_vecs": vectors,
        "colbert_lengths": np.int32(texts)[:, None],
    }


def collected(
    *replies: tuple[list[int], InferenceReply], count: int | None = None, single: bool = False, **wanted: bool
) -> M3Output:
    """Return what replies to some rows make together."""
    sent = sum(len(rows) for rows, _ in replies)
    outputs = OutputCollector(sent if count is None else count, single=single, **{**ALL, **wanted})
    for rows, tensors in replies:
        outputs.add(np.array(rows), tensors)
    return outputs.result()


def tensors_asked(**wanted: bool) -> list[str]:
    return [tensor.name for tensor in OutputCollector(1, single=False, **wanted).tensors]


def test_everything_wanted_asks_for_every_tensor() -> None:
    names = ["dense_vecs", "sparse_ids", "sparse_weights", "colbert_vecs", "colbert_lengths"]
    assert tensors_asked(**ALL) == names


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("dense", ["dense_vecs"]),
        ("sparse", ["sparse_ids", "sparse_weights"]),
        ("colbert", ["colbert_vecs", "colbert_lengths"]),
    ],
)
def test_one_wanted_output_asks_for_its_tensors_alone(wanted: str, names: list[str]) -> None:
    assert tensors_asked(**{**dict.fromkeys(ALL, False), wanted: True}) == names


def test_nothing_wanted_asks_for_nothing() -> None:
    assert tensors_asked(dense=False, sparse=False, colbert=False) == []


def test_a_reply_is_cut_where_each_text_ends() -> None:
    output = collected(([0, 1], reply([2, 1])))
    assert output["lexical_weights"] == [{"0": 2, "1": 2}, {"0": 1}]
    assert [vectors.tolist() for vectors in output["colbert_vecs"]] == [[[2, 2], [2, 2]], [[1, 1]]]


def test_a_text_without_weights_has_an_empty_dict() -> None:
    assert collected(([0, 1], reply([0, 1])))["lexical_weights"][0] == {}


def test_token_ids_keep_the_order_of_the_wire() -> None:
    tensors = {**reply([3]), "sparse_ids": np.int32([[9, 4, 7]]), "sparse_weights": np.float32([[0.5, 2, 1]])}
    assert list(collected(([0], tensors))["lexical_weights"][0].items()) == [("9", 0.5), ("4", 2), ("7", 1)]


def test_weights_are_numpys_float32_as_in_flagembedding() -> None:
    [weights] = collected(([0], reply([1])))["lexical_weights"]
    assert {type(weight) for weight in weights.values()} == {np.float32}


def test_reading_a_token_without_weight_gives_zero() -> None:
    [weights] = collected(([0], reply([1])))["lexical_weights"]
    assert weights["12345"] == 0


def test_rows_of_a_reply_go_where_their_texts_stand() -> None:
    # Texts 1, 2, 3, 0; the longest were sent first.
    output = collected(([2, 1], reply([3, 2])), ([0, 3], reply([1, 0], padded_to=1)))
    assert output["dense_vecs"].tolist() == [[1], [2], [3], [0]]
    assert [len(weights) for weights in output["lexical_weights"]] == [1, 2, 3, 0]
    assert [len(vectors) for vectors in output["colbert_vecs"]] == [1, 2, 3, 0]


def test_the_order_of_arrival_does_not_matter() -> None:
    first, second = ([2, 1], reply([3, 2])), ([0, 3], reply([1, 0]))
    one, other = collected(first, second), collected(second, first)
    assert one["dense_vecs"].tolist() == other["dense_vecs"].tolist() == [[1], [2], [3], [0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_colbert_vectors_become_writable_float32_of_their_own(dtype: Any) -> None:
    tensors = reply([2])
    tensors["colbert_vecs"] = sent = tensors["colbert_vecs"].astype(dtype)
    sent.setflags(write=False)
    [vectors] = collected(([0], tensors))["colbert_vecs"]
    assert (vectors.dtype, vectors.flags.writeable, np.shares_memory(vectors, sent)) == (np.float32, True, False)


def test_dense_vectors_share_no_memory_with_the_reply() -> None:
    tensors = reply([2])
    assert not np.shares_memory(collected(([0], tensors))["dense_vecs"], tensors["dense_vecs"])


@pytest.mark.parametrize(
    ("unwanted", "key"), [("dense", "dense_vecs"), ("sparse", "lexical_weights"), ("colbert", "colbert_vecs")]
)
def test_what_is_not_wanted_is_none_and_not_looked_for(unwanted: str, key: str) -> None:
    tensors = {name: tensor for name, tensor in reply([1]).items() if not name.startswith(unwanted)}
    output = collected(([0], tensors), **{unwanted: False})
    assert [name for name, value in output.items() if value is None] == [key]


def test_a_lone_text_has_no_lists() -> None:
    output = collected(([0], reply([2])), single=True)
    assert (output["dense_vecs"].tolist(), output["lexical_weights"]) == ([2], {"0": 2, "1": 2})
    assert output["colbert_vecs"].tolist() == [[2, 2], [2, 2]]


def test_a_text_that_stood_for_none_is_left_out() -> None:
    output = collected(([0], reply([2])), count=0)
    assert (output["dense_vecs"].shape, output["lexical_weights"], output["colbert_vecs"]) == ((0, 1), [], [])


def test_the_keys_are_flagembeddings_in_its_order() -> None:
    assert list(collected(([0], reply([1])))) == ["dense_vecs", "lexical_weights", "colbert_vecs"]


def test_scores_have_flagembeddings_names_in_its_order() -> None:
    assert list(SCORES) == ["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]
    assert [tensor.name for tensor in SCORES.values()] == SCORE_TENSORS


def test_scores_go_where_their_pairs_stand() -> None:
    scores = ScoreCollector(3)
    for rows in ([2, 0], [1]):
        tensors = {name: np.float32([[10 * i + row] for row in rows]) for i, name in enumerate(SCORE_TENSORS)}
        scores.add(np.array(rows), tensors)
    assert scores.result() == {
        "colbert": [0, 1, 2],
        "sparse": [10, 11, 12],
        "dense": [20, 21, 22],
        "sparse+dense": [30, 31, 32],
        "colbert+sparse+dense": [40, 41, 42],
    }
