# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.tokenization`: one vocabulary of four words, so that every id can be read off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from flagtriton.protocol import INPUT_IDS, PAST_END, TOKEN_COUNT
from flagtriton_server.rejection import RequestError
from flagtriton_server.tokenization import TextBatch, TextTokenizer, ragged
from tests.checkpoints import make_bert, make_xlm_roberta

CLS, SEP, A, B, C, D = 2, 3, 4, 5, 6, 7
VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "[CLS]": CLS, "[SEP]": SEP, "a": A, "b": B, "c": C, "d": D}


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return tokenizer


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return TextTokenizer(word_level())


def input_ids(tokenizer: TextTokenizer, *batches: TextBatch) -> list[list[list[int]]]:
    answers = tokenizer.encode(batches)
    assert not any(isinstance(answer, RequestError) for answer in answers)
    return [answer[INPUT_IDS].tolist() for answer in answers]


def test_special_tokens_stand_around_a_text(tokenizer: TextTokenizer) -> None:
    assert input_ids(tokenizer, TextBatch(["a b"], 8)) == [[[CLS, A, B, SEP]]]


def test_special_tokens_are_counted(tokenizer: TextTokenizer) -> None:
    assert tokenizer.special_count == 2


def test_token_counts_include_special_tokens(tokenizer: TextTokenizer) -> None:
    (answer,) = tokenizer.encode([TextBatch(["a b", ""], 8)])
    assert answer[TOKEN_COUNT].tolist() == [[4], [2]]


def test_both_outputs_are_int32(tokenizer: TextTokenizer) -> None:
    (answer,) = tokenizer.encode([TextBatch(["a b"], 8)])
    assert {answer[INPUT_IDS].dtype, answer[TOKEN_COUNT].dtype} == {np.dtype(np.int32)}


def test_a_longer_text_is_cut_before_its_last_special_token(tokenizer: TextTokenizer) -> None:
    assert input_ids(tokenizer, TextBatch(["a b c d"], 4)) == [[[CLS, A, B, SEP]]]


def test_a_limit_of_the_special_tokens_alone_leaves_only_them(tokenizer: TextTokenizer) -> None:
    assert input_ids(tokenizer, TextBatch(["a b"], 2)) == [[[CLS, SEP]]]


def test_rows_are_as_long_as_their_own_requests_longest(tokenizer: TextTokenizer) -> None:
    short, long = TextBatch(["a"], 8), TextBatch(["", "a b c"], 8)
    assert input_ids(tokenizer, short, long) == [[[CLS, A, SEP]], [[CLS, SEP, -1, -1, -1], [CLS, A, B, C, SEP]]]


def test_each_request_is_cut_at_its_own_max_length(tokenizer: TextTokenizer) -> None:
    batches = [TextBatch(["a b c"], 5), TextBatch(["a b c"], 3), TextBatch(["c b a"], 5), TextBatch(["d d"], 3)]
    assert input_ids(tokenizer, *batches) == [
        [[CLS, A, B, C, SEP]],
        [[CLS, A, SEP]],
        [[CLS, C, B, A, SEP]],
        [[CLS, D, SEP]],
    ]


def test_a_max_length_does_not_outlast_its_call(tokenizer: TextTokenizer) -> None:
    tokenizer.encode([TextBatch(["a b c"], 3)])
    assert input_ids(tokenizer, TextBatch(["a b c"], 5)) == [[[CLS, A, B, C, SEP]]]


def test_padding_that_the_file_asks_for_is_dropped() -> None:
    backend = word_level()
    backend.enable_padding(length=6)
    assert input_ids(TextTokenizer(backend), TextBatch(["a"], 8)) == [[[CLS, A, SEP]]]


def test_truncation_that_the_file_asks_for_is_dropped() -> None:
    backend = word_level()
    backend.enable_truncation(3, direction="left")
    assert input_ids(TextTokenizer(backend), TextBatch(["a b c d"], 5)) == [[[CLS, A, B, C, SEP]]]


def test_a_longer_text_is_refused_where_cutting_is(tokenizer: TextTokenizer) -> None:
    (answer,) = tokenizer.encode([TextBatch(["a", "a b c"], 4, refuse_longer=True)])
    assert isinstance(answer, RequestError)
    assert str(answer).startswith("text 1 has more than 4 tokens and truncate=NONE")


def test_a_text_of_exactly_max_length_is_not_refused(tokenizer: TextTokenizer) -> None:
    assert input_ids(tokenizer, TextBatch(["a b"], 4, refuse_longer=True)) == [[[CLS, A, B, SEP]]]


def test_a_refusal_leaves_the_requests_beside_it_alone(tokenizer: TextTokenizer) -> None:
    before, refused, after = tokenizer.encode(
        [TextBatch(["a"], 3), TextBatch(["b b b"], 3, refuse_longer=True), TextBatch(["c c c"], 3)]
    )
    assert isinstance(refused, RequestError)
    assert before[INPUT_IDS].tolist() == [[CLS, A, SEP]]
    assert after[INPUT_IDS].tolist() == [[CLS, C, SEP]]


def test_ragged_rows_are_filled_up_behind_their_end() -> None:
    assert ragged([[1, 2, 3], [4]])[INPUT_IDS].tolist() == [[1, 2, 3], [4, -1, -1]]


def test_ragged_rows_are_counted_one_a_row() -> None:
    assert ragged([[1, 2, 3], [4]])[TOKEN_COUNT].tolist() == [[3], [1]]


def test_rows_without_tokens_still_have_a_column() -> None:
    answer = ragged([[], []])
    assert answer[INPUT_IDS].tolist() == [[-1], [-1]]
    assert answer[TOKEN_COUNT].tolist() == [[0], [0]]


def test_the_query_or_passage_that_is_refused_is_called_so(tokenizer: TextTokenizer) -> None:
    (answer,) = tokenizer.encode([TextBatch(["a b c"], 4, refuse_longer=True, kind="passage")])
    assert str(answer).startswith("passage 0 has more than 4 tokens")


def test_every_id_is_decoded_by_itself(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode([B, A, B]) == ["b", "a", "b"]


def test_special_tokens_are_decoded_too() -> None:
    backend = word_level()
    backend.add_special_tokens(["[CLS]"])
    assert TextTokenizer(backend).decode([CLS, A]) == ["[CLS]", "a"]


def test_no_ids_are_no_tokens(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode([]) == []


def test_the_space_that_a_token_begins_with_is_left_out() -> None:
    backend = Tokenizer(models.WordLevel({"▁a": 0, "a": 1, "▁": 2}, unk_token="▁"))
    backend.decoder = decoders.Metaspace()
    assert TextTokenizer(backend).decode([0, 1]) == ["a", "a"]


@pytest.mark.parametrize("token_id", [-1, 8, 2**31 - 1])
def test_an_id_that_the_tokenizer_does_not_have_is_named(tokenizer: TextTokenizer, token_id: int) -> None:
    with pytest.raises(RequestError, match=f"^token id {token_id} is not one of this tokenizer's$"):
        tokenizer.decode([A, token_id])


def test_xlm_robertas_unweighted_ids_are_those_of_four_special_tokens(tmp_path: Path) -> None:
    # <s>, <pad>, </s>, <unk>, as trained in `tests.checkpoints`; <mask> bears weight.
    tokenizer = TextTokenizer.from_checkpoint(str(make_xlm_roberta(tmp_path / "tiny")), None, False)
    assert (tokenizer.unweighted_ids.tolist(), tokenizer.unweighted_ids.dtype) == ([0, 1, 2, 3], np.int32)


def test_berts_separator_bears_weight(tmp_path: Path) -> None:
    # [PAD], [UNK], [CLS]; [SEP] is no `eos_token` in a BERT tokenizer.
    tokenizer = TextTokenizer.from_checkpoint(str(make_bert(tmp_path / "tiny")), None, False)
    assert tokenizer.unweighted_ids.tolist() == [0, 1, 2]


def test_without_special_tokens_there_is_an_id_that_no_token_has(tokenizer: TextTokenizer) -> None:
    assert tokenizer.unweighted_ids.tolist() == [PAST_END]
