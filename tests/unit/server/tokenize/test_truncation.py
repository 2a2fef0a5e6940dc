# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.tokenize.truncation`: how much of a long text is tokenised, and who may pass meanwhile."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from flagtriton.protocol.tensors import INPUT_IDS
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.cross_encoder_inputs import RerankBatch, encode_pairs
from flagtriton_server.tokenize.icl_queries import QueryBatch, encode_queries
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer
from flagtriton_server.tokenize.token_boundaries import boundary_rule
from flagtriton_server.tokenize.truncation import TextCutter, TextSize, TextTooLongError, window
from tests.support.checkpoints.tokenizer_kinds import KINDS, word_piece

LETTERS = "a b c d " * 50_000
SMALL = TextSize(max_bytes=1_000)


class Counting(TextCutter):
    """A cutter that tells what it has tokenised."""

    def __init__(self, backend: Tokenizer, *, from_left: bool = True) -> None:
        super().__init__(backend, from_left=from_left)
        self.lengths: list[int] = []

    def _encode(self, text: str) -> list[int]:
        self.lengths.append(len(text))
        return super()._encode(text)


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return TextTokenizer(word_piece())


def test_of_a_long_text_no_more_than_a_window_is_tokenised() -> None:
    cutter = Counting(word_piece())
    assert len(cutter.ids(LETTERS, 3, TextSize(), 0)) > 3
    assert sum(cutter.lengths) <= window(3) == 8 * 3 + 256


def test_a_window_without_enough_tokens_is_doubled() -> None:
    cutter = Counting(word_piece())
    text = " ".join(["x" * 100] * 100)  # of which each word is one token
    assert len(cutter.ids(text, 5, TextSize(), 0)) > 5
    assert cutter.lengths == [201, 504, 1_110]  # before the last space within 296, 592 and 1,184 characters


def test_a_text_without_a_boundary_is_tokenised_as_a_whole() -> None:
    cutter = Counting(word_piece())
    assert cutter.ids("x" * 5_000, 3, TextSize(), 0) == [1]
    assert cutter.lengths == [5_000]


def test_texts_within_the_window_are_not_long() -> None:
    cutter = TextCutter(word_piece(), from_left=True)
    texts = ["x" * window(3), "x" * (window(3) + 1)]
    assert (cutter.long_ones(texts, 3, TextSize()), cutter.long_ones(texts[:1], 3, TextSize())) == ([1], [])


@pytest.mark.parametrize(("text", "long"), [("人" * 2, []), ("人" * 2 + "x", [0])])
def test_a_text_may_have_as_many_bytes_as_the_model_takes(text: str, long: list[int]) -> None:
    assert TextCutter(word_piece(), from_left=True).long_ones([text], 3, TextSize(max_bytes=6)) == long


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_of_more_bytes_is_served_where_its_end_has_enough_tokens(side: str) -> None:
    tokenizer = TextTokenizer(word_piece(), side)
    (answer,) = tokenizer.encode([TextBatch([LETTERS], 6, size=SMALL)])
    (whole,) = tokenizer.encode([TextBatch([LETTERS], 6)])
    assert not isinstance(answer, RequestError)
    assert answer[INPUT_IDS].tolist() == whole[INPUT_IDS].tolist()  # type: ignore[index]
    assert tokenizer.truncated_count == 2


def test_of_a_text_of_more_bytes_no_more_is_tokenised_than_may_be() -> None:
    cutter = Counting(word_piece())
    with pytest.raises(TextTooLongError) as refused:
        cutter.ids("a " + " " * 5_000, 3, SMALL, 7)
    assert (refused.value.index, refused.value.size) == (7, 5_002)
    assert max(cutter.lengths, default=0) <= 1_000


def test_a_text_of_more_bytes_that_cannot_be_cut_is_refused_by_its_number(tokenizer: TextTokenizer) -> None:
    refused, answer = tokenizer.encode(
        [TextBatch(["a", "人工" * 300 + LETTERS, "x" * 1_001], 6, size=SMALL), TextBatch(["a"], 6, size=SMALL)]
    )
    assert str(refused) == (
        "text 2 has 1001 bytes; this model takes 1000: cut it, or deploy the model with a greater --max-text-bytes"
    )
    assert not isinstance(answer, RequestError)


def test_a_longer_text_is_refused_where_none_may_be_cut(tokenizer: TextTokenizer) -> None:
    (refused,) = tokenizer.encode([TextBatch(["a", LETTERS], 6, refuse_longer=True)])
    assert str(refused).startswith("text 1 has more than 6 tokens and truncate=NONE")


def test_pairs_name_the_query_or_passage_that_has_too_many_bytes() -> None:
    tokenizer = TextTokenizer(KINDS["gpt2"]())
    for queries, passages, said in [
        (["a", "a", "x" * 1_001], ["b"] * 3, "query 2 has 1001 bytes; this model takes 1000"),
        (["a"] * 2, ["b", "x" * 1_001], "passage 1 has 1001 bytes; this model takes 1000"),
    ]:
        batch = RerankBatch(queries, passages, 3, 9, query_size=SMALL, passage_size=SMALL)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RequestError, match=said):
            patch.setattr(TextTokenizer, "pair_marks", ([1], [], [2]))
            encode_pairs(tokenizer, batch)


def test_the_tokens_of_a_long_side_of_a_pair_are_told_as_more_than_are_kept() -> None:
    tokenizer = TextTokenizer(KINDS["gpt2"]())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RequestError) as refused:
        patch.setattr(TextTokenizer, "pair_marks", ([1], [], [2]))
        encode_pairs(tokenizer, RerankBatch(["a"], [LETTERS], 3, 9, refuse_longer=True))
    assert str(refused.value).startswith("pair 0 has 1 and more than 9 tokens and 2 special ones")


def test_a_query_with_examples_is_cut_as_texts_are(tokenizer: TextTokenizer) -> None:
    short, long = (
        encode_queries(tokenizer, QueryBatch([text], "", "", 30, 60))[INPUT_IDS].tolist()
        for text in (LETTERS[:400], LETTERS)
    )
    assert short == long


def test_others_may_pass_between_long_texts_and_use_the_tokenizer(tokenizer: TextTokenizer) -> None:
    passed: list[object] = []

    def pass_() -> None:
        passed.append(tokenizer.bare_ids(["the lazy dog"]))

    expected = tokenizer.encode([TextBatch([LETTERS] * 8, 4_000)])
    tokenizer.on_between_texts(pass_)
    answers = tokenizer.encode([TextBatch([LETTERS] * 8, 4_000)])
    assert len(passed) >= 7
    assert passed[0] == tokenizer.bare_ids(["the lazy dog"])
    assert answers[0][INPUT_IDS].tolist() == expected[0][INPUT_IDS].tolist()  # type: ignore[index]


def test_others_may_pass_between_portions_of_many_short_texts(tokenizer: TextTokenizer) -> None:
    passed: list[bool] = []
    tokenizer.on_between_texts(lambda: passed.append(True))
    texts = [f"a fox {number}" for number in range(10_000)]
    assert tokenizer.bare_ids(texts)[-1] == tokenizer.bare_ids(texts[-1:])[0]
    assert len(passed) >= 2


def test_others_may_pass_while_a_text_that_cannot_be_cut_is_tokenised(tokenizer: TextTokenizer) -> None:
    passed: list[object] = []
    tokenizer.on_between_texts(lambda: passed.append(tokenizer.bare_ids(["a"])))
    assert tokenizer.bare_ids(["x" * 200_000], 3) == [[1]]
    assert passed


@pytest.mark.parametrize(
    ("stage", "unknown"),
    [
        ("normalizer", normalizers.Replace(Regex("a b"), "c")),
        ("pre_tokenizer", pre_tokenizers.UnicodeScripts()),
        ("model", models.BPE(dropout=0.5)),
    ],
)
def test_a_tokenizer_with_a_stage_that_is_not_known_has_no_rule(stage: str, unknown: object) -> None:
    tokenizer = word_piece()
    assert boundary_rule(tokenizer) is not None
    setattr(tokenizer, stage, unknown)
    assert boundary_rule(tokenizer) is None
