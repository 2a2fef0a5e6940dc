# SPDX-License-Identifier: Apache-2.0
"""The tokenizer step with a stand-in for Triton's own module: texts, pairs of them and token ids in one batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flagtriton.protocol.runtime_files import flag_path
from flagtriton.protocol.settings import TokenizerSettings
from flagtriton_server.backend.backpressure import BackpressureFlag
from tests.support.checkpoints.tiny import make_bert
from tests.support.steps.fake_backend import Request, TritonError, answered, imported_steps, responses_of, started

CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    with imported_steps(monkeypatch, "backend.requests", "tokenizer") as modules:
        yield modules


@pytest.fixture
def tokenizer(steps: SimpleNamespace, checkpoint: Path) -> Any:
    return started(steps.tokenizer, TokenizerSettings(str(checkpoint), 8, query_instruction="find: "))


def column(*texts: str) -> NDArray[np.object_]:
    return np.array([[text.encode()] for text in texts], dtype=object)


def texts(*of: str, options: str = "") -> Request:
    return Request({"text": column(*of)}, options)


def pairs(*of: tuple[str, str], options: str = "") -> Request:
    queries, passages = zip(*of, strict=True)
    return Request({"query": column(*queries), "passage": column(*passages)}, options)


def token_ids(*of: int) -> Request:
    return Request({"token_id": np.array(of, dtype=np.int32)[:, None]})


def own(row: NDArray[np.int32]) -> list[int]:
    return row[row >= 0].tolist()


def test_both_texts_of_a_pair_are_tokenised_as_texts_are(tokenizer: Any) -> None:
    pair, query, passage = answered(tokenizer, pairs(("quick fox", "lazy dog")), texts("quick fox"), texts("lazy dog"))
    assert list(pair) == ["query_ids", "passage_ids", "query_rows", "passage_rows"]
    assert pair["query_ids"].tolist() == query["input_ids"].tolist()
    assert pair["passage_ids"].tolist() == passage["input_ids"].tolist()


def test_a_query_that_repeats_is_tokenised_once(tokenizer: Any) -> None:
    (answer,) = answered(tokenizer, pairs(("fox", "dog"), ("fox", ""), ("dog", "dog")))
    first, second, third = (own(row) for row in answer["query_ids"])
    assert (first[0], first[-1], second, third[0]) == (CLS, SEP, [], CLS)
    assert answer["query_rows"].tolist() == [[0], [0], [2]]
    assert [own(row) for row in answer["passage_ids"]] == [third, [CLS, SEP], []]
    assert answer["passage_rows"].tolist() == [[0], [1], [0]]


def test_texts_that_repeat_across_requests_are_tokenised_in_each(tokenizer: Any) -> None:
    first, second = answered(tokenizer, pairs(("fox", "dog")), pairs(("fox", "dog")))
    assert first["query_ids"].tolist() == second["query_ids"].tolist()


def test_pairs_are_given_no_instruction(tokenizer: Any) -> None:
    pair, plain = answered(tokenizer, pairs(("fox", "fox")), texts("fox"))
    assert pair["query_ids"].tolist() == pair["passage_ids"].tolist() == plain["input_ids"].tolist()


def test_each_side_of_a_pair_is_cut_at_its_own_length(tokenizer: Any) -> None:
    long = "fox dog fox dog fox dog fox dog fox dog"
    (answer,) = answered(tokenizer, pairs((long, long), options='{"query_max_length": 4, "passage_max_length": 5}'))
    assert (answer["query_ids"].shape, answer["passage_ids"].shape) == ((1, 4), (1, 5))


def test_a_pair_is_cut_at_the_deployments_length_unless_told(tokenizer: Any) -> None:
    long = "fox dog fox dog fox dog fox dog fox dog"
    (answer,) = answered(tokenizer, pairs((long, long)))
    assert (answer["query_ids"].shape, answer["passage_ids"].shape) == ((1, 8), (1, 8))


@pytest.mark.parametrize("option", ["query_max_length", "passage_max_length"])
@pytest.mark.parametrize("length", [1, 9])
def test_a_length_beyond_the_deployments_is_refused_with_its_bounds(tokenizer: Any, option: str, length: int) -> None:
    # two special tokens to every text, and a deployment of 8
    (refused,) = responses_of(tokenizer, pairs(("fox", "dog"), options=f'{{"{option}": {length}}}'))
    assert f"option '{option}' is {length}; expected a whole number from 2 to 8" in str(refused.error)


@pytest.mark.parametrize(
    ("pair", "named"), [(("fox " * 9, "dog"), "query"), (("dog", "fox " * 9), "passage")], ids=["query", "passage"]
)
def test_a_longer_text_is_refused_alone_and_called_by_its_side(
    tokenizer: Any, pair: tuple[str, str], named: str
) -> None:
    refused, answer = responses_of(tokenizer, pairs(pair, options='{"truncate": "NONE"}'), pairs(pair))
    assert f"{named} 0 has more than 8 tokens and truncate=NONE" in str(refused.error)
    assert answer.error is None


def test_an_embedding_option_is_unknown_to_pairs(tokenizer: Any) -> None:
    (refused,) = responses_of(tokenizer, pairs(("fox", "dog"), options='{"input_type": "query"}'))
    assert "unknown option 'input_type'" in str(refused.error)


def test_ids_are_decoded_each_by_itself(tokenizer: Any) -> None:
    (encoded,) = answered(tokenizer, texts("short fox"))
    answer, lone = answered(tokenizer, token_ids(*encoded["input_ids"][0]), token_ids(SEP))
    assert list(answer) == ["token"]
    assert answer["token"].shape == (encoded["input_ids"].shape[1], 1)
    tokens = [token.decode() for token in answer["token"][:, 0]]
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert "".join(tokens[1:-1]).replace("##", "") == "shortfox"
    assert lone["token"].tolist() == [[b"[SEP]"]]


def test_an_id_that_the_tokenizer_does_not_have_fails_alone(tokenizer: Any) -> None:
    refused, answer = responses_of(tokenizer, token_ids(SEP, 10**6), token_ids(SEP))
    assert "token id 1000000 is not one of this tokenizer's" in str(refused.error)
    assert answer.tensors["token"].tolist() == [[b"[SEP]"]]


def test_texts_pairs_and_ids_of_one_batch_are_answered_in_their_order(tokenizer: Any) -> None:
    requests = [
        token_ids(SEP),
        pairs(("fox", "dog")),
        texts("fox"),
        pairs(("fox " * 9, "dog"), options='{"truncate": "NONE"}'),
        texts("lazy dog"),
        pairs(("dog", "fox"), options='{"passage_max_length": 2}'),
    ]
    together = responses_of(tokenizer, *requests)
    for request, response in zip(requests, together, strict=True):
        (alone,) = responses_of(tokenizer, request)
        assert str(response.error) == str(alone.error)
        assert {name: values.tolist() for name, values in response.tensors.items()} == {
            name: values.tolist() for name, values in alone.tensors.items()
        }
    assert [response.error is None for response in together] == [True, True, True, False, True, True]


def test_a_deployment_shorter_than_its_special_tokens_is_refused_at_the_start(
    steps: SimpleNamespace, checkpoint: Path
) -> None:
    with pytest.raises(ValueError, match=r"max_length is 1, but .* puts 2 special tokens to every text; add it again"):
        started(steps.tokenizer, TokenizerSettings(str(checkpoint), 1))


@pytest.mark.parametrize(("given", "missing"), [("query", "passage"), ("passage", "query")])
def test_half_a_pair_fails_alone_and_the_other_half_is_named(tokenizer: Any, given: str, missing: str) -> None:
    half = Request({given: column("a fox")})
    refused, answer = responses_of(tokenizer, half, texts("a fox"))
    assert f"input '{missing}' is missing" in str(refused.error)
    assert answer.error is None


def test_a_request_without_any_input_fails_alone(tokenizer: Any) -> None:
    refused, answer = responses_of(tokenizer, Request({}), texts("a fox"))
    assert "input 'text' is missing" in str(refused.error)
    assert answer.error is None


def limited(steps: SimpleNamespace, checkpoint: Path, **limits: Any) -> Any:
    return started(steps.tokenizer, TokenizerSettings(str(checkpoint), 8, **limits))


def refusals(model: Any, *requests: Request) -> list[str | None]:
    return [response.error and str(response.error.args[0]) for response in responses_of(model, *requests)]


def test_a_text_of_too_many_bytes_is_refused_and_its_neighbours_are_answered(
    steps: SimpleNamespace, checkpoint: Path
) -> None:
    model = limited(steps, checkpoint, max_text_bytes=5)
    refused, *answered_ones = refusals(model, texts("fox", "foxes!"), texts("foxes"), token_ids(5))
    assert refused == (
        "text 1 has 6 bytes; this model takes 5: cut it, or deploy the model with a greater --max-text-bytes"
    )
    assert answered_ones == [None, None]


@pytest.mark.parametrize(
    ("pair", "named"), [(("foxes!", "fox"), "query 0 has 6"), (("fox", "foxes!"), "passage 0 has 6")]
)
def test_each_side_of_a_pair_has_the_limits_of_texts(
    steps: SimpleNamespace, checkpoint: Path, pair: tuple[str, str], named: str
) -> None:
    (refused,) = refusals(limited(steps, checkpoint, max_text_bytes=5), pairs(pair))
    assert refused is not None
    assert named in refused


def test_pairs_to_be_read_together_have_the_limits_of_texts(steps: SimpleNamespace, checkpoint: Path) -> None:
    model = limited(steps, checkpoint, max_text_bytes=5, joins_pairs=True)
    first, second = refusals(model, pairs(("fox", "foxes!")), pairs(("fox", "foxes")))
    assert (first or "").startswith("passage 0 has 6 bytes; this model takes 5")
    assert second is None


def test_a_requests_texts_together_have_a_limit_which_its_neighbours_do_not_share(
    steps: SimpleNamespace, checkpoint: Path
) -> None:
    model = limited(steps, checkpoint, max_request_bytes=6)
    assert refusals(model, texts("fox", "dog"), texts("fox", "dogs"), texts("fox", "dog")) == [
        None,
        "text has 7 bytes in all; this model takes 6: send fewer texts in each request",
        None,
    ]


def test_an_instruction_does_not_count_as_a_texts_bytes(steps: SimpleNamespace, checkpoint: Path) -> None:
    model = limited(steps, checkpoint, max_text_bytes=3, query_instruction="find what is asked for: ")
    assert refusals(model, texts("fox", options='{"input_type": "query"}')) == [None]


def test_a_text_may_have_a_mebibyte_and_a_request_sixteen(steps: SimpleNamespace, checkpoint: Path) -> None:
    model = limited(steps, checkpoint)
    most, longer = "x" * (1 << 20), "x" * ((1 << 20) + 1)
    fits, too_long, too_many = refusals(model, texts(most), texts(longer), texts(*[most] * 16, "x"))
    assert fits is None
    assert "text 0 has 1048577 bytes; this model takes 1048576" in (too_long or "")
    assert "text has 16777217 bytes in all; this model takes 16777216" in (too_many or "")


# What waits.


def test_a_request_is_refused_untokenised_while_the_encoder_says_it_is_full(tokenizer: Any) -> None:
    sign = BackpressureFlag(flag_path("tiny_encoder", "1"))
    sign.set(False, True)
    refused, bulk = responses_of(tokenizer, texts("a fox"), texts("a fox", options='{"bulk": true}'))
    assert refused.error.args == ("the model is busy: its queue is full; send it again later", TritonError.UNAVAILABLE)
    assert bulk.error is None
    sign.set(False, False)
    assert responses_of(tokenizer, texts("a fox"))[0].error is None


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [(texts("x" * 40, "x" * 4), 13), (pairs(("x" * 8, "x" * 40), ("x" * 8, "x" * 4)), 16), (token_ids(3, 4, 5), 3)],
    ids=["texts", "pairs, of which the query counts once", "token ids"],
)
def test_the_room_that_a_request_takes_is_about_its_tokens(
    steps: SimpleNamespace, tokenizer: Any, request_: Request, tokens: int
) -> None:
    assert tokenizer._read(steps.requests.StepRequest.of(request_)).tokens == tokens


def test_no_more_waits_for_the_tokenizer_than_it_is_told(steps: SimpleNamespace, checkpoint: Path) -> None:
    settings = TokenizerSettings(str(checkpoint), 8, queue_requests=2, queue_tokens=10**6)
    bounded = started(steps.tokenizer, settings)
    begun, go_on = threading.Event(), threading.Event()
    encode = bounded._tokenizer.encode

    def slowly(batches: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return encode(batches)

    bounded._tokenizer.encode = slowly
    first = texts("first")
    bounded.execute([first])
    assert begun.wait(60)
    waiting, query = [texts(f"{place}", options='{"bulk": true}') for place in range(3)], texts("query")
    bounded.execute([*waiting, query])
    assert "2 bulk requests" in waiting[2].sender.response().error.args[0]
    go_on.set()
    for each in (first, *waiting[:2], query):
        assert each.sender.response().error is None
    assert bounded.is_ready() is True
    bounded.finalize()
    assert bounded.is_ready() is False
