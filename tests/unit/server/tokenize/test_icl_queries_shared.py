# SPDX-License-Identifier: Apache-2.0
"""`tokenize.icl_queries`: what queries begin with is tokenised once, by SentencePiece's kind of tokenizer, too.

Such tokenizers put a space before a text, or before each piece of it, so that where a text is cut might matter.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from flagtriton_server.tokenize.icl_queries import _prompt_ids
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from tests.support.checkpoints.tiny import TEXTS

TAGS = ["<instruct>", "<query>", "<response>"]
PREFIX = "<instruct>find a text\n<query> what?\n<response>the point\n\n"
QUERIES = ["quick", "  quick", "", " ", "quick fox", "<query>fox", "</s>", "的向量", "🙂", "e", "\n", "ﬁ e\u0301"]


def trained(tokenizer: Tokenizer) -> Tokenizer:
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, PREFIX], trainer)
    tokenizer.add_special_tokens(TAGS)
    return tokenizer


def metaspace(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return trained(tokenizer)


def prepend() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Replace("▁", " ")
    return trained(tokenizer)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return trained(tokenizer)


def greedy_tags() -> Tokenizer:
    """Return a tokenizer whose tags take the spaces around them, or stand between words alone."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens(
        [
            AddedToken("<instruct>", lstrip=True, normalized=False),
            AddedToken("<query>", rstrip=True, normalized=False),
            AddedToken("<response>", single_word=True, normalized=False),
        ]
    )
    return trained(tokenizer)


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "metaspace-first": lambda: metaspace("first"),
    "metaspace-always": lambda: metaspace("always"),
    "metaspace-never": lambda: metaspace("never"),
    "prepend": prepend,
    "byte-level": byte_level,
    "greedy-tags": greedy_tags,
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return TextTokenizer(MAKERS[request.param]())


def whole(tokenizer: TextTokenizer, prompts: list[str]) -> list[list[int]]:
    """Return each prompt's tokens, one call each."""
    return [tokenizer.bare_ids([prompt])[0] for prompt in prompts]


@pytest.mark.parametrize("prefix", [PREFIX, PREFIX * 3, f" {PREFIX}", "no tag ", "", "ends in <query>", "</s>"])
def test_queries_behind_one_prefix_are_tokenised_as_each_whole_prompt_is(tokenizer: TextTokenizer, prefix: str) -> None:
    prompts = [f"{prefix}{query}\n<response>" for query in QUERIES]
    assert _prompt_ids(tokenizer, prompts) == whole(tokenizer, prompts)


def test_any_texts_are_tokenised_as_each_whole_one_is(tokenizer: TextTokenizer) -> None:
    chance = random.Random(20)
    pieces = [*TAGS, *QUERIES, *TEXTS, "<s>", "</s>", "<instruct", "x<query>", "\n\n", " "]
    for _ in range(200):
        head = "".join(chance.choices(pieces, k=chance.randrange(8)))
        prompts = [head + "".join(chance.choices(pieces, k=chance.randrange(4))) for _ in range(3)]
        assert _prompt_ids(tokenizer, prompts) == whole(tokenizer, prompts)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "greedy-tags"])
def test_tags_in_what_all_begin_with_are_where_it_is_cut(name: str) -> None:
    place, shared = TextTokenizer(MAKERS[name]()).shared_head(PREFIX)
    assert PREFIX[place:] == "<response>the point\n\n"
    assert shared


def test_a_tag_that_only_one_prompt_ends_is_no_place_to_cut(tokenizer: TextTokenizer) -> None:
    # ">" is less than "}", so that the prompts' order cannot help
    prompts = ["fox<query>", "fox<query}"]
    assert _prompt_ids(tokenizer, prompts) == whole(tokenizer, prompts)


def test_a_tag_that_some_prompts_begin_with_is_no_place_to_cut(tokenizer: TextTokenizer) -> None:
    prompts = ["fox<query>a", "dog", "fox<query>b"]
    assert _prompt_ids(tokenizer, prompts) == whole(tokenizer, prompts)


def test_a_prompt_alone_is_tokenised_whole(tokenizer: TextTokenizer) -> None:
    assert _prompt_ids(tokenizer, [PREFIX]) == whole(tokenizer, [PREFIX])


def test_prompts_that_are_one_text_are_tokenised_as_it_is(tokenizer: TextTokenizer) -> None:
    assert _prompt_ids(tokenizer, [PREFIX] * 3) == whole(tokenizer, [PREFIX] * 3)
