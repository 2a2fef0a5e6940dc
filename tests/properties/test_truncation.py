# SPDX-License-Identifier: Apache-2.0
"""Properties of `text_cutting` and `token_boundaries`, over tokenizers of all kinds: no id ever differs."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from flagtriton.protocol.tensors import INPUT_IDS
from flagtriton_server.tokenize import truncation
from flagtriton_server.tokenize.text_tokenizer import TextBatch, TextTokenizer
from flagtriton_server.tokenize.token_boundaries import boundary_rule
from tests.support.checkpoints.tokenizer_kinds import ALL, KINDS

EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
WORDS = st.sampled_from(
    ["a", "b", "fox", "the", "lazy dog", "over", "Cat", "12", "1234", "it's", "x" * 15, "é", "İ", "ﬁ", "Ａ", "Σς", "ß"]
)
SCRIPTS = st.sampled_from(
    ["人", "人工", "今天天气很好", "。", "，", "か", "한", "國", "สวัสดี", "ไทย", "เ", "ำ", "क", "हिन्दी", "мир", "سلام"]
)
SPACES = st.sampled_from([" ", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "▁", "▁▁"])
MARKS = st.sampled_from(
    ["\u0301", "\u0308", "\u3099", "\u11a8", "\u094d", "\u093c", "\u200d", "👍🏽", "\x00", " \u0301", "\u0600"]
)
SIGNS = st.sampled_from(
    [".", ",", "'", "'s", "’", "-", "_", "①", "<left>", "<right>", "<mask2>", "<h1>", "<s>", "[SEP]"]
)
TEXT = st.lists(WORDS | SPACES | SPACES | SCRIPTS | MARKS | SIGNS | st.characters(), min_size=3, max_size=20).map(
    "".join
)


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let windows be so small that texts of a few words are cut, and grow."""
    monkeypatch.setattr(truncation, "_CHARACTERS_OF_A_TOKEN", 1)
    monkeypatch.setattr(truncation, "_LEAST_WINDOW", 2)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_is_cut_to_the_tokens_of_all_of_it(narrow: None, kind: str, side: str) -> None:
    tokenizer = TextTokenizer(ALL[kind](), side)

    @EXAMPLES
    @given(TEXT, st.integers(0, 12))
    def holds(text: str, at_most: int) -> None:
        (whole,) = tokenizer.bare_ids([text])
        (some,) = tokenizer.bare_ids([text], at_most)
        assert tokenizer.cut(some, at_most) == tokenizer.cut(whole, at_most)
        assert (len(some) > at_most) == (len(whole) > at_most)

    holds()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_request_gets_what_the_library_makes_of_its_texts(narrow: None, kind: str, side: str) -> None:
    library = ALL[kind]()
    tokenizer = TextTokenizer(Tokenizer.from_str(library.to_str()), side)

    @EXAMPLES
    @given(st.lists(TEXT, min_size=1, max_size=3), st.integers(2, 12))
    def holds(texts: list[str], max_length: int) -> None:
        library.enable_truncation(max_length, direction=side)
        expected = library.encode_batch(texts)
        before = tokenizer.truncated_count
        (answer,) = tokenizer.encode([TextBatch(texts, max_length)])
        rows = [[token for token in row if token >= 0] for row in answer[INPUT_IDS].tolist()]  # type: ignore[index]
        assert rows == [encoding.ids for encoding in expected]
        assert tokenizer.truncated_count - before == sum(bool(encoding.overflowing) for encoding in expected)

    holds()


def test_the_tokens_of_both_parts_of_a_text_are_those_of_the_whole(kind: str) -> None:
    backend = ALL[kind]()
    rule = boundary_rule(backend)
    assert rule is not None

    def ids(text: str) -> list[int]:
        return backend.encode(text, add_special_tokens=False).ids

    @EXAMPLES
    @given(TEXT)
    def holds(text: str) -> None:
        whole = ids(text)
        for place in range(1, len(text) - 1):
            if not rule.holds(text, place):
                continue
            head = ids(text[:place])
            assert whole[: len(head)] == head
            if rule.holds(text, place, for_rest=True):
                assert head + ids(text[place - 1 :])[len(ids(text[place - 1])) :] == whole

    holds()


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("bytes without regex", "unigram unsplit")])
def test_an_ordinary_text_can_be_cut_before_each_of_its_words(name: str) -> None:
    # those two have pieces that run across words, or may have learned some
    rule = boundary_rule(KINDS[name]())
    text = "the quick brown fox jumps over the lazy dog"
    assert rule is not None
    places = [place for place in range(1, len(text) - 1) if rule.holds(text, place)]
    assert {index for index, character in enumerate(text) if character == " "} <= set(places)
