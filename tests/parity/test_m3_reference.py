# SPDX-License-Identifier: Apache-2.0
"""BGEM3FlagModel against FlagEmbedding's in this process: same checkpoints, same texts, fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from flagtriton import BGEM3FlagModel
from flagtriton.protocol.tensors import INPUT_IDS, NO_TOKEN, TEXT
from flagtriton.protocol.text import text_tensor
from tests.conftest import Served
from tests.support.checkpoints.tiny import TEXTS

pytestmark = [pytest.mark.server, pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

BOUND = 1e-5
SCORE_BOUND = 1e-4
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}
NARROW = {"pooling_method": "mean", "colbert_dim": 16}

LENGTHS = [" ".join(TEXTS[i % 9] for i in range(n)) for n in (1, 2, 4, 8, 16, 32)]
"""From some 25 tokens to over 512."""

ODD = [
    "fox fox fox the the fox fox",  # repeated tokens
    "</s> <s> <pad> <unk>",  # special tokens alone
    "<mask> and </s> in the text",
    "𓂀 ☃ unknown to this tokenizer",
    " ",
    "a\x00b",
    "x",
]
EVERY = [*TEXTS, *LENGTHS, *ODD]

Pair = tuple[BGEM3FlagModel, Any]
PairOf = Callable[..., Pair]


@pytest.fixture(scope="module")
def pair_of(served: Served) -> Iterator[PairOf]:
    """Return the SDK's BGEM3FlagModel and FlagEmbedding's, constructed alike."""
    opened = []

    def make(name: str = "m3", **arguments: Any) -> Pair:
        from FlagEmbedding import BGEM3FlagModel as Reference

        given = {**(NARROW if name == "m3-narrow" else {}), **arguments}
        reference = Reference(str(served.checkpoints[name]), use_fp16=False, devices="cpu", **given)
        ours = BGEM3FlagModel(name, use_fp16=False, url=served.grpc_url, **given)
        opened.append(ours)
        return ours, reference

    yield make
    for ours in opened:
        ours.close()


def assert_same(ours: Mapping[str, Any], theirs: Mapping[str, Any], colbert_bound: float = BOUND) -> None:
    assert list(ours) == list(theirs)
    assert_arrays(ours["dense_vecs"], theirs["dense_vecs"], BOUND)
    if theirs["lexical_weights"] is None:
        assert ours["lexical_weights"] is None
    else:
        assert_weights(listed(ours["lexical_weights"]), listed(theirs["lexical_weights"]))
    if theirs["colbert_vecs"] is None:
        assert ours["colbert_vecs"] is None
    else:
        for mine, reference in zip(listed(ours["colbert_vecs"]), listed(theirs["colbert_vecs"]), strict=True):
            assert_arrays(mine, reference, colbert_bound)


def listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def assert_arrays(mine: Any, theirs: Any, bound: float) -> None:
    if theirs is None:
        assert mine is None
        return
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype == np.float32
    assert np.abs(mine - theirs).max(initial=0) <= bound


def assert_weights(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(mine) == len(theirs)
    for ours, reference in zip(mine, theirs, strict=True):
        assert type(ours) is type(reference)
        assert list(ours) == list(reference)  # the order, too
        assert all(abs(ours[key] - weight) <= BOUND for key, weight in reference.items())


def assert_scores(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert list(mine) == list(theirs)
    for name, scores in theirs.items():
        assert type(mine[name]) is type(scores)
        assert np.abs(np.array(mine[name]) - np.array(scores)).max() <= SCORE_BOUND


@pytest.mark.parametrize("max_length", [2, 7, 512])
def test_token_ids_are_the_reference_tokenizers(max_length: int, served: Served) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(served.checkpoints["m3"])
    expected = tokenizer(EVERY, truncation=True, max_length=max_length)["input_ids"]
    tensor = triton.InferInput(TEXT.name, [len(EVERY), 1], "BYTES")
    tensor.set_data_from_numpy(text_tensor(EVERY))
    with triton.InferenceServerClient(served.grpc_url.removeprefix("grpc://")) as client:
        outputs = [triton.InferRequestedOutput(INPUT_IDS.name)]
        result = client.infer("m3_tokenizer", [tensor], outputs=outputs, parameters={"max_length": max_length})
    rows = result.as_numpy(INPUT_IDS.name)
    assert [[int(i) for i in row if i != NO_TOKEN] for row in rows] == expected


@pytest.mark.parametrize("normalize", [True, False])
def test_all_three_outputs_of_all_texts_are_the_references(normalize: bool, pair_of: PairOf) -> None:
    ours, reference = pair_of(normalize_embeddings=normalize)
    assert_same(ours.encode(EVERY, **ALL), reference.encode(EVERY, **ALL))


def test_another_width_and_pooling_are_the_references_up_to_the_wires_half_precision(pair_of: PairOf) -> None:
    ours, reference = pair_of("m3-narrow")
    # A component of a unit vector rounds by at most 2^-12 in fp16.
    assert_same(ours.encode(EVERY, **ALL), reference.encode(EVERY, **ALL), colbert_bound=2**-12 + BOUND)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("colbert", [True, False])
def test_every_choice_of_outputs_is_the_references(dense: bool, sparse: bool, colbert: bool, pair_of: PairOf) -> None:
    ours, reference = pair_of()
    if not (dense or sparse or colbert):
        with pytest.raises(ValueError, match="Must choose one or more"):
            ours.encode(TEXTS, return_dense=False, return_sparse=False, return_colbert_vecs=False)
        return
    chosen = {"return_dense": dense, "return_sparse": sparse, "return_colbert_vecs": colbert}
    assert_same(ours.encode(TEXTS, **chosen), reference.encode(TEXTS, **chosen))


@pytest.mark.parametrize("max_length", [2, 3, 10, 600, 8192])
def test_texts_cut_at_any_length_are_the_references(max_length: int, pair_of: PairOf) -> None:
    ours, reference = pair_of(**ALL)
    assert_same(ours.encode(EVERY, max_length=max_length), reference.encode(EVERY, max_length=max_length))


@pytest.mark.parametrize("truncate_dim", [1, 16, 48, 1000])
def test_truncated_vectors_are_the_references(truncate_dim: int, pair_of: PairOf) -> None:
    ours, reference = pair_of(truncate_dim=truncate_dim, **ALL)
    assert_same(ours.encode(TEXTS), reference.encode(TEXTS))


@pytest.mark.parametrize("text", ["the lone quick fox", "", "</s>"])
def test_a_lone_text_has_the_references_form(text: str, pair_of: PairOf) -> None:
    ours, reference = pair_of(**ALL)
    assert_same(ours.encode(text), reference.encode(text))


def test_queries_and_passages_are_the_references(pair_of: PairOf) -> None:
    arguments = {
        "query_instruction_for_retrieval": "find what answers this",
        "query_instruction_format": "Instruct: {}\\nQuery: {}",
        "passage_instruction_for_retrieval": "a passage: ",
        "query_max_length": 24,
        "passage_max_length": 40,
    }
    ours, reference = pair_of(**ALL, **arguments)
    assert_same(ours.encode_queries(TEXTS), reference.encode_queries(TEXTS))
    assert_same(ours.encode_corpus(TEXTS), reference.encode_corpus(TEXTS))


def test_a_text_alone_and_in_company_is_the_same(pair_of: PairOf) -> None:
    ours, _ = pair_of(**ALL)
    together = ours.encode(EVERY)
    for index, text in enumerate(EVERY):
        alone = ours.encode([text])
        assert_arrays(alone["dense_vecs"], together[index]["dense_vecs"], 1e-6)
        assert_weights(alone["lexical_weights"], together[index]["lexical_weights"])
        assert_arrays(alone["colbert_vecs"][0], together["colbert_vecs"][index], 1e-6)


def test_a_large_mixed_batch_is_the_references(pair_of: PairOf) -> None:
    ours, reference = pair_of(batch_size=64, **ALL)
    random = np.random.default_rng(4)
    words = " ".join(TEXTS).split()
    texts = [" ".join(random.choice(words, size=random.integers(1, 80))) for _ in range(300)]
    assert_same(ours.encode(texts), reference.encode(texts))


@pytest.mark.parametrize("name", ["m3", "m3-narrow"])
@pytest.mark.parametrize("weights", [None, [1.0, 0.3, 1.0], (0.4, 0.2, 0.4), [0, 1, 0]])
def test_scores_of_pairs_are_the_references(name: str, weights: Any, pair_of: PairOf) -> None:
    ours, reference = pair_of(name)
    texts = [*TEXTS, *ODD[:3], LENGTHS[3]]
    pairs = [(query, passage) for query in texts for passage in texts[::2]]
    arguments = {"weights_for_different_modes": weights, "batch_size": 32}
    # FlagEmbedding lets the zeros that fill a passage up take part in the maximum: scored one by one there are none.
    theirs = [reference.compute_score(pair, weights_for_different_modes=weights) for pair in pairs]
    expected = {key: [score[key] for score in theirs] for key in theirs[0]}
    assert_scores(ours.compute_score(pairs, **arguments), expected)


@pytest.mark.parametrize("lengths", [(2, 2), (5, 9), (512, 8), (3, 600)])
def test_scores_of_cut_texts_are_the_references(lengths: tuple[int, int], pair_of: PairOf) -> None:
    ours, reference = pair_of()
    pairs = [(TEXTS[0], LENGTHS[5]), (LENGTHS[4], TEXTS[1]), (LENGTHS[5], LENGTHS[5])]
    arguments = {"max_query_length": lengths[0], "max_passage_length": lengths[1], "batch_size": 1}
    assert_scores(ours.compute_score(pairs, **arguments), reference.compute_score(pairs, **arguments))


def test_scores_without_normalising_are_the_references(pair_of: PairOf) -> None:
    ours, reference = pair_of(normalize_embeddings=False)
    pair = (TEXTS[0], TEXTS[2])
    mine, theirs = ours.compute_score(pair), reference.compute_score(pair)
    assert list(mine) == list(theirs)
    # Raw products are hundreds: the bound is relative there.
    assert all(abs(mine[name] - theirs[name]) <= SCORE_BOUND * max(1, abs(theirs[name])) for name in theirs)


@pytest.mark.parametrize(
    "pairs",
    [("a fox", "a dog"), ["a fox", "a dog"], [("a fox", "a dog")], [["a fox", "a dog"], ["", ""]], []],
    ids=["tuple", "list", "one pair", "two pairs", "none"],
)
def test_every_form_of_pairs_gives_the_references_form(pairs: Any, pair_of: PairOf) -> None:
    ours, reference = pair_of()
    mine, theirs = ours.compute_score(pairs), reference.compute_score(pairs)
    if not pairs:
        assert mine == theirs == []
        return
    assert_scores(mine, theirs)


def test_a_pairs_score_does_not_depend_on_the_pairs_beside_it(pair_of: PairOf) -> None:
    ours, _ = pair_of()
    pairs = [(TEXTS[i % 11], EVERY[(i * 7) % len(EVERY)]) for i in range(60)]
    together = ours.compute_score(pairs)
    for i in range(0, 60, 7):
        alone = ours.compute_score(pairs[i])
        assert all(abs(alone[name] - together[name][i]) <= 1e-6 for name in alone)


def test_two_outputs_score_as_their_texts_do_on_the_server(pair_of: PairOf) -> None:
    ours, _ = pair_of(**ALL)
    queries, passages = ours.encode_queries(TEXTS[:3]), ours.encode_corpus(TEXTS[3:6])
    weights = [0.4, 0.2, 0.4]
    for q in range(3):
        for p in range(3):
            served = ours.compute_score((TEXTS[q], TEXTS[3 + p]), weights_for_different_modes=weights)
            here = ours.compute_score(queries[q], passages[p], weights=weights)
            assert abs(here - served["colbert+sparse+dense"]) <= BOUND


def test_every_token_of_the_vocabulary_is_the_references(pair_of: PairOf) -> None:
    ours, reference = pair_of()
    ids = {str(token_id): 1.0 for token_id in range(len(reference.tokenizer))}
    assert ours.convert_id_to_token(ids) == reference.convert_id_to_token(ids)
    assert ours.convert_id_to_token([ids, {}]) == reference.convert_id_to_token([ids, {}])
    assert ours.convert_id_to_token([]) == reference.convert_id_to_token([]) == []


def test_lexical_and_late_interaction_scores_are_the_references(pair_of: PairOf) -> None:
    ours, reference = pair_of(**ALL)
    outputs = reference.encode(TEXTS)
    weights, vectors = outputs["lexical_weights"], outputs["colbert_vecs"]
    mine = ours.compute_lexical_matching_score(weights, weights[:4])
    theirs = reference.compute_lexical_matching_score(weights, weights[:4])
    assert mine.shape == theirs.shape
    assert np.abs(mine - theirs).max() <= BOUND
    one = ours.compute_lexical_matching_score(weights[0], weights[2])
    assert abs(one - reference.compute_lexical_matching_score(weights[0], weights[2])) <= BOUND
    late = ours.colbert_score(vectors[0], vectors[1])
    assert abs(late.item() - reference.colbert_score(vectors[0], vectors[1]).item()) <= BOUND
