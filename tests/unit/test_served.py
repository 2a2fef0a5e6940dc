# SPDX-License-Identifier: Apache-2.0
"""Finding a deployment, and many texts through it at once."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from flagtriton.connection import ConnectionSettings
from flagtriton.errors import (
    DeploymentMismatchError,
    InvalidRequestError,
    ModelNotServedError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from flagtriton.options import EmbedOptions
from flagtriton.protocol import DENSE_VECS
from flagtriton.served import ServedModel
from flagtriton.transport import InferenceReply, ModelConfig
from flagtriton.transport.fake import FakeTransport, Request
from tests.unit.fakes import (
    DIMENSION,
    NAME,
    answer_with_bytes,
    failing_first,
    fake_server,
    model_config,
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


def find(fake: FakeTransport, name: str = NAME, **settings: Any) -> ServedModel:
    """Return what `fake` serves; one request at a time, so that their order is the plan's."""
    return ServedModel.find(name, ConnectionSettings(**{"concurrency": 1, "transport": fake, **settings}))


def embed(fake: FakeTransport, texts: list[str], *, max_rows: int = 256, **settings: Any) -> np.ndarray:
    served = find(fake, **settings)
    vectors = served.embed(texts, EmbedOptions(), DENSE_VECS, max_rows=max_rows)
    served.release_threads()
    return vectors


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector(text) for text in texts], dtype=np.float32)


class Warming(FakeTransport):
    """A server that is away for the first `failures` questions after a configuration."""

    failures = 2

    def model_config(self, model: str) -> ModelConfig:
        if self.failures:
            self.failures -= 1
            raise ServerUnavailableError("still loading")
        return super().model_config(model)


def test_connection_settings_are_taken_out_of_the_arguments() -> None:
    arguments: dict[str, Any] = {"url": "http://a:1", "retries": 0, "colour": "red"}
    assert ConnectionSettings.taken_from(arguments) == ConnectionSettings(url="http://a:1", retries=0)
    assert arguments == {"colour": "red"}


@pytest.mark.parametrize("bad", [{"concurrency": 0}, {"retries": -1}, {"timeout_s": 0}, {"timeout_s": -1.0}])
def test_a_setting_out_of_range_is_refused_by_name(bad: dict[str, Any]) -> None:
    [(name, value)] = bad.items()
    with pytest.raises(ValueError, match=rf"\b{name}\b( is)? {value}\b.*expected at least 1, at least 0"):
        ConnectionSettings.taken_from(bad)


def test_no_retries_at_all_can_be_asked() -> None:
    assert ConnectionSettings.taken_from({"retries": 0}).retries == 0


def test_a_given_transport_is_used_as_it_is() -> None:
    fake = fake_server()
    assert ConnectionSettings(url="http://elsewhere:1", transport=fake).open_transport() is fake


def test_what_is_found_says_what_it_serves() -> None:
    served = find(fake_server(pooling_method="mean", max_batch_size=8))
    assert (served.deployment.pooling_method, served.max_batch_size) == ("mean", 8)


def test_a_parameter_of_a_newer_server_is_passed_over() -> None:
    config = model_config()
    newer = ModelConfig(NAME, 8, {**config.parameters, "of_a_later_version": "1"})
    assert find(FakeTransport(answer_with_bytes, {NAME: newer})).deployment.task == "embed"


def test_a_missing_model_is_answered_with_the_public_ones() -> None:
    step = ModelConfig("e5-base_encoder", 8, {"device": "cpu"})
    configs = {"e5-base": model_config("e5-base"), "e5-base_encoder": step, "bge-m3": model_config("bge-m3")}
    fake = FakeTransport(answer_with_bytes, configs)
    with pytest.raises(
        ModelNotServedError, match="'bge-large-zh' is not served at fake://; served there: e5-base, bge-m3"
    ):
        find(fake, "bge-large-zh")


def test_a_missing_model_is_answered_with_how_to_add_it() -> None:
    with pytest.raises(
        ModelNotServedError, match="flagtriton add CHECKPOINT --name bge-large-zh --repository REPOSITORY"
    ):
        find(fake_server(), "bge-large-zh")


def test_a_server_without_public_models_says_none() -> None:
    with pytest.raises(ModelNotServedError, match=r"served there: none\."):
        find(FakeTransport(answer_with_bytes, {}))


def test_a_private_step_is_refused_by_what_it_lacks() -> None:
    fake = FakeTransport(answer_with_bytes, {NAME: ModelConfig(NAME, 8, {"task": "embed"})})
    with pytest.raises(DeploymentMismatchError, match=r"not made by `flagtriton add`.*name the public ensemble"):
        find(fake)


def test_a_server_still_loading_is_asked_again(waits: list[float]) -> None:
    fake = Warming(answer_with_bytes, {NAME: model_config()})
    assert find(fake).name == NAME
    assert len(waits) == Warming.failures


def test_a_server_that_stays_away_is_given_up(waits: list[float]) -> None:
    fake = Warming(answer_with_bytes, {NAME: model_config()})
    with pytest.raises(ServerUnavailableError, match="still loading"):
        find(fake, retries=1)
    assert len(waits) == 1


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
    assert [request.parameters for request in fake.requests] == [{"max_length": 7, "normalize": False}] * 2


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


def test_closing_closes_the_transport() -> None:
    fake = fake_server()
    find(fake).close()
    assert fake.closed


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
    monkeypatch.setattr("flagtriton.served._PROGRESS_DELAY_S", 0.0)  # every call is a long one
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


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name is empty"):
        ServedModel.find("", ConnectionSettings(transport=fake_server()))
