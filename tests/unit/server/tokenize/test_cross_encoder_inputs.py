# SPDX-License-Identifier: Apache-2.0
"""`tokenize.cross_encoder_inputs`: a pair's row of ids, by hand and against the Rust tokenizer's own pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.cross_encoder_inputs import RerankBatch, encode_pairs
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from tests.support.checkpoints.tiny import TEXTS, make_bert, make_xlm_roberta

A, B, C, BOS, EOS = range(5)


def words(truncation_side: str = "right") -> TextTokenizer:
    """Return a tokenizer of the words a, b and c that writes `<s> a </s> </s> b </s>` for a pair, as XLM-R does."""
    backend = Tokenizer(WordLevel({"a": A, "b": B, "c": C, "<s>": BOS, "</s>": EOS}, unk_token="c"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return TextTokenizer(backend, truncation_side)


def rows(
    tokenizer: TextTokenizer, *pairs: tuple[str, str], query: int = 9, pair: int = 12, refuse: bool = False
) -> list[list[int]]:
    found = _encoded(tokenizer, pairs, query, pair, refuse)
    return [[token for token in row if token >= 0] for row in found["input_ids"].tolist()]


def _encoded(tokenizer, pairs, query=9, pair=12, refuse=False):  # noqa: ANN001, ANN202 - as above
    queries, passages = zip(*pairs, strict=True)
    answer = encode_pairs(tokenizer, RerankBatch([*queries], [*passages], query, pair, refuse))
    return {spec.name: values for spec, values in answer.items()}


def test_a_pair_stands_between_the_tokenizers_marks() -> None:
    assert rows(words(), ("a b", "c")) == [[BOS, A, B, EOS, EOS, C, EOS]]


def test_where_the_passage_begins_and_how_long_the_row_is_come_with_it() -> None:
    found = _encoded(words(), [("a b", "c"), ("a", "b b")])
    assert found["passage_start"].tolist() == [[5], [4]]
    assert found["token_count"].tolist() == [[7], [7]]


def test_an_empty_passage_keeps_its_marks() -> None:
    assert rows(words(), ("a", ""), ("", "b"), ("", "")) == [
        [BOS, A, EOS, EOS, EOS],
        [BOS, EOS, EOS, B, EOS],
        [BOS, EOS, EOS, EOS],
    ]


def test_a_query_is_cut_to_its_own_length_and_a_passage_to_what_is_left() -> None:
    # 4 marks and 2 of the query leave 3 of 9
    assert rows(words(), ("a a a", "b b b b b"), query=2, pair=9) == [[BOS, A, A, EOS, EOS, B, B, B, EOS]]


def test_a_tokenizer_that_cuts_at_the_left_keeps_what_is_last() -> None:
    assert rows(words("left"), ("a b", "a b c"), query=1, pair=7) == [[BOS, B, EOS, EOS, B, C, EOS]]


@pytest.mark.parametrize("pair", [("a a a", "b"), ("a", "b b b b")])
def test_what_would_be_cut_is_refused_where_cutting_is(pair: tuple[str, str]) -> None:
    with pytest.raises(RequestError, match=r"^pair 1 has \d and \d tokens and 4 special ones, more than"):
        rows(words(), ("a", "b"), pair, query=2, pair=8, refuse=True)


def test_what_just_fits_is_not_refused() -> None:
    assert rows(words(), ("a a", "b b"), query=2, pair=8, refuse=True) == [[BOS, A, A, EOS, EOS, B, B, EOS]]


def test_a_query_that_leaves_its_passage_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^query 0 has 8 tokens, which with 4 special ones leave its passage none"):
        rows(words(), ("a " * 8, "b"))


@pytest.mark.parametrize("make", [make_bert, make_xlm_roberta])
@pytest.mark.parametrize("max_length", [50, 512])
def test_ids_and_types_are_the_rust_tokenizers_own(make, max_length: int, tmp_path: Path) -> None:  # noqa: ANN001
    tokenizer = TextTokenizer.from_checkpoint(str(make(tmp_path / "checkpoint")), None, False)
    pairs = [(query, passage) for query in TEXTS if len(query) < 40 for passage in [*TEXTS, " ".join(TEXTS)]]
    found = _encoded(tokenizer, pairs, max_length, max_length)
    backend = tokenizer._backend
    backend.enable_truncation(max_length, strategy="only_second")
    for row, (start,), (query, passage) in zip(found["input_ids"], found["passage_start"], pairs, strict=True):
        own = backend.encode(query, passage)
        assert [token for token in row.tolist() if token >= 0] == own.ids
        if make is make_bert:
            assert [int(place >= start) for place in range(len(own.ids))] == own.type_ids
