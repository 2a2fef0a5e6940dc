# SPDX-License-Identifier: Apache-2.0
"""`tokenize.llm_reranker_inputs`: what an LLM reranker reads, by hand and built again with transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import AutoTokenizer

from flagtriton.protocol.model_classes import model_class_row
from flagtriton_server.errors import RequestError
from flagtriton_server.tokenize.llm_reranker_inputs import PromptedBatch, encode_prompted_pairs, first_ids
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from tests.support.checkpoints.layerwise import make_layerwise, make_lightweight
from tests.support.checkpoints.tiny import TEXTS, make_decoder

LLM, LAYERWISE, LIGHTWEIGHT = "decoder-only-base", "decoder-only-layerwise", "decoder-only-lightweight"
A, B, C, BREAK, BOS, ASK = range(6)
MANY = 1000


def words(truncation_side: str = "right", breaks: int = 1, bos: int | None = BOS, pad: int | None = C) -> TextTokenizer:
    """Return a tokenizer of the words a, b, c and "ask" that makes so many tokens of a line break."""
    vocabulary = {"a": A, "b": B, "c": C, "\n": BREAK, "<s>": BOS, "ask": ASK}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="c"))
    backend.pre_tokenizer = Split(" ", "removed")
    backend.normalizer = normalizers.Replace("\n", " ".join("\n" * breaks))
    return TextTokenizer(backend, truncation_side, bos_id=bos, pad_id=pad)


def batch(*pairs: tuple[str, str], query: int = 9, length: int = 12, **more: Any) -> PromptedBatch:
    queries, passages = zip(*pairs, strict=True)
    return PromptedBatch([*queries], [*passages], query, length, **{"first": (BOS,), "most": MANY, **more})


def encoded(tokenizer: TextTokenizer, of: PromptedBatch) -> dict[str, NDArray[np.int32]]:
    return {tensor.name: values for tensor, values in encode_prompted_pairs(tokenizer, of).items()}


def own(row: NDArray[np.int32]) -> list[int]:
    return row[row >= 0].tolist()


def rows(tokenizer: TextTokenizer, of: PromptedBatch) -> list[list[int]]:
    return [own(row) for row in encoded(tokenizer, of)["input_ids"]]


def test_a_row_is_the_query_the_passage_and_the_prompt_with_breaks_between() -> None:
    found = rows(words(), batch(("a b", "b c c"), ("c", "a"), prompt="ask a"))
    assert found == [[BOS, A, B, BREAK, B, C, C, BREAK, ASK, A], [BOS, C, BREAK, A, BREAK, ASK, A]]


def test_a_break_of_two_tokens_stands_twice_whole() -> None:
    found = rows(words(breaks=2), batch(("a", "b"), prompt="ask"))
    assert found == [[BOS, A, BREAK, BREAK, B, BREAK, BREAK, ASK]]


def test_without_a_first_token_a_row_begins_with_its_query() -> None:
    assert rows(words(), batch(("a", "b"), prompt="ask", first=())) == [[A, BREAK, B, BREAK, ASK]]


def test_an_empty_prompt_leaves_the_break_before_it() -> None:
    assert rows(words(), batch(("a", "b"), prompt="")) == [[BOS, A, BREAK, B, BREAK]]


def test_empty_texts_leave_their_breaks() -> None:
    found = rows(words(), batch(("", "b"), ("a", ""), ("", ""), prompt="ask"))
    assert found == [[BOS, BREAK, B, BREAK, ASK], [BOS, A, BREAK, BREAK, ASK], [BOS, BREAK, BREAK, ASK]]


def test_where_the_passage_begins_and_ends_comes_with_each_row() -> None:
    found = encoded(words(breaks=2), batch(("a b", "b c c"), ("a", ""), ("", "a"), prompt="ask"))
    assert found["passage_start"].tolist() == [[5], [4], [3]]
    assert found["passage_end"].tolist() == [[8], [4], [4]]
    assert found["token_count"].tolist() == [[11], [7], [7]]
    assert {str(values.dtype) for values in found.values()} == {"int32"}


def test_a_query_and_a_passage_are_cut_to_their_own_lengths() -> None:
    found = encoded(words(), batch(("a a a", "b b b b b b"), query=2, length=4, prompt="ask " * 4))
    assert own(found["input_ids"][0]) == [BOS, A, A, BREAK, B, B, B, B, BREAK, *[ASK] * 4]
    assert (found["passage_start"].item(), found["passage_end"].item()) == (4, 8)


def test_both_together_are_cut_to_the_length_and_that_of_what_stands_behind() -> None:
    # a length of 4 and the 2 behind are 6: <s>, three of the query, the break, and one of the passage
    found = rows(words(), batch(("a a a", "b b b b"), query=3, length=4, prompt="ask"))
    assert found == [[BOS, A, A, A, BREAK, B, BREAK, ASK]]


def test_a_longer_prompt_makes_more_room_for_the_passage() -> None:
    found = rows(words(), batch(("a a a", "b b b b"), query=3, length=4, prompt="ask ask ask"))
    assert found == [[BOS, A, A, A, BREAK, B, B, B, BREAK, ASK, ASK, ASK]]


def test_a_whole_row_has_no_more_tokens_than_the_model_has_positions() -> None:
    of = batch(("a a", "b b b b b b"), prompt="ask", most=9)
    found = encoded(words(), of)
    assert own(found["input_ids"][0]) == [BOS, A, A, BREAK, B, B, B, BREAK, ASK]
    assert found["passage_end"].item() == 7


def test_a_tokenizer_that_cuts_at_the_left_keeps_what_is_last() -> None:
    found = rows(words("left"), batch(("a b", "a b c"), query=1, length=2, prompt="ask ask"))
    assert found == [[BOS, B, BREAK, B, C, BREAK, ASK, ASK]]


@pytest.mark.parametrize(("query", "taken"), [("a a a a", 6), ("a a a a a", 7)])
def test_a_query_that_leaves_its_passage_no_room_is_refused(query: str, taken: int) -> None:
    # 4 and the 2 behind are 6, and <s>, the query and the break are as many or more
    said = rf"^query 1 takes {taken} tokens, which with 2 of the prompt leave its passage none of 8; send a smaller "
    with pytest.raises(RequestError, match=said):
        rows(words(), batch(("a", "b"), (query, "b"), length=4, prompt="ask"))


def test_a_query_that_takes_all_room_is_read_with_an_empty_passage() -> None:
    assert rows(words(), batch(("a a a a", ""), length=4, prompt="ask")) == [[BOS, A, A, A, A, BREAK, BREAK, ASK]]
    with pytest.raises(RequestError, match=r"^query 0 takes 7 tokens"):
        rows(words(), batch(("a a a a a", ""), length=4, prompt="ask"))


def test_a_prompt_that_takes_all_positions_is_refused() -> None:
    said = r"^query 0 takes 3 tokens, which with 8 of the prompt leave its passage none of 11; .* or a shorter prompt$"
    with pytest.raises(RequestError, match=said):
        rows(words(), batch(("a", "b"), prompt="ask " * 7, most=11))
    assert rows(words(), batch(("a", "b"), prompt="ask " * 7, most=12)) == [[BOS, A, BREAK, B, BREAK, *[ASK] * 7]]


@pytest.mark.parametrize(
    ("pair", "counts"),
    [(("a a a", "b"), "3 and 1"), (("a", "b b b b b"), "1 and 5"), (("a a", "b b b b"), "2 and 4")],
    ids=["query", "passage", "together"],
)
def test_what_would_be_cut_is_refused_where_cutting_is(pair: tuple[str, str], counts: str) -> None:
    # the last would fit but for the positions, of which the 4 behind leave 7
    of = batch(("a", "b"), pair, query=2, length=4, prompt="ask " * 3, most=11, refuse_longer=True)
    said = rf"^pair 1 has {counts} tokens, more than the 2 and [34] that query_max_length, max_length and the"
    with pytest.raises(RequestError, match=said):
        rows(words(), of)


def test_what_just_fits_is_not_refused() -> None:
    of = batch(("a a", "b b b b"), query=2, length=4, prompt="ask " * 3, most=12, refuse_longer=True)
    assert rows(words(), of) == [[BOS, A, A, BREAK, B, B, B, B, BREAK, ASK, ASK, ASK]]


def test_a_query_that_repeats_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = words()
    pairs = [("a b", "c"), ("b", "c"), ("a b", "a"), ("a b", "")]
    expected = [rows(tokenizer, batch(pair, prompt="ask"))[0] for pair in pairs]
    seen: list[str] = []
    bare_ids = tokenizer.bare_ids

    def spy(texts: list[str], *limits: Any) -> list[list[int]]:
        seen.extend(texts)
        return bare_ids(texts, *limits)

    monkeypatch.setattr(tokenizer, "bare_ids", spy)
    assert rows(tokenizer, batch(*pairs, prompt="ask")) == expected
    assert (seen.count("a b"), seen.count("b"), seen.count("ask")) == (1, 1, 1)


@pytest.mark.parametrize(
    ("bos", "pad", "first"), [(BOS, C, (BOS,)), (BOS, None, (BOS,)), (None, C, ()), (BOS, BOS, ())]
)
def test_an_llm_begins_with_its_first_token_unless_that_is_the_padding(
    bos: int | None, pad: int | None, first: tuple[int, ...]
) -> None:
    assert first_ids(words(bos=bos, pad=pad), LLM, "mine") == first


@pytest.mark.parametrize("model_class", [LAYERWISE, LIGHTWEIGHT])
def test_a_layered_class_always_begins_with_its_first_token(model_class: str) -> None:
    assert first_ids(words(), model_class, "mine") == first_ids(words(pad=BOS), model_class, "mine") == (BOS,)
    said = f"^the tokenizer of mine has no beginning-of-text token, which {model_class} needs$"
    with pytest.raises(ValueError, match=said):
        first_ids(words(bos=None), model_class, "mine")


def test_a_first_token_with_the_id_zero_is_one() -> None:
    assert first_ids(words(bos=0), LLM, "mine") == first_ids(words(bos=0), LAYERWISE, "mine") == (0,)


def test_each_class_is_asked_what_it_was_trained_to_be() -> None:
    yes_or_no = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
        "a prediction of either 'Yes' or 'No'."
    )
    predict = "Predict whether passage B contains an answer to query A."
    expected = {LLM: yes_or_no, LAYERWISE: yes_or_no, LIGHTWEIGHT: predict}
    assert {name: model_class_row("rerank", name).prompt for name in expected} == expected


MAKERS: dict[str, Callable[[Path], Path]] = {
    LLM: lambda folder: make_decoder(folder, "gemma"),
    LAYERWISE: make_layerwise,
    LIGHTWEIGHT: make_lightweight,
}
PAIRS = [(query, passage) for query in [*TEXTS, " ".join(TEXTS)] for passage in [*TEXTS, " ".join(TEXTS)]]


@pytest.fixture(scope="module", params=MAKERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, MAKERS[request.param](tmp_path_factory.mktemp("checkpoints") / "tiny")


def built_again(
    tokenizer: Any, pair: tuple[str, str], query_max_length: int, max_length: int, prompt: str
) -> list[int]:
    """Return a row as docs/reference-behaviour.md#llm-reranker-pairs has it, step by step."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    query, passage = ids(pair[0])[:query_max_length], ids(pair[1])[:max_length]
    separator, question = ids("\n"), ids(prompt)
    first, second = [tokenizer.bos_token_id, *query], [*separator, *passage]
    excess = len(first) + len(second) - (max_length + len(separator) + len(question))
    if excess > 0:
        assert len(second) > excess
        second = second[:-excess]
    return [*first, *second, *separator, *question]


@pytest.mark.parametrize(("query", "length"), [(384, 512), (6, 8), (18, 24), (40, 24)])
def test_rows_are_those_that_transformers_tokenizer_makes(
    checkpoint: tuple[str, Path], query: int, length: int
) -> None:
    model_class, folder = checkpoint
    theirs, tokenizer = AutoTokenizer.from_pretrained(folder), TextTokenizer.from_checkpoint(str(folder), None, False)
    prompt, first = model_class_row("rerank", model_class).prompt or "", first_ids(tokenizer, model_class, str(folder))
    pairs = [(f"A: {q}", f"B: {p}") for q, p in PAIRS]
    found = rows(tokenizer, batch(*pairs, query=query, length=length, prompt=prompt, first=first, most=2048))
    assert found == [built_again(theirs, pair, query, length, prompt) for pair in pairs]


def test_the_checkpoints_line_breaks_are_of_one_token_and_of_two(tmp_path: Path) -> None:
    breaks = [
        TextTokenizer.from_checkpoint(str(make(tmp_path / name)), None, False).bare_ids(["\n"])[0]
        for name, make in MAKERS.items()
    ]
    assert [len(of) for of in breaks] == [1, 2, 1]
