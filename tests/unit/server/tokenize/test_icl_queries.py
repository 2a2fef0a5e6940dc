# SPDX-License-Identifier: Apache-2.0
"""`tokenize.icl_queries`: queries between prefix and suffix, with a vocabulary whose ids can be read off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from flagtriton.protocol.tensors import INPUT_IDS, TOKEN_COUNT
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.icl_queries import QueryBatch, encode_queries
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer

BOS, EOS, RESPONSE, A, B, C, D = 1, 2, 3, 4, 5, 6, 7
VOCABULARY = {"[UNK]": 0, "<s>": BOS, "</s>": EOS, "<response>": RESPONSE, "a": A, "b": B, "c": C, "d": D}


def word_level() -> Tokenizer:
    """Return a tokenizer of words between spaces; `<s>`, `</s>` and `<response>` are tokens wherever they stand."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>", "<response>"])
    return tokenizer


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return TextTokenizer(word_level())


def batch(*texts: str, **changes: Any) -> QueryBatch:
    """Return queries behind two tokens and before one, cut at 8 tokens: `<s>`, five of their own, suffix, `</s>`."""
    return QueryBatch(
        **{"texts": list(texts), "prefix": "d d ", "suffix": " <response>", "max_length": 8, "most": 64, **changes}
    )


def encoded(tokenizer: TextTokenizer, queries: QueryBatch) -> list[list[int]]:
    """Return the token ids of each query."""
    answer = encode_queries(tokenizer, queries)
    rows = zip(answer[INPUT_IDS].tolist(), answer[TOKEN_COUNT][:, 0].tolist(), strict=True)
    return [row[:count] for row, count in rows]


def test_a_query_stands_between_prefix_and_suffix_and_special_tokens(tokenizer: TextTokenizer) -> None:
    assert encoded(tokenizer, batch("a b")) == [[BOS, D, D, A, B, RESPONSE, EOS]]


def test_shorter_rows_are_filled_up_behind_their_end(tokenizer: TextTokenizer) -> None:
    answer = encode_queries(tokenizer, batch("a b", ""))
    assert answer[INPUT_IDS].tolist() == [[BOS, D, D, A, B, RESPONSE, EOS], [BOS, D, D, RESPONSE, EOS, -1, -1]]
    assert answer[TOKEN_COUNT].tolist() == [[7], [5]]


def test_a_query_may_stand_alone(tokenizer: TextTokenizer) -> None:
    assert encoded(tokenizer, batch("a b", prefix="", suffix="")) == [[BOS, A, B, EOS]]


def test_a_longer_query_is_cut_before_its_suffix_and_its_prefix_is_not_counted(tokenizer: TextTokenizer) -> None:
    # <s>, </s> and <response> leave two of five
    assert encoded(tokenizer, batch("a b c", max_length=5)) == [[BOS, D, D, A, B, RESPONSE, EOS]]


def test_a_longer_query_is_cut_where_the_checkpoint_cuts() -> None:
    tokenizer = TextTokenizer(word_level(), truncation_side="left")
    assert encoded(tokenizer, batch("a b c", max_length=5)) == [[BOS, D, D, B, C, RESPONSE, EOS]]


def test_a_query_may_be_cut_to_nothing(tokenizer: TextTokenizer) -> None:
    assert encoded(tokenizer, batch("a b c", max_length=3)) == [[BOS, D, D, RESPONSE, EOS]]


def test_room_is_left_for_the_texts_of_special_tokens_whatever_they_are_made_of() -> None:
    # a tokenizer without either makes `<s>` one unknown word, and one of the suffix's last word and `</s>`
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": A, "b": B}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rows = encoded(TextTokenizer(backend), batch("a b a b", prefix="", suffix=" b", max_length=4))
    assert rows == [[A, B, B]]


def test_special_tokens_within_a_query_stay_what_they_are(tokenizer: TextTokenizer) -> None:
    assert encoded(tokenizer, batch("a </s><response> b", prefix="", suffix="")) == [[BOS, A, EOS, RESPONSE, B, EOS]]


def test_a_cut_query_is_made_a_text_and_tokenised_again() -> None:
    # joined without spaces, what was "a b" is the one word "ab"
    backend = word_level()
    backend.decoder = decoders.Fuse()
    assert encoded(TextTokenizer(backend), batch("a b", prefix="", suffix="")) == [[BOS, 0, EOS]]


def test_the_checkpoints_clean_up_is_done_to_the_text() -> None:
    tokenizer = TextTokenizer(word_level(), clean_up=lambda text: text.replace("b", "c"))
    assert encoded(tokenizer, batch("a b", prefix="b ", suffix="")) == [[BOS, B, A, C, EOS]]


def growing(factor: int) -> Tokenizer:
    """Return a tokenizer whose "a" becomes several words when it is made a text again."""
    backend = word_level()
    backend.decoder = decoders.Sequence([decoders.Replace("a", "a " * factor), decoders.Fuse()])
    return backend


def test_a_query_that_grew_is_cut_once_more_with_its_suffix() -> None:
    # nine a's of eleven tokens become 36; (0 + 1 + 12 + 8) // 8 * 8 + 8 = 24, of which two are special tokens
    tokenizer = TextTokenizer(growing(4))
    queries = batch("a a a a a a a a a", prefix="", max_length=12)
    assert encoded(tokenizer, queries) == [[BOS, *[A] * 22, EOS]]


def test_the_prefix_makes_room_of_its_own_for_a_query_that_grew() -> None:
    # (3 + 1 + 12 + 8) // 8 * 8 + 8 = 32, so 30 beside the special tokens: the prefix and 27 a's
    tokenizer = TextTokenizer(growing(4))
    queries = batch("a a a a a a a a a", prefix="d d d ", max_length=12)
    assert encoded(tokenizer, queries) == [[BOS, *[D] * 3, *[A] * 27, EOS]]


def test_a_query_that_grew_is_cut_at_the_left_where_the_checkpoint_does() -> None:
    tokenizer = TextTokenizer(growing(4), truncation_side="left")
    queries = batch("a a a a a a a a a", prefix="d d d ", max_length=12)
    assert encoded(tokenizer, queries) == [[BOS, *[A] * 29, RESPONSE, EOS]]


@pytest.mark.parametrize("texts", [["a b c"], ["a", "a b c"]])
def test_a_longer_query_is_refused_where_cutting_is(tokenizer: TextTokenizer, texts: Sequence[str]) -> None:
    last = len(texts) - 1
    with pytest.raises(RequestError, match=f"^query {last} has more than 5 tokens and truncate=NONE; shorten it"):
        encode_queries(tokenizer, batch(*texts, max_length=5, refuse_longer=True))


def test_a_query_that_just_fits_is_not_refused(tokenizer: TextTokenizer) -> None:
    assert encoded(tokenizer, batch("a b", max_length=5, refuse_longer=True)) == [[BOS, D, D, A, B, RESPONSE, EOS]]


def test_a_query_that_grew_too_long_is_refused_where_cutting_is() -> None:
    queries = batch("a", "a a a a a a a a a", prefix="", max_length=12, refuse_longer=True)
    with pytest.raises(RequestError, match=r"^query 1 has more than 12 tokens and truncate=NONE"):
        encode_queries(TextTokenizer(growing(4)), queries)


def test_a_query_that_grew_into_its_room_is_not_refused() -> None:
    # 5 a's become 20, and with suffix and special tokens 23 of 24
    queries = batch("a a a a a", prefix="", max_length=12, refuse_longer=True)
    assert encoded(TextTokenizer(growing(4)), queries) == [[BOS, *[A] * 20, RESPONSE, EOS]]


def test_a_length_without_room_for_the_suffix_is_refused_with_both(tokenizer: TextTokenizer) -> None:
    # `<s>`, `<response>` and `</s>`
    with pytest.raises(RequestError, match=r"^max_length is 2, but the suffix and the special tokens are 3; send a gr"):
        encode_queries(tokenizer, batch("a", max_length=2))


@pytest.mark.parametrize("most", [8, 9])
def test_a_prefix_that_leaves_no_token_to_a_query_is_refused_with_both_lengths(
    tokenizer: TextTokenizer, most: int
) -> None:
    said = "the examples' prefix has 6 tokens, and the suffix and the special tokens are 3; this deployment takes"
    with pytest.raises(RequestError, match=f"{said} {most} in all: send fewer examples"):
        encode_queries(tokenizer, batch("a", prefix="d d d d d d ", most=most))


def test_a_query_is_cut_to_what_its_prefix_leaves(tokenizer: TextTokenizer) -> None:
    # 5 of the prefix, 3 of suffix and special tokens: 2 of 10 are left
    answer = encoded(tokenizer, batch("a a a", "a", prefix="d d d d d ", most=10))
    assert answer == [[BOS, *[D] * 5, A, A, RESPONSE, EOS], [BOS, *[D] * 5, A, RESPONSE, EOS]]


def test_a_query_longer_than_its_prefix_leaves_is_refused_where_cutting_is(tokenizer: TextTokenizer) -> None:
    queries = batch("a a", "a a a", prefix="d d d d d ", most=10, refuse_longer=True)
    with pytest.raises(RequestError, match=r"^query 1 has more than 5 tokens and truncate=NONE"):
        encode_queries(tokenizer, queries)


@pytest.mark.parametrize("most", [24, 23])
def test_a_query_that_grew_is_cut_to_what_the_deployment_takes(most: int) -> None:
    # 9 a's are 36, with suffix and special tokens 39: cut to 24 by FlagEmbedding's formula
    queries = batch("a a a a a a a a a", prefix="", max_length=12, most=most)
    assert encoded(TextTokenizer(growing(4)), queries) == [[BOS, *[A] * (most - 2), EOS]]


class Counting:
    """A tokenizer's Rust part, and how many characters it was given to tokenise."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend, self.characters = backend, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode(self, *texts: str, **options: Any) -> Any:
        self.characters += sum(map(len, texts))
        return self._backend.encode(*texts, **options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.characters += sum(map(len, texts))
        return self._backend.encode_batch_fast(texts, **options)


LONG_PREFIX = "d d d d d d d d d <response>" * 40  # 1,120 characters, 400 tokens


def characters_for(counting: Counting, tokenizer: TextTokenizer, queries: int) -> int:
    before = counting.characters
    encode_queries(tokenizer, batch(*"abcd" * (queries // 4), prefix=LONG_PREFIX, most=512))
    return counting.characters - before


def test_a_prefix_is_not_tokenised_once_a_query() -> None:
    counting = Counting(word_level())
    tokenizer = TextTokenizer(counting)  # type: ignore[arg-type]
    few, many = (characters_for(counting, tokenizer, queries) for queries in (8, 64))
    assert many < few + 56 * 60  # a query and its suffix are 12 characters, `<response>` before it as many


def test_a_lone_query_is_tokenised_once_with_its_prefix() -> None:
    counting = Counting(word_level())
    tokenizer = TextTokenizer(counting)  # type: ignore[arg-type]
    alone = batch("a", prefix="d " * 400, suffix="", most=512)  # 800 characters
    encode_queries(tokenizer, alone)  # which counts the prefix's tokens
    counting.characters = 0
    encode_queries(tokenizer, alone)
    assert counting.characters == 802  # the query alone, and behind its prefix


def test_a_prefix_that_comes_again_is_not_counted_again() -> None:
    counting = Counting(word_level())
    tokenizer = TextTokenizer(counting)  # type: ignore[arg-type]
    first, second = (characters_for(counting, tokenizer, 8) for _ in range(2))
    assert second <= first - len(LONG_PREFIX)


def test_queries_that_share_their_prefix_are_tokenised_as_each_alone_is(tokenizer: TextTokenizer) -> None:
    texts = ["a", "b c", "", "<response> a", "b b"]
    together = encoded(tokenizer, batch(*texts, prefix=LONG_PREFIX, most=512))
    assert together == [encoded(tokenizer, batch(text, prefix=LONG_PREFIX, most=512))[0] for text in texts]
