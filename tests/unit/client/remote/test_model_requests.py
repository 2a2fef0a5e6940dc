# SPDX-License-Identifier: Apache-2.0
"""Many texts through a deployment at once."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from flagtriton.errors import (
    InvalidRequestError,
    ModelNotServedError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from flagtriton.protocol.options.embed import EmbedOptions
from flagtriton.protocol.options.score import ScoreOptions
from flagtriton.protocol.tensors import COLBERT_VECS, DENSE_VECS, PASSAGE, QUERY, TEXT
from flagtriton.transport.base import InferenceReply
from flagtriton.transport.fake import FakeTransport, Request
from tests.support.fake_models import (
    DIMENSION,
    NAME,
    answer_with_bytes,
    failing_first,
    fake_m3,
    fake_server,
    find,
    pairs_of,
    texts_of,
    vector,
)

CHARACTERS_PER_REQUEST = 65_536


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the waiting between tries; return the seconds that would have been waited."""
    seconds: list[float] = []
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: seconds.append)
    return seconds


def embed(fake: FakeTransport, texts: list[str], *, max_rows: int = 256, **settings: Any) -> np.ndarray:
    served = find(fake, **settings)
    vectors = served.embed(texts, EmbedOptions(), DENSE_VECS, max_rows=max_rows)
    served.release_threads()
    return vectors


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector(text) for text in texts], dtype=np.float32)


def test_vectors_come_back_in_the_order_of_the_texts() -> None:
    texts = ["bb", "a", "dddd", "", "ccc"]
    np.testing.assert_array_equal(embed(fake_server(), texts), expected(texts))


def test_vectors_of_several_requests_come_back_in_the_order_of_the_texts() -> None:
    texts = ["bb", "a", "dddd", "", "ccc"]
    np.testing.assert_array_equal(embed(fake_server(), texts, max_rows=2), expected(texts))


def test_vectors_are_ordered_when_replies_overtake_each_other() -> None:
    last_is_in = threading.Event()

    def answer(request: Request) -> InferenceReply:
        if texts_of(request) == ["a"]:
            last_is_in.set()
        else:
            assert last_is_in.wait(timeout=30)
        return answer_with_bytes(request)

    texts = ["a", "bb"]
    vectors = embed(fake_server(answer), texts, max_rows=1, concurrency=2)
    np.testing.assert_array_equal(vectors, expected(texts))


def test_one_request_is_sent_longest_text_first() -> None:
    fake = fake_server()
    embed(fake, ["a", "ccc", "bb"])
    assert [texts_of(request) for request in fake.requests] == [["ccc", "bb", "a"]]


def test_a_list_over_max_rows_becomes_several_requests() -> None:
    fake = fake_server()
    embed(fake, ["a", "ccc", "bb"], max_rows=2)
    assert [texts_of(request) for request in fake.requests] == [["ccc", "bb"], ["a"]]


def test_a_list_over_the_deployments_batch_becomes_several_requests() -> None:
    fake = fake_server(max_batch_size=2)
    embed(fake, ["a", "ccc", "bb"], max_rows=256)
    assert [texts_of(request) for request in fake.requests] == [["ccc", "bb"], ["a"]]


def test_long_texts_become_several_requests() -> None:
    fake = fake_server()
    half = "x" * (CHARACTERS_PER_REQUEST // 2)
    embed(fake, [half, half, half])
    assert [len(texts_of(request)) for request in fake.requests] == [2, 1]


def test_a_text_over_the_limit_of_characters_still_goes() -> None:
    fake = fake_server()
    text = "x" * (CHARACTERS_PER_REQUEST + 1)
    assert embed(fake, [text])[0, 0] == CHARACTERS_PER_REQUEST + 1


def test_a_request_names_model_and_output() -> None:
    fake = fake_server()
    embed(fake, ["a"])
    assert (fake.requests[0].model, list(fake.requests[0].outputs)) == (NAME, ["dense_vecs"])


def test_every_request_carries_the_options() -> None:
    fake = fake_server()
    served = find(fake)
    served.embed(["a", "b"], EmbedOptions(max_length=7, normalize=False), DENSE_VECS, max_rows=1)
    served.close()
    sent = {"max_length": 7, "normalize": False, "bulk": True}  # of two requests, others may overtake either
    assert [request.parameters for request in fake.requests] == [sent] * 2


def test_requests_of_one_call_are_in_flight_together() -> None:
    both = threading.Barrier(2, timeout=30)  # broken, and so an error, where the second never comes

    def answer(request: Request) -> InferenceReply:
        both.wait()
        return answer_with_bytes(request)

    assert embed(fake_server(answer), ["a", "b"], max_rows=1, concurrency=2).shape == (2, DIMENSION)


@pytest.mark.parametrize("failure", [ServerUnavailableError("busy"), RequestTimeoutError("late")])
def test_a_busy_or_late_server_is_asked_again(failure: Exception, waits: list[float]) -> None:
    fake = fake_server(failing_first(failure, failure))
    np.testing.assert_array_equal(embed(fake, ["a"]), expected(["a"]))
    assert (len(fake.requests), len(waits)) == (3, 2)


def test_retries_are_counted_per_request(waits: list[float]) -> None:
    # Both requests fail once, and one retry is enough for each.
    failed: set[str] = set()

    def answer(request: Request) -> InferenceReply:
        [text] = texts_of(request)
        if text not in failed:
            failed.add(text)
            raise ServerUnavailableError("busy")
        return answer_with_bytes(request)

    fake = fake_server(answer)
    embed(fake, ["a", "b"], max_rows=1, retries=1)
    assert (len(fake.requests), len(waits)) == (4, 2)


def test_retries_come_to_an_end(waits: list[float]) -> None:
    fake = fake_server(failing_first(*[ServerUnavailableError("busy")] * 9))
    with pytest.raises(ServerUnavailableError, match="busy"):
        embed(fake, ["a"], retries=3)
    assert (len(fake.requests), len(waits)) == (4, 3)


def test_a_refused_request_is_not_sent_again(waits: list[float]) -> None:
    fake = fake_server(failing_first(InvalidRequestError("option 'max_length'")))
    with pytest.raises(InvalidRequestError, match="option 'max_length'"):
        embed(fake, ["a"])
    assert (len(fake.requests), waits) == (1, [])


def test_one_refused_request_of_many_fails_the_call() -> None:
    def answer(request: Request) -> InferenceReply:
        if texts_of(request) == ["bb"]:
            raise InvalidRequestError("bb")
        return answer_with_bytes(request)

    with pytest.raises(InvalidRequestError, match=r"^bb$"):
        embed(fake_server(answer), ["a", "bb", "ccc"], max_rows=1)


def test_threads_start_anew_after_their_release() -> None:
    served = find(fake_server(max_batch_size=1))
    for _ in range(2):
        vectors = served.embed(["a", "bb"], EmbedOptions(), DENSE_VECS, max_rows=1)
        served.release_threads()
        np.testing.assert_array_equal(vectors, expected(["a", "bb"]))


def test_released_threads_are_gone() -> None:
    before = set(threading.enumerate())
    served = find(fake_server(max_batch_size=1))
    served.embed(["a", "bb"], EmbedOptions(), DENSE_VECS, max_rows=1)
    started = set(threading.enumerate()) - before
    served.release_threads()
    assert started
    assert not any(thread.is_alive() for thread in started)


def test_a_progress_bar_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    embed(fake_server(), ["a", "bb"], max_rows=1, show_progress=True)
    shown = capsys.readouterr().err
    assert NAME in shown
    assert "2/2" in shown


@pytest.mark.parametrize("wish", [False, None])
def test_a_short_call_shows_no_progress_bar_unasked(wish: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    embed(fake_server(), ["a", "bb"], max_rows=1, show_progress=wish)
    assert capsys.readouterr().err == ""


def test_a_long_call_shows_a_progress_bar_unasked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flagtriton.remote.model._PROGRESS_DELAY_S", 0.0)  # every call is a long one
    embed(fake_server(), ["a", "bb"], max_rows=1)
    assert "2/2" in capsys.readouterr().err


def test_the_calls_wish_goes_before_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    served = find(fake_server(), show_progress=True)
    served.embed(["a", "bb"], EmbedOptions(), DENSE_VECS, max_rows=1, show_progress=False)
    served.close()
    assert capsys.readouterr().err == ""


def test_a_deployment_that_goes_away_and_comes_back_is_asked_again(waits: list[float]) -> None:
    fake = fake_server()
    answers = iter([ModelNotServedError("has no available versions")])

    def unloaded_at_first(request: Request) -> InferenceReply:
        for error in answers:
            raise error
        return answer_with_bytes(request)

    fake.answer = unloaded_at_first
    assert len(find(fake).embed(["a"], EmbedOptions(), DENSE_VECS, max_rows=8)) == 1
    assert len(waits) == 1


# Several inputs and outputs.


def test_each_request_carries_its_rows_of_every_input() -> None:
    fake = fake_m3()
    inputs = {QUERY: ["a", "b", "c"], PASSAGE: ["x", "y", "z"]}
    requests = [np.array([2, 0]), np.array([1])]
    list(find(fake, "bge-m3").replies(requests, inputs, [DENSE_VECS], ScoreOptions()))
    assert [pairs_of(request) for request in fake.requests] == [[("c", "z"), ("a", "x")], [("b", "y")]]


def test_each_request_names_every_output() -> None:
    fake = fake_m3()
    outputs = [DENSE_VECS, COLBERT_VECS]
    list(find(fake, "bge-m3").replies([np.array([0])], {TEXT: ["a"]}, outputs, EmbedOptions()))
    assert fake.requests[0].outputs == ["dense_vecs", "colbert_vecs"]


def test_each_reply_comes_with_its_rows_and_every_output() -> None:
    served = find(fake_m3(), "bge-m3")
    requests = [np.array([1]), np.array([0])]
    replies = list(served.replies(requests, {TEXT: ["a", "bb"]}, [DENSE_VECS, COLBERT_VECS], EmbedOptions()))
    seen = {int(rows[0]): (set(reply), reply["dense_vecs"][0, 0]) for rows, reply in replies}
    assert seen == {0: ({"dense_vecs", "colbert_vecs"}, 1), 1: ({"dense_vecs", "colbert_vecs"}, 2)}


def test_the_options_of_scores_travel_like_those_of_texts() -> None:
    fake = fake_m3()
    inputs = {QUERY: ["a"], PASSAGE: ["x"]}
    list(find(fake, "bge-m3").replies([np.array([0])], inputs, [DENSE_VECS], ScoreOptions(query_max_length=7)))
    assert fake.requests[0].parameters == {"query_max_length": 7}


def test_the_progress_bar_counts_in_the_unit_given(capsys: pytest.CaptureFixture[str]) -> None:
    served = find(fake_server())
    requests = [np.array([0, 1])]
    list(served.replies(requests, {TEXT: ["a", "b"]}, [DENSE_VECS], EmbedOptions(), unit="page", show_progress=True))
    assert "page/s" in capsys.readouterr().err


def test_replies_given_up_send_no_further_requests() -> None:
    given_up = threading.Event()

    def answer(request: Request) -> InferenceReply:
        assert texts_of(request) == ["first"] or given_up.wait(timeout=30)
        return answer_with_bytes(request)

    fake = fake_server(answer)
    requests = [np.array([row]) for row in range(9)]
    served = find(fake)
    with closing(served.replies(requests, {TEXT: ["first", *"bcdefghi"]}, [DENSE_VECS], EmbedOptions())) as replies:
        next(replies)
    given_up.set()
    served.release_threads()
    assert len(fake.requests) <= 2  # the second may have been on its way
