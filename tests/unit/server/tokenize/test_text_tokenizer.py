# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.tokenize.text_tokenizer`: one vocabulary of four words, so that every id can be read off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from flagtriton.protocol.tensors import INPUT_IDS, NO_TOKEN, TOKEN_COUNT
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer, ragged
from tests.support.checkpoints.tiny import make_bert, make_decoder, make_xlm_roberta
from tests.support.folders import write_json

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
    # <s>, <pad>, </s>, <unk>, as trained in `tests.support.checkpoints.tiny`; <mask> bears weight.
    tokenizer = TextTokenizer.from_checkpoint(str(make_xlm_roberta(tmp_path / "tiny")), None, False)
    assert (tokenizer.unweighted_ids.tolist(), tokenizer.unweighted_ids.dtype) == ([0, 1, 2, 3], np.int32)


def test_berts_separator_bears_weight(tmp_path: Path) -> None:
    # [PAD], [UNK], [CLS]; [SEP] is no `eos_token` in a BERT tokenizer.
    tokenizer = TextTokenizer.from_checkpoint(str(make_bert(tmp_path / "tiny")), None, False)
    assert tokenizer.unweighted_ids.tolist() == [0, 1, 2]


def test_without_special_tokens_there_is_an_id_that_no_token_has(tokenizer: TextTokenizer) -> None:
    assert tokenizer.unweighted_ids.tolist() == [NO_TOKEN]


def test_bare_ids_have_no_special_tokens_and_are_never_cut(tokenizer: TextTokenizer) -> None:
    tokenizer.encode([TextBatch(["a b c"], 3)])
    assert tokenizer.bare_ids(["a b c d", "", "d"]) == [[A, B, C, D], [], [D]]


def test_bare_ids_leave_no_trace_in_what_is_encoded_next(tokenizer: TextTokenizer) -> None:
    tokenizer.encode([TextBatch(["a b c"], 3)])
    tokenizer.bare_ids(["a b c"])
    assert input_ids(tokenizer, TextBatch(["a b c"], 3)) == [[[CLS, A, SEP]]]


def test_bare_tokens_are_counted(tokenizer: TextTokenizer) -> None:
    assert [tokenizer.bare_count(text) for text in ("a b c", "", "a b c")] == [3, 0, 3]


def test_counts_are_each_tokenizers_own(tokenizer: TextTokenizer) -> None:
    backend = word_level()
    backend.pre_tokenizer = pre_tokenizers.Split("nothing", "removed")
    assert (tokenizer.bare_count("a b"), TextTokenizer(backend).bare_count("a b")) == (2, 1)


def test_tokens_are_made_texts_with_special_ones_written_out() -> None:
    backend = word_level()
    backend.add_special_tokens(["[SEP]"])
    assert TextTokenizer(backend).texts_of([[A, SEP, B], []]) == ["a [SEP] b", ""]


def test_texts_of_tokens_are_cleaned_up_where_the_checkpoint_wants_it() -> None:
    assert TextTokenizer(word_level(), clean_up=str.upper).texts_of([[A, B]]) == ["A B"]


@pytest.mark.parametrize(
    ("length", "right", "left"),
    [(0, [], []), (2, [A, B], [B, C]), (3, [A, B, C], [A, B, C]), (4, [A, B, C], [A, B, C])],
)
def test_tokens_are_cut_where_the_checkpoint_cuts(length: int, right: list[int], left: list[int]) -> None:
    assert TextTokenizer(word_level()).cut([A, B, C], length) == right
    assert TextTokenizer(word_level(), "left").cut([A, B, C], length) == left


def test_tokens_are_put_between_special_ones_and_cut_to_a_length_with_them(tokenizer: TextTokenizer) -> None:
    assert tokenizer.with_special_tokens([A, B, C], 8) == [CLS, A, B, C, SEP]
    assert tokenizer.with_special_tokens([A, B, C], 4) == [CLS, A, B, SEP]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("$A [SEP]", [A, SEP]),
        ("[CLS] $A", [CLS, A]),
        ("$A", [A]),
        ("[CLS] [CLS] $A [SEP] [CLS]", [CLS, CLS, A, SEP, CLS]),
    ],
)
def test_special_tokens_are_put_on_the_side_that_the_template_says(template: str, expected: list[int]) -> None:
    backend = word_level()
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer = TextTokenizer(backend)
    assert (
        tokenizer.with_special_tokens([A], 8)
        == expected
        == tokenizer.encode([TextBatch(["a"], 8)])[0][INPUT_IDS][0].tolist()
    )


def test_special_tokens_are_told_from_what_a_tokenizer_puts_before_every_text() -> None:
    backend = word_level()
    backend.normalizer = normalizers.Prepend("b ")
    assert TextTokenizer(backend).with_special_tokens([C], 8) == [CLS, C, SEP]


def tagged(**behaviour: bool) -> TextTokenizer:
    """Return a tokenizer to which `[SEP]` was added, and which matches it so."""
    backend = word_level()
    backend.add_special_tokens([AddedToken("[SEP]", **{"normalized": False, **behaviour})])
    return TextTokenizer(backend)


def test_a_text_is_split_before_its_last_added_token() -> None:
    # place 8 is where the second `[SEP]` begins
    assert tagged().shared_head("a[SEP]b [SEP]c d") == (8, [A, SEP, B])


def test_an_added_token_that_a_text_begins_with_is_a_place_without_tokens_before_it() -> None:
    assert tagged().shared_head("[SEP]a") == (0, [])


def test_an_added_token_may_be_all_that_follows_the_place() -> None:
    assert tagged().shared_head("a [SEP]") == (2, [A])


def test_a_text_without_an_added_token_is_not_split() -> None:
    assert tagged().shared_head("a b") == (0, [])
    assert tagged().shared_head("") == (0, [])


def test_a_word_of_the_vocabulary_alone_is_no_added_token(tokenizer: TextTokenizer) -> None:
    assert tokenizer.shared_head("a [SEP] b") == (0, [])


def test_a_text_is_split_however_long_it_is() -> None:
    tokenizer = tagged()
    tokenizer.encode([TextBatch(["a"], 2)])
    assert tokenizer.shared_head("a b c d [SEP]") == (8, [A, B, C, D])


@pytest.mark.parametrize("behaviour", [{"normalized": True}, {"lstrip": True}, {"single_word": True}])
def test_an_added_token_that_depends_on_what_stands_before_it_splits_nothing(behaviour: dict[str, bool]) -> None:
    assert tagged(**behaviour).shared_head("a [SEP] b") == (0, [])


def test_an_added_token_that_took_the_space_behind_it_splits_nothing() -> None:
    assert tagged(rstrip=True).shared_head("a [SEP] b") == (0, [])


@pytest.mark.parametrize(("clean_up", "expected"), [(True, "a."), (False, "a .")])
def test_a_word_piece_checkpoint_says_whether_its_texts_are_cleaned_up(
    tmp_path: Path, clean_up: bool, expected: str
) -> None:
    folder = make_bert(tmp_path / "tiny")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": clean_up})
    tokenizer = TextTokenizer.from_checkpoint(str(folder), None, False)
    tokenizer._backend.decoder = None  # which joins tokens with a space each
    assert tokenizer.texts_of(tokenizer.bare_ids(["a."])) == [expected]


def test_a_byte_pair_checkpoint_is_not_cleaned_up_whatever_it_says(tmp_path: Path) -> None:
    folder = make_decoder(tmp_path / "tiny", "mistral")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": True})
    tokenizer = TextTokenizer.from_checkpoint(str(folder), None, False)
    assert tokenizer.texts_of(tokenizer.bare_ids(["a . do n't"])) == ["a . do n't"]


def test_a_decoders_added_tokens_have_the_ids_behind_all_others(tmp_path: Path) -> None:
    folder = make_decoder(tmp_path / "tiny", "mistral", added=["<instruct>", "<query>"])
    first, second = TextTokenizer.from_checkpoint(str(folder), None, False).bare_ids(["<instruct><query>"])[0]
    assert (second, second + 1) == (first + 1, json.loads((folder / "config.json").read_text())["vocab_size"])
