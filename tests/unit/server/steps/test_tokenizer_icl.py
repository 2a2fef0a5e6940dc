# SPDX-License-Identifier: Apache-2.0
"""The tokenizer step of a model that learns in context: queries behind examples, beside texts that go as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flagtriton.protocol.settings import TokenizerSettings
from flagtriton_server.tokenize.text_tokenizer import TextTokenizer
from tests.support.checkpoints.tiny import make_decoder
from tests.support.steps.fake_backend import Request, Response, answered, imported_steps, responses_of, started

QUERY = {"input_type": "query"}
MAX_LENGTH = 96


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tags = ["<instruct>", "<query>", "<response>"]
    return make_decoder(tmp_path_factory.mktemp("checkpoints") / "tiny", "mistral", added=tags)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "tokenizer") as modules:
        yield modules


def settings(checkpoint: Path, **changes: Any) -> TokenizerSettings:
    known = {"model_class": "decoder-only-icl", "query_instruction_format": "<instruct>{}\n<query>{}", **changes}
    return TokenizerSettings(str(checkpoint), MAX_LENGTH, **known)


@pytest.fixture
def tokenizer(steps: SimpleNamespace, checkpoint: Path) -> Any:
    return started(steps.tokenizer, settings(checkpoint))


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> TextTokenizer:
    return TextTokenizer.from_checkpoint(str(checkpoint), None, False)


def asked(*texts: str, **options: Any) -> Request:
    return Request({"text": np.array([[text.encode()] for text in texts], dtype=object)}, json.dumps(options))


def tokens(answer: dict[str, Any]) -> list[list[int]]:
    return [row[row >= 0].tolist() for row in answer["input_ids"]]


def answer_of(response: Response) -> Any:
    return str(response.error) if response.error else {name: value.tolist() for name, value in response.tensors.items()}


def test_a_query_goes_between_prefix_and_suffix(tokenizer: Any, plain: TextTokenizer) -> None:
    (answer,) = answered(tokenizer, asked("fox", "dog", **QUERY, prefix="<instruct>p\n\n", suffix="!"))
    expected = plain.bare_ids(["<s><instruct>p\n\nfox!</s>", "<s><instruct>p\n\ndog!</s>"])
    assert tokens(answer) == expected
    assert answer["token_count"][:, 0].tolist() == [len(row) for row in expected]


def test_a_query_has_flagembeddings_suffix_and_no_examples_unless_told(tokenizer: Any, plain: TextTokenizer) -> None:
    (answer,) = answered(tokenizer, asked("fox", **QUERY))
    assert tokens(answer) == plain.bare_ids(["<s>fox\n<response></s>"])


@pytest.mark.parametrize("options", [{}, {"input_type": "passage"}])
def test_other_texts_go_as_they_are(tokenizer: Any, plain: TextTokenizer, options: dict[str, str]) -> None:
    (answer,) = answered(tokenizer, asked("fox", **options))
    assert tokens(answer) == plain.bare_ids(["<s>fox</s>"])


@pytest.mark.parametrize("model_class", ["decoder-only-base", "encoder-only-base"])
def test_queries_of_another_class_go_as_they_are(
    steps: SimpleNamespace, checkpoint: Path, plain: TextTokenizer, model_class: str
) -> None:
    (answer,) = answered(started(steps.tokenizer, settings(checkpoint, model_class=model_class)), asked("fox", **QUERY))
    assert tokens(answer) == plain.bare_ids(["<s>fox</s>"])


def test_examples_are_the_prefix_that_they_make(tokenizer: Any) -> None:
    examples = [{"instruct": "i", "query": "q", "response": "r"}, {"query": "p"}]
    prefix = "<instruct>i\n<query>q\n<response>r\n\n<instruct>None\n<query>p\n<response>\n\n"
    by_examples, by_prefix = answered(
        tokenizer, asked("fox", **QUERY, examples=json.dumps(examples)), asked("fox", **QUERY, prefix=prefix)
    )
    assert tokens(by_examples) == tokens(by_prefix)


def test_examples_are_written_out_in_the_requests_format(tokenizer: Any) -> None:
    examples = json.dumps([{"instruct": "i", "query": "q", "response": "r"}])
    options = {"examples": examples, "examples_instruction_format": "{}+{}={}"}
    by_examples, by_prefix = answered(
        tokenizer, asked("fox", **QUERY, **options), asked("fox", **QUERY, prefix="i+q=r\n\n")
    )
    assert tokens(by_examples) == tokens(by_prefix)


def test_a_query_has_the_deployments_instruction_behind_the_prefix(
    steps: SimpleNamespace, checkpoint: Path, plain: TextTokenizer
) -> None:
    model = started(steps.tokenizer, settings(checkpoint, query_instruction="find"))
    by_deployment, by_request = answered(
        model,
        asked("fox", **QUERY, prefix="p "),
        asked("fox", **QUERY, instruction="seek", instruction_format="{}: {}"),
    )
    assert tokens(by_deployment) == plain.bare_ids(["<s>p <instruct>find\n<query>fox\n<response></s>"])
    assert tokens(by_request) == plain.bare_ids(["<s>seek: fox\n<response></s>"])


def test_the_requests_length_is_the_querys_without_its_prefix(tokenizer: Any, plain: TextTokenizer) -> None:
    # <s>, </s> and the one token of the suffix leave two
    (answer,) = answered(tokenizer, asked("abcd", **QUERY, max_length=5, prefix="1234567890", suffix="<response>"))
    kept = plain.texts_of([plain.bare_ids(["abcd"])[0][:2]])[0]
    assert tokens(answer) == plain.bare_ids([f"<s>1234567890{kept}<response></s>"])


def test_a_query_without_a_length_has_the_deployments(tokenizer: Any, plain: TextTokenizer) -> None:
    (answer,) = answered(tokenizer, asked("~" * 200, **QUERY, suffix=""))
    assert tokens(answer) == [[*plain.bare_ids(["<s>" + "~" * 94])[0], plain.bare_ids(["</s>"])[0][0]]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truncate": "NONE", "max_length": 6}, "query 0 has more than 6 tokens and truncate=NONE"),
        ({"max_length": 2}, "max_length is 2, but the suffix and the special tokens are"),
        ({"prefix": "~" * 96}, "the examples' prefix has 96 tokens"),
        ({"prefix": "~" * 80, "truncate": "NONE"}, "query 0 has more than 16 tokens and truncate=NONE"),
        ({"examples": "{}"}, "option 'examples' is no JSON list of objects"),
        ({"examples_instruction_format": "{}"}, "which leaves the query out"),
        ({"domain": "d"}, "unknown option 'domain'"),
    ],
)
def test_a_request_that_is_refused_fails_alone(tokenizer: Any, options: dict[str, Any], said: str) -> None:
    refused, answer = responses_of(tokenizer, asked("~" * 30, **QUERY, **options), asked("fox", **QUERY))
    assert said in str(refused.error)
    assert answer.error is None


def test_queries_and_texts_of_one_batch_are_answered_in_their_order(tokenizer: Any) -> None:
    requests = [
        asked("fox", **QUERY, prefix="p "),
        asked("lazy dog"),
        asked("fox", **QUERY, max_length=1),
        asked("fox", "dog", **QUERY),
        asked("quick fox", max_length=4),
    ]
    together = [answer_of(response) for response in responses_of(tokenizer, *requests)]
    assert together == [answer_of(responses_of(tokenizer, request)[0]) for request in requests]
